//! Resizing and padding by copies: one product with a small matrix an axis.

use super::{Lower, Lowered, Target};
use crate::error::Result;
use crate::kernel::resample::Taps;
use crate::student::op::separable::Separable as HostSeparable;
use crate::student::op::{OpOutput, Operator, PassOptions, any, only};
use candle_core::Tensor;
use std::sync::Arc;

/// Matrices above this many elements stay on the host.
const LARGEST_MATRIX: usize = 1 << 24;

/// One axis: what stands before and behind it, and the matrix `[output, input]`.
#[derive(Debug)]
struct AxisMatrix {
    sizes: [usize; 2],
    inner: usize,
    matrix: Tensor,
}

#[derive(Debug)]
struct Separable {
    stages: Vec<AxisMatrix>,
    input: Vec<usize>,
    output: Vec<usize>,
}

impl Separable {
    /// `stages`: size before, elements behind one index, what each output reads.
    fn new<'a>(
        stages: impl Iterator<Item = (usize, usize, &'a Taps)>,
        [input, output]: [&[usize]; 2],
        target: &Target,
    ) -> Result<Option<Self>> {
        let mut made = Vec::new();
        for (size, inner, taps) in stages {
            if size == 0
                || taps.is_empty()
                || size.checked_mul(taps.len()).is_none_or(|n| n > LARGEST_MATRIX)
            {
                return Ok(None);
            }
            let mut matrix = vec![0.0; size * taps.len()];
            for (row, taps) in matrix.chunks_exact_mut(size).zip(taps) {
                for &(from, weight) in taps {
                    row[from] += weight;
                }
            }
            let matrix = target.tensor(&matrix, &[1, taps.len(), size])?;
            made.push(AxisMatrix { sizes: [size, taps.len()], inner, matrix });
        }
        Ok((!input.contains(&0)).then(|| Self {
            stages: made,
            input: input.to_vec(),
            output: output.to_vec(),
        }))
    }
}

impl AxisMatrix {
    /// The matrix, or its transpose, times the middle axis.
    fn apply(&self, x: &Tensor, back: bool) -> Result<Tensor> {
        let [from, to] = if back { [self.sizes[1], self.sizes[0]] } else { self.sizes };
        let x = x.reshape(((), from, self.inner))?;
        let outer = x.dims()[0];
        let matrix = if back { self.matrix.transpose(1, 2)? } else { self.matrix.clone() };
        Ok(matrix.broadcast_as((outer, to, from))?.matmul(&x)?.flatten_all()?)
    }
}

impl Lower for HostSeparable {
    fn lower(operator: &Arc<Self>, target: &Target) -> Lowered {
        let stages = operator.stages.iter().map(|s| (s.size, s.inner, &s.taps));
        Ok(Separable::new(stages, [&operator.input, &operator.output], target)?.map(any))
    }
}

impl Operator for Separable {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let y =
            self.stages.iter().try_fold(inputs[0].clone(), |y, stage| stage.apply(&y, false))?;
        Ok(OpOutput::one(y.reshape(self.output.as_slice())?, ()))
    }

    fn backward(
        &self,
        _kept: (),
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dx = self
            .stages
            .iter()
            .rev()
            .try_fold(only(gradients)?, |dx, stage| stage.apply(&dx, true))?;
        Ok(vec![Some(dx.reshape(self.input.as_slice())?)])
    }
}
