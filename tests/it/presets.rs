//! Presets: sizes as published, names, determinism, and what they start from.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "tests: small counts, exact constants"
)]

use nst_cache::onnx::{Dim, Model, cost};
use nst_cache::student::preset;
use std::collections::HashSet;

/// Preset, classes, input, parameters.
type Published = (&'static str, usize, [usize; 3], u64);

/// RepDistiller's students (its table is for CIFAR-100).
const SMALL: &[Published] = &[
    ("resnet8", 10, [3, 32, 32], 78_042),
    ("resnet14", 10, [3, 32, 32], 175_258),
    ("resnet20", 10, [3, 32, 32], 272_474),
    ("resnet20", 100, [3, 32, 32], 278_324),
    ("resnet32", 100, [3, 32, 32], 472_756),
    ("resnet44", 100, [3, 32, 32], 667_188),
    ("resnet56", 100, [3, 32, 32], 861_620),
    ("resnet110", 100, [3, 32, 32], 1_736_564),
    ("resnet8x4", 100, [3, 32, 32], 1_233_540),
    ("resnet32x4", 100, [3, 32, 32], 7_433_860),
    ("wrn-16-1", 10, [3, 32, 32], 175_066),
    ("wrn-16-2", 10, [3, 32, 32], 691_674),
    ("wrn-16-2", 100, [3, 32, 32], 703_284),
    ("wrn-40-1", 100, [3, 32, 32], 569_780),
    ("wrn-40-2", 100, [3, 32, 32], 2_255_156),
    ("vgg8", 100, [3, 32, 32], 3_965_028),
    ("vgg11", 100, [3, 32, 32], 9_277_284),
    ("vgg13", 100, [3, 32, 32], 9_462_180),
    ("resnet18", 10, [3, 32, 32], 11_173_962),
    ("resnet34", 10, [3, 32, 32], 21_282_122),
    ("resnet50", 10, [3, 32, 32], 23_520_842),
    ("mobilenetv2-0.5", 100, [3, 32, 32], 812_836),
    ("shufflenetv1", 100, [3, 32, 32], 949_258),
    ("shufflenetv2", 100, [3, 32, 32], 1_355_528),
    ("lenet", 10, [1, 28, 28], 61_706),
    ("lenet", 10, [3, 32, 32], 62_006),
];

/// torchvision's, and Inception-BN as its Caffe port has it: 11,295,240 less the 10,016 biases of
/// convolutions.
const LARGE: &[Published] = &[
    ("resnet18", 1000, [3, 224, 224], 11_689_512),
    ("resnet34", 1000, [3, 224, 224], 21_797_672),
    ("resnet50", 1000, [3, 224, 224], 25_557_032),
    ("mobilenetv2", 1000, [3, 224, 224], 3_504_872),
    ("mobilenetv2-0.5", 1000, [3, 224, 224], 1_968_680),
    ("shufflenetv2", 1000, [3, 224, 224], 2_278_604),
    ("inception-bn", 1000, [3, 224, 224], 11_285_224),
];

fn values(model: &Model, name: &str) -> Vec<f32> {
    model.initializer(name).unwrap().unwrap_or_else(|| panic!("no {name}")).to_f32()
}

fn std(values: &[f32]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    (values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt()
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, x| largest.max(x.abs()))
}

#[test]
fn parameters_are_as_published() {
    for &(name, classes, input, expected) in SMALL.iter().chain(LARGE) {
        let model = preset::build(name, classes, input, 0).unwrap();
        assert_eq!(cost::parameters(&model), expected, "{name}, {classes} classes of {input:?}");
    }
}

#[test]
fn every_name_is_built_in_training_form() {
    for (name, _) in preset::names() {
        for side in [32, 96] {
            let model = preset::build(name, 5, [2, side, side], 1).unwrap();
            assert_eq!(
                (model.opset(), model.proto().ir_version(), model.metadata("nst-cache.preset")),
                (17, 8, Some(name))
            );
            let (inputs, outputs) = (model.inputs(), model.outputs());
            let batch = Dim::Symbol("batch".to_owned());
            let fixed = |sizes: &[usize]| {
                [vec![batch.clone()], sizes.iter().map(|&s| Dim::Fixed(s)).collect()].concat()
            };
            assert_eq!(
                (inputs[0].name.as_str(), &inputs[0].shape),
                ("input", &fixed(&[2, side, side]))
            );
            assert_eq!((outputs[0].name.as_str(), &outputs[0].shape), ("logits", &fixed(&[5])));
            assert_eq!((inputs.len(), outputs.len()), (1, 1));
            for node in model.graph().node.iter().filter(|n| n.op_type() == "BatchNormalization") {
                let training = node
                    .attribute
                    .iter()
                    .find(|a| a.name() == "training_mode")
                    .map(nst_cache::onnx::proto::AttributeProto::i);
                assert_eq!((training, node.output.len()), (Some(1), 3), "{name}: {}", node.name());
            }
        }
    }
}

#[test]
fn stages_carry_their_names() {
    let stages = |name, input| -> HashSet<String> {
        let model = preset::build(name, 10, input, 0).unwrap();
        model.graph().node.iter().flat_map(|n| n.output.iter().cloned()).collect()
    };
    let expected: &[(&str, usize, &[&str])] = &[
        ("resnet8", 28, &["relu", "layer1", "layer2", "layer3", "flatten", "logits"]),
        ("resnet56", 32, &["layer1", "layer2", "layer3", "layer3.4"]),
        ("resnet18", 32, &["layer1", "layer2", "layer3", "layer4"]),
        ("wrn-16-2", 32, &["conv1", "block1", "block2", "block3", "relu"]),
        ("vgg8", 32, &["block0", "block1", "block2", "block3", "block4"]),
        (
            "mobilenetv2-0.5",
            32,
            &["conv1", "blocks.1", "blocks.2", "blocks.4", "blocks.6", "conv2"],
        ),
        (
            "mobilenetv2",
            96,
            &["features.1", "features.3", "features.6", "features.13", "features.18"],
        ),
        ("shufflenetv1", 32, &["layer1", "layer2", "layer3"]),
        ("shufflenetv2", 32, &["stage2", "stage3", "stage4", "conv5"]),
        ("inception-bn", 32, &["in3b", "in4d", "in5b"]),
        ("lenet", 28, &["relu1", "relu2", "relu4"]),
    ];
    for (name, side, tensors) in expected {
        let found = stages(name, [1, *side, *side]);
        for tensor in *tensors {
            assert!(found.contains(*tensor), "{name}: no tensor {tensor}");
        }
    }
}

#[test]
fn a_seed_fixes_every_byte() {
    let bytes = |seed| preset::build("resnet20", 10, [3, 32, 32], seed).unwrap().bytes().to_vec();
    assert_eq!(bytes(5), bytes(5));
    assert_ne!(bytes(5), bytes(6));
}

/// Golden: a change here is a change of every student that a recipe names.
#[test]
fn seed_0_gives_known_files() {
    let expected = [
        (
            "resnet8",
            [1, 28, 28],
            "d15464bf78d382c82c24e0855a3cb7a5d19a36c312409f94991cfad220e4a1e2",
        ),
        (
            "wrn-16-2",
            [3, 32, 32],
            "333ba0723e3a9ec17c85c1f04771383ae0749a7fb751f74e8410ef69e0c840e5",
        ),
        (
            "mobilenetv2-0.5",
            [3, 32, 32],
            "b5014ef369d125da513e79338084f837073e7cdf4c3d88c1e1349a92a432b901",
        ),
    ];
    let found = expected.map(|(name, input, _)| {
        (name, input, preset::build(name, 10, input, 0).unwrap().sha256().to_owned())
    });
    assert_eq!(found, expected.map(|(name, input, hash)| (name, input, hash.to_owned())));
}

#[test]
fn resnets_start_as_in_pytorch() {
    let model = preset::build("resnet20", 10, [3, 32, 32], 0).unwrap();
    // 64 filters of 3×3: √(2 / 576); 64·64·9 values estimate it to 0.4 %
    let deviation = std(&values(&model, "layer3.2.conv2.weight"));
    assert!((deviation / (2.0f64 / 576.0).sqrt() - 1.0).abs() < 0.02, "{deviation}");
    // the first convolution by its fan-out, not by its 3 input channels
    let deviation = std(&values(&model, "conv1.weight"));
    assert!((deviation / (2.0f64 / 144.0).sqrt() - 1.0).abs() < 0.15, "{deviation}");
    for (parameter, expected) in
        [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)]
    {
        assert_eq!(values(&model, &format!("layer2.0.downsample.1.{parameter}")), [expected; 32]);
    }
    // uniform in ±1/√64
    let weight = values(&model, "fc.weight");
    assert!(
        (0.12..=0.125).contains(&largest(&weight))
            && (std(&weight) / (0.125 / 3f64.sqrt()) - 1.0).abs() < 0.1
    );
    let bias = largest(&values(&model, "fc.bias"));
    assert!(bias > 0.0 && bias <= 0.125, "{bias}");
}

#[test]
fn other_families_start_by_their_own_rules() {
    let vgg = preset::build("vgg8", 100, [3, 32, 32], 0).unwrap();
    assert!((std(&values(&vgg, "classifier.weight")) / 0.01 - 1.0).abs() < 0.02);
    assert_eq!(largest(&values(&vgg, "classifier.bias")), 0.0);
    assert!((std(&values(&vgg, "block4.0.weight")) / (2.0f64 / 4608.0).sqrt() - 1.0).abs() < 0.01);
    assert_eq!(largest(&values(&vgg, "block4.0.bias")), 0.0);

    let lenet = preset::build("lenet", 10, [1, 28, 28], 0).unwrap();
    let bound = 1.0 / 150f32.sqrt();
    let filters = largest(&values(&lenet, "conv2.weight"));
    assert!(filters <= bound && filters > 0.95 * bound, "{filters}");
    assert!(largest(&values(&lenet, "conv2.bias")) <= bound);
    // depthwise filters see 9 values each
    let shuffle = preset::build("shufflenetv2", 10, [3, 32, 32], 0).unwrap();
    let filters = largest(&values(&shuffle, "stage3.1.branch2.3.weight"));
    assert!(filters > 0.3 && filters <= 1.0 / 3.0, "{filters}");
}

#[test]
fn what_cannot_be_built_is_explained() {
    let message = |name, classes, input| {
        let error = preset::build(name, classes, input, 0).unwrap_err();
        (error.chain(), error.find_hint().unwrap_or_default().to_owned())
    };
    let (error, hint) = message("resnet57", 10, [3, 32, 32]);
    assert_eq!(error, "preset `resnet57`: no such preset");
    assert!(hint.contains("resnet56"), "{hint}");
    let (error, _) = message("wrn-17-2", 10, [3, 32, 32]);
    assert!(error.contains("found 17 and 2"), "{error}");
    let (error, hint) = message("vgg13", 10, [3, 4, 4]);
    assert!(
        error.contains(
            "vgg13 for an input of 3x4x4: pool2: a window of 2x2 does not fit a map of 1x1"
        ),
        "{error}"
    );
    assert!(!hint.is_empty());
    assert!(message("lenet", 10, [1, 5, 5]).0.contains("does not fit"));
    assert!(message("resnet8", 0, [3, 32, 32]).0.contains("classes"));
    assert!(message("resnet8", 10, [3, 0, 32]).0.contains("found 0"));
    assert!(message("resnet8", usize::MAX, [3, 32, 32]).0.contains("2 GiB"));
    assert!(message("lenet", 10, [1, 65_536, 65_536]).0.contains("2 GiB"));
    assert!(message("wrn-16-65535", 10, [3, 32, 32]).0.contains("2 GiB"));
    for name in ["mobilenetv2-0", "mobilenetv2-nan", "mobilenetv2-1e9"] {
        assert!(message(name, 10, [3, 32, 32]).0.contains("width between"), "{name}");
    }
    for name in ["", "wrn", "wrn-16", "wrn-a-b", "mobilenetv2x", "mobilenetv2-"] {
        assert!(message(name, 10, [3, 32, 32]).0.contains("no such preset"), "{name}");
    }
}
