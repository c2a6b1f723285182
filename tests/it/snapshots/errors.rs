//! Every error with its hint, whole: exit status 2, one clear message of at most six lines, no
//! panic, and nothing half-written.

use crate::support::{self, Fault, Sandbox, snapshot};
use nst_cache::onnx::proto::ModelProto;
use prost::Message as _;
use std::fmt::Write as _;

/// Ends before ONNX Runtime is needed.
const USE: &[&str] = &[
    "extrat",
    "extract",
    "extract teacher.onnx",
    "extract teacher.onnx --data folder:",
    "extract teacher.onnx --data idx:data --limit 0",
    "extract teacher.onnx --data idx:data --batch -1",
    "extract teacher.onnx --data idx:data --threads 0",
    "extract teacher.onnx --data idx:data --store f8",
    "extract teacher.onnx --data idx:data --device tpu",
    "extract teacher.onnx --data idx:data --preprocess cifar",
    "extract teacher.onnx --data idx:data --onnxruntime missing.so",
    "inspect empty.onnx",
    "inspect noise.onnx",
    "inspect outside.onnx",
    "inspect lonely.onnx",
    "train resnet8",
    "train resnet8 --cache nowhere",
    "train resnet8 --data idx:data --recipe unknown.toml",
    "train resnet8 --data idx:data --criterion nst",
    "train resnet8 --data idx:data --criterion hinge",
    "train resnet8 --data idx:data --criterion vid:colour=red",
    "train resnet8 --data idx:data --criterion crd:width=wide",
    "train resnet8 --data idx:data --device cuda",
    "train resnet8 --data idx:data --device tensorrt",
    "train resnot8 --data idx:data --preprocess none",
    "train resnet8 --data idx:data --freeze nothing*",
    "train resnet8 --data idx:data -o text.onnx/run",
    "train varying.onnx --data npz:x.npz",
    "new resnet8 --classes 10 --input 1x28x28 -o text.onnx",
    "new resnet8 --classes 10 --input 1x28x28 -o text.onnx/student.onnx",
    "cache info data",
    "completions tcl",
    "demo --teacher missing.onnx",
    "extract teacher.onnx --data idx:data --views 2",
    "extract teacher.onnx --data idx:data --views all --augment random-resized-crop",
    "extract teacher.onnx --data idx:data --views 0",
    "extract teacher.onnx --data idx:data --mixup 0",
    "extract teacher.onnx --data idx:data --color-jitter 1,2",
    "criteria hinge",
    "recipe cifar10",
    "recipe cifar100 --teacher resnet56 --student vgg8",
    "recipe cifar100 --teacher resnet56",
    "eval teacher.onnx --data idx:data --against teacher.onnx --knn",
    "eval teacher.onnx --data idx:data --pair a=b",
    "eval teacher.onnx --data idx:data --against teacher.onnx --pair a",
    "eval teacher.onnx --data idx:data --against teacher.onnx --read a=numbers",
];

const INPUT: &[&str] = &[
    "extract missing.onnx --data idx:data",
    "extract text.onnx --data idx:data",
    "extract cut.onnx --data idx:data",
    "extract teacher.onnx --data idx:missing",
    "extract teacher.onnx --data idx:short",
    "extract teacher.onnx --data idx:data --split validation",
    "extract teacher.onnx --data idx:data --tap mop1",
    "extract varying.onnx --data npz:x.npz --tap kept",
    "extract teacher.onnx --data idx:data --tap map1 --tap map1",
    "extract teacher.onnx --data idx:data --tap logits:nhwc",
    "eval teacher.onnx --data idx:twelve --split train",
    "eval teacher.onnx --data images/a --split train",
    "eval teacher.onnx --data idx:data --split train --batch 0",
    "eval teacher.onnx --data idx:data --split train --logits lojits",
    "eval teacher.onnx --data idx:data --split train --classes three.txt",
    "eval teacher.onnx --data idx:data --split train --logits none",
    "eval teacher.onnx --data idx:data --split train --against missing.onnx",
    "eval teacher.onnx --data idx:data --split train --against teacher.onnx --pair logits=pooled",
    "eval teacher.onnx --data idx:data --split train --against teacher.onnx --pair lojits=logits",
    "eval teacher.onnx --data idx:data --split train --against teacher.onnx --read map1=values",
    "eval teacher.onnx --against images",
    "eval teacher.onnx --data idx:data --split train --knn train",
    "eval teacher.onnx --data idx:data --split train --knn test",
    "extract teacher.onnx --data idx:data --tap pooled@2x2",
    "extract teacher.onnx --data idx:data --tap map2@15x14",
    "extract teacher.onnx --data idx:data --tap map1=a/b",
    "extract teacher.onnx --data idx:data --logits lojits",
    "extract teacher.onnx --data idx:data --logits map1",
    "extract teacher.onnx --data idx:data --size 32",
    "extract teacher.onnx --data idx:data --classes three.txt",
    "extract teacher.onnx --data folder:images",
    "extract notfinite.onnx --data idx:data",
    "extract large.onnx --data idx:data --store f16",
    "extract teacher.onnx --data idx:data -o text.onnx/cache",
    "extract teacher.onnx --data idx:data -o images",
    "extract teacher.onnx --data idx:data --views 99 --augment crop-flip",
];

/// A cache of other settings is neither used nor touched.
const OTHER_SETTINGS: &[&str] = &[
    "extract teacher.onnx --data idx:data --limit 20",
    "extract teacher.onnx --data idx:data --limit 30 --seed 1",
    "extract teacher.onnx --data idx:data --limit 30 --mean 0.5 --std 0.5",
    "extract teacher.onnx --data idx:data --limit 30 --tap map2=map1",
    "extract teacher.onnx --data idx:data --limit 30 --augment flip",
    "extract teacher.onnx --data idx:data --limit 30 --inputs source",
    "extract teacher.onnx --data idx:data --limit 30 --store f32",
    "extract large.onnx --data idx:data --limit 30 -o cache/teacher",
];

/// What a student and a cache cannot be asked for together.
const TRAINING: &[&str] = &[
    "train resnet8 --cache cache/teacher --size 32",
    "train varying.onnx --cache cache/teacher",
    "train resnet8 --cache cache/odd",
    "train resnet8 --cache cache/teacher --criterion nst:pair=map3>layer1",
    "train resnet8 --cache cache/teacher --criterion nst:pair=map1>layer9",
    "train resnet8 --cache cache/teacher --criterion rkd",
    "train resnet8 --cache cache/teacher --criterion ab:pair=map1>layer1",
    "train resnet8 --cache cache/teacher --criterion fsp:pair=map1>layer1",
    "cache export cache/teacher --npz x.npz --rows 50..60",
    "cache export cache/teacher --npz x.npz --tap map",
    "cache export cache/teacher",
    "cache export cache/teacher --npz a.npz --safetensors a.safetensors",
];

fn prepared() -> Sandbox {
    let folder = Sandbox::new().teacher().data(40);
    let at = |name: &str| folder.join(name);
    support::write_faulty_teacher(&at("notfinite.onnx"), Fault::NotFinite);
    support::write_faulty_teacher(&at("large.onnx"), Fault::Large);
    std::fs::write(at("text.onnx"), "this is no model, but a text of some length\n").unwrap();
    let teacher = std::fs::read(at("teacher.onnx")).unwrap();
    std::fs::write(at("cut.onnx"), &teacher[..teacher.len() / 2]).unwrap();
    support::write_idx_with_labels(&at("twelve"), 40, 12);
    support::write_idx(&at("short"), 40);
    let images = at("short/train-images-idx3-ubyte");
    let bytes = std::fs::read(&images).unwrap();
    std::fs::write(&images, &bytes[..bytes.len() - 100]).unwrap();
    std::fs::write(at("three.txt"), "a\nb\nc\n").unwrap();
    std::fs::write(at("unknown.toml"), "epochs = 1\nepochz = 2\n").unwrap();
    std::fs::write(at("empty.onnx"), "").unwrap();
    let mut random = support::Random(9);
    let bytes: Vec<u8> = (0..4000).map(|_| random.next().to_le_bytes()[0]).collect();
    std::fs::write(at("noise.onnx"), bytes).unwrap();
    let models = support::committed("tests/data/models");
    std::fs::copy(models.join("varying.onnx"), at("varying.onnx")).unwrap();
    let external = std::fs::read(models.join("external.onnx")).unwrap();
    std::fs::write(at("lonely.onnx"), &external).unwrap();
    std::fs::write(at("outside.onnx"), elsewhere(&external)).unwrap();
    support::write_npz(&at("x.npz"), &[("x", &support::noise(&[10, 64], 9))]);
    support::write_images(&at("images"), 12);
    std::fs::write(at("images/b/broken.png"), b"\x89PNG\r\n\x1a\nand then nothing").unwrap();
    folder
}

/// A model with external data whose location leads outside its folder.
fn elsewhere(model: &[u8]) -> Vec<u8> {
    let mut model = ModelProto::decode(model).unwrap();
    let locations =
        model.graph.iter_mut().flat_map(|g| &mut g.initializer).flat_map(|t| &mut t.external_data);
    for entry in locations.filter(|entry| entry.key() == "location") {
        entry.value = Some("../external.data".into());
    }
    model.encode_to_vec()
}

/// Holds what is said in each case against a snapshot, and what is left behind against nothing.
fn check(name: &str, folder: &Sandbox, lines: &[&str]) {
    let mut text = String::new();
    for line in lines {
        let before = folder.listing();
        let ran = folder.run(line).expect(2);
        assert_eq!(ran.stdout, "", "{line}");
        let message = ran.stderr.lines().skip_while(|line| !line.starts_with("error: ")).count();
        assert!((1..=6).contains(&message) && !ran.stderr.contains("panicked"), "{line}: {ran:?}");
        assert_eq!(folder.listing(), before, "{line}: something is left behind");
        writeln!(text, "$ nst-cache {line}\n{}", ran.stderr).unwrap();
    }
    snapshot(name, folder, &text);
}

#[test]
fn bad_use_is_refused() {
    check("errors_of_use", &prepared(), USE);
}

#[test]
fn bad_input_is_named() {
    support::need_runtime();
    check("errors_of_input", &prepared(), INPUT);
}

#[test]
fn a_config_with_a_key_that_is_none_of_its_own_is_refused() {
    let folder = Sandbox::new();
    folder.file("nst-cache.toml", "dataa = \"fashion-mnist\"\n");
    check("errors_of_config", &folder, &["extract teacher.onnx"]);
    // library paths are no part of it
    folder.file("nst-cache.toml", "onnxruntime = \"evil.so\"\n");
    check("errors_of_config_library", &folder, &["extract teacher.onnx"]);
}

#[test]
fn a_cache_of_other_settings_is_refused_and_left_alone() {
    support::need_runtime();
    let folder = prepared();
    folder.succeeds("extract teacher.onnx --data idx:data --limit 30 -q");
    check("errors_of_other_settings", &folder, OTHER_SETTINGS);
    let report = folder.json("extract teacher.onnx --data idx:data --limit 30");
    assert_eq!((&report["rows"], &report["computed"]), (&30.into(), &0.into()));
}

#[test]
fn a_student_must_fit_its_cache() {
    support::need_runtime();
    let folder = prepared();
    for taps in ["--tap map1 --tap map2", "--tap map2@9x9=odd --keep gram -o cache/odd"] {
        let line = "extract teacher.onnx --data idx:data --preprocess fashion-mnist";
        folder.succeeds(&format!("{line} {taps}"));
    }
    check("errors_of_training", &folder, TRAINING);
}
