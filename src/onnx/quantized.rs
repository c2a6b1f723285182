//! Integer tensors that stand for real numbers: what the `QLinear` operators compute, of which the
//! graph holds the scale and the zero point, and what only moves such values.
//!
//! What `QuantizeLinear` makes is left out: the tensor that it reads is at hand.

use super::Model;
use super::operator::{Class, Movement};
use super::proto::{NodeProto, TensorProto};
use crate::array::Array;
use std::collections::HashMap;

/// How an integer stands for a real number: (q − `zero_point`) · `scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantization {
    /// The real number that a step of 1 stands for.
    pub scale: f32,
    /// The integer that stands for 0.
    pub zero_point: i32,
}

impl Quantization {
    /// The real numbers, as ONNX's `DequantizeLinear` computes them.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a difference of integers of 16 bits")]
    pub fn real(self, value: i32) -> f32 {
        (value - self.zero_point) as f32 * self.scale
    }
}

impl Model {
    /// The integer tensors that nodes compute with one constant scale, by name.
    ///
    /// Source: the operators of <https://onnx.ai/onnx/operators/> and those of `com.microsoft` in
    /// ONNX Runtime's `docs/ContribOperators.md`.
    #[must_use]
    pub fn quantized(&self) -> HashMap<String, Quantization> {
        let nodes = &self.graph().node;
        if !nodes.iter().any(|node| node.operator().scale.is_some()) {
            return HashMap::new();
        }
        let mut found: HashMap<&str, Quantization> = HashMap::new();
        for node in nodes {
            let quantization = match node.operator().scale {
                Some([scale, zero_point]) => self.quantization(node, scale, zero_point),
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

    /// The scale and zero point in these inputs of a node, where they are single constants.
    fn quantization(
        &self,
        node: &NodeProto,
        scale: usize,
        zero_point: usize,
    ) -> Option<Quantization> {
        let constant = |at: usize| {
            let name = node.input.get(at).filter(|name| !name.is_empty())?;
            Some(self.constant(name)?.to_f32()).filter(|values| values.len() == 1)?.first().copied()
        };
        let is_given = node.input.get(zero_point).is_some_and(|name| !name.is_empty());
        #[allow(clippy::cast_possible_truncation, reason = "an integer of 16 bits")]
        let zero_point = if is_given { constant(zero_point)? as i32 } else { 0 };
        Some(Quantization { scale: constant(scale)?, zero_point })
    }

    /// The value of an initializer or of a `Constant` node.
    fn constant(&self, name: &str) -> Option<Array> {
        if let Some(initializer) = self.initializer(name).ok()? {
            return Some(initializer);
        }
        let mut constants = self.graph().node.iter().filter(|node| node.op_type() == "Constant");
        let node = constants.find(|node| node.output.iter().any(|output| output == name))?;
        let tensor: &TensorProto =
            node.attribute.iter().find(|a| a.name() == "value")?.t.as_ref()?;
        self.tensor(tensor).ok()
    }
}

/// How the values stand that a node only moves or picks.
fn moved(node: &NodeProto, found: &HashMap<&str, Quantization>) -> Option<Quantization> {
    let of = |name: &String| found.get(name.as_str()).copied();
    let operator = node.operator();
    match operator.class {
        // of one scale all, or the integers are no longer comparable
        Class::Movement(Movement::Join) => {
            let mut all = node.input.iter().map(of);
            let first = all.next()??;
            all.all(|other| other == Some(first)).then_some(first)
        }
        Class::Movement(Movement::Cast) => None,
        Class::Movement(_) => node.input.first().and_then(of),
        _ if matches!(operator.name, "DepthToSpace" | "MaxPool" | "SpaceToDepth") => {
            node.input.first().and_then(of)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
