use super::*;
use crate::array::{Array, Values};
use crate::onnx::proto::{
    self, AttributeProto, FunctionProto, GraphProto, ModelProto, OperatorSetIdProto, TypeProto,
    ValueInfoProto,
};
use crate::onnx::tensor_proto;

/// A classifier whose `scores` a Gemm computes from `x`, followed by what exporters add: lines of
/// `OUTPUT = OP INPUT… [key=value]`.
struct Case {
    opset: i64,
    lines: Vec<String>,
    functions: Vec<FunctionProto>,
}

fn case(lines: &[&str]) -> Case {
    Case {
        opset: 17,
        lines: lines.iter().map(|&line| line.to_owned()).collect(),
        functions: Vec::new(),
    }
}

fn nodes(lines: &[String]) -> Vec<NodeProto> {
    let node = |line: &String| {
        let (output, rest) = line.split_once(" = ").unwrap();
        let mut words = rest.split(' ');
        let op_type = words.next().map(str::to_owned);
        let (attributes, input): (Vec<&str>, Vec<&str>) =
            words.partition(|word| word.contains('='));
        let attribute = attributes.iter().map(|text| {
            let (name, value) = text.split_once('=').unwrap();
            AttributeProto {
                name: Some(name.into()),
                i: Some(value.parse().unwrap()),
                ..Default::default()
            }
        });
        let attribute = attribute.collect();
        let input = input.into_iter().map(str::to_owned).collect();
        NodeProto { op_type, input, output: vec![output.into()], attribute, ..Default::default() }
    };
    lines.iter().map(node).collect()
}

impl Case {
    /// The model whose output is the last line's.
    fn model(&self) -> Model {
        let all = [&["scores = Gemm x".to_owned()], self.lines.as_slice()].concat();
        let node = nodes(&all);
        let output = node.last().unwrap().output[0].clone();
        let tensor = proto::type_proto::Tensor { elem_type: Some(1), shape: None };
        let r#type = Some(TypeProto {
            value: Some(proto::type_proto::Value::TensorType(tensor)),
            ..Default::default()
        });
        let info = |name: &str| ValueInfoProto {
            name: Some(name.into()),
            r#type: r#type.clone(),
            ..Default::default()
        };
        let constant = |(name, value): (&str, f32)| {
            tensor_proto(name, &Array::new(vec![], Values::F32(vec![value])).unwrap())
        };
        let initializer = [("one", 1.0), ("tiny", 1e-7), ("hundred", 100.0), ("minus", -1.0)]
            .map(constant)
            .to_vec();
        let graph = GraphProto {
            node,
            initializer,
            input: vec![info("x")],
            output: vec![info(&output)],
            ..Default::default()
        };
        let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(self.opset) }];
        let functions = self.functions.clone();
        Model::from_proto(ModelProto {
            graph: Some(graph),
            opset_import,
            functions,
            ..Default::default()
        })
        .unwrap()
    }

    /// The logits if every tensor has rows of `shape`, except `output`, whose rows are ten classes.
    fn choose(&self, shape: &[usize]) -> Result<Logits, String> {
        let model = self.model();
        let output = model.outputs()[0].name.clone();
        of_output(&model, 0)
            .unwrap()
            .choose(|tensor| Some(if tensor == output { vec![10] } else { shape.to_vec() }))
    }

    fn tensor(&self) -> (String, Option<Conversion>) {
        let found = self.choose(&[10]).unwrap();
        (found.tensor, found.conversion)
    }
}

#[test]
fn what_the_softmax_reads_is_found_behind_whatever_exporters_add() {
    for lines in [
        &["p = Softmax scores"][..],
        &["p = LogSoftmax scores"],
        &["h = Cast scores to=10", "p = Softmax h", "f = Cast p to=1"],
        &["p = Softmax scores axis=1", "r = Reshape p shape"],
        &["p = Softmax scores", "s = Unsqueeze p axes", "r = Squeeze s axes", "f = Flatten r"],
        &["p = Softmax scores", "c = Clip p tiny one"],
        &["p = Softmax scores", "c = Max p tiny", "l = Log c"],
        &["p = Softmax scores", "a = Add tiny p", "l = Log a"],
        &["p = Softmax scores", "percent = Mul p hundred", "i = Identity percent"],
        &[
            "p = Softmax scores",
            "d = Dropout p",
            "q = QuantizeLinear d s z",
            "f = DequantizeLinear q s z",
        ],
        &["l = LogSoftmax scores", "p = Exp l"],
        &[
            "m = ReduceMax scores",
            "c = Sub scores m",
            "e = Exp c",
            "s = ReduceSum e",
            "p = Div e s",
        ],
        &["e = Exp scores", "s = ReduceSum e", "c = Clip s tiny", "p = Div e c", "f = Cast p to=1"],
        &["e = Exp scores", "s = ReduceSum e", "r = Reciprocal s", "p = Mul r e"],
        &["s = ReduceLogSumExp scores", "l = Sub scores s"],
        &[
            "m = ReduceMax scores",
            "c = Sub scores m",
            "e = Exp c",
            "s = ReduceSum e",
            "l = Log s",
            "p = Sub c l",
        ],
        &["p = Sigmoid scores"],
        &["n = Neg scores", "e = Exp n", "d = Add e one", "p = Div one d"],
        &["n = Neg scores", "e = Exp n", "d = Add one e", "p = Reciprocal d"],
    ] {
        let mut lines: Vec<&str> = lines.to_vec();
        // constants whose names the lines use
        for constant in ["shape = Constant", "axes = Constant", "s = Constant", "z = Constant"] {
            let (name, _) = constant.split_once(" = ").unwrap();
            let is_read = lines.iter().any(|line| {
                line.split(" = ")
                    .nth(1)
                    .is_some_and(|rest| rest.split(' ').any(|word| word == name))
            });
            if is_read && !lines.iter().any(|line| line.starts_with(&format!("{name} = "))) {
                lines.insert(0, constant);
            }
        }
        let expected = if lines.contains(&"p = Softmax h") { "h" } else { "scores" };
        assert_eq!(case(&lines).tensor(), (expected.to_owned(), None), "{lines:?}");
    }
}

#[test]
fn what_is_no_softmax_stays_as_it_is() {
    for lines in [
        &["y = Identity scores"][..],
        &["y = Relu scores"],
        &["y = Mul scores minus"],
        // a gate, a mean of two, a logarithm without a softmax
        &["g = Sigmoid scores", "y = Mul scores g"],
        &["y = Log scores"],
        &["e = Exp scores", "s = ReduceSum scores", "y = Div e s"],
    ] {
        let last = lines.last().unwrap().split(' ').next().unwrap();
        let (tensor, conversion) = case(lines).tensor();
        assert_eq!((tensor.as_str(), conversion), (last, None), "{lines:?}");
        assert!(case(lines).choose(&[10]).unwrap().note.is_none());
    }
}

#[test]
fn probabilities_are_converted_where_nothing_else_is_to_be_had() {
    // of the input itself
    assert_eq!(case(&["p = Softmax x"]).tensor(), ("p".into(), Some(Conversion::Probabilities)));
    assert_eq!(case(&["p = Sigmoid x"]).tensor(), ("p".into(), Some(Conversion::Sigmoid)));
    assert_eq!(case(&["p = Softmax x", "l = Log p"]).tensor(), ("l".into(), None));
    assert!(case(&["p = Sigmoid x", "l = Log p"]).choose(&[10]).is_err());
    // a convolution's [10, 1, 1] is logits, a map is not
    let conv = case(&["p = Softmax scores axis=1", "f = Flatten p"]);
    assert_eq!(conv.choose(&[10, 1, 1]).unwrap().tensor, "scores");
    assert!(conv.choose(&[5, 2, 1]).unwrap_err().contains("over 5 of a row's 10"));
    assert!(case(&["p = Softmax scores axis=0", "f = Flatten p"]).choose(&[10]).is_err());
    // before opset 13 a softmax covers its axis and all that follow
    let old = Case { opset: 11, ..case(&["p = Softmax scores", "f = Flatten p"]) };
    assert_eq!(old.choose(&[5, 2, 1]).unwrap().conversion, Some(Conversion::Probabilities));
    // a tensor that the user names is kept, and converted
    let model = case(&["p = Softmax scores", "f = Identity p"]).model();
    let named = of_tensor(&model, "p").choose(|_| Some(vec![10])).unwrap();
    assert_eq!((named.tensor.as_str(), named.conversion), ("p", Some(Conversion::Probabilities)));
}

#[test]
fn functions_are_looked_into() {
    let function = |lines: &[&str], output: &str| FunctionProto {
        name: Some("Head".into()),
        domain: Some("local".into()),
        input: vec!["in".into()],
        output: vec![output.into()],
        node: nodes(&lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>()),
        ..Default::default()
    };
    let called = |body: FunctionProto, lines: &[&str]| {
        let case = Case { functions: vec![body], ..case(lines) };
        let mut proto = case.model().proto().clone();
        let graph = proto.graph.as_mut().unwrap();
        graph
            .node
            .iter_mut()
            .filter(|n| n.op_type() == "Head")
            .for_each(|n| n.domain = Some("local".into()));
        let found = of_output(&Model::from_proto(proto).unwrap(), 0)
            .unwrap()
            .choose(|_| Some(vec![10]))
            .unwrap();
        (found.tensor, found.conversion)
    };
    let softmax = function(&["p = Softmax in", "out = Identity p"], "out");
    assert_eq!(called(softmax, &["y = Head scores", "z = Identity y"]), ("scores".into(), None));
    let passes = function(&["out = Identity in"], "out");
    assert_eq!(called(passes, &["p = Softmax scores", "y = Head p"]), ("scores".into(), None));
    // what it reads is inside, where nobody can read it
    let inside = function(&["h = Relu in", "out = Softmax h"], "out");
    assert_eq!(called(inside, &["y = Head scores"]), ("y".into(), Some(Conversion::Probabilities)));
    // a function that calls itself, and a cycle
    let endless = function(&["out = Identity out"], "out");
    assert_eq!(called(endless, &["y = Head scores"]), ("y".into(), None));
}

#[test]
fn a_student_is_trained_on_what_its_softmax_reads() {
    let student_logits = |lines: &[&str]| of_student(&case(lines).model(), 0).unwrap();
    assert_eq!(student_logits(&["p = Softmax scores", "c = Cast p to=1"]), "scores");
    assert_eq!(student_logits(&["p = Softmax scores", "r = Reshape p one"]), "r");
    assert_eq!(student_logits(&["p = Sigmoid scores"]), "p");
    assert_eq!(student_logits(&["p = Softmax x"]), "p");
}

#[test]
fn probabilities_become_logits() {
    let mut p = [0.5, 0.25, 0.25, 0.0, 1.0];
    Conversion::Probabilities.apply(&mut p, Dtype::F32).unwrap();
    let expected = [0.5f32, 0.25, 0.25, f32::MIN_POSITIVE, 1.0].map(f32::ln);
    assert_eq!(p.map(f32::to_bits), expected.map(f32::to_bits));
    let mut p = [0.0];
    Conversion::Probabilities.apply(&mut p, Dtype::F16).unwrap();
    assert!((p[0] - 2f32.powi(-24).ln()).abs() < 1e-6, "{p:?}");
    let mut p = [0.5, 0.75, 1.0, 0.0];
    Conversion::Sigmoid.apply(&mut p, Dtype::F32).unwrap();
    assert!(
        p[0].abs() < 1e-6
            && (p[1] - 3f32.ln()).abs() < 1e-6
            && p[2] > 16.0
            && p[2] < 17.0
            && p[3] < -87.0,
        "{p:?}"
    );
    for (values, at) in
        [([0.5, -0.1, 0.5], 1), ([f32::INFINITY, 0.0, 0.0], 0), ([0.5, 0.5, f32::NAN], 2)]
    {
        assert_eq!(Conversion::Probabilities.apply(&mut values.clone(), Dtype::F32), Err(at));
    }
    // of two softmaxes added up; no sigmoid is above 1
    assert_eq!(Conversion::Probabilities.apply(&mut [1.1, 0.9, 0.0], Dtype::F32), Ok(()));
    assert_eq!(Conversion::Sigmoid.apply(&mut [0.5, 1.1], Dtype::F32), Err(1));
}

#[test]
fn softmaxes_that_are_mixed_otherwise_are_said() {
    let note = |lines: &[&str]| case(lines).choose(&[10]).unwrap().note;
    let both = ["a = Softmax scores", "b = Softmax x"];
    for lines in [
        &[both[0], both[1], "p = Max a b"][..],
        &[both[0], both[1], "p = Mul a b"],
        &[both[0], both[1], "c = Concat a b", "p = ReduceSum c"],
        &[both[0], "h = Softmax a", "p = Sub h a"],
    ] {
        assert!(note(lines).is_some_and(|note| note.contains("made of softmaxes")), "{lines:?}");
    }
    // a layer after them, or scores besides them
    for lines in [&[both[0], "p = Gemm a"][..], &[both[0], "p = Mul a scores"], &["p = Gemm x"]] {
        assert_eq!(note(lines), None, "{lines:?}");
    }
}

#[test]
fn softmaxes_that_are_added_up_are_probabilities_whatever_their_sum() {
    let sum = |lines: &[&str]| case(lines).tensor();
    let both = ["a = Softmax scores", "b = Softmax x"];
    let logits = |line| sum(&[both[0], both[1], line]);
    let expected = ("p".to_owned(), Some(Conversion::Probabilities));
    for line in ["p = Add a b", "p = Sum a b a", "p = Mean a b"] {
        assert_eq!(logits(line), expected, "{line}");
    }
    assert_eq!(sum(&[both[0], both[1], "h = Mul a tiny", "p = Add h b"]), expected);
    // a logarithm, or anything else in the sum, does not count
    let unknown = ("p".to_owned(), None);
    assert_eq!(sum(&["a = Softmax scores", "b = LogSoftmax scores", "p = Add a b"]), unknown);
    assert_eq!(sum(&["a = Softmax scores", "b = Sigmoid scores", "p = Add a b"]), unknown);
    assert_eq!(sum(&["a = Softmax scores", "p = Add a scores"]), unknown);
    assert_eq!(sum(&["p = Add scores x"]), unknown);
}

#[test]
fn rows_of_probabilities_are_told_from_logits() {
    assert!(are_probabilities(&[0.2, 0.3, 0.5, 1.0, 0.0, 0.0], 3));
    // as rounded to f16
    let halves: Vec<f32> = [0.1, 0.2, 0.7].map(|p| half::f16::from_f32(p).to_f32()).to_vec();
    assert!(are_probabilities(&halves, 3));
    for rows in [
        &[0.2, 0.3, 0.4][..],
        &[0.2, 0.3, 0.5, 1.0, 2.0, -2.0],
        &[1.5, -0.5, 0.0],
        &[f32::NAN, 0.5, 0.5],
        &[],
    ] {
        assert!(!are_probabilities(rows, 3), "{rows:?}");
    }
    // a sum of one value says nothing
    assert!(!are_probabilities(&[1.0, 1.0], 1));
}

#[test]
fn the_graph_shows_what_values_are() {
    let of = |lines: &[&str]| {
        let model = case(lines).model();
        let output = model.outputs().remove(0).name;
        nature(&model, &output)
    };
    let softmax = |axis, is_log| Some(Nature::Softmax { axis, is_log });
    assert_eq!(of(&["p = Softmax scores axis=1", "out = Identity p"]), softmax(Some(1), false));
    assert_eq!(of(&["out = LogSoftmax scores"]), softmax(Some(-1), true));
    // another rank has other axes
    assert_eq!(of(&["p = Softmax scores axis=1", "out = Flatten p"]), softmax(None, false));
    assert_eq!(of(&["e = Exp scores", "s = ReduceSum e", "out = Div e s"]), softmax(None, false));
    assert_eq!(of(&["out = Sigmoid scores"]), Some(Nature::Sigmoid));
    assert_eq!(of(&["p = Sigmoid scores", "out = Log p"]), None);
    assert_eq!(of(&["i = ArgMax scores axis=1", "out = Cast i to=1"]), Some(Nature::Indices));
    // a sum of indices is none
    assert_eq!(of(&["i = ArgMax scores axis=1", "out = Add i i"]), None);
    assert_eq!(of(&["out = Relu scores"]), None);
    // before opset 13 a softmax is over all axes from its own on
    let old = Case { opset: 12, ..case(&["out = Softmax scores axis=1"]) }.model();
    assert_eq!(nature(&old, "out"), softmax(None, false));
    assert_eq!(nature(&old, "scores"), None);
}
