//! `Gather` along an axis: rows of `[outer, size, inner]` by indices that are known, or data.

use super::table::IndexTable;
use super::{Lower, Lowered, OnDevice, Target};
use crate::error::Result;
use crate::student::op::gather::{GatherAxis, places_of};
use crate::student::op::{OpOutput, Operator, PassOptions, only};
use candle_core::{Device, Tensor};
use std::sync::Arc;

impl OnDevice<GatherAxis> {
    fn flat(&self, t: &Tensor, middle: usize) -> Result<Tensor> {
        Ok(t.reshape(((), middle, self.0.inner))?)
    }
}

impl Lower for GatherAxis {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        if operator.size * operator.inner == 0 || operator.output.contains(&0) {
            return Ok(None);
        }
        Ok(Some(OnDevice::of(operator)))
    }
}

impl Operator for OnDevice<GatherAxis> {
    type Kept = IndexTable;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = inputs[0];
        // indices are checked on the host: on a device a wrong one ends the process
        let places = places_of(
            self.0.indices.as_deref(),
            inputs.get(1).map(|i| i.to_device(&Device::Cpu)).transpose()?.as_ref(),
            self.0.size,
        )?;
        let table = IndexTable::new(places.into_iter().map(|i| Some(i as usize)), x.device())?;
        let y = table.gather(&self.flat(x, self.0.size)?)?.reshape(self.0.output.as_slice())?;
        Ok(OpOutput::one(y, table))
    }

    fn backward(
        &self,
        table: IndexTable,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = self.flat(&only(gradients)?, table.places())?;
        let mut result = vec![None; wanted.len()];
        result[0] = Some(table.scatter(&dy, self.0.size)?.reshape(self.0.input.as_slice())?);
        Ok(result)
    }
}
