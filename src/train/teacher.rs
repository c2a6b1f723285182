//! The teacher in the exact mode of spot-adaptive distillation: a frozen graph in the student's own
//! executors.

use super::job::Settled;
use crate::cache::Manifest;
use crate::error::{Context, Error, Result};
use crate::onnx::Model;
use crate::student::{Executor, FoldedNorms, ImportOptions, Student};
use std::path::Path;

/// Reads the file, which must be the one that produced the cache, and imports its graph.
pub(super) fn import(path: &Path, manifest: &Manifest, settled: &Settled) -> Result<Student> {
    let model = Model::read(path)?;
    let recorded = &manifest.teacher;
    if model.sha256() != recorded.sha256 {
        let short = |hash: &str| hash.chars().take(12).collect::<String>();
        return Err(Error::input(format!(
            "sakd teacher {}: expected the model that made this cache ({}, sha256 {}…), found \
             another ({}…)",
            path.display(),
            recorded.file,
            short(&recorded.sha256),
            short(model.sha256())
        ))
        .hint("name that file with --sakd-teacher, or extract a cache of this one"));
    }
    let options = ImportOptions {
        executor: Executor::Blocked(settled.recipe.precision),
        device: settled.device.clone(),
        // the teacher does not train
        folded_norms: FoldedNorms::Leave,
        ..ImportOptions::default()
    };
    Student::import(&model, &options)
        .context(|| format!("sakd teacher {}: the exact mode needs its gradients", path.display()))
}
