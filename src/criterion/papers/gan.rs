//! Adversarial matching of feature distributions: the outlook beyond MMD in the paper on neuron
//! selectivity. In the form of Chung et al. 2020 (arXiv:2002.01775), which matches feature maps
//! with discriminators under the least-squares loss of Mao et al. 2017 (arXiv:1611.04076).
//!
//! It learns the transfer layer `transfer` (the regressor of `FitNets` without ReLU) and the
//! discriminator `discriminator`: convolution, batch norm, leaky ReLU, convolution, sigmoid, as
//! published; the 3×3 kernels with stride 2, half the channels and slope 0.1 are our choice.

use crate::criterion::contract::{Comparison, Criterion, Pairs, Setup, Spec};
use crate::criterion::math::autograd::differentiate;
use crate::criterion::math::convolution::Geometry;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::{map_dims, mean, sigmoid};
use crate::criterion::math::init::Init;
use crate::criterion::math::module::{Module, regressor_between};
use crate::criterion::math::operator::leaky_relu;
use crate::criterion::math::tensor::same_shape;
use crate::criterion::settings::settings;
use crate::error::Result;
use candle_core::Tensor;

settings! {
    /// Adversarial matching of feature maps.
    Gan {}
}

impl Criterion for Gan {
    type Memory = Vec<Module>;

    const SPEC: &'static Spec = &Spec {
        name: "gan",
        title: "Adversarial matching of feature distributions",
        paper: "Chung et al. 2020, arXiv:2002.01775, with the loss of Mao et al. 2017, \
                arXiv:1611.04076",
        source: "ours",
        note: "the discriminator's widths are ours",
        pairs: Pairs::Deepest,
        learnable: Some("transfer layer, discriminator"),
        ..Spec::MAPS
    };

    fn start(&self, setup: &Setup<'_>) -> Result<Vec<Module>> {
        setup.modules(|shapes, seed| {
            let [student, teacher] = shapes.maps()?;
            module(student, teacher, seed)
        })
    }

    fn evaluate(&self, inputs: &Comparison<'_>, modules: &mut Vec<Module>) -> Result<Evaluation> {
        let (student, teacher) = inputs.pair()?;
        Ok(gan(student, &teacher, inputs.of_layer(modules)?)?.evaluation)
    }

    /// Only the student's side of the game is weighted: the discriminator has its own objective,
    /// for which the weight means nothing.
    fn weighted(
        &self,
        weight: f64,
        inputs: &Comparison<'_>,
        modules: &mut Vec<Module>,
    ) -> Result<Evaluation> {
        let evaluation = self.evaluate(inputs, modules)?;
        let (value, own) = (evaluation.value, evaluation.weights.clone());
        let mut evaluation = evaluation.scaled(weight)?;
        for (weighted, own) in evaluation.weights.iter_mut().zip(own) {
            if own.0.starts_with(DISCRIMINATOR) {
                *weighted = own;
            }
        }
        Ok(Evaluation { value, ..evaluation })
    }
}

/// The discriminator's convolutions halve a map of any size.
const HALVING: Geometry = Geometry { transposed: false, stride: [2, 2], padding: [1, 1] };

/// The prefix of the discriminator's weights.
pub const DISCRIMINATOR: &str = "discriminator.";

/// The result of one step of the game.
#[derive(Debug, Clone)]
pub struct Game {
    /// The student's loss `L_G = mean (1 − D(r))²` with its gradients with respect to the
    /// student and the transfer layer. The list of weights also holds the gradients of `L_D` with
    /// respect to the discriminator, so that one optimizer updates all.
    pub evaluation: Evaluation,
    /// The discriminator's loss `L_D = mean (1 − D(t))² + mean D(r)²`. At ½ it cannot tell
    /// teacher from student.
    pub discriminator: f64,
}

/// `L_G = mean (1 − D(r))²`, where r is the student's map after the transfer layer, against
/// `L_D = mean (1 − D(t))² + mean D(r)²`; means are over the batch and positions of D.
///
/// # Shapes
/// `student` `[batch, channels_s, height_s, width_s]`, `teacher`
/// `[batch, channels_t, height_t, width_t]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn gan(student: &Tensor, teacher: &Tensor, module: &Module) -> Result<Game> {
    let mut evaluation = generator(student, teacher, module)?;
    let against = discriminator(student, teacher, module)?;
    for ((name, own), (_, other)) in evaluation.weights.iter_mut().zip(against.weights) {
        if name.starts_with(DISCRIMINATOR) {
            *own = other;
        }
    }
    Ok(Game { evaluation, discriminator: against.value })
}

fn generator(student: &Tensor, teacher: &Tensor, module: &Module) -> Result<Evaluation> {
    differentiate(&[student], Some(module), |x| {
        far_from(&judged(&transferred(&x[0], teacher, module)?, module)?, 1.0)
    })
}

fn discriminator(student: &Tensor, teacher: &Tensor, module: &Module) -> Result<Evaluation> {
    let (fake, teacher) =
        (transferred(student, teacher, module)?.detach(), &teacher.to_dtype(student.dtype())?);
    differentiate(&[], Some(module), |_| {
        Ok((far_from(&judged(teacher, module)?, 1.0)? + far_from(&judged(&fake, module)?, 0.0)?)?)
    })
}

/// mean (verdict − aim)².
fn far_from(verdict: &Tensor, aim: f64) -> Result<Tensor> {
    mean(&(verdict - aim)?.sqr()?)
}

fn transferred(s: &Tensor, t: &Tensor, module: &Module) -> Result<Tensor> {
    let ([_, _, hs, ws], [_, _, ht, wt]) = (map_dims(s, "gan")?, map_dims(t, "gan")?);
    let r = module.at("transfer").regress(s, regressor_between([hs, ws], [ht, wt])?.1)?;
    same_shape(&r, t, "gan")?;
    Ok(r)
}

/// How much each region of a map looks like the teacher's, from 0 to 1.
fn judged(x: &Tensor, module: &Module) -> Result<Tensor> {
    let layer = module.at("discriminator");
    let x = layer.at("1").normalize(&layer.at("0").convolve(x, HALVING)?)?;
    sigmoid(&layer.at("3").convolve(&leaky_relu(&x, 0.1)?, HALVING)?)
}

/// An untrained module between `[channels, height, width]`.
///
/// # Errors
/// When there is no transfer layer between these sizes.
pub fn module(student: [usize; 3], teacher: [usize; 3], seed: u64) -> Result<Module> {
    let mut init = Init::new(seed);
    init.regressor("transfer", student, teacher)?;
    let hidden = (teacher[0] / 2).max(1);
    init.layer("discriminator.0", &[hidden, teacher[0], 3, 3], Some(hidden))?;
    init.norm("discriminator.1", hidden)?;
    init.layer("discriminator.3", &[1, hidden, 3, 3], Some(1))?;
    init.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{assert_finite, assert_gradients, tensor};
    use candle_core::DType;

    #[test]
    fn gradients_match_finite_differences() {
        let (s, t) = (tensor(&[2, 2, 4, 3], 1), tensor(&[2, 4, 4, 3], 2));
        let module = module([2, 4, 3], [4, 4, 3], 1).unwrap();
        assert_gradients(&[&s], &module, |x, m| generator(x[0], &t, m));
        assert_gradients(&[], &module, |_, m| {
            let mut found = discriminator(&s, &t, m)?;
            // the transfer layer has no part in the discriminator's loss
            let of = |x: &Tensor| -> Result<f64> {
                Ok(x.abs()?.sum_all()?.to_dtype(DType::F64)?.to_scalar()?)
            };
            for (name, g) in &mut found.weights {
                if name.starts_with("transfer.") {
                    assert!(of(g)? == 0.0);
                    *g = differentiate(&[], Some(m), |_| {
                        far_from(&judged(&transferred(&s, &t, m)?, m)?, 0.0)
                    })?
                    .weights
                    .into_iter()
                    .find(|(n, _)| n == name)
                    .map(|(_, g)| g)
                    .unwrap();
                }
            }
            Ok(found)
        });
    }

    #[test]
    fn a_step_down_both_gradients_moves_both_losses_down() {
        let (s, t) = (tensor(&[4, 2, 6, 6], 1), (tensor(&[4, 4, 3, 3], 2) + 0.3).unwrap());
        let module = module([2, 6, 6], [4, 3, 3], 1).unwrap().to_dtype(DType::F64).unwrap();
        let game = gan(&s, &t, &module).unwrap();
        let stepped = |prefix: &str| {
            let weights =
                module.weights().zip(&game.evaluation.weights).map(|((name, w), (_, g))| {
                    (
                        name.to_owned(),
                        if name.starts_with(prefix) {
                            (w - (g * 0.01).unwrap()).unwrap()
                        } else {
                            w.clone()
                        },
                    )
                });
            gan(&s, &t, &Module::new(weights.collect::<Vec<_>>()).unwrap()).unwrap()
        };
        assert!(stepped("transfer.").evaluation.value < game.evaluation.value);
        assert!(stepped("discriminator.").discriminator < game.discriminator);
    }

    #[test]
    fn lone_pixels_and_large_maps_are_finite() {
        let module = module([2, 1, 1], [2, 1, 1], 1).unwrap();
        let s = tensor(&[1, 2, 1, 1], 1).to_dtype(DType::F32).unwrap();
        for factor in [0.0, 1.0, 1e9] {
            let game = gan(&(&s * factor).unwrap(), &s, &module).unwrap();
            assert_finite(&game.evaluation);
            assert!(game.discriminator.is_finite());
        }
    }
}
