//! The mean over all positions of a channel: dense means of a map.

use super::gradients::{Gradients, TensorGradient};
use super::map::MapGradient;
use super::operator::{Blocked, trained};
use super::values::SlotValues;
use crate::error::Result;
use crate::kernel::blocked::{Map, elementwise, sums};
use crate::student::op::PassOptions;
use crate::student::plan::GraphStep;
use crate::tensor::{data, tensor};

#[derive(Debug)]
pub(super) struct PlaneMean;

impl Blocked for PlaneMean {
    /// The input's sizes.
    type Kept = Map;

    fn name(&self) -> &'static str {
        "plane mean"
    }

    fn forward(
        &self,
        values: &mut SlotValues<'_>,
        step: &GraphStep,
        _run: &PassOptions,
    ) -> Result<Map> {
        let x = values.map(step.inputs[0])?;
        let means = sums::means(&x.map, x.view());
        if let Some(id) = step.outputs[0] {
            let means = tensor(means, values.shape(id)?)?;
            values.store_dense(id, means);
        }
        Ok(x.map)
    }

    fn backward(
        &self,
        map: Map,
        dy: Vec<Option<TensorGradient>>,
        gradients: &mut Gradients<'_>,
        step: &GraphStep,
    ) -> Result<()> {
        let mut dx = gradients.arena.take(map.len());
        for gradient in dy.into_iter().flatten() {
            let dy = gradients.dense(gradient)?;
            elementwise::spread_mean(&map, data(&dy)?.of::<f32>()?, &mut dx);
        }
        gradients.give(step, 0, TensorGradient::Map(MapGradient::stored(map, dx)))
    }

    fn moved(&self, step: &GraphStep, x: usize, _y: usize) -> usize {
        x + x * trained(step)
    }
}
