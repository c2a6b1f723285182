//! What makes a value more than a function of one sample: random nodes, norms in training mode,
//! scales over a batch. And the way to a value, on which whatever else mixes samples can be looked
//! for.

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
    /// It gives other values at each run.
    Random,
    /// It takes its statistics from the batch, as a network in training does.
    Training,
    /// It takes one scale for all samples of a batch: of one sample it is a function.
    DynamicQuantization,
}

/// The nodes, by operator and name, that make one of `targets` more than a function of one sample,
/// in the order of the graph.
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

/// Functions and subgraphs within each other that are looked into.
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

/// The constants that nodes of one graph see.
#[derive(Clone, Copy)]
struct Constants<'a> {
    model: &'a Model,
    initializers: &'a [TensorProto],
    nodes: &'a [NodeProto],
}

impl Constants<'_> {
    /// A constant of one element; true is 1.
    fn number(&self, name: &str) -> Option<f32> {
        let of = |tensor: &TensorProto| {
            let is_one = tensor.dims.iter().all(|&n| n == 1);
            is_one.then(|| self.model.tensor(tensor).ok()?.to_f32().first().copied()).flatten()
        };
        let outer = &self.model.graph().initializer;
        let value =
            self.initializers.iter().chain(outer).find(|tensor| tensor.name() == name).and_then(of);
        value.or_else(|| {
            let node =
                self.nodes.iter().find(|node| node.output.iter().any(|output| output == name))?;
            match node.op_type() {
                "Constant" => node
                    .attribute
                    .iter()
                    .find(|a| a.name() == "value")
                    .and_then(|a| of(a.t.as_ref()?)),
                _ => None,
            }
        })
    }
}

/// The way from the inputs, and from whatever else is drawn or held, to values.
#[derive(Debug)]
pub struct Way<'a> {
    nodes: &'a [NodeProto],
    producer: HashMap<&'a str, usize>,
}

impl<'a> Way<'a> {
    /// The ways through a graph.
    #[must_use]
    pub fn new(model: &'a Model) -> Self {
        let nodes = model.graph().node.as_slice();
        let of = |(index, node): (usize, &'a NodeProto)| {
            node.output.iter().map(move |name| (name.as_str(), index))
        };
        Self { nodes, producer: nodes.iter().enumerate().flat_map(of).collect() }
    }

    /// The nodes whose values reach one of these tensors, in the order of the graph. Shapes are no
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

    /// The tensors from which one is computed, in the order of the graph, without those that its
    /// own node computes.
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
