//! `Concat` along an axis.

use super::{Lower, Lowered, OnDevice, Target};
use crate::error::Result;
use crate::kernel::strided::Strided;
use crate::student::op::concat::Concat;
use crate::student::op::{OpOutput, Operator, PassOptions, only};
use candle_core::Tensor;
use std::sync::Arc;

impl Lower for Concat {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        if operator.views.iter().any(Strided::is_empty) {
            return Ok(None);
        }
        Ok(Some(OnDevice::of(operator)))
    }
}

impl Operator for OnDevice<Concat> {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        Ok(OpOutput::one(Tensor::cat(inputs, self.0.axis)?.contiguous()?, ()))
    }

    fn backward(
        &self,
        _kept: (),
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let mut start = 0;
        let mut result = Vec::with_capacity(wanted.len());
        for (view, &wanted) in self.0.views.iter().zip(wanted) {
            let size = view.shape[self.0.axis];
            result.push(if wanted {
                Some(dy.narrow(self.0.axis, start, size)?.contiguous()?)
            } else {
                None
            });
            start += size;
        }
        Ok(result)
    }
}
