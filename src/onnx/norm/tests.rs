use super::*;
use crate::array::{Array, Values};
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, ValueInfoProto};
use crate::onnx::tensor_proto;

/// The result before `tensor` in a graph of these nodes (operator, inputs, output), whose
/// initializers `g` and `b` have two channels.
fn found(nodes: &[(&str, &[&str], &str)], tensor: &str, bias: f32) -> Option<BatchNorm> {
    let node = |&(op, inputs, output): &(&str, &[&str], &str)| NodeProto {
        op_type: Some(op.to_owned()),
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    };
    let value =
        |name: &str| ValueInfoProto { name: Some(name.to_owned()), ..ValueInfoProto::default() };
    let array = |values: Vec<f32>| Array::new(vec![2], Values::F32(values)).unwrap();
    let graph = GraphProto {
        node: nodes.iter().map(node).collect(),
        initializer: vec![
            tensor_proto("g", &array(vec![2.0, -1.0])),
            tensor_proto("b", &array(vec![0.5, bias])),
        ],
        input: vec![value("x")],
        output: vec![value("y")],
        ..GraphProto::default()
    };
    let model =
        Model::from_proto(ModelProto { graph: Some(graph), ..ModelProto::default() }).unwrap();
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
    // nothing rectifies it; no normalization; one in each branch; weights that are not numbers
    assert_eq!(found(&[norm, ("Conv", &["n", "g"], "y")], "n", 3.0), None);
    assert_eq!(found(&[("Conv", &["x", "g"], "c"), relu(&["c"])], "c", 3.0), None);
    let other: (&str, &[&str], &str) = ("BatchNormalization", &["x", "b", "g", "b", "g"], "m");
    assert_eq!(
        found(&[norm, other, ("Add", &["m", "n"], "sum"), relu(&["sum"])], "sum", 3.0),
        None
    );
    assert_eq!(found(&[norm, relu(&["n"])], "n", f32::NAN), None);
}
