//! The teacher as the exact mode of spot-adaptive distillation runs it: a frozen graph of the
//! student's own executors.

use super::Plan;
use crate::cache::Manifest;
use crate::error::{Context, Error, Result};
use crate::onnx::Model;
use crate::student::{Executor, FoldedNorms, ImportOptions, Student};
use std::path::Path;

/// Reads the file, which has to be the one that the cache was made by, and imports its graph.
pub(super) fn import(path: &Path, manifest: &Manifest, plan: &Plan) -> Result<Student> {
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
        executor: Executor::Blocked(plan.recipe.precision),
        device: plan.device.clone(),
        // it does not train
        folded_norms: FoldedNorms::Leave,
        ..ImportOptions::default()
    };
    Student::import(&model, &options)
        .context(|| format!("sakd teacher {}: the exact mode needs its gradients", path.display()))
}
