//! Every operator's backward pass against finite differences of its forward pass, in float64, over odd shapes.

use super::{Mode, Run, Site, build};
use crate::onnx::proto::{AttributeProto, NodeProto};
use crate::student::fold::Host;
use crate::student::value::{narrow, wide};
use candle_core::{DType, Tensor};

/// A node with inputs: floats to differentiate, and known values.
struct Case {
    node: NodeProto,
    opset: i64,
    floats: Vec<Vec<usize>>,
    known: Vec<Host>,
    outputs: usize,
    /// Where the numbers are drawn from: some functions are only defined, or only smooth, on one side.
    low: f64,
    mode: Mode,
}

fn case(operator: &str, floats: &[&[usize]]) -> Case {
    let node = NodeProto { op_type: Some(operator.into()), ..NodeProto::default() };
    let floats = floats.iter().map(|s| s.to_vec()).collect();
    Case { node, opset: 17, floats, known: Vec::new(), outputs: 1, low: -1.5, mode: Mode::Train }
}

impl Case {
    fn ints(mut self, name: &str, values: &[i64]) -> Self {
        self.node.attribute.push(AttributeProto { name: Some(name.into()), ints: values.to_vec(), ..AttributeProto::default() });
        self
    }
    fn int(mut self, name: &str, value: i64) -> Self {
        self.node.attribute.push(AttributeProto { name: Some(name.into()), i: Some(value), ..AttributeProto::default() });
        self
    }
    fn float(mut self, name: &str, value: f32) -> Self {
        self.node.attribute.push(AttributeProto { name: Some(name.into()), f: Some(value), ..AttributeProto::default() });
        self
    }
    fn text(mut self, name: &str, value: &'static str) -> Self {
        self.node.attribute.push(AttributeProto { name: Some(name.into()), s: Some(value.as_bytes().into()), ..AttributeProto::default() });
        self
    }
    fn known_ints(mut self, values: &[i64]) -> Self {
        self.known.push(Host::int(vec![values.len()], values.to_vec()));
        self
    }
    fn known_float(mut self, value: f64) -> Self {
        self.known.push(Host::float(Vec::new(), vec![value]));
        self
    }
    fn opset(mut self, opset: i64) -> Self {
        self.opset = opset;
        self
    }
    fn outputs(mut self, outputs: usize) -> Self {
        self.outputs = outputs;
        self
    }
    fn positive(mut self) -> Self {
        self.low = 0.3;
        self
    }
    fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }
}

/// Numbers without a pattern, never equal (maxima have no ties) and away from 0, where functions have kinks.
fn numbers(count: usize, low: f64, seed: u64) -> Vec<f64> {
    (0..count as u64)
        .map(|i| {
            let hash = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seed.wrapping_mul(0xD1B5_4A32_D192_ED03);
            let v = low + (1.5 - low) * ((hash ^ (hash >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 11) as f64 / (1u64 << 53) as f64;
            if v.abs() < 0.05 { v + 0.1 } else { v }
        })
        .collect()
}

/// Compares every gradient with central differences of Σ weight·output.
fn check(case: &Case) {
    let mut node = case.node.clone();
    node.input = (0..case.floats.len() + case.known.len()).map(|i| format!("x{i}")).collect();
    node.output = (0..case.outputs).map(|i| format!("y{i}")).collect();
    let shapes = case.floats.iter().cloned().chain(case.known.iter().map(|h| h.shape.clone())).map(Some).collect();
    let constants = case.floats.iter().map(|_| None).chain(case.known.iter().map(Some)).collect();
    let built = build(&Site { node: &node, opset: case.opset, number: 7, shapes, constants, integers: Vec::new() }).expect(case.node.op_type());
    let run = Run { mode: case.mode, freeze_batchnorm: false, seed: 3 };
    let mut values: Vec<Vec<f64>> =
        case.floats.iter().enumerate().map(|(i, s)| numbers(s.iter().product(), case.low, i as u64 + 1)).collect();
    if case.node.op_type() == "BatchNormalization" {
        values[4].iter_mut().for_each(|v| *v = v.abs() + 0.2);
    }
    let tensors = |values: &[Vec<f64>]| -> Vec<Tensor> {
        built.inputs.iter().map(|&i| narrow(&values[i], &case.floats[i], DType::F64).unwrap()).collect()
    };
    let forward = |values: &[Vec<f64>]| {
        let inputs = tensors(values);
        built.operator.forward(&inputs.iter().collect::<Vec<_>>(), &run).expect(case.node.op_type())
    };
    let first = forward(&values);
    for (output, shape) in first.outputs.iter().zip(&built.outputs) {
        assert_eq!(output.dims(), shape, "{} as planned", case.node.op_type());
    }
    let weights: Vec<Vec<f64>> = built.outputs.iter().enumerate().map(|(i, s)| numbers(s.iter().product(), -1.5, 50 + i as u64)).collect();
    let loss = |values: &[Vec<f64>]| -> f64 {
        let outputs = forward(values).outputs;
        outputs.iter().zip(&weights).map(|(o, w)| wide(o).unwrap().iter().zip(w).map(|(a, b)| a * b).sum::<f64>()).sum()
    };
    let seeds = weights.iter().zip(&built.outputs).map(|(w, s)| Some(narrow(w, s, DType::F64).unwrap())).collect();
    // running statistics have no gradient
    let differentiable = if case.node.op_type() == "BatchNormalization" { 3 } else { built.inputs.len() };
    let wanted: Vec<bool> = (0..built.inputs.len()).map(|i| i < differentiable).collect();
    let gradients = built.operator.backward(first.saved, seeds, &wanted).expect(case.node.op_type());
    for (i, gradient) in gradients.iter().enumerate().take(differentiable) {
        let gradient = gradient.as_ref().unwrap_or_else(|| panic!("{}: no gradient of input {i}", case.node.op_type()));
        assert_eq!(gradient.dims(), case.floats[i], "{}: gradient of input {i}", case.node.op_type());
        for (at, found) in wide(gradient).unwrap().into_iter().enumerate() {
            let mut difference = |step: f64| {
                let old = values[i][at];
                values[i][at] = old + step;
                let up = loss(&values);
                values[i][at] = old - step;
                let down = loss(&values);
                values[i][at] = old;
                (up - down) / (2.0 * step)
            };
            let expected = difference(1e-5);
            let size = 1.0 + expected.abs();
            assert!((found - expected).abs() < 1e-7 * size, "{} input {i} at {at}: {found} for {expected}", case.node.op_type());
        }
    }
}

#[test]
fn convolutions() {
    check(&case("Conv", &[&[2, 3, 7, 5], &[4, 3, 3, 2], &[4]]).ints("pads", &[1, 0, 2, 1]).ints("strides", &[2, 1]));
    check(&case("Conv", &[&[9, 2, 5, 4], &[3, 2, 1, 1]]));
    check(&case("Conv", &[&[2, 2, 5, 7], &[3, 2, 1, 1]]).ints("strides", &[2, 3]));
    check(&case("Conv", &[&[2, 4, 6, 7], &[6, 2, 3, 3], &[6]]).int("group", 2).ints("dilations", &[2, 1]).ints("pads", &[2, 1, 2, 1]));
    check(&case("Conv", &[&[2, 3, 6, 7], &[3, 1, 3, 3]]).int("group", 3).ints("pads", &[1, 1, 1, 1]).ints("strides", &[2, 2]));
    check(&case("Conv", &[&[2, 3, 5, 5], &[6, 1, 3, 3], &[6]]).int("group", 3).ints("pads", &[1, 1, 1, 1]));
    check(&case("Conv", &[&[1, 2, 7, 8], &[2, 2, 3, 4]]).text("auto_pad", "SAME_UPPER").ints("strides", &[2, 3]));
    check(&case("Conv", &[&[1, 2, 7, 8], &[2, 2, 2, 4]]).text("auto_pad", "SAME_LOWER"));
    check(&case("Conv", &[&[2, 3, 9], &[4, 3, 3], &[4]]).ints("pads", &[1, 1]).ints("strides", &[2]));
    // a filter larger than the input, that padding makes fit
    check(&case("Conv", &[&[1, 1, 2, 2], &[2, 1, 5, 5]]).ints("pads", &[2, 2, 2, 2]));
}

#[test]
fn normalisations() {
    for mode in [Mode::Train, Mode::Eval] {
        check(&case("BatchNormalization", &[&[3, 2, 3, 2], &[2], &[2], &[2], &[2]]).mode(mode));
        check(&case("BatchNormalization", &[&[5, 3], &[3], &[3], &[3], &[3]]).float("epsilon", 0.1).mode(mode));
    }
    check(&case("LayerNormalization", &[&[2, 3, 5], &[5], &[5]]));
    check(&case("LayerNormalization", &[&[2, 3, 5], &[3, 5]]).int("axis", 1).float("epsilon", 0.01));
    check(&case("Softmax", &[&[3, 2, 5]]).int("axis", -1));
    check(&case("Softmax", &[&[3, 2, 5]]).opset(11));
}

#[test]
fn activations() {
    for operator in
        ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Erf", "Gelu", "Exp", "Neg", "Abs", "Elu", "Softplus"]
    {
        check(&case(operator, &[&[3, 7]]));
    }
    check(&case("Sqrt", &[&[3, 7]]).positive());
    check(&case("Gelu", &[&[3, 7]]).text("approximate", "tanh"));
    check(&case("Clip", &[&[5, 7]]).known_float(-0.7).known_float(0.9));
    check(&case("Pow", &[&[3, 7]]).known_float(2.5).positive());
}

#[test]
fn arithmetic_with_broadcasting() {
    let shapes: [(&[usize], &[usize]); 6] =
        [(&[2, 3, 4], &[2, 3, 4]), (&[2, 3, 4], &[3, 1]), (&[4], &[2, 3, 4]), (&[2, 1, 4], &[1, 3, 1]), (&[2, 3], &[]), (&[1], &[3, 2])];
    for (a, b) in shapes {
        check(&case("Add", &[a, b]));
        check(&case("Sub", &[a, b]));
        check(&case("Mul", &[a, b]));
        check(&case("Div", &[a, b]).positive());
    }
}

#[test]
fn pools_and_reductions() {
    for operator in ["MaxPool", "AveragePool"] {
        check(&case(operator, &[&[2, 2, 7, 5]]).ints("kernel_shape", &[3, 2]).ints("strides", &[2, 1]).ints("pads", &[1, 0, 1, 1]));
        check(&case(operator, &[&[1, 2, 6, 8]]).ints("kernel_shape", &[3, 3]).ints("strides", &[2, 2]).int("ceil_mode", 1));
        check(&case(operator, &[&[1, 1, 8, 8]]).ints("kernel_shape", &[2, 3]).ints("dilations", &[2, 1]).opset(19));
    }
    check(&case("AveragePool", &[&[1, 1, 5, 6]]).ints("kernel_shape", &[3, 3]).ints("pads", &[1, 1, 1, 1]).int("count_include_pad", 1));
    check(&case("GlobalAveragePool", &[&[2, 3, 4, 5]]));
    check(&case("ReduceMean", &[&[2, 3, 4, 5]]).ints("axes", &[1, -1]).int("keepdims", 0));
    check(&case("ReduceMean", &[&[2, 3, 4]]).known_ints(&[0]).opset(20));
    check(&case("ReduceSum", &[&[2, 3, 4]]));
}

#[test]
fn products() {
    check(&case("Gemm", &[&[3, 4], &[4, 5], &[5]]).float("alpha", 0.5).float("beta", 2.0));
    check(&case("Gemm", &[&[4, 3], &[5, 4], &[3, 1]]).int("transA", 1).int("transB", 1));
    check(&case("Gemm", &[&[4, 3], &[4, 5]]).int("transA", 1));
    check(&case("Gemm", &[&[3, 4], &[5, 4], &[]]).int("transB", 1));
    let shapes: [(&[usize], &[usize]); 7] = [
        (&[3, 4], &[4, 5]),
        (&[2, 3, 4], &[4, 5]),
        (&[2, 3, 4], &[2, 4, 5]),
        (&[2, 1, 3, 4], &[3, 4, 2]),
        (&[4], &[4, 5]),
        (&[2, 3, 4], &[4]),
        (&[3, 4], &[2, 4, 5]),
    ];
    for (a, b) in shapes {
        check(&case("MatMul", &[a, b]));
    }
}

#[test]
fn views() {
    check(&case("Transpose", &[&[2, 3, 4]]).ints("perm", &[2, 0, 1]));
    check(&case("Transpose", &[&[2, 3]]));
    check(&case("Slice", &[&[5, 6, 3]]).known_ints(&[0, 5]).known_ints(&[i64::MAX, i64::MIN + 1]).known_ints(&[0, 1]).known_ints(&[2, -2]));
    check(&case("Slice", &[&[5, 6]]).known_ints(&[-3]).known_ints(&[-1]).known_ints(&[1]));
    check(&case("Split", &[&[2, 7]]).int("axis", 1).known_ints(&[2, 5]).outputs(2));
    check(&case("Split", &[&[7, 2]]).int("num_outputs", 3).opset(18).outputs(3));
    check(&case("Expand", &[&[3, 1]]).known_ints(&[2, 1, 4]));
    check(&case("Concat", &[&[2, 3], &[2, 1], &[2, 2]]).int("axis", -1));
    check(&case("Gather", &[&[2, 4, 3]]).int("axis", 1).known_ints(&[3, 0, -1, 3]));
    check(&case("Pad", &[&[2, 3]]).known_ints(&[1, 0, 0, 2]).known_float(1.5));
    check(&case("Reshape", &[&[2, 3, 4]]).known_ints(&[0, -1]));
    check(&case("Flatten", &[&[2, 3, 4]]).int("axis", 2));
    check(&case("Squeeze", &[&[2, 1, 4]]).known_ints(&[-2]));
    check(&case("Unsqueeze", &[&[2, 4]]).known_ints(&[0, -1]));
}

#[test]
fn dropout_masks_the_gradient_as_the_value() {
    check(&case("Dropout", &[&[6, 7]]).known_float(0.4));
}

#[test]
fn gradients_at_kinks_are_zero() {
    for operator in ["Relu", "Abs"] {
        let node = case(operator, &[&[1]]).node;
        let built = build(&Site { node: &node, opset: 17, number: 0, shapes: vec![Some(vec![1])], constants: vec![None], integers: Vec::new() }).unwrap();
        let zero = narrow(&[0.0], &[1], DType::F32).unwrap();
        let run = Run { mode: Mode::Train, freeze_batchnorm: false, seed: 0 };
        let saved = built.operator.forward(&[&zero], &run).unwrap().saved;
        let seed = narrow(&[1.0], &[1], DType::F32).unwrap();
        let gradient = built.operator.backward(saved, vec![Some(seed)], &[true]).unwrap();
        assert_eq!(wide(gradient[0].as_ref().unwrap()).unwrap(), [0.0], "{operator}");
    }
}

#[test]
fn dropout_keeps_the_mean_and_is_a_function_of_the_seed() {
    let node = NodeProto { op_type: Some("Dropout".into()), ..NodeProto::default() };
    let ratio = Host::float(Vec::new(), vec![0.3]);
    let site = Site {
        node: &node,
        opset: 17,
        number: 5,
        shapes: vec![Some(vec![100_000]), Some(Vec::new())],
        constants: vec![None, Some(&ratio)],
        integers: Vec::new(),
    };
    let built = build(&site).unwrap();
    let x = narrow(&vec![1.0; 100_000], &[100_000], DType::F64).unwrap();
    let draw = |seed| {
        let run = Run { mode: Mode::Train, freeze_batchnorm: false, seed };
        wide(&built.operator.forward(&[&x], &run).unwrap().outputs[0]).unwrap()
    };
    let first = draw(1);
    assert_eq!(first, draw(1));
    assert_ne!(first, draw(2));
    let mean = first.iter().sum::<f64>() / 100_000.0;
    assert!((mean - 1.0).abs() < 0.01, "{mean}");
}
