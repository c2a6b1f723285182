//! A model that computes the shapes of its tensors, for the probe.

use super::{MODEL_GRAPH_FIELD, Model, proto};
use crate::error::Result;
use proto::{GraphProto, NodeProto, OperatorSetIdProto, ValueInfoProto};

/// The field number of `ModelProto.opset_import`.
const MODEL_OPSET_FIELD: u32 = 8;
/// An opset whose `Shape` takes every tensor, for models without default-domain operators.
const OPSET: i64 = 13;

impl Model {
    /// The model's bytes with a `Shape` node for each of these tensors, and the names of the nodes'
    /// outputs.
    ///
    /// An output tensor stays alive until a run ends; a tensor read by a node can be freed at once.
    /// The nodes are in reverse order: ONNX Runtime orders a graph from its last node without
    /// readers up, so each shape is taken as soon as its tensor exists.
    ///
    /// # Errors
    /// See [`Model::with_outputs`].
    pub fn with_shapes(&self, tensors: &[String]) -> Result<(Vec<u8>, Vec<String>)> {
        let mut bytes = self.with_outputs(&[])?;
        let mut prefix = "nst-cache.shape".to_owned();
        while self
            .graph()
            .node
            .iter()
            .flat_map(|node| &node.output)
            .any(|name| name.starts_with(&prefix))
        {
            prefix.push('.');
        }
        let names: Vec<String> =
            (0..tensors.len()).map(|index| format!("{prefix}.{index}")).collect();
        let node = |(tensor, name): (&String, &String)| NodeProto {
            op_type: Some("Shape".to_owned()),
            input: vec![tensor.clone()],
            output: vec![name.clone()],
            ..Default::default()
        };
        let extra = GraphProto {
            node: tensors.iter().zip(&names).rev().map(node).collect(),
            output: names
                .iter()
                .map(|name| ValueInfoProto { name: Some(name.clone()), ..Default::default() })
                .collect(),
            ..Default::default()
        };
        prost::encoding::message::encode(MODEL_GRAPH_FIELD, &extra, &mut bytes);
        if !self.proto.opset_import.iter().any(|set| matches!(set.domain(), "" | "ai.onnx")) {
            let set = OperatorSetIdProto { domain: None, version: Some(OPSET) };
            prost::encoding::message::encode(MODEL_OPSET_FIELD, &set, &mut bytes);
        }
        Ok((bytes, names))
    }
}
