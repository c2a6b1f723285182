//! Knowledge distillation of standardized logits (Sun et al. 2024, arXiv:2403.01427).

use crate::criterion::contract::{Comparison, Criterion, Setup, Sparse, Spec, Target};
use crate::criterion::math::columns::{Tile, column_mean};
use crate::criterion::math::divergence::divergence;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::sparse::Batch;
use crate::criterion::math::standard::{standardize, standardize_gradient};
use crate::criterion::math::tensor::{log_softmax, rows_and_classes};
use crate::criterion::settings::{ABOVE_0, settings};
use crate::error::Result;
use crate::kernel::norm::NormShape;
use candle_core::Tensor;

settings! {
    /// Knowledge distillation of standardized logits.
    Lskd {
        /// The temperature T.
        temperature: f64 = 2.0, ABOVE_0;
    }
}

impl Criterion for Lskd {
    type Memory = ();

    const SPEC: &'static Spec = &Spec {
        name: "lskd",
        title: "Logit standardization in knowledge distillation",
        paper: "Sun et al. 2024, arXiv:2403.01427",
        source: "the authors' code",
        note: "only how the logits of a sample compare with each other is learnt, not their size; \
               of two classes nothing is left",
        weight: 9.0,
        ..Spec::LOGITS
    };

    fn start(&self, _: &Setup<'_>) -> Result<()> {
        Ok(())
    }

    fn evaluate(&self, inputs: &Comparison<'_>, (): &mut ()) -> Result<Evaluation> {
        if let Target::Sparse(teacher) = inputs.target()? {
            return lskd_sparse(inputs.student()?, &teacher, self.temperature);
        }
        let (student, teacher) = inputs.stored_pair()?;
        lskd(student, teacher, self.temperature)
    }
}

/// The ε added to a standard deviation.
const EPS: f64 = 1e-7;

/// `L = T² · mean_b Σ_k p_k (ln p_k − ln q_k)`, `p = softmax(z(t_b)/T)`, `q = softmax(z(s_b)/T)`,
/// `z(x) = (x − mean x)/(sd + 1e-7)` over a sample's K classes, with the unbiased standard
/// deviation. Equal logits are z = 0, with derivative `1e7 · (identity − 1/K)`. Computed in log
/// space and double precision.
///
/// # Shapes
/// `student` and `teacher` `[batch, classes]`.
///
/// # Errors
/// When the shapes disagree.
pub fn lskd(student: &Tensor, teacher: &Tensor, temperature: f64) -> Result<Evaluation> {
    let (outer, channels) = rows_and_classes(student, "lskd")?;
    let planes = NormShape { outer, channels, inner: 1 };
    column_mean(student, teacher, planes, "lskd", |Tile { student, teacher, columns }| {
        let sd = standardize(student, EPS);
        standardize(teacher, EPS);
        let z = student.to_vec();
        let value = divergence(Tile { student: &mut *student, teacher, columns }, temperature);
        standardize_gradient(&z, sd, EPS, student);
        value
    })
}

/// As [`lskd`] of the teacher's completed logits, whose mean and deviation are over all classes,
/// with the divergence on the partition {each of the K classes, all others together}, as
/// [`kd_sparse`](super::kd::kd_sparse) has it. A lower bound of it, and equal to it if K = C.
///
/// # Shapes
/// `student` `[batch, classes]`.
///
/// # Errors
/// When shapes disagree.
pub fn lskd_sparse(student: &Tensor, teacher: &Sparse<'_>, temperature: f64) -> Result<Evaluation> {
    Batch::of(teacher, student, "lskd")?.mean(student, |teacher, s| {
        let sd = standardize(s, EPS);
        let z = s.to_vec();
        let mut log_q = vec![0.0; z.len()];
        log_softmax(&z, temperature, &mut log_q);
        let value = teacher.clone().standardized(EPS).divergence(&log_q, None, temperature, s);
        for g in s.iter_mut() {
            *g *= temperature;
        }
        standardize_gradient(&z, sd, EPS, s);
        temperature * temperature * value
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{
        assert_equal, assert_finite, assert_gradients, assert_zero, tensor,
    };
    use crate::criterion::math::module::Module;
    use crate::criterion::math::sparse::tests::{Exact, by_cells};
    use candle_core::{DType, Device};

    #[test]
    fn gradients_match_finite_differences() {
        let (s, t) = (tensor(&[4, 5], 1), tensor(&[4, 5], 2));
        for temperature in [2.0, 0.5] {
            assert_gradients(&[&s], &Module::default(), |x, _| lskd(x[0], &t, temperature));
        }
    }

    #[test]
    fn of_the_largest_logits_it_is_that_of_a_partition() {
        let (s, t) = (tensor(&[3, 7], 1), (tensor(&[3, 7], 2) * 6.0).unwrap());
        let students: Vec<Vec<f64>> = s.to_vec2().unwrap();
        for (k, temperature) in [(1, 2.0), (3, 1.0), (6, 2.0), (7, 0.5)] {
            let teacher = Exact::new(&t, k);
            let found = lskd_sparse(&s, &teacher.sparse(), temperature).unwrap();
            let heat = |x: &[f64]| {
                let mut z = x.to_vec();
                standardize(&mut z, EPS);
                z.iter().map(|z| (z / temperature).exp()).collect::<Vec<_>>()
            };
            let rows = students.iter().zip(&teacher.completed).zip(&teacher.kept);
            let expected = rows.map(|((s, t), kept)| by_cells(&heat(t), &heat(s), kept, None));
            let expected = expected.sum::<f64>() * temperature * temperature / 3.0;
            assert!((found.value - expected).abs() < 1e-12, "{} {expected}", found.value);
            assert_gradients(&[&s], &Module::default(), |x, _| {
                lskd_sparse(x[0], &teacher.sparse(), temperature)
            });
        }
        let (all, dense) = (Exact::new(&t, 7), lskd(&s, &t, 2.0).unwrap());
        assert_equal(&lskd_sparse(&s, &all.sparse(), 2.0).unwrap(), &dense);
        // equal logits of the student have the slope of ε
        let flat = s.zeros_like().unwrap();
        assert_finite(&lskd_sparse(&flat, &Exact::new(&t, 3).sparse(), 2.0).unwrap());
    }

    #[test]
    fn size_and_offset_do_not_matter_but_for_eps() {
        let (s, t) = (tensor(&[4, 5], 1), tensor(&[4, 5], 2));
        let (found, moved) = (
            lskd(&s, &t, 2.0).unwrap(),
            lskd(&((&s * 100.0).unwrap() + 7.0).unwrap(), &(&t * 1e3).unwrap(), 2.0).unwrap(),
        );
        assert!((found.value - moved.value).abs() < 1e-6 * found.value);
        assert_zero(&lskd(&s, &(&s * 9.0).unwrap(), 2.0).unwrap(), 1e-6);
    }

    #[test]
    fn equal_logits_have_the_slope_of_eps() {
        let s = Tensor::new(&[[0.1, 0.1, 0.1]], &Device::Cpu).unwrap();
        let t = Tensor::new(&[[1.0, 2.0, 3.0]], &Device::Cpu).unwrap();
        let found = lskd(&s, &t, 1.0).unwrap();
        // q = 1/3, p = softmax(∓1, 0, ±1)
        let sum = (-1f64).exp() + 1.0 + 1f64.exp();
        let gradient = found.inputs[0].to_vec2::<f64>().unwrap();
        for (g, z) in gradient[0].iter().zip([-1f64, 0.0, 1.0]) {
            let expected = (1.0 / 3.0 - z.exp() / sum) / EPS;
            assert!((g - expected).abs() < 1e-6 * expected.abs(), "{g} {expected}");
        }
    }

    #[test]
    fn two_one_and_large_classes() {
        // two classes: z is ±1/√2 whatever the logits
        let (s, t) = (tensor(&[3, 2], 1), (tensor(&[3, 2], 1) * 5.0).unwrap());
        assert_zero(&lskd(&s, &t, 2.0).unwrap(), 1e-5);
        assert_zero(&lskd(&tensor(&[3, 1], 1), &tensor(&[3, 1], 2), 2.0).unwrap(), 0.0);
        let s = tensor(&[2, 4], 1).to_dtype(DType::F32).unwrap();
        assert_zero(&lskd(&s, &s, 2.0).unwrap(), 0.0);
        for factor in [0.0, 1e-20, 1e30] {
            assert_finite(&lskd(&(&s * factor).unwrap(), &s, 2.0).unwrap());
            assert_finite(&lskd(&s, &(&s * factor).unwrap(), 2.0).unwrap());
        }
        assert!(lskd(&s, &tensor(&[2, 5], 1), 2.0).is_err());
        assert!(lskd(&tensor(&[2, 4, 1], 1), &tensor(&[2, 4, 1], 1), 2.0).is_err());
    }
}
