//! What spots decide for a batch.

use crate::error::Result;
use crate::student::TensorId;
use candle_core::Tensor;

/// What was decided at one step.
#[derive(Debug)]
pub(super) struct Chosen {
    /// A gate a sample, by spot.
    pub(super) gates: Vec<(TensorId, Tensor)>,
    /// The noise of the decision, `[batch, spots, 2]`.
    pub(super) noise: Option<Tensor>,
}

impl Chosen {
    /// The gates at a student's tensor.
    pub(super) fn at(&self, tensor: TensorId) -> Option<&Tensor> {
        self.gates.iter().find(|(id, _)| *id == tensor).map(|(_, gate)| gate)
    }

    /// How many samples each spot selects.
    pub(super) fn counts(&self) -> Result<Vec<f64>> {
        self.gates.iter().map(|(_, gate)| Ok(gate.sum_all()?.to_scalar::<f64>()?)).collect()
    }
}
