//! The student: an ONNX graph imported as a trainable model, executed forward and backward, and exported again.
//!
//! `import` reads the graph and decides what trains; `plan` orders it once; `op/` holds one ONNX operator a file with its forward and
//! backward; `executor` sweeps a plan; `preset` writes untrained networks; `export` writes trained ones.

pub mod preset;

use crate::error::Result;
use crate::onnx::{Model, Value, tap::Tap};
use candle_core::{DType, Tensor, Var};
use serde::Serialize;

/// How a graph is imported.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// f32, or f64 for the oracle of tests.
    pub dtype: DType,
    /// Glob patterns of initialisers that do not train.
    pub freeze: Vec<String>,
    /// Glob patterns of initialisers that train although they would not by themselves.
    pub train: Vec<String>,
    /// Batch normalisation by running statistics in training too.
    pub freeze_batchnorm: bool,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self { dtype: DType::F32, freeze: Vec::new(), train: Vec::new(), freeze_batchnorm: false }
    }
}

/// A tensor that the optimiser moves. Named by the tensor at the consuming node's input (un-shared where an exporter merged equal ones).
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its value.
    pub var: Var,
}

/// A running mean or variance.
#[derive(Debug, Clone)]
pub struct Buffer {
    /// Its name.
    pub name: String,
    /// Its value.
    pub var: Var,
}

/// Whether a graph can be trained, and why not.
#[derive(Debug, Clone, Serialize)]
pub struct Trainability {
    /// Name and shape of everything that would train, in graph order.
    pub parameters: Vec<(String, Vec<usize>)>,
    /// Nodes that stop it: node name, operator, reason.
    pub blockers: Vec<(String, String, String)>,
    /// What an expert would warn of (batch normalisation folded away, no parameters …).
    pub warnings: Vec<String>,
}

/// What running statistics and dropout do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics; running statistics are updated by the forward pass.
    Train,
    /// Running statistics, no dropout.
    Eval,
    /// The graph as it stands: its own `training_mode` attributes (for references).
    AsWritten,
}

/// A tensor of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub(crate) usize);

/// A student ready to train: graph, plan, parameters and running statistics (sorted by name).
#[derive(Debug)]
pub struct Student {
    _todo: (),
}

impl Student {
    /// Looks at a graph without importing it.
    ///
    /// # Errors
    /// When the graph's constants cannot be read.
    pub fn check(_model: &Model) -> Result<Trainability> {
        todo!("helper: student")
    }

    /// Imports a graph. Shapes are resolved for one sample's `input_shape` at plan time where the graph computes with them.
    ///
    /// # Errors
    /// Lists every operator that is not supported, with its nodes.
    pub fn import(_model: &Model, _options: &ImportOptions) -> Result<Self> {
        todo!("helper: student")
    }

    /// The inputs to feed, in the order that [`Student::forward`] takes them.
    #[must_use]
    pub fn inputs(&self) -> &[Value] {
        todo!("helper: student")
    }

    /// What trains, sorted by name.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        todo!("helper: student")
    }

    /// Running statistics, sorted by name.
    #[must_use]
    pub fn buffers(&self) -> &[Buffer] {
        todo!("helper: student")
    }

    /// The tensor that holds the logits.
    #[must_use]
    pub fn logits(&self) -> TensorId {
        todo!("helper: student")
    }

    /// A tensor of the graph by its ONNX name.
    #[must_use]
    pub fn tensor(&self, _name: &str) -> Option<TensorId> {
        todo!("helper: student")
    }

    /// Candidate taps with their shapes for inputs of these shapes (batch axis first), by one forward pass in eval mode.
    ///
    /// # Errors
    /// When the graph cannot run on such inputs.
    pub fn taps(&self, _input_shapes: &[Vec<usize>]) -> Result<Vec<Tap>> {
        todo!("helper: student")
    }

    /// Runs the graph. `keep`: tensors to be read from the pass (the logits always are). [`Mode::Train`] updates running statistics.
    /// `dropout_seed` keys the dropout masks of this pass.
    ///
    /// # Errors
    /// When an input has another shape or type than the graph takes.
    pub fn forward(&self, _inputs: &[Tensor], _mode: Mode, _keep: &[TensorId], _dropout_seed: u64) -> Result<Pass<'_>> {
        todo!("helper: student")
    }

    /// Writes the graph with today's weights in inference form: training_mode 0, first outputs only, dropout bypassed, dynamic batch; weights
    /// are the same initialisers with new values; `metadata` goes into `metadata_props` (sorted by key). Same bytes for the same weights.
    ///
    /// # Errors
    /// When a weight cannot be read.
    pub fn export(&self, _metadata: &[(String, String)]) -> Result<Model> {
        todo!("helper: student")
    }
}

/// One forward pass and what its backward pass needs.
#[derive(Debug)]
pub struct Pass<'a> {
    _student: &'a Student,
}

impl Pass<'_> {
    /// A kept tensor's value (or the logits).
    ///
    /// # Errors
    /// When the tensor was not kept.
    pub fn value(&self, _id: TensorId) -> Result<&Tensor> {
        todo!("helper: student")
    }

    /// Sweeps the graph in reverse from the gradients of the loss with respect to some tensors; gradients of parameters come in the order of
    /// [`Student::parameters`] (`None`: the loss does not depend on it). Values are freed as the sweep passes.
    ///
    /// # Errors
    /// When a gradient has another shape than its tensor.
    pub fn backward(self, _seeds: Vec<(TensorId, Tensor)>) -> Result<Vec<Option<Tensor>>> {
        todo!("helper: student")
    }
}
