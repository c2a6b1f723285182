//! The gradients of a backward pass.

use super::buffer::{Arena, Buffer};
use super::map::MapGradient;
use crate::error::{Error, Result};
use crate::student::TensorId;
use crate::student::exec::reference::{Values, sum};
use crate::student::plan::GraphStep;
use candle_core::Tensor;
use std::sync::Arc;

/// The gradient of a tensor in the form in which a step computed it.
#[derive(Debug)]
pub(super) enum TensorGradient {
    Dense(Tensor),
    Map(MapGradient),
}

/// The gradients that no step has taken yet, by the tensors' numbers.
pub(super) struct Gradients<'a> {
    pub(super) arena: &'a Arc<Arena>,
    totals: Vec<Option<TensorGradient>>,
}

impl<'a> Gradients<'a> {
    pub(super) fn new(arena: &'a Arc<Arena>, seeds: Values) -> Self {
        let totals = seeds.into_iter().map(|seed| seed.map(TensorGradient::Dense)).collect();
        Self { arena, totals }
    }

    /// Those that are left at the end.
    pub(super) fn finished(self) -> Result<Values> {
        let Self { arena, totals } = self;
        totals.into_iter().map(|g| g.map(|g| dense(g, arena)).transpose()).collect()
    }

    /// Takes the gradients of a step's outputs.
    pub(super) fn of_outputs(&mut self, step: &GraphStep) -> Vec<Option<TensorGradient>> {
        step.outputs.iter().map(|id| id.and_then(|id| self.totals[id.0].take())).collect()
    }

    pub(super) fn dense(&self, gradient: TensorGradient) -> Result<Tensor> {
        dense(gradient, self.arena)
    }

    /// The gradient of a step's first output as a map.
    pub(super) fn map(&self, dy: Vec<Option<TensorGradient>>) -> Result<MapGradient> {
        match dy.into_iter().next().flatten() {
            Some(gradient) => self.as_map(gradient),
            None => Err(Error::internal("output has no gradient")),
        }
    }

    /// The same with everything applied to it.
    pub(super) fn resolved(&self, dy: Vec<Option<TensorGradient>>) -> Result<MapGradient> {
        Ok(self.map(dy)?.resolved(self.arena))
    }

    fn as_map(&self, gradient: TensorGradient) -> Result<MapGradient> {
        match gradient {
            TensorGradient::Map(g) => Ok(g),
            TensorGradient::Dense(g) => MapGradient::from_tensor(&g, self.arena),
        }
    }

    /// Memory for the gradient of a map, and whether it already contains a part of it.
    pub(super) fn room(&mut self, id: TensorId, len: usize) -> (Buffer, bool) {
        match self.totals[id.0].take() {
            Some(TensorGradient::Map(MapGradient { map, dy, back: None })) => {
                match Arc::try_unwrap(dy) {
                    Ok(buffer) => return (buffer, true),
                    Err(dy) => {
                        let shared = MapGradient { map, dy, back: None };
                        self.totals[id.0] = Some(TensorGradient::Map(shared));
                    }
                }
            }
            other => self.totals[id.0] = other,
        }
        (self.arena.take(len), false)
    }

    /// Adds the gradient of a step's input, if it is wanted, to what is there.
    pub(super) fn give(
        &mut self,
        step: &GraphStep,
        input: usize,
        gradient: TensorGradient,
    ) -> Result<()> {
        let (Some(&id), Some(true)) = (step.inputs.get(input), step.wanted.get(input)) else {
            return Ok(());
        };
        let total = match (self.totals[id.0].take(), gradient) {
            (None, gradient) => gradient,
            (Some(TensorGradient::Dense(a)), TensorGradient::Dense(b)) => {
                TensorGradient::Dense(sum(&a, &b)?)
            }
            (Some(a), b) => TensorGradient::Map(self.as_map(a)?.plus(self.as_map(b)?, self.arena)),
        };
        self.totals[id.0] = Some(total);
        Ok(())
    }
}

fn dense(gradient: TensorGradient, arena: &Arc<Arena>) -> Result<Tensor> {
    match gradient {
        TensorGradient::Dense(g) => Ok(g),
        TensorGradient::Map(g) => g.to_tensor(arena),
    }
}
