//! A pass over a plan, forward and backward, by the executor that the plan is for.

use super::exec::blocked::{self, BlockedPlan};
use super::exec::reference::{self, Values};
use super::op::PassOptions;
use super::plan::GraphPlan;
use super::{Student, TensorId};
use crate::error::{Error, Result};
use candle_core::Tensor;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A plan, and how the blocked executor runs its steps if it is to.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) plan: GraphPlan,
    pub(super) blocked: Option<Arc<BlockedPlan>>,
}

/// One forward pass and what its backward pass needs.
#[derive(Debug)]
pub struct Pass<'a> {
    student: &'a Student,
    planned: Arc<Planned>,
    kept: HashMap<TensorId, Tensor>,
    tape: PassTape,
}

/// What a forward pass leaves, by executor.
#[derive(Debug)]
enum PassTape {
    Reference(reference::BackwardSteps),
    Blocked(blocked::Tape),
}

/// Runs a plan forward.
pub(super) fn forward<'a>(
    student: &'a Student,
    planned: Arc<Planned>,
    inputs: &[Tensor],
    options: &PassOptions,
    keep: &HashSet<TensorId>,
) -> Result<Pass<'a>> {
    let plan = &planned.plan;
    let mut values: Values =
        student.graph.sources.iter().map(|source| student.held(*source, inputs)).collect();
    for (id, constant) in &plan.constants {
        values[id.0] = Some(constant.clone());
    }
    let (kept, tape) = match &planned.blocked {
        None => {
            let (kept, steps) = reference::forward(student, plan, values, options, keep)?;
            (kept, PassTape::Reference(steps))
        }
        Some(steps) => {
            let (kept, tape) = blocked::forward(student, plan, steps, values, options, keep)?;
            (kept, PassTape::Blocked(tape))
        }
    };
    Ok(Pass { student, planned, kept, tape })
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

    /// Sweeps the graph in reverse from the gradients of the loss with respect to some tensors;
    /// gradients of parameters come in the order of [`Student::parameters`] (`None`: the loss does
    /// not depend on it). Values are freed as the sweep passes.
    ///
    /// # Errors
    /// When a gradient has another shape than its tensor.
    pub fn backward(self, seeds: Vec<(TensorId, Tensor)>) -> Result<Vec<Option<Tensor>>> {
        let student = self.student;
        let mut gradients = self.sweep(seeds)?;
        Ok(student
            .parameters
            .iter()
            .map(|p| student.graph.index.get(&p.name).and_then(|id| gradients[id.0].take()))
            .collect())
    }

    /// The same for a stage's input.
    pub(super) fn input_gradient(
        self,
        input: TensorId,
        seeds: Vec<(TensorId, Tensor)>,
    ) -> Result<Option<Tensor>> {
        Ok(self.sweep(seeds)?[input.0].take())
    }

    /// The gradients of everything that nothing computes.
    fn sweep(self, seeds: Vec<(TensorId, Tensor)>) -> Result<Values> {
        let Self { student, planned, kept, tape } = self;
        drop(kept);
        let (graph, plan) = (&student.graph, &planned.plan);
        let mut gradients: Values = vec![None; graph.names.len()];
        for (id, seed) in seeds {
            let expected = plan.shapes.get(&id).ok_or_else(|| {
                Error::input("gradient of a tensor that this pass does not compute")
            })?;
            if seed.dims() != expected {
                let name = &graph.names[id.0];
                return Err(Error::input(format!(
                    "gradient of {name}: expected shape {expected:?}, found {:?}",
                    seed.dims()
                )));
            }
            reference::add(
                &mut gradients[id.0],
                seed.to_device(&student.device)?.to_dtype(student.dtype)?.contiguous()?,
            )?;
        }
        match tape {
            PassTape::Reference(steps) => reference::backward(student, plan, steps, gradients),
            PassTape::Blocked(tape) => blocked::backward(student, plan, tape, gradients),
        }
    }
}
