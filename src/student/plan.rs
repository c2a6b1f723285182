//! A plan: the graph's operators in order for fixed input shapes, everything that shapes decide
//! already computed.

use super::TensorId;
use super::fold;
use super::host::Host;
use super::import::{Graph, TensorSource};
use super::op::{self, AnyOperator, Site};
use crate::error::{Error, Result};
use crate::tensor::narrow;
use candle_core::{DType, Tensor};
use std::collections::{BTreeMap, HashMap, HashSet};

/// One operator of the sweep.
#[derive(Debug)]
pub(super) struct GraphStep {
    pub(super) operator: Box<dyn AnyOperator>,
    /// The node in the graph.
    pub(super) node: usize,
    pub(super) inputs: Vec<TensorId>,
    /// Which inputs have a gradient that anything asks for.
    pub(super) wanted: Vec<bool>,
    pub(super) outputs: Vec<Option<TensorId>>,
    /// Tensors that no later step reads.
    pub(super) last_use: Vec<TensorId>,
}

/// The sweep for one set of input shapes.
#[derive(Debug)]
pub(super) struct GraphPlan {
    pub(super) steps: Vec<GraphStep>,
    pub(super) shapes: HashMap<TensorId, Vec<usize>>,
    /// Known floats that steps read or that may be kept.
    pub(super) constants: BTreeMap<TensorId, Tensor>,
    /// The shapes that Reshapes ask for, by the number of the node in the file.
    pub(super) targets: HashMap<usize, Vec<i64>>,
}

/// Why a graph cannot be planned: the node and the reason.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) node: usize,
    pub(super) reason: Error,
}

/// What all that a graph computes from constants may hold beyond four times the constants
/// themselves, in values: many small nodes must not fill the memory either.
const FOLDED_VALUES: usize = 1 << 26;

/// Plans a graph for inputs of these shapes.
///
/// `shapes` holds those of parameters and running statistics; `fills` the value attribute of
/// `ConstantOfShape` nodes.
pub(super) fn plan(
    graph: &Graph,
    inputs: &[Vec<usize>],
    held: &HashMap<TensorId, Vec<usize>>,
    fills: &HashMap<usize, Host>,
    dtype: DType,
) -> Result<GraphPlan, Refusal> {
    let mut shapes = held.clone();
    for (id, source) in graph.sources.iter().enumerate() {
        if let TensorSource::Input(i) = source
            && let Some(shape) = inputs.get(*i)
        {
            shapes.insert(TensorId(id), shape.clone());
        }
    }
    let mut known: HashMap<TensorId, Host> = HashMap::new();
    let mut room = graph
        .constants
        .values()
        .map(Host::len)
        .sum::<usize>()
        .saturating_mul(4)
        .saturating_add(FOLDED_VALUES);
    let mut active: Vec<bool> =
        graph.sources.iter().map(|source| graph.differentiates(*source)).collect();
    let mut integers = graph.integers.clone();
    let read: HashSet<TensorId> =
        graph.nodes.iter().flat_map(|n| n.inputs.iter().flatten().copied()).collect();
    let (mut steps, mut targets) = (Vec::new(), HashMap::new());
    for (number, node) in graph.nodes.iter().enumerate() {
        let refuse = |reason| Refusal { node: number, reason };
        let lookup = |id: &TensorId| graph.constants.get(id).or_else(|| known.get(id));
        let site = Site {
            node: &node.proto,
            opset: graph.opset,
            number: node.number,
            dtype,
            is_frozen: graph.frozen.contains(&node.number),
            shapes: node
                .inputs
                .iter()
                .map(|id| {
                    id.as_ref().and_then(|id| {
                        lookup(id).map(|h| h.shape.clone()).or_else(|| shapes.get(id).cloned())
                    })
                })
                .collect(),
            constants: node.inputs.iter().map(|id| id.as_ref().and_then(lookup)).collect(),
            integers: node
                .inputs
                .iter()
                .map(|id| {
                    id.as_ref().is_some_and(|id| {
                        lookup(id).map_or(integers[id.0], |host| !host.is_float())
                    })
                })
                .collect(),
        };
        if let Some(folded) = fold::fold(&site, fills.get(&number)).map_err(refuse)? {
            let values = folded.iter().map(Host::len).sum();
            room = room.checked_sub(values).ok_or_else(|| {
                refuse(Error::input("constants that are computed fill the memory"))
            })?;
            for (id, host) in node.outputs.iter().zip(folded) {
                if let Some(id) = id {
                    known.insert(*id, host);
                }
            }
            continue;
        }
        let mut built = op::build(&site).map_err(refuse)?;
        graph.chance.check(node.number, &site, &built).map_err(refuse)?;
        if node.proto.op_type() == "Reshape"
            && let Some(target) = site.known_ints(1).map_err(refuse)?
        {
            targets.insert(node.number, target);
        }
        if let Some(i) = (built.outputs.len()..node.outputs.len())
            .find(|&i| node.outputs[i].is_some_and(|id| read.contains(&id)))
        {
            return Err(refuse(Error::input(format!("output {i} is not supported"))));
        }
        if let Some(mean) = graph.chance.mean(&node.proto) {
            built = built.expected(mean.value, dtype);
        }
        let inputs: Option<Vec<TensorId>> =
            built.inputs.iter().map(|&i| node.inputs.get(i).copied().flatten()).collect();
        let inputs = inputs.ok_or_else(|| refuse(Error::input("an input is missing")))?;
        let wanted: Vec<bool> = inputs.iter().map(|id| active[id.0]).collect();
        let outputs: Vec<Option<TensorId>> =
            (0..built.outputs.len()).map(|i| node.outputs.get(i).copied().flatten()).collect();
        for (i, (id, shape)) in outputs.iter().zip(built.outputs).enumerate() {
            if shape
                .iter()
                .try_fold(1usize, |n, &d| n.checked_mul(d))
                .is_none_or(|n| n > isize::MAX.cast_unsigned() / 8)
            {
                return Err(refuse(Error::input(format!(
                    "output of shape {shape:?} is too large"
                ))));
            }
            if let Some(id) = id {
                active[id.0] = wanted.contains(&true);
                integers[id.0] = site.yields_integers(i);
                shapes.insert(*id, shape);
            }
        }
        steps.push(GraphStep {
            operator: built.operator,
            node: number,
            inputs,
            wanted,
            outputs,
            last_use: Vec::new(),
        });
    }
    mark_last_uses(&mut steps);
    let mut constants = BTreeMap::new();
    for (id, host) in graph.constants.iter().chain(&known) {
        let reader = steps.iter().find(|s| s.inputs.contains(id)).map(|s| s.node);
        if reader.is_none() && !host.is_float() {
            continue;
        }
        let new = shapes.insert(*id, host.shape.clone()).is_none();
        if let (true, Some(node)) = (new, reader) {
            constants.insert(
                *id,
                narrow(&host.floats(), &host.shape, dtype)
                    .map_err(|reason| Refusal { node, reason })?,
            );
        }
    }
    Ok(GraphPlan { steps, shapes, constants, targets })
}

fn mark_last_uses(steps: &mut [GraphStep]) {
    let mut last: BTreeMap<TensorId, usize> = BTreeMap::new();
    for (i, step) in steps.iter().enumerate() {
        for &id in step.inputs.iter().chain(step.outputs.iter().flatten()) {
            last.insert(id, i);
        }
    }
    for (id, i) in last {
        steps[i].last_use.push(id);
    }
}
