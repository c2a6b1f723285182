//! Integer tensors that represent real numbers: outputs of the `QLinear` operators, whose scale and
//! zero point are in the graph, and copies or parts of such tensors.
//!
//! Outputs of `QuantizeLinear` are left out: the tensor that it reads is available.

use super::Model;
use super::operator::{Class, Movement};
use super::proto::{NodeProto, TensorProto};
use std::collections::HashMap;

/// How an integer represents a real number: (q − `zero_point`) · `scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantization {
    /// The real value of a step of 1.
    pub scale: f32,
    /// The integer that represents 0.
    pub zero_point: i32,
}

impl Quantization {
    /// The real value of an integer, as ONNX's `DequantizeLinear` computes it.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a difference of integers of 16 bits")]
    pub fn real(self, value: i32) -> f32 {
        (i64::from(value) - i64::from(self.zero_point)) as f32 * self.scale
    }
}

impl Model {
    /// The integer tensors that nodes compute with one constant scale, by name.
    ///
    /// Source: <https://onnx.ai/onnx/operators/> and the `com.microsoft` operators in ONNX
    /// Runtime's `docs/ContribOperators.md`.
    #[must_use]
    pub fn quantized(&self) -> HashMap<String, Quantization> {
        let nodes = &self.graph().node;
        // one of the model's functions may use any name
        let is_known = |node: &NodeProto| matches!(node.domain(), "" | "ai.onnx" | "com.microsoft");
        let scale = |node: &NodeProto| node.operator().scale.filter(|_| is_known(node));
        if !nodes.iter().any(|node| scale(node).is_some()) {
            return HashMap::new();
        }
        let scalars = self.scalars();
        let mut found: HashMap<&str, Quantization> = HashMap::new();
        for node in nodes.iter().filter(|node| is_known(node)) {
            let quantization = match scale(node) {
                Some(inputs) => self.quantization(node, inputs, &scalars),
                None => moved(node, &found),
            };
            let outputs = node.output.iter().map(String::as_str).filter(|name| !name.is_empty());
            found.extend(outputs.filter_map(|name| Some((name, quantization?))));
        }
        let given = nodes.iter().filter(|node| node.operator().class == Class::Quantization);
        for name in given.flat_map(|node| &node.output) {
            found.remove(name.as_str());
        }
        found.into_iter().map(|(name, quantization)| (name.to_owned(), quantization)).collect()
    }

    /// The scale and zero point in these inputs of a node, if both are single constants.
    fn quantization(
        &self,
        node: &NodeProto,
        [scale, zero_point]: [usize; 2],
        scalars: &HashMap<&str, &TensorProto>,
    ) -> Option<Quantization> {
        let constant = |at: usize| {
            let tensor = scalars.get(node.input.get(at)?.as_str())?;
            self.tensor(tensor).ok()?.to_f32().first().copied()
        };
        let is_given = node.input.get(zero_point).is_some_and(|name| !name.is_empty());
        #[allow(clippy::cast_possible_truncation, reason = "an integer of 16 bits, or saturated")]
        let zero_point = if is_given { constant(zero_point)? as i32 } else { 0 };
        Some(Quantization { scale: constant(scale)?, zero_point })
    }

    /// Single-element initializers and `Constant` values, by name.
    fn scalars(&self) -> HashMap<&str, &TensorProto> {
        let graph = self.graph();
        let given = graph.initializer.iter().map(|tensor| (tensor.name(), tensor));
        let constants = graph.node.iter().filter(|node| node.op_type() == "Constant");
        let constants = constants.filter_map(|node| {
            let value = node.attribute.iter().find(|a| a.name() == "value")?;
            Some((node.output.first()?.as_str(), value.t.as_ref()?))
        });
        let is_one = |tensor: &TensorProto| tensor.dims.iter().all(|&n| n == 1);
        given.chain(constants).filter(|(_, tensor)| is_one(tensor)).collect()
    }
}

/// The quantization of a node's output if the node only moves or selects values.
fn moved(node: &NodeProto, found: &HashMap<&str, Quantization>) -> Option<Quantization> {
    let quantization = |name: &String| found.get(name.as_str()).copied();
    match node.operator().class {
        // all must share one scale, or the integers are not comparable
        Class::Movement(Movement::Join) => {
            let mut all = node.input.iter().map(quantization);
            let first = all.next()??;
            all.all(|other| other == Some(first)).then_some(first)
        }
        Class::Movement(Movement::Cast) => None,
        Class::Movement(_) => node.input.first().and_then(quantization),
        _ => match node.op_type() {
            "DepthToSpace" | "MaxPool" | "NhwcMaxPool" | "SpaceToDepth" => {
                node.input.first().and_then(quantization)
            }
            "Resize" | "Upsample" if is_nearest(node) => node.input.first().and_then(quantization),
            _ => None,
        },
    }
}

/// Whether a resize repeats values, which is the default.
fn is_nearest(node: &NodeProto) -> bool {
    node.attribute.iter().find(|a| a.name() == "mode").is_none_or(|mode| mode.s() == b"nearest")
}

#[cfg(test)]
mod tests;
