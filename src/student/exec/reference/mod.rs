//! The sweep of the reference and of the device executor: every operator on dense tensors, in f32
//! or f64. On host slices it is the reference implementation that the executor of channel maps
//! (`exec::blocked`) is held against; with the operators' device forms (`exec::device`) in the plan
//! it is the device executor. Values live as long as a later step or the backward pass needs them.

use crate::error::{Context, Error, Result};
use crate::kernel::elementwise::zip;
use crate::student::import::TensorSource;
use crate::student::op::{BackwardPass, PassOptions};
use crate::student::plan::{GraphPlan, GraphStep};
use crate::student::{Mode, Student, TensorId};
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;
use std::collections::{HashMap, HashSet};

/// Tensors by number, as far as they are known.
pub(in crate::student) type Values = Vec<Option<Tensor>>;

/// The backward pass of each step; `None` where no gradient is asked for.
pub(in crate::student) type BackwardSteps = Vec<Option<Box<dyn BackwardPass>>>;

/// Runs a plan forward: the tensors of `keep`, and what each step leaves for the backward pass.
pub(in crate::student) fn forward(
    student: &Student,
    plan: &GraphPlan,
    mut values: Values,
    options: &PassOptions,
    keep: &HashSet<TensorId>,
) -> Result<(HashMap<TensorId, Tensor>, BackwardSteps)> {
    let mut kept: HashMap<TensorId, Tensor> =
        keep.iter().filter_map(|id| Some((*id, values.get(id.0)?.clone()?))).collect();
    let mut all = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let describe = || student.describe(step.node);
        let inputs: Option<Vec<&Tensor>> =
            step.inputs.iter().map(|id| values[id.0].as_ref()).collect();
        let inputs = inputs
            .ok_or_else(|| Error::internal(format!("{}: an input was not computed", describe())))?;
        let done = step.operator.forward(&inputs, options).context(describe)?;
        student.update(step, done.updates, options)?;
        for (id, value) in step.outputs.iter().zip(done.outputs) {
            let Some(id) = id else { continue };
            if keep.contains(id) {
                kept.insert(*id, value.clone());
            }
            values[id.0] = Some(value);
        }
        all.push(step.wanted.contains(&true).then_some(done.kept));
        for id in &step.last_use {
            values[id.0] = None;
        }
    }
    Ok((kept, all))
}

impl Student {
    /// Moves running statistics in training, but not those that a stage shares. `updates`: a step's
    /// inputs and their new values.
    pub(in crate::student) fn update(
        &self,
        step: &GraphStep,
        updates: impl IntoIterator<Item = (usize, Tensor)>,
        options: &PassOptions,
    ) -> Result<()> {
        for (number, value) in updates {
            if options.mode == Mode::Train
                && !self.graph.is_stage
                && let Some(TensorSource::Buffer(i)) =
                    step.inputs.get(number).map(|id| self.graph.sources[id.0])
            {
                self.buffers[i].var.set(&value)?;
            }
        }
        Ok(())
    }
}

/// Sweeps a plan in reverse from the gradients of some tensors; gives those of all tensors that
/// nothing computes.
pub(in crate::student) fn backward(
    student: &Student,
    plan: &GraphPlan,
    kept: BackwardSteps,
    mut gradients: Values,
) -> Result<Values> {
    for (step, kept) in plan.steps.iter().zip(kept).rev() {
        let own: Vec<Option<Tensor>> =
            step.outputs.iter().map(|id| id.and_then(|id| gradients[id.0].take())).collect();
        let Some(kept) = kept.filter(|_| own.iter().any(Option::is_some)) else { continue };
        let results = kept.backward(own, &step.wanted).context(|| student.describe(step.node))?;
        for ((id, wanted), gradient) in step.inputs.iter().zip(&step.wanted).zip(results) {
            if let (true, Some(gradient)) = (wanted, gradient) {
                add(&mut gradients[id.0], gradient)?;
            }
        }
    }
    Ok(gradients)
}

/// Adds a gradient: the first is moved.
pub(in crate::student) fn add(total: &mut Option<Tensor>, gradient: Tensor) -> Result<()> {
    *total = Some(match total.take() {
        None => gradient,
        Some(old) => sum(&old, &gradient)?,
    });
    Ok(())
}

/// The sum of two gradients of one tensor.
pub(in crate::student) fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !a.device().is_cpu() {
        return Ok((a + b)?);
    }
    let (held_a, held_b) = (data(a)?, data(b)?);
    typed!(a.dtype(), |T| tensor(zip(held_a.of::<T>()?, held_b.of::<T>()?, |a, b| a + b), a.dims()))
}
