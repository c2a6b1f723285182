//! The blocked and the device executor compute what the reference does in double precision; the
//! blocked executor computes the same bits for any number of threads.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "tests: a panic is the report; small counts"
)]

use crate::support;
use candle_core::{DType, Device, Tensor};
use nst_cache::onnx::Model;
use nst_cache::student::{Executor, ImportOptions, Mode, Precision, Student, preset};

/// Preset and input: stems and none, strides, depthwise and grouped filters, pre-activation,
/// pooling, concatenation, shuffles; the small ones first.
const NETWORKS: &[(&str, [usize; 3])] = &[
    ("lenet", [1, 28, 28]),
    ("resnet8", [3, 20, 13]),
    ("wrn-16-1", [3, 16, 16]),
    ("mobilenetv2-0.35", [3, 24, 24]),
    ("shufflenetv1", [3, 16, 16]),
    ("vgg8", [3, 32, 32]),
    ("resnet18", [3, 72, 65]),
    ("mobilenetv2-0.5", [3, 32, 32]),
    ("mobilenetv2-0.35", [3, 96, 96]),
    ("shufflenetv1", [3, 32, 32]),
    ("shufflenetv2", [3, 64, 64]),
    ("inception-bn", [3, 32, 32]),
];
/// How many of them are small.
const SMALL: usize = 5;

fn numbers(shape: &[usize], salt: usize) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f64> =
        (0..count).map(|i| ((i * 7919 + salt * 104_729) % 1013) as f64 / 506.5 - 1.0).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn wide(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Relative L2 error of several tensors together.
fn error(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    assert_eq!(a.len(), b.len());
    let (mut wrong, mut size) = (0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.len(), b.len());
        wrong += a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
        size += b.iter().map(|b| b * b).sum::<f64>();
    }
    (wrong / size).sqrt()
}

/// Logits, taps, gradients and running statistics of a few passes, with gradients coming in at the
/// logits and at every tap.
struct Outcome {
    values: Vec<Vec<f64>>,
    gradients: Vec<Vec<f64>>,
    buffers: Vec<Vec<f64>>,
}

fn run(
    model: &Model,
    input: [usize; 3],
    mode: Mode,
    dtype: DType,
    executor: Executor,
    freeze: &[&str],
) -> Outcome {
    let freeze = freeze.iter().map(|&p| p.to_owned()).collect();
    let student = Student::import(
        model,
        &ImportOptions { dtype, executor, freeze, ..ImportOptions::default() },
    )
    .unwrap();
    let shape = |rows: usize| [&[rows][..], &input].concat();
    let taps: Vec<_> = student
        .taps(&[shape(2)])
        .unwrap()
        .iter()
        .filter(|t| t.suggested)
        .filter_map(|t| student.tensor(&t.tensor))
        .collect();
    let (mut values, mut gradients) = (Vec::new(), Vec::new());
    // the second pass works in memory that the first has left its numbers in, the third has another
    // size
    for (pass, rows) in [3, 3, 2].into_iter().enumerate() {
        let x = numbers(&shape(rows), pass).to_dtype(dtype).unwrap();
        let run = student.forward(&[x], mode, &taps, 0).unwrap();
        let seeds: Vec<_> = taps
            .iter()
            .chain([&student.logits()])
            .enumerate()
            .map(|(i, &id)| {
                (
                    id,
                    (numbers(run.value(id).unwrap().dims(), i).affine(0.1, 0.0))
                        .unwrap()
                        .to_dtype(dtype)
                        .unwrap(),
                )
            })
            .collect();
        values.extend(seeds.iter().map(|(id, _)| wide(run.value(*id).unwrap())));
        gradients.extend(
            run.backward(seeds).unwrap().into_iter().map(|g| g.map_or_else(Vec::new, |g| wide(&g))),
        );
    }
    Outcome {
        values,
        gradients,
        buffers: student.buffers().iter().map(|b| wide(b.var.as_tensor())).collect(),
    }
}

/// Compares an executor with the reference in double precision, each within its tolerance: values,
/// gradients, running statistics.
fn agrees(found: &Outcome, expected: &Outcome, [values, gradients, buffers]: [f64; 3], what: &str) {
    for (a, b, tolerance, kind) in [
        (&found.values, &expected.values, values, "values"),
        (&found.gradients, &expected.gradients, gradients, "gradients"),
        (&found.buffers, &expected.buffers, buffers, "running statistics"),
    ] {
        let e = if b.iter().all(Vec::is_empty) { 0.0 } else { error(a, b) };
        assert!(e < tolerance, "{kind} of {what}: {e:.1e}");
    }
}

fn executors_agree(&(name, input): &(&str, [usize; 3])) {
    let model = preset::build(name, 7, input, 1).unwrap();
    for mode in [Mode::Train, Mode::Eval] {
        let of = |dtype, executor| run(&model, input, mode, dtype, executor, &[]);
        let expected = of(DType::F64, Executor::Reference);
        let what = format!("{name} in {mode:?}");
        agrees(&of(DType::F64, Executor::Device), &expected, [1e-9; 3], &format!("{what}, device"));
        // A ReLU that rounding moves over its edge changes a gradient by up to 1e-3, and batch
        // statistics of a few values multiply rounding: the reference executor in single precision
        // is as far off. A mistake is farther; the reference cases are exact.
        let kinks = if mode == Mode::Train { 6e-2 } else { 5e-3 };
        for precision in [Precision::Strict, Precision::Fast] {
            let found = of(DType::F32, Executor::Blocked(precision));
            agrees(&found, &expected, [1e-4, kinks, 1e-5], &format!("{what}, {precision}"));
        }
    }
}

#[test]
fn executors_agree_on_small_networks() {
    NETWORKS[..SMALL].iter().for_each(executors_agree);
}

/// Of minutes, at the optimization that tests are built with.
#[test]
fn executors_agree_on_large_networks() {
    if support::is_slow() {
        NETWORKS[SMALL..].iter().for_each(executors_agree);
    }
}

#[test]
fn frozen_parameters_get_no_gradient_and_change_no_other() {
    let model = preset::build("resnet8", 7, [3, 16, 16], 1).unwrap();
    let frozen = ["*bn*", "conv1.weight", "layer2*"];
    let all =
        run(&model, [3, 16, 16], Mode::Eval, DType::F32, Executor::Blocked(Precision::Strict), &[]);
    let some = run(
        &model,
        [3, 16, 16],
        Mode::Eval,
        DType::F32,
        Executor::Blocked(Precision::Strict),
        &frozen,
    );
    let expected = run(&model, [3, 16, 16], Mode::Eval, DType::F64, Executor::Reference, &frozen);
    assert_eq!(some.values, all.values);
    assert!(some.gradients.len() < all.gradients.len());
    assert!(error(&some.gradients, &expected.gradients) < 5e-3);
}

#[test]
fn bits_depend_neither_on_threads_nor_on_runs() {
    for &(name, input) in &NETWORKS[1..SMALL] {
        let model = preset::build(name, 7, input, 1).unwrap();
        let bits = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let outcome = pool.install(|| {
                run(&model, input, Mode::Train, DType::F32, Executor::Blocked(Precision::Fast), &[])
            });
            [outcome.values, outcome.gradients, outcome.buffers]
        };
        let one = bits(1);
        assert_eq!(one, bits(3), "{name}");
        assert_eq!(one, bits(1), "{name}");
    }
}
