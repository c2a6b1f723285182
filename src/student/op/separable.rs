//! Linear maps that work axis by axis: resizing, padding by copies.

use super::{OpOutput, Operator, PassOptions, only};
use crate::error::Result;
use crate::kernel::resample::{Taps, backward, forward};
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;

/// Longest axis that is made: what each position reads is written out when a graph is planned.
pub(super) const LONGEST_AXIS: usize = 1 << 20;

/// One resampled axis: its size before, the elements behind one index, and what each output reads.
#[derive(Debug)]
pub(in crate::student) struct ResampledAxis {
    pub(in crate::student) size: usize,
    pub(in crate::student) inner: usize,
    pub(in crate::student) taps: Taps,
}

#[derive(Debug)]
pub(in crate::student) struct Separable {
    pub(in crate::student) stages: Vec<ResampledAxis>,
    pub(in crate::student) input: Vec<usize>,
    pub(in crate::student) output: Vec<usize>,
}

impl Separable {
    /// The map that resamples some axes, each at most once.
    pub(super) fn new(input: &[usize], mut axes: Vec<(usize, Taps)>) -> Self {
        axes.sort_by_key(|(axis, _)| *axis);
        let mut output = input.to_vec();
        let stages = axes
            .into_iter()
            .map(|(axis, taps)| {
                output[axis] = taps.len();
                ResampledAxis { size: input[axis], inner: input[axis + 1..].iter().product(), taps }
            })
            .collect();
        Self { stages, input: input.to_vec(), output }
    }

    pub(super) fn output(&self) -> &[usize] {
        &self.output
    }
}

impl Operator for Separable {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = data(inputs[0])?;
        typed!(inputs[0].dtype(), |T| {
            let mut y = x.of::<T>()?.to_vec();
            for s in &self.stages {
                y = forward(&y, s.size, s.inner, &s.taps);
            }
            Ok(OpOutput::one(tensor(y, &self.output)?, ()))
        })
    }

    fn backward(
        &self,
        _kept: (),
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let held = data(&dy)?;
        typed!(dy.dtype(), |T| {
            let mut dx = held.of::<T>()?.to_vec();
            for s in self.stages.iter().rev() {
                dx = backward(&dx, s.size, s.inner, &s.taps);
            }
            Ok(vec![Some(tensor(dx, &self.input)?)])
        })
    }
}
