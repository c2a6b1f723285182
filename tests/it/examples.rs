//! The examples of docs/tasks.md, with `NST_SLOW`: each task is distilled over three seeds and
//! compared with a twin that takes the same steps without a teacher, or, where no loss without one
//! exists, with the untrained student. `make examples` prints the figures.

#![allow(clippy::cast_precision_loss, clippy::print_stdout, reason = "small counts; a table")]

use crate::support::graph::{FLOAT, constant, int, ints, node, text, value, write_graph};
use crate::support::{PROGRAM, Random, Sandbox, committed, is_slow};
use nst_cache::array::Values;
use nst_cache::onnx::proto::{GraphProto, NodeProto};
use serde_json::Value;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

const SEEDS: [u64; 3] = [0, 1, 2];

/// A network for 28×28 images with two stages, a neck that joins them (`p1`, `p2`), and a head of
/// ten classes on both: `dense` [10, 14, 14], `tokens` [196, 10], the same values, `anchors`
/// [10, 245] of both strides, and their mean, `logits` [10].
fn write_net(path: &Path, channels: usize, outputs: &[&str], seed: u64) {
    let (c, n) = (channels, 2 * channels);
    let mut graph = GraphProto {
        input: vec![value("input", FLOAT, &["batch", "1", "28", "28"])],
        ..GraphProto::default()
    };
    let mut random = Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut conv = |graph: &mut GraphProto, x: &str, y: &str, [o, i, k, s]: [usize; 4]| {
        let limit = (6.0 / (i * k * k) as f64).sqrt();
        #[allow(clippy::cast_possible_truncation, reason = "float32 is what is meant")]
        let weights = (0..o * i * k * k).map(|_| ((2.0 * random.unit() - 1.0) * limit) as f32);
        let weight = format!("{y}.weight");
        constant(graph, &weight, &[o, i, k, k], Values::F32(weights.collect()));
        let (pad, stride) = (i64::try_from(k / 2).unwrap(), i64::try_from(s).unwrap());
        let attributes = vec![ints("pads", &[pad; 4]), ints("strides", &[stride; 2])];
        graph.node.push(node("Conv", &[x, &weight], y, attributes));
    };
    let mut layer = |graph: &mut GraphProto, x: &str, y: &str, shape: [usize; 4]| {
        let name = |part: &str| format!("{y}.{part}");
        conv(graph, x, &name("conv"), shape);
        let parts = [("scale", 1.0), ("bias", 0.0), ("mean", 0.0), ("var", 1.0)];
        for (part, start) in parts {
            constant(graph, &name(part), &[shape[0]], Values::F32(vec![start; shape[0]]));
        }
        let inputs = ["conv", "scale", "bias", "mean", "var"].map(name);
        let inputs = inputs.each_ref().map(String::as_str);
        graph.node.push(node("BatchNormalization", &inputs, &name("norm"), vec![]));
        graph.node.push(node("Relu", &[&name("norm")], y, vec![]));
    };
    layer(&mut graph, "input", "stem", [c, 1, 3, 2]);
    layer(&mut graph, "stem", "stage1", [c, c, 3, 1]);
    layer(&mut graph, "stage1", "down", [n, c, 3, 2]);
    layer(&mut graph, "down", "stage2", [n, n, 3, 1]);
    layer(&mut graph, "stage2", "p2", [n, n, 1, 1]);
    layer(&mut graph, "stage1", "lateral", [n, c, 1, 1]);
    constant(&mut graph, "scales", &[4], Values::F32(vec![1.0, 1.0, 2.0, 2.0]));
    let nearest = vec![
        text("mode", "nearest"),
        text("coordinate_transformation_mode", "asymmetric"),
        text("nearest_mode", "floor"),
    ];
    graph.node.push(node("Resize", &["p2", "", "scales"], "up", nearest));
    graph.node.push(node("Add", &["up", "lateral"], "joined", vec![]));
    layer(&mut graph, "joined", "p1", [n, n, 3, 1]);
    conv(&mut graph, "p1", "dense", [10, n, 1, 1]);
    conv(&mut graph, "p2", "coarse", [10, n, 1, 1]);
    for (name, positions) in [("fine.shape", 196), ("coarse.shape", 49)] {
        constant(&mut graph, name, &[3], Values::I64(vec![0, 10, positions]));
    }
    constant(&mut graph, "positions", &[1], Values::I64(vec![2]));
    let _: () = graph.node.extend::<[NodeProto; 5]>([
        node("Reshape", &["dense", "fine.shape"], "fine.flat", vec![]),
        node("Reshape", &["coarse", "coarse.shape"], "coarse.flat", vec![]),
        node("Concat", &["fine.flat", "coarse.flat"], "anchors", vec![int("axis", 2)]),
        node("Transpose", &["fine.flat"], "tokens", vec![ints("perm", &[0, 2, 1])]),
        node("ReduceMean", &["anchors"], "logits", vec![ints("axes", &[2]), int("keepdims", 0)]),
    ]);
    for &output in outputs {
        let axes: &[&str] = match output {
            "dense" => &["batch", "10", "14", "14"],
            "tokens" => &["batch", "196", "10"],
            "anchors" => &["batch", "10", "245"],
            _ => &["batch", "10"],
        };
        graph.output.push(value(output, FLOAT, axes));
    }
    write_graph(path, graph);
}

/// Runs a command of `NST_BINARY`, or of the program that the tests build, and returns its JSON.
fn run(folder: &Path, line: &str) -> Value {
    let program = std::env::var_os("NST_BINARY").unwrap_or_else(|| PROGRAM.into());
    let output = Command::new(program)
        .current_dir(folder)
        .args(line.split_whitespace())
        .args(["--json", "--quiet"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// Values of one measure over the seeds.
struct Measured(Vec<f64>);

impl Measured {
    fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    /// Mean and sample standard deviation.
    fn show(&self, digits: usize) -> String {
        let mean = self.mean();
        let square = self.0.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>();
        let deviation = (square / (self.0.len() as f64 - 1.0).max(1.0)).sqrt();
        format!("{mean:.digits$} ± {deviation:.digits$}")
    }
}

/// Adds a row to the table of `make examples`.
fn record(row: &[&str]) {
    let line = format!("| {} |\n", row.join(" | "));
    match std::env::var_os("NST_FIGURES") {
        Some(path) => {
            let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
            file.write_all(line.as_bytes()).unwrap();
        }
        None => println!("{line}"),
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("expected a number, found {value}"))
}

/// Copies a recipe from recipes/tasks, and returns the flag that names it.
fn recipe(folder: &Path, name: &str) -> String {
    let file = format!("{name}.toml");
    std::fs::copy(committed("recipes/tasks").join(&file), folder.join(&file)).unwrap();
    format!("--recipe {file}")
}

#[test]
fn an_embedding_without_labels() {
    if !is_slow() {
        return;
    }
    let sandbox = Sandbox::with_runtime();
    std::fs::copy(committed("models/teacher.onnx"), sandbox.join("teacher.onnx")).unwrap();
    run(&sandbox, "extract teacher.onnx --data fashion-mnist --logits none --tap flatten -o cache");
    let knn = |model: &str| {
        let flags = if model == "pixels" { "--preprocess fashion-mnist" } else { "" };
        let line = format!("eval {model} --data fashion-mnist --knn {flags}");
        number(&run(&sandbox, &line)["knn"]["top1"])
    };
    let recipe = recipe(&sandbox, "embedding");
    let (mut distilled, mut untrained) = (Vec::new(), Vec::new());
    for seed in SEEDS {
        let line = format!("train resnet8 --cache cache {recipe} --seed {seed}");
        run(&sandbox, &format!("{line} -o run{seed}"));
        distilled.push(knn(&format!("run{seed}/student.onnx")));
        // steps of no length: its running statistics are those of the data
        run(&sandbox, &format!("{line} --epochs 1 --lr 1e-12 -o new{seed}"));
        untrained.push(knn(&format!("new{seed}/student.onnx")));
    }
    let (distilled, untrained) = (Measured(distilled), Measured(untrained));
    let pixels = knn("pixels");
    record(&[
        "embedding",
        "k-NN accuracy, %",
        &distilled.show(2),
        &format!("{} untrained, {pixels:.2} pixels", untrained.show(2)),
    ]);
    assert!(distilled.mean() > untrained.mean() && distilled.mean() > pixels);
}

/// A task of the network: what is distilled, and how the output is measured.
struct Task {
    name: &'static str,
    /// Flags of `extract`, beyond the teacher and the data.
    extract: &'static str,
    /// Its file in recipes/tasks.
    recipe: &'static str,
    /// The output that is compared with the teacher's.
    output: &'static str,
    /// Flags of `eval --against`, and where the measure is in its JSON.
    read: &'static str,
    measure: &'static [&'static str],
    unit: &'static str,
}

const TASKS: [Task; 3] = [
    Task {
        name: "segmenter by `cwd`",
        extract: "--tap dense",
        recipe: "segmenter",
        output: "dense",
        read: "--read dense=classes",
        measure: &["classes", "miou"],
        unit: "mIoU with the teacher, %",
    },
    Task {
        name: "detector by outputs and neck",
        extract: "--tap anchors --tap p1 --tap p2",
        recipe: "detector",
        output: "anchors",
        read: "",
        measure: &["cosine"],
        unit: "cosine of the outputs",
    },
    Task {
        name: "token logits by top-3",
        extract: "--logits tokens --logits-keep topk:3 --recipe tokens.toml",
        recipe: "tokens",
        output: "tokens",
        read: "--read tokens=classes",
        measure: &["classes", "top1"],
        unit: "positions of the teacher's class, %",
    },
];

#[test]
fn dense_outputs_and_necks() {
    if !is_slow() {
        return;
    }
    let sandbox = Sandbox::with_runtime();
    let outputs = ["logits", "dense", "anchors", "tokens"];
    write_net(&sandbox.join("untrained.onnx"), 32, &outputs, 7);
    let data = "--data fashion-mnist --preprocess fashion-mnist";
    run(&sandbox, &format!("train untrained.onnx {data} --epochs 6 --batch 64 -o teacher"));
    for seed in SEEDS {
        write_net(&sandbox.join(format!("student{seed}.onnx")), 8, &outputs, seed);
    }
    let measure = |task: &Task, run_folder: &str| {
        let (name, read) = (task.output, task.read);
        let found = run(
            &sandbox,
            &format!(
                "eval {run_folder}/student.onnx {data} --against teacher/student.onnx \
                 --pair {name}={name} {read}"
            ),
        );
        let output = &found["against"]["outputs"][0];
        let at = |value: &Value| task.measure.iter().fold(value.clone(), |v, key| v[*key].clone());
        let scores = run(&sandbox, &format!("eval {run_folder}/student.onnx {data}"));
        [number(&at(output)), number(&scores["top1"])]
    };
    for (number, task) in TASKS.iter().enumerate() {
        let cache = format!("cache{number}");
        let recipe = recipe(&sandbox, task.recipe);
        let extract = format!("extract teacher/student.onnx {data} {} -o {cache}", task.extract);
        run(&sandbox, &extract);
        let mut found = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
        for seed in SEEDS {
            let twin = format!("{recipe} --criterion ce");
            for (which, recipe) in [&recipe, &twin].into_iter().enumerate() {
                let folder = format!("run{number}-{which}-{seed}");
                run(
                    &sandbox,
                    &format!(
                        "train student{seed}.onnx --cache {cache} --seed {seed} {recipe} \
                         -o {folder}"
                    ),
                );
                let [value, top1] = measure(task, &folder);
                found[which][0].push(value);
                found[which][1].push(top1);
            }
        }
        let [distilled, twin] = found.map(|both| both.map(Measured));
        let digits = if task.measure == ["cosine"] { 4 } else { 2 };
        record(&[task.name, task.unit, &distilled[0].show(digits), &twin[0].show(digits)]);
        record(&[task.name, "top-1, %", &distilled[1].show(2), &twin[1].show(2)]);
        assert!(distilled[0].mean() > twin[0].mean(), "{}", task.name);
    }
}
