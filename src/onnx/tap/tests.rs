use super::*;
use crate::onnx::logits;
use crate::onnx::proto::{self, AttributeProto, GraphProto, ModelProto, TypeProto, ValueInfoProto};

/// A graph builder that also records the shape of each tensor (for one sample).
#[derive(Default)]
struct Builder {
    nodes: Vec<NodeProto>,
    shapes: HashMap<String, Vec<Option<usize>>>,
}

impl Builder {
    fn add(&mut self, op: &str, inputs: &[&str], output: &str, shape: &[usize]) -> &mut NodeProto {
        self.shapes.insert(
            output.into(),
            std::iter::once(None).chain(shape.iter().copied().map(Some)).collect(),
        );
        self.nodes.push(NodeProto {
            op_type: Some(op.into()),
            input: inputs.iter().map(|&i| i.to_owned()).collect(),
            output: vec![output.into()],
            ..Default::default()
        });
        self.nodes.last_mut().unwrap()
    }

    /// A convolution with a kernel size and a stride, followed by its activation.
    fn conv(
        &mut self,
        input: &str,
        output: &str,
        kernel: i64,
        stride: i64,
        group: i64,
        shape: [usize; 3],
    ) {
        let node = self.add("Conv", &[input], &format!("{output}.conv"), &shape);
        node.attribute = vec![list("kernel_shape", &[kernel; 2]), list("strides", &[stride; 2])];
        node.attribute.push(AttributeProto {
            name: Some("group".into()),
            i: Some(group),
            ..Default::default()
        });
        self.add("Relu", &[&format!("{output}.conv")], output, &shape);
    }

    fn head(&mut self, input: &str, channels: usize) {
        self.add("GlobalAveragePool", &[input], "pool", &[channels, 1, 1]);
        self.add("Flatten", &["pool"], "flat", &[channels]);
        self.add("Gemm", &["flat"], "logits", &[10]);
    }

    fn model(&self, output: &str, rank: usize) -> Model {
        self.model_of(&[output], rank)
    }

    fn model_of(&self, outputs: &[&str], rank: usize) -> Model {
        let dims = vec![proto::tensor_shape_proto::Dimension::default(); rank];
        let tensor = proto::type_proto::Tensor {
            elem_type: Some(proto::tensor_proto::DataType::Float as i32),
            shape: Some(proto::TensorShapeProto { dim: dims }),
        };
        let r#type = Some(TypeProto {
            value: Some(proto::type_proto::Value::TensorType(tensor)),
            ..Default::default()
        });
        let info = |name: &str| ValueInfoProto {
            name: Some(name.into()),
            r#type: r#type.clone(),
            ..Default::default()
        };
        let graph = GraphProto {
            node: self.nodes.clone(),
            input: vec![info("x")],
            output: outputs.iter().map(|o| info(o)).collect(),
            ..Default::default()
        };
        Model::from_proto(ModelProto { graph: Some(graph), ..Default::default() }).unwrap()
    }

    fn of(&self, model: &Model) -> Vec<Tap> {
        let logits = logits::find(model, &self.shapes, 0).ok().map(|logits| logits.tensor);
        candidates(model, &self.shapes, logits.as_deref())
    }

    fn taps(&self) -> Vec<Tap> {
        self.of(&self.model("logits", 2))
    }

    fn suggested(&self) -> Vec<String> {
        self.taps().into_iter().filter(|t| t.suggested).map(|t| t.tensor).collect()
    }

    /// The suggested inner taps of a model with these outputs, none of which holds logits.
    fn suggested_of(&self, outputs: &[&str]) -> Vec<String> {
        let taps = self.taps_of(outputs).into_iter();
        taps.filter(|t| t.suggested && !t.output).map(|t| t.tensor).collect()
    }

    fn taps_of(&self, outputs: &[&str]) -> Vec<Tap> {
        self.of(&self.model_of(outputs, 3))
    }

    /// An integer tensor, whose shape the probe does not give.
    fn add_integer(&mut self, op: &str, inputs: &[&str], output: &str) {
        self.add(op, inputs, output, &[]);
        self.shapes.remove(output);
    }

    /// Three stages, each the last map of a residual block: c3 [8, 8, 8], c4 [16, 4, 4], c5 [32, 2,
    /// 2].
    fn backbone(&mut self) {
        self.conv("x", "stem", 3, 2, 1, [4, 16, 16]);
        let mut input = "stem".to_owned();
        for (name, shape) in [("c3", [8, 8, 8]), ("c4", [16, 4, 4]), ("c5", [32, 2, 2])] {
            self.conv(&input, &format!("{name}.down"), 3, 2, 1, shape);
            self.conv(&format!("{name}.down"), &format!("{name}.inner"), 3, 1, 1, shape);
            self.add("Add", &[&format!("{name}.down"), &format!("{name}.inner")], name, &shape);
            input = name.to_owned();
        }
    }

    /// A convolution without activation.
    fn linear(&mut self, input: &str, output: &str, kernel: i64, shape: [usize; 3]) {
        self.add("Conv", &[input], output, &shape).attribute =
            vec![list("kernel_shape", &[kernel; 2])];
    }

    /// A prediction as rows of boxes: [C, H, W] → [H·W, C].
    fn rows(&mut self, input: &str, output: &str, [c, h, w]: [usize; 3]) {
        self.add("Reshape", &[input], &format!("{output}.columns"), &[c, h * w]);
        self.add("Transpose", &[&format!("{output}.columns")], output, &[h * w, c]).attribute =
            vec![list("perm", &[0, 2, 1])];
    }
}

fn list(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: Some(name.into()), ints: values.to_vec(), ..Default::default() }
}

#[test]
fn a_bottleneck_of_the_next_stage_is_not_the_end_of_this_one() {
    let mut b = Builder::default();
    b.conv("x", "stem", 3, 1, 1, [64, 8, 8]);
    // the stride is on the second convolution: the first still has this stage's size, but the
    // shortcut bypasses it
    b.conv("stem", "inner", 1, 1, 1, [32, 8, 8]);
    b.conv("inner", "strided", 3, 2, 1, [32, 4, 4]);
    b.conv("stem", "shortcut", 1, 2, 1, [32, 4, 4]);
    b.add("Add", &["strided", "shortcut"], "sum", &[32, 4, 4]);
    b.add("Relu", &["sum"], "out", &[32, 4, 4]);
    b.head("out", 32);
    assert_eq!(b.suggested(), ["stem", "out", "flat", "logits"]);
    let taps = b.taps();
    let stage = |name: &str| taps.iter().find(|t| t.tensor == name).unwrap().stage;
    assert_eq!(
        (stage("inner"), stage("sum"), stage("pool"), stage("flat")),
        (Some(1), Some(2), None, None)
    );
}

#[test]
fn a_pre_activation_network_passes_on_the_normalized_sum() {
    let mut b = Builder::default();
    b.conv("x", "stem", 3, 1, 1, [16, 8, 8]);
    b.conv("stem", "inner", 3, 1, 1, [16, 8, 8]);
    b.add("Add", &["stem", "inner"], "sum", &[16, 8, 8]);
    b.add("BatchNormalization", &["sum"], "norm", &[16, 8, 8]);
    b.add("Relu", &["norm"], "active", &[16, 8, 8]);
    b.conv("active", "strided", 3, 2, 1, [32, 4, 4]);
    b.conv("active", "shortcut", 1, 2, 1, [32, 4, 4]);
    b.add("Add", &["strided", "shortcut"], "sum2", &[32, 4, 4]);
    b.head("sum2", 32);
    assert_eq!(b.suggested(), ["active", "sum2", "flat", "logits"]);
}

#[test]
fn an_inverted_residual_opens_the_next_stage() {
    let mut b = Builder::default();
    b.conv("x", "stem", 3, 1, 1, [16, 8, 8]);
    b.add("Conv", &["stem"], "project", &[8, 8, 8]).attribute = vec![list("kernel_shape", &[1, 1])];
    b.conv("project", "expand", 1, 1, 1, [48, 8, 8]);
    b.conv("expand", "depthwise", 3, 2, 48, [48, 4, 4]);
    b.add("Conv", &["depthwise"], "project2", &[16, 4, 4]).attribute =
        vec![list("kernel_shape", &[1, 1])];
    b.conv("project2", "last", 1, 1, 1, [64, 4, 4]);
    b.head("last", 64);
    assert_eq!(b.suggested(), ["project", "last", "flat", "logits"]);
}

#[test]
fn a_stage_that_is_bridged_suggests_its_last_map() {
    let mut b = Builder::default();
    b.conv("x", "a", 3, 1, 1, [8, 8, 8]);
    b.conv("a", "down", 3, 2, 1, [8, 4, 4]);
    b.conv("down", "middle", 3, 1, 1, [8, 4, 4]);
    b.add("Resize", &["middle"], "up", &[8, 8, 8]);
    b.add("Concat", &["a", "up"], "joined", &[16, 8, 8]);
    b.head("joined", 16);
    // every path to the logits passes `a` and `joined`, and none of the lower maps
    assert_eq!(b.suggested(), ["middle", "joined", "flat", "logits"]);
}

#[test]
fn shape_arithmetic_constants_and_attention_are_no_taps() {
    let mut b = Builder::default();
    b.conv("x", "a", 3, 1, 1, [16, 4, 4]);
    b.add("Shape", &["a"], "shape", &[4]);
    b.add("Cast", &["shape"], "cast", &[4]);
    b.add("Constant", &[], "constant", &[16, 4, 4]);
    b.add("Reshape", &["a", "cast"], "tokens.c", &[16, 16]);
    b.add("Transpose", &["tokens.c"], "tokens", &[16, 16]).attribute =
        vec![list("perm", &[0, 2, 1])];
    b.add("Reshape", &["tokens"], "heads", &[16, 2, 8]);
    b.add("MatMul", &["heads", "heads"], "scores", &[2, 16, 16]);
    b.add("Softmax", &["scores"], "attention", &[2, 16, 16]);
    b.add("ReduceMean", &["tokens"], "vector", &[16]);
    b.add("Gemm", &["vector"], "logits", &[10]);
    let taps = b.taps();
    let names: Vec<&str> = taps.iter().map(|t| t.tensor.as_str()).collect();
    assert_eq!(names, ["a.conv", "a", "tokens.c", "tokens", "vector", "logits"]);
    assert_eq!(
        (taps[2].role, taps[2].spatial(), taps[3].role),
        (Role::Map, Some([4, 4]), Role::Tokens)
    );
    assert_eq!(b.suggested(), ["a", "vector", "logits"]);
}

#[test]
fn a_channel_shuffle_stays_a_map_and_channels_last_are_told_apart() {
    let mut b = Builder::default();
    b.conv("x", "a", 3, 1, 1, [8, 6, 4]);
    b.add("Reshape", &["a"], "groups", &[2, 4, 6, 4]);
    b.add("Transpose", &["groups"], "swapped", &[4, 2, 6, 4]).attribute =
        vec![list("perm", &[0, 2, 1, 3, 4])];
    b.add("Reshape", &["swapped"], "shuffled", &[8, 6, 4]);
    b.add("Transpose", &["shuffled"], "last", &[6, 4, 8]).attribute =
        vec![list("perm", &[0, 2, 3, 1])];
    b.add("Relu", &["last"], "last.relu", &[6, 4, 8]);
    b.add("Transpose", &["last.relu"], "first", &[8, 6, 4]).attribute =
        vec![list("perm", &[0, 3, 1, 2])];
    b.head("first", 8);
    let taps = b.taps();
    let find = |name: &str| taps.iter().find(|t| t.tensor == name).unwrap();
    assert_eq!(find("shuffled").layout, Some(Layout::Nchw));
    assert_eq!(
        (find("last.relu").layout, find("last.relu").spatial()),
        (Some(Layout::Nhwc), Some([6, 4]))
    );
    assert_eq!(find("last.relu").stage, find("first").stage);
    assert_eq!(b.suggested(), ["first", "flat", "logits"]);
}

#[test]
fn the_penultimate_vector_is_found_behind_bias_and_dropout() {
    let mut b = Builder::default();
    b.add("Relu", &["x"], "h", &[64]);
    b.add("Dropout", &["h"], "dropped", &[64]);
    b.add("MatMul", &["dropped"], "product", &[10]);
    b.add("Add", &["product"], "logits", &[10]);
    assert_eq!(b.suggested(), ["h", "logits"]);
}

#[test]
fn tokens_know_the_image_that_they_cover() {
    let mut b = Builder::default();
    b.conv("x", "patch", 2, 2, 1, [16, 4, 4]);
    // 16 channels over 16 positions: the shape alone tells nothing
    b.add("Reshape", &["patch"], "columns", &[16, 16]);
    b.add("Transpose", &["columns"], "embedded", &[16, 16]).attribute =
        vec![list("perm", &[0, 2, 1])];
    b.add("Concat", &["embedded", "embedded"], "tokens", &[17, 16]);
    b.add("MatMul", &["tokens"], "wide", &[17, 64]);
    b.add("Transpose", &["wide"], "mixer", &[64, 17]).attribute = vec![list("perm", &[0, 2, 1])];
    b.add("Gather", &["wide"], "vector", &[64]);
    b.add("Gemm", &["vector"], "logits", &[10]);
    let taps = b.taps();
    let find = |name: &str| taps.iter().find(|t| t.tensor == name);
    let all = ["columns", "embedded", "tokens", "wide"];
    assert_eq!(all.map(|name| find(name).unwrap().grid), [Some([4, 4]); 4]);
    assert_eq!(
        all.map(|name| find(name).unwrap().role),
        [Role::Map, Role::Tokens, Role::Tokens, Role::Tokens]
    );
    // channels first, over more than the image's positions: neither tokens nor a map
    assert_eq!(find("mixer"), None);
    assert_eq!(taps.iter().find(|t| t.tensor == "wide").unwrap().stage, Some(1));
    assert_eq!(b.suggested(), ["patch", "vector", "logits"]);
}

#[test]
fn a_pyramid_is_suggested_before_its_heads() {
    // RetinaNet: laterals, top-down sums, a convolution per level, two towers on each
    let mut b = Builder::default();
    b.backbone();
    b.linear("c5", "l5", 1, [16, 2, 2]);
    b.add("Resize", &["l5"], "u5", &[16, 4, 4]);
    b.linear("c4", "l4", 1, [16, 4, 4]);
    b.add("Add", &["l4", "u5"], "m4", &[16, 4, 4]);
    b.add("Resize", &["m4"], "u4", &[16, 8, 8]);
    b.linear("c3", "l3", 1, [16, 8, 8]);
    b.add("Add", &["l3", "u4"], "m3", &[16, 8, 8]);
    for (level, from, side) in [("p3", "m3", 8), ("p4", "m4", 4), ("p5", "l5", 2)] {
        b.linear(from, level, 3, [16, side, side]);
        for (kind, channels) in [("class", 18), ("box", 8)] {
            let name = format!("{level}.{kind}");
            b.conv(level, &format!("{name}.tower"), 3, 1, 1, [16, side, side]);
            b.linear(&format!("{name}.tower"), &format!("{name}.map"), 3, [channels, side, side]);
            b.rows(&format!("{name}.map"), &name, [channels, side, side]);
        }
    }
    b.add("Concat", &["p3.class", "p4.class", "p5.class"], "classes", &[84, 18]);
    b.add("Concat", &["p3.box", "p4.box", "p5.box"], "boxes", &[84, 8]);
    assert_eq!(b.suggested_of(&["classes", "boxes"]), ["stem", "p3", "p4", "p5"]);
    let outputs: Vec<Tap> =
        b.taps_of(&["classes", "boxes"]).into_iter().filter(|t| t.output).collect();
    assert_eq!(outputs.len(), 2);
    assert!(outputs.iter().all(|t| t.suggested && t.role == Role::Tokens), "{outputs:?}");
}

/// A path aggregation network: top-down and bottom-up joins; the heads read the maps n3, n4 and n5.
fn aggregated() -> Builder {
    let mut b = Builder::default();
    b.backbone();
    b.add("Resize", &["c5"], "u5", &[32, 4, 4]);
    b.add("Concat", &["u5", "c4"], "j4", &[48, 4, 4]);
    b.conv("j4", "t4", 1, 1, 1, [16, 4, 4]);
    b.add("Resize", &["t4"], "u4", &[16, 8, 8]);
    b.add("Concat", &["u4", "c3"], "j3", &[24, 8, 8]);
    b.conv("j3", "n3", 1, 1, 1, [8, 8, 8]);
    b.conv("n3", "d3", 3, 2, 1, [8, 4, 4]);
    b.add("Concat", &["d3", "t4"], "k4", &[24, 4, 4]);
    b.conv("k4", "n4", 1, 1, 1, [16, 4, 4]);
    b.conv("n4", "d4", 3, 2, 1, [16, 2, 2]);
    b.add("Concat", &["d4", "c5"], "k5", &[48, 2, 2]);
    b.conv("k5", "n5", 1, 1, 1, [32, 2, 2]);
    b
}

const LEVELS: [(&str, usize); 3] = [("n3", 8), ("n4", 4), ("n5", 2)];

#[test]
fn a_neck_is_found_whatever_its_heads_look_like() {
    // one prediction per level, split outside the maps
    let mut coupled = aggregated();
    // the same as the model's outputs
    let mut raw = aggregated();
    // two branches per level, joined before they leave the maps
    let mut joined = aggregated();
    // channels last, as in TensorFlow
    let mut last = aggregated();
    for (level, side) in LEVELS {
        let name = format!("{level}.map");
        for b in [&mut coupled, &mut raw, &mut last] {
            b.linear(level, &name, 1, [21, side, side]);
        }
        coupled.add("Reshape", &[&name], &format!("{level}.anchors"), &[3, 7, side, side]);
        coupled.add(
            "Transpose",
            &[&format!("{level}.anchors")],
            &format!("{level}.last"),
            &[3, side, side, 7],
        );
        coupled.add(
            "Sigmoid",
            &[&format!("{level}.last")],
            &format!("{level}.range"),
            &[3, side, side, 7],
        );
        coupled.add(
            "Reshape",
            &[&format!("{level}.range")],
            &format!("{level}.rows"),
            &[3 * side * side, 7],
        );
        last.add("Transpose", &[&name], &format!("{level}.nhwc"), &[side, side, 21]).attribute =
            vec![list("perm", &[0, 2, 3, 1])];
        last.add(
            "Reshape",
            &[&format!("{level}.nhwc")],
            &format!("{level}.rows"),
            &[3 * side * side, 7],
        );
        for (kind, channels) in [("box", 64), ("class", 5)] {
            joined.conv(level, &format!("{level}.{kind}.tower"), 3, 1, 1, [16, side, side]);
            joined.linear(
                &format!("{level}.{kind}.tower"),
                &format!("{level}.{kind}"),
                1,
                [channels, side, side],
            );
        }
        joined.add(
            "Concat",
            &[&format!("{level}.box"), &format!("{level}.class")],
            &name,
            &[69, side, side],
        );
        joined.add("Reshape", &[&name], &format!("{level}.rows"), &[69, side * side]);
    }
    let rows = ["n3.rows", "n4.rows", "n5.rows"];
    for b in [&mut coupled, &mut last] {
        b.add("Concat", &rows, "out", &[252, 7]);
    }
    // boxes as expectations over bins: a convolution of something that is not an image map
    joined.add("Concat", &rows, "all", &[69, 84]);
    joined.add("Slice", &["all"], "bins", &[64, 84]);
    joined.add("Reshape", &["bins"], "sides", &[4, 16, 84]);
    joined.add("Transpose", &["sides"], "first", &[16, 4, 84]).attribute =
        vec![list("perm", &[0, 2, 1, 3])];
    joined.add("Softmax", &["first"], "chances", &[16, 4, 84]);
    joined.linear("chances", "expected", 1, [1, 4, 84]);
    joined.add("Reshape", &["expected"], "out", &[4, 84]);
    let expected = ["stem", "n3", "n4", "n5"];
    assert_eq!(coupled.suggested_of(&["out"]), expected);
    assert_eq!(raw.suggested_of(&["n3.map", "n4.map", "n5.map"]), expected);
    assert_eq!(last.suggested_of(&["out"]), expected);
    assert_eq!(joined.suggested_of(&["out"]), expected);
    // the pyramid itself is the output
    let mut features = aggregated();
    for (level, side) in LEVELS {
        features.linear(level, &format!("{level}.out"), 3, [16, side, side]);
    }
    assert_eq!(features.suggested_of(&["n3.out", "n4.out", "n5.out"]), ["stem"]);
    assert_eq!(aggregated().suggested_of(&["n3", "n4", "n5"]), ["stem"]);
}

#[test]
fn attention_and_squeezes_in_a_neck_are_no_heads() {
    let mut b = aggregated();
    b.add("GlobalAveragePool", &["n5"], "squeezed", &[32, 1, 1]);
    b.add("Mul", &["n5", "squeezed"], "excited", &[32, 2, 2]);
    b.add("Reshape", &["excited"], "columns", &[32, 4]);
    b.add("Transpose", &["columns"], "tokens", &[4, 32]).attribute = vec![list("perm", &[0, 2, 1])];
    b.add("MatMul", &["tokens"], "mixed", &[4, 32]);
    b.add("Transpose", &["mixed"], "back", &[32, 4]).attribute = vec![list("perm", &[0, 2, 1])];
    b.add("Reshape", &["back"], "attended", &[32, 2, 2]);
    for (level, side) in [("n3", 8), ("n4", 4), ("attended", 2)] {
        b.linear(level, &format!("{level}.map"), 1, [21, side, side]);
        b.rows(&format!("{level}.map"), &format!("{level}.rows"), [21, side, side]);
    }
    b.add("Concat", &["n3.rows", "n4.rows", "attended.rows"], "out", &[84, 21]);
    assert_eq!(b.suggested_of(&["out"]), ["stem", "n3", "n4", "attended"]);
}

#[test]
fn maps_of_quantized_convolutions() {
    // dynamic quantization: integers in between, floats where they are scaled
    let mut b = Builder::default();
    b.conv("x", "stem", 3, 1, 1, [8, 8, 8]);
    b.add_integer("DynamicQuantizeLinear", &["stem"], "q");
    b.nodes.last_mut().unwrap().output.extend(["q.scale".to_owned(), "q.zero".to_owned()]);
    b.add_integer("ConvInteger", &["q", "q.zero"], "q.sum");
    b.add("Cast", &["q.sum"], "sum", &[16, 4, 4]);
    b.add_integer("Mul", &["q.scale", "q.scale"], "scale");
    b.add("Mul", &["sum", "scale"], "scaled", &[16, 4, 4]);
    b.add("Relu", &["scaled"], "out", &[16, 4, 4]);
    b.head("out", 16);
    b.nodes.pop();
    b.add_integer("DynamicQuantizeLinear", &["flat"], "f");
    b.nodes.last_mut().unwrap().output.extend(["f.scale".to_owned(), "f.zero".to_owned()]);
    b.add_integer("MatMulInteger", &["f", "f.zero"], "f.sum");
    b.add("Cast", &["f.sum"], "f.float", &[10]);
    b.add_integer("Mul", &["f.scale", "f.scale"], "f.both");
    b.add("Mul", &["f.float", "f.both"], "logits", &[10]);
    assert_eq!(b.suggested(), ["stem", "out", "flat", "logits"]);
    // operators on integers: a map is found where it is a float
    let mut b = Builder::default();
    b.add_integer("QuantizeLinear", &["x"], "qx");
    for (input, name, pool) in [("qx", "a", "QLinearAveragePool"), ("a.sum", "b", "NhwcMaxPool")] {
        b.add_integer("QLinearConv", &[input], &format!("{name}.q"));
        b.add_integer(pool, &[&format!("{name}.q")], &format!("{name}.pool"));
        b.add_integer(
            "QLinearAdd",
            &[&format!("{name}.pool"), &format!("{name}.pool")],
            &format!("{name}.sum"),
        );
        b.add("DequantizeLinear", &[&format!("{name}.sum")], &format!("{name}.float"), &[8, 4, 4]);
    }
    let taps = b.taps_of(&["b.float"]);
    let layout = |name: &str| taps.iter().find(|t| t.tensor == name).and_then(|t| t.layout);
    assert_eq!(["a.float", "b.float"].map(layout), [Some(Layout::Nchw), Some(Layout::Nhwc)]);
    // quantized and restored: what the next layer reads counts
    let mut b = Builder::default();
    b.conv("x", "a", 3, 1, 1, [8, 8, 8]);
    b.add_integer("QuantizeLinear", &["a"], "a.q");
    b.add("DequantizeLinear", &["a.q"], "a.dq", &[8, 8, 8]);
    b.conv("a.dq", "b", 3, 2, 1, [16, 4, 4]);
    b.head("b", 16);
    assert_eq!(b.suggested(), ["a.dq", "b", "flat", "logits"]);
}

#[test]
fn a_map_of_one_dimension_is_no_tokens() {
    let mut b = Builder::default();
    b.add("Conv", &["x"], "c1", &[8, 100]).attribute = vec![list("kernel_shape", &[3])];
    b.add("BatchNormalization", &["c1"], "n1", &[8, 100]);
    b.add("Relu", &["n1"], "r1", &[8, 100]);
    b.add("MaxPool", &["r1"], "p1", &[8, 50]);
    b.add("Conv", &["p1"], "c2", &[16, 50]).attribute = vec![list("kernel_shape", &[3])];
    // group normalization as exporters write it
    b.add("Reshape", &["c2"], "groups", &[4, 200]);
    b.add("InstanceNormalization", &["groups"], "normal", &[4, 200]);
    b.add("Reshape", &["normal"], "n2", &[16, 50]);
    b.add("Relu", &["n2"], "r2", &[16, 50]);
    b.add("Transpose", &["r2"], "tokens", &[50, 16]).attribute = vec![list("perm", &[0, 2, 1])];
    b.add("MatMul", &["tokens"], "mixed", &[50, 16]);
    b.add("ReduceMean", &["mixed"], "vector", &[16]);
    b.add("Gemm", &["vector"], "logits", &[10]);
    let taps = b.taps();
    let find = |name: &str| taps.iter().find(|t| t.tensor == name).unwrap();
    for (name, length) in [("c1", 100), ("r1", 100), ("p1", 50), ("n2", 50), ("r2", 50)] {
        let tap = find(name);
        assert_eq!(
            (tap.role, tap.layout, tap.spatial()),
            (Role::Map, Some(Layout::Nchw), Some([1, length])),
            "{name}"
        );
    }
    assert_eq!((find("mixed").role, find("mixed").grid), (Role::Tokens, Some([1, 50])));
    assert_eq!(b.suggested(), ["r1", "r2", "vector", "logits"]);
    // a spectrum whose height is gone
    let mut b = Builder::default();
    b.conv("x", "a", 3, 1, 1, [8, 4, 30]);
    b.add("ReduceMean", &["a"], "line", &[8, 30]);
    b.add("ReduceMean", &["a"], "plane", &[4, 30]);
    let taps = b.taps_of(&["line", "plane"]);
    let role = |name: &str| taps.iter().find(|t| t.tensor == name).map(|t| (t.role, t.grid));
    assert_eq!(role("line"), Some((Role::Map, Some([1, 30]))));
    assert_ne!(role("plane").map(|(role, _)| role), Some(Role::Map));
}

#[test]
fn maps_of_three_dimensions_are_volumes() {
    let mut b = Builder::default();
    b.add("Conv", &["x"], "c1", &[8, 4, 16, 16]);
    b.add("Relu", &["c1"], "r1", &[8, 4, 16, 16]);
    b.add("Reshape", &["r1"], "windows", &[8, 4, 16, 16]);
    b.head("r1", 8);
    let taps = b.taps();
    let of =
        |name: &str| taps.iter().find(|t| t.tensor == name).map(|t| (t.role, t.stage, t.suggested));
    assert_eq!(of("r1"), Some((Role::Volume, None, false)));
    assert_eq!(of("windows"), None);
    assert_eq!(b.suggested(), ["flat", "logits"]);
}

#[test]
fn depth_to_space_written_out_stays_a_map() {
    let mut b = Builder::default();
    b.conv("x", "a", 3, 1, 1, [16, 4, 4]);
    b.add("Reshape", &["a"], "parts", &[4, 2, 2, 4, 4]);
    b.shapes.insert("parts".into(), vec![None, Some(4), Some(2), Some(2), Some(4), Some(4)]);
    b.add("Transpose", &["parts"], "apart", &[4, 4, 2, 4, 2]).attribute =
        vec![list("perm", &[0, 1, 4, 2, 5, 3])];
    b.add("Reshape", &["apart"], "large", &[4, 8, 8]);
    b.conv("large", "out", 3, 1, 1, [4, 8, 8]);
    let taps = b.taps_of(&["out"]);
    let find = |name: &str| taps.iter().find(|t| t.tensor == name).map(|t| (t.role, t.stage));
    assert_eq!(find("large"), Some((Role::Map, Some(2))));
    assert_eq!(find("out"), Some((Role::Map, Some(2))));
}
