//! Taps: which tensors of a graph are worth distilling, from the graph and the shapes that a probe run found.

use super::Model;
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// What a tap is to distillation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Channel maps `[N, C, H, W]` (or `[N, H, W, C]`).
    Map,
    /// Tokens `[N, T, C]`.
    Tokens,
    /// One vector a sample, `[N, C]`.
    Vector,
    /// The classifier's output before any softmax, `[N, classes]`.
    Logits,
}

/// A candidate tap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// The ONNX tensor's name.
    pub tensor: String,
    /// The operator that computes it.
    pub op: String,
    /// Shape with the batch axis first, as probed; `None`: varies between samples.
    pub shape: Vec<Option<usize>>,
    /// What it is to distillation.
    pub role: Role,
    /// Which spatial stage it stands in, from 1 (the stem and everything of the first size) on; `None` for vectors.
    pub stage: Option<usize>,
    /// Whether it is one of the suggested taps: the last map of each spatial stage, the penultimate vector, the logits.
    pub suggested: bool,
}

/// All candidate taps in graph order with the suggested ones marked. `shapes`: each tensor's probed shape, batch axis first.
#[must_use]
pub fn candidates(_model: &Model, _shapes: &HashMap<String, Vec<Option<usize>>>) -> Vec<Tap> {
    todo!("helper: onnx")
}

/// The tensor that holds the logits: the first output, or its Softmax's/LogSoftmax's input. The second value says whether a softmax was skipped.
#[must_use]
pub fn logits(_model: &Model) -> Option<(String, bool)> {
    todo!("helper: onnx")
}

/// A tap that the user asked for, resolved against the model's tensors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapChoice {
    /// The ONNX tensor's name.
    pub tensor: String,
    /// The name in the cache: `[A-Za-z0-9._-]+`, unique without regard to case.
    pub alias: String,
    /// Spatial size to which the map is pooled at extraction.
    pub size: Option<[usize; 2]>,
}

/// Resolves `TENSOR[@HxW][=ALIAS]` (an exact tensor name wins over any suffix) against `names`, and makes aliases unique.
///
/// # Errors
/// When a tensor is unknown (the nearest names are listed), named twice, or an alias has other characters.
pub fn resolve(_requests: &[String], _names: &[&str]) -> Result<Vec<TapChoice>> {
    todo!("helper: onnx")
}

/// A cache name made of a tensor's name: `/layer1/layer1.2/Relu_1_output_0` → `layer1.2.Relu_1`.
#[must_use]
pub fn alias(_tensor: &str) -> String {
    todo!("helper: onnx")
}
