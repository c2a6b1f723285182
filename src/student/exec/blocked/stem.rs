//! A convolution whose input is a dense image that needs no gradient.

use super::convolution::{give_parameters, with_bias};
use super::gradients::{Gradients, TensorGradient};
use super::map::Lazy;
use super::operator::{Blocked, wanted};
use super::values::SlotValues;
use crate::error::Result;
use crate::kernel::blocked::stem;
use crate::kernel::conv::Conv;
use crate::student::op::PassOptions;
use crate::student::plan::GraphStep;
use crate::tensor::data;
use candle_core::Tensor;

#[derive(Debug)]
pub(super) struct Stem(pub(super) Conv);

impl Blocked for Stem {
    /// The input.
    type Kept = Tensor;

    fn name(&self) -> &'static str {
        "stem"
    }

    fn takes(&self, in_blocks: bool) -> bool {
        !in_blocks
    }

    fn forward(
        &self,
        values: &mut SlotValues<'_>,
        step: &GraphStep,
        _run: &PassOptions,
    ) -> Result<Tensor> {
        let (x, weight) = (values.dense(step.inputs[0])?, values.dense(step.inputs[1])?);
        let (map, mut to) = values.output(step)?;
        with_bias(values, step, |bias| {
            let (x, weight) = (data(&x)?, data(&weight)?);
            stem::forward(&self.0, x.of::<f32>()?, weight.of::<f32>()?, bias, &mut to);
            Ok(())
        })?;
        values.store(step, Lazy::stored(map, to));
        Ok(x)
    }

    fn backward(
        &self,
        x: Tensor,
        dy: Vec<Option<TensorGradient>>,
        gradients: &mut Gradients<'_>,
        step: &GraphStep,
    ) -> Result<()> {
        let Self(c) = self;
        let dz = gradients.map(dy)?;
        let shape = [c.filters, c.channels, c.kernel[0], c.kernel[1]];
        let mut dw = vec![0.0; if step.wanted[1] { shape.iter().product() } else { 0 }];
        if step.wanted[1] {
            let (held, dw) = (data(&x)?, &mut dw);
            let x = held.of::<f32>()?;
            dz.with(|dz| stem::weight_gradient(c, x, dz, dw));
        }
        give_parameters(gradients, step, &shape, dw, &dz)
    }

    fn moved(&self, step: &GraphStep, x: usize, y: usize) -> usize {
        x + y + wanted(step, 1) * (x + 2 * y)
    }
}
