//! Removal of a batch size that an exporter wrote into a graph.
//!
//! `torch.onnx.export(model, x, f)` without dynamic axes writes the batch of its example into the
//! input's shape and into every Reshape after it. Where a Reshape's target is a constant that
//! begins with the batch, that axis is inferred from the others instead, and the student accepts
//! any batch.

use super::import::Graph;
use super::trial::{self, shapes_of, try_plan};
use super::{Mode, Student};
use crate::array::{Array, Values};
use crate::error::{Error, Result};
use crate::onnx::proto::GraphProto;
use crate::onnx::{Dim, Model, tensor_proto};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;

/// Whether a student accepts any batch size.
pub(super) enum BatchSupport {
    /// It does, as far as its shapes show.
    Free,
    /// It does in this form, without the size that its exporter wrote into it.
    Opened(Box<(Model, Graph)>),
    /// It accepts only the size that it was exported for.
    Fixed(FixedBatch),
}

/// The batch size that a student is bound to.
#[derive(Debug, Clone)]
pub(super) struct FixedBatch {
    batch: usize,
    /// What happens with another size.
    why: String,
}

impl FixedBatch {
    /// The error of a run, whose last batch is smaller.
    pub(super) fn refusal(&self) -> Error {
        let Self { batch, why } = self;
        Error::input(format!("the student was exported for batches of {batch} alone: {why}")).hint(
            "export it with an open batch: torch.onnx.export(model, (x,), f, dynamo=True, \
             dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)), or with dynamo=False and \
             dynamic_axes={'input': {0: 'batch'}, 'logits': {0: 'batch'}}",
        )
    }
}

/// Removes the batch size from a graph that was exported for one; `read` imports a model.
pub(super) fn open_batch(
    model: &Model,
    graph: &Graph,
    read: impl FnOnce(&Model) -> Result<Graph>,
) -> Result<BatchSupport> {
    let inputs = model.inputs();
    let Some(baked) = baked(model).filter(|_| !graph.lacks_constants) else {
        return Ok(BatchSupport::Free);
    };
    let Some(shapes) = shapes_of(&inputs, baked) else { return Ok(BatchSupport::Free) };
    // what prevents it from running at all is reported elsewhere
    let Ok(plan) = try_plan(model, graph, &shapes)? else { return Ok(BatchSupport::Free) };
    let other = baked.saturating_mul(2).saturating_add(1);
    let Some(others) = shapes_of(&inputs, other) else { return Ok(BatchSupport::Free) };
    let reason = |model: &Model, graph: &Graph| -> Result<Option<String>> {
        let plan = match try_plan(model, graph, &others)? {
            Ok(plan) => plan,
            Err(refusal) => {
                let (name, operator) = graph.label(refusal.node);
                return Ok(Some(format!("node {name} ({operator}): {}", refusal.reason.chain())));
            }
        };
        let rows = |name: String| plan.shapes.get(graph.index.get(&name)?)?.first().copied();
        let rows = graph.outputs(model).into_iter().next().and_then(|output| rows(output.name));
        let found = rows.map_or_else(|| "none".to_owned(), |n| n.to_string());
        Ok((rows != Some(other))
            .then(|| format!("of {other} samples its first output holds {found}")))
    };
    let Some(why) = reason(model, graph)? else { return Ok(BatchSupport::Free) };
    let shape = |name: &str| plan.shapes.get(graph.index.get(name)?).cloned();
    let fixed = BatchSupport::Fixed(FixedBatch { batch: baked, why });
    let Some(freed) = freed(model, baked, &plan.targets, shape)? else { return Ok(fixed) };
    let model = model.with_graph(freed)?;
    let graph = read(&model)?;
    Ok(match reason(&model, &graph)? {
        None => BatchSupport::Opened(Box::new((model, graph))),
        Some(_) => fixed,
    })
}

/// The batch size that a model's inputs are declared for; `None` where it is open.
pub(super) fn baked(model: &Model) -> Option<usize> {
    let first = |dims: &[Dim]| match dims.first() {
        Some(Dim::Fixed(n)) => Some(*n),
        _ => None,
    };
    model.inputs().iter().find_map(|input| first(&input.shape))
}

/// The graph with Reshapes that accept any batch; `None` where there is nothing to change.
///
/// `targets` and `shape` come from a plan for the baked batch: the target shapes of Reshapes by the
/// number of the node, and the shapes of tensors by name.
pub(super) fn freed(
    model: &Model,
    batch: usize,
    targets: &HashMap<usize, Vec<i64>>,
    shape: impl Fn(&str) -> Option<Vec<usize>>,
) -> Result<Option<GraphProto>> {
    let mut graph = model.graph().clone();
    let mut added = Vec::new();
    for (number, node) in graph.node.iter_mut().enumerate() {
        let Some(from) = node.input.first().and_then(|data| shape(data)) else { continue };
        let open = targets.get(&number).and_then(|target| opened(target, &from, batch));
        let (Some(open), Some(output)) = (open, node.output.first()) else { continue };
        let name = format!("{output}.open");
        added.push(tensor_proto(&name, &Array::new(vec![open.len()], Values::I64(open))?));
        // earlier opsets have the target as an attribute
        node.attribute.retain(|a| a.name() != "shape");
        node.input.truncate(1);
        node.input.push(name);
    }
    if added.is_empty() {
        return Ok(None);
    }
    graph.initializer.extend(added);
    Ok(Some(graph))
}

/// Checks that the graph that accepts any batch computes the same: two batches together must give
/// the results of each. Returns the size that the student is bound to where they do not.
pub(super) fn compare(baked: &Student, open: &Student) -> Result<Option<FixedBatch>> {
    let (Some(batch), inputs) = (self::baked(&baked.model), baked.inputs()) else {
        return Ok(None);
    };
    let Some(shapes) = trial::shapes_of(inputs, batch) else { return Ok(None) };
    // no two values of a sample are equal; all are within ±1
    #[allow(clippy::cast_precision_loss, reason = "a pattern")]
    let pattern = |shape: &Vec<usize>, step: f32| -> Result<Tensor> {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i: usize| (i as f32 * step).sin()).collect();
        Ok(Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?)
    };
    let draw = |step: f32| -> Result<Vec<Tensor>> {
        shapes.iter().map(|shape| pattern(shape, step)).collect()
    };
    let halves = [draw(0.7)?, draw(1.3)?];
    let run = |student: &Student, inputs: &[Tensor]| -> Result<Vec<f32>> {
        let pass = student.forward(inputs, Mode::Eval, &[], 0)?;
        let logits = pass.value(student.logits())?.to_dtype(DType::F32)?;
        Ok(logits.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
    };
    let both: Vec<Tensor> = halves[0]
        .iter()
        .zip(&halves[1])
        .map(|(a, b)| Ok(Tensor::cat(&[a, b], 0)?))
        .collect::<Result<_>>()?;
    let apart = [run(baked, &halves[0])?, run(baked, &halves[1])?].concat();
    let together = run(open, &both)?;
    let scale = apart.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    // a head that starts from zero proves nothing
    let is_proof = scale > 0.0;
    let same = is_proof
        && apart.len() == together.len()
        && apart.iter().zip(&together).all(|(a, b)| (a - b).abs() <= 1e-3 * scale);
    let why = if is_proof {
        "samples of a batch depend on each other"
    } else {
        "its logits are all zero, so that nothing shows whether another batch is right"
    };
    let why = why.to_owned();
    Ok((!same).then_some(FixedBatch { batch, why }))
}

/// A Reshape's target with an open first axis, from the target for one batch.
fn opened(target: &[i64], from: &[usize], batch: usize) -> Option<Vec<i64>> {
    let (&first, rest) = target.split_first()?;
    let batch = i64::try_from(batch).ok()?;
    if first <= 0 || first % batch != 0 {
        return None;
    }
    let count = from.iter().try_fold(1i64, |n, &d| n.checked_mul(i64::try_from(d).ok()?))?;
    let known = rest.iter().enumerate().try_fold(first, |n, (i, &d)| match d {
        -1 => Some(n),
        0 => n.checked_mul(i64::try_from(*from.get(i + 1)?).ok()?),
        d => n.checked_mul(d),
    })?;
    let mut open = vec![-1];
    for &d in rest {
        open.push(if d == -1 { count.checked_div(known)? } else { d });
    }
    Some(open)
}

#[cfg(test)]
mod tests {
    use super::opened;

    #[test]
    fn the_first_axis_is_left_open() {
        // flatten, heads merged into the batch, tokens
        assert_eq!(opened(&[2, -1], &[2, 16, 4, 4], 2), Some(vec![-1, 256]));
        assert_eq!(opened(&[24, 5, 64], &[5, 2, 12, 64], 2), Some(vec![-1, 5, 64]));
        assert_eq!(opened(&[98, -1], &[2, 49, 8], 2), Some(vec![-1, 8]));
        // does not contain the batch
        assert_eq!(opened(&[-1, 8], &[2, 8], 2), None);
        assert_eq!(opened(&[5, 3], &[5, 3], 2), None);
        assert_eq!(opened(&[], &[1], 1), None);
    }
}
