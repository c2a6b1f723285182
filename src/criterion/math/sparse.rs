//! Sparse logits of a teacher, completed: of C classes K have their log-probability, and each of
//! the others has an equal share of the rest's mass, `ln(rest/(C − K))`, as FKD and `TinyViT` do.
//!
//! What is compared is the partition {each of the K classes, all others together}. Where two
//! distributions are compared on a partition, their divergence is at most that over all classes,
//! and equal to it if K = C.

use super::elements::count;
use super::evaluation::{Evaluation, Loss};
use super::standard::deviation;
use super::tensor::{check_dtype, log_softmax, rows_and_classes, tensor_like, values};
use crate::criterion::contract::Sparse;
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// The mass that a rest of 0 counts as: the smallest f32 above 0, to which smaller ones round.
const SMALLEST: f64 = 1.401_298_464_324_817e-45;

/// The teacher's logits of a sample, completed.
#[derive(Debug, Clone)]
pub(crate) struct Completed {
    /// The K classes.
    pub class: Vec<usize>,
    /// The logit of each.
    pub logit: Vec<f64>,
    /// The logit of each other class.
    pub other: f64,
    /// How many other classes there are.
    pub others: usize,
}

/// The completed logits of a batch.
pub(crate) struct Batch {
    pub rows: Vec<Completed>,
    pub classes: usize,
}

impl Batch {
    /// # Shapes
    /// `student` `[batch, classes]`; of the teacher `value` and `class` `[batch, k]`, `rest`
    /// `[batch]`.
    ///
    /// # Errors
    /// When shapes disagree, or a class is none or appears twice.
    pub(crate) fn of(sparse: &Sparse<'_>, student: &Tensor, who: &str) -> Result<Self> {
        check_dtype(student, who)?;
        let (rows, classes) = rows_and_classes(student, who)?;
        let k = sparse.value.dims().last().copied().unwrap_or(0);
        let fits = sparse.value.dims() == [rows, k]
            && sparse.class.dims() == [rows, k]
            && sparse.rest.dims() == [rows]
            && (1..=classes).contains(&k)
            && sparse.classes == classes;
        if !fits {
            return Err(Error::input(format!(
                "{who}: expected sparse logits of {rows} samples and {classes} classes, found {:?} \
                 of {}",
                sparse.value.dims(),
                sparse.classes
            )));
        }
        let (value, rest) = (values::<f64>(sparse.value)?, values::<f64>(sparse.rest)?);
        let class: Vec<i64> = sparse.class.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
        let row = |((value, class), &rest): ((&[f64], &[i64]), &f64)| {
            let index = |&class: &i64| usize::try_from(class).ok().filter(|&class| class < classes);
            let class: Option<Vec<usize>> = class.iter().map(index).collect();
            let class = class.filter(|class| {
                let mut sorted = class.clone();
                sorted.sort_unstable();
                sorted.dedup();
                sorted.len() == k
            });
            let class = class.ok_or_else(|| {
                Error::input(format!("{who}: expected {k} classes of {classes}, found others"))
            })?;
            let others = classes - k;
            let other = (rest.max(SMALLEST) / count(others.max(1))).ln();
            Ok(Completed { class, logit: value.to_vec(), other, others })
        };
        let rows = value.chunks(k).zip(class.chunks(k)).zip(&rest).map(row);
        Ok(Self { rows: rows.collect::<Result<_>>()?, classes })
    }

    /// The completed logits `[batch, classes]` in f64.
    pub(crate) fn dense(&self) -> Result<Tensor> {
        let all: Vec<f64> = self.rows.iter().flat_map(|row| row.dense(self.classes)).collect();
        Ok(Tensor::from_vec(all, (self.rows.len(), self.classes), &Device::Cpu)?)
    }

    /// The mean over the samples of a loss, whose gradient it leaves in place of the student's
    /// logits, scaled likewise.
    pub(crate) fn mean(
        &self,
        student: &Tensor,
        loss: impl Fn(&Completed, &mut [f64]) -> f64 + Sync,
    ) -> Result<Evaluation> {
        let mut gradient = values::<f64>(student)?;
        let share = 1.0 / count(self.rows.len());
        let rows = gradient.par_chunks_mut(self.classes).zip(&self.rows);
        let losses: Vec<f64> = rows
            .map(|(logits, teacher)| {
                let value = loss(teacher, logits);
                for g in logits {
                    *g *= share;
                }
                value
            })
            .collect();
        let value = share * losses.iter().sum::<f64>();
        Ok(Loss { value, gradient: tensor_like(gradient, student)? }.into())
    }
}

impl Completed {
    /// The logits of all classes.
    fn dense(&self, classes: usize) -> Vec<f64> {
        let mut all = vec![self.other; classes];
        for (&class, &logit) in self.class.iter().zip(&self.logit) {
            if let Some(place) = all.get_mut(class) {
                *place = logit;
            }
        }
        all
    }

    /// `(x − mean)/(sd + ε)` over all classes, with the unbiased standard deviation: each of the
    /// other classes is one value. [`standardize`](super::standard::standardize) of completed
    /// logits, in closed form.
    pub(crate) fn standardized(mut self, eps: f64) -> Self {
        let classes = self.class.len() + self.others;
        let Some(&origin) = self.logit.first() else { return self };
        let others = count(self.others);
        // about the first value, so that equal values lose nothing
        let sum: f64 = self.logit.iter().map(|x| x - origin).sum();
        let mean = origin + (sum + others * (self.other - origin)) / count(classes);
        let squares: f64 = self.logit.iter().map(|x| (x - mean).powi(2)).sum();
        let sd = deviation(squares + others * (self.other - mean).powi(2), classes);
        self.logit.iter_mut().for_each(|x| *x = (*x - mean) / (sd + eps));
        self.other = (self.other - mean) / (sd + eps);
        self
    }

    /// Without a class: the logit that it has, and the completed logits of the others.
    pub(crate) fn without(&self, class: usize) -> (f64, Self) {
        let mut left = self.clone();
        if let Some(at) = left.class.iter().position(|&known| known == class) {
            left.class.remove(at);
            return (left.logit.remove(at), left);
        }
        left.others = left.others.saturating_sub(1);
        (self.other, left)
    }

    /// `ln Σ exp(x/T)` over its classes.
    pub(crate) fn log_sum(&self, temperature: f64) -> f64 {
        let cells = self.cells(temperature);
        let largest = cells.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        largest + cells.iter().map(|x| (x - largest).exp()).sum::<f64>().ln()
    }

    /// x/T of each of the K classes, then of all others together, if there are any.
    fn cells(&self, temperature: f64) -> Vec<f64> {
        let rest = self.other / temperature + count(self.others.max(1)).ln();
        let rest = (self.others > 0).then_some(rest);
        self.logit.iter().map(|x| x / temperature).chain(rest).collect()
    }

    /// `KL(P ‖ Q)` on the partition {each of the K classes, all others together}: P of the
    /// completed logits at T, Q of a student's distribution of these classes, given by its
    /// logarithms. `gradient` gets T · dKL/ds, over the student's logits s/T.
    ///
    /// `absent`: a class that does not count, whose entries are left as they are.
    pub(crate) fn divergence(
        &self,
        log_q: &[f64],
        absent: Option<usize>,
        temperature: f64,
        gradient: &mut [f64],
    ) -> f64 {
        let mut log_p = self.cells(temperature);
        let scaled = log_p.clone();
        log_softmax(&scaled, 1.0, &mut log_p);
        let mut is_other = vec![true; log_q.len()];
        absent.into_iter().chain(self.class.iter().copied()).for_each(|k| is_other[k] = false);
        let others = || is_other.iter().zip(log_q).filter(|(other, _)| **other).map(|(_, q)| *q);
        let largest = others().fold(f64::NEG_INFINITY, f64::max);
        let log_rest = largest + others().map(|q| (q - largest).exp()).sum::<f64>().ln();

        let mut value = 0.0;
        for (&class, &log_p) in self.class.iter().zip(&log_p) {
            let p = log_p.exp();
            value += p * (log_p - log_q[class]);
            gradient[class] = log_q[class].exp() - p;
        }
        if let Some(&log_p) = log_p.get(self.class.len()) {
            let p = log_p.exp();
            value += p * (log_p - log_rest);
            // d ln Q_rest / ds_j = q_j/Q_rest − q_j
            let all = gradient.iter_mut().zip(log_q).zip(&is_other).filter(|(_, other)| **other);
            for ((g, q), _) in all {
                *g = q.exp() - p * (q - log_rest).exp();
            }
        }
        value
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::autograd::tests::tensor;
    use super::*;

    /// The K largest of softmax(logits), exact in f64, with the logits completed as the brute force
    /// over classes does.
    pub struct Exact {
        value: Tensor,
        class: Tensor,
        rest: Tensor,
        classes: usize,
        /// `[batch, classes]`.
        pub completed: Vec<Vec<f64>>,
        /// The K classes of each sample.
        pub kept: Vec<Vec<usize>>,
    }

    impl Exact {
        pub fn new(logits: &Tensor, k: usize) -> Self {
            let rows: Vec<Vec<f64>> = logits.to_vec2().unwrap();
            let classes = rows[0].len();
            let (mut value, mut class, mut rest) = (Vec::new(), Vec::new(), Vec::new());
            let (mut completed, mut kept) = (Vec::new(), Vec::new());
            for row in &rows {
                let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let row: Vec<f64> = row.iter().map(|x| x - largest).collect();
                let mut order: Vec<usize> = (0..classes).collect();
                order.sort_by(|&i, &j| row[j].total_cmp(&row[i]).then(i.cmp(&j)));
                let sum: f64 = row.iter().map(|x| x.exp()).sum();
                let (top, others) = order.split_at(k);
                let mass = others.iter().map(|&i| row[i].exp() / sum).sum::<f64>();
                let mut all = vec![0.0; classes];
                for &i in others {
                    all[i] = (mass / count(others.len())).ln();
                }
                for &i in top {
                    all[i] = row[i] - sum.ln();
                    value.push(all[i]);
                    class.push(i64::try_from(i).unwrap());
                }
                rest.push(mass);
                completed.push(all);
                kept.push(top.to_vec());
            }
            let of = |values: Vec<f64>, shape: &[usize]| {
                Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
            };
            Self {
                value: of(value, &[rows.len(), k]),
                class: Tensor::from_vec(class, (rows.len(), k), &Device::Cpu).unwrap(),
                rest: of(rest, &[rows.len()]),
                classes,
                completed,
                kept,
            }
        }

        pub fn sparse(&self) -> Sparse<'_> {
            let Self { value, class, rest, classes, .. } = self;
            Sparse { value, class, rest, classes: *classes }
        }
    }

    /// Σ over the cells of a partition of P ln(P/Q): the kept classes are cells of their own, the
    /// others one, and `absent` is in none. P and Q are unnormalized, over all classes.
    pub fn by_cells(p: &[f64], q: &[f64], kept: &[usize], absent: Option<usize>) -> f64 {
        let cells = |x: &[f64]| {
            let mut cells = Vec::new();
            let mut rest = 0.0;
            for (class, &x) in x.iter().enumerate().filter(|(class, _)| Some(*class) != absent) {
                if kept.contains(&class) { cells.push(x) } else { rest += x }
            }
            cells.push(rest);
            let sum: f64 = cells.iter().sum();
            cells.into_iter().map(|x| x / sum).collect::<Vec<_>>()
        };
        let both = cells(p).into_iter().zip(cells(q));
        both.filter(|(p, _)| *p > 0.0).map(|(p, q)| p * (p / q).ln()).sum()
    }

    #[test]
    fn logits_are_completed_and_standardized_in_closed_form() {
        let teacher = Exact::new(&(tensor(&[3, 7], 1) * 6.0).unwrap(), 3);
        let student = tensor(&[3, 7], 2);
        let batch = Batch::of(&teacher.sparse(), &student, "kd").unwrap();
        let dense: Vec<Vec<f64>> = batch.dense().unwrap().to_vec2().unwrap();
        for ((dense, expected), row) in dense.iter().zip(&teacher.completed).zip(&batch.rows) {
            assert!(dense.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12));
            // completed probabilities sum to 1
            assert!((dense.iter().map(|x| x.exp()).sum::<f64>() - 1.0).abs() < 1e-12);
            let mut z = expected.clone();
            crate::criterion::math::standard::standardize(&mut z, 1e-7);
            let found = row.clone().standardized(1e-7).dense(7);
            assert!(z.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-12), "{z:?} {found:?}");
        }
    }

    #[test]
    fn what_is_no_sparse_logits_of_these_classes_is_refused() {
        let teacher = Exact::new(&tensor(&[3, 7], 1), 3);
        let refused = |sparse: &Sparse<'_>, student: &[usize]| {
            Batch::of(sparse, &tensor(student, 2), "kd").err().unwrap().to_string()
        };
        let sparse = teacher.sparse();
        for shape in [&[3, 6][..], &[2, 7], &[3, 7, 1]] {
            assert!(refused(&sparse, shape).starts_with("kd: expected"), "{shape:?}");
        }
        for wrong in [[0i64, 1, 7], [0, -1, 2], [0, 1, 1]] {
            let class = Tensor::new(&[wrong, [0, 1, 2], [0, 1, 2]], &Device::Cpu).unwrap();
            let found = refused(&Sparse { class: &class, ..sparse }, &[3, 7]);
            assert!(found.contains("3 classes of 7"), "{found}");
        }
    }
}
