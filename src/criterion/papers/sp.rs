//! Similarity-preserving distillation (Tung & Mori 2019, arXiv:1907.09682), in the form of
//! `RepDistiller`. The features must be stored, since a batch's similarities compare samples that
//! meet only in training.

use crate::criterion::contract::{Comparison, Criterion, Pairs, Setup, Spec};
use crate::criterion::math::autograd::differentiate;
use crate::criterion::math::elements::count;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::{Guard, same_batch, total, unit_rows};
use crate::criterion::math::products::{gram, gram_gradient};
use crate::criterion::settings::settings;
use crate::error::Result;
use candle_core::Tensor;

settings! {
    /// Similarity-preserving distillation.
    Sp {}
}

impl Criterion for Sp {
    type Memory = ();

    const SPEC: &'static Spec = &Spec {
        name: "sp",
        title: "Similarity-preserving distillation",
        paper: "Tung & Mori 2019, arXiv:1907.09682",
        note: "compares samples of a batch with each other",
        weight: 3000.0,
        pairs: Pairs::Deepest,
        ..Spec::MAPS
    };

    fn start(&self, _: &Setup<'_>) -> Result<()> {
        Ok(())
    }

    fn evaluate(&self, inputs: &Comparison<'_>, (): &mut ()) -> Result<Evaluation> {
        let (student, teacher) = inputs.pair()?;
        sp(student, &teacher)
    }
}

/// `L = 1/B² · ‖N(G_t) − N(G_s)‖_F²`, `G = X Xᵀ` over the samples' flattened features,
/// where N divides each row by max(its norm, 1e-12). Computed in double precision, since it is a
/// difference of nearly equal numbers. An all-zero sample has no gradient.
///
/// # Shapes
/// `student` `[batch, …]`, `teacher` `[batch, …]`.
///
/// # Errors
/// When batches disagree.
pub fn sp(student: &Tensor, teacher: &Tensor) -> Result<Evaluation> {
    let batch = same_batch(student, teacher, "sp")?;
    let normal = |gram: &Tensor| unit_rows(gram, Guard::AtLeast(1e-12));
    let (own, similar) = (gram(&student.detach())?, normal(&gram(teacher)?)?);
    differentiate(&[&own], None, |g| {
        Ok((total(&(normal(&g[0])? - &similar)?.sqr()?)? * count(batch).powi(-2))?)
    })?
    .through(|g| gram_gradient(student, g))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{
        assert_finite, assert_gradients, assert_zero, tensor,
    };
    use crate::criterion::math::module::Module;
    use candle_core::DType;

    #[test]
    fn gradients_match_finite_differences() {
        let t = tensor(&[3, 7], 2);
        for shape in [&[3, 5][..], &[3, 2, 3, 2]] {
            assert_gradients(&[&tensor(shape, 1)], &Module::default(), |x, _| sp(x[0], &t));
        }
    }

    #[test]
    fn dead_coincident_and_lone_samples_are_finite() {
        let t = tensor(&[3, 4], 1).to_dtype(DType::F32).unwrap();
        let first = t.narrow(0, 0, 1).unwrap();
        let dead = first.zeros_like().unwrap();
        assert_finite(&sp(&Tensor::cat(&[&first, &first, &dead], 0).unwrap(), &t).unwrap());
        assert_finite(&sp(&(&t * 1e9).unwrap(), &t).unwrap());
        assert_finite(&sp(&first, &first).unwrap());
        assert_zero(&sp(&t, &t).unwrap(), 1e-12);
        assert!(sp(&t, &first).is_err());
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (s, t) = (tensor(&[64, 700], 1), tensor(&[64, 900], 2));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| sp(&s, &t).unwrap())
        };
        let (one, three) = (run(1), run(3));
        assert_eq!(one.value.to_bits(), three.value.to_bits());
        let bits = |e: &Evaluation| e.inputs[0].flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(bits(&one), bits(&three));
    }
}
