use super::*;
use crate::array::{Array, Values};
use crate::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, OperatorSetIdProto, ValueInfoProto,
};
use crate::onnx::tensor_proto;

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        input: inputs.iter().map(|&i| i.into()).collect(),
        output: outputs.iter().map(|&o| o.into()).collect(),
        ..Default::default()
    }
}

/// The suspects in a graph from `x` to `y`.
fn suspected(opset: i64, nodes: Vec<NodeProto>) -> Vec<(Suspicion, String)> {
    let info = |name: &str| ValueInfoProto { name: Some(name.into()), ..Default::default() };
    let byte = |name: &str, value: u8| {
        tensor_proto(name, &Array::new(vec![], Values::U8(vec![value])).unwrap())
    };
    let zero = tensor_proto("zero", &Array::new(vec![], Values::F32(vec![0.0])).unwrap());
    let initializer = vec![byte("on", 1), byte("off", 0), zero];
    let graph = GraphProto {
        node: nodes,
        initializer,
        input: vec![info("x")],
        output: vec![info("y")],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(opset) }];
    let model =
        Model::from_proto(ModelProto { graph: Some(graph), opset_import, ..Default::default() })
            .unwrap();
    suspects(&model, &["y".to_owned()])
}

#[test]
fn each_suspect_is_named_and_what_is_off_is_none() {
    use Suspicion::{DynamicQuantization, Random, Training};
    let training =
        AttributeProto { name: Some("training_mode".into()), i: Some(1), ..Default::default() };
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
        assert_eq!(
            found,
            expected
                .map(|suspicion| (suspicion, format!("{op} `y`")))
                .into_iter()
                .collect::<Vec<_>>(),
            "{op}"
        );
    }
}

#[test]
fn only_what_reaches_the_value_counts() {
    let noise = || node("RandomNormalLike", &["x"], &["noise"]);
    assert_eq!(suspected(17, vec![noise(), node("Relu", &["x"], &["y"])]), []);
    assert_eq!(suspected(17, vec![noise(), node("Add", &["x", "noise"], &["y"])]).len(), 1);
    // only its shape
    let shape = node("Shape", &["noise"], &["shape"]);
    assert_eq!(suspected(17, vec![noise(), shape, node("Reshape", &["x", "shape"], &["y"])]), []);
    // in the branch of an If
    let body = GraphProto {
        node: vec![node("RandomNormalLike", &["x"], &["inner"])],
        ..Default::default()
    };
    let branch =
        AttributeProto { name: Some("then_branch".into()), g: Some(body), ..Default::default() };
    let found =
        suspected(17, vec![NodeProto { attribute: vec![branch], ..node("If", &["on"], &["y"]) }]);
    assert_eq!(found, [(Suspicion::Random, "RandomNormalLike `inner`".to_owned())]);
}
