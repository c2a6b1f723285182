//! Untrained students by name, written as ONNX in training form.

use crate::error::Result;
use crate::onnx::Model;

/// A preset's name with a line about it, for help and completions: families (`resnetN`, `wrn-D-W`) come with their common members.
#[must_use]
pub fn names() -> Vec<(&'static str, &'static str)> {
    todo!("helper: preset")
}

/// Builds a preset for images of `[channels, height, width]`, initialised from `seed` as PyTorch does for the same network.
///
/// # Errors
/// When the name is unknown (the nearest are listed), or the input is too small for the network.
pub fn build(_name: &str, _classes: usize, _input: [usize; 3], _seed: u64) -> Result<Model> {
    todo!("helper: preset")
}
