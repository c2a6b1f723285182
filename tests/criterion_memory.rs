//! Neuron selectivity transfer at a size whose `[batch, channels, channels, positions]` tensor would take 64 GB. Alone in its process, since it
//! looks at the process's largest memory.

#![cfg(target_os = "linux")]
#![allow(clippy::cast_precision_loss, reason = "small whole numbers")]

use candle_core::{DType, Device, Tensor};
use nst_cache::criterion::nst::nst;
use nst_cache::recipe::Kernel;

#[test]
fn large_maps_take_less_than_a_gigabyte() {
    let (batch, channels, side) = (64, 256, 32);
    let map = |phase: f32| {
        let values: Vec<f32> =
            (0u16..1009).cycle().take(batch * channels * side * side).map(|i| f32::from(i) * phase % 1.0 - 0.4).collect();
        Tensor::from_vec(values, (batch, channels, side, side), &Device::Cpu).unwrap()
    };
    let (student, teacher) = (map(0.37), map(0.73).to_dtype(DType::F16).unwrap());
    let loss = nst(&student, &teacher, Kernel::Poly { degree: 2, constant: 0.0 }).unwrap();
    assert!(loss.value.is_finite() && loss.value > 0.0);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: f64 = peak.trim().strip_suffix("kB").unwrap().trim().parse().unwrap();
    assert!(kilobytes < 1e9 / 1024.0, "{} MB", kilobytes / 1024.0);
}
