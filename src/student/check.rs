//! Whether a graph can be trained, why not, and what an expert would warn of.

use super::{ImportOptions, Student, Trainability};
use crate::error::{Error, Result};
use crate::onnx::{Dim, Model, Value};

/// Looks at a graph; see [`Student::check`].
pub(super) fn check(model: &Model) -> Result<Trainability> {
    let student = Student::read(model, &ImportOptions::default())?;
    let graph = &student.graph;
    let mut blockers: Vec<(String, String, String)> = graph
        .unsupported
        .iter()
        .map(|(node, reason)| {
            let (name, operator) = graph.label(*node);
            (name, operator, reason.clone())
        })
        .collect();
    if blockers.is_empty()
        && let Some(shapes) = trial_shapes(&student.inputs)
        && let Err(refusal) = student.try_plan(&shapes)
    {
        let (name, operator) = graph.label(refusal.node);
        blockers.push((name, operator, refusal.reason.chain()));
    }
    let parameters =
        graph.order.iter().filter_map(|name| Some((name.clone(), graph.parameters.get(name)?.shape().to_vec()))).collect::<Vec<_>>();
    let mut warnings = Vec::new();
    if parameters.is_empty() {
        warnings.push("nothing in this graph trains: it holds no weight in the place of a parameter".to_owned());
    }
    let has = |operator: &str| graph.nodes.iter().any(|n| n.proto.op_type() == operator);
    let convolutions = graph.nodes.iter().filter(|n| n.proto.op_type() == "Conv").count();
    let biased = graph.nodes.iter().filter(|n| n.proto.op_type() == "Conv" && n.inputs.get(2).is_some_and(Option::is_some)).count();
    let normalised = ["BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization"].into_iter().any(has);
    if convolutions >= 5 && biased == convolutions && !normalised {
        warnings.push(
            "batch normalisation seems to be folded into the convolutions: such a student trains poorly; export it with \
             training=TrainingMode.TRAINING (or PRESERVE) and do_constant_folding=False"
                .to_owned(),
        );
    }
    Ok(Trainability { parameters, blockers, warnings })
}

/// Shapes to plan with: declared sizes, a batch of 2; `None` where another axis is open.
fn trial_shapes(inputs: &[Value]) -> Option<Vec<Vec<usize>>> {
    let size = |(i, dim): (usize, &Dim)| match dim {
        Dim::Fixed(n) => Some(*n),
        _ if i == 0 => Some(2),
        _ => None,
    };
    inputs.iter().map(|v| v.shape.iter().enumerate().map(size).collect()).collect()
}

/// Whether a batch of this shape suits a declared input; the batch axis is free.
pub(super) fn fits(value: &Value, shape: &[usize]) -> Result<()> {
    if value.shape.is_empty() {
        return Ok(());
    }
    let same = |(i, (dim, &n)): (usize, (&Dim, &usize))| i == 0 || !matches!(dim, Dim::Fixed(m) if *m != n);
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
    Err(Error::input(format!("input {}: expected shape [{}], found {shape:?}", value.name, declared.join(", "))))
}
