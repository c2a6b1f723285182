//! The metadata of the trained student's ONNX file.

use super::material::Material;
use super::model::Model;
use crate::error::{Context as _, Result};
use crate::onnx::metadata as keys;
use crate::recipe::Train;
use crate::trainer::metrics::Evaluation;
use serde::Serialize;
use std::collections::BTreeMap;

/// The metadata stored in the model: enough for `eval` to need no flags, and to tell where the
/// model came from. No path, time or host.
pub(super) fn metadata(
    recipe: &Train,
    model: &Model,
    material: &Material,
    outputs: &BTreeMap<String, String>,
    test: Option<&Evaluation>,
) -> Result<Vec<(String, String)>> {
    let recipe = Train { test: None, ..recipe.clone() };
    let mut entries = vec![(keys::RECIPE, json(&recipe)?), (keys::OUTPUTS, json(outputs)?)];
    if !model.classes.is_empty() {
        entries.push((keys::CLASSES, json(&model.classes)?));
    }
    if let Some(preprocess) = &model.preprocess {
        entries.push((keys::PREPROCESS, json(preprocess)?));
    }
    if let Some(cache) = material.cache() {
        entries.push((keys::TEACHER, cache.manifest().teacher.sha256.clone()));
    }
    if let Some(top1) = test.and_then(|test| test.top1) {
        entries.push((keys::ACCURACY, format!("{top1:.2}")));
    }
    Ok(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).context(|| "metadata: cannot be encoded".to_owned())
}
