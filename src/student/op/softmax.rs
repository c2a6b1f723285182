//! `Softmax` over the last axis (before opset 13: over everything from the axis on).

use super::{Built, Forward, Operator, Run, Saved, Site, only, saved};
use crate::error::{Error, Result};
use crate::kernel::softmax;
use crate::student::op::site::axis;
use crate::student::value::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
struct Softmax {
    width: usize,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let shape = site.shape(0)?;
    let axis = axis(site.int("axis", if site.opset < 13 { 1 } else { -1 }), shape.len())?;
    let behind: usize = shape[axis + 1..].iter().product();
    if site.opset >= 13 && behind != 1 {
        return Err(Error::input(format!("axis: expected the last of {shape:?}, found axis {axis}")));
    }
    Ok(Built::new(Softmax { width: shape[axis] * behind }, [0], shape.to_vec()))
}

impl Operator for Softmax {
    fn forward(&self, inputs: &[&Tensor], _run: &Run) -> Result<Forward> {
        let x = data(inputs[0])?;
        let y = typed!(inputs[0].dtype(), T => tensor(softmax::forward(x.of::<T>()?, self.width), inputs[0].dims()))?;
        Ok(Forward::one(y.clone(), vec![y]))
    }

    fn backward(&self, kept: Saved, gradients: Vec<Option<Tensor>>, _wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let (y, held) = (data(saved(&kept, 0)?)?, data(&dy)?);
        typed!(dy.dtype(), T => Ok(vec![Some(tensor(softmax::backward(y.of::<T>()?, held.of::<T>()?, self.width), dy.dims())?)]))
    }
}
