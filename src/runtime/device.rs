//! Where inference runs, and the execution providers that it takes.

use super::reason::reason;
use crate::error::{Error, Result};
use ort::ep::{CUDA, ExecutionProvider, ExecutionProviderDispatch, TensorRT};
use std::fmt;
use std::str::FromStr;

/// Where inference runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    Cpu,
    /// A CUDA device by index.
    Cuda(usize),
    /// `TensorRT` on a CUDA device.
    TensorRt(usize),
    /// The first that works of CUDA and the CPU.
    Auto,
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name, Some(index)),
            None => (text, None),
        };
        let bad = || {
            Error::input(format!(
                "device `{text}`: expected cpu, cuda[:INDEX], tensorrt[:INDEX] or auto"
            ))
        };
        let gpu = || index.map_or(Ok(0), |i| i.parse::<u16>().map(usize::from).map_err(|_| bad()));
        match (name, index) {
            ("cpu", None) => Ok(Self::Cpu),
            ("auto", None) => Ok(Self::Auto),
            ("cuda", _) => Ok(Self::Cuda(gpu()?)),
            ("tensorrt", _) => Ok(Self::TensorRt(gpu()?)),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::TensorRt(index) => write!(f, "tensorrt:{index}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl Device {
    /// The devices to try, in order.
    pub(super) fn attempts(self) -> &'static [fn(Self) -> Self] {
        match self {
            Self::Auto => &[|_| Self::Cuda(0), |_| Self::Cpu],
            _ => &[|device| device],
        }
    }

    /// The providers that a session registers. Without `error_on_failure` a provider that cannot
    /// load falls back to the CPU silently.
    pub(super) fn providers(self) -> Vec<ExecutionProviderDispatch> {
        let index = |i: usize| i32::try_from(i).unwrap_or(i32::MAX);
        let cuda = |i| CUDA::default().with_device_id(index(i)).build().error_on_failure();
        match self {
            Self::Cpu | Self::Auto => Vec::new(),
            Self::Cuda(i) => vec![cuda(i)],
            // nodes that TensorRT does not support run on CUDA
            Self::TensorRt(i) => vec![
                TensorRT::default().with_device_id(index(i)).build().error_on_failure(),
                cuda(i),
            ],
        }
    }

    /// The error of a requested device that cannot run.
    pub(super) fn unavailable(self, cause: &ort::Error) -> Error {
        let built_with = match self {
            Self::TensorRt(_) => TensorRT::is_available(),
            _ => CUDA::is_available(),
        };
        let error = Error::input(format!("device {self}: cannot be used"))
            .because(reason(&cause.to_string()));
        match (built_with, self) {
            (Ok(true), Self::TensorRt(_)) => error.hint(
                "install TensorRT 10, CUDA 13 and cuDNN 9 where the loader finds them, or choose \
                 --device cpu",
            ),
            (Ok(true), _) => error.hint(
                "install the NVIDIA driver, CUDA 13 and cuDNN 9 where the loader finds them, or \
                 choose --device cpu",
            ),
            _ => error.hint(
                "this ONNX Runtime is built for the CPU: fetch the GPU runtime with `make build \
                 ORT=gpu`, or choose --device cpu",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_parsed_and_printed() {
        for text in ["cpu", "auto", "cuda:0", "cuda:3", "tensorrt:1"] {
            assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
        for text in ["", "gpu", "cuda:", "cuda:-1", "cpu:0", "auto:1", "CUDA"] {
            assert!(
                text.parse::<Device>().unwrap_err().to_string().contains("expected cpu"),
                "{text}"
            );
        }
    }
}
