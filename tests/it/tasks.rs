//! Tasks that are no classification: embeddings, dense outputs, several outputs, no labels.

use crate::support::graph::{FLOAT, constant, int, ints, node, value, write_graph};
use crate::support::{Random, Sandbox, noise, write_images, write_images_of, write_npz};
use nst_cache::array::{Array, Values};
use nst_cache::cache::Manifest;
use nst_cache::onnx::proto::GraphProto;
use serde_json::Value;

/// A network from `x` [3, 8, 8] to `embedding` [width], or another name, and `dense`
/// [planes, 8, 8]; the outputs are those that are named.
struct Net<'a> {
    width: usize,
    planes: usize,
    vector: &'a str,
    outputs: &'a [&'a str],
    seed: u64,
}

impl Net<'_> {
    fn write(&self, sandbox: &Sandbox, file: &str) {
        self.write_with(sandbox, file, |_| {});
    }

    /// The same with a change to its graph.
    fn write_with(&self, sandbox: &Sandbox, file: &str, change: impl FnOnce(&mut GraphProto)) {
        let mut random = Random(self.seed);
        let mut graph = GraphProto {
            input: vec![value("x", FLOAT, &["batch", "3", "8", "8"])],
            node: vec![
                node("Conv", &["x", "conv.weight"], "conv", vec![ints("pads", &[1; 4])]),
                node("Relu", &["conv"], "map", vec![]),
                node("GlobalAveragePool", &["map"], "mean", vec![]),
                node("Flatten", &["mean"], "flat", vec![]),
                node(
                    "Gemm",
                    &["flat", "fc.weight", "fc.bias"],
                    self.vector,
                    vec![int("transB", 1)],
                ),
                node("Conv", &["map", "head.weight"], "dense", vec![]),
            ],
            ..GraphProto::default()
        };
        for (name, shape) in [
            ("conv.weight", &[8, 3, 3, 3][..]),
            ("fc.weight", &[self.width, 8]),
            ("fc.bias", &[self.width]),
            ("head.weight", &[self.planes, 8, 1, 1]),
        ] {
            let count = shape.iter().product();
            #[allow(clippy::cast_possible_truncation, reason = "float32 is what is meant")]
            let values = (0..count).map(|_| (random.unit() - 0.5) as f32).collect();
            constant(&mut graph, name, shape, Values::F32(values));
        }
        let (width, planes) = (self.width.to_string(), self.planes.to_string());
        for &output in self.outputs {
            let axes = if output == "dense" { &[&planes, "8", "8"][..] } else { &[width.as_str()] };
            graph.output.push(value(output, FLOAT, &[&["batch"], axes].concat()));
        }
        change(&mut graph);
        write_graph(&sandbox.join(file), graph);
    }
}

const TEACHER: Net<'_> =
    Net { width: 24, planes: 5, vector: "embedding", outputs: &["embedding", "dense"], seed: 1 };

/// A teacher, a student of the same outputs, and 40 samples without labels.
fn sandbox(teacher: &Net<'_>, student: &Net<'_>) -> Sandbox {
    let sandbox = Sandbox::with_runtime();
    teacher.write(&sandbox, "teacher.onnx");
    student.write(&sandbox, "student.onnx");
    write_npz(&sandbox.join("x.npz"), &[("x", &noise(&[40, 3, 8, 8], 3))]);
    sandbox
}

const EXTRACT: &str = "extract teacher.onnx --data npz:x.npz -o cache";
const TRAIN: &str = "train student.onnx --cache cache --epochs 2 --batch 16 --device cpu -o run";

fn report(sandbox: &Sandbox) -> Value {
    serde_json::from_str(&std::fs::read_to_string(sandbox.join("run/run.json")).unwrap()).unwrap()
}

#[test]
fn an_embedding_is_distilled_without_labels() {
    let outputs = &["embedding"];
    let sandbox = sandbox(&Net { outputs, ..TEACHER }, &Net { outputs, seed: 2, ..TEACHER });
    sandbox
        .run(EXTRACT)
        .expect(0)
        .says(&["`embedding` is no class logits by its name (embed)", "no class logits are kept"]);
    let ran = sandbox.run(TRAIN).expect(0);
    ran.says(&[
        "cross-entropy is off",
        "loss 10·cosine",
        "pair: teacher embedding [24] with student embedding [24]",
        "--criterion 'cosine:pair=TEACHER>STUDENT' names others",
        "parity max |Δ|",
    ]);
    assert!(!ran.text().contains("top-1"), "{}", ran.text());
    let report = report(&sandbox);
    assert_eq!(report["parity"]["output"], "embedding");
    assert_eq!(report["parity"]["classes"], false);
    assert_eq!(report["train_top1"], Value::Null);
    // a finished run reads back
    sandbox.run(TRAIN).expect(0).says(&["finished already"]);
}

#[test]
fn a_preset_takes_the_width_of_the_embedding() {
    let sandbox = Sandbox::with_runtime();
    Net { outputs: &["embedding"], ..TEACHER }.write(&sandbox, "teacher.onnx");
    write_images(&sandbox.join("images"), 12);
    sandbox.succeeds("extract teacher.onnx --data images --size 8 -o cache");
    let line = "train resnet8 --cache cache --epochs 1 --batch 4 --device cpu -o run";
    sandbox.run(line).expect(0).says(&[
        "resnet8 gives an embedding of 24 values, the width of the teacher's `embedding`",
        "student embedding [24]",
    ]);
    let inspected = sandbox.json("inspect run/student.onnx");
    assert_eq!(inspected["outputs"][0]["name"], "embedding");
    assert_eq!(inspected["logits"], Value::Null);
    // a head of one's own, through a projector
    let line = "train resnet8 --cache cache --epochs 1 --batch 4 --device cpu --head 6 \
                --criterion mse:projector=true -o narrow";
    sandbox.run(line).expect(0).says(&["student embedding [6]"]);
}

#[test]
fn every_output_is_compared_exported_and_checked() {
    let sandbox = sandbox(&TEACHER, &Net { seed: 2, ..TEACHER });
    sandbox.succeeds(EXTRACT);
    let line = format!("{TRAIN} --criterion mse");
    sandbox.run(&line).expect(0).says(&[
        "pair: teacher embedding [24] with student embedding [24]",
        "pair: teacher dense [5, 8, 8] with student dense [5, 8, 8]",
        "of 2 outputs",
    ]);
    let report = report(&sandbox);
    assert_eq!(report["parity"]["others"][0]["output"], "dense");
    let outputs = sandbox.json("inspect run/student.onnx")["outputs"].clone();
    assert_eq!(outputs.as_array().unwrap().len(), 2);
    std::fs::remove_dir_all(sandbox.join("run")).unwrap();
    // dense logits by name, and an output without a loss
    let line = format!("{TRAIN} --criterion kd:pair=dense>dense --criterion cwd:pair=dense>dense");
    sandbox
        .run(&line)
        .expect(0)
        .says(&["loss 1·kd + ", "exported without a loss of its own: embedding"]);
}

#[test]
fn outputs_are_paired_by_name_then_by_shape() {
    let teacher = Net { planes: 24, outputs: &["dense", "embedding"], ..TEACHER };
    let student = Net { planes: 24, vector: "vector", outputs: &["vector", "dense"], ..TEACHER };
    let sandbox = sandbox(&teacher, &student);
    sandbox.succeeds(EXTRACT);
    sandbox.run(&format!("{TRAIN} --criterion l1")).expect(0).says(&[
        "pair: teacher embedding [24] with student vector [24]",
        "pair: teacher dense [24, 8, 8] with student dense [24, 8, 8]",
    ]);
}

#[test]
fn what_cannot_be_paired_is_refused_before_anything_is_written() {
    let student = Net { width: 16, seed: 2, ..TEACHER };
    let sandbox = sandbox(&TEACHER, &student);
    sandbox.succeeds(EXTRACT);
    for (criterion, parts) in [
        ("mse:pair=embedding>dense", &["equally many axes", "embedding 24", "dense 5x8x8"][..]),
        ("mse:pair=embedding>embedding", &["expected 24", "found 16", "projector=true"]),
        ("kd", &["expected the teacher's logits in the cache", "--logits TENSOR"]),
        ("mse:pair=none>embedding", &["teacher's tap `none`", "embedding"]),
    ] {
        sandbox.refused(&format!("{TRAIN} --criterion {criterion}"), parts);
        assert!(!sandbox.join("run").exists(), "{criterion}");
    }
}

#[test]
fn a_student_speaks_the_teachers_embedding_through_its_projector() {
    let student = Net { width: 16, planes: 3, vector: "vector", outputs: &["vector"], ..TEACHER };
    let sandbox = sandbox(&TEACHER, &student);
    sandbox.succeeds(EXTRACT);
    let line = format!("{TRAIN} --export-projector");
    sandbox.refused(&format!("{line} --criterion at"), &["expected a criterion that learns"]);
    let criteria = "--criterion cosine:pair=embedding>vector,projector=true \
                    --criterion mse:pair=dense>map,projector=true";
    sandbox.run(&format!("{line} {criteria}")).expect(0).says(&["of 3 outputs"]);
    let outputs = sandbox.json("inspect run/student.onnx")["outputs"].clone();
    let named = |output: &Value| format!("{} {}", output["name"], output["shape"]);
    let found: Vec<String> = outputs.as_array().unwrap().iter().map(named).collect();
    assert_eq!(
        found,
        [r#""vector" ["batch",16]"#, r#""embedding" ["batch",24]"#, r#""dense-2" ["batch",5,8,8]"#]
    );
    // left out unless asked for
    std::fs::remove_dir_all(sandbox.join("run")).unwrap();
    sandbox.succeeds(&format!("{TRAIN} {criteria}"));
    assert_eq!(sandbox.json("inspect run/student.onnx")["outputs"].as_array().unwrap().len(), 1);
}

#[test]
fn labels_alone_do_not_make_class_logits() {
    let sandbox = sandbox(&TEACHER, &Net { seed: 2, ..TEACHER });
    let labels = Array::new(vec![40], Values::I64((0..40).map(|i| i % 4).collect())).unwrap();
    let arrays = [("x", &noise(&[40, 3, 8, 8], 3)), ("y", &labels)];
    write_npz(&sandbox.join("x.npz"), &arrays);
    sandbox.succeeds(EXTRACT);
    sandbox
        .run(TRAIN)
        .expect(0)
        .says(&["`embedding` is no class logits by its name", "loss 1·mse"]);
    std::fs::remove_dir_all(sandbox.join("run")).unwrap();
    // asked for, it is done
    let line = format!("{TRAIN} --criterion ce --criterion mse");
    sandbox.run(&line).expect(0).says(&["loss 1·ce + 1·mse", "24 logits and the data 4 classes"]);
}

#[test]
fn logits_are_found_named_or_absent() {
    let vector = "scores";
    let outputs = &["scores", "dense"];
    let sandbox = sandbox(&Net { vector, outputs, ..TEACHER }, &TEACHER);
    let kept = |flags: &str, folder: &str| {
        sandbox.succeeds(&format!("extract teacher.onnx --data npz:x.npz -o {folder} {flags}"));
        let arrays = Manifest::load(&sandbox.join(folder)).unwrap().view_arrays;
        arrays.into_iter().map(|array| array.path).collect::<Vec<_>>()
    };
    let found = kept("", "found");
    assert!(found.contains(&"logits".to_owned()), "{found:?}");
    let none = kept("--logits none", "none");
    assert!(!none.contains(&"logits".to_owned()), "{none:?}");
    assert!(none.contains(&"taps/scores/features".to_owned()), "{none:?}");
    assert!(none.contains(&"taps/dense/features".to_owned()), "{none:?}");
}

/// The kinds of a run's epochs: what their evaluations hold.
fn tests(sandbox: &Sandbox, run: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(sandbox.join(run).join("metrics.jsonl")).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    records
        .filter(|record| record["kind"] == "epoch")
        .map(|record| record["test"].clone())
        .collect()
}

#[test]
fn a_test_cache_shows_the_agreement_of_every_output_and_keeps_the_best() {
    let sandbox = sandbox(&TEACHER, &Net { seed: 2, ..TEACHER });
    write_npz(&sandbox.join("t.npz"), &[("x", &noise(&[20, 3, 8, 8], 4))]);
    sandbox.succeeds(EXTRACT);
    sandbox.succeeds("extract teacher.onnx --data npz:t.npz -o seen");
    let line =
        format!("{TRAIN} --epochs 4 --criterion mse --test seen").replacen("--epochs 2 ", "", 1);
    sandbox.run(&line).expect(0).says(&[
        "test: 20 samples, unlabeled, with the teacher's outputs",
        "test dense cosine",
        "embedding cosine",
    ]);
    let found = tests(&sandbox, "run");
    assert_eq!(found.len(), 4);
    let cosine = |test: &Value, output: &str| test["outputs"][output]["cosine"].as_f64().unwrap();
    assert!(cosine(&found[3], "embedding") > cosine(&found[0], "embedding"), "{found:?}");
    assert_eq!(found[3]["samples"], 20);
    assert_eq!(found[3]["top1"], Value::Null);
    // what `eval` finds of the student is what the last epoch found
    let seen = sandbox.json("eval run/student.onnx --against seen");
    for output in seen["against"]["outputs"].as_array().unwrap() {
        let name = output["student"].as_str().unwrap();
        let (eval, train) = (output["cosine"].as_f64().unwrap(), cosine(&found[3], name));
        assert!((eval - train).abs() < 1e-5, "{name}: {eval} {train}");
    }
    assert!(sandbox.join("run/best.onnx").is_file());
    // another teacher's cache says nothing
    Net { seed: 9, ..TEACHER }.write(&sandbox, "other.onnx");
    sandbox.succeeds("extract other.onnx --data npz:t.npz -o other");
    let line = line.replace("-o run", "-o none").replace("--test seen", "--test other");
    sandbox.refused(&line, &["expected a cache of the training cache's teacher"]);
}

#[test]
fn an_embeddings_neighbors_are_asked_where_there_are_labels() {
    let outputs = &["embedding"];
    let sandbox = sandbox(&Net { outputs, ..TEACHER }, &Net { outputs, seed: 2, ..TEACHER });
    // classes that differ in brightness
    let labels = |count: i64| (0..count).map(|i| i % 3).collect::<Vec<_>>();
    for (file, count, seed) in [("x.npz", 60, 3), ("t.npz", 30, 4)] {
        let labels = labels(count);
        let Values::F32(mut values) = noise(&[labels.len(), 3, 8, 8], seed).values().clone() else {
            panic!("noise is f32")
        };
        for (at, value) in values.iter_mut().enumerate() {
            *value += [0.0, 1.0, 2.0][at / 192 % 3] * 3.0;
        }
        let x = Array::new(vec![labels.len(), 3, 8, 8], Values::F32(values)).unwrap();
        let y = Array::new(vec![labels.len()], Values::I64(labels)).unwrap();
        write_npz(&sandbox.join(file), &[("x", &x), ("y", &y)]);
    }
    sandbox.succeeds(EXTRACT);
    let line = format!("{TRAIN} --test npz:t.npz");
    sandbox.run(&line).expect(0).says(&["test k-NN"]);
    let found = tests(&sandbox, "run");
    assert!(found[1]["knn"].as_f64().unwrap() > 60.0, "{found:?}");
    let eval = sandbox.json("eval run/student.onnx --data npz:t.npz --knn --limit 30");
    assert!(eval["knn"].is_object(), "{eval}");
}

#[test]
fn a_test_sets_labels_follow_the_names_of_the_classes() {
    let sandbox = Sandbox::with_runtime();
    write_images_of(&sandbox.join("images"), 12, &["a", "b", "c"]);
    write_images_of(&sandbox.join("fewer"), 8, &["b", "c"]);
    write_images_of(&sandbox.join("others"), 8, &["b", "d"]);
    let line = "train resnet8 --data images --size 8 --epochs 1 --batch 4 --device cpu";
    let measured = |folder: &str, test: &str| {
        sandbox.succeeds(&format!("{line} -o {folder} --test folder:{test}"));
        tests(&sandbox, folder)[0]["top1"].as_f64().unwrap()
    };
    let train = measured("run", "fewer");
    let eval = sandbox.json("eval run/student.onnx --data folder:fewer");
    assert!((train - eval["top1"].as_f64().unwrap()).abs() < 1e-9, "{train} {eval}");
    sandbox.refused(
        &format!("{line} -o none --test folder:others"),
        &["--test folder:others", "expected the training data's classes"],
    );
    // the split beside the training data, and a cache
    let fewer = sandbox.join("fewer");
    write_images_of(&sandbox.join("split/train"), 12, &["a", "b", "c"]);
    std::fs::rename(fewer, sandbox.join("split/test")).unwrap();
    sandbox.succeeds(&format!("{line} -o beside").replace("--data images", "--data split"));
    let train = tests(&sandbox, "beside")[0]["top1"].as_f64().unwrap();
    let eval = sandbox.json("eval beside/student.onnx --data split");
    assert!((train - eval["top1"].as_f64().unwrap()).abs() < 1e-9, "{train} {eval}");
    Net { outputs: &["embedding"], ..TEACHER }.write(&sandbox, "teacher.onnx");
    for split in ["train", "test"] {
        sandbox.succeeds(&format!(
            "extract teacher.onnx --data split --split {split} --size 8 -o cache-{split}"
        ));
    }
    sandbox.refused(
        "train resnet8 --cache cache-train --test cache-test -o none",
        &["--test cache-test", "3 classes in their order, found 2"],
    );
}

#[test]
fn logits_are_not_compared_with_probabilities() {
    let sandbox = Sandbox::with_runtime();
    let outputs = &["dense"];
    let net = Net { outputs, ..TEACHER };
    net.write(&sandbox, "teacher.onnx");
    net.write_with(&sandbox, "student.onnx", |graph| {
        graph.node.push(node("Softmax", &["dense"], "shares", vec![int("axis", 1)]));
        graph.output = vec![value("shares", FLOAT, &["batch", "5", "8", "8"])];
    });
    write_npz(&sandbox.join("x.npz"), &[("x", &noise(&[40, 3, 8, 8], 3))]);
    sandbox.succeeds(EXTRACT);
    sandbox.refused(
        &format!("{TRAIN} --criterion kd:pair=dense>shares"),
        &["expected logits, found what a softmax makes", "pair=dense>dense"],
    );
    sandbox.run(&format!("{TRAIN} --criterion mse")).expect(0).says(&["unlike values"]);
    std::fs::remove_dir_all(sandbox.join("run")).unwrap();
    sandbox.succeeds(&format!("{TRAIN} --criterion kd:pair=dense>dense"));
}

#[test]
fn outputs_that_tie_are_asked_for() {
    let sandbox = Sandbox::with_runtime();
    let twin = |graph: &mut GraphProto| {
        graph.node.push(node("Neg", &["embedding"], "text_embeds", vec![]));
        graph.output.push(value("text_embeds", FLOAT, &["batch", "24"]));
    };
    let outputs = &["embedding"];
    Net { outputs, ..TEACHER }.write_with(&sandbox, "teacher.onnx", twin);
    Net { outputs: &["vector"], vector: "vector", seed: 2, ..TEACHER }
        .write(&sandbox, "student.onnx");
    write_npz(&sandbox.join("x.npz"), &[("x", &noise(&[40, 3, 8, 8], 3))]);
    sandbox.succeeds(EXTRACT);
    let parts = ["embedding 24", "text_embeds 24", "vector 24", "pair=TEACHER>STUDENT"];
    sandbox.refused(TRAIN, &parts);
    let line = format!("{TRAIN} --criterion cosine:pair=embedding>vector");
    sandbox.run(&line).expect(0).says(&["student vector [24]"]);
}

#[test]
fn one_dimensional_maps_are_maps_of_height_1() {
    let sandbox = Sandbox::with_runtime();
    for (file, seed) in [("teacher.onnx", 1), ("student.onnx", 2)] {
        let mut random = Random(seed);
        let mut graph = GraphProto {
            input: vec![value("x", FLOAT, &["batch", "2", "16"])],
            node: vec![
                node("Conv", &["x", "a"], "wide", vec![ints("pads", &[1, 1])]),
                node("Relu", &["wide"], "map", vec![]),
                node("Conv", &["map", "b"], "frames", vec![]),
            ],
            output: vec![value("frames", FLOAT, &["batch", "6", "16"])],
            ..GraphProto::default()
        };
        for (name, shape) in [("a", [4, 2, 3]), ("b", [6, 4, 1])] {
            let count = shape.iter().product();
            #[allow(clippy::cast_possible_truncation, reason = "float32 is what is meant")]
            let values = (0..count).map(|_| (random.unit() - 0.5) as f32).collect();
            constant(&mut graph, name, &shape, Values::F32(values));
        }
        write_graph(&sandbox.join(file), graph);
    }
    write_npz(&sandbox.join("x.npz"), &[("x", &noise(&[40, 2, 16], 3))]);
    sandbox.succeeds(&format!("{EXTRACT} --tap frames --tap map"));
    let line = format!("{TRAIN} --criterion mse --criterion at:pair=map>map");
    sandbox.run(&line).expect(0).says(&[
        "teacher frames [6, 1, 16] with student frames [6, 1, 16]",
        "teacher map [4, 1, 16] with student map [4, 1, 16]",
    ]);
    let line = format!("{TRAIN} --criterion mse:pair=map>map,projector=true --export-projector");
    sandbox.refused(
        &line.replace("-o run", "-o none"),
        &["export-projector", "a map of two dimensions, found map"],
    );
    assert!(!sandbox.join("none").exists());
}

#[test]
fn a_classifier_without_labels_teaches_its_logits() {
    let (vector, outputs) = ("logits", &["logits"]);
    let net = Net { vector, outputs, ..TEACHER };
    let sandbox = sandbox(&net, &Net { seed: 2, ..net });
    sandbox.succeeds(EXTRACT);
    sandbox.run(TRAIN).expect(0).says(&["cross-entropy is off", "loss 1·kd,", "|Δlogit|"]);
}

#[test]
fn test_labels_beyond_the_classes_are_refused_before_the_first_step() {
    let sandbox = Sandbox::with_runtime();
    Net { width: 3, vector: "logits", outputs: &["logits"], ..TEACHER }
        .write(&sandbox, "student.onnx");
    for (file, classes) in [("x.npz", 3), ("t.npz", 5)] {
        let labels = (0..20).map(|i| i % classes).collect();
        let labels = Array::new(vec![20], Values::I64(labels)).unwrap();
        write_npz(&sandbox.join(file), &[("x", &noise(&[20, 3, 8, 8], 3)), ("y", &labels)]);
    }
    let line = "train student.onnx --data npz:x.npz --test npz:t.npz --batch 4 -o run";
    sandbox.refused(line, &["test set", "3 classes, found 4"]);
    assert!(!sandbox.join("run").exists());
}

#[test]
fn a_value_a_sample_is_a_vector_of_one() {
    let sandbox = Sandbox::with_runtime();
    // `[batch]` of the teacher, `[batch]` and `[batch, 1]` of students
    for (file, flat, seed) in [("teacher", true, 1), ("student", true, 2), ("other", false, 2)] {
        let vector = if flat { "age.column" } else { "age" };
        let net = Net { width: 1, planes: 5, vector, outputs: &[], seed };
        net.write_with(&sandbox, &format!("{file}.onnx"), |graph| {
            constant(graph, "axis", &[1], Values::I64(vec![1]));
            if flat {
                graph.node.push(node("Squeeze", &["age.column", "axis"], "age", vec![]));
            }
            let axes: &[&str] = if flat { &["batch"] } else { &["batch", "1"] };
            graph.output = vec![value("age", FLOAT, axes)];
        });
    }
    write_npz(&sandbox.join("x.npz"), &[("x", &noise(&[40, 3, 8, 8], 3))]);
    sandbox.succeeds(EXTRACT);
    let manifest = Manifest::load(&sandbox.join("cache")).unwrap();
    let array = manifest.view_arrays.iter().find(|spec| spec.path == "taps/age/features");
    assert_eq!(array.unwrap().row_shape, [1]);
    sandbox.succeeds("cache verify cache --live teacher.onnx");
    let mut losses = Vec::new();
    for student in ["student", "other"] {
        let line = TRAIN.replace("student.onnx", &format!("{student}.onnx"));
        let line = format!("{line}-{student}");
        sandbox.run(&line).expect(0).says(&["pair: teacher age [1] with student age [1]"]);
        losses.push(sandbox.json(&format!("{line} --resume"))["loss"].clone());
        for teacher in ["--data npz:x.npz --against teacher.onnx", "--against cache"] {
            let found = sandbox.json(&format!("eval run-{student}/student.onnx {teacher}"));
            assert_eq!(found["against"]["outputs"][0]["values"], 40, "{found:#}");
        }
    }
    assert_eq!(losses[0], losses[1]);
}

/// What a TensorFlow network gives: the same maps with their channels last.
fn channels_last(graph: &mut GraphProto) {
    let nodes = &mut graph.node;
    nodes.last_mut().unwrap().output = vec!["maps".into()];
    nodes.push(node("Transpose", &["maps"], "dense", vec![ints("perm", &[0, 2, 3, 1])]));
    graph.output = vec![value("dense", FLOAT, &["batch", "8", "8", "5"])];
}

#[test]
fn maps_with_their_channels_last_are_compared_as_the_same_maps() {
    let outputs = &["dense"];
    let (teacher, student) = (Net { outputs, ..TEACHER }, Net { outputs, seed: 2, ..TEACHER });
    let measured = |last: [bool; 2], criterion: &str| {
        let sandbox = sandbox(&teacher, &student);
        if last[0] {
            teacher.write_with(&sandbox, "teacher.onnx", channels_last);
        }
        if last[1] {
            student.write_with(&sandbox, "student.onnx", channels_last);
        }
        sandbox.succeeds(EXTRACT);
        let ran = sandbox.run(&format!("{TRAIN} --test cache {criterion}")).expect(0);
        ran.says(&["with student dense [5, 8, 8]"]);
        assert!(!ran.text().contains("no criterion compares"), "{}", ran.text());
        let report = report(&sandbox);
        let mut found = vec![report["loss"].clone(), report["test"]["outputs"]["dense"].clone()];
        // axes in one order are compared by `eval`
        if last[0] == last[1] {
            for teacher in ["--data npz:x.npz --against teacher.onnx", "--against cache"] {
                let line = format!("eval run/student.onnx {teacher}");
                let cosine = &sandbox.json(&line)["against"]["outputs"][0]["cosine"];
                found.push(format!("{:.3}", cosine.as_f64().unwrap()).into());
            }
        }
        found
    };
    for criterion in ["", "--criterion cwd:pair=dense>dense", "--criterion at:pair=dense>dense"] {
        let expected = measured([false, false], criterion);
        assert_eq!(measured([true, true], criterion), expected, "{criterion}");
        for last in [[true, false], [false, true]] {
            assert_eq!(measured(last, criterion), expected[..2], "{criterion} {last:?}");
        }
    }
    let sandbox = sandbox(&teacher, &student);
    student.write_with(&sandbox, "student.onnx", channels_last);
    sandbox.succeeds(EXTRACT);
    // an output that follows from what is compared is trained
    let ran = sandbox.run(&format!("{TRAIN} --criterion mse:pair=dense>maps")).expect(0);
    assert!(!ran.text().contains("no criterion compares"), "{}", ran.text());
    let projector = "--criterion mse:pair=dense>dense,projector=true --export-projector";
    sandbox.refused(&format!("{TRAIN}-2 {projector}"), &["channels first, found `dense`", "pair="]);
}
