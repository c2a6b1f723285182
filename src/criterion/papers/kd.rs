//! Knowledge distillation (Hinton, Vinyals, Dean 2015, arXiv:1503.02531).

use crate::criterion::contract::{Comparison, Criterion, Setup, Spec};
use crate::criterion::math::evaluation::{Evaluation, Loss};
use crate::criterion::math::tensor::{
    check_dtype, log_softmax, rows_and_classes, same_shape, tensor_like, values,
};
use crate::criterion::settings::{ABOVE_0, settings};
use crate::error::Result;
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
        ..Spec::LOGITS
    };

    fn start(&self, _: &Setup<'_>) -> Result<()> {
        Ok(())
    }

    fn evaluate(&self, inputs: &Comparison<'_>, (): &mut ()) -> Result<Evaluation> {
        let (student, teacher) = inputs.pair()?;
        Ok(kd(student, &teacher, self.temperature)?.into())
    }
}

/// `L = T²/B · Σ_b Σ_k p_k (ln p_k − ln q_k)`, `p = softmax(t_b/T)`, `q = softmax(s_b/T)`;
/// computed in log space.
///
/// # Shapes
/// `student` and `teacher` `[batch, classes]`.
///
/// # Errors
/// When shapes disagree.
#[allow(clippy::cast_precision_loss, reason = "a number of rows")]
pub fn kd(student: &Tensor, teacher: &Tensor, temperature: f64) -> Result<Loss> {
    check_dtype(student, "kd")?;
    let (rows, classes) = rows_and_classes(student, "kd")?;
    same_shape(student, teacher, "kd")?;
    let (scores, targets) = (values::<f64>(student)?, values::<f64>(teacher)?);
    let mut gradient = vec![0.0; scores.len()];
    let (mut log_p, mut log_q) = (vec![0.0; classes], vec![0.0; classes]);
    let mut divergence = 0.0;
    for ((s, t), gradient) in scores
        .chunks_exact(classes)
        .zip(targets.chunks_exact(classes))
        .zip(gradient.chunks_exact_mut(classes))
    {
        log_softmax(t, temperature, &mut log_p);
        log_softmax(s, temperature, &mut log_q);
        for ((g, &log_p), &log_q) in gradient.iter_mut().zip(&log_p).zip(&log_q) {
            let p = log_p.exp();
            divergence += p * (log_p - log_q);
            // d(T²/B · KL)/ds = T²/B · (q − p)/T
            *g = temperature / rows as f64 * (log_q.exp() - p);
        }
    }
    let value = temperature * temperature / rows as f64 * divergence;
    Ok(Loss { value, gradient: tensor_like(gradient, student)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::papers::nst::tests::assert_gradient;
    use candle_core::Device;

    #[test]
    fn gradient_matches_finite_differences() {
        let student =
            Tensor::from_vec(vec![1.0, -2.0, 0.5, 3.0, 0.1, -0.7], (2, 3), &Device::Cpu).unwrap();
        let teacher =
            Tensor::from_vec(vec![0.3, 2.0, -0.5, 1.0, 1.1, -1.7], (2, 3), &Device::Cpu).unwrap();
        assert_gradient(&student, 1e-7, |s| kd(s, &teacher, 4.0).unwrap());
        assert_gradient(&student, 1e-7, |s| kd(s, &teacher, 1.0).unwrap());
    }

    #[test]
    fn the_teacher_itself_has_no_loss() {
        let logits = Tensor::from_vec(vec![900.0f32, -800.0, 3.0], (1, 3), &Device::Cpu).unwrap();
        let loss = kd(&logits, &logits, 4.0).unwrap();
        assert!(loss.value.abs() < 1e-12, "{}", loss.value);
        assert_eq!(loss.gradient.to_vec2::<f32>().unwrap(), vec![vec![0.0; 3]]);
    }
}
