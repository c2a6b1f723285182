//! Bad input, one case a line: exit status 2, one clear message of at most six lines, no panic, and
//! nothing half-written.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test stops at what it did not expect"
)]

use crate::support;

use crate::support::Fault;
use assert_cmd::Command;
use nst_cache::array::{Array, Values};
use nst_cache::onnx::proto::ModelProto;
use prost::Message as _;
use std::path::{Path, PathBuf};

/// What a case runs and what its message must hold.
struct Case {
    arguments: &'static str,
    expected: &'static [&'static str],
}

const fn case(arguments: &'static str, expected: &'static [&'static str]) -> Case {
    Case { arguments, expected }
}

/// Cases that end before ONNX Runtime is needed.
const WITHOUT_RUNTIME: &[Case] = &[
    case("extrat", &["unrecognized subcommand", "extract"]),
    case("extract", &["TEACHER.onnx"]),
    case("extract teacher.onnx", &["--data", "expected a data set"]),
    case("extract teacher.onnx --data folder:", &["expected a path"]),
    case("extract teacher.onnx --data idx:data --limit 0", &["--limit"]),
    case("extract teacher.onnx --data idx:data --batch -1", &["-1"]),
    case("extract teacher.onnx --data idx:data --threads 0", &["--threads"]),
    case("extract teacher.onnx --data idx:data --store f8", &["f8", "f16"]),
    case("extract teacher.onnx --data idx:data --device tpu", &["tpu"]),
    case("extract teacher.onnx --data idx:data --preprocess cifar", &["cifar", "imagenet"]),
    case("extract teacher.onnx --data idx:data --onnxruntime missing.so", &["missing.so"]),
    case("inspect empty.onnx", &["empty.onnx", "empty"]),
    case("inspect noise.onnx", &["noise.onnx", "not an ONNX model"]),
    case(
        "inspect outside.onnx",
        &["outside.onnx", "`fc`", "../external.data", "inside the model's folder"],
    ),
    case(
        "inspect lonely.onnx",
        &["lonely.onnx", "external.data", "no such file", "beside the model"],
    ),
    case("train resnet8", &["--cache", "--data"]),
    case("train resnet8 --cache nowhere", &["nowhere", "no cache"]),
    case(
        "train resnet8 --data idx:data --recipe unknown.toml",
        &["unknown.toml: line 2: unknown field `epochz`, expected one of `epochs`"],
    ),
    case("train resnet8 --data idx:data --criterion nst", &["nst", "expected a cache", "--cache"]),
    case("train resnet8 --data idx:data --criterion mse", &["mse", "kd"]),
    case(
        "train resnet8 --data idx:data --criterion vid:colour=red",
        &["criterion vid", "unknown field `colour`", "variance"],
    ),
    case(
        "train resnet8 --data idx:data --criterion crd:width=wide",
        &["criterion crd: width", "wide"],
    ),
    case("train resnet8 --data idx:data --device cuda", &["cuda:0", "--device cpu"]),
    case("train resnet8 --data idx:data --device tensorrt", &["tensorrt:0", "auto"]),
    case("train resnot8 --data idx:data --preprocess none", &["resnot8", "resnet8"]),
    case("train resnet8 --data idx:data --freeze nothing*", &["nothing*", "no initializer"]),
    case("train resnet8 --data idx:data -o text.onnx/run", &["text.onnx/run"]),
    case(
        "train varying.onnx --data npz:x.npz",
        &["not supported", "Compress (kept)", "QuantizeLinear (bytes)"],
    ),
    case("new resnet8 --classes 10 --input 1x28x28 -o text.onnx", &["text.onnx", "--force"]),
    case("new resnet8 --classes 10 --input 1x28x28 -o text.onnx/student.onnx", &["text.onnx"]),
    case("cache info data", &["data", "no cache"]),
    case("bench criteria nosuch", &["nosuch", "kd"]),
    case("bench criteria kd at --save x.safetensors", &["--save", "expected one criterion"]),
    case("bench criteria fsp --pair wide", &["fsp", "two layers"]),
    case("completions tcl", &["tcl", "bash"]),
    case("demo --teacher missing.onnx", &["missing.onnx", "--teacher"]),
];

const WITH_RUNTIME: &[Case] = &[
    case("extract missing.onnx --data idx:data", &["missing.onnx"]),
    case("extract text.onnx --data idx:data", &["text.onnx"]),
    case("extract cut.onnx --data idx:data", &["cut.onnx"]),
    case("extract teacher.onnx --data idx:missing", &["missing"]),
    case("extract teacher.onnx --data idx:short", &["short"]),
    case("extract teacher.onnx --data idx:data --split validation", &["validation"]),
    case("extract teacher.onnx --data idx:data --tap mop1", &["mop1", "map1"]),
    case("extract varying.onnx --data npz:x.npz --tap kept", &["kept", "varies between samples"]),
    case("extract teacher.onnx --data idx:data --tap map1 --tap map1", &["map1"]),
    case("extract teacher.onnx --data idx:data --tap logits:nhwc", &["logits", "axis order"]),
    case(
        "eval teacher.onnx --data idx:twelve --split train",
        &["tells 10 classes", "the data has 12", "--classes"],
    ),
    case("eval teacher.onnx --data images/a --split train", &["000.png", "expected a label"]),
    case("eval teacher.onnx --data idx:data --split train --batch 0", &["--batch"]),
    case(
        "eval teacher.onnx --data idx:data --split train --logits lojits",
        &["lojits", "`logits`"],
    ),
    case("eval teacher.onnx --data idx:data --split train --classes three.txt", &["three.txt"]),
    case("extract teacher.onnx --data idx:data --tap pooled@2x2", &["pooled", "2x2"]),
    case("extract teacher.onnx --data idx:data --tap map2@15x14", &["map2", "15x14"]),
    case("extract teacher.onnx --data idx:data --tap map1=a/b", &["a/b"]),
    case("extract teacher.onnx --data idx:data --logits lojits", &["lojits", "logits"]),
    case("extract teacher.onnx --data idx:data --logits map1", &["map1", "one value per class"]),
    case("extract teacher.onnx --data idx:data --size 32", &["32"]),
    case(
        "extract teacher.onnx --data idx:data --classes three.txt",
        &["three.txt", "expected 10", "found 3"],
    ),
    case("extract teacher.onnx --data folder:images", &["1 sample", "b/broken.png", "--skip-bad"]),
    case("extract notfinite.onnx --data idx:data", &["map2", "row ", "finite"]),
    case("extract large.onnx --data idx:data --store f16", &["map2", "f16", "--store f32"]),
    case("extract teacher.onnx --data idx:data -o text.onnx/cache", &["text.onnx"]),
    case("extract teacher.onnx --data idx:data -o images", &["images", "-o"]),
];

fn prepare(folder: &Path) {
    let at = |name: &str| folder.join(name);
    support::write_teacher(&at("teacher.onnx"));
    support::write_faulty_teacher(&at("notfinite.onnx"), Fault::NotFinite);
    support::write_faulty_teacher(&at("large.onnx"), Fault::Large);
    std::fs::write(at("text.onnx"), "this is no model, but a text of some length\n").unwrap();
    let teacher = std::fs::read(at("teacher.onnx")).unwrap();
    std::fs::write(at("cut.onnx"), &teacher[..teacher.len() / 2]).unwrap();
    support::write_idx(&at("data"), 40);
    support::write_idx_with_labels(&at("twelve"), 40, 12);
    support::write_idx(&at("short"), 40);
    let images = at("short/train-images-idx3-ubyte");
    let bytes = std::fs::read(&images).unwrap();
    std::fs::write(&images, &bytes[..bytes.len() - 100]).unwrap();
    std::fs::write(at("three.txt"), "a\nb\nc\n").unwrap();
    std::fs::write(at("unknown.toml"), "epochs = 1\nepochz = 2\n").unwrap();
    std::fs::write(at("empty.onnx"), "").unwrap();
    let mut random = support::Random(9);
    std::fs::write(at("noise.onnx"), (0..4000).map(|_| random.next() as u8).collect::<Vec<_>>())
        .unwrap();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models");
    std::fs::copy(models.join("varying.onnx"), at("varying.onnx")).unwrap();
    let external = std::fs::read(models.join("external.onnx")).unwrap();
    std::fs::write(at("lonely.onnx"), &external).unwrap();
    std::fs::write(at("outside.onnx"), elsewhere(&external)).unwrap();
    let noise = (0..10 * 64).map(|_| random.unit() as f32).collect();
    support::write_npz(
        &at("x.npz"),
        &[("x", &Array::new(vec![10, 64], Values::F32(noise)).unwrap())],
    );
    support::write_images(&at("images"), 12);
    std::fs::write(at("images/b/broken.png"), b"\x89PNG\r\n\x1a\nand then nothing").unwrap();
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

/// Every path under a folder.
fn listing(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(listing(&path));
        }
        all.push(path.to_string_lossy().into_owned());
    }
    all.sort();
    all
}

fn run(folder: &Path, arguments: &str) -> std::process::Output {
    Command::cargo_bin("nst-cache")
        .unwrap()
        .current_dir(folder)
        .args(arguments.split(' '))
        .output()
        .unwrap()
}

/// What is wrong with the way that a case fails; empty when it is as promised.
fn complaints(folder: &Path, case: &Case) -> Vec<String> {
    let before = listing(folder);
    let output = run(folder, case.arguments);
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let mut wrong = Vec::new();
    if output.status.code() != Some(2) {
        wrong.push(format!("exit status {:?}", output.status.code()));
    }
    if !stdout.is_empty() {
        wrong.push(format!("stdout: {stdout}"));
    }
    let message: Vec<&str> =
        stderr.lines().skip_while(|line| !line.starts_with("error: ")).collect();
    if message.is_empty() || message.len() > 6 || stderr.contains("panicked") {
        wrong.push("no error of at most six lines".to_owned());
    }
    wrong.extend(
        case.expected
            .iter()
            .filter(|part| !message.join("\n").contains(**part))
            .map(|part| format!("lacks `{part}`")),
    );
    if listing(folder) != before {
        wrong.push(format!(
            "left behind: {:?}",
            listing(folder).iter().filter(|p| !before.contains(p)).collect::<Vec<_>>()
        ));
    }
    if wrong.is_empty() {
        wrong
    } else {
        vec![format!("`{}`: {}\n{stderr}", case.arguments, wrong.join(", "))]
    }
}

fn check(cases: &[Case]) {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let wrong: Vec<String> =
        cases.iter().flat_map(|case| complaints(folder.path(), case)).collect();
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn bad_use_is_refused() {
    check(WITHOUT_RUNTIME);
}

#[test]
fn bad_input_is_named() {
    support::need_runtime();
    check(WITH_RUNTIME);
}

#[test]
fn a_config_with_an_unknown_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("nst-cache.toml"), "dataa = \"fashion-mnist\"\n").unwrap();
    let wrong =
        complaints(folder.path(), &case("extract teacher.onnx", &["nst-cache.toml", "dataa"]));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn library_paths_are_no_part_of_the_config() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("nst-cache.toml"), "onnxruntime = \"evil.so\"\n").unwrap();
    let wrong = complaints(
        folder.path(),
        &case("extract teacher.onnx", &["nst-cache.toml", "onnxruntime"]),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_cache_of_other_settings_is_refused_and_left_alone() {
    support::need_runtime();
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let first = run(folder.path(), "extract teacher.onnx --data idx:data --limit 30 -q");
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    for (arguments, expected) in [
        ("extract teacher.onnx --data idx:data --limit 20", "limit"),
        ("extract teacher.onnx --data idx:data --limit 30 --seed 1", "seed"),
        ("extract teacher.onnx --data idx:data --limit 30 --mean 0.5 --std 0.5", "mean"),
        ("extract teacher.onnx --data idx:data --limit 30 --tap map2=map1", "tap"),
        ("extract teacher.onnx --data idx:data --limit 30 --augment flip", "augment"),
        ("extract teacher.onnx --data idx:data --limit 30 --inputs source", "view_arrays"),
        ("extract teacher.onnx --data idx:data --limit 30 --store f32", "float"),
        ("extract large.onnx --data idx:data --limit 30 -o cache/teacher", "teacher"),
    ] {
        let output = run(folder.path(), arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {stderr}");
        assert!(
            stderr.contains("made with another") && stderr.contains(expected),
            "{arguments}: {stderr}"
        );
    }
    let again = run(folder.path(), "extract teacher.onnx --data idx:data --limit 30 --json");
    let report: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(
        (&report["rows"], &report["computed"]),
        (&serde_json::json!(30), &serde_json::json!(0))
    );
}

/// The file of the first segment of a stored map.
fn shard(cache: &Path, tap: &str) -> PathBuf {
    cache.join("taps").join(tap).join("features/c/0/0/0/0/0")
}

#[test]
fn a_damaged_shard_is_named_and_the_student_must_fit() {
    support::need_runtime();
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    for taps in ["--tap map1 --tap map2", "--tap map2@9x9=odd --keep gram -o cache/odd"] {
        let made = run(
            folder.path(),
            &format!("extract teacher.onnx --data idx:data --preprocess fashion-mnist {taps}"),
        );
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let train = "train resnet8 --cache cache/teacher --epochs 1";
    let nst = "--criterion nst:pair=";
    let wrong: Vec<String> = [
        case("train resnet8 --cache cache/teacher --size 32", &["another preprocessing", "size"]),
        case("train varying.onnx --cache cache/teacher", &["varying.onnx", "[batch, 64]"]),
        case(
            "train resnet8 --cache cache/odd",
            &["expected maps of one size", "odd 16x9x9", "layer3 64x7x7", "pair="],
        ),
        case(
            "train resnet8 --cache cache/teacher --criterion nst:pair=map3>layer1",
            &["map3", "map2", "map1"],
        ),
        case(
            "train resnet8 --cache cache/teacher --criterion nst:pair=map1>layer9",
            &["layer9", "layer1"],
        ),
        case(
            "train resnet8 --cache cache/teacher --criterion rkd",
            &["rkd", "vector before the classifier", "--tap TENSOR"],
        ),
        case(
            "train resnet8 --cache cache/teacher --criterion ab:pair=map1>layer1",
            &["ab", "map1", "before its activation", "--tap TENSOR"],
        ),
        case(
            "train resnet8 --cache cache/teacher --criterion fsp:pair=map1>layer1",
            &["fsp", "two layers or more", "pair="],
        ),
    ]
    .iter()
    .flat_map(|case| complaints(folder.path(), case))
    .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let path = shard(&folder.path().join("cache/teacher"), "map1");
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[100] ^= 1;
    let damages: [(&str, Option<&[u8]>); 3] = [
        ("truncated", Some(&whole[..whole.len() - 9])),
        ("missing", None),
        ("flipped", Some(&flipped)),
    ];
    for (what, bytes) in damages {
        match bytes {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let trained = run(folder.path(), &format!("{train} {nst}map1>layer1 -o runs/{what}"));
        let stderr = String::from_utf8_lossy(&trained.stderr);
        assert_eq!(trained.status.code(), Some(2), "{what}: {stderr}");
        assert!(stderr.contains("taps/map1/features/c/0/0/0/0/0"), "{what}: {stderr}");
        let verified = run(folder.path(), "cache verify cache/teacher");
        assert_eq!(verified.status.code(), Some(1), "{what}");
        assert!(
            String::from_utf8_lossy(&verified.stdout).contains("taps/map1/features/c/0/0/0/0/0"),
            "{what}"
        );
        assert!(String::from_utf8_lossy(&verified.stderr).contains("1 problem"), "{what}");
    }
    std::fs::write(&path, &whole).unwrap();
    assert!(run(folder.path(), "cache verify cache/teacher").status.success());
}

/// A limit on the length of files stands for a full disk: the write fails half-way.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_full_leaves_what_can_be_gone_on_with() {
    support::need_runtime();
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let command = "extract teacher.onnx --data idx:data --store f32 --tap map1";
    let limited = std::process::Command::new("bash")
        .args([
            "-c",
            &format!("trap '' XFSZ; ulimit -f 100; exec \"$0\" {command}"),
            env!("CARGO_BIN_EXE_nst-cache"),
        ])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&limited.stderr);
    assert_eq!(limited.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("cannot write") && stderr.contains("taps/map1"), "{stderr}");
    assert!(
        listing(&folder.path().join("cache"))
            .iter()
            .all(|path| Path::new(path).extension().is_none_or(|e| e != "tmp")),
        "a temporary file is left"
    );
    let again = run(folder.path(), command);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert!(run(folder.path(), "cache verify cache/teacher").status.success());
}

#[test]
fn skip_bad_leaves_unreadable_samples_out_and_says_so() {
    support::need_runtime();
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let output = run(
        folder.path(),
        "extract teacher.onnx --data folder:images --channels gray --skip-bad --json",
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("b/broken.png"), "{stderr}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["rows"], &report["skipped"]),
        (&serde_json::json!(12), &serde_json::json!(1))
    );
    assert!(run(folder.path(), "cache verify cache/teacher").status.success());
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::io::Read as _;
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_nst-cache"))
        .args(["completions", "zsh"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(status.success(), "{stderr}");
    assert!(stderr.is_empty(), "{stderr}");
}
