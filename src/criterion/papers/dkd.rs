//! Decoupled knowledge distillation (Zhao et al. 2022, arXiv:2203.08679).

use crate::criterion::contract::{Comparison, Criterion, Setup, Sparse, Spec, Target};
use crate::criterion::math::elements::count;
use crate::criterion::math::evaluation::{Evaluation, Loss};
use crate::criterion::math::sparse::Batch;
use crate::criterion::math::tensor::{
    check_dtype, rows_and_classes, same_shape, tensor_like, values,
};
use crate::criterion::settings::{ABOVE_0, NOT_NEGATIVE, settings};
use crate::error::{Error, Result};
use candle_core::Tensor;

settings! {
    /// Decoupled knowledge distillation.
    Dkd {
        /// Weight of the target class's part.
        alpha: f64 = 1.0, NOT_NEGATIVE;
        /// Weight of the other classes' part.
        beta: f64 = 8.0, NOT_NEGATIVE;
        /// The temperature T.
        temperature: f64 = 4.0, ABOVE_0;
    }
}

impl Criterion for Dkd {
    type Memory = ();

    const SPEC: &'static Spec = &Spec {
        name: "dkd",
        title: "Decoupled knowledge distillation",
        paper: "Zhao et al. 2022, arXiv:2203.08679",
        source: "mdistiller",
        note: "beta is 1 to 8 by network pair; 20 epochs of warm-up; labels are needed; in log \
               space, so that logits of any size are finite",
        labeled: true,
        ..Spec::LOGITS
    };

    fn start(&self, _: &Setup<'_>) -> Result<()> {
        Ok(())
    }

    fn evaluate(&self, inputs: &Comparison<'_>, (): &mut ()) -> Result<Evaluation> {
        let labels = inputs.samples.labels;
        if let Target::Sparse(teacher) = inputs.target()? {
            return dkd_sparse(inputs.student()?, &teacher, labels, self);
        }
        let (student, teacher) = inputs.pair()?;
        let Self { alpha, beta, temperature } = *self;
        dkd(student, &teacher, labels, alpha, beta, temperature)
    }
}

/// `L = T²/B · Σ_b [α · KL((p_y, 1−p_y) ‖ (q_y, 1−q_y)) + β · KL(p̂ ‖ q̂)]`,
/// `p = softmax(t_b/T)`, `q = softmax(s_b/T)`, p̂ and q̂ the softmax over the classes other than
/// y. Computed in log space: the usual form takes the logarithm of probabilities that underflow at
/// logits of a few hundred. The mean excludes rows with label −1.
///
/// # Shapes
/// `student` and `teacher` `[batch, classes]`, `labels` one per row.
///
/// # Errors
/// When shapes disagree, there are fewer than two classes, or a label is outside them.
pub fn dkd(
    student: &Tensor,
    teacher: &Tensor,
    labels: &[i64],
    alpha: f64,
    beta: f64,
    temperature: f64,
) -> Result<Evaluation> {
    check_dtype(student, "dkd")?;
    let targets = targets(student, labels)?;
    let (_, classes) = rows_and_classes(student, "dkd")?;
    same_shape(student, teacher, "dkd")?;
    let (s, t) = (values::<f64>(student)?, values::<f64>(teacher)?);
    let mut gradient = vec![0.0; s.len()];
    let mut value = 0.0;
    let scale = temperature * temperature / count(targets.iter().flatten().count().max(1));
    let pairs = s.chunks_exact(classes).zip(t.chunks_exact(classes));
    for ((row, gradient), y) in pairs.zip(gradient.chunks_exact_mut(classes)).zip(targets) {
        let Some(y) = y else { continue };
        let (q, p) = (Split::new(row.0, y, temperature), Split::new(row.1, y, temperature));
        let (target, surplus) = target_part([p.hit, p.miss], [q.hit, q.miss]);
        let mut others = 0.0;
        for (k, g) in gradient.iter_mut().enumerate() {
            if k == y {
                *g = scale / temperature * alpha * -surplus;
                continue;
            }
            let (log_p, log_q) = (p.others[k], q.others[k]);
            others += log_p.exp() * (log_p - log_q);
            *g = scale / temperature
                * (alpha * log_q.exp() * surplus + beta * (log_q.exp() - log_p.exp()));
        }
        value += scale * (alpha * target + beta * others);
    }
    Ok(Loss { value, gradient: tensor_like(gradient, student)? }.into())
}

/// As [`dkd`] of the teacher's completed logits, with the divergence among the other classes on the
/// partition {each of the K classes but y, all others together}. A target class that is not among
/// the K has the probability of one of the others, of which C − K − 1 are then left. A lower bound
/// of it, and equal to it if K = C.
///
/// # Shapes
/// `student` `[batch, classes]`, `labels` one per row.
///
/// # Errors
/// When shapes disagree, there are fewer than two classes, or a label is outside them.
pub fn dkd_sparse(
    student: &Tensor,
    teacher: &Sparse<'_>,
    labels: &[i64],
    settings: &Dkd,
) -> Result<Evaluation> {
    let Dkd { alpha, beta, temperature } = *settings;
    let batch = Batch::of(teacher, student, "dkd")?;
    let targets = targets(student, labels)?;
    let scale = temperature * temperature / count(targets.iter().flatten().count().max(1));
    let mut gradient = values::<f64>(student)?;
    let mut value = 0.0;
    for ((s, teacher), y) in gradient.chunks_exact_mut(batch.classes).zip(&batch.rows).zip(targets)
    {
        let Some(y) = y else {
            s.fill(0.0);
            continue;
        };
        let q = Split::new(s, y, temperature);
        let (logit, left) = teacher.without(y);
        let odds = logit / temperature - left.log_sum(temperature);
        let (target, surplus) = target_part(log_shares(odds), [q.hit, q.miss]);
        let others = left.divergence(&q.others, Some(y), temperature, s);
        for (k, (g, log_q)) in s.iter_mut().zip(&q.others).enumerate() {
            let part =
                if k == y { -alpha * surplus } else { alpha * log_q.exp() * surplus + beta * *g };
            *g = scale / temperature * part;
        }
        value += scale * (alpha * target + beta * others);
    }
    Ok(Loss { value, gradient: tensor_like(gradient, student)? }.into())
}

/// The target class of each row, `None` without a label.
fn targets(student: &Tensor, labels: &[i64]) -> Result<Vec<Option<usize>>> {
    let (rows, classes) = rows_and_classes(student, "dkd")?;
    if labels.len() != rows || classes < 2 {
        return Err(Error::input(format!(
            "dkd: expected a label per row and two classes or more, found {} and {classes}",
            labels.len()
        )));
    }
    let target = |&label: &i64| match usize::try_from(label) {
        _ if label == -1 => Ok(None),
        Ok(y) if y < classes => Ok(Some(y)),
        _ => Err(Error::input(format!("label {label}: expected 0 to {}", classes - 1))),
    };
    labels.iter().map(target).collect()
}

/// `KL((p_y, 1−p_y) ‖ (q_y, 1−q_y))` from the logarithms of both, and `p_y − q_y`.
fn target_part(p: [f64; 2], q: [f64; 2]) -> (f64, f64) {
    let [hit, miss] = p;
    let value = hit.exp() * (hit - q[0]) + miss.exp() * (miss - q[1]);
    // without loss of precision when both are near 1
    let surplus = if hit > -0.5 { q[1].exp() - miss.exp() } else { hit.exp() - q[0].exp() };
    (value, surplus)
}

/// `ln σ(a)` and `ln σ(−a)` for `a = ln p_y − ln(1 − p_y)`: `ln p_y` and `ln (1 − p_y)`.
fn log_shares(odds: f64) -> [f64; 2] {
    [odds, -odds].map(|a| a.min(0.0) - (-a.abs()).exp().ln_1p())
}

/// A row's distribution in logarithms: the target class against the others, and among the others.
struct Split {
    /// `ln p_y`.
    hit: f64,
    /// `ln (1 − p_y)`.
    miss: f64,
    /// ln p̂; its entry for y is meaningless.
    others: Vec<f64>,
}

impl Split {
    fn new(logits: &[f64], y: usize, temperature: f64) -> Self {
        let others = || {
            logits.iter().enumerate().filter(move |&(k, _)| k != y).map(|(_, x)| x / temperature)
        };
        let largest = others().fold(f64::NEG_INFINITY, f64::max);
        let rest = largest + others().map(|x| (x - largest).exp()).sum::<f64>().ln();
        let [hit, miss] = log_shares(logits[y] / temperature - rest);
        Self { hit, miss, others: logits.iter().map(|x| x / temperature - rest).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{
        assert_equal, assert_finite, assert_gradients, assert_zero, tensor,
    };
    use crate::criterion::math::module::Module;
    use crate::criterion::math::sparse::tests::{Exact, by_cells};
    use crate::criterion::papers::kd::kd;
    use candle_core::Device;

    #[test]
    fn gradients_match_finite_differences() {
        let s = (tensor(&[3, 5], 1) * 8.0).unwrap();
        let t = (tensor(&[3, 5], 2) * 8.0).unwrap();
        assert_gradients(&[&s], &Module::default(), |x, _| {
            dkd(x[0], &t, &[0, 4, -1], 0.7, 3.0, 2.0)
        });
        let two = tensor(&[2, 2], 3);
        assert_gradients(&[&two], &Module::default(), |x, _| {
            dkd(x[0], &tensor(&[2, 2], 4), &[1, 0], 1.0, 8.0, 4.0)
        });
    }

    /// The paper's equation 7: KD is DKD with α = 1 and `β = 1 − p_y`.
    #[test]
    fn its_parts_add_up_to_kd() {
        let (s, t) = ((tensor(&[1, 6], 1) * 5.0).unwrap(), (tensor(&[1, 6], 2) * 5.0).unwrap());
        let row = t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let rest = Split::new(&row, 2, 4.0).miss.exp();
        let (whole, parts) = (kd(&s, &t, 4.0).unwrap(), dkd(&s, &t, &[2], 1.0, rest, 4.0).unwrap());
        assert!((whole.value - parts.value).abs() < 1e-12, "{} {}", whole.value, parts.value);
    }

    #[test]
    fn of_the_largest_logits_its_parts_are_those_of_a_partition() {
        let s = (tensor(&[4, 7], 1) * 6.0).unwrap();
        let t = (tensor(&[4, 7], 2) * 6.0).unwrap();
        let students: Vec<Vec<f64>> = s.to_vec2().unwrap();
        for k in [1, 3, 6, 7] {
            let teacher = Exact::new(&t, k);
            // the largest class, the smallest one, one between, none
            let order: Vec<usize> = Exact::new(&t, 7).kept[1].clone();
            let labels =
                [teacher.kept[0][0], order[6], order[3]].map(|y| i64::try_from(y).unwrap());
            let labels = [labels[0], labels[1], labels[2], -1];
            let settings = Dkd { alpha: 0.7, beta: 3.0, temperature: 2.0 };
            let found = dkd_sparse(&s, &teacher.sparse(), &labels, &settings).unwrap();
            let heat = |x: &[f64]| x.iter().map(|x| (x / 2.0).exp()).collect::<Vec<_>>();
            let mut expected = 0.0;
            for (row, label) in labels.iter().enumerate().take(3) {
                let y = usize::try_from(*label).unwrap();
                let (p, q) = (heat(&teacher.completed[row]), heat(&students[row]));
                let target = by_cells(&p, &q, &[y], None);
                let others = by_cells(&p, &q, &teacher.kept[row], Some(y));
                expected += 4.0 / 3.0 * (0.7 * target + 3.0 * others);
            }
            assert!((found.value - expected).abs() < 1e-12, "{k}: {} {expected}", found.value);
            assert_gradients(&[&s], &Module::default(), |x, _| {
                dkd_sparse(x[0], &teacher.sparse(), &labels, &settings)
            });
        }
        let (all, labels) = (Exact::new(&t, 7), [0, 4, 6, -1]);
        let settings = Dkd { alpha: 1.0, beta: 8.0, temperature: 4.0 };
        let dense = dkd(&s, &t, &labels, 1.0, 8.0, 4.0).unwrap();
        assert_equal(&dkd_sparse(&s, &all.sparse(), &labels, &settings).unwrap(), &dense);
        assert!(dkd_sparse(&s, &all.sparse(), &[0, 7, 0, 0], &settings).is_err());
    }

    #[test]
    fn large_and_identical_logits() {
        let row = Tensor::new(&[[4e5f32, -3e5, 20.0], [-1e6, 1e6, 1e6]], &Device::Cpu).unwrap();
        let other = Tensor::new(&[[-4e5f32, 3e5, 0.0], [900.0, -1e6, 1e5]], &Device::Cpu).unwrap();
        assert_zero(&dkd(&row, &row, &[0, 0], 1.0, 8.0, 4.0).unwrap(), 1e-9);
        for labels in [[0, 0], [1, 2], [2, 1], [-1, -1]] {
            assert_finite(&dkd(&row, &other, &labels, 1.0, 8.0, 4.0).unwrap());
        }
        assert!(dkd(&row, &other, &[0, 3], 1.0, 8.0, 4.0).is_err());
        assert!(dkd(&row, &other, &[0], 1.0, 8.0, 4.0).is_err());
    }
}
