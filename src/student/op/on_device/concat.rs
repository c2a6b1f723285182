//! `Concat` along an axis.

use super::super::{OpOutput, Operator, PassOptions, only};
use crate::error::Result;
use candle_core::Tensor;

#[derive(Debug)]
pub(in crate::student::op) struct Concat {
    pub(in crate::student::op) axis: usize,
    /// Size of each input along the axis.
    pub(in crate::student::op) sizes: Vec<usize>,
}

impl Operator for Concat {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        Ok(OpOutput::one(Tensor::cat(inputs, self.axis)?.contiguous()?, ()))
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
        for (&size, &wanted) in self.sizes.iter().zip(wanted) {
            result.push(if wanted {
                Some(dy.narrow(self.axis, start, size)?.contiguous()?)
            } else {
                None
            });
            start += size;
        }
        Ok(result)
    }
}
