//! Channel-wise distillation (Shu et al. 2021, arXiv:2011.13256): where a channel is active, as a
//! distribution over positions.

use crate::criterion::contract::{Comparison, Criterion, Setup, Spec};
use crate::criterion::math::columns::column_mean;
use crate::criterion::math::divergence::divergence;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::map_dims;
use crate::criterion::math::module::Module;
use crate::criterion::math::projector::{compare, projectors};
use crate::criterion::settings::{ABOVE_0, ANY, settings};
use crate::error::Result;
use crate::kernel::norm::NormShape;
use candle_core::Tensor;

settings! {
    /// Channel-wise distillation.
    Cwd {
        /// The temperature τ.
        tau: f64 = 1.0, ABOVE_0;
        /// Whether a linear layer to the teacher's channels is learned.
        projector: bool = false, ANY;
    }
}

impl Criterion for Cwd {
    type Memory = Vec<Module>;

    const SPEC: &'static Spec = &Spec {
        name: "cwd",
        title: "Channel-wise distillation",
        paper: "Shu et al. 2021, arXiv:2011.13256",
        source: "mmrazor",
        note: "the weight is 10 between feature pyramids and 5 between logit maps; projector=true \
               learns a linear layer to the teacher's channels",
        weight: 10.0,
        ..Spec::MAPS
    };

    fn start(&self, setup: &Setup<'_>) -> Result<Vec<Module>> {
        projectors(setup, self.projector)
    }

    fn evaluate(&self, inputs: &Comparison<'_>, modules: &mut Vec<Module>) -> Result<Evaluation> {
        let (student, teacher) = inputs.stored_pair()?;
        cwd(student, teacher, self.tau, inputs.of_layer(modules)?)
    }
}

/// `L = τ²/(B C) · Σ_bc Σ_i p_i (ln p_i − ln q_i)`, p and q the softmax of `t_bc/τ` and `s_bc/τ`
/// over positions; maps of different sizes are first adaptively average-pooled, each axis to the
/// smaller of both. Computed in log space and double precision.
///
/// # Shapes
/// `student` `[batch, channels, height_s, width_s]`, `teacher`
/// `[batch, channels, height_t, width_t]`; other channels if the module is a projector.
///
/// # Errors
/// When the shapes disagree.
pub fn cwd(student: &Tensor, teacher: &Tensor, tau: f64, module: &Module) -> Result<Evaluation> {
    compare(student, teacher, module, "cwd", |s, t| {
        let [batch, channels, h, w] = map_dims(s, "cwd")?;
        let planes = NormShape { outer: batch * channels, channels: h * w, inner: 1 };
        column_mean(s, t, planes, "cwd", |s, t| divergence(s, t, tau))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{
        assert_finite, assert_gradients, assert_zero, tensor,
    };
    use crate::criterion::math::init::Init;
    use candle_core::{DType, Device};

    #[test]
    fn gradients_match_finite_differences() {
        let (s, t) = (tensor(&[2, 3, 5, 3], 1), tensor(&[2, 3, 3, 4], 2));
        for tau in [1.0, 0.1, 4.0] {
            assert_gradients(&[&s], &Module::default(), |x, m| cwd(x[0], &t, tau, m));
        }
        let mut init = Init::new(1);
        init.layer("projector", &[2, 3], Some(2)).unwrap();
        let t = tensor(&[2, 2, 4, 3], 2);
        assert_gradients(&[&s], &init.finish().unwrap(), |x, m| cwd(x[0], &t, 1.0, m));
    }

    #[test]
    fn one_channel_by_hand() {
        let s = Tensor::new(&[[[[0.0, 0.0]]]], &Device::Cpu).unwrap();
        let t = Tensor::new(&[[[[3f64.ln(), 0.0]]]], &Device::Cpu).unwrap();
        let found = cwd(&s, &t, 1.0, &Module::default()).unwrap();
        // p = (3/4, 1/4), q = (1/2, 1/2)
        let expected = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        assert!((found.value - expected).abs() < 1e-15, "{}", found.value);
        let gradient = found.inputs[0].flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert!((gradient[0] + 0.25).abs() < 1e-15 && (gradient[1] - 0.25).abs() < 1e-15);
    }

    #[test]
    fn dead_equal_and_peaky_channels() {
        let none = Module::default();
        let s = tensor(&[1, 3, 4, 4], 1).to_dtype(DType::F32).unwrap();
        for factor in [0.0, 1e4, 1e30] {
            let scaled = (&s * factor).unwrap();
            assert_finite(&cwd(&scaled, &s, 1.0, &none).unwrap());
            assert_finite(&cwd(&s, &scaled, 1.0, &none).unwrap());
            assert_zero(&cwd(&scaled, &scaled, 1.0, &none).unwrap(), 0.0);
        }
        assert!(cwd(&s, &tensor(&[1, 2, 4, 4], 1), 1.0, &none).is_err());
        assert!(cwd(&tensor(&[2, 3], 1), &tensor(&[2, 3], 1), 1.0, &none).is_err());
    }
}
