//! Finds what makes a value more than a function of one sample: random nodes, normalizations in
//! training mode, scales over a batch. Also traces the path to a value, along which other mixing of
//! samples can be searched.

use super::check::{node_name, subgraphs};
use super::flow::{reads, values};
use super::norm::trains_as_written;
use super::operator::{Class, Inference};
use super::proto::{NodeProto, TensorProto};
use super::{Model, proto};
use std::collections::{HashMap, HashSet};

/// Why a node is suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspicion {
    /// It gives different values in each run.
    Random,
    /// It takes its statistics from the batch, as in training.
    Training,
    /// It takes one scale from all samples of a batch, so it is a function of one sample only in a
    /// batch of one.
    DynamicQuantization,
}

/// The nodes, by operator and name, that make one of `targets` more than a function of one sample,
/// in graph order.
#[must_use]
pub fn suspects(model: &Model, targets: &[String]) -> Vec<(Suspicion, String)> {
    let graph = model.graph();
    let way = Way::new(model);
    let constants = Constants { model, initializers: &graph.initializer, nodes: &graph.node };
    let mut found = Vec::new();
    for node in way.nodes_to(targets).into_iter().filter_map(|index| graph.node.get(index)) {
        look(node, &constants, 0, &mut found);
    }
    found
}

/// Deepest nesting of functions and subgraphs that is searched.
const DEPTH: usize = 8;

fn look(
    node: &NodeProto,
    constants: &Constants<'_>,
    depth: usize,
    found: &mut Vec<(Suspicion, String)>,
) {
    if let Some(suspicion) = suspicion(node, constants) {
        found.push((suspicion, node_name(node)));
    }
    if depth == DEPTH {
        return;
    }
    for inner in subgraphs(node) {
        let constants =
            Constants { initializers: &inner.initializer, nodes: &inner.node, ..*constants };
        inner.node.iter().for_each(|node| look(node, &constants, depth + 1, found));
    }
    let called = constants
        .model
        .proto()
        .functions
        .iter()
        .find(|f| f.name() == node.op_type() && f.domain() == node.domain());
    if let Some(function) = called {
        let constants = Constants { initializers: &[], nodes: &function.node, ..*constants };
        function.node.iter().for_each(|node| look(node, &constants, depth + 1, found));
    }
}

fn suspicion(node: &NodeProto, constants: &Constants<'_>) -> Option<Suspicion> {
    let is_true = |at: usize| {
        node.input.get(at).and_then(|name| constants.number(name)).is_some_and(|value| value != 0.0)
    };
    match (node.operator().class, node.operator().inference) {
        (Class::Random, _) => Some(Suspicion::Random),
        (Class::DynamicQuantization, _) => Some(Suspicion::DynamicQuantization),
        // dropout that trains; with a ratio of 0 it drops nothing
        (_, Inference::Input) if is_true(2) => {
            let ratio = node
                .input
                .get(1)
                .filter(|name| !name.is_empty())
                .and_then(|name| constants.number(name));
            (ratio != Some(0.0)).then_some(Suspicion::Random)
        }
        (_, Inference::FirstOutput) => {
            trains_as_written(node, constants.model.opset()).then_some(Suspicion::Training)
        }
        _ => None,
    }
}

/// The constants visible in one graph.
#[derive(Clone, Copy)]
struct Constants<'a> {
    model: &'a Model,
    initializers: &'a [TensorProto],
    nodes: &'a [NodeProto],
}

impl Constants<'_> {
    /// A single-element constant; true is 1.
    fn number(&self, name: &str) -> Option<f32> {
        let single = |tensor: &TensorProto| {
            let is_one = tensor.dims.iter().all(|&n| n == 1);
            is_one.then(|| self.model.tensor(tensor).ok()?.to_f32().first().copied()).flatten()
        };
        let outer = &self.model.graph().initializer;
        let value = self
            .initializers
            .iter()
            .chain(outer)
            .find(|tensor| tensor.name() == name)
            .and_then(single);
        value.or_else(|| {
            let node =
                self.nodes.iter().find(|node| node.output.iter().any(|output| output == name))?;
            match node.op_type() {
                "Constant" => node
                    .attribute
                    .iter()
                    .find(|a| a.name() == "value")
                    .and_then(|a| single(a.t.as_ref()?)),
                _ => None,
            }
        })
    }
}

/// The paths from the inputs, and from random or constant values, to tensors.
#[derive(Debug)]
pub struct Way<'a> {
    nodes: &'a [NodeProto],
    producer: HashMap<&'a str, usize>,
}

impl<'a> Way<'a> {
    /// Prepares the paths through a graph.
    #[must_use]
    pub fn new(model: &'a Model) -> Self {
        let nodes = model.graph().node.as_slice();
        let outputs = |(index, node): (usize, &'a NodeProto)| {
            node.output.iter().map(move |name| (name.as_str(), index))
        };
        Self { nodes, producer: nodes.iter().enumerate().flat_map(outputs).collect() }
    }

    /// The nodes whose values reach one of these tensors, in graph order. Shapes do not count as
    /// values.
    fn nodes_to(&self, tensors: &[String]) -> Vec<usize> {
        let mut open: Vec<usize> =
            tensors.iter().filter_map(|name| self.producer.get(name.as_str()).copied()).collect();
        let mut found: HashSet<usize> = HashSet::new();
        while let Some(index) = open.pop() {
            if let Some(node) = self.nodes.get(index).filter(|node| !node.operator().reads_shape)
                && found.insert(index)
            {
                open.extend(
                    reads(node).into_iter().filter_map(|name| self.producer.get(name).copied()),
                );
            }
        }
        let mut found: Vec<usize> = found.into_iter().collect();
        found.sort_unstable();
        found
    }

    /// The tensors that a tensor is computed from, in graph order, without the other outputs of its
    /// own node.
    #[must_use]
    pub fn to(&self, tensor: &str) -> Vec<&'a str> {
        let own = self.producer.get(tensor).copied();
        let before =
            self.nodes_to(&[tensor.to_owned()]).into_iter().filter(|index| Some(*index) != own);
        let nodes = before
            .filter_map(|index| self.nodes.get(index))
            .filter(|node: &&proto::NodeProto| node.op_type() != "Constant");
        nodes.flat_map(values).collect()
    }

    /// The node that computes a tensor, by operator and name.
    #[must_use]
    pub fn node(&self, tensor: &str) -> Option<String> {
        self.producer.get(tensor).and_then(|&index| self.nodes.get(index)).map(node_name)
    }
}

#[cfg(test)]
mod tests;
