//! `Dropout`: the mask is drawn on the host, by the same function of (pass, node, position) as
//! there.

use super::super::dropout::Dropout;
use super::super::{OpOutput, Operator, PassOptions, only};
use crate::error::Result;
use candle_core::{Device, Tensor};

#[derive(Debug)]
pub(in crate::student::op) struct OnDevice(pub(in crate::student::op) Dropout);

impl Operator for OnDevice {
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
