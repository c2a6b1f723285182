//! The record of a finished run.

use super::parity::Parity;
use crate::trainer::epochs::Outcome;
use crate::trainer::pairing::Pair;
use serde::{Deserialize, Serialize};

/// The result of a run, as `run.json` keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The student as the user named it.
    pub student: String,
    /// The trained model, relative to the run's folder.
    pub model: String,
    /// SHA-256 of its bytes; `None` if an earlier build wrote the report.
    #[serde(default)]
    pub model_sha256: Option<String>,
    /// The number of trained parameters.
    pub parameters: usize,
    /// Pairs of maps, shallowest first.
    pub pairs: Vec<Pair>,
    /// The outcome of the training.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How far ONNX Runtime is from the trainer on the exported model.
    pub parity: Parity,
    /// Everything that determined the result.
    pub settings: serde_json::Value,
}
