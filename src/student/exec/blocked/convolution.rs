//! Convolution of a map.

use super::gradients::{Gradients, TensorGradient};
use super::map::{Lazy, MapGradient};
use super::operator::{Blocked, trained, wanted};
use super::values::SlotValues;
use crate::error::Result;
use crate::kernel::blocked::{self, sums};
use crate::student::Mode;
use crate::student::op::PassOptions;
use crate::student::plan::GraphStep;
use crate::tensor::{data, narrow, tensor};
use candle_core::{DType, Tensor};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct MapConvolution {
    pub(super) plan: blocked::ConvPlan,
    /// Whether a batch norm reads the output: its moments are then taken while it is written.
    pub(super) moments: bool,
}

impl Blocked for MapConvolution {
    /// Input and weight.
    type Kept = (Lazy, Tensor);

    fn name(&self) -> &'static str {
        self.plan.name()
    }

    fn takes(&self, _in_blocks: bool) -> bool {
        true
    }

    fn forward(
        &self,
        values: &mut SlotValues<'_>,
        step: &GraphStep,
        run: &PassOptions,
    ) -> Result<(Lazy, Tensor)> {
        let (x, weight) = (values.map(step.inputs[0])?, values.dense(step.inputs[1])?);
        let (map, mut to) = values.output(step)?;
        let moments = with_bias(values, step, |bias| {
            let held = data(&weight)?;
            let weight = held.of::<f32>()?;
            if self.moments && run.mode != Mode::Eval {
                let moments = blocked::forward_with_moments;
                return Ok(Some(Arc::new(moments(&self.plan, x.view(), weight, bias, &mut to))));
            }
            blocked::forward(&self.plan, x.view(), weight, bias, &mut to);
            Ok(None)
        })?;
        values.store(step, Lazy { moments, ..Lazy::stored(map, to) });
        Ok((x, weight))
    }

    fn backward(
        &self,
        (x, weight): (Lazy, Tensor),
        dy: Vec<Option<TensorGradient>>,
        gradients: &mut Gradients<'_>,
        step: &GraphStep,
    ) -> Result<()> {
        let dz = gradients.map(dy)?;
        let mut dw = vec![0.0; if step.wanted[1] { weight.elem_count() } else { 0 }];
        let (held, into) = (data(&weight)?, step.wanted[1].then_some(dw.as_mut_slice()));
        let values = held.of::<f32>()?;
        if step.wanted[0] {
            let (mut dx, add) = gradients.room(step.inputs[0], x.map.len());
            dz.with(|dz| {
                let dx = Some((&mut *dx, add));
                blocked::backward(&self.plan, x.view(), values, dz, dx, into);
            });
            gradients.give(step, 0, TensorGradient::Map(MapGradient::stored(x.map, dx)))?;
        } else {
            dz.with(|dz| blocked::backward(&self.plan, x.view(), values, dz, None, into));
        }
        give_parameters(gradients, step, weight.dims(), dw, &dz)
    }

    fn moved(&self, step: &GraphStep, x: usize, y: usize) -> usize {
        // the backward pass reads the gradient, the output if a batch norm follows, and the input
        // for the weight's gradient; it writes the input's gradient
        x + y
            + y * (usize::from(self.moments) + trained(step))
            + x * (wanted(step, 0) + wanted(step, 1))
    }
}

/// Calls `f` with the values of a convolution's bias.
pub(super) fn with_bias<R>(
    values: &mut SlotValues<'_>,
    step: &GraphStep,
    f: impl FnOnce(Option<&[f32]>) -> Result<R>,
) -> Result<R> {
    match step.inputs.get(2) {
        None => f(None),
        Some(&id) => {
            let bias = values.dense(id)?;
            f(Some(data(&bias)?.of::<f32>()?))
        }
    }
}

/// Gives the gradients of a convolution's weight, of this shape, and of its bias.
pub(super) fn give_parameters(
    gradients: &mut Gradients<'_>,
    step: &GraphStep,
    shape: &[usize],
    dw: Vec<f32>,
    dz: &MapGradient,
) -> Result<()> {
    if step.wanted[1] {
        gradients.give(step, 1, TensorGradient::Dense(tensor(dw, shape)?))?;
    }
    if step.wanted.get(2) == Some(&true) {
        let totals = dz.with(|g| sums::totals(&dz.map, g));
        let db = narrow(&totals, &[totals.len()], DType::F32)?;
        gradients.give(step, 2, TensorGradient::Dense(db))?;
    }
    Ok(())
}
