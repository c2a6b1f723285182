//! What `eval` measures beyond a classifier's scores: the agreement with a teacher or a cache, and
//! k-NN over embeddings.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use crate::support::graph::{FLOAT, INT64, constant, int, ints, value, write_graph};
use crate::support::{self, Sandbox, node, write_npz};
use nst_cache::array::{Array, Values};
use nst_cache::onnx::proto::{GraphProto, NodeProto};
use serde_json::Value;

/// A model of `x` with these axes after the batch; outputs: name, element type, axes after the
/// batch.
fn write_model(
    folder: &Sandbox,
    file: &str,
    row: &[&str],
    outputs: &[(&str, i32, &[&str])],
    constants: &[(&str, &[usize], Values)],
    nodes: Vec<NodeProto>,
) {
    let axes = |row: &[&str]| [&["batch"], row].concat().iter().map(|&a| a.to_owned()).collect();
    let declared = |name: &str, element: i32, row: &[&str]| {
        let axes: Vec<String> = axes(row);
        value(name, element, &axes.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let mut graph = GraphProto {
        name: Some("graph".into()),
        input: vec![declared("x", FLOAT, row)],
        output: outputs.iter().map(|(name, element, row)| declared(name, *element, row)).collect(),
        node: nodes,
        ..GraphProto::default()
    };
    for (name, shape, values) in constants {
        constant(&mut graph, name, shape, values.clone());
    }
    write_graph(&folder.join(file), graph);
}

/// A model whose one output is one operator of `x`, of vectors of two.
fn write_plain(folder: &Sandbox, file: &str, output: &str, op: &str) {
    let nodes = vec![node(op, &["x"], output, vec![])];
    write_model(folder, file, &["2"], &[(output, FLOAT, &["2"])], &[], nodes);
}

/// A model that swaps both values of `x`.
fn write_swap(folder: &Sandbox, file: &str, output: &str) {
    write_model(
        folder,
        file,
        &["2"],
        &[(output, FLOAT, &["2"])],
        &[("w", &[2, 2], Values::F32(vec![0.0, 1.0, 1.0, 0.0]))],
        vec![node("MatMul", &["x", "w"], output, vec![])],
    );
}

fn floats(shape: &[usize], values: &[f32]) -> Array {
    Array::new(shape.to_vec(), Values::F32(values.to_vec())).unwrap()
}

fn labels(values: &[i64]) -> Array {
    Array::new(vec![values.len()], Values::I64(values.to_vec())).unwrap()
}

fn near(found: &Value, expected: f64) {
    let number = found.as_f64().unwrap_or(f64::NAN);
    assert!((number - expected).abs() < 1e-6, "{found} instead of {expected}");
}

/// The only output that is compared.
fn only(found: &Value) -> &Value {
    let outputs = found["against"]["outputs"].as_array().unwrap();
    assert_eq!(outputs.len(), 1, "{found}");
    &outputs[0]
}

#[test]
fn embeddings_are_compared_by_hand_computed_values() {
    let folder = &Sandbox::with_runtime();
    write_plain(folder, "student.onnx", "out", "Identity");
    write_swap(folder, "teacher.onnx", "out");
    write_npz(&folder.join("x.npz"), &[("x", &floats(&[3, 2], &[3.0, 4.0, 1.0, 0.0, 0.0, 0.0]))]);
    let found = folder.json("eval student.onnx --data npz:x.npz --against teacher.onnx");
    let output = only(&found);
    // (3, 4) with (4, 3), (1, 0) with (0, 1); (0, 0) has no direction
    near(&output["cosine"], 0.96 / 2.0);
    near(&output["mse"], 4.0 / 6.0);
    near(&output["max_difference"], 1.0);
    assert_eq!(output["zero"], serde_json::json!({"student": 1, "teacher": 1}));
    assert_eq!((&output["vectors"], &output["channels"]), (&2.into(), &2.into()));
    assert_eq!((&output["reading"], &found["top1"]), (&"values".into(), &Value::Null));
    // in any batches
    let batches =
        folder.json("eval student.onnx --data npz:x.npz --against teacher.onnx --batch 2");
    assert_eq!(only(&batches), output);
    // two of three
    let two = folder.json("eval student.onnx --data npz:x.npz --against teacher.onnx --limit 2");
    assert_eq!(two["against"]["samples"], 2);
    let text = folder.run("eval student.onnx --data npz:x.npz --against teacher.onnx").expect(0);
    text.says(&["out", "0.4800", "vectors of zeros", "3 samples against teacher.onnx"]);
}

#[test]
fn what_is_not_finite_is_counted() {
    let folder = &Sandbox::with_runtime();
    write_plain(folder, "student.onnx", "out", "Reciprocal");
    write_plain(folder, "teacher.onnx", "out", "Sqrt");
    write_npz(&folder.join("x.npz"), &[("x", &floats(&[3, 2], &[0.0, 1.0, -1.0, 1.0, 4.0, 1.0]))]);
    let found = folder.json("eval student.onnx --data npz:x.npz --against teacher.onnx");
    let output = only(&found);
    assert_eq!(output["not_finite"], serde_json::json!({"student": 1, "teacher": 1}));
    // (0.25, 1) with (2, 1), the only whole vectors; 1/4 − 2 and three times 1 − 1
    near(&output["cosine"], 1.5 / (1.0625f64.sqrt() * 5f64.sqrt()));
    near(&output["mse"], 1.75 * 1.75 / 4.0);
    // they stand in the way of scores, not of the comparison
    let x = floats(&[3, 2], &[0.0, 1.0, 1.0, 1.0, 4.0, 1.0]);
    write_npz(&folder.join("labeled.npz"), &[("x", &x), ("labels", &labels(&[0, 1, 0]))]);
    let line = "eval student.onnx --data npz:labeled.npz --against teacher.onnx";
    folder.run(line).expect(0).says(&["not scored by its labels: logits: expected finite values"]);
    let found = folder.json(line);
    assert_eq!((&found["top1"], &only(&found)["classes"]["decisions"]), (&Value::Null, &2.into()));
}

#[test]
fn classes_are_read_where_the_data_or_a_softmax_tells() {
    let folder = &Sandbox::with_runtime();
    let x = floats(&[4, 2], &[2.0, 1.0, 1.0, 2.0, 3.0, 1.0, 0.0, 1.0]);
    write_npz(&folder.join("x.npz"), &[("x", &x), ("labels", &labels(&[0, 1, 0, 0]))]);
    write_npz(&folder.join("many.npz"), &[("x", &x), ("labels", &labels(&[0, 1, 5, 0]))]);
    write_plain(folder, "student.onnx", "out", "Identity");
    write_plain(folder, "squares.onnx", "out", "Neg");
    let against = "eval student.onnx --against squares.onnx --data";
    let found = folder.json(&format!("{against} npz:x.npz"));
    assert_eq!(only(&found)["reading"], "classes");
    near(&only(&found)["classes"]["top1"], 0.0);
    assert_eq!(only(&found)["classes"]["miou"], Value::Null);
    // the data's labels score it too
    near(&found["top1"], 75.0);
    let said = folder.run(&format!("{against} npz:x.npz")).expect(0);
    said.says(&[
        "`out` is read as classes, since the data has 2 classes",
        "same decision",
        "0.00 %",
    ]);
    // other classes than the data's: numbers, unless it is said
    let many = folder.json(&format!("{against} npz:many.npz"));
    assert_eq!((&only(&many)["reading"], &many["top1"]), (&"values".into(), &Value::Null));
    let named = folder.json(&format!("{against} npz:many.npz --read out=classes"));
    near(&only(&named)["classes"]["top1"], 0.0);
    let logits = folder.json(&format!("{against} npz:many.npz --logits out"));
    assert_eq!(only(&logits)["reading"], "classes");
    let none = folder.json(&format!("{against} npz:x.npz --logits none"));
    assert_eq!((&only(&none)["reading"], &none["top1"]), (&"values".into(), &Value::Null));
    // a softmax tells whatever the data does; the values are of two kinds
    write_plain(folder, "softmax.onnx", "out", "Softmax");
    let softmax = "eval student.onnx --data npz:many.npz --against softmax.onnx";
    near(&only(&folder.json(softmax))["classes"]["top1"], 100.0);
    folder.run(softmax).expect(0).says(&["a softmax makes it", "probabilities", "unlike values"]);
    folder.refused(&format!("{softmax} --read other=classes"), &["--read other", "`out`"]);
}

#[test]
fn labels_are_decided_above_what_each_side_says_yes_at() {
    let folder = &Sandbox::with_runtime();
    let x = floats(&[2, 2], &[2.0, -1.0, -3.0, -1.0]);
    write_npz(&folder.join("x.npz"), &[("x", &x)]);
    write_plain(folder, "logits.onnx", "out", "Identity");
    write_plain(folder, "sigmoid.onnx", "out", "Sigmoid");
    let found = folder.json("eval logits.onnx --data npz:x.npz --against sigmoid.onnx");
    let labels = &only(&found)["labels"];
    near(&labels["mean"], 100.0);
    assert_eq!(labels["without_positives"], 1);
    assert_eq!(labels["per_label"], serde_json::json!([100.0, 100.0]));
    // no sigmoid: only if it is said
    let line = "eval logits.onnx --data npz:x.npz --against logits.onnx";
    assert_eq!(only(&folder.json(line))["labels"], Value::Null);
    near(&only(&folder.json(&format!("{line} --read out=labels")))["labels"]["mean"], 100.0);
}

/// Class scores over 1×4 positions of two classes: the channels of `x`, `[2, 1, 4]`.
fn write_maps(folder: &Sandbox, file: &str, ends: &[&str]) {
    let mut nodes = vec![node("Identity", &["x"], "scores", vec![])];
    let mut last = "scores";
    for &end in ends {
        let attributes = match end {
            "Softmax" | "ArgMax" => vec![int("axis", 1)],
            _ => vec![],
        };
        let attributes = if end == "ArgMax" {
            [attributes, vec![int("keepdims", 0)]].concat()
        } else {
            attributes
        };
        nodes.push(node(end, &[last], end, attributes));
        last = end;
    }
    nodes.push(node("Identity", &[last], "out", vec![]));
    let is_index = ends.contains(&"ArgMax");
    let out: (&str, i32, &[&str]) =
        if is_index { ("out", INT64, &["1", "4"]) } else { ("out", FLOAT, &["2", "1", "4"]) };
    write_model(folder, file, &["2", "1", "4"], &[out], &[], nodes);
}

#[test]
fn class_maps_are_read_as_such_where_a_softmax_or_an_argmax_makes_them() {
    let folder = &Sandbox::with_runtime();
    let x = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0];
    write_npz(&folder.join("x.npz"), &[("x", &floats(&[1, 2, 1, 4], &x))]);
    for (file, ends) in [
        ("scores.onnx", &[][..]),
        ("softmax.onnx", &["Softmax"]),
        ("argmax.onnx", &["ArgMax"]),
        ("other_softmax.onnx", &["Neg", "Softmax"]),
        ("other_argmax.onnx", &["Neg", "ArgMax"]),
    ] {
        write_maps(folder, file, ends);
    }
    let compare = |student: &str, teacher: &str, flags: &str| {
        let line = format!("eval {student}.onnx --data npz:x.npz --against {teacher}.onnx{flags}");
        only(&folder.json(&line)).clone()
    };
    let scores = compare("scores", "scores", "");
    assert_eq!((&scores["reading"], &scores["channels"]), (&"values".into(), &2.into()));
    near(&scores["cosine"], 1.0);
    let read = compare("scores", "scores", " --read out=classes");
    near(&read["classes"]["miou"], 100.0);
    assert_eq!(read["classes"]["decisions"], 4);
    let softmax = compare("softmax", "other_softmax", "");
    assert_eq!(softmax["reading"], "classes");
    near(&softmax["classes"]["top1"], 0.0);
    near(&softmax["classes"]["miou"], 0.0);
    let indices = compare("argmax", "other_argmax", "");
    assert_eq!(
        (&indices["reading"], &indices["shape"]),
        (&"indices".into(), &serde_json::json!([1, 4]))
    );
    near(&indices["classes"]["top1"], 0.0);
    near(&compare("argmax", "argmax", "")["classes"]["miou"], 100.0);
    let line = "eval softmax.onnx --data npz:x.npz --against other_softmax.onnx";
    folder.run(line).expect(0).says(&["class maps, since a softmax over axis 1 makes it", "mIoU"]);
}

/// Two vectors of three and one of two, some under other names.
fn write_several(folder: &Sandbox, file: &str, names: [&str; 3]) {
    let outputs: Vec<(&str, i32, &[&str])> =
        vec![(names[0], FLOAT, &["3"]), (names[1], FLOAT, &["3"]), (names[2], FLOAT, &["2"])];
    let w = |rows: usize, columns: usize, seed: u64| {
        support::noise(&[rows, columns], seed).into_values()
    };
    write_model(
        folder,
        file,
        &["2"],
        &outputs,
        &[("a", &[2, 3], w(2, 3, 1)), ("b", &[2, 3], w(2, 3, 2)), ("c", &[2, 2], w(2, 2, 3))],
        vec![
            node("MatMul", &["x", "a"], "hidden", vec![]),
            node("Relu", &["hidden"], names[0], vec![]),
            node("MatMul", &["x", "b"], names[1], vec![]),
            node("MatMul", &["x", "c"], names[2], vec![]),
        ],
    );
}

#[test]
fn outputs_are_paired_by_name_shape_position_or_as_it_is_said() {
    let folder = &Sandbox::with_runtime();
    write_npz(&folder.join("x.npz"), &[("x", &support::noise(&[5, 2], 9))]);
    write_several(folder, "student.onnx", ["p", "q", "r"]);
    write_several(folder, "teacher.onnx", ["s", "q", "t"]);
    write_plain(folder, "one.onnx", "p", "Identity");
    let line = "eval student.onnx --data npz:x.npz --against teacher.onnx";
    let pairs = |line: &str| -> Vec<(String, String)> {
        let found = folder.json(line);
        let text = |output: &Value, side: &str| output[side].as_str().unwrap().to_owned();
        let outputs = found["against"]["outputs"].as_array().unwrap();
        outputs.iter().map(|output| (text(output, "student"), text(output, "teacher"))).collect()
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    // q by name, then what is left by shapes that are left once
    assert_eq!(pairs(line), [pair("p", "s"), pair("q", "q"), pair("r", "t")]);
    folder.run(line).expect(0).says(&["`p` of the student is compared with `s`", "by their shape"]);
    // any tensor, also one that is no output
    let named = format!("{line} --pair hidden=hidden --pair q=s");
    assert_eq!(pairs(&named), [pair("hidden", "hidden"), pair("q", "s")]);
    near(&folder.json(&named)["against"]["outputs"][0]["cosine"], 1.0);
    folder.run("eval student.onnx --data npz:x.npz --against one.onnx").expect(0).says(&[
        "not compared, of the student: `p` [3], `q` [3]",
        "`r` of the student is compared with `p`",
    ]);
    // wrong requests, each with what there is
    folder.refused(
        &format!("{line} --pair p=t"),
        &["--pair p=t: expected outputs of one shape, found `p` [3] and `t` [2]", "`r` [2]"],
    );
    folder.refused(&format!("{line} --pair zz=t"), &["zz"]);
    folder.refused(&format!("{line} --pair p"), &["expected STUDENT=TEACHER, found `p`"]);
    write_model(
        folder,
        "wide.onnx",
        &["2"],
        &[("w", FLOAT, &["4"])],
        &[("a", &[2, 4], support::noise(&[2, 4], 1).into_values())],
        vec![node("MatMul", &["x", "a"], "w", vec![])],
    );
    folder.refused(
        "eval student.onnx --data npz:x.npz --against wide.onnx",
        &["`p` [3], `q` [3], `r` [2] of the student and `w` [4] of the teacher", "--pair"],
    );
}

#[test]
fn a_model_without_class_logits_is_told_what_to_ask_for() {
    let folder = &Sandbox::with_runtime();
    let x = floats(&[2, 2], &[2.0, 1.0, 1.0, 2.0]);
    write_npz(&folder.join("x.npz"), &[("x", &x), ("labels", &labels(&[0, 1]))]);
    write_npz(&folder.join("bare.npz"), &[("x", &x)]);
    write_model(
        folder,
        "map.onnx",
        &["2"],
        &[("map", FLOAT, &["2", "1", "1"]), ("out", FLOAT, &["2"])],
        &[("shape", &[4], Values::I64(vec![-1, 2, 1, 1]))],
        vec![
            node("Reshape", &["x", "shape"], "map", vec![]),
            node("Identity", &["x"], "out", vec![]),
        ],
    );
    let parts = ["expected class logits", "`map` [batch, 2, 1, 1], `out` [batch, 2]", "--knn"];
    write_npz(&folder.join("three.npz"), &[("x", &x), ("labels", &labels(&[0, 2]))]);
    folder.refused("eval map.onnx --data npz:three.npz", &parts);
    write_plain(folder, "plain.onnx", "out", "Identity");
    folder.refused(
        "eval plain.onnx --data npz:x.npz --logits none",
        &["expected class logits", "`out` [batch, 2]", "--against"],
    );
    folder.refused("eval plain.onnx --data npz:bare.npz", &["expected a label", "--against"]);
    near(&folder.json("eval plain.onnx --data npz:x.npz")["top1"], 100.0);
    folder.refused("eval plain.onnx --against plain.onnx", &["no data set given"]);
    folder.refused("eval plain.onnx --data npz:x.npz --against none.onnx", &["none.onnx"]);
    folder.refused("eval plain.onnx --data npz:x.npz --against .", &["expected none", "--data"]);
    folder.refused("eval plain.onnx --against .", &["no cache there"]);
}

#[test]
fn each_model_gets_its_own_preprocessing_and_batch() {
    let folder = &Sandbox::with_runtime().data(11);
    support::write_teacher(&folder.join("teacher.onnx"));
    support::write_teacher_of_batch(&folder.join("three.onnx"), 3);
    let line = "eval teacher.onnx --data idx:data --split train --preprocess fashion-mnist \
                --against three.onnx";
    let found = folder.json(line);
    near(&only(&found)["cosine"], 1.0);
    near(&only(&found)["classes"]["top1"], 100.0);
    assert_eq!((&found["against"]["samples"], &found["samples"]), (&11.into(), &11.into()));
    let said = folder.run(line).expect(0);
    said.says(&["preprocessing of the teacher: the student's, to 28x28"]);
    let other = folder.json(&format!("{line} --against-preprocess none"));
    assert!(only(&other)["mse"].as_f64().unwrap() > 1.0, "{other}");
    folder.refused(&format!("{line} --against-preprocess mnist"), &["expected cifar10"]);
}

#[test]
fn a_student_is_compared_with_a_cache_on_the_caches_inputs() {
    let folder = &Sandbox::with_runtime().teacher();
    support::write_images(&folder.join("images"), 12);
    let extract = "extract teacher.onnx --data images --preprocess fashion-mnist --store f32 \
                   --tap map1@7x7=small --tap map2 --tap pooled";
    folder.succeeds(&format!("{extract} -o cache"));
    folder.succeeds(&format!("{extract} -o source --inputs source"));
    let views = "--views 2 --augment random-resized-crop --inputs source";
    folder.succeeds(&format!("{extract} {views} -o views"));
    for cache in ["cache", "source", "views"] {
        let line = format!("eval teacher.onnx --against {cache}");
        let found = folder.json(&line);
        let output = only(&found);
        assert_eq!((&output["student"], &output["teacher"]), (&"logits".into(), &"logits".into()));
        near(&output["cosine"], 1.0);
        assert!(output["max_difference"].as_f64().unwrap() < 1e-4, "{cache}: {output}");
        assert_eq!(found["against"]["samples"], 12);
        folder.run(&line).expect(0).says(&["not compared, of the teacher", "taps/small/features"]);
        // by the tensor, the array and the alias
        let pairs = "--pair map2=map2 --pair pooled=taps/pooled/features";
        let found = folder.json(&format!("{line} {pairs}"));
        let outputs = found["against"]["outputs"].as_array().unwrap();
        assert_eq!(outputs[0]["shape"], serde_json::json!([16, 14, 14]));
        assert_eq!(
            (&outputs[0]["channels"], &outputs[0]["vectors"]),
            (&16.into(), &(12 * 196).into())
        );
        for output in outputs {
            near(&output["cosine"], 1.0);
        }
    }
    // the logits tell ten classes, the data two
    let found = folder.json("eval teacher.onnx --against cache");
    assert_eq!(only(&found)["reading"], "values");
    let read = folder.json("eval teacher.onnx --against cache --logits logits --limit 5");
    near(&only(&read)["classes"]["top1"], 100.0);
    assert_eq!(read["against"]["samples"], 5);
    // what a cache decides itself
    for flags in ["--data images", "--shuffle 3", "--preprocess none"] {
        let refused = format!("eval teacher.onnx --against cache {flags}");
        folder.refused(&refused, &["expected none beside a cache", "leave"]);
    }
    folder.refused(
        "eval teacher.onnx --against cache --pair map1=small",
        &["`map1` [8, 28, 28] and `taps/small/features` [8, 7, 7]"],
    );
    write_plain(folder, "vectors.onnx", "out", "Identity");
    folder.refused("eval vectors.onnx --against cache", &["image input of 4 axes"]);
    // samples that have changed since
    support::write_images_of(&folder.join("images"), 14, &["a", "b"]);
    folder.refused("eval teacher.onnx --against source", &["the set that the cache was made of"]);
    folder.succeeds("eval teacher.onnx --against cache");
}

#[test]
fn a_trained_student_meets_its_cache_in_its_own_axis_order() {
    let folder = &Sandbox::with_runtime();
    support::write_images(&folder.join("images"), 9);
    // the same sums, of an image with the channels last and first
    let weights = || support::noise(&[2, 3, 3, 3], 5).into_values();
    let nodes = |input: &str| {
        vec![
            node("Conv", &[input, "w"], "map", vec![ints("pads", &[1, 1, 1, 1])]),
            node("GlobalAveragePool", &["map"], "mean", vec![]),
            node("Flatten", &["mean"], "out", vec![]),
        ]
    };
    let turn = node("Transpose", &["x"], "turned", vec![ints("perm", &[0, 3, 1, 2])]);
    let out: &[(&str, i32, &[&str])] = &[("out", FLOAT, &["2"])];
    let constants = || [("w", &[2, 3, 3, 3][..], weights())];
    let last = ["6", "5", "3"];
    let teacher = [vec![turn], nodes("turned")].concat();
    write_model(folder, "teacher.onnx", &last, out, &constants(), teacher);
    write_model(folder, "student.onnx", &["3", "6", "5"], out, &constants(), nodes("x"));
    folder.succeeds(
        "extract teacher.onnx --data images --preprocess imagenet --size 6x5 --store f32 -o cache",
    );
    let found = folder.json("eval student.onnx --against cache");
    assert!(only(&found)["max_difference"].as_f64().unwrap() < 1e-5, "{found}");
    near(&only(&found)["cosine"], 1.0);
    // and so do both models
    let both = "eval student.onnx --data images --split train --preprocess imagenet --size 6x5 \
                --against teacher.onnx";
    assert!(only(&folder.json(both))["max_difference"].as_f64().unwrap() < 1e-5);
    // a student whose metadata says something else is not fed in silence
    let train = "train student.onnx --cache cache --epochs 1 --batch 4 --criterion ce -o run";
    folder.succeeds(train);
    folder.succeeds("eval run/student.onnx --against cache");
    folder.succeeds("extract teacher.onnx --data images --preprocess none --size 6x5 -o other");
    folder.refused("eval run/student.onnx --against other", &["another in its metadata"]);
}

#[test]
fn embeddings_are_classified_by_their_neighbors() {
    let folder = &Sandbox::with_runtime();
    // class 0 near (1, 0), class 1 near (0, 1); one query of class 0 lies with class 1
    let bank = floats(&[4, 2], &[1.0, 0.1, 1.0, 0.0, 0.0, 1.0, 0.1, 1.0]);
    let queries = floats(&[4, 2], &[5.0, 0.2, 0.1, 3.0, 0.2, 2.0, 0.0, 0.0]);
    let (train, test) = (labels(&[0, 0, 1, 1]), labels(&[0, 1, 0, 1]));
    let arrays = [("x_train", &bank), ("y_train", &train), ("x_test", &queries), ("y_test", &test)];
    write_npz(&folder.join("split.npz"), &arrays);
    write_npz(&folder.join("whole.npz"), &[("x", &bank), ("labels", &train)]);
    write_plain(folder, "plain.onnx", "out", "Identity");
    // two classes and two values: not taken for logits only if it is said
    folder.refused(
        "eval plain.onnx --data npz:split.npz --knn",
        &["found 0 among `out` [2]", "--output"],
    );
    folder.succeeds("eval plain.onnx --data npz:split.npz --knn --logits none");
    let line = "eval plain.onnx --data npz:split.npz --knn --output out";
    let knn = &folder.json(line)["knn"];
    near(&knn["top1"], 50.0);
    assert_eq!(
        (&knn["queries"], &knn["without_direction"], &knn["bank"], &knn["bank_split"]),
        (&4.into(), &1.into(), &4.into(), &"train".into())
    );
    let said = folder.run(line).expect(0);
    said.says(&["k-NN top-1 50.00 %", "of 4 (train) vote", "`out`, 2 values", "count as wrong: 1"]);
    // no other split: all others vote
    let whole = "eval plain.onnx --data npz:whole.npz --knn --output out";
    let knn = &folder.json(whole)["knn"];
    near(&knn["top1"], 100.0);
    assert_eq!((&knn["bank"], &knn["bank_split"]), (&4.into(), &Value::Null));
    folder.run(whole).expect(0).says(&["leave-one-out", "each without its own"]);
    // any tensor; no map; no labels
    write_several(folder, "several.onnx", ["p", "q", "r"]);
    folder.refused("eval several.onnx --data npz:split.npz --knn", &["found 2 among", "`p` [3]"]);
    folder.succeeds("eval several.onnx --data npz:split.npz --knn --output hidden");
    folder.refused("eval several.onnx --data npz:split.npz --knn --output zz", &["zz"]);
    write_npz(&folder.join("bare.npz"), &[("x", &bank)]);
    folder.refused("eval plain.onnx --data npz:bare.npz --knn --output out", &["expected a label"]);
}

#[test]
fn pixels_are_embeddings_too_and_classes_meet_by_name() {
    let folder = &Sandbox::with_runtime();
    support::write_images_of(&folder.join("photos/train"), 20, &["a", "b", "c"]);
    support::write_images_of(&folder.join("photos/test"), 6, &["b", "c"]);
    let knn = &folder.json("eval pixels --data photos --knn")["knn"];
    assert_eq!(
        (&knn["channels"], &knn["bank"], &knn["queries"]),
        (&784.into(), &20.into(), &6.into())
    );
    assert_eq!(knn["output"], Value::Null);
    // the same images are their own nearest, whatever the number of a class
    std::fs::remove_dir_all(folder.join("photos/test")).unwrap();
    for class in ["b", "c"] {
        let (from, to) = (folder.join("photos/train"), folder.join("photos/test"));
        std::fs::create_dir_all(to.join(class)).unwrap();
        for entry in std::fs::read_dir(from.join(class)).unwrap().take(3) {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(class).join(entry.file_name())).unwrap();
        }
    }
    let found = folder.json("eval pixels --data photos --knn");
    assert_eq!(found["knn"]["queries"], 6);
    // pixels of noise have cosines near 0.75: the nearest, at 1, outvotes nineteen of them
    near(&found["knn"]["top1"], 100.0);
    std::fs::rename(folder.join("photos/test/c"), folder.join("photos/test/d")).unwrap();
    folder.refused("eval pixels --data photos --knn", &["the class `d`", "a, b, c"]);
    folder.refused("eval pixels --data photos --knn val", &["val"]);
    folder.fails("eval pixels --data photos --knn --against x.onnx", 2);
}
