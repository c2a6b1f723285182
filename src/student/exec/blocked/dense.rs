//! Any operator as the reference executor runs it, on dense tensors.

use super::gradients::{Gradients, TensorGradient};
use super::operator::Blocked;
use super::values::SlotValues;
use crate::error::Result;
use crate::student::op::{Run, Saved};
use crate::student::plan::Step;
use candle_core::Tensor;

#[derive(Debug)]
pub(super) struct Dense;

impl Blocked for Dense {
    type Kept = Saved;

    fn name(&self) -> &'static str {
        "dense"
    }

    fn takes(&self, _in_blocks: bool) -> bool {
        true
    }

    fn forward(&self, values: &mut SlotValues<'_>, step: &Step, run: &Run) -> Result<Saved> {
        let inputs: Vec<Tensor> =
            step.inputs.iter().map(|&id| values.dense(id)).collect::<Result<_>>()?;
        let done = step.operator.forward(&inputs.iter().collect::<Vec<_>>(), run)?;
        values.updates = done.updates;
        for (id, value) in step.outputs.iter().zip(done.outputs) {
            if let Some(id) = id {
                values.store_dense(*id, value);
            }
        }
        Ok(done.saved)
    }

    fn backward(
        &self,
        saved: Saved,
        dy: Vec<Option<TensorGradient>>,
        gradients: &mut Gradients<'_>,
        step: &Step,
    ) -> Result<()> {
        let dy = dy
            .into_iter()
            .map(|g| g.map(|g| gradients.dense(g)).transpose())
            .collect::<Result<_>>()?;
        let results = step.operator.backward(saved, dy, &step.wanted)?;
        for (input, gradient) in results.into_iter().enumerate() {
            if let Some(gradient) = gradient {
                gradients.give(step, input, TensorGradient::Dense(gradient))?;
            }
        }
        Ok(())
    }
}
