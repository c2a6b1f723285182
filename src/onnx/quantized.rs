//! Integer tensors that stand for real numbers: what the `QLinear` operators compute, of which the
//! graph holds the scale and the zero point, and what only moves such values.
//!
//! What `QuantizeLinear` makes is left out: the tensor that it reads is at hand.

use super::Model;
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
        if !nodes.iter().any(|node| parameters(node).is_some()) {
            return HashMap::new();
        }
        let mut found: HashMap<&str, Quantization> = HashMap::new();
        for node in nodes {
            let quantization = match parameters(node) {
                Some([scale, zero_point]) => self.quantization(node, scale, zero_point),
                None => moved(node, &found),
            };
            // the indices that a pooling gives beside its maximum are numbers of another kind
            let count = if node.op_type() == "Split" { node.output.len() } else { 1 };
            let outputs = node.output.iter().take(count).map(String::as_str).filter(|name| !name.is_empty());
            found.extend(outputs.filter_map(|name| Some((name, quantization?))));
        }
        let given = nodes.iter().filter(|node| node.op_type() == "QuantizeLinear");
        for name in given.flat_map(|node| &node.output) {
            found.remove(name.as_str());
        }
        found.into_iter().map(|(name, quantization)| (name.to_owned(), quantization)).collect()
    }

    /// The scale and zero point in these inputs of a node, where they are single constants.
    fn quantization(&self, node: &NodeProto, scale: usize, zero_point: usize) -> Option<Quantization> {
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
        let tensor: &TensorProto = node.attribute.iter().find(|a| a.name() == "value")?.t.as_ref()?;
        self.tensor(tensor).ok()
    }
}

/// Where a node takes the scale and the zero point of what it computes; `None`: it has none.
fn parameters(node: &NodeProto) -> Option<[usize; 2]> {
    Some(match node.op_type() {
        "QLinearConv" | "QLinearMatMul" | "QLinearAdd" | "QLinearMul" => [6, 7],
        "QLinearAveragePool"
        | "QLinearGlobalAveragePool"
        | "QLinearLeakyRelu"
        | "QLinearReduceMean"
        | "QLinearSigmoid"
        | "QLinearSoftmax" => [3, 4],
        "QLinearConcat" => [0, 1],
        "QLinearWhere" | "QGemm" => [7, 8],
        "QuantizeLinear" => [1, 2],
        _ => return None,
    })
}

/// How the values stand that a node only moves or picks.
fn moved(node: &NodeProto, found: &HashMap<&str, Quantization>) -> Option<Quantization> {
    let of = |name: &String| found.get(name.as_str()).copied();
    match node.op_type() {
        "DepthToSpace" | "Expand" | "Flatten" | "Gather" | "Identity" | "MaxPool" | "Reshape" | "Slice" | "SpaceToDepth" | "Split"
        | "Squeeze" | "Tile" | "Transpose" | "Unsqueeze" => node.input.first().and_then(of),
        // of one scale all, or the integers are no longer comparable
        "Concat" => {
            let mut all = node.input.iter().map(of);
            let first = all.next()??;
            all.all(|other| other == Some(first)).then_some(first)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Values;
    use crate::onnx::proto::{GraphProto, ModelProto, ValueInfoProto};
    use crate::onnx::tensor_proto;

    fn model(lines: &[&str]) -> Model {
        let node = |line: &&str| {
            let (outputs, call) = line.split_once(" = ").unwrap();
            let mut words = call.split(' ').map(str::to_owned);
            let op_type = words.next();
            NodeProto {
                op_type,
                input: words.map(|word| if word == "-" { String::new() } else { word }).collect(),
                output: outputs.split(' ').map(str::to_owned).collect(),
                ..NodeProto::default()
            }
        };
        let scalar = |name: &str, values: Values| tensor_proto(name, &Array::new(vec![], values).unwrap());
        let value = |name: &str| ValueInfoProto { name: Some(name.to_owned()), ..ValueInfoProto::default() };
        let graph = GraphProto {
            input: vec![value("x"), value("w")],
            node: lines.iter().map(node).collect(),
            initializer: vec![
                scalar("s", Values::F32(vec![0.5])),
                scalar("t", Values::F32(vec![0.25])),
                scalar("z", Values::U8(vec![128])),
                scalar("i", Values::I8(vec![-3])),
                tensor_proto("many", &Array::new(vec![2], Values::F32(vec![0.5, 1.0])).unwrap()),
            ],
            ..GraphProto::default()
        };
        Model::from_proto(ModelProto { graph: Some(graph), ..ModelProto::default() }).unwrap()
    }

    fn of(lines: &[&str]) -> Vec<(String, f32, i32)> {
        let found = model(lines).quantized().into_iter().map(|(name, q)| (name, q.scale, q.zero_point));
        let mut found: Vec<_> = found.collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    #[test]
    fn every_operator_says_its_own_scale() {
        let lines = [
            "q = QuantizeLinear x s z",
            "a = QLinearConv q s z w s z t z",
            "b = QLinearAdd a t z q s z s i",
            "c = QLinearGlobalAveragePool b s i t -",
            "d = QLinearConcat s z a t z b s i",
            "e = QGemm c t z w s z - s z",
        ];
        let expected = [("a", 0.25, 128), ("b", 0.5, -3), ("c", 0.25, 0), ("d", 0.5, 128), ("e", 0.5, 128)];
        assert_eq!(of(&lines), expected.map(|(name, scale, zero)| (name.to_owned(), scale, zero)));
        assert!((Quantization { scale: 0.25, zero_point: 128 }.real(2) + 31.5).abs() < f32::EPSILON);
    }

    #[test]
    fn what_moves_values_hands_their_scale_on_and_what_mixes_them_does_not() {
        let lines = [
            "q = QuantizeLinear x s z",
            "p = MaxPool q",
            "a = QLinearConv p s z w s z t z",
            "b c = Split a",
            "one = Concat b c",
            "two = Concat b p",
            "f = DequantizeLinear two s z",
        ];
        let names = |found: Vec<(String, f32, i32)>| found.into_iter().map(|(name, ..)| name).collect::<Vec<_>>();
        assert_eq!(names(of(&lines)), ["a", "b", "c", "one", "p"]);
        // a scale for each channel, or one that is computed, is none of the tensor
        assert!(of(&["a = QLinearConv x s z w s z many z", "b = QLinearConv x s z w s z x z"]).is_empty());
        assert!(of(&["a = Relu x", "b = MaxPool a"]).is_empty());
    }
}
