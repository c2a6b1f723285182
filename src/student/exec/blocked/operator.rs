//! The interface of blocked operators, and how operators with different kept values form one plan.

use super::gradients::{Gradients, TensorGradient};
use super::values::SlotValues;
use crate::error::Result;
use crate::student::op::PassOptions;
use crate::student::plan::GraphStep;
use std::fmt::Debug;
use std::sync::Arc;

/// An operator on blocked maps, planned for one step.
pub(super) trait Blocked: Debug + Send + Sync + 'static {
    /// What the forward pass keeps for the backward pass.
    type Kept: Debug + Send + Sync + 'static;

    /// Its name in the log.
    fn name(&self) -> &'static str;

    /// Whether this operator runs, and not the dense one instead. `in_blocks`: whether an input is
    /// blocked already; most operators gain nothing where it must be converted for them.
    fn takes(&self, in_blocks: bool) -> bool {
        in_blocks
    }

    /// Reads the step's inputs from `values` and stores its outputs there.
    fn forward(
        &self,
        values: &mut SlotValues<'_>,
        step: &GraphStep,
        run: &PassOptions,
    ) -> Result<Self::Kept>;

    /// Adds the gradients of the step's wanted inputs to `gradients`. `dy`: those of its outputs,
    /// at least one of which is present.
    fn backward(
        &self,
        kept: Self::Kept,
        dy: Vec<Option<TensorGradient>>,
        gradients: &mut Gradients<'_>,
        step: &GraphStep,
    ) -> Result<()>;

    /// Elements of maps that are read and written in both passes; `x`, `y`: elements of the step's
    /// first input and output.
    fn moved(&self, step: &GraphStep, x: usize, y: usize) -> usize {
        (x + y) * (1 + trained(step))
    }
}

/// Whether the gradient of an input is wanted, as a factor.
pub(super) fn wanted(step: &GraphStep, input: usize) -> usize {
    usize::from(step.wanted.get(input) == Some(&true))
}

/// Whether any gradient is wanted, as a factor.
pub(super) fn trained(step: &GraphStep) -> usize {
    usize::from(step.wanted.contains(&true))
}

/// A [`Blocked`] operator whose kept value is erased.
pub(super) trait AnyBlocked: Debug + Send + Sync {
    fn name(&self) -> &'static str;
    fn takes(&self, in_blocks: bool) -> bool;
    /// Runs forward; returns the backward pass, or `None` where no gradient is wanted.
    fn forward(
        &self,
        values: &mut SlotValues<'_>,
        step: &GraphStep,
        run: &PassOptions,
    ) -> Result<Option<Box<dyn BackwardStep>>>;
    fn moved(&self, step: &GraphStep, x: usize, y: usize) -> usize;
}

/// The backward pass of a step: it owns the operator and the value that this operator kept, so that
/// the two always match.
pub(super) trait BackwardStep: Debug + Send + Sync {
    fn name(&self) -> &'static str;
    fn run(
        self: Box<Self>,
        dy: Vec<Option<TensorGradient>>,
        gradients: &mut Gradients<'_>,
        step: &GraphStep,
    ) -> Result<()>;
}

#[derive(Debug)]
struct Pending<O: Blocked> {
    operator: Arc<O>,
    kept: O::Kept,
}

impl<O: Blocked> BackwardStep for Pending<O> {
    fn name(&self) -> &'static str {
        self.operator.name()
    }

    fn run(
        self: Box<Self>,
        dy: Vec<Option<TensorGradient>>,
        gradients: &mut Gradients<'_>,
        step: &GraphStep,
    ) -> Result<()> {
        let Self { operator, kept } = *self;
        operator.backward(kept, dy, gradients, step)
    }
}

impl<O: Blocked> AnyBlocked for Arc<O> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn takes(&self, in_blocks: bool) -> bool {
        (**self).takes(in_blocks)
    }

    fn forward(
        &self,
        values: &mut SlotValues<'_>,
        step: &GraphStep,
        run: &PassOptions,
    ) -> Result<Option<Box<dyn BackwardStep>>> {
        let kept = (**self).forward(values, step, run)?;
        if !step.wanted.contains(&true) {
            return Ok(None);
        }
        Ok(Some(Box::new(Pending { operator: self.clone(), kept })))
    }

    fn moved(&self, step: &GraphStep, x: usize, y: usize) -> usize {
        (**self).moved(step, x, y)
    }
}
