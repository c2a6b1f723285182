//! `Dropout`: the mask is drawn on the host, by the same function of (pass, node, position) as
//! there.

use super::{Lower, Lowered, OnDevice, Target};
use crate::error::Result;
use crate::student::op::dropout::Dropout;
use crate::student::op::{OpOutput, Operator, PassOptions, only};
use candle_core::{Device, Tensor};
use std::sync::Arc;

impl Lower for Dropout {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        Ok(Some(OnDevice::of(operator)))
    }
}

impl Operator for OnDevice<Dropout> {
    type Kept = Option<Tensor>;

    fn forward(&self, inputs: &[&Tensor], options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = inputs[0];
        let Some(key) = self.0.key(options) else { return Ok(OpOutput::one(x.clone(), None)) };
        let mask = self
            .0
            .apply(&Tensor::ones(x.shape(), x.dtype(), &Device::Cpu)?, key)?
            .to_device(x.device())?;
        Ok(OpOutput::one((x * &mask)?, Some(mask)))
    }

    fn backward(
        &self,
        mask: Option<Tensor>,
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        Ok(vec![Some(match mask {
            Some(mask) => (dy * mask)?,
            None => dy,
        })])
    }
}
