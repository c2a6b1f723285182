//! What is known of a finished run.

use super::parity::Parity;
use crate::trainer::epochs::Outcome;
use crate::trainer::pairing::Pair;
use serde::{Deserialize, Serialize};

/// The result of a run, as `run.json` keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The student as it was named.
    pub student: String,
    /// The trained model, relative to the run's folder.
    pub model: String,
    /// SHA-256 of its bytes; `None`: an earlier build recorded none.
    #[serde(default)]
    pub model_sha256: Option<String>,
    /// Numbers that trained.
    pub parameters: usize,
    /// Pairs of maps, shallowest first.
    pub pairs: Vec<Pair>,
    /// How the training went.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How far ONNX Runtime is from the trainer on the exported model.
    pub parity: Parity,
    /// Everything that decided the result.
    pub settings: serde_json::Value,
}
