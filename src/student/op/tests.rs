//! What cannot be seen from outside of a pass: how random operators draw.
//! `tests/it/operators_onnx` has every operator's values and gradients.

#![allow(
    clippy::cast_precision_loss,
    clippy::expect_fun_call,
    reason = "53 bits fit, and the operator's name is made once"
)]

use super::{Mode, PassOptions, Site, build};
use crate::onnx::proto::{AttributeProto, NodeProto};
use crate::student::host::Host;
use crate::tensor::{narrow, wide};
use candle_core::DType;

/// The values of an operator of one input, ones, in a pass of this seed; what else it reads is
/// known.
fn drawn(node: &NodeProto, known: &[Host], input: f64, seed: u64) -> Vec<f64> {
    let site = Site {
        node,
        opset: 17,
        number: 5,
        dtype: DType::F64,
        is_frozen: false,
        shapes: vec![Some(vec![COUNT]), Some(Vec::new())],
        constants: [None].into_iter().chain(known.iter().map(Some)).collect(),
        integers: Vec::new(),
    };
    let built = build(&site).unwrap();
    let x = narrow(&vec![input; COUNT], &[COUNT], DType::F64).unwrap();
    let inputs: Vec<_> = built.inputs.iter().map(|_| &x).collect();
    let options = PassOptions { mode: Mode::Train, freeze_batchnorm: false, seed };
    wide(&built.operator.forward(&inputs, &options).unwrap().outputs[0]).unwrap()
}

const COUNT: usize = 100_000;

#[test]
fn draws_keep_their_distribution_and_are_functions_of_the_seed() {
    let node = |operator: &str, numbers: &[(&str, f32)]| NodeProto {
        op_type: Some(operator.into()),
        attribute: numbers
            .iter()
            .map(|&(name, f)| AttributeProto {
                name: Some(name.into()),
                f: Some(f),
                ..AttributeProto::default()
            })
            .collect(),
        ..NodeProto::default()
    };
    let ratio = Host::float(Vec::new(), vec![0.3]);
    let uniform = node("RandomUniformLike", &[("low", -1.0), ("high", 2.0)]);
    let normal = node("RandomNormalLike", &[("mean", 0.5), ("scale", 2.0)]);
    // mean and variance of each
    for (node, known, input, expected) in [
        (node("Dropout", &[]), &[ratio][..], 1.0, [1.0, 0.3 / 0.7]),
        (uniform, &[], 1.0, [0.5, 0.75]),
        (normal, &[], 1.0, [0.5, 4.0]),
        (node("Bernoulli", &[]), &[], 0.2, [0.2, 0.16]),
    ] {
        let first = drawn(&node, known, input, 1);
        assert_eq!(first, drawn(&node, known, input, 1), "{}", node.op_type());
        assert_ne!(first, drawn(&node, known, input, 2), "{}", node.op_type());
        let mean = first.iter().sum::<f64>() / COUNT as f64;
        let variance = first.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / COUNT as f64;
        for (found, expected) in [mean, variance].into_iter().zip(expected) {
            let close = (found - expected).abs() < 0.02 * (1.0 + expected);
            assert!(close, "{}: {found} for {expected}", node.op_type());
        }
        // no part of the positions is drawn otherwise
        for part in first.chunks(COUNT / 4) {
            let own = part.iter().sum::<f64>() / part.len() as f64;
            assert!((own - mean).abs() < 0.05, "{}: {own} in part, {mean}", node.op_type());
        }
    }
}
