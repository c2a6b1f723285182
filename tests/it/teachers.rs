//! What a teacher says is right, refused or said aloud: values of one sample alone, logits and not
//! probabilities, the data's own classes, features that f16 cannot hold.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use crate::support::graph::{constant, int, ints};
use crate::support::{self, Sandbox, node};
use nst_cache::array::{Array, Dtype, Values};
use nst_cache::cache::{Cache, Manifest};
use nst_cache::onnx::proto::{
    FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
};
use nst_cache::onnx::tensor_proto;
use prost::Message as _;
use std::path::Path;

const DATA: &str = "--data idx:data --preprocess fashion-mnist";

fn is_true(graph: &mut GraphProto, name: &str) {
    graph.initializer.push(nst_cache::onnx::proto::TensorProto {
        name: Some(name.into()),
        data_type: Some(nst_cache::onnx::proto::tensor_proto::DataType::Bool as i32),
        raw_data: Some(vec![1].into()),
        ..Default::default()
    });
}

/// Puts nodes that lead from `conv1` to `changed` before its rectifier.
fn between(graph: &mut GraphProto, nodes: Vec<NodeProto>) {
    let at = graph.node.iter().position(|n| n.output[0] == "map1").unwrap();
    graph.node[at].input[0] = "changed".into();
    graph.node.splice(at..at, nodes);
}

/// Puts nodes behind the logits, of which the last gives the output `out`.
fn behind(graph: &mut GraphProto, nodes: Vec<NodeProto>) {
    graph.node.extend(nodes);
    graph.output[0].name = Some("out".into());
}

fn floats(folder: &Path, path: &str) -> Vec<f32> {
    support::floats(&Cache::open(folder).unwrap(), path)
}

/// A folder with the data that most tests need.
fn prepared() -> Sandbox {
    Sandbox::with_runtime().data(40)
}

#[test]
fn a_teacher_in_training_mode_or_with_dice_is_refused_with_the_node() {
    let folder = &prepared();
    support::write_changed_teacher(&folder.join("norm.onnx"), |graph| {
        for name in ["scale", "variance"] {
            constant(graph, name, &[8], Values::F32(vec![1.0; 8]));
        }
        for name in ["bias", "mean"] {
            constant(graph, name, &[8], Values::F32(vec![0.0; 8]));
        }
        let inputs = ["conv1", "scale", "bias", "mean", "variance"];
        let mut norm =
            node("BatchNormalization", &inputs, "changed", vec![int("training_mode", 1)]);
        norm.output.extend(["mean_".into(), "variance_".into()]);
        between(graph, vec![norm]);
    });
    support::write_changed_teacher(&folder.join("dropout.onnx"), |graph| {
        constant(graph, "ratio", &[], Values::F32(vec![0.5]));
        is_true(graph, "on");
        between(graph, vec![node("Dropout", &["conv1", "ratio", "on"], "changed", vec![])]);
    });
    support::write_changed_teacher(&folder.join("noise.onnx"), |graph| {
        between(
            graph,
            vec![
                node("RandomNormalLike", &["conv1"], "noise", vec![]),
                node("Add", &["conv1", "noise"], "changed", vec![]),
            ],
        );
    });
    for (file, parts) in [
        ("norm.onnx", ["BatchNormalization `BatchNormalization_changed`", "training mode"]),
        ("dropout.onnx", ["Dropout `Dropout_changed`", "each run"]),
        ("noise.onnx", ["RandomNormalLike `RandomNormalLike_noise`", "each run"]),
    ] {
        for flags in ["", " --batch 1"] {
            folder.refused(&format!("extract {file} {DATA}{flags}"), &parts);
        }
        folder.refused(&format!("eval {file} {DATA} --split train"), &parts);
    }
    assert!(!folder.join("cache").exists(), "nothing is written");
    // what noise does behind the taps that are kept is nobody's matter
    support::write_changed_teacher(&folder.join("after.onnx"), |graph| {
        graph.node.extend([
            node("RandomNormalLike", &["logits"], "noise", vec![]),
            node("Add", &["logits", "noise"], "other", vec![]),
        ]);
    });
    folder.succeeds(&format!("extract after.onnx {DATA}"));
}

#[test]
fn what_mixes_the_samples_of_a_batch_is_found_and_named() {
    let folder = &prepared();
    let mean = |graph: &mut GraphProto| {
        let mean = node("ReduceMean", &["conv1"], "batchmean", vec![ints("axes", &[0])]);
        between(graph, vec![mean, node("Sub", &["conv1", "batchmean"], "changed", vec![])]);
    };
    support::write_changed_teacher(&folder.join("mean.onnx"), mean);
    support::write_changed_teacher(&folder.join("softmax.onnx"), |graph| {
        between(graph, vec![node("Softmax", &["conv1"], "changed", vec![int("axis", 0)])]);
    });
    // the batch is no first axis on the way: the norm is found all the same
    support::write_changed_teacher(&folder.join("norm.onnx"), |graph| {
        constant(graph, "merged", &[3], Values::I64(vec![1, 8, -1]));
        constant(graph, "apart", &[4], Values::I64(vec![8, -1, 28, 28]));
        constant(graph, "scale", &[8], Values::F32(vec![1.0; 8]));
        constant(graph, "bias", &[8], Values::F32(vec![0.0; 8]));
        let turn = || vec![ints("perm", &[1, 0, 2, 3])];
        between(
            graph,
            vec![
                node("Transpose", &["conv1"], "turned", turn()),
                node("Reshape", &["turned", "merged"], "flat", vec![]),
                node("InstanceNormalization", &["flat", "scale", "bias"], "normed", vec![]),
                node("Reshape", &["normed", "apart"], "wide", vec![]),
                node("Transpose", &["wide"], "changed", turn()),
            ],
        );
    });
    // a sequence of samples, by a node of several outputs
    support::write_changed_teacher(&folder.join("sequence.onnx"), |graph| {
        constant(graph, "rows", &[3], Values::I64(vec![0, 784, 8]));
        constant(graph, "maps", &[4], Values::I64(vec![-1, 8, 28, 28]));
        constant(graph, "w", &[1, 32, 8], Values::F32(vec![0.3; 256]));
        constant(graph, "r", &[1, 32, 8], Values::F32(vec![0.2; 256]));
        let mut lstm = node("LSTM", &["sequence", "w", "r"], "all", vec![int("hidden_size", 8)]);
        lstm.output.extend(["last".into(), "cell".into()]);
        let before = node("Reshape", &["conv1", "rows"], "sequence", vec![]);
        between(graph, vec![before, lstm, node("Reshape", &["all", "maps"], "changed", vec![])]);
    });
    support::write_changed_teacher(&folder.join("eight.onnx"), |graph| {
        mean(graph);
        let batch = nst_cache::onnx::proto::tensor_shape_proto::dimension::Value::DimValue(8);
        for value in graph.input.iter_mut().chain(&mut graph.output) {
            let kind = value.r#type.as_mut().unwrap().value.as_mut().unwrap();
            let nst_cache::onnx::proto::type_proto::Value::TensorType(tensor) = kind else {
                panic!()
            };
            tensor.shape.as_mut().unwrap().dim[0].value = Some(batch.clone());
        }
    });
    for (file, name) in [
        ("mean.onnx", "ReduceMean `ReduceMean_batchmean`"),
        ("softmax.onnx", "Softmax `Softmax_changed`"),
        ("norm.onnx", "InstanceNormalization `InstanceNormalization_normed`"),
        ("sequence.onnx", "LSTM `LSTM_all`"),
    ] {
        folder.refused(
            &format!("extract {file} {DATA}"),
            &[name, "other samples of its batch", "--batch 1"],
        );
        folder.refused(&format!("eval {file} {DATA} --split train"), &[name]);
        // each alone, as the user asks
        folder.succeeds(&format!("extract {file} {DATA} --batch 1"));
    }
    folder.refused(
        &format!("extract eight.onnx {DATA}"),
        &["ReduceMean `ReduceMean_batchmean`", "open batch"],
    );
    // a sound teacher gives no cause, whatever its batch
    support::write_teacher(&folder.join("sound.onnx"));
    let said = folder.succeeds(&format!("extract sound.onnx {DATA} --batch 16"));
    assert!(!said.contains("node"), "{said}");
}

#[test]
fn a_scale_over_the_batch_is_taken_of_one_sample_at_a_time() {
    let folder = &prepared();
    support::write_changed_teacher(&folder.join("dynamic.onnx"), |graph| {
        let mut quantize = node("DynamicQuantizeLinear", &["conv1"], "quantized", vec![]);
        quantize.output.extend(["step".into(), "zero".into()]);
        between(
            graph,
            vec![
                quantize,
                node("DequantizeLinear", &["quantized", "step", "zero"], "changed", vec![]),
            ],
        );
    });
    let said = folder.succeeds(&format!("extract dynamic.onnx {DATA} -o auto --store f32"));
    assert!(
        said.contains("DynamicQuantizeLinear `DynamicQuantizeLinear_quantized`")
            && said.contains("one sample is run at a time"),
        "{said}"
    );
    assert_eq!(Manifest::load(&folder.join("auto")).unwrap().teacher.batch, 1);
    let said =
        folder.succeeds(&format!("extract dynamic.onnx {DATA} -o one --batch 1 --store f32"));
    assert!(!said.contains("one sample"), "{said}");
    assert_eq!(
        floats(&folder.join("auto"), "taps/map2/features"),
        floats(&folder.join("one"), "taps/map2/features")
    );
    folder.succeeds("cache verify auto --live dynamic.onnx");
    assert!(
        folder
            .succeeds(&format!("eval dynamic.onnx {DATA} --split train"))
            .contains("one sample is run at a time")
    );
}

/// Writes a teacher with nodes behind its logits, and gives what its cache says of those, with what
/// extract said and the cache's manifest.
fn logits_of(
    folder: &Sandbox,
    name: &str,
    flags: &str,
    change: impl FnOnce(&mut GraphProto),
) -> (Vec<f32>, String, Manifest) {
    support::write_changed_teacher(&folder.join(format!("{name}.onnx")), change);
    let said = folder.succeeds(&format!("extract {name}.onnx {DATA} -o {name}{flags}"));
    (floats(&folder.join(name), "logits"), said, Manifest::load(&folder.join(name)).unwrap())
}

/// log softmax of rows of ten.
fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let of_row = |row: &[f32]| {
        let sum: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
        #[allow(clippy::cast_possible_truncation, reason = "compared as f32")]
        row.iter().map(|&v| (f64::from(v) - sum.ln()) as f32).collect::<Vec<_>>()
    };
    logits.chunks(10).flat_map(of_row).collect()
}

fn near(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-4, "{worst}");
}

#[test]
fn logits_stand_behind_whatever_exporters_add() {
    let folder = &prepared();
    let (plain, _, manifest) = logits_of(folder, "plain", "", |_| {});
    assert_eq!(manifest.format, Manifest::FORMAT_SUMS);
    let top1 = manifest.teacher.top1_basis_points;
    let softmax = || node("Softmax", &["logits"], "p", vec![int("axis", 1)]);
    let (cast, said, manifest) = logits_of(folder, "cast", "", |graph| {
        constant(graph, "shape", &[2], Values::I64(vec![-1, 10]));
        let to = |code| vec![int("to", code)];
        let half = [
            node("Cast", &["logits"], "h", to(10)),
            node("Softmax", &["h"], "p", vec![]),
            node("Cast", &["p"], "f", to(1)),
        ];
        behind(
            graph,
            half.into_iter().chain([node("Reshape", &["f", "shape"], "out", vec![])]).collect(),
        );
    });
    assert!(said.contains("`h`, which the softmax at the end reads"), "{said}");
    assert_eq!((manifest.logits, manifest.format), (None, Manifest::FORMAT_SUMS));
    assert!(cast.iter().zip(&plain).all(|(a, b)| (a - b).abs() <= 1e-3 * b.abs().max(1.0)));
    // a convolution's axes of one
    let (conv, _, _) = logits_of(folder, "conv", "", |graph| {
        constant(graph, "shape", &[4], Values::I64(vec![-1, 10, 1, 1]));
        let nodes = [
            node("Reshape", &["logits", "shape"], "wide", vec![]),
            node("Softmax", &["wide"], "p", vec![int("axis", 1)]),
        ];
        behind(graph, nodes.into_iter().chain([node("Flatten", &["p"], "out", vec![])]).collect());
    });
    near(&conv, &plain);
    // named by the user: converted, as nothing else may be done
    let (named, said, manifest) = logits_of(folder, "named", " --logits p", |graph| {
        behind(graph, vec![softmax(), node("Identity", &["p"], "out", vec![])]);
    });
    assert!(said.contains("log p of `p`, which holds probabilities"), "{said}");
    near(&named, &log_softmax(&plain));
    assert_eq!(
        (manifest.format, manifest.teacher.top1_basis_points),
        (Manifest::FORMAT_SUMS, top1)
    );
    assert!(folder.succeeds("cache info named").contains("made of probabilities"));
    folder.succeeds("cache verify named --live named.onnx");
    // two heads whose mean nothing in the graph explains
    let (mean, said, manifest) = logits_of(folder, "mean", "", |graph| {
        constant(graph, "half", &[], Values::F32(vec![0.5]));
        let nodes = [
            softmax(),
            node("Softmax", &["logits"], "q", vec![]),
            node("Add", &["p", "q"], "sum", vec![]),
        ];
        behind(
            graph,
            nodes.into_iter().chain([node("Mul", &["sum", "half"], "out", vec![])]).collect(),
        );
    });
    assert!(said.contains("log p of `out`"), "{said}");
    near(&mean, &log_softmax(&plain));
    assert_eq!(manifest.teacher.top1_basis_points, top1);
    // nor their sum, of which the factor is nothing to a softmax
    let (sum, said, _) = logits_of(folder, "sum", "", |graph| {
        let nodes = [
            softmax(),
            node("Softmax", &["logits"], "q", vec![]),
            node("Add", &["p", "q"], "out", vec![]),
        ];
        behind(graph, nodes.into());
    });
    assert!(said.contains("log p of `out`"), "{said}");
    near(&log_softmax(&sum), &log_softmax(&plain));
    let scores = |name: &str| {
        let found = folder.json(&format!("eval {name}.onnx {DATA} --split train"));
        (found["top1"].as_f64().unwrap(), found["loss"].as_f64().unwrap())
    };
    let expected = scores("plain");
    for name in ["conv", "named", "mean", "sum"] {
        let found = scores(name);
        assert!(
            (found.0 - expected.0).abs() < 1e-9 && (found.1 - expected.1).abs() < 1e-4,
            "{name}: {found:?} {expected:?}"
        );
    }
    // several labels a sample
    let (sigmoid, said, manifest) = logits_of(folder, "sigmoid", "", |graph| {
        behind(graph, vec![node("Sigmoid", &["logits"], "out", vec![])]);
    });
    assert!(
        said.contains("`logits`, which the sigmoid at the end reads") && manifest.logits.is_none(),
        "{said}"
    );
    near(&sigmoid, &plain);
    assert!(folder.succeeds("inspect sigmoid.onnx --json").contains("\"logits\": \"logits\""));
    let (hard, said, _) = logits_of(folder, "hard", "", |graph| {
        behind(graph, vec![node("HardSigmoid", &["logits"], "out", vec![])]);
    });
    assert!(said.contains("`logits`, which the hard sigmoid at the end reads"), "{said}");
    near(&hard, &plain);
}

/// The scores stand inside a function, where nobody can read them.
#[test]
fn a_softmax_inside_a_function_leaves_its_probabilities() {
    let folder = &prepared();
    let path = folder.join("inner.onnx");
    support::write_changed_teacher(&path, |graph| {
        let call = NodeProto {
            domain: Some("local".into()),
            ..node("Head", &["pooled", "w3"], "out", vec![])
        };
        graph.node.pop();
        behind(graph, vec![call]);
    });
    let mut model = ModelProto::decode(std::fs::read(&path).unwrap().as_slice()).unwrap();
    let opset = |domain: &str, version| OperatorSetIdProto {
        domain: Some(domain.into()),
        version: Some(version),
    };
    model.opset_import.push(opset("local", 1));
    model.functions.push(FunctionProto {
        name: Some("Head".into()),
        domain: Some("local".into()),
        input: vec!["x".into(), "w".into()],
        output: vec!["y".into()],
        node: vec![
            node("MatMul", &["x", "w"], "scores", vec![]),
            node("Softmax", &["scores"], "y", vec![]),
        ],
        opset_import: vec![opset("", 17)],
        ..FunctionProto::default()
    });
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    support::write_teacher(&folder.join("plain.onnx"));
    let said = folder.succeeds(&format!("extract inner.onnx {DATA} -o inner"));
    assert!(said.contains("log p of `out`"), "{said}");
    folder.succeeds(&format!("extract plain.onnx {DATA} -o plain"));
    near(
        &floats(&folder.join("inner"), "logits"),
        &log_softmax(&floats(&folder.join("plain"), "logits")),
    );
}

#[test]
fn classes_that_the_teacher_has_never_heard_of_are_the_datas_own() {
    let folder = &prepared();
    support::write_teacher(&folder.join("teacher.onnx"));
    support::write_images(&folder.join("images"), 40);
    let extract = "extract teacher.onnx --data folder:images --preprocess fashion-mnist";
    let said = folder.succeeds(&format!("{extract} -o cache"));
    assert!(
        said.contains("the teacher tells 10 classes, the data has 2: its accuracy is not measured"),
        "{said}"
    );
    assert!(!said.contains("top-1"), "{said}");
    let manifest = Manifest::load(&folder.join("cache")).unwrap();
    assert_eq!(
        (manifest.data.classes, manifest.teacher.top1_basis_points),
        (vec!["a".to_owned(), "b".to_owned()], None)
    );
    assert!(manifest.logits.unwrap().other_classes && manifest.format == Manifest::FORMAT_SUMS);
    assert_eq!(Cache::open(&folder.join("cache")).unwrap().labels().iter().max(), Some(&1));
    // labels and features train, logits do not
    folder.succeeds("train lenet --cache cache --epochs 1 --batch 20 -o plain");
    let student = nst_cache::onnx::Model::read(&folder.join("plain/student.onnx")).unwrap();
    assert_eq!(student.outputs()[0].shape.last(), Some(&nst_cache::onnx::Dim::Fixed(2)));
    for criterion in ["kd", "dkd", "dist"] {
        folder.refused(
            &format!("train lenet --cache cache --epochs 1 --criterion {criterion} -o {criterion}"),
            &[&format!("criterion {criterion}"), "10 others", "--classes"],
        );
    }
    // with names they are the teacher's
    folder.file("classes.txt", "c\nb\nd\ne\nf\ng\nh\ni\nj\na\n");
    folder.succeeds(&format!("{extract} --classes classes.txt -o named"));
    let cache = Cache::open(&folder.join("named")).unwrap();
    assert!(
        cache.manifest().logits.is_none() && cache.manifest().teacher.top1_basis_points.is_some()
    );
    assert!(cache.labels().iter().all(|label| [1, 9].contains(label)));
    // and eval has nothing to measure without them
    let eval = "eval teacher.onnx --data folder:images --preprocess fashion-mnist --split train";
    folder.refused(eval, &["the model tells 10 classes, the data has 2", "--classes"]);
    folder.succeeds(&format!("{eval} --classes classes.txt"));
}

#[test]
fn numbers_beyond_the_teachers_classes_are_labels_all_the_same() {
    let folder = &prepared();
    support::write_teacher(&folder.join("teacher.onnx"));
    support::write_idx_with_labels(&folder.join("twelve"), 40, 12);
    let said = folder
        .succeeds("extract teacher.onnx --data idx:twelve --preprocess fashion-mnist -o cache");
    assert!(said.contains("the teacher tells 10 classes, the data has 12"), "{said}");
    assert_eq!(Cache::open(&folder.join("cache")).unwrap().labels().iter().max(), Some(&11));
}

#[test]
fn values_below_f16_are_stored_as_f32_and_said() {
    let folder = &prepared();
    support::write_changed_teacher(&folder.join("tiny.onnx"), |graph| {
        let factor = graph.initializer.iter_mut().find(|tensor| tensor.name() == "factor").unwrap();
        *factor = tensor_proto("factor", &Array::new(vec![], Values::F32(vec![1e-8])).unwrap());
    });
    let dtype = |cache: &str, path: &str| {
        let manifest = Manifest::load(&folder.join(cache)).unwrap();
        manifest.view_arrays.iter().find(|spec| spec.path == path).unwrap().dtype
    };
    let said = folder.succeeds(&format!("extract tiny.onnx {DATA} -o auto"));
    assert!(
        said.contains("tap map2: values down to")
            && said.contains("would be lost in f16: stored as f32"),
        "{said}"
    );
    assert_eq!(
        (dtype("auto", "taps/map1/features"), dtype("auto", "taps/map2/features")),
        (Dtype::F16, Dtype::F32)
    );
    let said = folder.succeeds(&format!("extract tiny.onnx {DATA} -o half --store f16"));
    assert!(
        said.contains("tap map2: values down to") && said.contains("are lost in f16"),
        "{said}"
    );
    assert_eq!(dtype("half", "taps/map2/features"), Dtype::F16);
}

/// Writes a classifier of integers alone: `q1` [8,28,28], `q2` [8,14,14], `q3` [16,14,14], `vector`
/// [16]; `real3` are the numbers that `q3` stands for.
fn write_quantized(path: &Path) {
    let mut random = support::Random(23);
    let mut graph =
        GraphProto { name: Some("integers".into()), ..support::ends("image", &[1, 28, 28]) };
    for (name, shape) in [("w1", &[8, 1, 3, 3][..]), ("w2", &[16, 8, 3, 3]), ("w3", &[16, 10])] {
        let values = (0..shape.iter().product())
            .map(|_| i8::from_le_bytes([random.next().to_le_bytes()[3]]))
            .collect();
        constant(&mut graph, name, shape, Values::I8(values));
    }
    for (name, scale) in [("s", 0.02), ("sw", 0.01), ("s1", 0.05), ("s3", 0.08), ("s4", 0.04)] {
        constant(&mut graph, name, &[], Values::F32(vec![scale]));
    }
    for (name, zero) in [("z", 60), ("z0", 0), ("z4", 128)] {
        constant(&mut graph, name, &[], Values::U8(vec![zero]));
    }
    constant(&mut graph, "zw", &[], Values::I8(vec![0]));
    let pads = || vec![ints("pads", &[1, 1, 1, 1])];
    let halves = vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
    let mut average =
        node("QLinearGlobalAveragePool", &["q3", "s3", "z0", "s1", "z0"], "average", vec![]);
    average.domain = Some("com.microsoft".into());
    graph.node = vec![
        node("QuantizeLinear", &["image", "s", "z"], "q", vec![]),
        node("QLinearConv", &["q", "s", "z", "w1", "sw", "zw", "s1", "z0"], "q1", pads()),
        node("MaxPool", &["q1"], "q2", halves),
        node("QLinearConv", &["q2", "s1", "z0", "w2", "sw", "zw", "s3", "z0"], "q3", pads()),
        node("DequantizeLinear", &["q3", "s3", "z0"], "real3", vec![]),
        average,
        node("Flatten", &["average"], "vector", vec![]),
        node(
            "QLinearMatMul",
            &["vector", "s1", "z0", "w3", "sw", "zw", "s4", "z4"],
            "scores",
            vec![],
        ),
        node("DequantizeLinear", &["scores", "s4", "z4"], "logits", vec![]),
    ];
    let import = |domain: &str, version| OperatorSetIdProto {
        domain: Some(domain.into()),
        version: Some(version),
    };
    let opset_import = vec![import("", 17), import("com.microsoft", 1)];
    let model = ModelProto {
        ir_version: Some(8),
        opset_import,
        graph: Some(graph),
        ..ModelProto::default()
    };
    std::fs::write(path, model.encode_to_vec()).unwrap();
}

#[test]
fn maps_of_integers_are_kept_as_the_numbers_that_they_stand_for() {
    let folder = &prepared();
    write_quantized(&folder.join("integers.onnx"));
    folder.succeeds(&format!("extract integers.onnx {DATA} -o suggested --keep features"));
    let taps: Vec<String> = Manifest::load(&folder.join("suggested"))
        .unwrap()
        .taps
        .into_iter()
        .map(|tap| tap.tensor)
        .collect();
    assert_eq!(taps, ["q1", "q3", "vector"]);
    let taps = "--tap q3 --tap real3 --tap q2@7x7 --store f32";
    folder.succeeds(&format!("extract integers.onnx {DATA} -o kept {taps} --keep features"));
    let kept = |tap: &str| floats(&folder.join("kept"), &format!("taps/{tap}/features"));
    assert_eq!(kept("q3"), kept("real3"));
    assert!(
        kept("q3").iter().any(|&v| v > 0.0)
            && kept("q2").iter().any(|v| (v / 0.05).fract().abs() > 1e-3)
    );
    // appended nodes would see the integers: the host computes what is kept
    let statistics = "--tap q3 --tap real3 --keep attention";
    folder.succeeds(&format!("extract integers.onnx {DATA} -o statistics {statistics}"));
    let of = |tap: &str| floats(&folder.join("statistics"), &format!("taps/{tap}/attention"));
    near(&of("q3"), &of("real3"));
    assert!(folder.succeeds("cache verify kept --live integers.onnx").contains("sound"));
}

/// ONNX Runtime 1.31.1 took the zeros for minus infinity.
#[test]
fn a_padding_of_zeros_before_a_maximum_counts() {
    let folder = &prepared();
    support::write_changed_teacher(&folder.join("padded.onnx"), |graph| {
        constant(graph, "pads", &[8], Values::I64(vec![0, 0, 1, 1, 0, 0, 1, 1]));
        let maximum = vec![ints("kernel_shape", &[3, 3]), ints("strides", &[1, 1])];
        let nodes = [
            node("Softplus", &["conv1"], "above", vec![]),
            node("Neg", &["above"], "below", vec![]),
            node("Pad", &["below", "pads"], "wider", vec![]),
            node("MaxPool", &["wider"], "changed", maximum),
        ];
        between(graph, nodes.into());
    });
    let flags = "--tap changed --store f32 --keep features -o cache";
    folder.succeeds(&format!("extract padded.onnx {DATA} {flags}"));
    for map in floats(&folder.join("cache"), "taps/changed/features").chunks(28 * 28) {
        // around the map the zeros are the largest, and nowhere else
        let at = |row: usize, column: usize| map[row * 28 + column];
        assert!((0..28).all(|i| at(0, i) == 0.0 && at(i, 27) == 0.0) && at(14, 14) < 0.0);
    }
}
