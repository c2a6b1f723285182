//! Reads a graph as a trainable model: what trains, what is a running statistic, what is shared and
//! what only looks shared.

use super::chance::{self, Chance, GraphContext, Refusals};
use super::host::Host;
use super::leaf::{Leaf, Leaves, NumberedNodes, collect, constant};
use super::trains::{self, Asked, Decision, Trains};
use super::{ImportOptions, Output, TensorId};
use crate::array::{Array, Dtype};
use crate::error::Result;
use crate::onnx::signature::Signature;
use crate::onnx::{
    Model,
    operator::Class,
    proto::{NodeProto, ValueInfoProto},
    trains_as_written,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Where the value of a tensor comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TensorSource {
    /// A graph input, by number.
    Input(usize),
    /// A parameter, by number in order of names.
    Parameter(usize),
    /// A running statistic, by number in order of names.
    Buffer(usize),
    /// A known value.
    Constant,
    /// The output of a node.
    Computed,
}

/// A node with the names of its inputs after un-sharing. Constant nodes, and Identity nodes that
/// only rename initializers, are removed.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) proto: NodeProto,
    pub(super) inputs: Vec<Option<TensorId>>,
    pub(super) outputs: Vec<Option<TensorId>>,
    /// The number of the node in the file.
    pub(super) number: usize,
}

/// A graph read for training.
#[derive(Debug)]
pub(super) struct Graph {
    pub(super) opset: i64,
    pub(super) nodes: Vec<Node>,
    pub(super) names: Vec<String>,
    pub(super) sources: Vec<TensorSource>,
    /// Which graph inputs hold integers, by tensor.
    pub(super) integers: Vec<bool>,
    pub(super) index: HashMap<String, TensorId>,
    /// Parameters and running statistics by name.
    pub(super) parameters: BTreeMap<String, Leaf>,
    pub(super) buffers: BTreeMap<String, Leaf>,
    /// The decision about every float tensor, in the order in which the graph first reads them.
    pub(super) decisions: Vec<Decision>,
    pub(super) constants: BTreeMap<TensorId, Host>,
    /// Whether `constants` lacks some that were too large.
    pub(super) lacks_constants: bool,
    /// Nodes that cannot be run: number in `nodes` and the reason.
    pub(super) unsupported: Vec<(usize, String)>,
    /// Batch norms that stay frozen in training, by their numbers in the model's graph: the file
    /// has others that train.
    pub(super) frozen: BTreeSet<usize>,
    /// The random tensors.
    pub(super) chance: Chance,
    /// Whether it is a part of a graph: its input needs a gradient, and its own tensors do not
    /// change.
    pub(super) is_stage: bool,
}

/// Reads a graph. Constants that together have more elements than `room` are left out.
///
/// # Errors
/// When a constant cannot be read or is used in a way that contradicts itself.
pub(super) fn read(
    model: &Model,
    signature: Option<&Signature>,
    options: &ImportOptions,
    room: usize,
) -> Result<Graph> {
    let (mut leaves, mut nodes) = collect(model)?;
    unshare(&mut leaves, &mut nodes);
    let statistics = statistic_names(&nodes);
    let asked = Asked { freeze: &options.freeze, train: &options.train };
    let mut trains = trains::decide(model, &leaves, &nodes, &statistics, signature, asked)?;
    let order = trains.names();
    let take = |names: &mut dyn Iterator<Item = &String>| -> BTreeMap<String, Leaf> {
        names.filter_map(|n| Some((n.clone(), leaves.get(n)?.clone()))).collect()
    };
    let parameters = take(&mut order.iter());
    let buffers = take(&mut statistics.iter());
    let (chance, random) = follow(model, &nodes, &leaves, [&parameters, &buffers])?;
    trains.unsupported.extend(random);
    trains.unsupported.sort_by_key(|(position, _)| *position);
    let mut graph = assemble(model, nodes, parameters, buffers, trains);
    graph.chance = chance;
    graph.read_constants(model, &leaves, room)?;
    Ok(graph)
}

/// Gives a running statistic a name of its own where an exporter merged it with a parameter, or a
/// mean with a variance, of equal value.
fn unshare(leaves: &mut Leaves, nodes: &mut [(usize, NodeProto)]) {
    let mut uses: HashMap<String, BTreeSet<usize>> = HashMap::new();
    for (_, node) in nodes.iter() {
        for (slot, name) in node.input.iter().enumerate() {
            let slot = if node.operator().statistics.contains(&slot) { slot } else { 0 };
            uses.entry(name.clone()).or_default().insert(slot);
        }
    }
    for (number, node) in nodes.iter_mut() {
        for (&slot, role) in node.operator().statistics.iter().zip(["running_mean", "running_var"])
        {
            let Some(name) = node.input.get_mut(slot) else { continue };
            if uses.get(name).is_some_and(|slots| slots.len() > 1)
                && let Some(leaf) = leaves.get(name).cloned()
            {
                let mut own = format!("{name}.{role}.{number}");
                while leaves.contains_key(&own) {
                    own.push('_');
                }
                leaves.insert(own.clone(), leaf);
                *name = own;
            }
        }
    }
}

fn statistic_names(nodes: &[(usize, NodeProto)]) -> BTreeSet<String> {
    let of = |n: &NodeProto| {
        n.operator()
            .statistics
            .iter()
            .filter_map(|&slot| n.input.get(slot).cloned())
            .collect::<Vec<_>>()
    };
    nodes.iter().flat_map(|(_, n)| of(n)).collect()
}

/// Constants of more elements are not checked for equal values.
const SINGLE: usize = 1 << 12;

/// The random tensors, and the nodes that cannot be run because of them. `held`: parameters and
/// statistics.
fn follow(
    model: &Model,
    nodes: &NumberedNodes,
    leaves: &HashMap<String, Leaf>,
    held: [&BTreeMap<String, Leaf>; 2],
) -> Result<(Chance, Refusals)> {
    if nodes.iter().all(|(_, node)| node.operator().class != Class::Random) {
        return Ok(Default::default());
    }
    let mut context = GraphContext {
        constants: HashMap::new(),
        fills: HashMap::new(),
        outputs: model.graph().output.iter().map(ValueInfoProto::name).collect(),
        dtype: held[0].values().next().map_or(Dtype::F32, |leaf| leaf.dtype),
    };
    let single = |value: &Array| chance::single(&Host::from_array(value));
    for (name, leaf) in leaves.iter().filter(|(n, _)| held.iter().all(|h| !h.contains_key(*n))) {
        let value = (leaf.len() <= SINGLE).then(|| leaf.value(model)).transpose()?;
        context.constants.insert(name, value.as_ref().and_then(single));
    }
    for (_, node) in nodes.iter().filter(|(_, node)| node.op_type() == "ConstantOfShape") {
        if let Some(name) = node.output.first() {
            let fill = constant(model, node)?;
            context.fills.insert(name, fill.as_ref().map_or(Some(0.0), single));
        }
    }
    Ok(chance::follow(nodes, &context))
}

/// The batch norms in inference form of a graph that has others in training form. Where all have
/// one form they train: an export for inference does not show what its author trains.
fn frozen(nodes: &[(usize, NodeProto)], opset: i64) -> BTreeSet<usize> {
    let norms = nodes.iter().filter(|(_, node)| !node.operator().statistics.is_empty());
    let (train, frozen): (Vec<_>, Vec<_>) = norms.partition(|(_, n)| trains_as_written(n, opset));
    if train.is_empty() {
        BTreeSet::new()
    } else {
        frozen.iter().map(|(number, _)| *number).collect()
    }
}

fn assemble(
    model: &Model,
    nodes: Vec<(usize, NodeProto)>,
    parameters: BTreeMap<String, Leaf>,
    buffers: BTreeMap<String, Leaf>,
    trains: Trains,
) -> Graph {
    let mut graph = Graph {
        opset: model.opset(),
        nodes: Vec::new(),
        names: Vec::new(),
        sources: Vec::new(),
        integers: Vec::new(),
        index: HashMap::new(),
        parameters,
        buffers,
        decisions: trains.decisions,
        constants: BTreeMap::new(),
        lacks_constants: false,
        unsupported: trains.unsupported,
        frozen: frozen(&nodes, model.opset()),
        chance: Chance::default(),
        is_stage: false,
    };
    for (i, input) in model.inputs().iter().enumerate() {
        graph.add(&input.name, TensorSource::Input(i));
    }
    let numbered =
        |names: &BTreeMap<String, Leaf>| names.keys().cloned().enumerate().collect::<Vec<_>>();
    for (i, name) in numbered(&graph.parameters) {
        graph.add(&name, TensorSource::Parameter(i));
    }
    for (i, name) in numbered(&graph.buffers) {
        graph.add(&name, TensorSource::Buffer(i));
    }
    for (number, proto) in nodes {
        let inputs = proto
            .input
            .iter()
            .map(|name| (!name.is_empty()).then(|| graph.add(name, TensorSource::Constant)))
            .collect();
        let outputs = proto
            .output
            .iter()
            .map(|name| (!name.is_empty()).then(|| graph.add(name, TensorSource::Computed)))
            .collect();
        graph.nodes.push(Node { proto, inputs, outputs, number });
    }
    graph.integers = vec![false; graph.names.len()];
    for (i, input) in model.inputs().iter().enumerate() {
        graph.integers[i] = input.dtype.is_some_and(|dtype| !dtype.is_float());
    }
    graph
}

impl Graph {
    /// The model's outputs that nodes compute, in the file's order.
    pub(super) fn outputs(&self, model: &Model) -> Vec<Output> {
        let computed = |name: String| {
            let tensor = *self.index.get(&name)?;
            let source = self.sources.get(tensor.0)?;
            (*source == TensorSource::Computed).then_some(Output { name, tensor })
        };
        model.outputs().into_iter().filter_map(|output| computed(output.name)).collect()
    }

    fn add(&mut self, name: &str, source: TensorSource) -> TensorId {
        if let Some(&id) = self.index.get(name) {
            return id;
        }
        let id = TensorId(self.names.len());
        self.names.push(name.to_owned());
        self.sources.push(source);
        self.index.insert(name.to_owned(), id);
        id
    }

    /// Reads the leaves that nodes read as known values.
    fn read_constants(&mut self, model: &Model, leaves: &Leaves, mut room: usize) -> Result<()> {
        for (number, name) in self
            .names
            .iter()
            .enumerate()
            .filter(|(number, _)| self.sources.get(*number) == Some(&TensorSource::Constant))
        {
            let Some(leaf) = leaves.get(name) else { continue };
            let Some(left) = room.checked_sub(leaf.len()) else {
                self.lacks_constants = true;
                continue;
            };
            room = left;
            self.constants.insert(TensorId(number), Host::from_array(&leaf.value(model)?));
        }
        Ok(())
    }

    /// The value attribute of each `ConstantOfShape` node.
    ///
    /// # Errors
    /// When one cannot be read.
    pub(super) fn fills(&self, model: &Model) -> Result<HashMap<usize, Host>> {
        let mut fills = HashMap::new();
        for (i, node) in
            self.nodes.iter().enumerate().filter(|(_, n)| n.proto.op_type() == "ConstantOfShape")
        {
            if let Some(value) = constant(model, &node.proto)? {
                fills.insert(i, Host::from_array(&value));
            }
        }
        Ok(fills)
    }

    /// Whether a tensor of this source needs a gradient.
    pub(super) fn differentiates(&self, source: TensorSource) -> bool {
        if self.is_stage {
            matches!(source, TensorSource::Input(_))
        } else {
            matches!(source, TensorSource::Parameter(_))
        }
    }

    /// A node's name and operator, for messages.
    pub(super) fn label(&self, node: usize) -> (String, String) {
        let Some(node) = self.nodes.get(node) else { return Default::default() };
        let name = if node.proto.name().is_empty() {
            node.proto.output.first().cloned().unwrap_or_default()
        } else {
            node.proto.name().to_owned()
        };
        let operator = match node.proto.domain() {
            "" | "ai.onnx" => node.proto.op_type().to_owned(),
            domain => format!("{domain}.{}", node.proto.op_type()),
        };
        (name, operator)
    }
}
