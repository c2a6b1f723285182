use super::*;
use crate::onnx::proto::{self, AttributeProto, GraphProto, ModelProto, TypeProto, ValueInfoProto};

/// A graph in the making, with the shape of each tensor (one sample's).
#[derive(Default)]
struct Builder {
    nodes: Vec<NodeProto>,
    shapes: HashMap<String, Vec<Option<usize>>>,
}

impl Builder {
    fn add(&mut self, op: &str, inputs: &[&str], output: &str, shape: &[usize]) -> &mut NodeProto {
        self.shapes.insert(output.into(), std::iter::once(None).chain(shape.iter().copied().map(Some)).collect());
        self.nodes.push(NodeProto {
            op_type: Some(op.into()),
            input: inputs.iter().map(|&i| i.to_owned()).collect(),
            output: vec![output.into()],
            ..Default::default()
        });
        self.nodes.last_mut().unwrap()
    }

    /// A convolution of kernel k and a stride, its activation after it.
    fn conv(&mut self, input: &str, output: &str, kernel: i64, stride: i64, group: i64, shape: [usize; 3]) {
        let node = self.add("Conv", &[input], &format!("{output}.conv"), &shape);
        node.attribute = vec![list("kernel_shape", &[kernel; 2]), list("strides", &[stride; 2])];
        node.attribute.push(AttributeProto { name: Some("group".into()), i: Some(group), ..Default::default() });
        self.add("Relu", &[&format!("{output}.conv")], output, &shape);
    }

    fn head(&mut self, input: &str, channels: usize) {
        self.add("GlobalAveragePool", &[input], "pool", &[channels, 1, 1]);
        self.add("Flatten", &["pool"], "flat", &[channels]);
        self.add("Gemm", &["flat"], "logits", &[10]);
    }

    fn model(&self, output: &str, rank: usize) -> Model {
        let dims = vec![proto::tensor_shape_proto::Dimension::default(); rank];
        let tensor = proto::type_proto::Tensor {
            elem_type: Some(proto::tensor_proto::DataType::Float as i32),
            shape: Some(proto::TensorShapeProto { dim: dims }),
        };
        let r#type = Some(TypeProto { value: Some(proto::type_proto::Value::TensorType(tensor)), ..Default::default() });
        let info = |name: &str| ValueInfoProto { name: Some(name.into()), r#type: r#type.clone(), ..Default::default() };
        let graph = GraphProto { node: self.nodes.clone(), input: vec![info("x")], output: vec![info(output)], ..Default::default() };
        Model::from_proto(ModelProto { graph: Some(graph), ..Default::default() }).unwrap()
    }

    fn taps(&self) -> Vec<Tap> {
        candidates(&self.model("logits", 2), &self.shapes)
    }

    fn suggested(&self) -> Vec<String> {
        self.taps().into_iter().filter(|t| t.suggested).map(|t| t.tensor).collect()
    }
}

fn list(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: Some(name.into()), ints: values.to_vec(), ..Default::default() }
}

#[test]
fn a_bottleneck_of_the_next_stage_is_not_the_end_of_this_one() {
    let mut b = Builder::default();
    b.conv("x", "stem", 3, 1, 1, [64, 8, 8]);
    // stride on the second convolution: the first still has this stage's size, but the shortcut goes around it
    b.conv("stem", "inner", 1, 1, 1, [32, 8, 8]);
    b.conv("inner", "strided", 3, 2, 1, [32, 4, 4]);
    b.conv("stem", "shortcut", 1, 2, 1, [32, 4, 4]);
    b.add("Add", &["strided", "shortcut"], "sum", &[32, 4, 4]);
    b.add("Relu", &["sum"], "out", &[32, 4, 4]);
    b.head("out", 32);
    assert_eq!(b.suggested(), ["stem", "out", "flat", "logits"]);
    let taps = b.taps();
    let stage = |name: &str| taps.iter().find(|t| t.tensor == name).unwrap().stage;
    assert_eq!((stage("inner"), stage("sum"), stage("pool"), stage("flat")), (Some(1), Some(2), None, None));
}

#[test]
fn a_pre_activation_network_hands_on_the_normalised_sum() {
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
    b.add("Conv", &["depthwise"], "project2", &[16, 4, 4]).attribute = vec![list("kernel_shape", &[1, 1])];
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
    b.add("Transpose", &["tokens.c"], "tokens", &[16, 16]).attribute = vec![list("perm", &[0, 2, 1])];
    b.add("Reshape", &["tokens"], "heads", &[16, 2, 8]);
    b.add("MatMul", &["heads", "heads"], "scores", &[2, 16, 16]);
    b.add("Softmax", &["scores"], "attention", &[2, 16, 16]);
    b.add("ReduceMean", &["tokens"], "vector", &[16]);
    b.add("Gemm", &["vector"], "logits", &[10]);
    let taps = b.taps();
    let names: Vec<&str> = taps.iter().map(|t| t.tensor.as_str()).collect();
    assert_eq!(names, ["a.conv", "a", "tokens.c", "tokens", "vector", "logits"]);
    assert_eq!(taps[3].role, Role::Tokens);
    assert_eq!(b.suggested(), ["a", "vector", "logits"]);
}

#[test]
fn a_channel_shuffle_stays_a_map_and_channels_last_are_told_apart() {
    let mut b = Builder::default();
    b.conv("x", "a", 3, 1, 1, [8, 6, 4]);
    b.add("Reshape", &["a"], "groups", &[2, 4, 6, 4]);
    b.add("Transpose", &["groups"], "swapped", &[4, 2, 6, 4]).attribute = vec![list("perm", &[0, 2, 1, 3, 4])];
    b.add("Reshape", &["swapped"], "shuffled", &[8, 6, 4]);
    b.add("Transpose", &["shuffled"], "last", &[6, 4, 8]).attribute = vec![list("perm", &[0, 2, 3, 1])];
    b.add("Relu", &["last"], "last.relu", &[6, 4, 8]);
    b.add("Transpose", &["last.relu"], "first", &[8, 6, 4]).attribute = vec![list("perm", &[0, 3, 1, 2])];
    b.head("first", 8);
    let taps = b.taps();
    let find = |name: &str| taps.iter().find(|t| t.tensor == name).unwrap();
    assert_eq!(find("shuffled").layout, Some(Layout::Nchw));
    assert_eq!((find("last.relu").layout, find("last.relu").spatial()), (Some(Layout::Nhwc), Some([6, 4])));
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
    b.add("Transpose", &["columns"], "embedded", &[16, 16]).attribute = vec![list("perm", &[0, 2, 1])];
    b.add("Concat", &["embedded", "embedded"], "tokens", &[17, 16]);
    b.add("MatMul", &["tokens"], "wide", &[17, 64]);
    b.add("Transpose", &["wide"], "mixer", &[64, 17]).attribute = vec![list("perm", &[0, 2, 1])];
    b.add("Gather", &["wide"], "vector", &[64]);
    b.add("Gemm", &["vector"], "logits", &[10]);
    let taps = b.taps();
    let grid = |name: &str| taps.iter().find(|t| t.tensor == name).unwrap().grid;
    assert_eq!(["columns", "embedded", "tokens", "wide", "mixer"].map(grid), [None, Some([4, 4]), Some([4, 4]), Some([4, 4]), None]);
    assert_eq!(taps.iter().find(|t| t.tensor == "wide").unwrap().stage, Some(1));
    assert_eq!(b.suggested(), ["patch", "vector", "logits"]);
}
