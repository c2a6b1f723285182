//! Whether a graph can be trained, why not, and what an expert would warn of.

use super::import::{self, Graph, Source};
use super::plan::{self, Plan, Refusal};
use super::{ImportOptions, TensorId, Trainability, batch, restore};
use crate::error::{Error, Result};
use crate::onnx::{Dim, Model, Value, logits};

/// Why a graph without logits is no student.
pub(super) const NO_LOGITS: &str = "model has no output that could be its logits";
/// Constants of more elements are not read to look at a graph: their values decide nothing but the
/// values computed from them.
const CONSTANTS: usize = 1 << 22;

/// Looks at a graph; see [`Student::check`](super::Student::check).
pub(super) fn check(model: &Model) -> Result<Trainability> {
    let options = ImportOptions::default();
    let restored = restore::restore(model, options.folded_norms)?;
    let read =
        |model: &Model| import::read(model, restored.signature.as_ref(), &options, CONSTANTS);
    let graph = read(&restored.model)?;
    let opened = open_batch(&restored.model, &graph, read)?;
    let (model, graph) = match &opened {
        Batch::Opened(open) => (&open.0, &open.1),
        Batch::Free | Batch::Refused(_) => (&restored.model, &graph),
    };
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
    let baked = if let Batch::Refused(refusal) = &opened { Some(refusal) } else { None };
    for refusal in restored.refusal.iter().chain(baked) {
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

/// Whether a student takes any batch.
pub(super) enum Batch {
    /// It does, as far as its shapes tell.
    Free,
    /// It does in this form, without what its exporter wrote into it.
    Opened(Box<(Model, Graph)>),
    /// It does not.
    Refused(Error),
}

/// Takes the batch out of a graph that was exported for one; `read` imports a model.
pub(super) fn open_batch(
    model: &Model,
    graph: &Graph,
    read: impl FnOnce(&Model) -> Result<Graph>,
) -> Result<Batch> {
    let inputs = model.inputs();
    let Some(baked) = batch::baked(model).filter(|_| !graph.lacks_constants) else {
        return Ok(Batch::Free);
    };
    let Some(shapes) = shapes_of(&inputs, baked) else { return Ok(Batch::Free) };
    // what keeps it from running at all is said elsewhere
    let Ok(plan) = try_plan(model, graph, &shapes)? else { return Ok(Batch::Free) };
    let other = baked.saturating_mul(2).saturating_add(1);
    let Some(others) = shapes_of(&inputs, other) else { return Ok(Batch::Free) };
    let reason = |model: &Model, graph: &Graph| -> Result<Option<String>> {
        let plan = match try_plan(model, graph, &others)? {
            Ok(plan) => plan,
            Err(refusal) => {
                let (name, operator) = graph.label(refusal.node);
                return Ok(Some(format!("node {name} ({operator}): {}", refusal.reason.chain())));
            }
        };
        let rows = |name: String| plan.shapes.get(graph.index.get(&name)?)?.first().copied();
        let rows = logits::of_student(model).and_then(rows);
        let found = rows.map_or_else(|| "none".to_owned(), |n| n.to_string());
        Ok((rows != Some(other)).then(|| format!("of {other} samples it gives logits of {found}")))
    };
    let Some(why) = reason(model, graph)? else { return Ok(Batch::Free) };
    let shape = |name: &str| plan.shapes.get(graph.index.get(name)?).cloned();
    let Some(freed) = batch::freed(model, baked, &plan.targets, shape)? else {
        return Ok(Batch::Refused(batch::refusal(baked, &why)));
    };
    let model = model.with_graph(freed)?;
    let graph = read(&model)?;
    Ok(match reason(&model, &graph)? {
        None => Batch::Opened(Box::new((model, graph))),
        Some(_) => Batch::Refused(batch::refusal(baked, &why)),
    })
}

/// The inputs' shapes for a batch; `None` where another axis is open.
pub(super) fn shapes_of(inputs: &[Value], batch: usize) -> Option<Vec<Vec<usize>>> {
    let mut shapes = trial_shapes(inputs)?;
    shapes.iter_mut().filter_map(|shape| shape.first_mut()).for_each(|first| *first = batch);
    Some(shapes)
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
