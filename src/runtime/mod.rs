//! ONNX Runtime: finding its library, sessions, execution providers, the probe of taps. The only place that names `ort`;
//! it serves the teacher, `eval` and the parity check.

use crate::array::Array;
use crate::error::{Error, Result};
use crate::onnx::Model;
use std::collections::HashMap;
use std::path::Path;
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
    /// The first that works of CUDA and the CPU; what was chosen is said.
    Auto,
}

impl FromStr for Device {
    type Err = Error;
    fn from_str(_text: &str) -> Result<Self> {
        todo!("helper: onnx")
    }
}

/// The loaded library (one a process).
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Its version, as recorded in manifests (`1.31.1`).
    pub version: String,
}

impl Runtime {
    /// Loads the library: `path` if given, else `ORT_DYLIB_PATH`, else beside the binary, else the system's. A path that is set and broken is
    /// an error. Never panics: size and file type are checked before the loader sees the file. Later calls return the first one's result.
    ///
    /// # Errors
    /// Says which places were tried and what to do (`make build`).
    pub fn load(_path: Option<&Path>) -> Result<Self> {
        todo!("helper: onnx")
    }
}

/// How a session runs.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// Where.
    pub device: Device,
    /// Threads inside one operator (CPU).
    pub threads: usize,
}

/// A model ready to run. `run` takes `&mut self`: one session a worker.
#[derive(Debug)]
pub struct Session {
    // ort's session, the names of inputs and outputs, and the provider in use
    _todo: (),
}

impl Session {
    /// Loads a model with these tensors exposed beside its own outputs.
    ///
    /// # Errors
    /// When ONNX Runtime refuses the model, external data is missing or outside the folder, or the device cannot run (says what is missing).
    pub fn new(_runtime: &Runtime, _model: &Model, _outputs: &[String], _options: &SessionOptions) -> Result<Self> {
        todo!("helper: onnx")
    }

    /// The provider in use: `cpu`, `cuda:0`, `tensorrt:0`.
    #[must_use]
    pub fn provider(&self) -> &str {
        todo!("helper: onnx")
    }

    /// Runs the model on named inputs and returns the values of `outputs`, in that order.
    ///
    /// # Errors
    /// When an input is missing or has another type or shape than the model takes, or the run fails.
    pub fn run(&mut self, _inputs: &[(&str, &Array)], _outputs: &[String]) -> Result<Vec<Array>> {
        todo!("helper: onnx")
    }
}

/// What a probe run found.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Shape of every tensor that a node computes and that has a batch axis, batch axis first and set to `None`-free sizes of one sample:
    /// entry `None` where the size varies between samples.
    pub shapes: HashMap<String, Vec<Option<usize>>>,
    /// Tensors left out, with the reason (varies between samples, not a tensor of numbers).
    pub refused: Vec<(String, String)>,
}

/// Runs the model once on zeros-and-noise inputs of the given batch sizes (2 and 3 where the batch is dynamic), every candidate exposed,
/// and reads all shapes from the results: no static inference. The batch axis stays in `shapes` as `None`... see [`Probe::shapes`].
///
/// # Errors
/// When the model cannot run on such inputs (says which size to give with `--size`).
pub fn probe(_runtime: &Runtime, _model: &Model, _inputs: &[(String, Vec<usize>)]) -> Result<Probe> {
    todo!("helper: onnx")
}
