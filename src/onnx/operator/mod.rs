//! The table of known facts about ONNX's operators (and the `com.microsoft` operators that
//! exporters and quantizers write), one row each. All code that walks graphs asks here.
//!
//! Source: <https://onnx.ai/onnx/operators/> and ONNX Runtime's `docs/ContribOperators.md`.

use super::proto::NodeProto;

/// An operator's class, which tells most about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A rectifier or another nonlinearity at the end of a layer.
    Activation,
    /// Elementwise arithmetic of tensors, or scaling and shifting by constants.
    Arithmetic,
    /// Any other elementwise function.
    Elementwise,
    /// Combines neighbors in an image or a sequence, or all positions of a channel.
    Spatial,
    /// A matrix product.
    Product,
    /// Sums of products along any axes.
    Contraction,
    /// Normalization by mean and deviation.
    Normalization,
    /// A softmax or its logarithm.
    Softmax,
    /// Removes axes.
    Reduction,
    /// Moves or selects values without computing any.
    Movement(Movement),
    /// Converts between real numbers and quantized integers.
    Quantization,
    /// Quantization with a scale taken from the whole batch.
    DynamicQuantization,
    /// Draws random values.
    Random,
    /// Anything else.
    Other,
}

/// How values are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Movement {
    /// Unchanged.
    Copy,
    /// With another type.
    Cast,
    /// With other axes in the same order of elements.
    Reshape,
    /// With the axes permuted.
    Transpose,
    /// A contiguous part.
    Part,
    /// Parts selected by indices, or the largest values.
    Pick,
    /// Several tensors joined.
    Join,
    /// Surrounded by padding.
    Pad,
    /// Repeated.
    Repeat,
}

/// The position of the channel axis in an operator's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channels {
    /// `[N, C, …]`.
    First,
    /// `[N, …, C]`.
    Last,
    /// As the attribute `channels_last` says; the value is the default.
    ByAttribute(bool),
}

/// How an operator's multiply-accumulates are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Macs {
    /// Each output element sums over a kernel and the channels of a group.
    Convolution,
    /// Each input element is spread over a kernel and the channels of a group.
    Transposed,
    /// Each output element sums over the last axis of the first factor.
    Product,
    /// Like `Product`, where the attribute `transA` may transpose that factor.
    Gemm,
    /// Each row of the input, and its state, is multiplied by a matrix.
    Recurrent,
}

/// When an operator's outputs hold integers or booleans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integers {
    /// If this input does.
    Like(usize),
    /// According to the attribute `to`.
    ByType,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How a value is computed from known values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the operators")]
pub enum Fold {
    Shape,
    Size,
    Gather,
    Concat,
    Unsqueeze,
    Squeeze,
    Flatten,
    Reshape,
    Transpose,
    Expand,
    Slice,
    Split,
    Tile,
    Cast,
    Where,
    Range,
    /// The input unchanged.
    Copy,
    /// A constant fill.
    Fill,
    /// `ReduceProd`.
    Product,
    /// A function of one value.
    Unary(Unary),
    /// A function of two values.
    Binary(Binary),
}

/// A function of one known value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the operators")]
pub enum Unary {
    Abs,
    Ceil,
    Floor,
    Neg,
    Not,
    Round,
    Sqrt,
}

/// A function of two known values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the operators")]
pub enum Binary {
    Add,
    And,
    Div,
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Max,
    Min,
    Mod,
    Mul,
    Or,
    Pow,
    Sub,
}

/// What replaces an operator in a network that is no longer trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inference {
    /// The operator itself.
    Same,
    /// Its input.
    Input,
    /// The operator without its training outputs and attribute.
    FirstOutput,
}

/// The known facts about an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operator {
    /// Its name in a graph.
    pub name: &'static str,
    /// Its class.
    pub class: Class,
    /// The inputs that are parameters, whatever their shape.
    pub parameters: &'static [usize],
    /// Those of `parameters` that hold initial states: zeros there are not parameters.
    pub states: &'static [usize],
    /// Whether a Constant node's value counts as a parameter in these inputs.
    pub trains_constants: bool,
    /// The inputs that hold running statistics: mean and variance.
    pub statistics: &'static [usize],
    /// The input of the second factor, and how multiply-accumulates are counted; `None` if they are
    /// not.
    pub macs: Option<(usize, Macs)>,
    /// The channel position of its output, if the operator itself defines it.
    pub channels: Option<Channels>,
    /// The inputs that hold the scale and zero point of the integers it computes.
    pub scale: Option<[usize; 2]>,
    /// How many leading outputs can hold activations (not statistics, not a mask).
    pub values: usize,
    /// Whether it reads only the shape of its input, so that its output says nothing about the
    /// sample.
    pub reads_shape: bool,
    /// Whether its outputs hold integers.
    pub integers: Integers,
    /// The output that holds indices into its input, whatever the others hold.
    pub places: Option<usize>,
    /// How it is constant-folded; `None` if it is not.
    pub folds: Option<Fold>,
    /// What replaces it in a network that is no longer trained.
    pub inference: Inference,
}

impl Operator {
    /// Whether a tensor next to a computed one (as term, factor or part) may be a parameter.
    #[must_use]
    pub fn takes_weights_beside(&self) -> bool {
        matches!(self.class, Class::Arithmetic | Class::Movement(Movement::Join))
    }

    /// Whether it is a convolution of any number type.
    #[must_use]
    pub fn is_convolution(&self) -> bool {
        matches!(self.macs, Some((_, Macs::Convolution)))
    }

    /// Whether it moves values in this way.
    #[must_use]
    pub fn moves(&self, movement: Movement) -> bool {
        self.class == Class::Movement(movement)
    }
}

impl NodeProto {
    /// The facts about the node's operator.
    #[must_use]
    pub fn operator(&self) -> &'static Operator {
        of(self.op_type())
    }
}

/// The facts about the operator of this name; defaults if the table lacks it.
#[must_use]
pub fn of(name: &str) -> &'static Operator {
    const NOTHING: &Operator = &new("", Class::Other);
    TABLE.iter().find(|operator| operator.name == name).unwrap_or(NOTHING)
}

/// All operators in the table.
pub fn all() -> impl Iterator<Item = &'static Operator> {
    TABLE.iter()
}

const fn new(name: &'static str, class: Class) -> Operator {
    Operator {
        name,
        class,
        parameters: &[],
        states: &[],
        trains_constants: false,
        statistics: &[],
        macs: None,
        channels: None,
        scale: None,
        values: usize::MAX,
        reads_shape: false,
        integers: Integers::Like(0),
        places: None,
        folds: None,
        inference: Inference::Same,
    }
}

const fn activation(name: &'static str) -> Operator {
    new(name, Class::Activation)
}

const fn elementwise(name: &'static str) -> Operator {
    new(name, Class::Elementwise)
}

const fn unary(name: &'static str, unary: Unary) -> Operator {
    Operator { folds: Some(Fold::Unary(unary)), ..elementwise(name) }
}

const fn binary(name: &'static str, class: Class, binary: Binary) -> Operator {
    Operator { folds: Some(Fold::Binary(binary)), ..new(name, class) }
}

const fn comparison(name: &'static str) -> Operator {
    Operator { integers: Integers::Always, ..new(name, Class::Elementwise) }
}

const fn folded_comparison(name: &'static str, fold: Fold) -> Operator {
    Operator { folds: Some(fold), ..comparison(name) }
}

const fn spatial(name: &'static str) -> Operator {
    Operator { channels: Some(Channels::First), ..new(name, Class::Spatial) }
}

const fn channels_last(name: &'static str) -> Operator {
    Operator { channels: Some(Channels::Last), ..new(name, Class::Spatial) }
}

const fn normalization(name: &'static str) -> Operator {
    Operator { parameters: &[1, 2], ..new(name, Class::Normalization) }
}

const fn product(name: &'static str, factor: usize, macs: Macs) -> Operator {
    Operator { macs: Some((factor, macs)), ..new(name, Class::Product) }
}

/// Weights of the inputs, weights of the state, and bias; sequence lengths are not parameters.
const fn recurrent(name: &'static str) -> Operator {
    Operator {
        trains_constants: true,
        macs: Some((1, Macs::Recurrent)),
        ..new(name, Class::Spatial)
    }
}

const fn reduction(name: &'static str) -> Operator {
    new(name, Class::Reduction)
}

const fn movement(name: &'static str, movement: Movement) -> Operator {
    new(name, Class::Movement(movement))
}

const fn folded(name: &'static str, class: Class, fold: Fold) -> Operator {
    Operator { folds: Some(fold), ..new(name, class) }
}

const fn folded_movement(name: &'static str, movement: Movement, fold: Fold) -> Operator {
    folded(name, Class::Movement(movement), fold)
}

const fn random(name: &'static str) -> Operator {
    Operator { integers: Integers::Never, ..new(name, Class::Random) }
}

/// Works on quantized integers; `scale` is the input with their scale.
const fn quantized(name: &'static str, class: Class, scale: usize) -> Operator {
    Operator { scale: Some([scale, scale + 1]), ..new(name, class) }
}

const CHANNELS_FIRST: Option<Channels> = Some(Channels::First);
const ROWS_LAST: Option<Channels> = Some(Channels::ByAttribute(false));

const TABLE: &[Operator] = &[
    // --- activations ---
    activation("Celu"),
    activation("Clip"),
    activation("Elu"),
    activation("Gelu"),
    activation("HardSigmoid"),
    activation("HardSwish"),
    activation("LeakyRelu"),
    activation("Mish"),
    Operator { parameters: &[1], ..activation("PRelu") },
    activation("Relu"),
    activation("Selu"),
    activation("ThresholdedRelu"),
    // --- elements ---
    binary("Add", Class::Arithmetic, Binary::Add),
    binary("Div", Class::Arithmetic, Binary::Div),
    binary("Mul", Class::Arithmetic, Binary::Mul),
    binary("Sub", Class::Arithmetic, Binary::Sub),
    new("Sum", Class::Arithmetic),
    quantized("QLinearAdd", Class::Arithmetic, 6),
    quantized("QLinearMul", Class::Arithmetic, 6),
    unary("Abs", Unary::Abs),
    unary("Ceil", Unary::Ceil),
    unary("Floor", Unary::Floor),
    binary("Max", Class::Elementwise, Binary::Max),
    binary("Min", Class::Elementwise, Binary::Min),
    binary("Mod", Class::Elementwise, Binary::Mod),
    unary("Neg", Unary::Neg),
    binary("Pow", Class::Elementwise, Binary::Pow),
    unary("Round", Unary::Round),
    unary("Sqrt", Unary::Sqrt),
    elementwise("Exp"),
    elementwise("Log"),
    elementwise("Sigmoid"),
    elementwise("Softplus"),
    elementwise("Swish"),
    elementwise("Tanh"),
    quantized("QLinearLeakyRelu", Class::Elementwise, 3),
    quantized("QLinearSigmoid", Class::Elementwise, 3),
    quantized("QLinearWhere", Class::Elementwise, 7),
    folded_comparison("And", Fold::Binary(Binary::And)),
    folded_comparison("Equal", Fold::Binary(Binary::Equal)),
    folded_comparison("Greater", Fold::Binary(Binary::Greater)),
    folded_comparison("GreaterOrEqual", Fold::Binary(Binary::GreaterOrEqual)),
    folded_comparison("Less", Fold::Binary(Binary::Less)),
    folded_comparison("LessOrEqual", Fold::Binary(Binary::LessOrEqual)),
    folded_comparison("Not", Fold::Unary(Unary::Not)),
    folded_comparison("Or", Fold::Binary(Binary::Or)),
    comparison("IsInf"),
    comparison("IsNaN"),
    comparison("Xor"),
    Operator { integers: Integers::Like(1), ..folded("Where", Class::Elementwise, Fold::Where) },
    // --- space ---
    Operator {
        parameters: &[1, 2],
        trains_constants: true,
        macs: Some((1, Macs::Convolution)),
        ..spatial("Conv")
    },
    Operator {
        parameters: &[1, 2],
        trains_constants: true,
        macs: Some((1, Macs::Transposed)),
        ..spatial("ConvTranspose")
    },
    Operator { macs: Some((1, Macs::Convolution)), ..spatial("ConvInteger") },
    Operator { macs: Some((1, Macs::Convolution)), ..spatial("FusedConv") },
    Operator {
        macs: Some((3, Macs::Convolution)),
        channels: ROWS_LAST,
        ..quantized("QLinearConv", Class::Spatial, 6)
    },
    spatial("ConvTransposeWithDynamicPads"),
    spatial("DeformConv"),
    spatial("AveragePool"),
    spatial("DepthToSpace"),
    spatial("GlobalAveragePool"),
    spatial("GlobalLpPool"),
    spatial("GlobalMaxPool"),
    spatial("GridSample"),
    Operator { parameters: &[1, 2, 3, 5], states: &[5], ..recurrent("GRU") },
    spatial("LRN"),
    Operator { parameters: &[1, 2, 3, 5, 6, 7], states: &[5, 6], ..recurrent("LSTM") },
    spatial("LpPool"),
    spatial("MaxPool"),
    spatial("MaxUnpool"),
    spatial("SpaceToDepth"),
    spatial("Upsample"),
    Operator { channels: ROWS_LAST, ..quantized("QLinearAveragePool", Class::Spatial, 3) },
    Operator { channels: ROWS_LAST, ..quantized("QLinearGlobalAveragePool", Class::Spatial, 3) },
    channels_last("NhwcConv"),
    channels_last("NhwcFusedConv"),
    channels_last("NhwcMaxPool"),
    // --- products ---
    Operator { parameters: &[0, 1, 2], trains_constants: true, ..product("Gemm", 1, Macs::Gemm) },
    Operator { parameters: &[0, 1], trains_constants: true, ..product("MatMul", 1, Macs::Product) },
    product("MatMulInteger", 1, Macs::Product),
    new("FusedGemm", Class::Product),
    new("FusedMatMul", Class::Product),
    new("FusedMatMulActivation", Class::Product),
    new("MatMulBnb4", Class::Product),
    new("MatMulFpQ4", Class::Product),
    new("MatMulInteger16", Class::Product),
    new("MatMulIntegerToFloat", Class::Product),
    new("MatMulNBits", Class::Product),
    new("TransposeMatMul", Class::Product),
    Operator { scale: Some([7, 8]), ..product("QGemm", 3, Macs::Gemm) },
    Operator { scale: Some([6, 7]), ..product("QLinearMatMul", 3, Macs::Product) },
    Operator { parameters: &[0, 1], trains_constants: true, ..new("Einsum", Class::Contraction) },
    // --- normalization ---
    Operator {
        statistics: &[3, 4],
        channels: CHANNELS_FIRST,
        values: 1,
        inference: Inference::FirstOutput,
        ..normalization("BatchNormalization")
    },
    Operator { channels: CHANNELS_FIRST, ..normalization("GroupNormalization") },
    Operator { channels: CHANNELS_FIRST, ..normalization("InstanceNormalization") },
    normalization("LayerNormalization"),
    Operator { parameters: &[1], ..normalization("RMSNormalization") },
    Operator {
        channels: Some(Channels::ByAttribute(true)),
        ..new("GroupNorm", Class::Normalization)
    },
    Operator {
        channels: Some(Channels::ByAttribute(true)),
        ..new("SkipGroupNorm", Class::Normalization)
    },
    // --- along axes ---
    new("BiasSoftmax", Class::Softmax),
    new("LogSoftmax", Class::Softmax),
    new("Softmax", Class::Softmax),
    quantized("QLinearSoftmax", Class::Softmax, 3),
    reduction("ReduceL1"),
    reduction("ReduceL2"),
    reduction("ReduceLogSum"),
    reduction("ReduceLogSumExp"),
    reduction("ReduceMax"),
    reduction("ReduceMean"),
    reduction("ReduceMin"),
    folded("ReduceProd", Class::Reduction, Fold::Product),
    reduction("ReduceSum"),
    reduction("ReduceSumSquare"),
    quantized("QLinearReduceMean", Class::Reduction, 3),
    // --- movement ---
    folded_movement("Identity", Movement::Copy, Fold::Copy),
    Operator {
        values: 1,
        inference: Inference::Input,
        ..folded_movement("Dropout", Movement::Copy, Fold::Copy)
    },
    Operator { integers: Integers::ByType, ..folded_movement("Cast", Movement::Cast, Fold::Cast) },
    Operator { integers: Integers::Like(1), ..movement("CastLike", Movement::Cast) },
    folded_movement("Flatten", Movement::Reshape, Fold::Flatten),
    folded_movement("Reshape", Movement::Reshape, Fold::Reshape),
    folded_movement("Squeeze", Movement::Reshape, Fold::Squeeze),
    folded_movement("Unsqueeze", Movement::Reshape, Fold::Unsqueeze),
    folded_movement("Transpose", Movement::Transpose, Fold::Transpose),
    folded_movement("Slice", Movement::Part, Fold::Slice),
    folded_movement("Split", Movement::Part, Fold::Split),
    Operator {
        parameters: &[0],
        trains_constants: true,
        ..folded_movement("Gather", Movement::Pick, Fold::Gather)
    },
    Operator { values: 1, places: Some(1), ..movement("TopK", Movement::Pick) },
    folded_movement("Concat", Movement::Join, Fold::Concat),
    quantized("QLinearConcat", Class::Movement(Movement::Join), 0),
    movement("Pad", Movement::Pad),
    folded_movement("Expand", Movement::Repeat, Fold::Expand),
    folded_movement("Tile", Movement::Repeat, Fold::Tile),
    // --- numbers of another kind ---
    new("DequantizeLinear", Class::Quantization),
    quantized("QuantizeLinear", Class::Quantization, 1),
    new("DynamicQuantizeLSTM", Class::DynamicQuantization),
    new("DynamicQuantizeLinear", Class::DynamicQuantization),
    new("DynamicQuantizeMatMul", Class::DynamicQuantization),
    random("Bernoulli"),
    random("Multinomial"),
    random("RandomNormal"),
    random("RandomNormalLike"),
    random("RandomUniform"),
    random("RandomUniformLike"),
    // --- shapes and the rest ---
    Operator { reads_shape: true, ..folded("Shape", Class::Other, Fold::Shape) },
    Operator { reads_shape: true, ..folded("Size", Class::Other, Fold::Size) },
    folded("ConstantOfShape", Class::Other, Fold::Fill),
    folded("Range", Class::Other, Fold::Range),
    Operator { integers: Integers::Always, ..new("ArgMax", Class::Other) },
    Operator { integers: Integers::Always, ..new("ArgMin", Class::Other) },
    Operator { integers: Integers::Like(2), ..new("OneHot", Class::Other) },
];

#[cfg(test)]
mod tests;
