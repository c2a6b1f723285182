//! What the teacher of a cache teaches a student by default.

use crate::cache::{Manifest, TapRecord};
use crate::onnx::tap::Role;
use crate::recipe::Teaching;

/// The least width of a vector whose direction alone is worth learning.
pub(super) const EMBEDDING: usize = 8;

/// How many classes a cache's logits tell of a sample.
pub(super) fn classes(manifest: &Manifest) -> Option<usize> {
    match *manifest.logits_row()?.as_slice() {
        [classes] => Some(classes),
        _ => None,
    }
}

/// What teaches a student; `manifest` of its cache, if there is one.
pub(super) fn of(manifest: Option<&Manifest>, has_labels: bool) -> Teaching {
    let Some(manifest) = manifest else { return Teaching::Labels };
    let taught = taught(manifest);
    let is_embedding = |tap: &&TapRecord| {
        let array = manifest.statistics(&tap.alias).next().map(|(_, spec)| spec);
        array.is_some_and(|spec| {
            let axes = spec.axes.concat();
            let width = spec.row_shape.last().copied().unwrap_or(0);
            ["c", "tc"].contains(&axes.as_str()) && width >= EMBEDDING
        })
    };
    match taught.as_slice() {
        [] if manifest.logits_row().is_some_and(|row| row.len() > 1 || !has_labels) => {
            Teaching::Logits
        }
        [] => Teaching::Maps,
        taught if taught.iter().all(is_embedding) => Teaching::Embeddings,
        _ => Teaching::Outputs,
    }
}

/// The tensor and width of the teacher's only embedding, if no class logits are kept.
pub(super) fn embedding(manifest: &Manifest) -> Option<(String, usize)> {
    let taught = taught(manifest);
    let [tap] = taught.as_slice() else { return None };
    let width = *manifest.statistics(&tap.alias).next()?.1.row_shape.last()?;
    (tap.role == Role::Vector).then(|| (tap.tensor.clone(), width))
}

/// The taps of a cache without class logits that the default loss compares: the outputs, or else
/// the vectors where there are no maps.
fn taught(manifest: &Manifest) -> Vec<&TapRecord> {
    if classes(manifest).is_some() {
        return Vec::new();
    }
    let outputs: Vec<&TapRecord> = manifest.taps.iter().filter(|tap| tap.output).collect();
    let are_vectors = manifest.taps.iter().all(|tap| tap.role == Role::Vector);
    if outputs.is_empty() && are_vectors { manifest.taps.iter().collect() } else { outputs }
}
