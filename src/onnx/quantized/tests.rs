use super::*;
use crate::array::{Array, Values};
use crate::onnx::proto::{GraphProto, ModelProto, ValueInfoProto};
use crate::onnx::tensor_proto;

fn model(lines: &[&str]) -> Model {
    let node = |line: &&str| {
        let (outputs, call) = line.split_once(" = ").unwrap();
        let mut words = call.split(' ').map(str::to_owned);
        let op = words.next().unwrap();
        let (domain, op) =
            op.split_once(':').map_or(("", op.as_str()), |(domain, op)| (domain, op));
        NodeProto {
            op_type: Some(op.to_owned()),
            domain: Some(domain.to_owned()),
            input: words.map(|word| if word == "-" { String::new() } else { word }).collect(),
            output: outputs.split(' ').map(str::to_owned).collect(),
            ..NodeProto::default()
        }
    };
    let scalar =
        |name: &str, values: Values| tensor_proto(name, &Array::new(vec![], values).unwrap());
    let value =
        |name: &str| ValueInfoProto { name: Some(name.to_owned()), ..ValueInfoProto::default() };
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
    let expected =
        [("a", 0.25, 128), ("b", 0.5, -3), ("c", 0.25, 0), ("d", 0.5, 128), ("e", 0.5, 128)];
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
        "r = Resize a",
        "my.f = my:QLinearAdd a t z q s z s z",
        "f = DequantizeLinear two s z",
    ];
    let names = |found: Vec<(String, f32, i32)>| {
        found.into_iter().map(|(name, ..)| name).collect::<Vec<_>>()
    };
    assert_eq!(names(of(&lines)), ["a", "b", "c", "one", "p", "r"]);
    // a scale per channel, or a computed one, does not count
    assert!(
        of(&["a = QLinearConv x s z w s z many z", "b = QLinearConv x s z w s z x z"]).is_empty()
    );
    assert!(of(&["a = Relu x", "b = MaxPool a"]).is_empty());
}
