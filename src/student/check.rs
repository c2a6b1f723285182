//! Whether a graph can be trained, why not, and what an expert would warn of.

use super::import::{self, Graph, Source};
use super::plan::{self, Plan, Refusal};
use super::{ImportOptions, TensorId, Trainability};
use crate::error::{Error, Result};
use crate::onnx::operator::{Class, Operator};
use crate::onnx::{Dim, Model, Value, logits};

/// Why a graph without logits is no student.
pub(super) const NO_LOGITS: &str = "model has no output that could be its logits";
/// Constants of more elements are not read to look at a graph: their values decide nothing but the
/// values computed from them.
const CONSTANTS: usize = 1 << 22;

/// Looks at a graph; see [`Student::check`](super::Student::check).
pub(super) fn check(model: &Model) -> Result<Trainability> {
    let graph = &import::read(model, &ImportOptions::default(), CONSTANTS)?;
    let mut blockers: Vec<(String, String, String)> = graph
        .unsupported
        .iter()
        .map(|(node, reason)| {
            let (name, operator) = graph.label(*node);
            (name, operator, reason.clone())
        })
        .collect();
    let logits = logits::of_student(model).filter(|name| graph.index.contains_key(name));
    if logits.is_none() {
        let name =
            model.outputs().into_iter().next().map_or_else(String::new, |output| output.name);
        blockers.push((name, "output".to_owned(), NO_LOGITS.to_owned()));
    }
    let inputs = model.inputs();
    let mut warnings = Vec::new();
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
    let parameters = graph
        .order
        .iter()
        .filter_map(|name| Some((name.clone(), graph.parameters.get(name)?.shape.clone())))
        .collect::<Vec<_>>();
    if parameters.is_empty() {
        warnings.push(
            "nothing in this graph trains: it holds no weight in the place of a parameter"
                .to_owned(),
        );
    }
    let convolutions: Vec<_> =
        graph.nodes.iter().filter(|n| is_float_convolution(n.proto.operator())).collect();
    let all_biased = convolutions.iter().all(|n| n.inputs.get(2).is_some_and(Option::is_some));
    let normalizes = graph.nodes.iter().any(|n| n.proto.operator().class == Class::Normalization);
    if convolutions.len() >= 5 && all_biased && !normalizes {
        warnings.push(
            "batch normalisation seems to be folded into the convolutions: such a student trains \
             poorly; export it with training=TrainingMode.TRAINING (or PRESERVE) and \
             do_constant_folding=False"
                .to_owned(),
        );
    }
    Ok(Trainability { parameters, blockers, warnings })
}

/// Whether an operator is a convolution whose bias, if it has one, is its third input.
fn is_float_convolution(operator: &Operator) -> bool {
    operator.is_convolution() && !operator.parameters.is_empty()
}

/// Plans a graph of which the values of parameters are not read.
fn try_plan(model: &Model, graph: &Graph, inputs: &[Vec<usize>]) -> Result<Result<Plan, Refusal>> {
    let leaf = |source: &Source| match source {
        Source::Parameter(i) => graph.parameters.values().nth(*i),
        Source::Buffer(i) => graph.buffers.values().nth(*i),
        Source::Input(_) | Source::Constant | Source::Computed => None,
    };
    let held = graph
        .sources
        .iter()
        .enumerate()
        .filter_map(|(id, source)| Some((TensorId(id), leaf(source)?.shape.clone())))
        .collect();
    Ok(plan::plan(graph, inputs, &held, &graph.fills(model)?, ImportOptions::default().dtype))
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
