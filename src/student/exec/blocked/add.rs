//! The sum of two maps of one shape.

use super::gradients::{Gradients, TensorGradient};
use super::map::Lazy;
use super::operator::{Blocked, trained};
use super::values::SlotValues;
use crate::error::Result;
use crate::kernel::blocked::elementwise;
use crate::student::op::PassOptions;
use crate::student::plan::GraphStep;

#[derive(Debug)]
pub(super) struct Add;

impl Blocked for Add {
    type Kept = ();

    fn name(&self) -> &'static str {
        "add"
    }

    fn forward(
        &self,
        values: &mut SlotValues<'_>,
        step: &GraphStep,
        _run: &PassOptions,
    ) -> Result<()> {
        let (a, b) = (values.map(step.inputs[0])?, values.map(step.inputs[1])?);
        let (map, mut to) = values.output(step)?;
        elementwise::sum(&map, a.view(), b.view(), &mut to);
        values.store(step, Lazy::stored(map, to));
        Ok(())
    }

    fn backward(
        &self,
        (): (),
        dy: Vec<Option<TensorGradient>>,
        gradients: &mut Gradients<'_>,
        step: &GraphStep,
    ) -> Result<()> {
        let dy = gradients.resolved(dy)?;
        if step.wanted[0] {
            gradients.give(step, 0, TensorGradient::Map(dy.clone()))?;
        }
        gradients.give(step, 1, TensorGradient::Map(dy))
    }

    fn moved(&self, step: &GraphStep, _x: usize, y: usize) -> usize {
        3 * y + 2 * y * trained(step)
    }
}
