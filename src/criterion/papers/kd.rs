//! Knowledge distillation (Hinton, Vinyals, Dean 2015, arXiv:1503.02531), of one vector of logits a
//! sample or of one at every position.

use crate::criterion::contract::{Comparison, Criterion, Setup, Sparse, Spec, Target};
use crate::criterion::math::columns::column_mean;
use crate::criterion::math::divergence::divergence;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::module::Module;
use crate::criterion::math::projector::compare;
use crate::criterion::math::sparse::Batch;
use crate::criterion::math::tensor::log_softmax;
use crate::criterion::settings::{ABOVE_0, settings};
use crate::error::{Error, Result};
use crate::kernel::norm::NormShape;
use candle_core::Tensor;

settings! {
    /// Knowledge distillation.
    Kd {
        /// The temperature T.
        temperature: f64 = 4.0, ABOVE_0;
    }
}

impl Criterion for Kd {
    type Memory = ();

    const SPEC: &'static Spec = &Spec {
        name: "kd",
        title: "Knowledge distillation",
        paper: "Hinton, Vinyals & Dean 2015, arXiv:1503.02531",
        note: "of logits at every position, the mean over positions: classes are axis 1 of maps, \
               the last of tokens",
        ..Spec::LOGITS
    };

    fn start(&self, _: &Setup<'_>) -> Result<()> {
        Ok(())
    }

    fn evaluate(&self, inputs: &Comparison<'_>, (): &mut ()) -> Result<Evaluation> {
        if let Target::Sparse(teacher) = inputs.target()? {
            return kd_sparse(inputs.student()?, &teacher, self.temperature);
        }
        let (student, teacher) = inputs.stored_pair()?;
        kd(student, teacher, self.temperature)
    }
}

/// `L = T² · mean over batch and positions of Σ_k p_k (ln p_k − ln q_k)`, `p = softmax(t/T)`,
/// `q = softmax(s/T)`; computed in log space. Maps of different sizes are first adaptively
/// average-pooled, each axis to the smaller of both.
///
/// # Shapes
/// `student` and `teacher` `[batch, classes]`, `[batch, positions, classes]` or
/// `[batch, classes, height, width]`.
///
/// # Errors
/// When shapes disagree.
pub fn kd(student: &Tensor, teacher: &Tensor, temperature: f64) -> Result<Evaluation> {
    compare(student, teacher, &Module::default(), "kd", |s, t| {
        let planes = match *s.dims() {
            [outer, channels] => NormShape { outer, channels, inner: 1 },
            [batch, positions, channels] => {
                NormShape { outer: batch * positions, channels, inner: 1 }
            }
            [outer, channels, height, width] => {
                NormShape { outer, channels, inner: height * width }
            }
            ref other => {
                return Err(Error::input(format!(
                    "kd: expected logits [batch, classes], [batch, positions, classes] or [batch, \
                     classes, height, width], found {other:?}"
                )));
            }
        };
        column_mean(s, t, planes, "kd", |tile| divergence(tile, temperature))
    })
}

/// `L = T² · mean_b Σ_c P_c (ln P_c − ln Q_c)` over the cells c of the partition {each of the K
/// classes, all others together}: P of the teacher's completed logits at T, in which each other
/// class has `exp(ln(rest/(C − K))/T)`, Q of `softmax(s/T)`. A lower bound of [`kd`] of the
/// completed logits, and equal to it if K = C.
///
/// # Shapes
/// `student` `[batch, classes]`.
///
/// # Errors
/// When shapes disagree.
pub fn kd_sparse(student: &Tensor, teacher: &Sparse<'_>, temperature: f64) -> Result<Evaluation> {
    Batch::of(teacher, student, "kd")?.mean(student, |teacher, s| {
        let mut log_q = vec![0.0; s.len()];
        log_softmax(s, temperature, &mut log_q);
        let value = teacher.divergence(&log_q, None, temperature, s);
        for g in s.iter_mut() {
            *g *= temperature;
        }
        temperature * temperature * value
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{
        assert_equal, assert_finite, assert_gradients, assert_zero, tensor,
    };
    use crate::criterion::math::sparse::tests::{Exact, by_cells};
    use candle_core::{DType, Device};

    #[test]
    fn gradients_match_finite_differences() {
        for (student, teacher) in [
            (&[2, 3][..], &[2, 3][..]),
            (&[2, 4, 3], &[2, 4, 3]),
            (&[2, 3, 5, 3], &[2, 3, 3, 4]),
            (&[1, 2, 9, 8], &[1, 2, 9, 8]),
        ] {
            let s = (tensor(student, 1) * 6.0).unwrap();
            let t = (tensor(teacher, 2) * 6.0).unwrap();
            for temperature in [4.0, 1.0] {
                assert_gradients(&[&s], &Module::default(), |x, _| kd(x[0], &t, temperature));
            }
        }
    }

    #[test]
    fn of_the_largest_logits_it_is_that_of_a_partition() {
        let s = (tensor(&[3, 7], 1) * 6.0).unwrap();
        let t = (tensor(&[3, 7], 2) * 6.0).unwrap();
        let students: Vec<Vec<f64>> = s.to_vec2().unwrap();
        for (k, temperature) in [(1, 4.0), (3, 1.0), (3, 4.0), (6, 0.5), (7, 2.0)] {
            let teacher = Exact::new(&t, k);
            let found = kd_sparse(&s, &teacher.sparse(), temperature).unwrap();
            let heat = |x: &[f64]| x.iter().map(|x| (x / temperature).exp()).collect::<Vec<_>>();
            let rows = students.iter().zip(&teacher.completed).zip(&teacher.kept);
            let expected = rows.map(|((s, t), kept)| by_cells(&heat(t), &heat(s), kept, None));
            let expected = expected.sum::<f64>() * temperature * temperature / 3.0;
            assert!((found.value - expected).abs() < 1e-12, "{} {expected}", found.value);
            let completed = Tensor::new(teacher.completed.clone(), &Device::Cpu).unwrap();
            let bound = kd(&s, &completed, temperature).unwrap().value;
            assert!(found.value <= bound + 1e-12, "{} {bound}", found.value);
            assert_gradients(&[&s], &Module::default(), |x, _| {
                kd_sparse(x[0], &teacher.sparse(), temperature)
            });
        }
        let (all, dense) = (Exact::new(&t, 7), kd(&s, &t, 4.0).unwrap());
        assert_equal(&kd_sparse(&s, &all.sparse(), 4.0).unwrap(), &dense);
    }

    #[test]
    fn a_rest_of_nothing_and_a_student_without_one_are_finite() {
        let t = Tensor::new(&[[900.0f64, -800.0, 3.0, 2.0]], &Device::Cpu).unwrap();
        for k in 1..4 {
            let teacher = Exact::new(&t, k);
            for s in [&t, &(&t * -1.0).unwrap(), &t.zeros_like().unwrap()] {
                for temperature in [1.0, 4.0] {
                    assert_finite(&kd_sparse(s, &teacher.sparse(), temperature).unwrap());
                }
            }
        }
    }

    #[test]
    fn logits_at_positions_are_so_many_samples() {
        let (s, t) = (tensor(&[6, 5], 1), tensor(&[6, 5], 2));
        let rows = kd(&s, &t, 4.0).unwrap();
        let tokens = |x: &Tensor| x.reshape((2, 3, 5)).unwrap();
        let maps = |x: &Tensor| tokens(x).transpose(1, 2).unwrap().reshape((2, 5, 3, 1)).unwrap();
        for found in [kd(&tokens(&s), &tokens(&t), 4.0), kd(&maps(&s), &maps(&t), 4.0)] {
            let found = found.unwrap().value;
            assert!((found - rows.value).abs() < 1e-15, "{found} {}", rows.value);
        }
    }

    #[test]
    fn the_teacher_itself_has_no_loss() {
        let logits = Tensor::from_vec(vec![900.0f32, -800.0, 3.0], (1, 3), &Device::Cpu).unwrap();
        let found = kd(&logits, &logits, 4.0).unwrap();
        assert_zero(&found, 0.0);
        assert_eq!(found.inputs[0].dtype(), DType::F32);
    }

    #[test]
    fn other_shapes_are_refused() {
        for (student, teacher) in
            [(&[2, 3][..], &[2, 4][..]), (&[6], &[6]), (&[2, 3, 4, 4], &[2, 4, 4, 4])]
        {
            let error = kd(&tensor(student, 1), &tensor(teacher, 2), 1.0).unwrap_err().to_string();
            assert!(error.starts_with("kd: expected"), "{error}");
        }
    }
}
