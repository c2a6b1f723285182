//! How values flow through a graph: what depends on the input, what reaches the output, and which
//! tensors everything passes through.

use super::Model;
use super::check::subgraphs;
use super::operator::{Class, Movement};
use super::proto::{GraphProto, NodeProto};
use std::collections::{HashMap, HashSet};

/// The flow of values from a model's inputs.
pub(super) struct Flow<'a> {
    graph: &'a GraphProto,
    producer: HashMap<&'a str, usize>,
    dependent: HashSet<&'a str>,
}

/// What a node reads, including outer tensors that its subgraphs read.
pub(super) fn reads(node: &NodeProto) -> Vec<&str> {
    let mut names: Vec<&str> =
        node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    for inner in subgraphs(node) {
        names.extend(inner.node.iter().flat_map(reads));
        names.extend(inner.output.iter().map(super::proto::ValueInfoProto::name));
    }
    names
}

/// The outputs of a node that can hold activations.
pub fn values(node: &NodeProto) -> impl Iterator<Item = &str> {
    node.output
        .iter()
        .take(node.operator().values)
        .map(String::as_str)
        .filter(|name| !name.is_empty())
}

/// The nodes that make a tensor of another one without any weight, the last one first: each reads
/// one tensor of the data and moves its values or takes a function of each.
#[must_use]
pub fn trail<'a>(model: &'a Model, tensor: &str) -> Vec<&'a NodeProto> {
    let flow = Flow::new(model);
    let mut nodes = Vec::new();
    let mut next = flow.producer(tensor);
    while let Some(node) = next {
        let is_plain = match node.operator().class {
            Class::Movement(_) | Class::Softmax => true,
            Class::Activation | Class::Elementwise => node.input.len() == 1,
            _ => false,
        };
        let (&[data], true) = (flow.data(node).as_slice(), is_plain) else { break };
        nodes.push(node);
        next = flow.producer(data);
    }
    nodes
}

/// Whether a tensor is a map `[batch, height, width, channels]` that was transposed from the order
/// in which ONNX's operators compute.
#[must_use]
pub fn is_transposed(model: &Model, tensor: &str) -> bool {
    let trail = trail(model, tensor);
    let moves = |node: &&&NodeProto| match node.operator().class {
        Class::Movement(movement) => !matches!(movement, Movement::Copy | Movement::Cast),
        _ => false,
    };
    trail.iter().find(moves).is_some_and(|node| {
        let perm = node.attribute.iter().find(|attribute| attribute.name() == "perm");
        node.op_type() == "Transpose" && perm.is_some_and(|perm| perm.ints == [0, 2, 3, 1])
    })
}

impl<'a> Flow<'a> {
    /// Follows the values of the model's inputs.
    pub(super) fn new(model: &'a Model) -> Self {
        let graph = model.graph();
        let fed: HashSet<String> = model.inputs().into_iter().map(|input| input.name).collect();
        let mut dependent: HashSet<&str> = graph
            .input
            .iter()
            .map(super::proto::ValueInfoProto::name)
            .filter(|name| fed.contains(*name))
            .collect();
        let mut producer = HashMap::new();
        for (index, node) in graph.node.iter().enumerate() {
            producer.extend(node.output.iter().map(|name| (name.as_str(), index)));
            if !node.operator().reads_shape
                && reads(node).iter().any(|name| dependent.contains(name))
            {
                dependent.extend(values(node));
            }
        }
        Self { graph, producer, dependent }
    }

    /// Whether a tensor's values depend on an input's values.
    pub(super) fn depends_on_input(&self, tensor: &str) -> bool {
        self.dependent.contains(tensor)
    }

    /// The node that computes a tensor.
    pub(super) fn producer(&self, tensor: &str) -> Option<&'a NodeProto> {
        self.producer.get(tensor).and_then(|&index| self.graph.node.get(index))
    }

    /// The tensors that a node reads and whose values depend on an input.
    pub(super) fn data(&self, node: &'a NodeProto) -> Vec<&'a str> {
        if node.operator().reads_shape {
            return Vec::new();
        }
        reads(node).into_iter().filter_map(|name| self.dependent.get(name).copied()).collect()
    }

    /// The nodes that read a tensor's values.
    pub(super) fn consumers(&self, tensor: &str) -> Vec<&'a NodeProto> {
        self.graph.node.iter().filter(|node| self.data(node).contains(&tensor)).collect()
    }

    /// Everything that `targets` are computed from by value, the targets included.
    pub(super) fn ancestors(&self, targets: &[&'a str]) -> HashSet<&'a str> {
        let mut found: HashSet<&str> = HashSet::new();
        let mut open: Vec<&str> = targets.to_vec();
        while let Some(tensor) = open.pop() {
            if self.dependent.contains(tensor)
                && found.insert(tensor)
                && let Some(node) = self.producer(tensor)
            {
                open.extend(self.data(node));
            }
        }
        found
    }

    /// The tensors that every path from the inputs to `targets` passes through. Sweeping the nodes
    /// in order, such a tensor is the only live value at the moment it is computed. The converse
    /// holds too: any other live value would be a path around it.
    pub(super) fn bottlenecks(&self, targets: &[&'a str]) -> HashSet<&'a str> {
        let relevant = self.ancestors(targets);
        let useful = |node: &NodeProto| values(node).any(|name| relevant.contains(name));
        let mut last_read: HashMap<&str, usize> = HashMap::new();
        for (index, node) in self.graph.node.iter().enumerate().filter(|(_, node)| useful(node)) {
            last_read.extend(self.data(node).into_iter().map(|name| (name, index)));
        }
        let mut alive: HashSet<&str> =
            relevant.iter().copied().filter(|name| !self.producer.contains_key(name)).collect();
        let mut found = HashSet::new();
        for (index, node) in self.graph.node.iter().enumerate().filter(|(_, node)| useful(node)) {
            for name in self.data(node) {
                if last_read.get(name) == Some(&index) && !targets.contains(&name) {
                    alive.remove(name);
                }
            }
            alive.extend(values(node).filter_map(|name| relevant.get(name).copied()));
            if let Some(only) = alive.iter().next()
                && alive.len() == 1
                && node.output.iter().any(|name| name == only)
            {
                found.insert(*only);
            }
        }
        found
    }
}
