//! The two sweeps of a pass.

use super::dense::Dense;
use super::gradients::Gradients;
use super::operator::{AnyBlocked, BackwardStep};
use super::plan::BlockedPlan;
use super::values::SlotValues;
use crate::error::{Context, Result};
use crate::student::exec::reference::Values;
use crate::student::op::PassOptions;
use crate::student::plan::{GraphPlan, GraphStep};
use crate::student::{Student, TensorId};
use candle_core::Tensor;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

/// What a forward pass leaves for its backward pass, by step; `None` where no gradient is
/// wanted.
#[derive(Debug)]
pub(in crate::student) struct Tape(Vec<Option<Box<dyn BackwardStep>>>);

/// Runs the plan forward: the tensors of `keep`, and the tape.
pub(in crate::student) fn forward(
    student: &Student,
    plan: &GraphPlan,
    blocked: &BlockedPlan,
    values: Values,
    run: &PassOptions,
    keep: &HashSet<TensorId>,
) -> Result<(HashMap<TensorId, Tensor>, Tape)> {
    let mut values = SlotValues::new(plan, &student.arena, values);
    let mut kept: HashMap<TensorId, Tensor> =
        keep.iter().filter_map(|id| Some((*id, values.known(*id)?))).collect();
    let dense = Arc::new(Dense);
    let mut tape = Vec::with_capacity(plan.steps.len());
    for (step, operator) in plan.steps.iter().zip(&blocked.operators) {
        let takes = operator.takes(values.in_blocks(step));
        let operator: &dyn AnyBlocked = if takes { &**operator } else { &dense };
        let backward = timed(student, "forward", step, operator.name(), || {
            operator.forward(&mut values, step, run)
        })
        .context(|| student.describe(step.node))?;
        student.update(step, values.updates.drain(..), run)?;
        tape.push(backward);
        for id in step.outputs.iter().flatten().filter(|id| keep.contains(id)) {
            kept.insert(*id, values.dense(*id)?);
        }
        for id in &step.last_use {
            values.free(*id);
        }
    }
    Ok((kept, Tape(tape)))
}

/// Runs the plan backward from the gradients of some tensors; returns those of all tensors that no
/// step computes.
pub(in crate::student) fn backward(
    student: &Student,
    plan: &GraphPlan,
    tape: Tape,
    seeds: Values,
) -> Result<Values> {
    let Tape(mut tape) = tape;
    let mut gradients = Gradients::new(&student.arena, seeds);
    for step in plan.steps.iter().rev() {
        let backward = tape.pop().flatten();
        let dy = gradients.of_outputs(step);
        let Some(backward) = backward.filter(|_| dy.iter().any(Option::is_some)) else { continue };
        timed(student, "backward", step, backward.name(), || {
            backward.run(dy, &mut gradients, step)
        })
        .context(|| student.describe(step.node))?;
    }
    gradients.finished()
}

/// Runs one step; at log level trace, logs how long it took.
fn timed<R>(
    student: &Student,
    direction: &'static str,
    step: &GraphStep,
    operator: &'static str,
    f: impl FnOnce() -> R,
) -> R {
    if !tracing::enabled!(tracing::Level::TRACE) {
        return f();
    }
    let start = Instant::now();
    let result = f();
    let microseconds = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    tracing::trace!(direction, operator, node = student.describe(step.node), microseconds);
    result
}
