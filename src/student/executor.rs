//! A pass over a plan: forward in order, backward in reverse. Values live as long as a later step or the backward pass needs them.
//!
//! Here is the general executor, which runs every operator on dense tensors, in f32 or f64: the oracle of the CPU executor (`cpu`), which
//! knows channel maps.

use super::cpu::{self, Ways};
use super::import::Source;
use super::op::{Run, Saved};
use super::plan::{Plan, Step};
use super::value::{data, tensor, typed};
use super::{Mode, Student, TensorId};
use crate::error::{Context, Error, Result};
use crate::kernel::elementwise::zip;
use candle_core::Tensor;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A plan, and how the CPU executor runs its steps if it is to.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) plan: Plan,
    pub(super) ways: Option<Arc<Ways>>,
}

/// Tensors by number, as far as they are known.
pub(super) type Values = Vec<Option<Tensor>>;

/// One forward pass and what its backward pass needs.
#[derive(Debug)]
pub struct Pass<'a> {
    student: &'a Student,
    planned: Arc<Planned>,
    kept: HashMap<TensorId, Tensor>,
    record: Record,
}

/// What a forward pass leaves, by executor.
#[derive(Debug)]
enum Record {
    General(Vec<Saved>),
    Cpu(cpu::Record),
}

/// Runs a plan forward.
pub(super) fn forward<'a>(
    student: &'a Student,
    planned: Arc<Planned>,
    inputs: &[Tensor],
    run: &Run,
    keep: &HashSet<TensorId>,
) -> Result<Pass<'a>> {
    let plan = &planned.plan;
    let mut values: Values = student.graph.sources.iter().map(|source| student.held(*source, inputs)).collect();
    for (id, constant) in &plan.constants {
        values[id.0] = Some(constant.clone());
    }
    let (kept, record) = match &planned.ways {
        None => {
            let (kept, saved) = general(student, plan, values, run, keep)?;
            (kept, Record::General(saved))
        }
        Some(ways) => {
            let (kept, record) = cpu::forward(student, plan, ways, values, run, keep)?;
            (kept, Record::Cpu(record))
        }
    };
    Ok(Pass { student, planned, kept, record })
}

fn general(
    student: &Student,
    plan: &Plan,
    mut values: Values,
    run: &Run,
    keep: &HashSet<TensorId>,
) -> Result<(HashMap<TensorId, Tensor>, Vec<Saved>)> {
    let mut kept: HashMap<TensorId, Tensor> = keep.iter().filter_map(|id| Some((*id, values.get(id.0)?.clone()?))).collect();
    let mut all_saved = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let describe = || student.describe(step.node);
        let inputs: Option<Vec<&Tensor>> = step.inputs.iter().map(|id| values[id.0].as_ref()).collect();
        let inputs = inputs.ok_or_else(|| Error::input(format!("{}: an input was not computed", describe())))?;
        let done = step.operator.forward(&inputs, run).context(describe)?;
        student.update(step, done.updates, run)?;
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
    Ok((kept, all_saved))
}

impl Student {
    /// Moves running statistics in training. `updates`: a step's inputs and their new values.
    pub(super) fn update(&self, step: &Step, updates: impl IntoIterator<Item = (usize, Tensor)>, run: &Run) -> Result<()> {
        for (number, value) in updates {
            if run.mode == Mode::Train
                && let Some(Source::Buffer(i)) = step.inputs.get(number).map(|id| self.graph.sources[id.0])
            {
                self.buffers[i].var.set(&value)?;
            }
        }
        Ok(())
    }
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
        let Self { student, planned, kept, record } = self;
        drop(kept);
        let (graph, plan) = (&student.graph, &planned.plan);
        let mut gradients: Values = vec![None; graph.names.len()];
        for (id, seed) in seeds {
            let expected = plan.shapes.get(&id).ok_or_else(|| Error::input("gradient of a tensor that this pass does not compute"))?;
            if seed.dims() != expected {
                let name = &graph.names[id.0];
                return Err(Error::input(format!("gradient of {name}: expected shape {expected:?}, found {:?}", seed.dims())));
            }
            add(&mut gradients[id.0], seed.to_dtype(student.dtype)?.contiguous()?)?;
        }
        let mut gradients = match record {
            Record::General(saved) => general_backward(student, plan, saved, gradients)?,
            Record::Cpu(record) => cpu::backward(student, plan, record, gradients)?,
        };
        Ok(student.parameters.iter().map(|p| graph.index.get(&p.name).and_then(|id| gradients[id.0].take())).collect())
    }
}

fn general_backward(student: &Student, plan: &Plan, mut saved: Vec<Saved>, mut gradients: Values) -> Result<Values> {
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
    Ok(gradients)
}

/// Adds a gradient: the first is moved.
fn add(total: &mut Option<Tensor>, gradient: Tensor) -> Result<()> {
    *total = Some(match total.take() {
        None => gradient,
        Some(old) => sum(&old, &gradient)?,
    });
    Ok(())
}

/// The sum of two gradients of one tensor.
pub(super) fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (held_a, held_b) = (data(a)?, data(b)?);
    typed!(a.dtype(), T => tensor(zip(held_a.of::<T>()?, held_b.of::<T>()?, |a, b| a + b), a.dims()))
}
