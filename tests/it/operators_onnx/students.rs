//! Students of other forms: several inputs, tokens, waves, tied weights, and the idioms of
//! architectures that exporters decompose.

use super::Random;
use super::graph::{FLOAT, float, int, ints, text};
use super::net::{Net, Objective, array_of, compare};
use candle_core::DType;
use nst_cache::array::{Array, Values};
use nst_cache::onnx::BatchNorm;
use nst_cache::onnx::operator::{self, Class};
use nst_cache::student::{ImportOptions, Mode, Student};

fn numbers(seed: u64, count: usize) -> Vec<f64> {
    Random(seed * 7919 + 1).numbers(count, -0.8, 0.8)
}

impl Net {
    pub(super) fn weight(&mut self, name: &str, shape: &[usize]) -> String {
        let values = numbers(name.bytes().map(u64::from).sum(), shape.iter().product());
        self.float(name, shape, &values)
    }

    pub(super) fn image(&mut self, name: &str, shape: &[usize]) -> String {
        self.input(name, array_of(shape, &numbers(3, shape.iter().product())))
    }
}

/// The student of a net with nothing asked for by name: what trains is recognized by its place.
pub(super) fn import(net: &Net, dtype: DType) -> Student {
    Student::import(&net.model(), &ImportOptions { dtype, ..ImportOptions::default() }).unwrap()
}

/// Which parameters are found, forward against ONNX Runtime, backward against finite differences.
pub(super) fn trains(net: &Net, expected: &[&str]) {
    let student = import(net, DType::F64);
    let names: Vec<&str> = student.parameters().iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, expected);
    let found = net.evaluate(&import(net, DType::F32), DType::F32, Mode::Eval).unwrap();
    compare(&found, &net.runtime().unwrap(), 1e-5).unwrap();
    let objective = Objective::of(net, student);
    for (i, gradient) in objective.gradients().iter().enumerate() {
        let gradient = gradient
            .as_ref()
            .unwrap_or_else(|| panic!("{} got no gradient", names_of(&objective)[i]));
        let mut point = objective.get(i);
        for at in (0..point.len()).step_by(1 + point.len() / 20) {
            let old = point[at];
            let mut moved = |by: f64| {
                point[at] = old + by;
                objective.set(i, &point);
                objective.loss()
            };
            let expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            moved(0.0);
            let same = (gradient[at] - expected).abs() <= 1e-6 * (1.0 + expected.abs());
            assert!(same, "{} at {at}: {} for {expected}", names_of(&objective)[i], gradient[at]);
        }
    }
}

fn names_of(objective: &Objective<'_>) -> Vec<String> {
    objective.student.parameters().iter().map(|p| p.name.clone()).collect()
}

#[test]
fn two_inputs_are_taken_in_the_graphs_order() {
    let mut net = Net::new(17);
    net.image("left", &[3, 4]);
    net.image("right", &[3, 2]);
    net.weight("a.weight", &[5, 4]);
    net.weight("b.weight", &[5, 2]);
    net.node("Gemm", &["left", "a.weight"], &["l"], vec![int("transB", 1)]);
    net.node("Gemm", &["right", "b.weight"], &["r"], vec![int("transB", 1)]);
    net.node("Add", &["l", "r"], &["s"], vec![]);
    net.node("Tanh", &["s"], &["y"], vec![]);
    net.output("y");
    let student = import(&net, DType::F32);
    assert_eq!(
        student.inputs().iter().map(|v| v.name.as_str()).collect::<Vec<_>>(),
        ["left", "right"]
    );
    let one = student.forward(&net.feed(DType::F32)[..1], Mode::Eval, &[], 0).unwrap_err();
    assert!(one.chain().contains("expected 2 inputs, found 1"), "{}", one.chain());
    trains(&net, &["a.weight", "b.weight"]);
}

/// Tokens and a mask: embedding, positions by Gather of constants, masked self-attention, layer
/// normalization, mean over the tokens that count.
#[test]
fn tokens_are_embedded_and_attended_to() {
    let mut net = Net::new(17);
    net.input("tokens", Array::new(vec![2, 4], Values::I64(vec![1, 5, 3, 0, 6, 2, 0, 0])).unwrap());
    net.input("mask", Array::new(vec![2, 4], Values::I64(vec![1, 1, 1, 0, 1, 1, 0, 0])).unwrap());
    net.weight("embed.weight", &[7, 6]);
    net.weight("position.weight", &[9, 6]);
    net.int64("positions", &[4], &[0, 1, 2, 3]);
    net.node("Gather", &["embed.weight", "tokens"], &["e"], vec![]);
    net.node("Gather", &["position.weight", "positions"], &["pos"], vec![]);
    net.node("Add", &["e", "pos"], &["h"], vec![]);
    for w in ["q", "k", "v"] {
        net.weight(&format!("{w}.weight"), &[6, 6]);
        net.node("MatMul", &["h", &format!("{w}.weight")], &[&format!("{w}0")], vec![]);
    }
    net.node("Transpose", &["k0"], &["kt"], vec![ints("perm", &[0, 2, 1])]);
    net.node("MatMul", &["q0", "kt"], &["scores"], vec![]);
    // the mask in both forms that exporters write: a choice of -1e9, and a sum
    net.int64("one_axis", &[1], &[1]);
    net.node("Unsqueeze", &["mask", "one_axis"], &["mask3"], vec![]);
    net.int64("zero", &[], &[0]);
    net.node("Equal", &["mask3", "zero"], &["hidden"], vec![]);
    net.float("low", &[], &[-1e9]);
    net.node("Where", &["hidden", "low", "scores"], &["masked"], vec![]);
    net.node("Softmax", &["masked"], &["attention"], vec![int("axis", -1)]);
    net.node("MatMul", &["attention", "v0"], &["context"], vec![]);
    net.node("Add", &["context", "h"], &["sum"], vec![]);
    net.weight("norm.weight", &[6]);
    net.weight("norm.bias", &[6]);
    net.node("LayerNormalization", &["sum", "norm.weight", "norm.bias"], &["n"], vec![]);
    net.int64("last_axis", &[1], &[2]);
    net.node("Cast", &["mask"], &["maskf"], vec![int("to", FLOAT.into())]);
    net.node("Unsqueeze", &["maskf", "last_axis"], &["column"], vec![]);
    net.node("Mul", &["n", "column"], &["counted"], vec![]);
    net.node("ReduceSum", &["counted", "one_axis"], &["total"], vec![int("keepdims", 0)]);
    net.node("ReduceSum", &["maskf", "one_axis"], &["count"], vec![]);
    net.node("Div", &["total", "count"], &["mean"], vec![]);
    net.weight("head.weight", &[3, 6]);
    net.node("Gemm", &["mean", "head.weight"], &["y"], vec![int("transB", 1)]);
    net.output("y");
    let expected = [
        "embed.weight",
        "head.weight",
        "k.weight",
        "norm.bias",
        "norm.weight",
        "position.weight",
        "q.weight",
        "v.weight",
    ];
    trains(&net, &expected);
}

#[test]
fn a_token_outside_the_vocabulary_is_an_error() {
    let mut net = Net::new(17);
    net.input("tokens", Array::new(vec![1, 2], Values::I64(vec![1, 7])).unwrap());
    net.weight("embed.weight", &[7, 2]);
    net.node("Gather", &["embed.weight", "tokens"], &["e"], vec![]);
    net.node("Flatten", &["e"], &["y"], vec![]);
    net.output("y");
    let message = net.evaluate(&import(&net, DType::F32), DType::F32, Mode::Eval).unwrap_err();
    assert!(message.contains("indices: expected -7 to 6, found 7"), "{message}");
}

/// One table that embeds the tokens and, transposed, gives the logits: its gradient is the sum of
/// both uses.
#[test]
fn tied_weights_stay_one_parameter() {
    let mut net = Net::new(13);
    net.input("tokens", Array::new(vec![3], Values::I64(vec![4, 0, 4])).unwrap());
    net.weight("table", &[5, 3]);
    net.node("Gather", &["table", "tokens"], &["e"], vec![]);
    net.node("Tanh", &["e"], &["h"], vec![]);
    net.node("Transpose", &["table"], &["t"], vec![ints("perm", &[1, 0])]);
    net.node("MatMul", &["h", "t"], &["y"], vec![]);
    net.output("y");
    trains(&net, &["table"]);
}

/// Two convolutions with one filter, and a Linear whose weight the other layer uses transposed.
#[test]
fn one_filter_may_be_used_twice() {
    let mut net = Net::new(13);
    net.image("x", &[2, 2, 5, 4]);
    net.weight("conv.weight", &[2, 2, 3, 3]);
    let pads = || vec![ints("pads", &[1, 1, 1, 1])];
    net.node("Conv", &["x", "conv.weight"], &["a"], pads());
    net.node("Sigmoid", &["a"], &["b"], vec![]);
    net.node("Conv", &["b", "conv.weight"], &["c"], pads());
    net.node("GlobalMaxPool", &["c"], &["d"], vec![]);
    net.node("Flatten", &["d"], &["f"], vec![]);
    net.weight("fc.weight", &[3, 2]);
    net.node("Gemm", &["f", "fc.weight"], &["g"], vec![int("transB", 1)]);
    net.node("Gemm", &["g", "fc.weight"], &["y"], vec![]);
    net.output("y");
    trains(&net, &["conv.weight", "fc.weight"]);
}

/// A wave: 1-D convolutions with a group and a stride, batch and instance normalization, pooling
/// over time.
#[test]
fn waves_are_convolved_in_one_dimension() {
    let mut net = Net::new(17);
    net.image("wave", &[3, 1, 21]);
    net.weight("c1.weight", &[4, 1, 5]);
    net.weight("c1.bias", &[4]);
    net.node(
        "Conv",
        &["wave", "c1.weight", "c1.bias"],
        &["a"],
        vec![ints("strides", &[2]), ints("pads", &[2, 2])],
    );
    for (name, value) in [("bn.weight", 0.7), ("bn.bias", 0.1), ("bn.mean", 0.2), ("bn.var", 1.3)] {
        net.float(name, &[4], &[value, value, 0.9 * value, value]);
    }
    net.node(
        "BatchNormalization",
        &["a", "bn.weight", "bn.bias", "bn.mean", "bn.var"],
        &["b"],
        vec![],
    );
    net.weight("prelu.weight", &[4, 1]);
    net.node("PRelu", &["b", "prelu.weight"], &["c"], vec![]);
    net.weight("c2.weight", &[4, 1, 3]);
    net.node(
        "Conv",
        &["c", "c2.weight"],
        &["d"],
        vec![int("group", 4), ints("pads", &[2, 2]), ints("dilations", &[2])],
    );
    net.weight("in.weight", &[4]);
    net.weight("in.bias", &[4]);
    net.node("InstanceNormalization", &["d", "in.weight", "in.bias"], &["e"], vec![]);
    net.node("MaxPool", &["e"], &["f"], vec![ints("kernel_shape", &[3]), ints("strides", &[2])]);
    net.node("GlobalAveragePool", &["f"], &["g"], vec![]);
    net.node("Flatten", &["g"], &["y"], vec![]);
    net.output("y");
    trains(
        &net,
        &[
            "bn.bias",
            "bn.weight",
            "c1.bias",
            "c1.weight",
            "c2.weight",
            "in.bias",
            "in.weight",
            "prelu.weight",
        ],
    );
}

/// An encoder and a decoder: transposed convolution, resizing to the size of the skip,
/// concatenation, group normalization, a shuffle of pixels.
#[test]
fn a_decoder_joins_its_encoder() {
    let mut net = Net::new(18);
    net.image("x", &[2, 2, 7, 5]);
    net.weight("enc.weight", &[4, 2, 3, 3]);
    net.node(
        "Conv",
        &["x", "enc.weight"],
        &["e"],
        vec![ints("strides", &[2, 2]), ints("pads", &[1, 1, 1, 1])],
    );
    net.float("gn.weight", &[2], &[0.8, 1.1]);
    net.float("gn.bias", &[2], &[0.1, -0.2]);
    net.node(
        "GroupNormalization",
        &["e", "gn.weight", "gn.bias"],
        &["n"],
        vec![int("num_groups", 2)],
    );
    net.node("Mish", &["n"], &["m"], vec![]);
    net.weight("up.weight", &[4, 2, 2, 2]);
    net.node("ConvTranspose", &["m", "up.weight"], &["u"], vec![ints("strides", &[2, 2])]);
    // the size of the input, computed as exporters do
    net.node("Shape", &["x"], &["size"], vec![]);
    net.node(
        "Resize",
        &["u", "", "", "size"],
        &["r"],
        vec![text("mode", "linear"), text("coordinate_transformation_mode", "pytorch_half_pixel")],
    );
    net.node("Concat", &["r", "x"], &["j"], vec![int("axis", 1)]);
    net.weight("out.weight", &[4, 4, 1, 1]);
    net.node("Conv", &["j", "out.weight"], &["o"], vec![]);
    net.node("DepthToSpace", &["o"], &["s"], vec![int("blocksize", 2), text("mode", "CRD")]);
    net.int64("axes", &[2], &[2, 3]);
    net.node("ReduceMean", &["s", "axes"], &["y"], vec![int("keepdims", 0)]);
    net.output("y");
    trains(&net, &["enc.weight", "gn.bias", "gn.weight", "out.weight", "up.weight"]);
}

/// Layer normalization over channels as older exports write it, a layer scale, Gelu by Erf, squeeze
/// and excitation by hard functions.
#[test]
fn decomposed_normalisation_and_gates() {
    let mut net = Net::new(13);
    net.image("x", &[2, 3, 4, 5]);
    net.weight("dw.weight", &[3, 1, 3, 3]);
    net.node(
        "Conv",
        &["x", "dw.weight"],
        &["a"],
        vec![int("group", 3), ints("pads", &[1, 1, 1, 1])],
    );
    net.node("Transpose", &["a"], &["t"], vec![ints("perm", &[0, 2, 3, 1])]);
    net.node("ReduceMean", &["t"], &["mean"], vec![ints("axes", &[-1])]);
    net.node("Sub", &["t", "mean"], &["centered"], vec![]);
    net.float("two", &[], &[2.0]);
    net.node("Pow", &["centered", "two"], &["square"], vec![]);
    net.node("ReduceMean", &["square"], &["variance"], vec![ints("axes", &[-1])]);
    net.float("eps", &[], &[1e-6]);
    net.node("Add", &["variance", "eps"], &["shifted"], vec![]);
    net.node("Sqrt", &["shifted"], &["std"], vec![]);
    net.node("Div", &["centered", "std"], &["normal"], vec![]);
    net.weight("ln.weight", &[3]);
    net.weight("ln.bias", &[3]);
    net.node("Mul", &["normal", "ln.weight"], &["scaled"], vec![]);
    net.node("Add", &["scaled", "ln.bias"], &["n"], vec![]);
    net.weight("pw.weight", &[3, 3]);
    net.node("MatMul", &["n", "pw.weight"], &["m"], vec![]);
    net.float("root", &[], &[std::f64::consts::SQRT_2]);
    net.node("Div", &["m", "root"], &["q"], vec![]);
    net.node("Erf", &["q"], &["erf"], vec![]);
    net.float("one", &[], &[1.0]);
    net.node("Add", &["erf", "one"], &["erf1"], vec![]);
    net.node("Mul", &["m", "erf1"], &["g2"], vec![]);
    net.float("half", &[], &[0.5]);
    net.node("Mul", &["g2", "half"], &["gelu"], vec![]);
    net.weight("gamma", &[3]);
    net.node("Mul", &["gelu", "gamma"], &["layer"], vec![]);
    net.node("Transpose", &["layer"], &["back"], vec![ints("perm", &[0, 3, 1, 2])]);
    net.node("Add", &["back", "a"], &["residual"], vec![]);
    net.node("GlobalAveragePool", &["residual"], &["pooled"], vec![]);
    net.weight("se.weight", &[3, 3, 1, 1]);
    net.node("Conv", &["pooled", "se.weight"], &["se"], vec![]);
    net.node("HardSigmoid", &["se"], &["gate"], vec![float("alpha", 0.25)]);
    net.node("Mul", &["gate", "residual"], &["gated"], vec![]);
    net.node("ReduceMean", &["gated"], &["y"], vec![ints("axes", &[2, 3]), int("keepdims", 0)]);
    net.output("y");
    trains(&net, &["dw.weight", "gamma", "ln.bias", "ln.weight", "pw.weight", "se.weight"]);
}

/// Windows of tokens, rolled by Slice and Concat, with a bias gathered from a table of relative
/// positions.
#[test]
fn shifted_windows_with_relative_positions() {
    let mut net = Net::new(13);
    net.image("x", &[2, 4, 6]);
    net.weight("in.weight", &[6, 4]);
    net.node("MatMul", &["x", "in.weight"], &["h"], vec![]);
    for (name, values) in [("zero", [0i64]), ("one", [1]), ("end", [i64::MAX]), ("axis", [1])] {
        net.int64(name, &[1], &values);
    }
    net.node("Slice", &["h", "one", "end", "axis"], &["tail"], vec![]);
    net.node("Slice", &["h", "zero", "one", "axis"], &["head"], vec![]);
    net.node("Concat", &["tail", "head"], &["rolled"], vec![int("axis", 1)]);
    net.int64("windows", &[4], &[-1, 2, 2, 4]);
    net.node("Reshape", &["rolled", "windows"], &["w4"], vec![]);
    net.int64("flat", &[3], &[-1, 2, 4]);
    net.node("Reshape", &["w4", "flat"], &["w"], vec![]);
    net.node("Transpose", &["w"], &["wt"], vec![ints("perm", &[0, 2, 1])]);
    net.node("MatMul", &["w", "wt"], &["scores"], vec![]);
    net.weight("bias_table", &[3, 1]);
    net.int64("index", &[4], &[1, 2, 0, 1]);
    net.node("Gather", &["bias_table", "index"], &["picked"], vec![]);
    net.int64("square", &[3], &[2, 2, -1]);
    net.node("Reshape", &["picked", "square"], &["bias3"], vec![]);
    net.node("Transpose", &["bias3"], &["bias"], vec![ints("perm", &[2, 0, 1])]);
    net.node("Add", &["scores", "bias"], &["biased"], vec![]);
    net.node("Softmax", &["biased"], &["attention"], vec![int("axis", -1)]);
    net.node("MatMul", &["attention", "w"], &["mixed"], vec![]);
    net.int64("images", &[3], &[2, 4, 4]);
    net.node("Reshape", &["mixed", "images"], &["m"], vec![]);
    net.node("ReduceMean", &["m"], &["y"], vec![ints("axes", &[1]), int("keepdims", 0)]);
    net.output("y");
    trains(&net, &["bias_table", "in.weight"]);
}

/// What a student cannot run is listed with its nodes, whether the operator is missing or an
/// attribute of it.
#[test]
fn missing_operators_are_named_with_their_nodes() {
    let mut net = Net::new(17);
    net.image("x", &[1, 3]);
    net.weight("w", &[3, 3]);
    net.node("MatMul", &["x", "w"], &["a"], vec![]);
    net.node("Hardmax", &["a"], &["b"], vec![]);
    net.node("Det", &["b"], &["c"], vec![]);
    net.node("Hardmax", &["c"], &["y"], vec![]);
    net.output("y");
    let message = net.try_student(DType::F32).unwrap_err();
    assert!(
        message.contains("Det (Det_2)") && message.contains("Hardmax (Hardmax_1, Hardmax_3)"),
        "{message}"
    );
    let listed = Student::check(&net.model()).unwrap();
    let names: Vec<&str> = listed.blockers.iter().map(|(node, ..)| node.as_str()).collect();
    assert_eq!(names, ["Hardmax_1", "Det_2", "Hardmax_3"]);

    let mut net = Net::new(18);
    net.image("x", &[1, 1, 3, 3]);
    net.weight("w", &[1, 1, 1, 1]);
    net.node("Conv", &["x", "w"], &["a"], vec![]);
    net.int64("sizes", &[4], &[1, 1, 2, 2]);
    net.node(
        "Resize",
        &["a", "", "", "sizes"],
        &["y"],
        vec![int("antialias", 1), text("mode", "linear")],
    );
    net.output("y");
    // refused by its value only once shapes are known: listed where the declared ones suffice
    let listed = Student::check(&net.model()).unwrap();
    assert!(
        matches!(
            &listed.blockers[..],
            [(node, _, why)] if node == "Resize_1" && why.contains("antialias")
        ),
        "{:?}",
        listed.blockers
    );
}

/// An exported student with boolean constants and several outputs of a split still runs in ONNX
/// Runtime, and computes the same.
#[test]
fn export_keeps_booleans_and_unread_statistics() {
    let mut net = Net::new(17);
    net.image("x", &[2, 3]);
    net.weight("w", &[3, 3]);
    net.node("MatMul", &["x", "w"], &["a"], vec![]);
    net.boolean("keep", &[3], &[true, false, true]);
    net.float("low", &[], &[-2.0]);
    net.node("Where", &["keep", "a", "low"], &["y"], vec![]);
    net.output("y");
    let exported = import(&net, DType::F32).export(&[]).unwrap();
    assert_eq!(net.runtime_of(&exported).unwrap(), net.runtime().unwrap());
}

/// A group normalization as exporters write it before opset 18: the scale of 1 and the bias of 0
/// inside do not train, the affine part does.
#[test]
fn a_group_normalisation_in_disguise_has_one_affine_part() {
    let mut net = Net::new(17);
    net.image("x", &[2, 4, 3, 2]);
    net.weight("conv.weight", &[4, 4, 1, 1]);
    net.node("Conv", &["x", "conv.weight"], &["c"], vec![]);
    net.int64("groups", &[3], &[0, 2, -1]);
    net.node("Reshape", &["c", "groups"], &["r"], vec![]);
    net.float("ones", &[2], &[1.0, 1.0]);
    net.float("zeros", &[2], &[0.0, 0.0]);
    net.node("InstanceNormalization", &["r", "ones", "zeros"], &["n"], vec![]);
    net.node("Shape", &["c"], &["size"], vec![]);
    net.node("Reshape", &["n", "size"], &["m"], vec![]);
    net.weight("gn.weight", &[4, 1, 1]);
    net.weight("gn.bias", &[4, 1, 1]);
    net.node("Mul", &["m", "gn.weight"], &["s"], vec![]);
    net.node("Add", &["s", "gn.bias"], &["a"], vec![]);
    net.node("Sigmoid", &["a"], &["b"], vec![]);
    net.node("ReduceMean", &["b"], &["y"], vec![ints("axes", &[2, 3]), int("keepdims", 0)]);
    net.output("y");
    trains(&net, &["conv.weight", "gn.bias", "gn.weight"]);
}

/// A mask written into zeros by `ScatterND`, as an assignment to a slice is exported, and a causal
/// triangle: both known once shapes are.
#[test]
fn masks_computed_from_shapes_are_folded() {
    let mut net = Net::new(17);
    net.image("x", &[2, 3, 3]);
    net.weight("w", &[3, 3]);
    net.node("MatMul", &["x", "w"], &["h"], vec![]);
    net.node("Shape", &["x"], &["size"], vec![int("start", 1)]);
    net.node("ConstantOfShape", &["size"], &["empty"], vec![]);
    net.int64("rows", &[2, 1], &[0, -1]);
    net.float("lines", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    net.node("ScatterND", &["empty", "rows", "lines"], &["written"], vec![]);
    net.float("zero", &[], &[0.0]);
    net.node("Equal", &["written", "zero"], &["free"], vec![]);
    net.node("Not", &["free"], &["taken"], vec![]);
    net.float("low", &[], &[-3.0]);
    net.node("Where", &["taken", "low", "written"], &["mask"], vec![]);
    net.node("Add", &["h", "mask"], &["masked"], vec![]);
    net.int64("one", &[], &[1]);
    net.node("Trilu", &["mask", "one"], &["triangle"], vec![]);
    net.node("Mul", &["masked", "triangle"], &["m"], vec![]);
    net.node("ReduceMean", &["m"], &["y"], vec![ints("axes", &[2]), int("keepdims", 0)]);
    net.output("y");
    trains(&net, &["w"]);
}

/// What a layer ends in is one list for the student's tensor before it and the teacher's norm.
#[test]
fn student_and_teacher_have_the_same_activations() {
    let activations: Vec<&str> =
        operator::all().filter(|o| o.class == Class::Activation).map(|o| o.name).collect();
    assert!(activations.len() >= 12, "{activations:?}");
    for name in activations {
        let mut net = Net::new(20);
        let image = net.image("x", &[2, 3, 4, 4]);
        let weights = ["scale", "bias", "mean", "variance"].map(|name| net.weight(name, &[3]));
        let inputs: Vec<&str> =
            std::iter::once(&image).chain(&weights).map(String::as_str).collect();
        let normalized = net.node("BatchNormalization", &inputs, &["normalized"], vec![]);
        let slope = net.weight("slope", &[3, 1, 1]);
        let inputs = if name == "PRelu" {
            vec![normalized.as_str(), slope.as_str()]
        } else {
            vec![normalized.as_str()]
        };
        let y = net.node(name, &inputs, &["y"], vec![]);
        net.output(&y);
        assert!(
            BatchNorm::before_activation(&net.model(), &normalized).unwrap().is_some(),
            "{name}"
        );
        assert_eq!(
            import(&net, DType::F32).before_activation(&y),
            Some(normalized.as_str()),
            "{name}"
        );
    }
}

/// A file that has both forms of batch normalization means both; one that has a single form was
/// exported for something else than to say what trains.
#[test]
fn a_norm_in_inference_form_beside_others_keeps_its_statistics() {
    let moved = |modes: [i64; 2]| {
        let mut net = Net::new(17);
        let mut last = net.image("x", &[4, 3, 4, 4]);
        for (norm, mode) in ["a", "b"].into_iter().zip(modes) {
            let weights = ["scale", "bias", "mean", "variance"].map(|weight| {
                // running means that no batch has
                let first = if weight == "mean" { 0.3 } else { 1.0 };
                net.float(&format!("{norm}.{weight}"), &[3], &[first, 0.5, 2.0])
            });
            let inputs: Vec<&str> =
                std::iter::once(&last).chain(&weights).map(String::as_str).collect();
            let outputs =
                ["y", "mean_out", "variance_out"].map(|output| format!("{norm}.{output}"));
            let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
            let outputs = if mode == 1 { &outputs[..] } else { &outputs[..1] };
            last =
                net.node("BatchNormalization", &inputs, outputs, vec![int("training_mode", mode)]);
        }
        net.output(&last);
        let student = import(&net, DType::F64);
        let means = || -> Vec<f64> {
            let buffers = student
                .buffers()
                .iter()
                .filter(|b| ["a.mean", "b.mean"].contains(&b.name.as_str()));
            buffers.map(|b| b.var.to_vec1::<f64>().unwrap()[0]).collect()
        };
        let before = means();
        student.forward(&net.feed(DType::F64), Mode::Train, &[], 0).unwrap();
        let moved: Vec<bool> =
            before.iter().zip(means()).map(|(a, b)| (a - b).abs() > 1e-9).collect();
        (moved, student.notes().last().cloned().unwrap_or_default())
    };
    let (of_both, said) = moved([1, 0]);
    assert_eq!(of_both, [true, false]);
    assert!(said.starts_with("1 of 2 batch norms"), "{said}");
    assert_eq!(moved([0, 1]).0, [false, true]);
    assert_eq!(moved([1, 1]), (vec![true, true], String::new()));
    let (of_both, said) = moved([0, 0]);
    assert_eq!(of_both, [true, true]);
    assert!(said.starts_with("all 2 batch norms of the file are in inference form"), "{said}");
}
