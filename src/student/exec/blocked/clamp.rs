//! A clamp, as of a ReLU: recorded with the map, and applied by the operator that reads it.

use super::gradients::{Gradients, TensorGradient};
use super::map::{self, Back, Lazy, MapGradient};
use super::operator::Blocked;
use super::values::SlotValues;
use crate::error::Result;
use crate::student::op::PassOptions;
use crate::student::plan::GraphStep;

#[derive(Debug)]
pub(super) struct Clamp {
    bounds: [f32; 2],
    /// The open interval in which the gradient passes.
    open: [f32; 2],
}

impl Clamp {
    /// `inclusive`: whether the gradient passes at the bounds too.
    pub(super) fn new(bounds: [f32; 2], inclusive: bool) -> Self {
        let [low, high] = bounds;
        let open = if inclusive { [low.next_down(), high.next_up()] } else { bounds };
        Self { bounds, open }
    }
}

impl Blocked for Clamp {
    /// The input.
    type Kept = Lazy;

    fn name(&self) -> &'static str {
        "clamp"
    }

    fn forward(
        &self,
        values: &mut SlotValues<'_>,
        step: &GraphStep,
        _run: &PassOptions,
    ) -> Result<Lazy> {
        let mut x = values.map(step.inputs[0])?;
        // a map records one clamp at most
        if x.clamp.is_some() {
            x = values.written(step.inputs[0])?;
        }
        values.store(step, Lazy { clamp: Some(self.bounds), ..x.clone() });
        Ok(x)
    }

    fn backward(
        &self,
        x: Lazy,
        dy: Vec<Option<TensorGradient>>,
        gradients: &mut Gradients<'_>,
        step: &GraphStep,
    ) -> Result<()> {
        let dy = gradients.resolved(dy)?;
        let affine = x.affine.unwrap_or_else(|| map::identity(&x.map));
        let back = Back { z: x.data, affine, clamp: Some(self.open), terms: None };
        let dx = MapGradient { back: Some(back), ..dy };
        gradients.give(step, 0, TensorGradient::Map(dx))
    }

    fn moved(&self, _step: &GraphStep, _x: usize, _y: usize) -> usize {
        0
    }
}
