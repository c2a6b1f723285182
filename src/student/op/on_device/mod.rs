//! Operators in candle's tensor operations, on the device of their tensors: what a student runs on
//! where there is a GPU. An operator that has no such form runs on the host, its tensors copied
//! there and back.
//!
//! candle serves as the array library alone: gradients are the operators' own, none is taken from
//! its autograd, and its pooling, upsampling, fused softmax and layer normalisation are not used.
//! What overlaps (windows, slices) is one gather by a table of indices, and its adjoint another
//! gather: no atomic additions, so a device adds in a fixed order.

pub(super) mod activation;
pub(super) mod arrange;
pub(super) mod batch_norm;
pub(super) mod binary;
pub(super) mod concat;
pub(super) mod conv;
pub(super) mod dropout;
pub(super) mod gather;
pub(super) mod layer_norm;
pub(super) mod matrix;
pub(super) mod pool;
pub(super) mod reduce;
pub(super) mod separable;
pub(super) mod softmax;
mod sum;
mod table;
pub(super) mod unary;

use super::{AnyOperator, Backward, OpOutput, Operator, PassOptions, any};
use crate::error::Result;
use candle_core::{DType, Device, Tensor};

/// Where and in which float type operators run.
#[derive(Debug, Clone)]
pub(in crate::student) struct Target {
    pub(in crate::student) device: Device,
    pub(in crate::student) dtype: DType,
}

impl Target {
    /// A constant tensor.
    pub(in crate::student) fn tensor(&self, values: &[f64], shape: &[usize]) -> Result<Tensor> {
        Ok(Tensor::from_slice(values, shape, &Device::Cpu)?
            .to_dtype(self.dtype)?
            .to_device(&self.device)?)
    }
}

/// The device form of an operator, or the host form behind copies.
///
/// # Errors
/// When the device has no room for the operator's tables.
pub(in crate::student) fn place(
    operator: Box<dyn AnyOperator>,
    target: &Target,
) -> Result<Box<dyn AnyOperator>> {
    match operator.on_device(target)? {
        Some(own) => Ok(own),
        None => Ok(any(OnHost { operator, device: target.device.clone() })),
    }
}

/// An operator that runs on the host for tensors of another device.
#[derive(Debug)]
struct OnHost {
    operator: Box<dyn AnyOperator>,
    device: Device,
}

impl OnHost {
    fn back(&self, tensors: Vec<Option<Tensor>>) -> Result<Vec<Option<Tensor>>> {
        tensors.into_iter().map(|t| t.map(|t| Ok(t.to_device(&self.device)?)).transpose()).collect()
    }
}

impl Operator for OnHost {
    type Kept = Box<dyn Backward>;

    fn forward(&self, inputs: &[&Tensor], options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let inputs =
            inputs.iter().map(|x| Ok(x.to_device(&Device::Cpu)?)).collect::<Result<Vec<_>>>()?;
        let done = self.operator.forward(&inputs.iter().collect::<Vec<_>>(), options)?;
        let there = |t: Tensor| -> Result<Tensor> { Ok(t.to_device(&self.device)?) };
        Ok(OpOutput {
            outputs: done.outputs.into_iter().map(there).collect::<Result<_>>()?,
            updates: done
                .updates
                .into_iter()
                .map(|(i, t)| Ok((i, there(t)?)))
                .collect::<Result<_>>()?,
            // what the backward pass takes stays where that runs
            kept: done.kept,
        })
    }

    fn backward(
        &self,
        kept: Box<dyn Backward>,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let gradients =
            gradients.into_iter().map(|g| g.map(|g| Ok(g.to_device(&Device::Cpu)?)).transpose());
        self.back(kept.backward(gradients.collect::<Result<_>>()?, wanted)?)
    }
}

/// The operator as its own device form: for those whose code names no device.
#[allow(clippy::unnecessary_wraps, reason = "what `Operator::on_device` returns")]
pub(super) fn boxed(operator: impl Operator) -> Result<Option<Box<dyn AnyOperator>>> {
    Ok(Some(any(operator)))
}

/// 1 where a comparison held and 0 elsewhere, as numbers.
fn truth(mask: &Tensor, dtype: DType) -> Result<Tensor> {
    Ok(mask.to_dtype(dtype)?)
}

/// Where x > 0: 1, elsewhere 0. By its sign, since a comparison with a number would send the number
/// to the device.
fn positive(x: &Tensor) -> Result<Tensor> {
    Ok(x.sign()?.relu()?)
}

/// The larger of x and 0; NaN stays NaN, which candle's `relu` makes 0: a run that diverges has to
/// be seen.
fn rectified(x: &Tensor) -> Result<Tensor> {
    let zero = x.zeros_like()?;
    Ok(x.lt(&zero)?.where_cond(&zero, x)?)
}
