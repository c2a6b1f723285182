//! Taps of real models, probed in ONNX Runtime: those of the repository always, those of
//! `../shared` where it is there.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use crate::support::{self, PROGRAM, Sandbox};

use nst_cache::array::{Array, Values};
use nst_cache::onnx::tap::{self, Role, Tap};
use nst_cache::onnx::{Feeding, Model, cost, logits};
use nst_cache::runtime::{Device, Probe, Runtime, Session, SessionOptions, feeds, probe};
use std::path::{Path, PathBuf};

fn runtime() -> Runtime {
    let file =
        format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let built = support::committed("target/release").join(file);
    let path: Option<PathBuf> =
        (std::env::var_os("ORT_DYLIB_PATH").is_none() && built.is_file()).then_some(built);
    Runtime::load(path.as_deref())
        .expect("ONNX Runtime's library: run `make build` or set ORT_DYLIB_PATH")
}

fn committed(name: &str) -> PathBuf {
    support::committed("tests/data/models").join(name)
}

/// A file beside the repository, if it is there.
fn shared(name: &str) -> Option<PathBuf> {
    let path = support::committed("../shared").join(name);
    path.is_file().then_some(path)
}

fn look(path: &Path) -> (Model, Probe, Vec<Tap>) {
    let model = Model::read(path).unwrap();
    let probe = probe(&runtime(), &model, &feeds(&model, None, &Feeding::default()).unwrap())
        .unwrap_or_else(|e| panic!("{}: {}", path.display(), e.chain()));
    let found = logits::find(&model, &probe.shapes, 0).ok().map(|logits| logits.tensor);
    let taps = tap::candidates(&model, &probe.shapes, found.as_deref());
    (model, probe, taps)
}

fn suggested(taps: &[Tap]) -> Vec<&str> {
    taps.iter().filter(|t| t.suggested).map(|t| t.tensor.as_str()).collect()
}

#[test]
fn channels_last_with_constant_weights_and_a_softmax() {
    let (model, _, taps) = look(&committed("nhwc.onnx"));
    assert_eq!(suggested(&taps), ["block2/nchw:0", "block2/relu:0", "features:0", "logits:0"]);
    assert_eq!(logits::of_student(&model, 0).as_deref(), Some("logits:0"));
    assert_eq!(cost::parameters(&model), 108 + 288 + 40);
    let aliases: Vec<String> = suggested(&taps).into_iter().map(tap::alias).collect();
    assert_eq!(aliases, ["block2.nchw", "block2.relu", "features", "logits"]);
}

#[test]
fn bytes_integers_and_a_fixed_batch() {
    let (_, _, taps) = look(&committed("uint8.onnx"));
    assert_eq!(suggested(&taps), ["relu", "flat", "logits"]);
    let (_, _, taps) = look(&committed("int32_batch1.onnx"));
    assert_eq!(suggested(&taps), ["relu", "flat", "logits"]);
    assert_eq!(
        taps.iter().find(|t| t.tensor == "relu").unwrap().shape,
        [Some(1), Some(4), Some(6), Some(6)]
    );
    let (_, _, taps) = look(&committed("external.onnx"));
    assert_eq!(suggested(&taps), ["logits"]);
}

#[test]
fn the_teachers_of_the_references() {
    let Some(path) = shared("models/resnet56-cifar10.onnx") else { return };
    let (model, probe, taps) = look(&path);
    assert_eq!(model.sha256(), "8eb413740375cd42d5e8e710f9e88ce9d995887c53d649ba135626cf27122b46");
    let expected =
        ["/s1/s1.8/Relu_1_output_0", "/s2/s2.8/Relu_1_output_0", "/s3/s3.8/Relu_1_output_0"];
    assert_eq!(suggested(&taps)[..3], expected);
    assert_eq!(
        taps.iter().filter(|t| t.suggested).map(|t| t.role).collect::<Vec<_>>()[3..],
        [Role::Vector, Role::Logits]
    );
    let shapes: Vec<_> = taps
        .iter()
        .filter(|t| t.suggested)
        .map(|t| t.shape[1..].iter().flatten().copied().collect::<Vec<_>>())
        .collect();
    assert_eq!(shapes, [vec![16, 32, 32], vec![32, 16, 16], vec![64, 8, 8], vec![64], vec![10]]);
    // the published figure of ResNet-56 with parameter-free shortcuts is 125 million
    assert_eq!(cost::macs(&model, &probe.observed, probe.observed_batch), Some(125_485_696));

    let (_, _, taps) = look(&shared("models/wrn16-2-fashion.onnx").unwrap());
    let stages: Vec<_> = taps
        .iter()
        .filter(|t| t.suggested && t.role == Role::Map)
        .map(|t| (t.stage, t.op.as_str()))
        .collect();
    assert_eq!(
        stages,
        [(Some(1), "Relu"), (Some(2), "Relu"), (Some(3), "Relu")],
        "what the next stage reads: the normalized sum"
    );
}

#[test]
fn a_tapped_run_gives_the_published_logits() {
    let Some(path) = shared("reference/students/resnet20_b.eval.onnx") else { return };
    let model = Model::read(&path).unwrap();
    let x = Array::new(
        vec![2, 3, 32, 32],
        Values::F32((0u16..6144).map(|i| f32::from(i % 251) / 251.0).collect()),
    )
    .unwrap();
    let options = SessionOptions { device: Device::Cpu, threads: 1 };
    let logits = [logits::of_student(&model, 0).unwrap()];
    let mut plain = Session::new(&runtime(), &model, &[], &options).unwrap();
    let (_, _, taps) = look(&path);
    let every: Vec<String> = taps.into_iter().map(|t| t.tensor).collect();
    let mut exposed = Session::new(&runtime(), &model, &every, &options).unwrap();
    let a = plain.run(&[("input", &x)], &logits).unwrap().remove(0);
    let b = exposed.run(&[("input", &x)], &logits).unwrap().remove(0);
    for (a, b) in a.as_f32().unwrap().iter().zip(b.as_f32().unwrap()) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

/// Each architecture in its training, evaluation and dynamo form: the recorded stage outputs are
/// candidates, and maps are suggested.
#[test]
fn every_student_of_the_references() {
    let cases: [(&str, &[&str]); 9] = [
        (
            "resnet20_a",
            &[
                "/layer1/layer1.2/Relu_1_output_0",
                "/layer2/layer2.2/Relu_1_output_0",
                "/layer3/layer3.2/Relu_1_output_0",
            ],
        ),
        (
            "resnet20_b",
            &[
                "/layer1/layer1.2/Relu_1_output_0",
                "/layer2/layer2.2/Relu_1_output_0",
                "/layer3/layer3.2/Relu_1_output_0",
            ],
        ),
        (
            "resnet18",
            &["/layer1/layer1.1/relu_1/Relu_output_0", "/layer4/layer4.1/relu_1/Relu_output_0"],
        ),
        (
            "mobilenetv2",
            &[
                "/features/features.1/Add_output_0",
                "/features/features.5/Add_output_0",
                "/features/features.9/features.9.2/Clip_output_0",
            ],
        ),
        (
            "shufflenetv2",
            &[
                "/stage2/stage2.1/Reshape_1_output_0",
                "/stage3/stage3.2/Reshape_1_output_0",
                "/conv5/conv5.2/Relu_output_0",
            ],
        ),
        ("vgg8_bn", &["/block1/block1.2/Relu_output_0", "/block2/block2.2/Relu_output_0"]),
        ("senet", &["/s1/Relu_output_0", "/s2/Relu_output_0", "/s3/Relu_output_0"]),
        ("lenet", &[]),
        ("vit_tiny", &[]),
    ];
    for (name, stages) in cases {
        for form in ["", ".eval", ".dynamo"] {
            let Some(path) = shared(&format!("reference/students/{name}{form}.onnx")) else {
                continue;
            };
            let (model, probe, taps) = look(&path);
            let found = suggested(&taps);
            if form != ".dynamo" {
                for stage in stages {
                    assert!(found.contains(stage), "{name}{form}: {stage} is not among {found:?}");
                }
            }
            let roles: Vec<Role> = taps.iter().filter(|t| t.suggested).map(|t| t.role).collect();
            assert_eq!(
                roles[roles.len() - 2..],
                [Role::Vector, Role::Logits],
                "{name}{form}: {found:?}"
            );
            assert!(
                cost::macs(&model, &probe.observed, probe.observed_batch)
                    .is_some_and(|n| n > 10_000),
                "{name}{form}"
            );
        }
    }
}

/// Runs the program and gives the most memory that it had, in bytes; `None` where the system does
/// not say.
fn peak_memory(arguments: &[&str]) -> Option<u64> {
    let mut command = std::process::Command::new(PROGRAM);
    let mut child = command
        .args(arguments)
        .args(["--quiet", "--json"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = None;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| {
            line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        });
        peak = peak.max(line.map(|kilobytes| kilobytes << 10));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success(), "{arguments:?}");
    peak
}

#[test]
fn a_probe_takes_no_more_than_a_run() {
    runtime();
    let folder = &Sandbox::new();
    let path = folder.join("deep.onnx");
    // 49 tensors of 16.8 MB a sample: all of them together are 1.6 GB of two samples
    support::write_deep(&path, 24, 16, 512);
    let Some(peak) = peak_memory(&["inspect", path.to_str().unwrap()]) else { return };
    assert!(peak < 500 << 20, "inspect: {} MB", peak >> 20);
    let row = Array::new(vec![2, 1, 512, 512], Values::F32(vec![0.5; 2 << 18])).unwrap();
    let data = folder.join("data.npz");
    support::write_npz(&data, &[("image", &row)]);
    let (data, cache) = (format!("npz:{}", data.display()), folder.join("cache"));
    let arguments = [
        "extract",
        path.to_str().unwrap(),
        "--data",
        &data,
        "--tap",
        "r1@8x8",
        "--batch",
        "1",
        "-o",
        cache.to_str().unwrap(),
    ];
    let peak = peak_memory(&arguments).unwrap();
    assert!(peak < 500 << 20, "extract: {} MB", peak >> 20);
}
