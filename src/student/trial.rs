//! Plans of a graph that is only checked: the values of its parameters are not read.

use super::import::{Graph, TensorSource};
use super::plan::{self, GraphPlan, Refusal};
use super::{ImportOptions, TensorId};
use crate::error::Result;
use crate::onnx::{Dim, Model, Value};

/// Plans a graph for inputs of these shapes.
pub(super) fn try_plan(
    model: &Model,
    graph: &Graph,
    inputs: &[Vec<usize>],
) -> Result<Result<GraphPlan, Refusal>> {
    let leaf = |source: &TensorSource| match source {
        TensorSource::Parameter(i) => graph.parameters.values().nth(*i),
        TensorSource::Buffer(i) => graph.buffers.values().nth(*i),
        TensorSource::Input(_) | TensorSource::Constant | TensorSource::Computed => None,
    };
    let held = graph
        .sources
        .iter()
        .enumerate()
        .filter_map(|(id, source)| Some((TensorId(id), leaf(source)?.shape.clone())))
        .collect();
    Ok(plan::plan(graph, inputs, &held, &graph.fills(model)?, ImportOptions::default().dtype))
}

/// Shapes to plan for: declared sizes and a batch of 2; `None` where another axis is open.
pub(super) fn trial_shapes(inputs: &[Value]) -> Option<Vec<Vec<usize>>> {
    let size = |(i, dim): (usize, &Dim)| match dim {
        Dim::Fixed(n) => Some(*n),
        _ if i == 0 => Some(2),
        _ => None,
    };
    inputs.iter().map(|v| v.shape.iter().enumerate().map(size).collect()).collect()
}

/// The inputs' shapes for a batch; `None` where another axis is open.
pub(super) fn shapes_of(inputs: &[Value], batch: usize) -> Option<Vec<Vec<usize>>> {
    let mut shapes = trial_shapes(inputs)?;
    shapes.iter_mut().filter_map(|shape| shape.first_mut()).for_each(|first| *first = batch);
    Some(shapes)
}
