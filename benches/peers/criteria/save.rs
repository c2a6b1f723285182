//! A criterion's tensors, weights, loss and gradients as a safetensors file, for another
//! implementation to be held against.

use super::case::{Case, SCORES};
use candle_core::{DType, Device, Tensor};
use nst_cache::criterion::Subject;
use nst_cache::error::{Context as _, Error, Result};
use nst_cache::trainer::source::TeacherLogits;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;

/// Writes the file: `student/N`, `teacher/N` and `gradient/student/N` by pair, `labels`, and every
/// weight and memory under its checkpoint's name, with `gradient/NAME` where it trains. Gradients
/// are those of the weighted loss. The header's `criterion` says which, with its settings and its
/// unweighted loss.
///
/// # Errors
/// When the criterion cannot be computed, or the file not written.
pub fn write(path: &Path, mut case: Case) -> Result<()> {
    let mut tensors = case.learnable.tensors()?;
    tensors.retain(|(name, _)| !name.starts_with("criterion-optimizer/"));
    let value = case.step(0)?;
    let gradients: Vec<_> = tensors
        .iter()
        .zip(value.learnable)
        .filter_map(|((name, _), g)| Some((format!("gradient/{name}"), g?)))
        .collect();
    tensors.extend(gradients);

    let term = case
        .objective
        .terms
        .first()
        .ok_or_else(|| Error::input("bench criteria: expected a criterion"))?;
    let sites: Vec<(&str, Option<&Tensor>)> = match term.recipe.method.spec().subject {
        Subject::Labels | Subject::Logits => {
            let logits = case.batch.logits.as_ref().and_then(|logits| match logits {
                TeacherLogits::Dense(logits) => Some(logits),
                TeacherLogits::Sparse { .. } => None,
            });
            vec![(SCORES, logits)]
        }
        Subject::Maps | Subject::Vectors | Subject::Tensors => term
            .pairs
            .iter()
            .map(|p| p.student.as_str())
            .zip(case.batch.taps.iter().map(Some))
            .collect(),
    };
    for (index, (name, teacher)) in sites.into_iter().enumerate() {
        let input = case
            .student
            .inputs()
            .iter()
            .position(|input| input.name == name)
            .and_then(|at| case.batch.inputs.get(at));
        let input =
            input.ok_or_else(|| Error::input(format!("bench criteria: no tensor `{name}`")))?;
        tensors.push((format!("student/{index}"), input.clone()));
        tensors.extend(teacher.map(|teacher| (format!("teacher/{index}"), teacher.clone())));
        tensors.extend(
            case.margins.get(index).map(|margins| (format!("margins/{index}"), margins.clone())),
        );
        let id =
            if name == SCORES { Some(case.student.logits()) } else { case.student.tensor(name) };
        let gradient = value.seeds.iter().find(|(of, _)| Some(*of) == id);
        tensors.extend(
            gradient.map(|(_, gradient)| (format!("gradient/student/{index}"), gradient.clone())),
        );
    }
    let labels: Vec<f32> = case
        .batch
        .labels
        .iter()
        .map(|&label| f32::from(i16::try_from(label).unwrap_or(-1)))
        .collect();
    tensors.push(("labels".to_owned(), Tensor::new(labels, &Device::Cpu)?));

    let loss = value.parts.first().copied().flatten();
    let recipe = &term.recipe;
    let about = json!({
        "name": recipe.name(),
        "weight": recipe.weight,
        "settings": recipe.settings(),
        "loss": loss,
    });
    encode(path, &tensors, &about.to_string())
}

/// Writes tensors, all in f32, under a header.
fn encode(path: &Path, tensors: &[(String, Tensor)], about: &str) -> Result<()> {
    let bytes = |tensor: &Tensor| -> Result<Vec<u8>> {
        Ok(bytemuck::cast_slice(&tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?)
            .to_vec())
    };
    let data = tensors
        .iter()
        .map(|(name, tensor)| Ok((name, tensor.dims().to_vec(), bytes(tensor)?)))
        .collect::<Result<Vec<_>>>()?;
    let views = data
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    let views = views.context(|| format!("{}: tensors do not fit their shapes", path.display()))?;
    let header = HashMap::from([("criterion".to_owned(), about.to_owned())]);
    let document = safetensors::serialize(views, Some(header))
        .context(|| format!("{}: cannot be encoded", path.display()))?;
    std::fs::write(path, document).context(|| format!("{}: cannot be written", path.display()))
}
