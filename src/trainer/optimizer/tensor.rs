//! The optimizer's step as tensor operations, for parameters that are not in host memory.

use crate::error::{Error, Result};
use crate::recipe::OptimizerRecipe;
use candle_core::{Tensor, Var};

/// Updates one parameter, as the version on slices does: `slots` are its state, `scale` is the
/// clipping factor, `steps` includes this step.
pub(super) fn step(
    recipe: &OptimizerRecipe,
    parameter: &Var,
    slots: &[&Var],
    gradient: &Tensor,
    [lr, scale]: [f64; 2],
    steps: u64,
) -> Result<()> {
    let weights = parameter.as_detached_tensor();
    let gradient = gradient.affine(scale, 0.0)?;
    match *recipe {
        OptimizerRecipe::Sgd { momentum, nesterov, weight_decay, .. } => {
            let gradient = (gradient + weights.affine(weight_decay, 0.0)?)?;
            let direction = match slots.first() {
                None => gradient,
                Some(slot) => {
                    let buffer = (slot.as_detached_tensor().affine(momentum, 0.0)? + &gradient)?;
                    slot.set(&buffer)?;
                    if nesterov { (gradient + buffer.affine(momentum, 0.0)?)? } else { buffer }
                }
            };
            parameter.set(&(weights - direction.affine(lr, 0.0)?)?)?;
        }
        OptimizerRecipe::Adamw { betas: [beta1, beta2], eps, weight_decay, .. } => {
            let &[first, second] = slots else {
                return Err(Error::internal("optimizer: state is missing"));
            };
            let steps = i32::try_from(steps).unwrap_or(i32::MAX);
            let (rate, correction) =
                (lr / (1.0 - beta1.powi(steps)), (1.0 - beta2.powi(steps)).sqrt());
            let mean = (first.as_detached_tensor().affine(beta1, 0.0)?
                + gradient.affine(1.0 - beta1, 0.0)?)?;
            let square = (second.as_detached_tensor().affine(beta2, 0.0)?
                + gradient.sqr()?.affine(1.0 - beta2, 0.0)?)?;
            let direction =
                (mean.affine(rate, 0.0)? / square.sqrt()?.affine(1.0 / correction, eps)?)?;
            parameter.set(&(weights.affine(1.0 - lr * weight_decay, 0.0)? - direction)?)?;
            first.set(&mean)?;
            second.set(&square)?;
        }
    }
    Ok(())
}
