//! Tensors that a graph contains rather than computes, by name: initializers, the values of
//! Constant nodes, and both under the names that Identity nodes give them.

use super::host::Host;
use super::op::site::attribute;
use crate::array::{Array, Dtype, Values};
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::onnx::proto::{NodeProto, TensorProto, ValueInfoProto};
use std::collections::{HashMap, HashSet};

/// A tensor that the graph contains rather than computes: an initializer, a Constant node's value,
/// or one of them under the name that an Identity node gives it.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub(super) shape: Vec<usize>,
    pub(super) dtype: Dtype,
    held: Held,
    pub(super) constant_node: bool,
}

/// Where a leaf's value is: large ones are read when they are needed.
#[derive(Debug, Clone)]
enum Held {
    /// An initializer of the model, by number.
    Initializer(usize),
    /// The `value` of a Constant node of the model, by number.
    Node(usize),
    /// In memory.
    Value(Array),
}

impl Leaf {
    fn tensor(model: &Model, tensor: &TensorProto, held: Held) -> Result<Self> {
        let (dtype, shape) = model.head(tensor)?;
        Ok(Self { shape, dtype, constant_node: matches!(held, Held::Node(_)), held })
    }

    /// The number of its elements.
    pub(super) fn len(&self) -> usize {
        self.shape.iter().fold(1, |n, &d| n.saturating_mul(d))
    }

    pub(super) fn is_float(&self) -> bool {
        self.dtype.is_float()
    }

    /// Whether all its elements are this number.
    pub(super) fn is_all(&self, model: &Model, number: f64) -> bool {
        self.value(model).is_ok_and(|array| {
            Host::from_array(&array).floats().iter().all(|v| (v - number).abs() == 0.0)
        })
    }

    /// Whether it is one number, or zeros: what exporters write where a model has no initial state.
    pub(super) fn is_no_state(&self, model: &Model) -> bool {
        self.len() == 1 || self.is_all(model, 0.0)
    }

    /// Its value.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn value(&self, model: &Model) -> Result<Array> {
        let graph = model.graph();
        let tensor = match &self.held {
            Held::Initializer(number) => graph.initializer.get(*number),
            Held::Node(number) => graph
                .node
                .get(*number)
                .and_then(|node| attribute(node, "value"))
                .and_then(|a| a.t.as_ref()),
            Held::Value(array) => return Ok(array.clone()),
        };
        model.tensor(tensor.ok_or_else(|| Error::internal("constant: not of this model"))?)
    }
}

/// Nodes with their numbers in the model's graph.
pub(super) type NumberedNodes = Vec<(usize, NodeProto)>;

/// Leaves by name.
pub(super) type Leaves = HashMap<String, Leaf>;

/// All leaves by name, and the nodes that remain.
pub(super) fn collect(model: &Model) -> Result<(Leaves, NumberedNodes)> {
    let graph = model.graph();
    let mut leaves = HashMap::new();
    for (number, initializer) in graph.initializer.iter().enumerate() {
        leaves.insert(
            initializer.name().to_owned(),
            Leaf::tensor(model, initializer, Held::Initializer(number))?,
        );
    }
    let outputs: HashSet<&str> = graph.output.iter().map(ValueInfoProto::name).collect();
    let mut nodes = Vec::new();
    for (number, node) in graph.node.iter().enumerate() {
        let result = node.output.first().filter(|o| !outputs.contains(o.as_str()));
        if let (true, Some(output)) = (is_standard(node), result) {
            if node.op_type() == "Constant" {
                let leaf = match attribute(node, "value").and_then(|a| a.t.as_ref()) {
                    Some(tensor) => Some(Leaf::tensor(model, tensor, Held::Node(number))?),
                    None => constant(model, node)?.map(|value| {
                        let (shape, dtype) = (value.shape().to_vec(), value.dtype());
                        Leaf { shape, dtype, held: Held::Value(value), constant_node: true }
                    }),
                };
                if let Some(leaf) = leaf {
                    leaves.insert(output.clone(), leaf);
                    continue;
                }
            }
            if node.op_type() == "Identity"
                && let Some(leaf) = node.input.first().and_then(|i| leaves.get(i))
            {
                let leaf = leaf.clone();
                leaves.insert(output.clone(), leaf);
                continue;
            }
        }
        nodes.push((number, node.clone()));
    }
    Ok((leaves, nodes))
}

pub(super) fn is_standard(node: &NodeProto) -> bool {
    matches!(node.domain(), "" | "ai.onnx")
}

/// The value of a Constant node; `None` for strings and sparse tensors.
pub(super) fn constant(model: &Model, node: &NodeProto) -> Result<Option<Array>> {
    if let Some(tensor) = attribute(node, "value").and_then(|a| a.t.as_ref()) {
        return model.tensor(tensor).map(Some);
    }
    let array = |shape, values| Array::new(shape, values).map(Some);
    if let Some(a) = attribute(node, "value_int") {
        return array(Vec::new(), Values::I64(vec![a.i()]));
    }
    if let Some(a) = attribute(node, "value_ints") {
        return array(vec![a.ints.len()], Values::I64(a.ints.clone()));
    }
    if let Some(a) = attribute(node, "value_float") {
        return array(Vec::new(), Values::F32(vec![a.f()]));
    }
    if let Some(a) = attribute(node, "value_floats") {
        return array(vec![a.floats.len()], Values::F32(a.floats.clone()));
    }
    Ok(None)
}
