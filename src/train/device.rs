//! Where a student trains: `--device` as a device of candle.

use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::runtime::Device;

/// The candle device for `--device`. `auto` is the first CUDA device if this build supports CUDA
/// and there is one, else the CPU.
///
/// # Errors
/// When the requested device cannot train.
pub fn training(asked: Device, monitor: &dyn Monitor) -> Result<candle_core::Device> {
    match asked {
        Device::Cpu => Ok(candle_core::Device::Cpu),
        Device::Auto if !cfg!(feature = "cuda") => Ok(candle_core::Device::Cpu),
        Device::Auto => Ok(candle_core::Device::new_cuda(0).unwrap_or_else(|cause| {
            monitor.note(&format!(
                "device auto: no CUDA device ({}), training on the CPU",
                first_line(&cause)
            ));
            candle_core::Device::Cpu
        })),
        Device::Cuda(index) if cfg!(feature = "cuda") => candle_core::Device::new_cuda(index)
            .map_err(|cause| {
                let hint = "install the NVIDIA driver and CUDA 13 where the loader finds them, or \
                            choose --device cpu";
                Error::input(format!("device {asked}: cannot be used"))
                    .because(first_line(&cause))
                    .hint(hint)
            }),
        Device::Cuda(_) => {
            Err(Error::input(format!("device {asked}: this program trains on the CPU alone")).hint(
                "build it with `cargo build --release --features cuda` (docs/gpu.md), or choose \
                 --device cpu",
            ))
        }
        Device::TensorRt(_) => Err(Error::input(format!(
            "device {asked}: expected cpu, cuda[:INDEX] or auto, TensorRT trains nothing"
        ))),
    }
}

/// A device's kind for records: which card it was does not matter.
#[must_use]
pub fn kind(device: &candle_core::Device) -> &'static str {
    if device.is_cpu() { "cpu" } else { "cuda" }
}

/// The first line of candle's message, which a backtrace follows.
fn first_line(cause: &candle_core::Error) -> String {
    cause.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Silent;

    #[test]
    fn a_device_that_cannot_train_is_refused_with_what_to_do() {
        assert!(training(Device::Cpu, &Silent).unwrap().is_cpu());
        assert!(training(Device::TensorRt(0), &Silent).unwrap_err().to_string().contains("auto"));
        if !cfg!(feature = "cuda") {
            assert!(training(Device::Auto, &Silent).unwrap().is_cpu());
            let error = training(Device::Cuda(1), &Silent).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(
                error.to_string().contains("cuda:1")
                    && error.find_hint().unwrap().contains("--features cuda"),
                "{error}"
            );
        }
    }
}
