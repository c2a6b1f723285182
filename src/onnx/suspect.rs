//! What makes a value more than a function of one sample: random nodes, norms in training mode,
//! scales over a batch. And the way to a value, on which whatever else mixes samples can be looked
//! for.

use super::check::{node_name, subgraphs};
use super::flow::{reads, reads_shape_only, values};
use super::proto::{NodeProto, TensorProto};
use super::tap::int;
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

/// The first opset in which an attribute, and not the number of outputs, says that batch
/// normalization trains.
const OPSET_TRAINING_MODE: i64 = 14;

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

fn look(node: &NodeProto, constants: &Constants<'_>, depth: usize, found: &mut Vec<(Suspicion, String)>) {
    if let Some(suspicion) = suspicion(node, constants) {
        found.push((suspicion, node_name(node)));
    }
    if depth == DEPTH {
        return;
    }
    for inner in subgraphs(node) {
        let constants = Constants { initializers: &inner.initializer, nodes: &inner.node, ..*constants };
        inner.node.iter().for_each(|node| look(node, &constants, depth + 1, found));
    }
    let called = constants.model.proto().functions.iter().find(|f| f.name() == node.op_type() && f.domain() == node.domain());
    if let Some(function) = called {
        let constants = Constants { initializers: &[], nodes: &function.node, ..*constants };
        function.node.iter().for_each(|node| look(node, &constants, depth + 1, found));
    }
}

fn suspicion(node: &NodeProto, constants: &Constants<'_>) -> Option<Suspicion> {
    let is_true = |at: usize| node.input.get(at).and_then(|name| constants.number(name)).is_some_and(|value| value != 0.0);
    match node.op_type() {
        "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike" | "Multinomial" | "Bernoulli" => {
            Some(Suspicion::Random)
        }
        // with a ratio of 0 it drops nothing
        "Dropout" if is_true(2) => {
            let ratio = node.input.get(1).filter(|name| !name.is_empty()).and_then(|name| constants.number(name));
            (ratio != Some(0.0)).then_some(Suspicion::Random)
        }
        "BatchNormalization" => {
            let trains = if constants.model.opset() < OPSET_TRAINING_MODE {
                node.output.iter().filter(|name| !name.is_empty()).count() > 1
            } else {
                int(node, "training_mode") != 0
            };
            trains.then_some(Suspicion::Training)
        }
        op if op.starts_with("DynamicQuantize") => Some(Suspicion::DynamicQuantization),
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
        let value = self.initializers.iter().chain(outer).find(|tensor| tensor.name() == name).and_then(of);
        value.or_else(|| {
            let node = self.nodes.iter().find(|node| node.output.iter().any(|output| output == name))?;
            match node.op_type() {
                "Constant" => node.attribute.iter().find(|a| a.name() == "value").and_then(|a| of(a.t.as_ref()?)),
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
        let of = |(index, node): (usize, &'a NodeProto)| node.output.iter().map(move |name| (name.as_str(), index));
        Self { nodes, producer: nodes.iter().enumerate().flat_map(of).collect() }
    }

    /// The nodes whose values reach one of these tensors, in the order of the graph. Shapes are no
    /// values.
    fn nodes_to(&self, tensors: &[String]) -> Vec<usize> {
        let mut open: Vec<usize> = tensors.iter().filter_map(|name| self.producer.get(name.as_str()).copied()).collect();
        let mut found: HashSet<usize> = HashSet::new();
        while let Some(index) = open.pop() {
            if let Some(node) = self.nodes.get(index).filter(|node| !reads_shape_only(node))
                && found.insert(index)
            {
                open.extend(reads(node).into_iter().filter_map(|name| self.producer.get(name).copied()));
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
        let before = self.nodes_to(&[tensor.to_owned()]).into_iter().filter(|index| Some(*index) != own);
        let nodes = before.filter_map(|index| self.nodes.get(index)).filter(|node: &&proto::NodeProto| node.op_type() != "Constant");
        nodes.flat_map(values).collect()
    }

    /// The node that computes a tensor, by operator and name.
    #[must_use]
    pub fn node(&self, tensor: &str) -> Option<String> {
        self.producer.get(tensor).and_then(|&index| self.nodes.get(index)).map(node_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::{Array, Values};
    use crate::onnx::proto::{AttributeProto, GraphProto, ModelProto, OperatorSetIdProto, ValueInfoProto};
    use crate::onnx::tensor_proto;

    fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        NodeProto {
            op_type: Some(op.into()),
            input: inputs.iter().map(|&i| i.into()).collect(),
            output: outputs.iter().map(|&o| o.into()).collect(),
            ..Default::default()
        }
    }

    /// What is suspected of a graph from `x` to `y`.
    fn suspected(opset: i64, nodes: Vec<NodeProto>) -> Vec<(Suspicion, String)> {
        let info = |name: &str| ValueInfoProto { name: Some(name.into()), ..Default::default() };
        let byte = |name: &str, value: u8| tensor_proto(name, &Array::new(vec![], Values::U8(vec![value])).unwrap());
        let zero = tensor_proto("zero", &Array::new(vec![], Values::F32(vec![0.0])).unwrap());
        let initializer = vec![byte("on", 1), byte("off", 0), zero];
        let graph = GraphProto { node: nodes, initializer, input: vec![info("x")], output: vec![info("y")], ..Default::default() };
        let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(opset) }];
        let model = Model::from_proto(ModelProto { graph: Some(graph), opset_import, ..Default::default() }).unwrap();
        suspects(&model, &["y".to_owned()])
    }

    #[test]
    fn each_suspect_is_named_and_what_is_off_is_none() {
        use Suspicion::{DynamicQuantization, Random, Training};
        let training = AttributeProto { name: Some("training_mode".into()), i: Some(1), ..Default::default() };
        let norm = |outputs: &[&str], attribute: Vec<AttributeProto>| NodeProto {
            attribute,
            ..node("BatchNormalization", &["x", "zero", "zero", "zero", "zero"], outputs)
        };
        for (opset, node, expected) in [
            (17, node("RandomNormalLike", &["x"], &["y"]), Some(Random)),
            (17, node("Dropout", &["x", "", "on"], &["y"]), Some(Random)),
            (17, node("Dropout", &["x", "", "off"], &["y"]), None),
            (17, node("Dropout", &["x", "zero", "on"], &["y"]), None),
            (17, node("Dropout", &["x"], &["y"]), None),
            (17, norm(&["y", "m", "v"], vec![training.clone()]), Some(Training)),
            (17, norm(&["y"], vec![]), None),
            (9, norm(&["y", "m", "v", "sm", "sv"], vec![]), Some(Training)),
            (9, norm(&["y", "", "", "", ""], vec![]), None),
            (17, node("DynamicQuantizeMatMul", &["x"], &["y"]), Some(DynamicQuantization)),
        ] {
            let op = node.op_type().to_owned();
            let found = suspected(opset, vec![node]);
            assert_eq!(found, expected.map(|suspicion| (suspicion, format!("{op} `y`"))).into_iter().collect::<Vec<_>>(), "{op}");
        }
    }

    #[test]
    fn only_what_reaches_the_value_counts() {
        let noise = || node("RandomNormalLike", &["x"], &["noise"]);
        assert_eq!(suspected(17, vec![noise(), node("Relu", &["x"], &["y"])]), []);
        assert_eq!(suspected(17, vec![noise(), node("Add", &["x", "noise"], &["y"])]).len(), 1);
        // its shape alone
        let shape = node("Shape", &["noise"], &["shape"]);
        assert_eq!(suspected(17, vec![noise(), shape, node("Reshape", &["x", "shape"], &["y"])]), []);
        // in the branch of an If
        let body = GraphProto { node: vec![node("RandomNormalLike", &["x"], &["inner"])], ..Default::default() };
        let branch = AttributeProto { name: Some("then_branch".into()), g: Some(body), ..Default::default() };
        let found = suspected(17, vec![NodeProto { attribute: vec![branch], ..node("If", &["on"], &["y"]) }]);
        assert_eq!(found, [(Suspicion::Random, "RandomNormalLike `inner`".to_owned())]);
    }
}
