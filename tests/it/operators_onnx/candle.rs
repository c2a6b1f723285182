//! The device executor against the reference, on the CPU: the same tensor operations run on a
//! GPU. Every case of the table and the random graphs, forward, every gradient, running statistics;
//! in double precision (a mistake shows) and in single (as it trains).

use super::Random;
use super::cases::{Case, cases};
use super::net::{Net, values};
use super::random::{Growth, describe};
use candle_core::{DType, Device, Tensor};
use nst_cache::student::{Executor, Mode};

/// Named lists of numbers: outputs, gradients, running statistics.
type Numbers = Vec<(String, Vec<f64>)>;

/// What a student computes in training mode for gradients of fixed numbers at every output.
fn outcome(net: &Net, dtype: DType, executor: Executor, mode: Mode) -> Result<Numbers, String> {
    let student = net.try_student_of(dtype, executor)?;
    let ids: Vec<_> = net.outputs.iter().map(|(name, _)| student.tensor(name).unwrap()).collect();
    let pass = student.forward(&net.feed(dtype), mode, &ids, 3).map_err(|e| e.chain())?;
    let mut random = Random(5);
    let mut found = Numbers::new();
    let mut seeds = Vec::new();
    for (i, &id) in ids.iter().enumerate() {
        let value = pass.value(id).unwrap();
        let seed = random.numbers(value.elem_count(), -1.0, 1.0);
        found.push((format!("output {i} {:?}", value.dims()), values(value)));
        seeds.push((id, Tensor::from_vec(seed, value.dims(), &Device::Cpu).unwrap()));
    }
    let gradients = pass.backward(seeds).map_err(|e| e.chain())?;
    for (parameter, gradient) in student.parameters().iter().zip(gradients) {
        if let Some(gradient) = gradient {
            assert_eq!(gradient.dims(), parameter.var.dims(), "gradient of {}", parameter.name);
            found.push((format!("gradient of {}", parameter.name), values(&gradient)));
        }
    }
    found.extend(student.buffers().iter().map(|b| (b.name.clone(), values(b.var.as_tensor()))));
    Ok(found)
}

/// Fails unless every list agrees to `tolerance` of its largest number, or of `least` where that is
/// larger.
fn agree(found: &Numbers, expected: &Numbers, tolerance: f64, least: f64) -> Result<(), String> {
    let names = |numbers: &Numbers| {
        numbers.iter().map(|(name, v)| format!("{name} of {}", v.len())).collect::<Vec<_>>()
    };
    if names(found) != names(expected) {
        return Err(format!("{:?} for {:?}", names(found), names(expected)));
    }
    for ((name, a), (_, b)) in found.iter().zip(expected) {
        let size = b.iter().filter(|v| v.is_finite()).fold(least, |size, v| size.max(v.abs()));
        for (at, (a, b)) in a.iter().zip(b).enumerate() {
            if !(a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * size) {
                return Err(format!("{name} at {at}: {a} for {b}"));
            }
        }
    }
    Ok(())
}

/// In double precision, and in single precision against it.
fn same(net: &Net, mode: Mode) -> Result<(), String> {
    let expected = outcome(net, DType::F64, Executor::Reference, mode)?;
    agree(&outcome(net, DType::F64, Executor::Device, mode)?, &expected, 1e-9, 1e-2)
        .map_err(|e| format!("float64: {e}"))?;
    let narrow = outcome(net, DType::F32, Executor::Reference, mode)?;
    // where the reference executor's own rounding shows (a step, a kink, a cancellation), the other
    // one has as much room
    let room = |tolerance: f64| agree(&narrow, &expected, tolerance, 1.0).is_ok();
    let tolerance = [1e-5, 1e-4, 1e-3].into_iter().find(|&t| room(t)).unwrap_or(f64::INFINITY);
    agree(&outcome(net, DType::F32, Executor::Device, mode)?, &expected, 2.0 * tolerance, 1.0)
        .map_err(|e| format!("float32: {e}"))
}

#[test]
fn every_case_agrees_with_the_general_executor() {
    let mut failures = Vec::new();
    for (label, net) in cases().iter().flat_map(Case::nets) {
        for mode in [Mode::Train, Mode::Eval] {
            if let Err(reason) = same(&net, mode) {
                failures.push(format!("{label} in {mode:?}: {reason}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} cases differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn random_graphs_agree_with_the_general_executor() {
    let mut failures = Vec::new();
    for seed in 0..300 {
        let net = Growth::grow(seed);
        if let Err(reason) = same(&net, Mode::Train) {
            failures.push(format!("{}: {reason}", describe(seed, &net)));
        }
    }
    assert!(failures.is_empty(), "{} graphs differ:\n{}", failures.len(), failures.join("\n"));
}
