//! Average pooling.

use super::gradients::{Gradients, TensorGradient};
use super::map::{Lazy, MapGradient};
use super::operator::Blocked;
use super::values::SlotValues;
use crate::error::Result;
use crate::kernel::blocked::{Map, pool};
use crate::kernel::pool::PoolWindow;
use crate::student::op::PassOptions;
use crate::student::plan::GraphStep;

#[derive(Debug)]
pub(super) struct AveragePool(pub(super) PoolWindow);

impl Blocked for AveragePool {
    /// The input's sizes.
    type Kept = Map;

    fn name(&self) -> &'static str {
        "average pool"
    }

    fn forward(
        &self,
        values: &mut SlotValues<'_>,
        step: &GraphStep,
        _run: &PassOptions,
    ) -> Result<Map> {
        let x = values.map(step.inputs[0])?;
        let (map, mut to) = values.output(step)?;
        pool::average(&x.map, &self.0, x.view(), &mut to);
        values.store(step, Lazy::stored(map, to));
        Ok(x.map)
    }

    fn backward(
        &self,
        map: Map,
        dy: Vec<Option<TensorGradient>>,
        gradients: &mut Gradients<'_>,
        step: &GraphStep,
    ) -> Result<()> {
        let (dy, mut dx) = (gradients.resolved(dy)?, gradients.arena.take(map.len()));
        pool::average_gradient(&map, &self.0, &dy.dy, &mut dx);
        gradients.give(step, 0, TensorGradient::Map(MapGradient::stored(map, dx)))
    }
}
