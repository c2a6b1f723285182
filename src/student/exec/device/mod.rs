//! The device executor: operators in candle's tensor operations, on the device of their tensors,
//! which is what a student runs on where there is a GPU. The sweep is the reference executor's; an
//! operator that has no device form runs on the host, its tensors copied there and back.
//!
//! candle serves as the array library alone: gradients are the operators' own, none is taken from
//! its autograd, and its pooling, upsampling, fused softmax and layer normalization are not used.
//! What overlaps (windows, slices) is one gather by a table of indices, and its adjoint another
//! gather: no atomic additions, so a device adds in a fixed order.

mod activation;
mod arrange;
mod batch_norm;
mod binary;
mod concat;
mod conv;
mod dropout;
mod gather;
mod layer_norm;
mod matrix;
mod pool;
mod reduce;
mod separable;
mod softmax;
mod sum;
mod table;
mod unary;

use crate::error::Result;
use crate::student::op::random::Expected;
use crate::student::op::reshape::Reshape;
use crate::student::op::{self, AnyOperator, BackwardPass, OpOutput, Operator, PassOptions, any};
use crate::student::plan::{GraphPlan, GraphStep};
use candle_core::{DType, Device, Tensor};
use std::any::Any;
use std::sync::Arc;

/// Where and in which float type operators run.
#[derive(Debug, Clone)]
pub(in crate::student) struct Target {
    pub(in crate::student) device: Device,
    pub(in crate::student) dtype: DType,
}

impl Target {
    /// A constant tensor.
    fn tensor(&self, values: &[f64], shape: &[usize]) -> Result<Tensor> {
        Ok(Tensor::from_slice(values, shape, &Device::Cpu)?
            .to_dtype(self.dtype)?
            .to_device(&self.device)?)
    }
}

/// The same plan with every operator in its device form, or behind copies to the host, and its
/// constants on the device.
///
/// # Errors
/// When the device has no room for constants or an operator's tables.
pub(in crate::student) fn lowered(mut plan: GraphPlan, target: &Target) -> Result<GraphPlan> {
    let placed =
        |step: GraphStep| Ok(GraphStep { operator: placed(step.operator, target)?, ..step });
    plan.steps = plan.steps.into_iter().map(placed).collect::<Result<_>>()?;
    for constant in plan.constants.values_mut() {
        *constant = constant.to_device(&target.device)?;
    }
    Ok(plan)
}

/// A device form; `None` where the operator has none for its shapes and settings.
type Lowered = Result<Option<Box<dyn AnyOperator>>>;

/// An operator that has a device form.
trait Lower: Operator + Sized {
    fn lower(operator: &Arc<Self>, target: &Target) -> Lowered;
}

type Row = fn(&dyn Any, &Target) -> Option<Lowered>;

/// A row of the table: the form if the operator is an `O`.
fn row<O: Lower>(operator: &dyn Any, target: &Target) -> Option<Lowered> {
    operator.downcast_ref::<Arc<O>>().map(|operator| O::lower(operator, target))
}

/// The operators that have a device form.
const FORMS: &[Row] = &[
    row::<op::activation::Activation>,
    row::<op::BatchNorm>,
    row::<op::binary::CurvedBinary>,
    row::<op::binary::LinearBinary>,
    row::<op::cast::Cast>,
    row::<op::concat::Concat>,
    row::<op::conv::Convolution>,
    row::<op::conv_transpose::ConvTranspose>,
    row::<op::depth_space::Blocks>,
    row::<op::dropout::Dropout>,
    row::<op::gather::GatherAxis>,
    row::<op::gemm::Gemm>,
    row::<op::group_norm::GroupNorm>,
    row::<op::layer_norm::LayerNorm>,
    row::<op::matmul::MatMul>,
    row::<op::pad::Pad>,
    row::<op::pool::Pool>,
    row::<op::prelu::PRelu>,
    row::<op::random::Expected>,
    row::<op::reduce::Reduce>,
    row::<op::reduce::Sum>,
    row::<op::reshape::Reshape>,
    row::<op::select::Where>,
    row::<op::separable::Separable>,
    row::<op::softmax::Softmax>,
    row::<op::tile::Tile>,
    row::<op::unary::Unary>,
    row::<op::view::StridedView>,
];

/// The device form of an operator.
fn lower(operator: &dyn AnyOperator, target: &Target) -> Lowered {
    FORMS.iter().find_map(|row| row(operator, target)).unwrap_or(Ok(None))
}

/// The device form of an operator, or the host form behind copies.
fn placed(operator: Box<dyn AnyOperator>, target: &Target) -> Result<Box<dyn AnyOperator>> {
    Ok(match lower(&*operator, target)? {
        Some(form) => form,
        None => any(OnHost { operator, device: target.device.clone() }),
    })
}

/// The device form of an operator that is described by the operator itself.
#[derive(Debug)]
struct OnDevice<O>(Arc<O>);

impl<O> OnDevice<O>
where
    Self: Operator,
{
    fn of(operator: &Arc<O>) -> Box<dyn AnyOperator> {
        any(Self(operator.clone()))
    }
}

impl Lower for Reshape {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        // no number is touched: the same code on any device
        Ok(Some(Box::new(operator.clone())))
    }
}

impl Lower for Expected {
    fn lower(operator: &Arc<Self>, target: &Target) -> Lowered {
        let own = lower(&*operator.operator, target)?;
        Ok(own.map(|own| {
            let (mean, output, device) =
                (operator.mean, operator.output.clone(), target.device.clone());
            any(Self { operator: own, mean, output, dtype: target.dtype, device })
        }))
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
    type Kept = Box<dyn BackwardPass>;

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
        kept: Box<dyn BackwardPass>,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let gradients =
            gradients.into_iter().map(|g| g.map(|g| Ok(g.to_device(&Device::Cpu)?)).transpose());
        self.back(kept.backward(gradients.collect::<Result<_>>()?, wanted)?)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_finds_an_operator_by_its_type() {
        let target = Target { device: Device::Cpu, dtype: DType::F32 };
        let relu = any(op::activation::Activation::Relu);
        let form = lower(&*relu, &target).unwrap();
        let form = form.expect("an activation has a device form");
        assert!(lower(&*form, &target).unwrap().is_none(), "a device form is lowered again");
    }
}
