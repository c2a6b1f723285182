//! The gates of a batch.

use crate::error::Result;
use crate::student::TensorId;
use candle_core::Tensor;

/// The gates chosen at one step.
#[derive(Debug)]
pub(super) struct Chosen {
    /// One gate per sample, by spot.
    pub(super) gates: Vec<(TensorId, Tensor)>,
    /// The noise of the choice, `[batch, spots, 2]`.
    pub(super) noise: Option<Tensor>,
}

impl Chosen {
    /// The gates at a tensor of the student.
    pub(super) fn at(&self, tensor: TensorId) -> Option<&Tensor> {
        self.gates.iter().find(|(id, _)| *id == tensor).map(|(_, gate)| gate)
    }

    /// The number of samples that each spot selects.
    pub(super) fn counts(&self) -> Result<Vec<f64>> {
        self.gates.iter().map(|(_, gate)| Ok(gate.sum_all()?.to_scalar::<f64>()?)).collect()
    }
}
