//! What the tests of the command line share: a tiny teacher and a small data set, made here so that
//! no binary file stands in the repository.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::print_stderr,
    reason = "shared by tests that use different parts of it"
)]

use nst_cache::array::{Array, Dtype, Values};
use nst_cache::data::{Augmentation, PreprocessOptions, ViewCount};
use nst_cache::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto, tensor_shape_proto, type_proto,
};
use nst_cache::onnx::{Feeding, tensor_proto};
use nst_cache::recipe::{Compress, Extract, Keep, Store};
use prost::Message as _;
use std::path::Path;
use std::process::{Command, Output};

/// A small generator (xorshift64*), enough for test data.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In 0..1.
    #[allow(clippy::cast_precision_loss, reason = "24 bits")]
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 40) as f64 / f64::from(1u32 << 24)
    }
}

/// Whether everything is to be done of which `make test` does a part: `make test-slow` asks for it.
pub fn is_slow() -> bool {
    std::env::var_os("NST_SLOW").is_some()
}

/// Fails a test that needs ONNX Runtime where it is not there: one that passed without running
/// would say nothing.
pub fn need_runtime() {
    let runtime = nst_cache::runtime::Runtime::load(None);
    assert!(
        runtime.is_ok(),
        "ONNX Runtime's library: run `make test`, or set ORT_DYLIB_PATH: {:?}",
        runtime.err()
    );
}

/// Writes the tiny teacher with a change to its graph.
pub fn write_changed_teacher(path: &Path, change: impl FnOnce(&mut GraphProto)) {
    let mut model = teacher(Fault::None, None);
    change(model.graph.as_mut().unwrap());
    std::fs::write(path, model.encode_to_vec()).unwrap();
}

pub fn node(op: &str, inputs: &[&str], output: &str, attributes: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        name: Some(format!("{op}_{output}")),
        input: inputs.iter().map(|&i| i.into()).collect(),
        output: vec![output.into()],
        attribute: attributes,
        ..NodeProto::default()
    }
}

pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(attribute_proto::AttributeType::Ints.into()),
        ints: values.to_vec(),
        ..AttributeProto::default()
    }
}

fn value(name: &str, shape: &[Option<i64>]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension};
    let dim = shape
        .iter()
        .map(|size| Dimension {
            value: Some(size.map_or_else(
                || dimension::Value::DimParam("batch".into()),
                dimension::Value::DimValue,
            )),
            ..Dimension::default()
        })
        .collect();
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(TensorShapeProto { dim }) };
    let r#type =
        TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.into()), r#type: Some(r#type), ..ValueInfoProto::default() }
}

/// An empty graph from an input of these rows to ten logits.
pub fn ends(input: &str, row: &[i64]) -> GraphProto {
    let shape: Vec<Option<i64>> =
        std::iter::once(None).chain(row.iter().map(|&n| Some(n))).collect();
    GraphProto {
        input: vec![value(input, &shape)],
        output: vec![value("logits", &[None, Some(10)])],
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
pub fn write_teacher_of_batch(path: &Path, batch: Option<i64>) {
    std::fs::write(path, teacher(Fault::None, batch).encode_to_vec()).unwrap();
}

/// The same teacher with something wrong.
pub fn write_faulty_teacher(path: &Path, fault: Fault) {
    std::fs::write(path, teacher(fault, None).encode_to_vec()).unwrap();
}

fn teacher(fault: Fault, batch: Option<i64>) -> ModelProto {
    let mut random = Random(7);
    let factor = match fault {
        Fault::None => 1.0,
        Fault::NotFinite => f32::INFINITY,
        Fault::Large => 1e8,
    };
    let graph = GraphProto {
        name: Some("teacher".into()),
        input: vec![value("image", &[batch, Some(1), Some(28), Some(28)])],
        output: vec![value("logits", &[batch, Some(10)])],
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
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// Writes a classifier of two convolutions and an average over as many dimensions as `row`
/// (`[C, …]`) has after the channels; `maps`: the names of what their activations give, 8
/// channels of the input's size each.
pub fn write_convolutions(path: &Path, input: &str, row: &[usize], maps: [&str; 2]) {
    let mut random = Random(17);
    let dimensions = row.len() - 1;
    let size: Vec<Option<i64>> = row.iter().map(|&n| Some(n as i64)).collect();
    let kernel = vec![3; dimensions];
    let pads = || vec![ints("pads", &vec![1; 2 * dimensions])];
    let graph = GraphProto {
        name: Some("convolutions".into()),
        input: vec![value(input, &[&[None], size.as_slice()].concat())],
        output: vec![value("logits", &[None, Some(10)])],
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
        ..GraphProto::default()
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
    let side = Some(side as i64);
    let graph = GraphProto {
        name: Some("deep".into()),
        input: vec![value("image", &[None, Some(1), side, side])],
        output: vec![value("logits", &[None, Some(10)])],
        initializer: initializers,
        node: nodes,
        ..GraphProto::default()
    };
    write_graph(path, graph);
}

fn write_graph(path: &Path, graph: GraphProto) {
    let opset_import = vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }];
    let model = ModelProto {
        ir_version: Some(8),
        opset_import,
        graph: Some(graph),
        ..ModelProto::default()
    };
    std::fs::write(path, model.encode_to_vec()).unwrap();
}

/// Writes an IDX data set of `samples` 28×28 training images of noise, labels 0 to 9 in turn.
pub fn write_idx(folder: &Path, samples: usize) {
    write_idx_with_labels(folder, samples, 10);
}

pub fn write_idx_with_labels(folder: &Path, samples: usize, classes: usize) {
    std::fs::create_dir_all(folder).unwrap();
    let mut random = Random(3);
    let count = u32::try_from(samples).unwrap().to_be_bytes();
    let mut images =
        [&[0, 0, 8, 3], &count[..], &28u32.to_be_bytes(), &28u32.to_be_bytes()].concat();
    images.extend((0..samples * 784).map(|_| random.next() as u8));
    let mut labels = [&[0, 0, 8, 1], &count[..]].concat();
    labels.extend((0..samples).map(|i| (i % classes) as u8));
    std::fs::write(folder.join("train-images-idx3-ubyte"), images).unwrap();
    std::fs::write(folder.join("train-labels-idx1-ubyte"), labels).unwrap();
}

/// Writes `samples` grey 28×28 PNG images into class folders `a` and `b`.
pub fn write_images(folder: &Path, samples: usize) {
    write_images_of(folder, samples, &["a", "b"]);
}

/// Writes `samples` grey 28×28 PNG images into a folder for each class, in turn.
pub fn write_images_of(folder: &Path, samples: usize, classes: &[&str]) {
    let mut random = Random(5);
    for (index, class) in (0..samples).zip(classes.iter().cycle()) {
        std::fs::create_dir_all(folder.join(class)).unwrap();
        let pixels = (0..784).map(|_| random.next() as u8).collect();
        let image = image::GrayImage::from_raw(28, 28, pixels).unwrap();
        image.save(folder.join(class).join(format!("{index:03}.png"))).unwrap();
    }
}

/// Writes an .npz of these arrays.
pub fn write_npz(path: &Path, arrays: &[(&str, &Array)]) {
    use std::io::Write as _;
    let mut archive = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let options =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, array) in arrays {
        let shape: Vec<String> = array.shape().iter().map(|n| format!("{n},")).collect();
        let descr = match array.dtype() {
            Dtype::Bool => "|b1",
            Dtype::U8 => "|u1",
            Dtype::I8 => "|i1",
            Dtype::U16 => "<u2",
            Dtype::I16 => "<i2",
            Dtype::I32 => "<i4",
            Dtype::I64 => "<i8",
            Dtype::F16 => "<f2",
            Dtype::F64 => "<f8",
            _ => "<f4",
        };
        let mut header = format!(
            "{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}",
            shape.concat()
        );
        // magic, version and length take 10 bytes; the header ends in a line feed on a multiple of
        // 64
        while (header.len() + 11) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive
            .write_all(
                &[b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), array.as_bytes()].concat(),
            )
            .unwrap();
    }
    archive.finish().unwrap();
}

/// What `extract` is asked for, of the teacher in a folder: all of its defaults, in f32.
pub fn recipe(folder: &Path, data: &str) -> Extract {
    Extract {
        teacher: folder.join("teacher.onnx"),
        data: data.parse().unwrap(),
        split: "train".into(),
        taps: Vec::new(),
        logits: None,
        keep: Keep::Auto,
        criteria: Vec::new(),
        sizes: Vec::new(),
        in_graph: None,
        store: Store::F32,
        compress: Compress::Auto,
        feeding: Feeding::default(),
        preprocess: PreprocessOptions::default(),
        default_preprocess: PreprocessOptions::default(),
        classes: None,
        batch: Some(4),
        limit: None,
        shuffle: None,
        views: ViewCount::Count(1),
        augmentation: Augmentation::NONE,
        inputs: None,
        seed: 0,
        skip_bad: false,
        refresh: false,
        output: folder.join("cache"),
        threads: 2,
    }
}

/// Images as the tiny teacher takes them.
pub fn fashion() -> PreprocessOptions {
    PreprocessOptions { preset: Some("fashion-mnist".into()), ..PreprocessOptions::default() }
}

/// The program, run in a folder.
pub fn run(folder: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nst-cache"));
    command.current_dir(folder).args(line.split_whitespace()).output().unwrap()
}

/// All that it printed.
pub fn text(output: &Output) -> String {
    let of = |bytes| String::from_utf8_lossy(bytes).into_owned();
    of(&output.stdout) + &of(&output.stderr)
}

/// Runs what is to succeed.
pub fn succeeds(folder: &Path, line: &str) -> String {
    let output = run(folder, line);
    assert!(output.status.success(), "{line}: {}", text(&output));
    text(&output)
}
