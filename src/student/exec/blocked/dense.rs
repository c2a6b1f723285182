//! Any operator as the reference executor runs it, on dense tensors.

use super::gradients::{Gradients, TensorGradient};
use super::operator::Blocked;
use super::values::SlotValues;
use crate::error::Result;
use crate::student::op::{BackwardPass, PassOptions};
use crate::student::plan::GraphStep;
use candle_core::Tensor;

#[derive(Debug)]
pub(super) struct Dense;

impl Blocked for Dense {
    type Kept = Box<dyn BackwardPass>;

    fn name(&self) -> &'static str {
        "dense"
    }

    fn takes(&self, _in_blocks: bool) -> bool {
        true
    }

    fn forward(
        &self,
        values: &mut SlotValues<'_>,
        step: &GraphStep,
        run: &PassOptions,
    ) -> Result<Self::Kept> {
        let inputs: Vec<Tensor> =
            step.inputs.iter().map(|&id| values.dense(id)).collect::<Result<_>>()?;
        let done = step.operator.forward(&inputs.iter().collect::<Vec<_>>(), run)?;
        values.updates = done.updates;
        for (id, value) in step.outputs.iter().zip(done.outputs) {
            if let Some(id) = id {
                values.store_dense(*id, value);
            }
        }
        Ok(done.kept)
    }

    fn backward(
        &self,
        kept: Self::Kept,
        dy: Vec<Option<TensorGradient>>,
        gradients: &mut Gradients<'_>,
        step: &GraphStep,
    ) -> Result<()> {
        let dy = dy
            .into_iter()
            .map(|g| g.map(|g| gradients.dense(g)).transpose())
            .collect::<Result<_>>()?;
        let results = kept.backward(dy, &step.wanted)?;
        for (input, gradient) in results.into_iter().enumerate() {
            if let Some(gradient) = gradient {
                gradients.give(step, input, TensorGradient::Dense(gradient))?;
            }
        }
        Ok(())
    }
}
