//! `Softmax` and `LogSoftmax` over the middle axis of `[outer, width, inner]`.

use super::{Lower, Lowered, Target};
use crate::error::Result;
use crate::student::op::softmax::Softmax as HostSoftmax;
use crate::student::op::{OpOutput, Operator, PassOptions, any, only};
use candle_core::Tensor;
use std::sync::Arc;

#[derive(Debug)]
struct Softmax {
    logarithm: bool,
    width: usize,
    inner: usize,
}

/// Softmax over the last axis.
pub(super) fn softmax(rows: &Tensor) -> Result<Tensor> {
    let last = rows.rank() - 1;
    let powers = rows.broadcast_sub(&rows.max_keepdim(last)?)?.exp()?;
    Ok(powers.broadcast_div(&powers.sum_keepdim(last)?)?)
}

/// Its gradient: `dx = y·(dy − Σ y·dy)`.
pub(super) fn softmax_gradient(y: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let inner = (y * dy)?.sum_keepdim(y.rank() - 1)?;
    Ok((y * dy.broadcast_sub(&inner)?)?)
}

impl Softmax {
    /// `[outer, inner, width]`: reductions are fastest over the last axis.
    fn rows(&self, t: &Tensor) -> Result<Tensor> {
        let middle = t.reshape(((), self.width, self.inner))?;
        Ok(if self.inner == 1 {
            middle.squeeze(2)?
        } else {
            middle.transpose(1, 2)?.contiguous()?
        })
    }

    fn back(&self, rows: &Tensor, like: &Tensor) -> Result<Tensor> {
        let middle =
            if self.inner == 1 { rows.clone() } else { rows.transpose(1, 2)?.contiguous()? };
        Ok(middle.reshape(like.dims())?)
    }
}

impl Lower for HostSoftmax {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        let inner = operator.turned.as_ref().map_or(1, |[there, _]| there.shape[1]);
        if operator.width * inner == 0 {
            return Ok(None);
        }
        let (logarithm, width) = (operator.logarithm, operator.width);
        Ok(Some(any(Softmax { logarithm, width, inner })))
    }
}

impl Operator for Softmax {
    type Kept = Tensor;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let rows = self.rows(inputs[0])?;
        let last = rows.rank() - 1;
        let y = if self.logarithm {
            let shifted = rows.broadcast_sub(&rows.max_keepdim(last)?)?;
            shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(last)?.log()?)?
        } else {
            softmax(&rows)?
        };
        Ok(OpOutput::one(self.back(&y, inputs[0])?, y))
    }

    fn backward(
        &self,
        y: Tensor,
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let rows = self.rows(&dy)?;
        let dx = if self.logarithm {
            (&rows - y.exp()?.broadcast_mul(&rows.sum_keepdim(rows.rank() - 1)?)?)?
        } else {
            softmax_gradient(&y, &rows)?
        };
        Ok(vec![Some(self.back(&dx, &dy)?)])
    }
}
