//! The values of a forward pass, each in the forms that steps have needed so far.

use super::buffer::{Arena, Buffer};
use super::map::{self, Lazy};
use crate::error::{Error, Result};
use crate::kernel::blocked::Map;
use crate::student::TensorId;
use crate::student::exec::reference::Values;
use crate::student::plan::{GraphPlan, GraphStep};
use candle_core::Tensor;
use std::sync::Arc;

/// A tensor: dense, blocked, or both.
#[derive(Debug, Default, Clone)]
struct Slot {
    dense: Option<Tensor>,
    map: Option<Lazy>,
}

/// Tensors by number, and what steps report about running statistics.
pub(super) struct SlotValues<'a> {
    plan: &'a GraphPlan,
    arena: &'a Arc<Arena>,
    slots: Vec<Slot>,
    /// New values of running statistics: the step's input and the value.
    pub(super) updates: Vec<(usize, Tensor)>,
}

impl<'a> SlotValues<'a> {
    pub(super) fn new(plan: &'a GraphPlan, arena: &'a Arc<Arena>, values: Values) -> Self {
        let slots = values.into_iter().map(|dense| Slot { dense, map: None }).collect();
        Self { plan, arena, slots, updates: Vec::new() }
    }

    /// Whether an input of the step is blocked.
    pub(super) fn in_blocks(&self, step: &GraphStep) -> bool {
        step.inputs.iter().any(|id| self.slots[id.0].map.is_some())
    }

    /// A tensor that is dense already.
    pub(super) fn known(&self, id: TensorId) -> Option<Tensor> {
        self.slots.get(id.0).and_then(|slot| slot.dense.clone())
    }

    /// A tensor as a map, blocked if it is dense.
    pub(super) fn map(&mut self, id: TensorId) -> Result<Lazy> {
        let slot = &mut self.slots[id.0];
        if let Some(map) = &slot.map {
            return Ok(map.clone());
        }
        let dense =
            slot.dense.as_ref().ok_or_else(|| Error::internal("an input was not computed"))?;
        let map = Lazy::from_tensor(dense, self.arena)?;
        slot.map = Some(map.clone());
        Ok(map)
    }

    /// A tensor as a map to which nothing is left to apply; later readers find it so.
    pub(super) fn written(&mut self, id: TensorId) -> Result<Lazy> {
        let map = self.map(id)?.written(self.arena);
        self.slots[id.0].map = Some(map.clone());
        Ok(map)
    }

    /// A tensor as a dense one.
    pub(super) fn dense(&mut self, id: TensorId) -> Result<Tensor> {
        let slot = &mut self.slots[id.0];
        if let Some(dense) = &slot.dense {
            return Ok(dense.clone());
        }
        let map = slot.map.as_ref().ok_or_else(|| Error::internal("an input was not computed"))?;
        let dense = map.to_tensor()?;
        slot.dense = Some(dense.clone());
        Ok(dense)
    }

    /// Sizes and memory of a step's first output.
    pub(super) fn output(&self, step: &GraphStep) -> Result<(Map, Buffer)> {
        let id = step
            .outputs
            .first()
            .copied()
            .flatten()
            .ok_or_else(|| Error::internal("output is not used"))?;
        let map = map::of_shape(self.shape(id)?)?;
        Ok((map, self.arena.take(map.len())))
    }

    pub(super) fn shape(&self, id: TensorId) -> Result<&[usize]> {
        self.plan
            .shapes
            .get(&id)
            .map(Vec::as_slice)
            .ok_or_else(|| Error::internal("a tensor has no shape"))
    }

    /// Stores a step's first output as a map.
    pub(super) fn store(&mut self, step: &GraphStep, value: Lazy) {
        if let Some(Some(id)) = step.outputs.first() {
            self.slots[id.0].map = Some(value);
        }
    }

    pub(super) fn store_dense(&mut self, id: TensorId, value: Tensor) {
        self.slots[id.0].dense = Some(value);
    }

    pub(super) fn free(&mut self, id: TensorId) {
        self.slots[id.0] = Slot::default();
    }
}
