//! Whether a graph can be trained, why not, and what an expert would warn of.

use super::batch::{BatchSupport, open_batch};
use super::trial::{trial_shapes, try_plan};
use super::{ImportOptions, Trainability, import, restore, sequences};
use crate::error::{Error, Result};
use crate::onnx::{Dim, Model, Value};

/// Why a graph whose outputs do not depend on its input cannot be a student.
pub(super) const NO_OUTPUT: &str = "model has no output of floats that it computes";
/// Constants of more elements are not read for a check: their values only determine the values that
/// are computed from them.
const CONSTANTS: usize = 1 << 22;

/// Checks a graph; see [`Student::check`](super::Student::check).
pub(super) fn check(model: &Model) -> Result<Trainability> {
    let options = ImportOptions::default();
    let restored = restore::restore(&sequences::unrolled(model)?, options.folded_norms)?;
    let read =
        |model: &Model| import::read(model, restored.signature.as_ref(), &options, CONSTANTS);
    let graph = read(&restored.model)?;
    let opened = open_batch(&restored.model, &graph, read)?;
    let (model, graph) = match &opened {
        BatchSupport::Opened(open) => (&open.0, &open.1),
        BatchSupport::Free | BatchSupport::Fixed(_) => (&restored.model, &graph),
    };
    let mut blockers: Vec<(String, String, String)> = graph
        .unsupported
        .iter()
        .map(|(node, reason)| {
            let (name, operator) = graph.label(*node);
            (name, operator, reason.clone())
        })
        .collect();
    if graph.outputs(model).is_empty() {
        let name =
            model.outputs().into_iter().next().map_or_else(String::new, |output| output.name);
        blockers.push((name, "output".to_owned(), NO_OUTPUT.to_owned()));
    }
    let bound = if let BatchSupport::Fixed(fixed) = &opened { Some(fixed.refusal()) } else { None };
    for refusal in restored.refusal.iter().chain(&bound) {
        let reason =
            [refusal.to_string()].into_iter().chain(refusal.find_hint().map(str::to_owned));
        blockers.push((String::new(), String::new(), reason.collect::<Vec<_>>().join("; ")));
    }
    let inputs = model.inputs();
    let mut warnings: Vec<String> = restored.note.into_iter().collect();
    if let (true, Some(shapes)) = (blockers.is_empty(), trial_shapes(&inputs)) {
        if graph.lacks_constants {
            warnings.push(
                "whether its shapes fit is not tried here: it holds large constants".to_owned(),
            );
        } else if let Err(refusal) = try_plan(model, graph, &shapes)? {
            let (name, operator) = graph.label(refusal.node);
            blockers.push((name, operator, refusal.reason.chain()));
        }
    }
    let tensors = graph.decisions.clone();
    if !tensors.iter().any(|tensor| tensor.trains) {
        warnings.push(
            "nothing in this graph trains: it holds no weight in the place of a parameter"
                .to_owned(),
        );
    }
    warnings.extend(folded_norms(model));
    Ok(Trainability { tensors, blockers, warnings })
}

/// A line about batch norms that seem to be folded into convolutions.
pub(super) fn folded_norms(model: &Model) -> Option<String> {
    let count = restore::guessed(model.graph()).len();
    (count > 0).then(|| {
        format!(
            "batch norms seem to be folded into {count} convolutions: such a student trains \
             poorly. Export it with torch.onnx.export(model.train(), …, dynamo=False, \
             training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False), or put new \
             ones there with --insert-batchnorm"
        )
    })
}

/// Checks that a batch of this shape fits a declared input; the batch axis is free.
pub(super) fn fits(value: &Value, shape: &[usize]) -> Result<()> {
    if value.shape.is_empty() {
        return Ok(());
    }
    let same = |(i, (dim, &n)): (usize, (&Dim, &usize))| {
        i == 0 || !matches!(dim, Dim::Fixed(m) if *m != n)
    };
    if value.shape.len() == shape.len() && value.shape.iter().zip(shape).enumerate().all(same) {
        return Ok(());
    }
    let declared: Vec<String> = value
        .shape
        .iter()
        .map(|d| match d {
            Dim::Fixed(n) => n.to_string(),
            Dim::Symbol(name) => name.clone(),
            Dim::Open => "?".to_owned(),
        })
        .collect();
    Err(Error::input(format!(
        "input {}: expected shape [{}], found {shape:?}",
        value.name,
        declared.join(", ")
    )))
}
