//! What cannot be seen from outside of a pass: how dropout draws. `tests/it/operators_onnx` has
//! every operator's values and gradients.

#![allow(
    clippy::cast_precision_loss,
    clippy::expect_fun_call,
    reason = "53 bits fit, and the operator's name is made once"
)]

use super::{Mode, Run, Site, build};
use crate::onnx::proto::NodeProto;
use crate::student::host::Host;
use crate::student::value::{narrow, wide};
use candle_core::DType;

#[test]
fn dropout_keeps_the_mean_and_is_a_function_of_the_seed() {
    let node = NodeProto { op_type: Some("Dropout".into()), ..NodeProto::default() };
    let ratio = Host::float(Vec::new(), vec![0.3]);
    let site = Site {
        node: &node,
        opset: 17,
        number: 5,
        is_frozen: false,
        shapes: vec![Some(vec![100_000]), Some(Vec::new())],
        constants: vec![None, Some(&ratio)],
        integers: Vec::new(),
    };
    let built = build(&site).unwrap();
    let x = narrow(&vec![1.0; 100_000], &[100_000], DType::F64).unwrap();
    let draw = |seed| {
        let run = Run { mode: Mode::Train, freeze_batchnorm: false, seed };
        wide(&built.operator.forward(&[&x], &run).unwrap().outputs[0]).unwrap()
    };
    let first = draw(1);
    assert_eq!(first, draw(1));
    assert_ne!(first, draw(2));
    let mean = first.iter().sum::<f64>() / 100_000.0;
    assert!((mean - 1.0).abs() < 0.01, "{mean}");
}
