//! DIST: distillation by correlation (Huang et al. 2022, arXiv:2205.10536).

use crate::criterion::contract::{Comparison, Criterion, Setup, Spec, Target};
use crate::criterion::math::autograd::differentiate;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::{norm, rows};
use crate::criterion::math::sparse::Batch;
use crate::criterion::math::tensor::{rows_and_classes, same_shape};
use crate::criterion::settings::{ABOVE_0, NOT_NEGATIVE, settings};
use crate::error::Result;
use candle_core::{D, Tensor};

settings! {
    /// Distillation by correlation.
    Dist {
        /// Weight of the inter-class part.
        beta: f64 = 1.0, NOT_NEGATIVE;
        /// Weight of the intra-class part.
        gamma: f64 = 1.0, NOT_NEGATIVE;
        /// The temperature τ.
        tau: f64 = 1.0, ABOVE_0;
    }
}

impl Criterion for Dist {
    type Memory = ();

    const SPEC: &'static Spec = &Spec {
        name: "dist",
        title: "Distillation by correlation",
        paper: "Huang et al. 2022, arXiv:2205.10536",
        source: "the authors' code",
        note: "on CIFAR-100 the authors take tau 4, beta 2, gamma 2",
        ..Spec::LOGITS
    };

    fn start(&self, _: &Setup<'_>) -> Result<()> {
        Ok(())
    }

    fn evaluate(&self, inputs: &Comparison<'_>, (): &mut ()) -> Result<Evaluation> {
        if let Target::Sparse(teacher) = inputs.target()? {
            let student = inputs.student()?;
            // of the completed logits, by the same formula
            let teacher = Batch::of(&teacher, student, "dist")?.dense()?;
            return dist(student, &teacher, self.beta, self.gamma, self.tau);
        }
        let (student, teacher) = inputs.pair()?;
        dist(student, &teacher, self.beta, self.gamma, self.tau)
    }
}

/// `L = τ² · [β · mean_b (1 − ρ(p_b, q_b)) + γ · mean_k (1 − ρ(p_:k, q_:k))]`,
/// `p = softmax(s/τ)`, `q = softmax(t/τ)`,
/// `ρ(a, b) = ⟨a − ā, b − b̄⟩/(‖a − ā‖‖b − b̄‖ + 1e-8)`. Computed in
/// double precision. Where a row or column is constant, ρ is 0 without gradient.
///
/// # Shapes
/// `student` and `teacher` `[batch, classes]`.
///
/// # Errors
/// When the shapes disagree.
pub fn dist(
    student: &Tensor,
    teacher: &Tensor,
    beta: f64,
    gamma: f64,
    tau: f64,
) -> Result<Evaluation> {
    rows_and_classes(student, "dist")?;
    same_shape(student, teacher, "dist")?;
    differentiate(&[student], None, |x| {
        let (p, q) = (softmax(&x[0], tau)?, softmax(teacher, tau)?);
        let inter = (correlation(&p, &q)? * (-beta))?;
        let intra = (correlation(&p.t()?.contiguous()?, &q.t()?.contiguous()?)? * (-gamma))?;
        Ok((((inter + intra)? + (beta + gamma))? * (tau * tau))?)
    })
}

/// Softmax in double precision, with the row's largest logit subtracted first.
fn softmax(logits: &Tensor, tau: f64) -> Result<Tensor> {
    let x = (rows(logits, "dist")? * (1.0 / tau))?;
    let e = x.broadcast_sub(&x.detach().max_keepdim(D::Minus1)?)?.exp()?;
    Ok(e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?)
}

/// The mean of ρ over the rows.
fn correlation(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let centered =
        |x: &Tensor| -> Result<Tensor> { Ok(x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?) };
    let (a, b) = (centered(a)?, centered(b)?);
    let norms = ((norm(&a)? * norm(&b)?)? + 1e-8)?;
    Ok(((a * b)?.sum_keepdim(D::Minus1)? / norms)?.mean_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::contract::Samples;
    use crate::criterion::math::autograd::tests::{
        assert_equal, assert_finite, assert_gradients, assert_zero, tensor,
    };
    use crate::criterion::math::module::Module;
    use crate::criterion::math::sparse::tests::Exact;
    use candle_core::Device;

    #[test]
    fn gradients_match_finite_differences() {
        let t = tensor(&[4, 5], 2);
        let s = (tensor(&[4, 5], 1) * 6.0).unwrap();
        assert_gradients(&[&s], &Module::default(), |x, _| dist(x[0], &t, 1.0, 0.5, 2.0));
    }

    #[test]
    fn of_the_largest_logits_it_is_that_of_the_completed_ones() {
        let (s, t) = (tensor(&[4, 7], 1), (tensor(&[4, 7], 2) * 6.0).unwrap());
        let settings = Dist { beta: 1.0, gamma: 0.5, tau: 2.0 };
        let samples = Samples { rows: &[], labels: &[], mixed: None, smoothing: 0.0, step: 0 };
        let of = |s: &Tensor, teacher: &Exact| {
            let (students, targets) = ([s.clone()], [Target::Sparse(teacher.sparse())]);
            let inputs = Comparison { students: &students, targets: &targets, layer: 0, samples };
            settings.evaluate(&inputs, &mut ())
        };
        for k in [1, 3, 7] {
            let teacher = Exact::new(&t, k);
            let completed = Tensor::new(teacher.completed.clone(), &Device::Cpu).unwrap();
            let expected = dist(&s, &completed, 1.0, 0.5, 2.0).unwrap();
            assert_equal(&of(&s, &teacher).unwrap(), &expected);
            assert_gradients(&[&s], &Module::default(), |x, _| of(x[0], &teacher));
        }
        assert_equal(&of(&s, &Exact::new(&t, 7)).unwrap(), &dist(&s, &t, 1.0, 0.5, 2.0).unwrap());
    }

    #[test]
    fn constant_lone_and_large_logits_are_finite() {
        let t = tensor(&[3, 4], 1);
        for s in [t.zeros_like().unwrap(), (&t * 1e4).unwrap(), (&t * 1e300).unwrap()] {
            assert_finite(&dist(&s, &t, 1.0, 1.0, 1.0).unwrap());
            assert_finite(&dist(&t, &s, 1.0, 1.0, 1.0).unwrap());
        }
        let one = t.narrow(0, 0, 1).unwrap();
        assert_finite(&dist(&one, &one, 1.0, 1.0, 1.0).unwrap());
        // the 1e-8 in the divisor keeps the correlation of equal rows slightly below 1
        assert_zero(&dist(&t, &t, 1.0, 1.0, 1.0).unwrap(), 1e-5);
    }
}
