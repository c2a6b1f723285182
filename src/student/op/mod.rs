//! The operators: each is plain data, planned for fixed input shapes, with an explicit forward and backward.

mod activation;
mod batch_norm;
pub(super) mod binary;
mod concat;
mod conv;
mod dropout;
mod gather;
mod gemm;
mod layer_norm;
mod matmul;
mod pad;
mod pool;
mod reduce;
pub(super) mod reshape;
pub(super) mod site;
mod softmax;
pub(super) mod view;

#[cfg(test)]
mod tests;

pub(super) use site::Site;

use super::Mode;
use crate::error::{Error, Result};
use crate::kernel::conv::Conv;
use crate::kernel::pool::Window;
pub(super) use batch_norm::BatchNorm;
use candle_core::Tensor;
use std::fmt::Debug;

/// What one pass asks of the operators.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) mode: Mode,
    /// Running statistics in training too.
    pub(super) freeze_batchnorm: bool,
    /// Keys the dropout masks.
    pub(super) seed: u64,
}

/// What a forward pass leaves for the backward pass.
#[derive(Debug, Default)]
pub(super) struct Saved {
    pub(super) tensors: Vec<Tensor>,
    /// Statistics.
    pub(super) numbers: Vec<f64>,
    /// Places of maxima.
    pub(super) places: Vec<u32>,
    /// Whether the operator did what it does in training.
    pub(super) training: bool,
}

/// The result of an operator's forward pass.
#[derive(Debug, Default)]
pub(super) struct Forward {
    pub(super) outputs: Vec<Tensor>,
    pub(super) saved: Saved,
    /// New values of running statistics: the input's number and the value.
    pub(super) updates: Vec<(usize, Tensor)>,
}

impl Forward {
    /// One output, and tensors that the backward pass needs.
    fn one(output: Tensor, tensors: Vec<Tensor>) -> Self {
        Self { outputs: vec![output], saved: Saved { tensors, ..Saved::default() }, updates: Vec::new() }
    }
}

/// What an operator is to an executor that knows channel maps.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind<'a> {
    /// Input, weight and, if there, bias.
    Convolution(&'a Conv),
    /// Input, scale, bias, running mean, running variance.
    BatchNorm(&'a BatchNorm),
    /// The value between two bounds; the gradient passes strictly between them.
    Clamp([f32; 2]),
    /// The sum of two tensors of one shape.
    Add,
    MaxPool(&'a Window),
    AveragePool(&'a Window),
    /// The mean over all positions of a channel.
    PlaneMean,
    /// Anything else.
    Other,
}

/// An operator planned for fixed shapes. Tensors are dense, on the CPU, of one float type.
pub(super) trait Operator: Debug + Send + Sync {
    /// What it is to the executor of channel maps.
    fn kind(&self) -> Kind<'_> {
        Kind::Other
    }

    /// Computes the outputs.
    fn forward(&self, inputs: &[&Tensor], run: &Run) -> Result<Forward>;

    /// The gradients of the inputs that are `wanted`, from those of the outputs (`None`: nothing depends on it; at least one is there).
    fn backward(&self, saved: Saved, gradients: Vec<Option<Tensor>>, wanted: &[bool]) -> Result<Vec<Option<Tensor>>>;
}

/// An operator with the node's inputs that it takes as tensors (the others were read when it was planned) and its outputs' shapes.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) operator: Box<dyn Operator>,
    pub(super) inputs: Vec<usize>,
    pub(super) outputs: Vec<Vec<usize>>,
}

impl Built {
    fn new(operator: impl Operator + 'static, inputs: impl Into<Vec<usize>>, output: Vec<usize>) -> Self {
        Self { operator: Box::new(operator), inputs: inputs.into(), outputs: vec![output] }
    }
}

type Builder = fn(&Site<'_>) -> Result<Built>;

fn builder(operator: &str) -> Option<Builder> {
    Some(match operator {
        "Conv" => conv::build,
        "BatchNormalization" => batch_norm::build,
        "Relu" | "LeakyRelu" | "Clip" | "Sigmoid" | "Tanh" | "HardSigmoid" | "HardSwish" | "Erf" | "Gelu" | "Sqrt" | "Exp" | "Neg"
        | "Abs" | "Pow" | "Elu" | "Softplus" => activation::build,
        "MaxPool" | "AveragePool" => pool::build,
        "GlobalAveragePool" | "ReduceMean" | "ReduceSum" => reduce::build,
        "Gemm" => gemm::build,
        "MatMul" => matmul::build,
        "Add" | "Sub" | "Mul" | "Div" => binary::build,
        "Concat" => concat::build,
        "Split" | "Slice" | "Transpose" | "Expand" => view::build,
        "Gather" => gather::build,
        "Pad" => pad::build,
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Identity" | "Cast" => reshape::build,
        "Dropout" => dropout::build,
        "Softmax" => softmax::build,
        "LayerNormalization" => layer_norm::build,
        _ => return None,
    })
}

/// Whether there is an operator of this ONNX name.
pub(super) fn supported(operator: &str) -> bool {
    builder(operator).is_some()
}

/// Plans a node.
///
/// # Errors
/// When the operator is unknown, or its attributes ask for what it cannot do.
pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let build = builder(site.operator()).ok_or_else(|| Error::input("operator not supported"))?;
    build(site)
}

/// The gradient of a one-output operator.
fn only(gradients: Vec<Option<Tensor>>) -> Result<Tensor> {
    gradients.into_iter().next().flatten().ok_or_else(|| Error::input("operator got no gradient"))
}

/// What the forward pass saved, by position.
fn saved(saved: &Saved, i: usize) -> Result<&Tensor> {
    saved.tensors.get(i).ok_or_else(|| Error::input("operator saved nothing for its backward pass"))
}
