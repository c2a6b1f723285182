//! Reductions: the axes that are reduced brought last, so that every one is over rows.

use super::{Lower, Lowered, OnDevice, Target, truth};
use crate::error::Result;
use crate::student::op::reduce::{Reduce, Reduction, Shapes, Sum};
use crate::student::op::{OpOutput, Operator, PassOptions, only};
use candle_core::Tensor;
use std::sync::Arc;

/// The order of axes that puts the reduced ones last, and the sizes in it.
fn order(shapes: &Shapes) -> (Vec<usize>, Vec<usize>, usize) {
    let gone = |&axis: &usize| shapes.kept[axis] != shapes.input[axis];
    let (last, first): (Vec<usize>, Vec<usize>) = (0..shapes.input.len()).partition(gone);
    let width = last.iter().map(|&axis| shapes.input[axis]).product();
    let order = [first, last].concat();
    let sizes = order.iter().map(|&axis| shapes.input[axis]).collect();
    (order, sizes, width)
}

/// `[rows, width]`.
fn rows(shapes: &Shapes, x: &Tensor) -> Result<Tensor> {
    let (order, _, width) = order(shapes);
    let x = if order.is_sorted() { x.clone() } else { x.permute(order)?.contiguous()? };
    Ok(x.reshape(((), width))?)
}

/// The inverse of [`rows`].
fn input_of(shapes: &Shapes, rows: &Tensor) -> Result<Tensor> {
    let (order, sizes, _) = order(shapes);
    let x = rows.reshape(sizes)?;
    if order.is_sorted() {
        return Ok(x);
    }
    let mut inverse = vec![0; order.len()];
    order.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
    Ok(x.permute(inverse)?.contiguous()?)
}

impl OnDevice<Reduce> {
    /// One number a row, `[rows, 1]`.
    fn values(&self, rows: &Tensor) -> Result<Tensor> {
        Ok(match self.0.reduction {
            Reduction::LogSum => rows.sum_keepdim(1)?.log()?,
            Reduction::Max => rows.max_keepdim(1)?,
            Reduction::Min => rows.min_keepdim(1)?,
            Reduction::L1 => rows.abs()?.sum_keepdim(1)?,
            Reduction::L2 => rows.sqr()?.sum_keepdim(1)?.sqrt()?,
            Reduction::SumSquare => rows.sqr()?.sum_keepdim(1)?,
            Reduction::LogSumExp => {
                let largest = rows.max_keepdim(1)?;
                (rows.broadcast_sub(&largest)?.exp()?.sum_keepdim(1)?.log()? + largest)?
            }
        })
    }

    /// The slope of `y` by every element.
    fn slope(&self, rows: &Tensor, y: &Tensor) -> Result<Tensor> {
        Ok(match self.0.reduction {
            Reduction::LogSum => rows.zeros_like()?.broadcast_sub(y)?.exp()?,
            // equal extremes share the gradient evenly
            Reduction::Max | Reduction::Min => {
                let hits = truth(&rows.broadcast_eq(y)?, rows.dtype())?;
                hits.broadcast_div(&hits.sum_keepdim(1)?)?
            }
            Reduction::L1 => rows.sign()?,
            // a row of zeros has no slope
            Reduction::L2 => {
                rows.broadcast_div(&(y + truth(&y.eq(&y.zeros_like()?)?, y.dtype())?)?)?
            }
            Reduction::SumSquare => rows.affine(2.0, 0.0)?,
            Reduction::LogSumExp => rows.broadcast_sub(y)?.exp()?,
        })
    }
}

impl Lower for Reduce {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        if operator.shapes.input.contains(&0) {
            return Ok(None);
        }
        Ok(Some(OnDevice::of(operator)))
    }
}

impl Lower for Sum {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        if operator.shapes.input.contains(&0) {
            return Ok(None);
        }
        Ok(Some(OnDevice::of(operator)))
    }
}

impl Operator for OnDevice<Sum> {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let sums = rows(&self.0.shapes, inputs[0])?.sum_keepdim(1)?.affine(self.0.factor, 0.0)?;
        Ok(OpOutput::one(sums.reshape(self.0.shapes.output.as_slice())?, ()))
    }

    fn backward(
        &self,
        _kept: (),
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let Shapes { input, kept, .. } = &self.0.shapes;
        let dx = only(gradients)?.affine(self.0.factor, 0.0)?.reshape(kept.as_slice())?;
        Ok(vec![Some(dx.broadcast_as(input.as_slice())?.contiguous()?)])
    }
}

impl Operator for OnDevice<Reduce> {
    /// The rows and one number of each.
    type Kept = [Tensor; 2];

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let rows = rows(&self.0.shapes, inputs[0])?;
        let values = self.values(&rows)?;
        let y = values.reshape(self.0.shapes.output.as_slice())?;
        Ok(OpOutput::one(y, [rows, values]))
    }

    fn backward(
        &self,
        [rows, values]: Self::Kept,
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?.reshape(((), 1))?;
        let slope = self.slope(&rows, &values)?;
        Ok(vec![Some(input_of(&self.0.shapes, &slope.broadcast_mul(&dy)?)?)])
    }
}
