//! A sequence of layers with a hand-written backward pass: regressors, connectors, translators and
//! paraphrasers.
//!
//! candle's autograd allocates two more maps for every layer in its backward pass (zeros, and their
//! sum with the gradient), which takes as long as the layers themselves.

use super::convolution::{Geometry, convolution, convolution_gradients};
use super::evaluation::Evaluation;
use super::module::{Module, join};
use super::operator::{
    add_bias, batch_norm, batch_norm_gradients, bias_gradient, leaky_relu, leaky_relu_gradient,
    masked,
};
use super::tensor::dense;
use crate::error::Result;
use candle_core::Tensor;
use std::collections::BTreeMap;

/// A layer, by the name of its weights in the module.
#[derive(Debug, Clone)]
pub(crate) enum Link {
    /// The convolution by `weight`, plus `bias` if there is one; a weight `[filters, channels]` is
    /// a 1×1 convolution, which is a linear layer at every position.
    Convolution(String, Geometry),
    /// Batch normalization with batch statistics.
    BatchNorm(String),
    /// x above 0, this slope times x elsewhere.
    LeakyRelu(f64),
    /// x times this mask of positions or channels, which is not trained.
    Mask(Tensor),
}

/// The convolution `conv` and the batch norm `bn` of a layer.
pub(crate) fn regressor(name: &str, geometry: Geometry) -> [Link; 2] {
    [Link::Convolution(join(name, "conv"), geometry), Link::BatchNorm(join(name, "bn"))]
}

/// What a layer saves for the backward pass.
enum ChainStep {
    Convolution { name: String, geometry: Geometry, x: Tensor, weight: Tensor },
    BatchNorm { name: String, x: Tensor, weight: Tensor },
    LeakyRelu { slope: f64, y: Tensor },
    Mask(Tensor),
}

/// Applies the chain to `x`.
///
/// # Errors
/// When a weight is missing or does not fit.
pub(crate) fn run(module: &Module, links: &[Link], x: &Tensor) -> Result<Tensor> {
    forward(module, links, x, |_| ())
}

/// Evaluates `loss(chain(x))` and backpropagates to all of the module's weights and, if `of_x`, to
/// `x`. `loss` returns its gradient with respect to the chain's output, and to any weights of its
/// own.
///
/// # Errors
/// When a weight is missing or does not fit, or the loss fails.
pub(crate) fn differentiate(
    module: &Module,
    links: &[Link],
    x: &Tensor,
    of_x: bool,
    loss: impl FnOnce(&Tensor) -> Result<Evaluation>,
) -> Result<Evaluation> {
    let mut steps = Vec::with_capacity(links.len());
    let y = forward(module, links, &dense(&x.detach())?, |step| steps.push(step))?;
    let Evaluation { value, inputs, weights } = loss(&y)?;
    drop(y);
    let mut gradients: BTreeMap<String, Tensor> = weights.into_iter().collect();
    let mut dy = inputs.into_iter().next();
    while let Some(step) = steps.pop() {
        let Some(gradient) = dy.take() else { break };
        dy = match step {
            ChainStep::Convolution { name, geometry, x, weight } => {
                if module.at(&name).has("bias") {
                    gradients.insert(join(&name, "bias"), bias_gradient(&gradient)?);
                }
                let (dx, dw) = convolution_gradients(
                    &x,
                    &weight,
                    geometry,
                    &gradient,
                    of_x || !steps.is_empty(),
                )?;
                gradients.insert(join(&name, "weight"), dw);
                dx
            }
            ChainStep::BatchNorm { name, x, weight } => {
                let [dx, dw, db] = batch_norm_gradients(&x, &weight, &gradient)?;
                gradients.extend([(join(&name, "weight"), dw), (join(&name, "bias"), db)]);
                Some(dx)
            }
            ChainStep::LeakyRelu { slope, y } => Some(leaky_relu_gradient(&y, slope, &gradient)?),
            ChainStep::Mask(mask) => Some(masked(&dense(&gradient)?, &mask)?),
        };
    }
    let of_weight = |(name, weight): (&str, Tensor)| {
        let gradient = match gradients.remove(name) {
            Some(gradient) => gradient.to_dtype(weight.dtype())?.reshape(weight.shape())?,
            None => weight.zeros_like()?,
        };
        Ok((name.to_owned(), gradient))
    };
    let weights = module.weights().map(of_weight).collect::<Result<_>>()?;
    Ok(Evaluation { value, inputs: dy.into_iter().filter(|_| of_x).collect(), weights })
}

fn forward(
    module: &Module,
    links: &[Link],
    x: &Tensor,
    mut keep: impl FnMut(ChainStep),
) -> Result<Tensor> {
    let mut x = x.clone();
    for link in links {
        x = match link.clone() {
            Link::Convolution(name, geometry) => {
                let layer = module.at(&name);
                let mut weight = dense(&layer.get("weight", &x)?.detach())?;
                if weight.rank() == 2 {
                    weight = weight.unsqueeze(2)?.unsqueeze(3)?;
                }
                let mut y = convolution(&x, &weight, geometry)?;
                if layer.has("bias") {
                    y = add_bias(&y, &layer.get("bias", &x)?.detach())?;
                }
                keep(ChainStep::Convolution { name, geometry, x, weight });
                y
            }
            Link::BatchNorm(name) => {
                let layer = module.at(&name);
                let (weight, bias) =
                    (layer.get("weight", &x)?.detach(), layer.get("bias", &x)?.detach());
                let y = batch_norm(&x, &weight, &bias)?;
                keep(ChainStep::BatchNorm { name, x, weight });
                y
            }
            Link::LeakyRelu(slope) => {
                let y = leaky_relu(&x, slope)?;
                keep(ChainStep::LeakyRelu { slope, y: y.clone() });
                y
            }
            Link::Mask(mask) => {
                let y = masked(&dense(&x)?, &mask)?;
                keep(ChainStep::Mask(mask));
                y
            }
        };
    }
    Ok(x)
}
