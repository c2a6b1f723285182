//! `Gather` along an axis: rows of `[outer, size, inner]` by indices that are known, or data.

use super::super::gather::places_of;
use super::super::{OpOutput, Operator, PassOptions, only};
use super::table::Table;
use crate::error::Result;
use candle_core::{Device, Tensor};

#[derive(Debug)]
pub(in crate::student::op) struct Gather {
    pub(in crate::student::op) input: Vec<usize>,
    pub(in crate::student::op) output: Vec<usize>,
    /// The indices where they are known.
    pub(in crate::student::op) indices: Option<Vec<u32>>,
    pub(in crate::student::op) size: usize,
    pub(in crate::student::op) inner: usize,
}

impl Gather {
    fn flat(&self, t: &Tensor, middle: usize) -> Result<Tensor> {
        Ok(t.reshape(((), middle, self.inner))?)
    }
}

impl Operator for Gather {
    type Kept = Table;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = inputs[0];
        // indices are checked on the host: on a device a wrong one ends the process
        let places = places_of(
            self.indices.as_deref(),
            inputs.get(1).map(|i| i.to_device(&Device::Cpu)).transpose()?.as_ref(),
            self.size,
        )?;
        let table = Table::new(places.into_iter().map(|i| Some(i as usize)), x.device())?;
        let y = table.gather(&self.flat(x, self.size)?)?.reshape(self.output.as_slice())?;
        Ok(OpOutput::one(y, table))
    }

    fn backward(
        &self,
        table: Table,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = self.flat(&only(gradients)?, table.places())?;
        let mut result = vec![None; wanted.len()];
        result[0] = Some(table.scatter(&dy, self.size)?.reshape(self.input.as_slice())?);
        Ok(result)
    }
}
