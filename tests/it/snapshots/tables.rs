//! What the commands print of a small teacher, its cache and its students.

use crate::support::graph::{FLOAT, constant, int, value, write_graph};
use crate::support::{self, Sandbox, committed, measured, node, snapshot};
use nst_cache::array::{Array, Values};
use nst_cache::onnx::proto::GraphProto;
use std::fmt::Write as _;

const SWEEP: &str = r#"
cache = "cache"
test = "folder:images"
students = ["lenet"]
seeds = [0, 1]
epochs = 1
batch = 16
[[method]]
name = "CE"
[[method.criterion]]
method = "ce"
"#;

/// The outputs of commands that succeed, with what goes to stderr in front.
fn printed(folder: &Sandbox, lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines {
        let ran = folder.run(line).expect(0);
        writeln!(text, "$ nst-cache {line}\n{}{}", ran.stderr, ran.stdout).unwrap();
    }
    text
}

#[test]
fn criteria() {
    let folder = Sandbox::new();
    let names = folder.json("criteria");
    let names = names.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap());
    let lines: Vec<String> = names.map(|name| format!("criteria {name}")).collect();
    let lines: Vec<&str> =
        std::iter::once("criteria").chain(lines.iter().map(String::as_str)).collect();
    snapshot("criteria", &folder, &printed(&folder, &lines));
}

#[test]
fn presets_and_recipes() {
    let folder = Sandbox::new();
    snapshot("presets_and_recipes", &folder, &printed(&folder, &["new --list", "recipe sakd"]));
}

#[test]
fn inspect() {
    support::need_runtime();
    let folder = Sandbox::new().teacher();
    for name in ["nhwc", "vit", "uint8", "varying"] {
        let file = format!("{name}.onnx");
        std::fs::copy(committed("tests/data/models").join(&file), folder.join(&file)).unwrap();
    }
    folder.succeeds("new resnet8 --classes 10 --input 1x28x28 -o student.onnx");
    let lines = [
        "inspect teacher.onnx",
        "inspect nhwc.onnx",
        "inspect vit.onnx",
        "inspect uint8.onnx",
        "inspect varying.onnx",
        "inspect student.onnx",
        "inspect student.onnx --parameters",
    ];
    snapshot("inspect", &folder, &printed(&folder, &lines));
}

/// A run of each command in turn, from an estimate to an evaluation.
#[test]
fn a_cache_and_its_student() {
    let folder = Sandbox::with_runtime().teacher().data(48);
    let extract = "extract teacher.onnx --data idx:data --preprocess fashion-mnist --threads 1";
    let cache = [
        &format!("{extract} --dry-run"),
        &format!("{extract} -o cache --tap map1@7x7=small --tap map2 --tap pooled"),
        "cache info cache",
        "cache verify cache",
        "cache repair cache",
        "cache export cache --npz out.npz",
    ];
    measured("extract_and_cache", &folder, &printed(&folder, &cache));
    let train = [
        "train resnet8 --cache cache --epochs 2 --batch 16 --threads 1 --criterion ce --criterion \
         nst:weight=5 --test idx:data:train -o run",
        "train resnet8 --cache cache --epochs 2 --batch 16 --threads 1 --criterion ce --criterion \
         nst:weight=5 --test idx:data:train -o run",
        "eval run/student.onnx --data idx:data --split train",
        "eval teacher.onnx --data idx:data --split train --preprocess fashion-mnist",
    ];
    measured("train_and_eval", &folder, &printed(&folder, &train));
}

/// Outputs of each kind, of which every figure can be computed by hand.
#[test]
fn eval() {
    let folder = Sandbox::with_runtime();
    for (file, first) in [("student.onnx", "Identity"), ("teacher.onnx", "Neg")] {
        let mut graph = GraphProto {
            name: Some("graph".into()),
            input: vec![value("x", FLOAT, &["batch", "2", "2", "2"])],
            output: vec![
                value("embedding", FLOAT, &["batch", "2"]),
                value("map", FLOAT, &["batch", "2", "2", "2"]),
                value("classes", FLOAT, &["batch", "2", "2", "2"]),
                value("labels", FLOAT, &["batch", "2"]),
                value("left", FLOAT, &["batch", "3"]),
            ],
            node: vec![
                node(first, &["x"], "map", vec![]),
                node("Softmax", &["map"], "classes", vec![int("axis", 1)]),
                node("GlobalAveragePool", &["x"], "mean", vec![]),
                node("Flatten", &["mean"], "embedding", vec![]),
                node("Sigmoid", &["embedding"], "labels", vec![]),
                node("MatMul", &["embedding", "w"], "left", vec![]),
            ],
            ..GraphProto::default()
        };
        constant(&mut graph, "w", &[2, 3], Values::F32(vec![1.0; 6]));
        if file == "teacher.onnx" {
            graph.output.pop();
        }
        write_graph(&folder.join(file), graph);
    }
    let x = [1.0, 2.0, 1.0, 0.0, 0.0, 1.0, 2.0, 0.0, -1.0, 0.0, 0.0, -1.0, -1.0, -2.0, 0.0, -1.0];
    let x = Array::new(vec![2, 2, 2, 2], Values::F32(x.to_vec())).unwrap();
    let labels = Array::new(vec![2], Values::I64(vec![0, 1])).unwrap();
    support::write_npz(&folder.join("x.npz"), &[("x", &x), ("labels", &labels)]);
    let lines = [
        "eval student.onnx --data npz:x.npz --against teacher.onnx --logits none",
        "eval student.onnx --data npz:x.npz --against teacher.onnx",
        "eval student.onnx --data npz:x.npz --against teacher.onnx --pair map=map \
         --logits none --json",
        "eval student.onnx --data npz:x.npz --knn --output left",
        "eval student.onnx --data npz:x.npz --knn --output left --json",
    ];
    snapshot("eval", &folder, &printed(&folder, &lines));
}

#[test]
fn sweep() {
    let folder = Sandbox::with_runtime().teacher().data(48);
    folder.succeeds("extract teacher.onnx --data idx:data --preprocess fashion-mnist -o cache");
    let classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    support::write_images_of(&folder.join("images"), 20, &classes);
    folder.file("small.toml", SWEEP);
    let lines = ["sweep small.toml --dry-run", "sweep small.toml --threads 1"];
    measured("sweep", &folder, &printed(&folder, &lines));
}
