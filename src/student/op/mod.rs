//! The operators: each is plain data, planned for fixed input shapes, with an explicit forward and
//! backward.

pub(super) mod activation;
mod attention;
pub(super) mod batch_norm;
pub(super) mod binary;
pub(super) mod cast;
mod compare;
pub(super) mod concat;
pub(super) mod conv;
pub(super) mod conv_transpose;
mod cumulate;
pub(super) mod depth_space;
mod draw;
pub(super) mod dropout;
mod einsum;
mod extremum;
pub(super) mod gather;
pub(super) mod gemm;
mod grid_sample;
pub(super) mod group_norm;
pub(super) mod layer_norm;
mod lrn;
pub(super) mod matmul;
mod one_hot;
pub(super) mod pad;
mod pick;
mod places;
pub(super) mod pool;
pub(super) mod prelu;
mod product;
pub(super) mod random;
mod recurrent;
pub(super) mod reduce;
pub(super) mod reshape;
mod resize;
mod scatter;
pub(super) mod select;
pub(super) mod separable;
pub(super) mod site;
pub(super) mod softmax;
pub(super) mod tile;
mod top_k;
mod triangle;
pub(super) mod unary;
mod variadic;
pub(super) mod view;

#[cfg(test)]
mod tests;

pub(super) use site::Site;

use super::Mode;
use crate::error::{Error, Result};
use crate::kernel::conv::Conv;
use crate::kernel::pool::PoolWindow;
use crate::onnx::proto::NodeProto;
pub(super) use batch_norm::BatchNorm;
use candle_core::{DType, Device, Tensor};
use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

/// What one pass asks of the operators.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassOptions {
    pub(super) mode: Mode,
    /// Running statistics in training too.
    pub(super) freeze_batchnorm: bool,
    /// Keys the random draws.
    pub(super) seed: u64,
}

/// The result of an operator's forward pass.
#[derive(Debug)]
pub(super) struct OpOutput<K> {
    pub(super) outputs: Vec<Tensor>,
    /// What the backward pass takes.
    pub(super) kept: K,
    /// New values of running statistics: the input's number and the value.
    pub(super) updates: Vec<(usize, Tensor)>,
}

impl<K> OpOutput<K> {
    pub(super) fn one(output: Tensor, kept: K) -> Self {
        Self::several(vec![output], kept)
    }

    pub(super) fn several(outputs: Vec<Tensor>, kept: K) -> Self {
        Self { outputs, kept, updates: Vec::new() }
    }
}

/// What an operator is to an executor that knows channel maps.
#[derive(Debug, Clone, Copy)]
pub(super) enum MapLayer<'a> {
    /// Input, weight and, if there, bias.
    Convolution(&'a Conv),
    /// Input, scale, bias, running mean, running variance.
    BatchNorm(&'a BatchNorm),
    /// The value between two bounds; the gradient passes strictly between them, or at them too.
    Clamp {
        bounds: [f32; 2],
        inclusive: bool,
    },
    /// The sum of two tensors of one shape.
    Add,
    MaxPool(&'a PoolWindow),
    AveragePool(&'a PoolWindow),
    /// The mean over all positions of a channel.
    PlaneMean,
    /// Anything else.
    Other,
}

/// An operator planned for fixed shapes. Tensors are dense, of one float type, on one device.
pub(super) trait Operator: Debug + Send + Sync + 'static {
    /// What the forward pass keeps for the backward pass.
    type Kept: Debug + Send + Sync;

    /// What it is to the executor of channel maps.
    fn map_layer(&self) -> MapLayer<'_> {
        MapLayer::Other
    }

    /// Computes the outputs.
    fn forward(&self, inputs: &[&Tensor], options: &PassOptions) -> Result<OpOutput<Self::Kept>>;

    /// The gradients of the inputs that are `wanted`, from those of the outputs (`None`: nothing
    /// depends on it; at least one is there).
    fn backward(
        &self,
        kept: Self::Kept,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>>;
}

/// An operator of a plan, whatever it keeps: an [`Arc`] of it.
pub(super) trait AnyOperator: Any + Debug + Send + Sync {
    /// [`Operator::map_layer`].
    fn map_layer(&self) -> MapLayer<'_>;

    /// [`Operator::forward`]; what is kept comes with the operator whose backward pass takes it.
    fn forward(
        &self,
        inputs: &[&Tensor],
        options: &PassOptions,
    ) -> Result<OpOutput<Box<dyn BackwardPass>>>;
}

/// One operator's backward pass, ready to run: holds what the forward pass kept.
pub(super) trait BackwardPass: Debug + Send + Sync {
    /// [`Operator::backward`].
    fn backward(
        self: Box<Self>,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>>;
}

#[derive(Debug)]
struct Pending<O: Operator> {
    operator: Arc<O>,
    kept: O::Kept,
}

impl<O: Operator> BackwardPass for Pending<O> {
    fn backward(
        self: Box<Self>,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        self.operator.backward(self.kept, gradients, wanted)
    }
}

impl<O: Operator> AnyOperator for Arc<O> {
    fn map_layer(&self) -> MapLayer<'_> {
        O::map_layer(self)
    }

    fn forward(
        &self,
        inputs: &[&Tensor],
        options: &PassOptions,
    ) -> Result<OpOutput<Box<dyn BackwardPass>>> {
        let OpOutput { outputs, kept, updates } = O::forward(self, inputs, options)?;
        let kept = Box::new(Pending { operator: self.clone(), kept });
        Ok(OpOutput { outputs, kept, updates })
    }
}

/// An operator as plans hold it.
pub(super) fn any(operator: impl Operator) -> Box<dyn AnyOperator> {
    Box::new(Arc::new(operator))
}

/// An operator with the node's inputs that it takes as tensors (the others were read when it was
/// planned) and its outputs' shapes.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) operator: Box<dyn AnyOperator>,
    pub(super) inputs: Vec<usize>,
    pub(super) outputs: Vec<Vec<usize>>,
}

impl Built {
    fn new(operator: impl Operator, inputs: impl Into<Vec<usize>>, output: Vec<usize>) -> Self {
        Self::with_outputs(operator, inputs, vec![output])
    }

    fn with_outputs(
        operator: impl Operator,
        inputs: impl Into<Vec<usize>>,
        outputs: Vec<Vec<usize>>,
    ) -> Self {
        Self { operator: any(operator), inputs: inputs.into(), outputs }
    }

    /// The same, with a mean in place of its value where nothing is drawn.
    pub(super) fn expected(self, mean: f64, dtype: DType) -> Self {
        let output = self.outputs.first().cloned().unwrap_or_default();
        let operator =
            random::Expected { operator: self.operator, mean, output, dtype, device: Device::Cpu };
        Self { operator: any(operator), ..self }
    }
}

type Builder = fn(&Site<'_>) -> Result<Built>;

/// What plans an operator, and the attributes that it takes into account: any other is refused.
type Known = (Builder, &'static [&'static str]);

fn builder(operator: &str) -> Option<Known> {
    layer(operator).or_else(|| arrangement(operator))
}

/// What a network has as layers.
fn layer(operator: &str) -> Option<Known> {
    Some(match operator {
        "BatchNormalization" => {
            (batch_norm::build, &["epsilon", "momentum", "spatial", "training_mode"])
        }
        "InstanceNormalization" => (group_norm::build, &["epsilon"]),
        "GroupNormalization" => (group_norm::build, &["epsilon", "num_groups", "stash_type"]),
        "LayerNormalization" | "RMSNormalization" => {
            (layer_norm::build, &["axis", "epsilon", "stash_type"])
        }
        "Relu" | "Sigmoid" | "Tanh" | "HardSwish" | "Erf" | "Sqrt" | "Exp" | "Neg" | "Abs"
        | "Pow" | "Softplus" | "Softsign" | "Mish" => (activation::build, &[]),
        "LeakyRelu" | "Elu" | "Celu" | "ThresholdedRelu" | "Swish" => {
            (activation::build, &["alpha"])
        }
        "HardSigmoid" => (activation::build, &["alpha", "beta"]),
        "Selu" => (activation::build, &["alpha", "gamma"]),
        "Gelu" => (activation::build, &["approximate"]),
        "Clip" => (activation::build, &["max", "min"]),
        "PRelu" => (prelu::build, &[]),
        "Log" | "Reciprocal" | "Sin" | "Cos" | "Sign" | "Floor" | "Ceil" | "Round" => {
            (unary::build, &[])
        }
        "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceL1" | "ReduceL2"
        | "ReduceSumSquare" | "ReduceLogSum" | "ReduceLogSumExp" => {
            (reduce::build, &["axes", "keepdims", "noop_with_empty_axes"])
        }
        "ReduceProd" => (product::build, &["axes", "keepdims", "noop_with_empty_axes"]),
        "ArgMax" | "ArgMin" => (extremum::build, &["axis", "keepdims", "select_last_index"]),
        "OneHot" => (one_hot::build, &["axis"]),
        "Gemm" => (gemm::build, &["alpha", "beta", "transA", "transB"]),
        "MatMul" => (matmul::build, &[]),
        "Attention" => (
            attention::build,
            &[
                "is_causal",
                "kv_num_heads",
                "q_num_heads",
                "qk_matmul_output_mode",
                "scale",
                "softcap",
                "softmax_precision",
            ],
        ),
        "Einsum" => (einsum::build, &["equation"]),
        "LSTM" => (
            recurrent::build,
            &["activations", "direction", "hidden_size", "input_forget", "layout"],
        ),
        "GRU" => (
            recurrent::build,
            &["activations", "direction", "hidden_size", "layout", "linear_before_reset"],
        ),
        "CumSum" => (cumulate::build, &["exclusive", "reverse"]),
        "Trilu" => (triangle::build, &["upper"]),
        "Softmax" | "LogSoftmax" => (softmax::build, &["axis"]),
        _ => return None,
    })
}

/// What stands between layers: arithmetic, comparisons, and what moves values.
fn arrangement(operator: &str) -> Option<Known> {
    Some(match operator {
        "Add" | "Sub" | "Mul" | "Div" => (binary::build, &[]),
        "Mod" => (binary::build, &["fmod"]),
        "Max" | "Min" | "Sum" | "Mean" => (variadic::build, &[]),
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "And" | "Or" | "Xor"
        | "Not" | "IsNaN" => (compare::build, &[]),
        "IsInf" => (compare::build, &["detect_negative", "detect_positive"]),
        "Where" => (select::build, &[]),
        "Concat" => (concat::build, &["axis"]),
        "Split" => (view::build, &["axis", "num_outputs", "split"]),
        "Slice" => (view::build, &["axes", "ends", "starts"]),
        "Transpose" => (view::build, &["perm"]),
        "Expand" => (view::build, &[]),
        "Tile" => (tile::build, &[]),
        "Gather" => (gather::build, &["axis"]),
        "GridSample" => (grid_sample::build, &["align_corners", "mode", "padding_mode"]),
        "TopK" => (top_k::build, &["axis", "k", "largest", "sorted"]),
        "GatherElements" => (pick::build, &["axis"]),
        "GatherND" => (pick::build, &["batch_dims"]),
        "Scatter" => (scatter::build, &["axis"]),
        "ScatterElements" => (scatter::build, &["axis", "reduction"]),
        "ScatterND" => (scatter::build, &["reduction"]),
        "Pad" => (pad::build, &["mode", "pads", "value"]),
        "Reshape" => (reshape::build, &["allowzero", "shape"]),
        "Flatten" => (reshape::build, &["axis"]),
        "Squeeze" | "Unsqueeze" => (reshape::build, &["axes"]),
        "Identity" => (reshape::build, &[]),
        "Cast" => (cast::build, &["round_mode", "saturate", "to"]),
        "CastLike" => (cast::build, &["round_mode", "saturate"]),
        "Dropout" => (dropout::build, &["ratio", "seed"]),
        "RandomUniform" => (random::build, &["dtype", "high", "low", "seed", "shape"]),
        "RandomUniformLike" => (random::build, &["dtype", "high", "low", "seed"]),
        "RandomNormal" => (random::build, &["dtype", "mean", "scale", "seed", "shape"]),
        "RandomNormalLike" => (random::build, &["dtype", "mean", "scale", "seed"]),
        "Bernoulli" => (random::build, &["dtype", "seed"]),
        _ => return spatial(operator),
    })
}

/// The same for operators over spatial axes.
fn spatial(operator: &str) -> Option<(Builder, &'static [&'static str])> {
    Some(match operator {
        "Conv" => {
            (conv::build, &["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"])
        }
        "ConvTranspose" => (
            conv_transpose::build,
            &[
                "auto_pad",
                "dilations",
                "group",
                "kernel_shape",
                "output_padding",
                "output_shape",
                "pads",
                "strides",
            ],
        ),
        "LRN" => (lrn::build, &["alpha", "beta", "bias", "size"]),
        "MaxPool" => (
            pool::build,
            &[
                "auto_pad",
                "ceil_mode",
                "dilations",
                "kernel_shape",
                "pads",
                "storage_order",
                "strides",
            ],
        ),
        "AveragePool" => (
            pool::build,
            &[
                "auto_pad",
                "ceil_mode",
                "count_include_pad",
                "dilations",
                "kernel_shape",
                "pads",
                "strides",
            ],
        ),
        "GlobalMaxPool" => (pool::build, &[]),
        "GlobalAveragePool" => (reduce::build, &[]),
        "DepthToSpace" | "SpaceToDepth" => (depth_space::build, &["blocksize", "mode"]),
        "Resize" => (
            resize::build,
            &[
                "antialias",
                "axes",
                "coordinate_transformation_mode",
                "cubic_coeff_a",
                "exclude_outside",
                "extrapolation_value",
                "keep_aspect_ratio_policy",
                "mode",
                "nearest_mode",
            ],
        ),
        "Upsample" => (resize::build, &["mode", "scales"]),
        _ => return None,
    })
}

/// Why a node cannot run whatever its inputs: its operator, or an attribute that would change the
/// meaning.
pub(super) fn refusal(node: &NodeProto) -> Option<String> {
    let Some((_, attributes)) = builder(node.op_type()) else { return Some(UNKNOWN.to_owned()) };
    let other = node.attribute.iter().find(|a| !attributes.contains(&a.name()))?;
    Some(format!("attribute {} is not supported", other.name()))
}

/// The refusal of an operator that is missing.
pub(super) const UNKNOWN: &str = "operator not supported";

/// Before it, broadcasting and batch normalization had other rules.
const EARLIEST_OPSET: i64 = 7;

/// Plans a node.
///
/// # Errors
/// When the operator is unknown, or its attributes ask for what it cannot do.
pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    if let Some(reason) = refusal(site.node) {
        return Err(Error::input(reason));
    }
    let (build, _) = builder(site.operator()).ok_or_else(|| Error::input(UNKNOWN))?;
    if site.opset < EARLIEST_OPSET {
        return Err(Error::input(format!(
            "opset: expected {EARLIEST_OPSET} or later, found {}",
            site.opset
        )));
    }
    build(site)
}

/// The gradient of a one-output operator.
pub(super) fn only(gradients: Vec<Option<Tensor>>) -> Result<Tensor> {
    gradients
        .into_iter()
        .next()
        .flatten()
        .ok_or_else(|| Error::internal("operator got no gradient"))
}
