//! Variational information distillation (Ahn et al. 2019, arXiv:1904.05835), in the form of
//! `RepDistiller`.
//!
//! It learns three 1×1 convolutions `regressor.{0,2,4}` and a per-channel variance, `log_scale`.

use crate::criterion::contract::{Comparison, Criterion, Setup, Spec};
use crate::criterion::math::autograd::differentiate;
use crate::criterion::math::chain::{self, Link};
use crate::criterion::math::convolution::Geometry;
use crate::criterion::math::elements::count;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::{common_size, map_dims, planes, softplus};
use crate::criterion::math::init::Init;
use crate::criterion::math::module::Module;
use crate::criterion::math::operator::adaptive_pool_gradient;
use crate::criterion::math::squares::{Teacher, squares, squares_gradient};
use crate::criterion::math::tensor::same_shape;
use crate::criterion::settings::{ABOVE_0, settings};
use crate::error::Result;
use candle_core::{DType, Tensor};

settings! {
    /// Variational information distillation.
    Vid {
        /// The initial variance.
        variance: f64 = 5.0, ABOVE_0;
        /// The smallest variance.
        eps: f64 = 1e-5, ABOVE_0;
    }
}

impl Criterion for Vid {
    type Memory = Vec<Module>;

    const SPEC: &'static Spec = &Spec {
        name: "vid",
        title: "Variational information distillation",
        paper: "Ahn et al. 2019, arXiv:1904.05835",
        learnable: Some("regressor, variance by channel"),
        ..Spec::MAPS
    };

    fn start(&self, setup: &Setup<'_>) -> Result<Vec<Module>> {
        setup.modules(|shapes, seed| {
            let [[student, ..], [teacher, ..]] = shapes.maps()?;
            module(student, teacher, self.variance, self.eps, seed)
        })
    }

    fn evaluate(&self, inputs: &Comparison<'_>, modules: &mut Vec<Module>) -> Result<Evaluation> {
        let (student, teacher) = inputs.pair()?;
        vid(student, &teacher, inputs.of_layer(modules)?, self.eps)
    }
}

/// `L = mean ½ [(m − t)²/v_c + ln v_c]`, `m = W₃ ReLU(W₂ ReLU(W₁ s))`,
/// `v_c = ln(1 + exp(log_scale_c)) + eps`; the larger map is first adaptively average-pooled, per
/// axis.
///
/// # Shapes
/// `student` `[batch, channels_s, height_s, width_s]`, `teacher`
/// `[batch, channels_t, height_t, width_t]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn vid(student: &Tensor, teacher: &Tensor, module: &Module, eps: f64) -> Result<Evaluation> {
    let [_, _, hs, ws] = map_dims(student, "vid")?;
    let (s, t) = common_size(&student.detach(), teacher, "vid")?;
    let point = |name: &str| Link::Convolution(format!("regressor.{name}"), Geometry::padded(0));
    let links = [point("0"), Link::LeakyRelu(0.0), point("2"), Link::LeakyRelu(0.0), point("4")];
    let found = chain::differentiate(module, &links, &s, true, |m| {
        same_shape(m, &t, "vid")?;
        let errors = squares(m, &t, planes(m)?, Teacher)?;
        let mut found = differentiate(&[&errors], Some(module), |errors| {
            let variance = (softplus(&module.get("log_scale")?.to_dtype(DType::F64)?)? + eps)?;
            let of_errors = ((&errors[0] / &variance)?.sum_all()? * (1.0 / count(m.elem_count())))?;
            Ok(((of_errors + variance.log()?.mean_all()?)? * 0.5)?)
        })?;
        found.weights.retain(|(name, _)| name == "log_scale");
        found.through(|factors| squares_gradient(m, &t, planes(m)?, factors, Teacher))
    })?;
    found.through(|g| Ok(adaptive_pool_gradient(g, [hs, ws])?))
}

/// An untrained module between these channels, with this variance.
///
/// # Errors
/// When a tensor cannot be created.
pub fn module(
    student: usize,
    teacher: usize,
    variance: f64,
    eps: f64,
    seed: u64,
) -> Result<Module> {
    let mut init = Init::new(seed);
    init.layer("regressor.0", &[teacher, student, 1, 1], None)?;
    init.layer("regressor.2", &[teacher, teacher, 1, 1], None)?;
    init.layer("regressor.4", &[teacher, teacher, 1, 1], None)?;
    init.constant("log_scale", &[teacher], (variance - eps).exp_m1().ln())?;
    init.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{assert_finite, assert_gradients, tensor};

    #[test]
    fn gradients_match_finite_differences() {
        let (s, t) = (tensor(&[2, 3, 5, 3], 1), tensor(&[2, 4, 3, 4], 2));
        assert_gradients(&[&s], &module(3, 4, 5.0, 1e-5, 1).unwrap(), |x, m| {
            vid(x[0], &t, m, 1e-5)
        });
    }

    #[test]
    fn the_variance_starts_where_it_is_asked_to() {
        let module = module(2, 3, 5.0, 1e-5, 1).unwrap();
        let v = (softplus(&module.get("log_scale").unwrap()).unwrap() + 1e-5)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        assert!(v.iter().all(|v| (v - 5.0).abs() < 1e-5), "{v:?}");
    }

    #[test]
    fn extreme_scales_are_finite() {
        let (s, t) = (
            tensor(&[1, 2, 3, 3], 1).to_dtype(DType::F32).unwrap(),
            tensor(&[1, 2, 3, 3], 2).to_dtype(DType::F32).unwrap(),
        );
        for scale in [-200.0f32, 0.0, 200.0] {
            let weights = module(2, 2, 5.0, 1e-5, 1).unwrap();
            let weights = weights.weights().map(|(n, w)| {
                let w = if n == "log_scale" {
                    (w.ones_like().unwrap() * f64::from(scale)).unwrap()
                } else {
                    w.clone()
                };
                (n.to_owned(), w)
            });
            assert_finite(&vid(&s, &t, &Module::new(weights).unwrap(), 1e-5).unwrap());
        }
    }
}
