//! Models that the tests make: the tiny teacher with its faults, and classifiers of other forms.

use super::Random;
use super::graph::{FLOAT, ints, node, value, write_graph};
use nst_cache::array::{Array, Values};
use nst_cache::onnx::proto::{GraphProto, TensorProto};
use nst_cache::onnx::tensor_proto;
use std::path::Path;

/// Writes the tiny teacher with a change to its graph.
pub fn write_changed_teacher(path: &Path, change: impl FnOnce(&mut GraphProto)) {
    let mut graph = teacher(Fault::None, "batch");
    change(&mut graph);
    write_graph(path, graph);
}

/// An empty graph from an input of these rows to ten logits.
pub fn ends(input: &str, row: &[usize]) -> GraphProto {
    let axes: Vec<String> = row.iter().map(ToString::to_string).collect();
    let axes: Vec<&str> = std::iter::once("batch").chain(axes.iter().map(String::as_str)).collect();
    GraphProto {
        input: vec![value(input, FLOAT, &axes)],
        output: vec![value("logits", FLOAT, &["batch", "10"])],
        ..GraphProto::default()
    }
}

fn weight(random: &mut Random, name: &str, shape: &[usize], scale: f64) -> TensorProto {
    let count = shape.iter().product();
    let values = (0..count).map(|_| ((random.unit() - 0.5) * scale) as f32).collect();
    tensor_proto(name, &Array::new(shape.to_vec(), Values::F32(values)).unwrap())
}

/// Changes to the tiny teacher, each for one case of bad input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The second map is divided by zero.
    NotFinite,
    /// The second map is beyond f16.
    Large,
}

/// Writes a teacher for 28×28 grey images: two convolutions, `map1` [8,28,28], `map2` [16,14,14],
/// `pooled` [16], `logits` [10].
pub fn write_teacher(path: &Path) {
    write_faulty_teacher(path, Fault::None);
}

/// The same teacher with this batch fixed.
pub fn write_teacher_of_batch(path: &Path, batch: usize) {
    write_graph(path, teacher(Fault::None, &batch.to_string()));
}

/// The same teacher with something wrong.
pub fn write_faulty_teacher(path: &Path, fault: Fault) {
    write_graph(path, teacher(fault, "batch"));
}

fn teacher(fault: Fault, batch: &str) -> GraphProto {
    let mut random = Random(7);
    let factor = match fault {
        Fault::None => 1.0,
        Fault::NotFinite => f32::INFINITY,
        Fault::Large => 1e8,
    };
    GraphProto {
        name: Some("teacher".into()),
        input: vec![value("image", FLOAT, &[batch, "1", "28", "28"])],
        output: vec![value("logits", FLOAT, &[batch, "10"])],
        initializer: vec![
            weight(&mut random, "w1", &[8, 1, 3, 3], 1.0),
            weight(&mut random, "w2", &[16, 8, 3, 3], 0.5),
            weight(&mut random, "w3", &[16, 10], 1.0),
            tensor_proto("factor", &Array::new(vec![], Values::F32(vec![factor])).unwrap()),
        ],
        node: vec![
            node("Conv", &["image", "w1"], "conv1", vec![ints("pads", &[1, 1, 1, 1])]),
            node("Relu", &["conv1"], "map1", vec![]),
            node(
                "Conv",
                &["map1", "w2"],
                "conv2",
                vec![ints("pads", &[1, 1, 1, 1]), ints("strides", &[2, 2])],
            ),
            node("Mul", &["conv2", "factor"], "scaled", vec![]),
            node("Relu", &["scaled"], "map2", vec![]),
            node("GlobalAveragePool", &["map2"], "average", vec![]),
            node("Flatten", &["average"], "pooled", vec![]),
            node("MatMul", &["pooled", "w3"], "logits", vec![]),
        ],
        ..GraphProto::default()
    }
}

/// Writes a classifier of two convolutions and an average over as many dimensions as `row`
/// (`[C, …]`) has after the channels; `maps`: the names of what their activations give, 8
/// channels of the input's size each.
pub fn write_convolutions(path: &Path, input: &str, row: &[usize], maps: [&str; 2]) {
    let mut random = Random(17);
    let dimensions = row.len() - 1;
    let kernel = vec![3; dimensions];
    let pads = || vec![ints("pads", &vec![1; 2 * dimensions])];
    let graph = GraphProto {
        name: Some("convolutions".into()),
        initializer: vec![
            weight(&mut random, "w1", &[&[8, row[0]], kernel.as_slice()].concat(), 1.0),
            weight(&mut random, "w2", &[&[8, 8], kernel.as_slice()].concat(), 1.0),
            weight(&mut random, "w3", &[8, 10], 1.0),
        ],
        node: vec![
            node("Conv", &[input, "w1"], "conv1", pads()),
            node("Relu", &["conv1"], maps[0], vec![]),
            node("Conv", &[maps[0], "w2"], "conv2", pads()),
            node("Relu", &["conv2"], maps[1], vec![]),
            node("GlobalAveragePool", &[maps[1]], "average", vec![]),
            node("Flatten", &["average"], "pooled", vec![]),
            node("MatMul", &["pooled", "w3"], "logits", vec![]),
        ],
        ..ends(input, row)
    };
    write_graph(path, graph);
}

/// Writes a classifier of `depth` pointwise convolutions with activations (`r0`, `r1` …) of
/// `channels` maps of side² each.
pub fn write_deep(path: &Path, depth: usize, channels: usize, side: usize) {
    let mut random = Random(19);
    let mut nodes = Vec::new();
    let mut initializers = Vec::new();
    let mut last = "image".to_owned();
    for layer in 0..depth {
        let from = if layer == 0 { 1 } else { channels };
        initializers.push(weight(&mut random, &format!("w{layer}"), &[channels, from, 1, 1], 0.5));
        nodes.push(node("Conv", &[&last, &format!("w{layer}")], &format!("c{layer}"), vec![]));
        nodes.push(node("Relu", &[&format!("c{layer}")], &format!("r{layer}"), vec![]));
        last = format!("r{layer}");
    }
    initializers.push(weight(&mut random, "head", &[channels, 10], 0.5));
    nodes.push(node("GlobalAveragePool", &[&last], "average", vec![]));
    nodes.push(node("Flatten", &["average"], "pooled", vec![]));
    nodes.push(node("MatMul", &["pooled", "head"], "logits", vec![]));
    let graph = GraphProto {
        name: Some("deep".into()),
        initializer: initializers,
        node: nodes,
        ..ends("image", &[1, side, side])
    };
    write_graph(path, graph);
}
