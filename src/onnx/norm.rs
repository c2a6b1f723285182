//! The batch normalisation that an activation's input comes from, where an export has kept it.

use super::Model;
use super::flow::Flow;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Scale γ and shift β of a batch normalisation, by channel: what it gives has mean β and deviation |γ| over the data that it was trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchNorm {
    /// γ.
    pub scale: Vec<f32>,
    /// β.
    pub bias: Vec<f32>,
}

impl BatchNorm {
    /// The normalisation right before an activation that reads `tensor`: what computes it, or the one that a shortcut is added to. `None` where
    /// nothing rectifies the tensor, its normalisation is folded into a convolution, or both branches of a sum have one.
    ///
    /// # Errors
    /// When the model's weights cannot be read.
    pub fn before_activation(model: &Model, tensor: &str) -> Result<Option<Self>> {
        let flow = Flow::new(model);
        let is_activation =
            |op: &str| matches!(op, "Relu" | "LeakyRelu" | "PRelu" | "Clip" | "Elu" | "Selu" | "HardSwish" | "Gelu" | "Mish");
        let reads = |inputs: &[String]| inputs.iter().any(|input| input == tensor);
        if !model.graph().node.iter().any(|node| is_activation(node.op_type()) && reads(&node.input)) {
            return Ok(None);
        }
        let of = |tensor: &str| flow.producer(tensor).filter(|node| node.op_type() == "BatchNormalization");
        let norm = match flow.producer(tensor) {
            Some(sum) if sum.op_type() == "Add" => {
                let norms: Vec<_> = sum.input.iter().filter_map(|input| of(input)).collect();
                if let [norm] = norms.as_slice() { Some(*norm) } else { None }
            }
            _ => of(tensor),
        };
        let Some([_, scale, bias, ..]) = norm.map(|node| node.input.as_slice()) else { return Ok(None) };
        let values = |name: &str| Ok::<_, crate::error::Error>(model.initializer(name)?.map(|array| array.to_f32()));
        let (Some(scale), Some(bias)) = (values(scale)?, values(bias)?) else { return Ok(None) };
        let is_sound = scale.len() == bias.len() && scale.iter().chain(&bias).all(|value| value.is_finite());
        Ok(is_sound.then_some(Self { scale, bias }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::{Array, Values};
    use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, ValueInfoProto};
    use crate::onnx::tensor_proto;

    /// What is found before `tensor` in a graph of these nodes (operator, inputs, output), whose initializers `g` and `b` have two channels.
    fn found(nodes: &[(&str, &[&str], &str)], tensor: &str, bias: f32) -> Option<BatchNorm> {
        let node = |&(op, inputs, output): &(&str, &[&str], &str)| NodeProto {
            op_type: Some(op.to_owned()),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.to_owned()],
            ..NodeProto::default()
        };
        let value = |name: &str| ValueInfoProto { name: Some(name.to_owned()), ..ValueInfoProto::default() };
        let array = |values: Vec<f32>| Array::new(vec![2], Values::F32(values)).unwrap();
        let graph = GraphProto {
            node: nodes.iter().map(node).collect(),
            initializer: vec![tensor_proto("g", &array(vec![2.0, -1.0])), tensor_proto("b", &array(vec![0.5, bias]))],
            input: vec![value("x")],
            output: vec![value("y")],
            ..GraphProto::default()
        };
        let model = Model::from_proto(ModelProto { graph: Some(graph), ..ModelProto::default() }).unwrap();
        BatchNorm::before_activation(&model, tensor).unwrap()
    }

    fn relu<'a>(input: &'a [&'a str]) -> (&'a str, &'a [&'a str], &'a str) {
        ("Relu", input, "y")
    }

    #[test]
    fn it_is_found_alone_and_under_a_shortcut() {
        let norm: (&str, &[&str], &str) = ("BatchNormalization", &["x", "g", "b", "b", "g"], "n");
        let expected = Some(BatchNorm { scale: vec![2.0, -1.0], bias: vec![0.5, 3.0] });
        assert_eq!(found(&[norm, relu(&["n"])], "n", 3.0), expected);
        assert_eq!(found(&[norm, ("Add", &["x", "n"], "sum"), relu(&["sum"])], "sum", 3.0), expected);
        // nothing rectifies it; no normalisation; one in each branch; weights that are no numbers
        assert_eq!(found(&[norm, ("Conv", &["n", "g"], "y")], "n", 3.0), None);
        assert_eq!(found(&[("Conv", &["x", "g"], "c"), relu(&["c"])], "c", 3.0), None);
        let other: (&str, &[&str], &str) = ("BatchNormalization", &["x", "b", "g", "b", "g"], "m");
        assert_eq!(found(&[norm, other, ("Add", &["m", "n"], "sum"), relu(&["sum"])], "sum", 3.0), None);
        assert_eq!(found(&[norm, relu(&["n"])], "n", f32::NAN), None);
    }
}
