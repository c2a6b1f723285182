//! Maximum pooling.

use super::gradients::{Gradients, TensorGradient};
use super::map::{Lazy, MapGradient};
use super::operator::Blocked;
use super::values::SlotValues;
use crate::error::Result;
use crate::kernel::blocked::{LANES, Map, pool};
use crate::kernel::pool::PoolWindow;
use crate::student::op::PassOptions;
use crate::student::plan::GraphStep;

#[derive(Debug)]
pub(super) struct MaxPool(pub(super) PoolWindow);

impl Blocked for MaxPool {
    /// The input's sizes, and where in each window the maximum is.
    type Kept = (Map, Vec<pool::Places>);

    fn name(&self) -> &'static str {
        "max pool"
    }

    fn forward(
        &self,
        values: &mut SlotValues<'_>,
        step: &GraphStep,
        _run: &PassOptions,
    ) -> Result<(Map, Vec<pool::Places>)> {
        let x = values.map(step.inputs[0])?;
        let (map, mut to) = values.output(step)?;
        let mut places = vec![[0; LANES]; to.len()];
        pool::maximum(&x.map, &self.0, x.view(), &mut to, &mut places);
        values.store(step, Lazy::stored(map, to));
        Ok((x.map, places))
    }

    fn backward(
        &self,
        (map, places): (Map, Vec<pool::Places>),
        dy: Vec<Option<TensorGradient>>,
        gradients: &mut Gradients<'_>,
        step: &GraphStep,
    ) -> Result<()> {
        let (dy, mut dx) = (gradients.resolved(dy)?, gradients.arena.take(map.len()));
        pool::maximum_gradient(&map, &self.0, &dy.dy, &places, &mut dx);
        gradients.give(step, 0, TensorGradient::Map(MapGradient::stored(map, dx)))
    }
}
