//! Sweeping a plan: forward in order, backward in reverse. Values live as long as a later step or the backward pass needs them.

use super::import::Source;
use super::op::{Run, Saved};
use super::plan::Plan;
use super::value::{data, tensor, typed};
use super::{Mode, Student, TensorId};
use crate::error::{Context, Error, Result};
use crate::kernel::elementwise::zip;
use candle_core::Tensor;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// One forward pass and what its backward pass needs.
#[derive(Debug)]
pub struct Pass<'a> {
    student: &'a Student,
    plan: Arc<Plan>,
    kept: HashMap<TensorId, Tensor>,
    saved: Vec<Saved>,
}

/// Runs the plan forward.
pub(super) fn forward<'a>(
    student: &'a Student,
    plan: Arc<Plan>,
    inputs: &[Tensor],
    run: &Run,
    keep: &HashSet<TensorId>,
) -> Result<Pass<'a>> {
    let mut values: Vec<Option<Tensor>> = student.graph.sources.iter().map(|source| student.held(*source, inputs)).collect();
    for (id, constant) in &plan.constants {
        values[id.0] = Some(constant.clone());
    }
    let mut kept: HashMap<TensorId, Tensor> = keep.iter().filter_map(|id| Some((*id, values.get(id.0)?.clone()?))).collect();
    let mut all_saved = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let describe = || student.describe(step.node);
        let inputs: Option<Vec<&Tensor>> = step.inputs.iter().map(|id| values[id.0].as_ref()).collect();
        let inputs = inputs.ok_or_else(|| Error::input(format!("{}: an input was not computed", describe())))?;
        let done = step.operator.forward(&inputs, run).context(describe)?;
        for (number, value) in done.updates {
            if run.mode == Mode::Train
                && let Some(Source::Buffer(i)) = step.inputs.get(number).map(|id| student.graph.sources[id.0])
            {
                student.buffers[i].var.set(&value)?;
            }
        }
        for (id, value) in step.outputs.iter().zip(done.outputs) {
            let Some(id) = id else { continue };
            if keep.contains(id) {
                kept.insert(*id, value.clone());
            }
            values[id.0] = Some(value);
        }
        all_saved.push(if step.wanted.contains(&true) { done.saved } else { Saved::default() });
        for id in &step.last_use {
            values[id.0] = None;
        }
    }
    Ok(Pass { student, plan, kept, saved: all_saved })
}

impl Pass<'_> {
    /// A kept tensor's value (or the logits).
    ///
    /// # Errors
    /// When the tensor was not kept.
    pub fn value(&self, id: TensorId) -> Result<&Tensor> {
        self.kept.get(&id).ok_or_else(|| {
            let name = self.student.graph.names.get(id.0).map_or("?", String::as_str);
            Error::input(format!("tensor {name} was not kept in this pass"))
        })
    }

    /// Sweeps the graph in reverse from the gradients of the loss with respect to some tensors; gradients of parameters come in the order of
    /// [`Student::parameters`] (`None`: the loss does not depend on it). Values are freed as the sweep passes.
    ///
    /// # Errors
    /// When a gradient has another shape than its tensor.
    pub fn backward(self, seeds: Vec<(TensorId, Tensor)>) -> Result<Vec<Option<Tensor>>> {
        let Self { student, plan, kept, mut saved } = self;
        drop(kept);
        let graph = &student.graph;
        let mut gradients: Vec<Option<Tensor>> = vec![None; graph.names.len()];
        for (id, seed) in seeds {
            let expected = plan.shapes.get(&id).ok_or_else(|| Error::input("gradient of a tensor that this pass does not compute"))?;
            if seed.dims() != expected {
                let name = &graph.names[id.0];
                return Err(Error::input(format!("gradient of {name}: expected shape {expected:?}, found {:?}", seed.dims())));
            }
            add(&mut gradients[id.0], seed.to_dtype(student.dtype)?.contiguous()?)?;
        }
        for step in plan.steps.iter().rev() {
            let saved = saved.pop().unwrap_or_default();
            let own: Vec<Option<Tensor>> = step.outputs.iter().map(|id| id.and_then(|id| gradients[id.0].take())).collect();
            if !step.wanted.contains(&true) || own.iter().all(Option::is_none) {
                continue;
            }
            let results = step.operator.backward(saved, own, &step.wanted).context(|| student.describe(step.node))?;
            for ((id, wanted), gradient) in step.inputs.iter().zip(&step.wanted).zip(results) {
                if let (true, Some(gradient)) = (wanted, gradient) {
                    add(&mut gradients[id.0], gradient)?;
                }
            }
        }
        Ok(student.parameters.iter().map(|p| graph.index.get(&p.name).and_then(|id| gradients[id.0].take())).collect())
    }
}

/// Adds a gradient: the first is moved.
fn add(total: &mut Option<Tensor>, gradient: Tensor) -> Result<()> {
    *total = Some(match total.take() {
        None => gradient,
        Some(old) => {
            let (a, b) = (data(&old)?, data(&gradient)?);
            typed!(old.dtype(), T => tensor(zip(a.of::<T>()?, b.of::<T>()?, |a, b| a + b), old.dims()))?
        }
    });
    Ok(())
}
