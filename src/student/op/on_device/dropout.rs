//! `Dropout`: the mask is drawn on the host, by the same function of (pass, node, position) as
//! there.

use super::super::dropout::Dropout;
use super::super::{Forward, Operator, Run, Saved, only, saved};
use crate::error::Result;
use candle_core::{Device, Tensor};

#[derive(Debug)]
pub(in crate::student::op) struct OnDevice(pub(in crate::student::op) Dropout);

impl Operator for OnDevice {
    fn forward(&self, inputs: &[&Tensor], run: &Run) -> Result<Forward> {
        let x = inputs[0];
        let Some(key) = self.0.key(run) else { return Ok(Forward::one(x.clone(), Vec::new())) };
        let mask = self
            .0
            .apply(&Tensor::ones(x.shape(), x.dtype(), &Device::Cpu)?, key)?
            .to_device(x.device())?;
        Ok(Forward::one((x * &mask)?, vec![mask]))
    }

    fn backward(
        &self,
        kept: Saved,
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        Ok(vec![Some(if kept.tensors.is_empty() { dy } else { (dy * saved(&kept, 0)?)? })])
    }
}
