use super::*;
use crate::array::{Array, Values};
use crate::cache::{Codec, TapRecord, testing};
use crate::criterion::papers::cross_entropy::cross_entropy;
use crate::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, type_proto,
};
use crate::onnx::tap::Role;
use crate::onnx::{Model, tensor_proto};
use crate::statistic::Statistic;
use crate::student::{Executor, ImportOptions};
use candle_core::{D, DType};

const LABELS: [i64; 4] = [0, 2, 1, 2];
const CLASSES: usize = 3;
const SIDE: usize = 6;

/// Pseudorandom numbers in −0.5 … 0.5.
fn numbers(count: usize, seed: u32) -> Vec<f64> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24) - 0.5
    };
    (0..count).map(|_| next()).collect()
}

fn tensor(shape: &[usize], seed: u32) -> Tensor {
    Tensor::from_vec(numbers(shape.iter().product(), seed), shape, &Device::Cpu).unwrap()
}

fn weight(name: &str, shape: &[usize], seed: u32, scale: f64, offset: f64) -> TensorProto {
    let values =
        numbers(shape.iter().product(), seed).into_iter().map(|v| offset + scale * v).collect();
    tensor_proto(name, &Array::new(shape.to_vec(), Values::F64(values)).unwrap())
}

fn node(op: &str, inputs: &[&str], output: &str, ints: &[(&str, &[i64])]) -> NodeProto {
    let attribute = |(name, values): &(&str, &[i64])| AttributeProto {
        name: Some((*name).into()),
        ints: values.to_vec(),
        r#type: Some(AttributeType::Ints as i32),
        ..Default::default()
    };
    NodeProto {
        op_type: Some(op.into()),
        name: Some(format!("the-{output}")),
        input: inputs.iter().map(|&i| i.into()).collect(),
        output: vec![output.into()],
        attribute: ints.iter().map(attribute).collect(),
        ..Default::default()
    }
}

/// Two convolutions with batch norm, the second with a shortcut; maps `m1` 6×6 and `m2` 3×3,
/// vector `v`.
fn net(channels: [usize; 2], seed: u32) -> Student {
    let [a, b] = channels;
    let mut initializer = vec![
        weight("w1", &[a, 1, 3, 3], seed, 1.0, 0.0),
        weight("w2", &[b, a, 3, 3], seed + 1, 1.0, 0.0),
        weight("ws", &[b, a, 1, 1], seed + 2, 1.0, 0.0),
        weight("wl", &[b, CLASSES], seed + 3, 2.0, 0.0),
    ];
    for (i, n) in [("1", a), ("2", b)] {
        for (k, (name, offset)) in
            [("scale", 1.0), ("shift", 0.2), ("mean", 0.0), ("var", 1.0)].into_iter().enumerate()
        {
            initializer.push(weight(
                &format!("{name}{i}"),
                &[n],
                seed + 4 + u32::try_from(k).unwrap(),
                0.4,
                offset,
            ));
        }
    }
    let pads: (&str, &[i64]) = ("pads", &[1, 1, 1, 1]);
    let strides: (&str, &[i64]) = ("strides", &[2, 2]);
    let float = TypeProto {
        value: Some(type_proto::Value::TensorType(type_proto::Tensor {
            elem_type: Some(11),
            ..Default::default()
        })),
        ..Default::default()
    };
    let value = |name: &str| ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(float.clone()),
        ..Default::default()
    };
    let graph = GraphProto {
        name: Some("net".into()),
        input: vec![value("x")],
        output: vec![value("logits")],
        initializer,
        node: vec![
            node("Conv", &["x", "w1"], "c1", &[pads]),
            node("BatchNormalization", &["c1", "scale1", "shift1", "mean1", "var1"], "n1", &[]),
            node("Relu", &["n1"], "m1", &[]),
            node("Conv", &["m1", "w2"], "c2", &[pads, strides]),
            node("BatchNormalization", &["c2", "scale2", "shift2", "mean2", "var2"], "n2", &[]),
            node("Conv", &["m1", "ws"], "short", &[strides]),
            node("Add", &["n2", "short"], "sum", &[]),
            node("Relu", &["sum"], "m2", &[]),
            node("GlobalAveragePool", &["m2"], "g", &[]),
            node("Flatten", &["g"], "v", &[]),
            node("MatMul", &["v", "wl"], "logits", &[]),
        ],
        ..Default::default()
    };
    let proto = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        graph: Some(graph),
        ..Default::default()
    };
    let options = ImportOptions {
        dtype: DType::F64,
        executor: Executor::Reference,
        ..ImportOptions::default()
    };
    Student::import(&Model::from_proto(proto).unwrap(), &options).unwrap()
}

fn pair(
    student: &str,
    student_shape: [usize; 3],
    teacher: &str,
    teacher_shape: [usize; 3],
) -> Pair {
    Pair {
        teacher: teacher.into(),
        teacher_shape: teacher_shape.to_vec(),
        teacher_stored: vec![(Statistic::Features, 2)],
        student: student.into(),
        student_shape: student_shape.to_vec(),
        student_channels_last: false,
    }
}

fn pairs() -> [Pair; 2] {
    [pair("m1", [2, 6, 6], "m1", [3, 6, 6]), pair("m2", [3, 3, 3], "m2", [4, 3, 3])]
}

/// A manifest of 6×6 images and the teacher's tensors.
fn manifest() -> Manifest {
    let mut manifest = testing::manifest(4, 1, Codec::Raw);
    manifest.view_arrays.retain(|array| ["input", "logits"].contains(&array.path.as_str()));
    manifest.view_arrays[0].row_shape = vec![1, SIDE, SIDE];
    let tap = |name: &str| TapRecord {
        alias: name.into(),
        tensor: name.into(),
        role: Role::Map,
        stage: None,
        output: false,
        made_by: None,
        map: None,
        batch_norm: None,
    };
    manifest.taps = ["m1", "m2", "n2"].map(tap).to_vec();
    manifest
}

/// Both networks, the tensors at the first spot, and the student's own logits.
struct Example {
    student: Student,
    teacher: Student,
    route: Route,
    first: [Tensor; 2],
    plain: Tensor,
    adapters: Vec<Module>,
}

impl Example {
    fn new() -> Self {
        let (student, teacher) = (net([2, 3], 1), net([3, 4], 30));
        let pairs = pairs();
        let route =
            Route::new(&pairs.iter().collect::<Vec<_>>(), &student, &teacher, &manifest()).unwrap();
        let x = [tensor(&[4, 1, SIDE, SIDE], 60)];
        let values = |net: &Student, mode| {
            let m1 = net.tensor("m1").unwrap();
            let pass = net.forward(&x, mode, &[m1], 0).unwrap();
            [pass.value(m1).unwrap().clone(), pass.value(net.logits()).unwrap().clone()]
        };
        let ([s, plain], [t, _]) = (values(&student, Mode::Train), values(&teacher, Mode::Eval));
        let adapters = |p: &Pair| {
            sakd::adapters(&p.student_shape, &p.teacher_shape, 5)
                .unwrap()
                .to_dtype(DType::F64)
                .unwrap()
        };
        Self {
            student,
            teacher,
            route,
            first: [s, t],
            plain,
            adapters: pairs.iter().map(adapters).collect(),
        }
    }

    /// The routed pass with these gates, `[batch, spots]`.
    fn run(&self, gates: &Tensor, adapters: &[Module], gamma: f64) -> Routed {
        let columns: Vec<Tensor> =
            (0..3).map(|spot| gates.narrow(1, spot, 1).unwrap().flatten_all().unwrap()).collect();
        let judge = Judge { plain: &self.plain, labels: &LABELS, gamma };
        self.route
            .run(
                self.first.clone(),
                &columns.iter().collect::<Vec<_>>(),
                &adapters.iter().collect::<Vec<_>>(),
                judge,
                3,
            )
            .unwrap()
    }
}

/// The module with one weight replaced.
fn with(module: &Module, name: &str, weight: &Tensor) -> Module {
    Module::new(
        module
            .weights()
            .map(|(n, w)| (n.to_owned(), if n == name { weight.clone() } else { w.clone() })),
    )
    .unwrap()
}

/// Compares gradients with respect to a module's weights with central differences of `value`.
fn assert_slopes(module: &Module, gradients: &[(String, Tensor)], value: impl Fn(&Module) -> f64) {
    const STEP: f64 = 1e-6;
    assert_eq!(gradients.len(), module.weights().count());
    let mut largest = 0f64;
    for (name, gradient) in gradients {
        let at = module.get(name).unwrap();
        let (values, gradient) = (
            at.flatten_all().unwrap().to_vec1::<f64>().unwrap(),
            gradient.flatten_all().unwrap().to_vec1::<f64>().unwrap(),
        );
        for i in 0..values.len() {
            let moved = |by: f64| {
                let mut values = values.clone();
                values[i] += by;
                value(&with(
                    module,
                    name,
                    &Tensor::from_vec(values, at.shape(), &Device::Cpu).unwrap(),
                ))
            };
            let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            assert!(
                (slope - gradient[i]).abs() < 1e-7,
                "{name}[{i}]: slope {slope}, gradient {}",
                gradient[i]
            );
            largest = largest.max(gradient[i].abs());
        }
    }
    assert!(largest > 1e-3, "nothing is learned: {largest}");
}

/// Compares the gradients of the whole routed pass, from the policy's weights through soft gates to
/// the loss, with finite differences.
#[test]
fn policy_and_adapters_follow_the_slope_of_the_routed_loss() {
    const TEMPERATURE: f64 = 0.7;
    let example = Example::new();
    let vectors = [tensor(&[4, 3], 70), tensor(&[4, 4], 71)];
    let noise = tensor(&[4, 3, 2], 72);
    let policy =
        sakd::policy([3, 4], 5, &[None; 3], CLASSES, 1).unwrap().to_dtype(DType::F64).unwrap();
    let soft = |policy: &Module| {
        let scores = ((sakd::policy_scores(policy, &vectors[0], &vectors[1]).unwrap() + &noise)
            .unwrap()
            / TEMPERATURE)
            .unwrap();
        let odds = (scores.narrow(D::Minus1, 0, 1).unwrap()
            - scores.narrow(D::Minus1, 1, 1).unwrap())
        .unwrap()
        .squeeze(D::Minus1)
        .unwrap();
        ((odds.neg().unwrap().exp().unwrap() + 1.0).unwrap()).recip().unwrap()
    };
    for gamma in [1.0, 2.0] {
        let gates = soft(&policy);
        let found = example.run(&gates, &example.adapters, gamma);
        assert_eq!((found.gates.len(), found.adapters.len()), (3, 2));
        for (spot, gradients) in found.adapters.iter().enumerate() {
            assert_slopes(&example.adapters[spot], gradients, |module| {
                let mut adapters = example.adapters.clone();
                adapters[spot] = module.clone();
                example.run(&gates, &adapters, gamma).value
            });
        }
        let upstream = Tensor::stack(&found.gates, 1).unwrap();
        let learned =
            sakd::policy_pullback(&policy, &vectors, &noise, TEMPERATURE, &upstream).unwrap();
        assert_slopes(&policy, &learned.weights, |policy| {
            example.run(&soft(policy), &example.adapters, gamma).value
        });
    }
}

#[test]
fn closed_gates_are_the_student_and_open_ones_the_teacher() {
    let example = Example::new();
    let buffers = || {
        example
            .student
            .buffers()
            .iter()
            .map(|b| b.var.flatten_all().unwrap().to_vec1::<f64>().unwrap())
            .collect::<Vec<_>>()
    };
    let before = buffers();
    let all = |gate: f64| Tensor::full(gate, (4, 3), &Device::Cpu).unwrap();
    let own = cross_entropy(&example.plain, &LABELS, 0.0).unwrap().value;
    let closed = example.run(&all(0.0), &example.adapters, 2.0).value;
    assert_eq!(
        closed.to_bits(),
        (own + 2.0).to_bits(),
        "the student's own loss and the penalty of no gate of four"
    );

    let x = [tensor(&[4, 1, SIDE, SIDE], 60)];
    let pass = example.teacher.forward(&x, Mode::Eval, &[], 0).unwrap();
    let theirs =
        cross_entropy(pass.value(example.teacher.logits()).unwrap(), &LABELS, 0.0).unwrap().value;
    assert_eq!(example.run(&all(1.0), &example.adapters, 1.0).value.to_bits(), theirs.to_bits());
    assert_eq!(before, buffers(), "a routed pass moves no running statistic");

    // the stages hold the student's parameters of the step
    let last = example.student.parameters().iter().find(|p| p.name == "wl").unwrap();
    last.var.set(&(last.var.as_tensor() * 0.0).unwrap()).unwrap();
    let uniform = 3f64.ln() + 2.0;
    assert!((example.run(&all(0.0), &example.adapters, 1.0).value - uniform).abs() < 1e-12);
}

#[test]
fn what_goes_around_a_spot_is_named() {
    let (student, teacher) = (net([2, 3], 1), net([3, 4], 30));
    let refused = |pairs: &[Pair], manifest: &Manifest| {
        let error = Route::new(&pairs.iter().collect::<Vec<_>>(), &student, &teacher, manifest)
            .unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.chain()
    };
    let [first, second] = pairs();
    let inside = pair("n2", [3, 3, 3], "m2", [4, 3, 3]);
    let message = refused(&[first.clone(), inside], &manifest());
    assert!(message.contains("spot n2") && message.contains("student can be cut"), "{message}");
    assert!(message.contains("found short around it, read by node the-sum (Add)"), "{message}");
    let theirs = pair("m2", [3, 3, 3], "n2", [4, 3, 3]);
    let message = refused(&[theirs], &manifest());
    assert!(
        message.contains("spot m2")
            && message.contains("teacher can be cut")
            && message.contains("short around it"),
        "{message}"
    );
    // the teacher has them in the opposite order
    let crossed = [pair("m1", [2, 6, 6], "m2", [4, 3, 3]), pair("m2", [3, 3, 3], "m1", [3, 6, 6])];
    let message = refused(&crossed, &manifest());
    assert!(message.contains("tensor m1: expected one that follows from m2"), "{message}");

    let mut pooled = second.clone();
    pooled.teacher_shape = vec![4, 2, 2];
    let message = refused(&[first.clone(), pooled], &manifest());
    assert!(
        message.contains("tap m2: expected [4, 2, 2]") && message.contains("found [4, 3, 3]"),
        "{message}"
    );
    let mut other = manifest();
    other.taps[1].tensor = "m9".into();
    let message = refused(&[first, second], &other);
    assert!(message.contains("m9: not in the graph"), "{message}");
}
