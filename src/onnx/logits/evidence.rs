//! Whether a table `[batch, width]` that no softmax follows holds class logits or something else,
//! such as an embedding. Its name, its width and the layer that computes it tell; where they don't,
//! the guess is said.

use super::super::operator::{Class, Movement};
use super::super::{Model, metadata};
use crate::onnx::proto::NodeProto;
use std::collections::{BTreeMap, HashMap};

/// The class counts of ImageNet-1k (in TensorFlow's models with a background class) and of its
/// larger versions.
const IMAGENET: [usize; 5] = [1000, 1001, 11821, 21841, 21843];
/// Parts of the names that exporters give to logits, and to embeddings.
const OF_LOGITS: [&str; 2] = ["logit", "class"];
const OF_EMBEDDINGS: [&str; 8] =
    ["embed", "feature", "hidden", "pooler", "latent", "projection", "represent", "descriptor"];

/// What a table holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Class logits.
    Logits,
    /// Class logits, as far as the graph shows; the reason to doubt it.
    Guess(String),
    /// Something else; the reason.
    Other(String),
}

/// Judges a table by its tensor's name and width, and by the graph; a width or a number of the
/// data's `classes` of 0 is unknown.
pub(super) fn judge(model: &Model, tensor: &str, width: usize, classes: usize) -> Verdict {
    if let Some(told) = told(model, tensor) {
        return if told == metadata::CLASS_LOGITS {
            Verdict::Logits
        } else {
            Verdict::Other(format!("`{tensor}` is recorded as {told}"))
        };
    }
    let recorded = model
        .metadata(metadata::CLASSES)
        .and_then(|text| serde_json::from_str::<Vec<String>>(text).ok().map(|names| names.len()));
    if width > 0 && (width == classes || recorded == Some(width)) {
        return Verdict::Logits;
    }
    let name = tensor.to_ascii_lowercase();
    if let Some(part) = OF_EMBEDDINGS.iter().find(|part| name.contains(*part)) {
        return Verdict::Other(format!("`{tensor}` is no class logits by its name ({part})"));
    }
    if width == 1 {
        return Verdict::Other(format!("`{tensor}` has one value per sample"));
    }
    let is_named = OF_LOGITS.iter().any(|part| name.contains(part));
    match last_layer(model, tensor) {
        Some(node) if is_linear(node) => match () {
            () if is_named || IMAGENET.contains(&width) => Verdict::Logits,
            () if classes > 0 && width > 0 => {
                Verdict::Other(format!("`{tensor}` has {width} values, the data {classes} classes"))
            }
            () => Verdict::Guess(format!("`{tensor}`, since a linear layer computes it")),
        },
        // a classifier may end in a pooling
        Some(node) if is_named && node.operator().class != Class::Normalization => {
            Verdict::Guess(format!("`{tensor}`, by its name"))
        }
        Some(node) => {
            let operator = node.op_type();
            Verdict::Other(format!("`{tensor}` is computed by {operator}, not by a linear layer"))
        }
        None => Verdict::Other(format!("`{tensor}` is no layer's output")),
    }
}

/// What a trained student's file says of an output.
fn told(model: &Model, output: &str) -> Option<String> {
    let text = model.metadata(metadata::OUTPUTS)?;
    serde_json::from_str::<BTreeMap<String, String>>(text).ok()?.remove(output)
}

/// The node that computes a tensor's values; what moves, casts or dequantizes them is passed.
fn last_layer<'a>(model: &'a Model, tensor: &'a str) -> Option<&'a NodeProto> {
    let nodes = &model.graph().node;
    let producer: HashMap<&str, &NodeProto> = nodes
        .iter()
        .flat_map(|node| node.output.iter().map(move |name| (name.as_str(), node)))
        .collect();
    let mut tensor = tensor;
    for _ in 0..=nodes.len() {
        let node = producer.get(tensor)?;
        let class = node.operator().class;
        let is_bias = node.op_type() == "Add"
            && node.input.iter().filter(|name| producer.contains_key(name.as_str())).count() == 1;
        let passes = matches!(class, Class::Movement(Movement::Copy | Movement::Cast))
            || matches!(class, Class::Movement(Movement::Reshape) | Class::Quantization)
            || is_bias;
        if !passes {
            return Some(node);
        }
        tensor = node.input.iter().find(|name| producer.contains_key(name.as_str()))?;
    }
    None
}

/// Whether a node is a linear layer; a convolution may be the last one too.
fn is_linear(node: &NodeProto) -> bool {
    matches!(node.operator().class, Class::Product) || node.operator().is_convolution()
}
