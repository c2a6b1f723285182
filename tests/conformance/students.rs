//! Student graphs against float64 logits, loss, gradients, running statistics and optimiser steps.

use super::Outcome;
use std::path::Path;

/// Checks one graph with the `.safetensors` file beside it; several outcomes, each with its name.
pub fn check(graph: &Path) -> Vec<(String, Outcome)> {
    let name = graph.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    vec![(name, Outcome::NotSupported("helper: student".into()))]
}
