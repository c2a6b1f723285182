//! Sparse logits: what is stored is what a hand computes, whatever reads a cache copes with it, and
//! a student trains from it.

#![allow(clippy::print_stdout, reason = "a table")]

use crate::support::graph::{FLOAT, INT64, constant, node, value, write_graph};
use crate::support::{Random, Sandbox, bytes, contents, floats, noise, view_bytes, write_npz};
use candle_core::{DType, Device, Tensor};
use half::f16;
use nst_cache::array::{Array, Values};
use nst_cache::cache::{Cache, Manifest};
use nst_cache::criterion::Sparse;
use nst_cache::criterion::papers::kd::{kd, kd_sparse};
use nst_cache::onnx::Model;
use nst_cache::onnx::proto::GraphProto;
use nst_cache::statistic::TopPart;
use serde_json::Value;
use std::fmt::Write as _;

const CLASSES: usize = 12;

/// A model from `x` `[…, 6]` to the scores of 12 classes, or to what `ending` makes of them.
fn write_model(sandbox: &Sandbox, file: &str, axes: &[&str], ending: &str, seed: u64) {
    let mut graph = GraphProto {
        input: vec![value("x", FLOAT, &[&["batch"], axes, &["6"]].concat())],
        node: vec![node("MatMul", &["x", "fc.weight"], "scores", vec![])],
        ..GraphProto::default()
    };
    let output = if ending.is_empty() { "scores" } else { "ending" };
    if !ending.is_empty() {
        graph.node.push(node(ending, &["scores"], output, vec![]));
    }
    graph.output = vec![value(output, FLOAT, &[&["batch"], axes, &["12"]].concat())];
    let mut random = Random(seed);
    #[allow(clippy::cast_possible_truncation, reason = "float32 is what is meant")]
    let weights = (0..6 * CLASSES).map(|_| (8.0 * random.unit() - 4.0) as f32).collect();
    constant(&mut graph, "fc.weight", &[6, CLASSES], Values::F32(weights));
    write_graph(&sandbox.join(file), graph);
}

/// A teacher, a student, and 40 labeled samples.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with_runtime();
    write_model(&sandbox, "teacher.onnx", &[], "", 1);
    write_model(&sandbox, "student.onnx", &[], "", 2);
    let labels = (0..40).map(|i| i % 12).collect();
    let labels = Array::new(vec![40], Values::I64(labels)).unwrap();
    write_npz(&sandbox.join("x.npz"), &[("x", &noise(&[40, 6], 3)), ("y", &labels)]);
    sandbox
}

const DENSE: &str = "extract teacher.onnx --data npz:x.npz -o dense --batch 8";
const SPARSE: &str = "extract teacher.onnx --data npz:x.npz -o sparse --batch 8 --logits-keep";

const TRAIN: &str = "train student.onnx --epochs 2 --batch 16 --device cpu --seed 7 --cache";

/// The f16 that is the nearest of all.
fn nearest(x: f64) -> f16 {
    let near = f16::from_f64(x);
    let around = [-1i32, 0, 1].map(|by| {
        f16::from_bits(u16::try_from(i32::from(near.to_bits()) + by).unwrap_or(near.to_bits()))
    });
    let off = |h: &f16| (h.to_f64() - x).abs();
    around.into_iter().min_by(|a, b| off(a).total_cmp(&off(b))).unwrap()
}

/// The stored bytes of the K largest of rows of logits, by sorting all of them.
#[allow(clippy::cast_possible_truncation, reason = "the types of the format")]
fn by_hand(logits: &[f32], k: usize) -> [Vec<u8>; 3] {
    let (mut value, mut class, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for row in logits.chunks(CLASSES) {
        let mut order: Vec<usize> = (0..CLASSES).collect();
        order.sort_by(|&i, &j| row[j].total_cmp(&row[i]).then(i.cmp(&j)));
        let largest = f64::from(row[order[0]]);
        let shifted: Vec<f64> = row.iter().map(|&x| f64::from(x) - largest).collect();
        let sum: f64 = shifted.iter().map(|x| x.exp()).sum();
        for &i in &order[..k] {
            value.extend_from_slice(&nearest(shifted[i] - sum.ln()).to_le_bytes());
            class.extend_from_slice(&(i as u16).to_le_bytes());
        }
        let others = (0..CLASSES).filter(|i| !order[..k].contains(i));
        let mass: f64 = others.map(|i| shifted[i].exp()).sum();
        rest.extend_from_slice(&((mass / sum) as f32).to_le_bytes());
    }
    [value, class, rest]
}

const PARTS: [&str; 3] = ["logits/value", "logits/class", "logits/rest"];

#[test]
fn stored_bits_are_those_of_a_hand() {
    let sandbox = sandbox();
    sandbox.succeeds(DENSE);
    let logits = floats(&Cache::open(&sandbox.join("dense")).unwrap(), "logits");
    for k in [1, 5, 12] {
        let folder = format!("sparse{k}");
        sandbox.succeeds(&format!("{SPARSE} topk:{k} -o {folder}").replacen("-o sparse ", "", 1));
        let cache = Cache::open(&sandbox.join(&folder)).unwrap();
        for (path, expected) in PARTS.iter().zip(by_hand(&logits, k)) {
            assert!(bytes(&cache, path) == expected, "{path} of {k}");
        }
        let manifest = cache.manifest();
        assert_eq!(manifest.format, 7);
        let top = manifest.logits.as_ref().unwrap().top.unwrap();
        assert_eq!((top.k, top.classes), (k, CLASSES));
        // the class of the largest value is the teacher's answer
        let dense = Manifest::load(&sandbox.join("dense")).unwrap();
        assert_eq!(manifest.teacher.top1_basis_points, dense.teacher.top1_basis_points);
        assert!(manifest.teacher.top1_basis_points.is_some());
    }
}

#[test]
fn a_softmax_at_the_end_is_no_difference() {
    let sandbox = sandbox();
    write_model(&sandbox, "probabilities.onnx", &[], "Softmax", 1);
    sandbox.succeeds(&format!("{SPARSE} topk:4"));
    let other = SPARSE.replace("teacher", "probabilities").replace("-o sparse", "-o other");
    sandbox.succeeds(&format!("{other} topk:4"));
    let of = |folder| bytes(&Cache::open(&sandbox.join(folder)).unwrap(), "logits/value");
    assert!(of("sparse") == of("other"));
    // probabilities that are named are converted
    sandbox
        .succeeds(&format!("{other} topk:4 --logits ending -o named").replacen("-o other", "", 1));
    let named = floats(&Cache::open(&sandbox.join("named")).unwrap(), "logits/value");
    let found = floats(&Cache::open(&sandbox.join("sparse")).unwrap(), "logits/value");
    assert!(named.iter().zip(found).all(|(a, b)| (a - b).abs() < 0.01 * b.abs().max(0.1)));
}

#[test]
fn whatever_reads_a_cache_copes() {
    let sandbox = sandbox();
    let line = format!("{SPARSE} topk:5 --augment none");
    sandbox.succeeds(&line);
    sandbox.run(&line).expect(0).says(&["0 computed by this run"]);
    // without the flag as with it
    sandbox.run(SPARSE.trim_end_matches(" --logits-keep")).expect(0).says(&["0 computed"]);
    sandbox.run("cache info sparse").expect(0).says(&[
        "the 5 largest of 12 classes",
        "logits/value",
        "logits/rest",
    ]);
    let live = "cache verify sparse --live teacher.onnx";
    sandbox.run(live).expect(0).says(&["logits"]);
    sandbox.succeeds("cache export sparse --npz logits.npz --tap logits");

    let whole = contents(&sandbox.join("sparse"));
    let shard = sandbox.join("sparse/logits/class/c/0/0/0");
    let mut damaged = std::fs::read(&shard).unwrap();
    damaged[0] ^= 1;
    std::fs::write(&shard, damaged).unwrap();
    assert!(sandbox.fails("cache verify sparse", 1).contains("logits/class"));
    sandbox.succeeds("cache repair sparse");
    sandbox.run(&line).expect(0).says(&["40 computed by this run"]);
    let mut again = contents(&sandbox.join("sparse"));
    // how long it took is another time
    for files in [&mut again, &mut whole.clone()] {
        files.retain(|path, _| path.starts_with("logits"));
    }
    for (path, bytes) in again {
        assert!(whole[&path] == bytes, "{path}");
    }
}

#[test]
fn what_is_no_part_of_a_distribution_is_refused_in_one_line() {
    let sandbox = sandbox();
    write_model(&sandbox, "sigmoids.onnx", &[], "Sigmoid", 1);
    sandbox.refused(
        &format!("{SPARSE} topk:13"),
        &["--logits-keep topk:13: expected at most 12", "found 13"],
    );
    sandbox.fails(&format!("{SPARSE} topk:0"), 2);
    let independent = ["independent sigmoids", "--logits-keep all"];
    let sigmoids = SPARSE.replace("teacher", "sigmoids");
    sandbox.refused(&format!("{sigmoids} topk:3"), &independent);
    for tensor in ["scores", "ending"] {
        sandbox.refused(&format!("{sigmoids} topk:3 --logits {tensor}"), &independent);
    }
    sandbox.refused(&format!("{SPARSE} topk:3 --logits none"), &["found --logits none"]);

    sandbox.succeeds(DENSE);
    let mixed = ["made with another --logits-keep: expected topk:3, found all", "-o"];
    sandbox.refused(&format!("{SPARSE} topk:3 -o dense").replacen("-o sparse", "", 1), &mixed);
    sandbox.succeeds(&format!("{SPARSE} topk:3"));
    for (keep, found) in [("topk:4", "expected topk:4, found topk:3"), ("all", "found topk:3")] {
        sandbox.refused(&format!("{SPARSE} {keep}"), &[found]);
    }
}

/// The loss of each criterion in the last epoch.
fn trained(sandbox: &Sandbox, cache: &str, criterion: &str) -> f64 {
    let line = format!("{TRAIN} {cache} --criterion {criterion} -o {cache}-run");
    sandbox.succeeds(&line);
    let run = sandbox.join(format!("{cache}-run"));
    let lines = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    std::fs::remove_dir_all(run).unwrap();
    let mut lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let epoch = lines.rfind(|line| line["kind"] == "epoch").unwrap();
    let name = criterion.split(':').next().unwrap();
    epoch["parts"][name].as_f64().unwrap_or_else(|| panic!("{epoch}"))
}

#[test]
fn a_student_trains_from_the_largest_logits_nearly_as_from_all() {
    let sandbox = sandbox();
    sandbox.succeeds(DENSE);
    sandbox.succeeds(&format!("{SPARSE} topk:12"));
    for criterion in ["kd", "lskd", "dkd", "dist"] {
        let (dense, all) =
            (trained(&sandbox, "dense", criterion), trained(&sandbox, "sparse", criterion));
        assert!((dense - all).abs() < 0.01 * dense.abs(), "{criterion}: {dense} {all}");
    }
    std::fs::remove_dir_all(sandbox.join("sparse")).unwrap();
    sandbox.succeeds(&format!("{SPARSE} topk:4"));
    let bound = trained(&sandbox, "sparse", "kd:temperature=1");
    let dense = trained(&sandbox, "dense", "kd:temperature=1");
    assert!(bound > 0.0 && bound < dense, "{bound} {dense}");
    sandbox.succeeds(&format!("{TRAIN} sparse --criterion kd:pair=logits>scores -o pair"));
    let all = ["of all 12 classes, found the 4 largest", "--logits-keep all"];
    for criterion in ["mse", "mse:pair=logits>scores", "kd-binary:pair=logits>scores"] {
        sandbox.refused(&format!("{TRAIN} sparse --criterion {criterion} -o no"), &all);
    }
    sandbox.refused(&format!("{TRAIN} sparse --criterion kd --sakd -o no"), &all);
}

#[test]
fn views_and_taps_are_added_to_a_cache_of_sparse_logits() {
    let sandbox = Sandbox::with_runtime().teacher().data(37);
    let line = |folder: &str, flags: &str| {
        sandbox.succeeds(&format!(
            "extract teacher.onnx --data idx:data --preprocess fashion-mnist --batch 8 --tap map1 \
             --augment crop-flip --logits-keep topk:3 -o {folder} {flags}"
        ));
    };
    line("grown", "--views 2");
    line("grown", "--views 3");
    line("grown", "--views 3 --tap pooled");
    line("whole", "--views 3 --tap pooled");
    let [grown, whole] = ["grown", "whole"].map(|f| Cache::open(&sandbox.join(f)).unwrap());
    assert_eq!(grown.manifest().views, 3);
    for path in PARTS.into_iter().chain(["taps/pooled/features"]) {
        for view in 0..3 {
            let of = |cache| view_bytes(cache, path, view);
            assert!(of(&grown) == of(&whole), "{path} of view {view}");
        }
    }
}

/// Two token models of 5 positions, and 24 sequences with a mask that the teacher takes too.
fn tokens() -> Sandbox {
    let sandbox = Sandbox::with_runtime();
    write_model(&sandbox, "student.onnx", &["5"], "", 2);
    write_model(&sandbox, "teacher.onnx", &["5"], "", 1);
    let path = sandbox.join("teacher.onnx");
    let mut graph = Model::read(&path).unwrap().graph().clone();
    // the mask is read, and changes nothing of the logits
    graph.input.push(value("attention_mask", INT64, &["batch", "5"]));
    graph.node.push(node("Identity", &["attention_mask"], "seen", vec![]));
    graph.output.push(value("seen", INT64, &["batch", "5"]));
    write_graph(&path, graph);
    let lengths = (0..24).flat_map(|row| (0..5).map(move |at| i64::from(at < row % 6)));
    let mask = Array::new(vec![24, 5], Values::I64(lengths.collect())).unwrap();
    let arrays = [("x", &noise(&[24, 5, 6], 3)), ("attention_mask", &mask)];
    write_npz(&sandbox.join("x.npz"), &arrays);
    sandbox
}

#[test]
fn logits_at_positions_are_kept_and_padding_counts_for_nothing() {
    let sandbox = tokens();
    let positions = "--logits scores";
    sandbox.succeeds(&format!("{DENSE} {positions}"));
    let dense = Cache::open(&sandbox.join("dense")).unwrap();
    let spec = dense.array("logits").unwrap().spec();
    assert_eq!((&*spec.row_shape, dense.manifest().format), (&[5, CLASSES][..], 7));
    sandbox.succeeds(&format!("{SPARSE} topk:3 {positions}"));
    let sparse = Cache::open(&sandbox.join("sparse")).unwrap();
    for (path, expected) in PARTS.iter().zip(by_hand(&floats(&dense, "logits"), 3)) {
        assert!(bytes(&sparse, path) == expected, "{path}");
    }
    assert_eq!(sparse.array("logits/rest").unwrap().spec().row_shape, [5]);
    sandbox.succeeds("cache verify sparse --live teacher.onnx");
    drop((dense, sparse));

    let masked = format!("{positions} --logits-mask attention_mask");
    let masked = |line: &str, folder: &str| {
        sandbox.succeeds(&format!("{line} {masked} -o {folder}").replacen("-o dense", "", 1));
    };
    masked(DENSE, "masked");
    sandbox.run("cache info masked").expect(0).says(&["only where `attention_mask` is not 0"]);
    masked(&format!("{SPARSE} topk:12").replacen("-o sparse", "", 1), "all");
    for criterion in ["kd", "lskd", "dist"] {
        let (all, some) =
            (trained(&sandbox, "dense", criterion), trained(&sandbox, "masked", criterion));
        assert!((all - some).abs() > 1e-3 * all.abs(), "{criterion}: the mask changes nothing");
        let sparse = trained(&sandbox, "all", criterion);
        assert!((sparse - some).abs() < 0.01 * some.abs(), "{criterion}: {sparse} {some}");
    }
    sandbox.refused(&format!("{TRAIN} masked --criterion dkd -o no"), &["5x12"]);
    // a student is trained on what its softmax reads
    let plain = trained(&sandbox, "masked", "kd");
    write_model(&sandbox, "student.onnx", &["5"], "Softmax", 2);
    assert_eq!(trained(&sandbox, "masked", "kd").to_bits(), plain.to_bits());
    // an ordinary resume
    sandbox
        .run(&format!("{DENSE} -o masked").replacen("-o dense", "", 1))
        .expect(0)
        .says(&["0 computed by this run"]);
}

#[test]
fn a_mask_that_fits_nothing_is_refused() {
    let sandbox = tokens();
    for (flags, parts) in [
        ("--logits scores --logits-mask none", &["an input that the data has", "attention_mask"]),
        ("--logits scores --logits-mask x", &["a value for each of 5 positions", "[5, 6]"]),
        ("--logits none --logits-mask x", &["logits [positions, classes]", "found none"]),
    ] {
        sandbox.refused(&format!("{DENSE} {flags}"), parts);
    }
}

#[test]
fn a_dry_run_tells_what_the_largest_take() {
    let sandbox = sandbox();
    let line = DENSE.replace("-o dense", "--dry-run");
    assert!(sandbox.json(&line)["logits"].is_null(), "few classes");
    let measured = sandbox.json(&format!("{line} --logits-keep topk:7 --compress none"));
    let bytes: Vec<(String, f64)> =
        serde_json::from_value(measured["logits"]["bytes"].clone()).unwrap();
    let expected = [("float32", 48.0), ("float16", 24.0), ("topk:5", 24.0), ("topk:7", 32.0)];
    let expected = expected.map(|(name, bytes)| (name.to_owned(), bytes)).to_vec();
    // of K = 10: 10 · (2 + 2) + 4
    assert_eq!(bytes, [expected, vec![("topk:10".to_owned(), 44.0)]].concat());
    sandbox.run(&format!("{line} --logits-keep topk:7")).expect(0).says(&["topk:7", "scores"]);
}

/// Logits of `[64, 1000]`: normal ones of this deviation, and of one class in each row more.
#[allow(clippy::cast_possible_truncation, reason = "float32 is what a teacher gives")]
fn drawn(deviation: f64, more: f64, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    let mut normal = || {
        let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * random.unit()).cos()
    };
    let mut logits: Vec<f32> = (0..64_000).map(|_| (deviation * normal()) as f32).collect();
    for (row, logits) in logits.chunks_mut(1000).enumerate() {
        logits[row * 15] += more as f32;
    }
    logits
}

/// The table of docs/criteria.md: what KD of the K largest, as they are stored, is of dense KD, and
/// the cosine of their gradients.
#[test]
#[allow(clippy::print_stdout, reason = "the table is what is asked for")]
fn how_far_kd_of_the_largest_is_from_dense_kd() {
    let tensor = |values: Vec<f32>, shape: &[usize]| {
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
    };
    let sum = |x: Tensor| x.sum_all().unwrap().to_scalar::<f64>().unwrap();
    let dot = |a: &Tensor, b: &Tensor| sum((a * b).unwrap());
    let mut lines = Vec::new();
    for (name, deviation, more) in
        [("peaked", 2.0, 16.0), ("between", 2.0, 9.0), ("flat", 1.0, 2.0)]
    {
        let logits = drawn(deviation, more, 1);
        // a student that knows half of it
        let own = drawn(1.0, 0.0, 2);
        let student = logits.iter().zip(own).map(|(t, s)| 0.5 * t + s).collect();
        let (student, teacher) =
            (tensor(student, &[64, 1000]), tensor(logits.clone(), &[64, 1000]));
        for temperature in [1.0, 4.0] {
            let dense = kd(&student, &teacher, temperature).unwrap();
            let mut line = format!("| {name} | {temperature} | {:.3} |", dense.value);
            let mut before = 0.0;
            for k in [5, 10, 16, 50, 1000] {
                let part = |part: TopPart| part.compute(&logits, 1000, k).unwrap();
                let (Values::F16(value), Values::U16(class), Values::F32(rest)) =
                    (part(TopPart::Value), part(TopPart::Class), part(TopPart::Rest))
                else {
                    panic!()
                };
                let mass = rest.iter().map(|&mass| f64::from(mass)).sum::<f64>() / 64.0;
                let value = tensor(value.into_iter().map(f32::from).collect(), &[64, k]);
                let class: Vec<i64> = class.into_iter().map(i64::from).collect();
                let class = Tensor::from_vec(class, (64, k), &Device::Cpu).unwrap();
                let rest = tensor(rest, &[64]);
                let sparse = Sparse { value: &value, class: &class, rest: &rest, classes: 1000 };
                let found = kd_sparse(&student, &sparse, temperature).unwrap();
                let (a, b) = (&found.inputs[0], &dense.inputs[0]);
                let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
                let share = found.value / dense.value;
                // a finer partition has a larger divergence, but for the rounding to f16
                assert!(found.value > 0.999 * before && share < 1.001, "{name} {k}: {share}");
                assert!(k < 1000 || (share > 0.999 && cosine > 0.9999), "{share} {cosine}");
                before = found.value;
                if k < 1000 {
                    write!(line, " {share:.3} / {cosine:.3} ({mass:.3}) |").unwrap();
                }
            }
            lines.push(line);
        }
    }
    println!("{}", lines.join("\n"));
    let document = include_str!("../../docs/criteria.md");
    let missing: Vec<&String> =
        lines.iter().filter(|line| !document.contains(line.as_str())).collect();
    assert!(missing.is_empty(), "not in docs/criteria.md: {missing:#?}");
}
