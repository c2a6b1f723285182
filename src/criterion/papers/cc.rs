//! Correlation congruence (Peng et al. 2019, arXiv:1904.01802), in the form of `RepDistiller`,
//! whose loss couples each sample with the next one in the batch. It learns the embeddings
//! `embed_s` and `embed_t`.

use crate::criterion::contract::{Comparison, Criterion, Setup, Spec};
use crate::criterion::math::autograd::differentiate;
use crate::criterion::math::elements::count;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::{magnitude, rows, total};
use crate::criterion::math::init::Init;
use crate::criterion::math::module::Module;
use crate::criterion::math::tensor::same_shape;
use crate::criterion::settings::{POSITIVE, settings};
use crate::error::Result;
use candle_core::Tensor;
use candle_nn::Module as _;

settings! {
    /// Correlation congruence.
    Cc {
        /// The width of an embedding.
        width: usize = 128, POSITIVE;
    }
}

impl Criterion for Cc {
    type Memory = Vec<Module>;

    const SPEC: &'static Spec = &Spec {
        name: "cc",
        title: "Correlation congruence",
        paper: "Peng et al. 2019, arXiv:1904.01802",
        note: "compares neighbors in the batch: their order matters",
        weight: 0.02,
        learnable: Some("two linear embeddings"),
        ..Spec::VECTORS
    };

    fn start(&self, setup: &Setup<'_>) -> Result<Vec<Module>> {
        setup.modules(|shapes, seed| {
            let [student, teacher] = shapes.widths();
            embeddings(student, teacher, self.width, seed)
        })
    }

    fn evaluate(&self, inputs: &Comparison<'_>, modules: &mut Vec<Module>) -> Result<Evaluation> {
        let (student, teacher) = inputs.pair()?;
        embedded(student, &teacher, inputs.of_layer(modules)?)
    }
}

/// `L = mean over b = 0 … B−2 of Σ_d |f_s − f_t|_{b,d} · |f_s − f_t|_{b+1,d}`; the loss
/// of a one-sample batch is 0.
///
/// # Shapes
/// `student` and `teacher` of the same shape `[batch, …]`.
///
/// # Errors
/// When the shapes disagree.
pub fn cc(student: &Tensor, teacher: &Tensor) -> Result<Evaluation> {
    differentiate(&[student], None, |x| neighbors(&x[0], teacher))
}

/// [`cc`] of `f_s = s W_sᵀ + b_s` and `f_t = t W_tᵀ + b_t`, both of which are trained.
///
/// # Shapes
/// `student` `[batch, …]`, `teacher` `[batch, …]`.
///
/// # Errors
/// When batches disagree.
pub fn embedded(student: &Tensor, teacher: &Tensor, embeddings: &Module) -> Result<Evaluation> {
    differentiate(&[student], Some(embeddings), |x| {
        let embed = |name: &str, x: &Tensor| -> Result<Tensor> {
            let x = rows(x, "cc")?;
            Ok(embeddings.at(name).linear(&x)?.forward(&x)?)
        };
        neighbors(&embed("embed_s", &x[0])?, &embed("embed_t", teacher)?)
    })
}

fn neighbors(s: &Tensor, t: &Tensor) -> Result<Tensor> {
    same_shape(s, t, "cc")?;
    let off = magnitude(&(rows(s, "cc")? - rows(t, "cc")?)?)?;
    let pairs = off.dim(0)? - 1;
    if pairs == 0 {
        return Ok((total(&off)? * 0.0)?);
    }
    let products = (off.narrow(0, 0, pairs)? * off.narrow(0, 1, pairs)?)?;
    Ok((total(&products)? * (1.0 / count(pairs)))?)
}

/// Untrained embeddings of vectors of these widths.
///
/// # Errors
/// When a tensor cannot be created.
pub fn embeddings(student: usize, teacher: usize, width: usize, seed: u64) -> Result<Module> {
    let mut init = Init::new(seed);
    init.layer("embed_s", &[width, student], Some(width))?;
    init.layer("embed_t", &[width, teacher], Some(width))?;
    init.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{
        assert_finite, assert_gradients, assert_zero, tensor,
    };

    #[test]
    fn gradients_match_finite_differences() {
        let (s, t) = (tensor(&[4, 3], 1), tensor(&[4, 5], 2));
        assert_gradients(&[&s], &Module::default(), |x, _| cc(x[0], &tensor(&[4, 3], 3)));
        assert_gradients(&[&s], &embeddings(3, 5, 4, 1).unwrap(), |x, m| embedded(x[0], &t, m));
    }

    #[test]
    fn identical_and_lone_samples_have_no_loss() {
        let s = tensor(&[4, 3], 1);
        assert_zero(&cc(&s, &s).unwrap(), 0.0);
        let one = tensor(&[1, 3], 1);
        assert_zero(&cc(&one, &tensor(&[1, 3], 2)).unwrap(), 0.0);
        assert_finite(&embedded(&one, &one, &embeddings(3, 3, 4, 1).unwrap()).unwrap());
        assert!(cc(&s, &one).is_err());
    }
}
