//! What is known of ONNX's operators (and of those of `com.microsoft` that exporters and quantizers
//! write), one row each. Whoever walks a graph asks here.
//!
//! Source: <https://onnx.ai/onnx/operators/> and ONNX Runtime's `docs/ContribOperators.md`.

use super::proto::NodeProto;

/// What an operator is, in the one class that tells most of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A rectifier or another curve that a layer ends in.
    Activation,
    /// Values side by side with others, or scaled and shifted by constants.
    Arithmetic,
    /// Any other function of each element.
    Elementwise,
    /// It looks at neighbors in an image or a sequence, or at all of a channel.
    Spatial,
    /// A product with a matrix.
    Product,
    /// Sums of products along any axes.
    Contraction,
    /// Mean and deviation are taken out.
    Normalization,
    /// A softmax, or its logarithm.
    Softmax,
    /// Axes are taken away.
    Reduction,
    /// Values are moved or left out; none is computed.
    Movement(Movement),
    /// Between real numbers and integers that stand for them.
    Quantization,
    /// The same with a scale that is taken from all samples of a batch.
    DynamicQuantization,
    /// Dice.
    Random,
    /// Anything else.
    Other,
}

/// How values are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Movement {
    /// As they are.
    Copy,
    /// In another type.
    Cast,
    /// Other axes over the same order.
    Reshape,
    /// The axes in another order.
    Transpose,
    /// Parts that lie together.
    Part,
    /// Parts that indices name, or the largest.
    Pick,
    /// Several tensors as one.
    Join,
    /// With others around them.
    Pad,
    /// Several times.
    Repeat,
}

/// Where a map's channels stand in what an operator computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channels {
    /// `[N, C, …]`.
    First,
    /// `[N, …, C]`.
    Last,
    /// As the attribute `channels_last` says; whether they stand last without it.
    ByAttribute(bool),
}

/// How the multiply-accumulates of an operator are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Macs {
    /// Each output element sums over a kernel and the channels of a group.
    Convolution,
    /// Each input element is spread over a kernel and the channels of a group.
    Transposed,
    /// Each output element sums over the last axis of the first factor.
    Product,
    /// The same, where the attribute `transA` may turn that factor.
    Gemm,
    /// Each row of the input, and a state for each, is multiplied by a matrix.
    Recurrent,
}

/// When an operator's outputs hold integers or truth values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integers {
    /// Where this input does.
    Like(usize),
    /// As the attribute `to` says.
    ByType,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How a value is computed from known ones.
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
    /// As it is.
    Copy,
    /// One value in all places.
    Fill,
    /// `ReduceProd`.
    Product,
    /// Of one value.
    Unary(Unary),
    /// Of two values.
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

/// What stands in place of an operator in a network that is trained no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inference {
    /// The operator.
    Same,
    /// What it reads.
    Input,
    /// The operator without the outputs and the attribute with which it trains.
    FirstOutput,
}

/// What is known of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operator {
    /// Its name in a graph.
    pub name: &'static str,
    /// What it is.
    pub class: Class,
    /// The inputs that are parameters whatever their shape.
    pub parameters: &'static [usize],
    /// Those of them that hold what it starts from: zeros there are no parameter.
    pub states: &'static [usize],
    /// Whether the value of a Constant node is a parameter there too.
    pub trains_constants: bool,
    /// The inputs that hold running statistics: mean and variance.
    pub statistics: &'static [usize],
    /// The second factor's input of what is counted in multiply-accumulates, and how those are.
    pub macs: Option<(usize, Macs)>,
    /// The axis order of what it computes, where it says it itself.
    pub channels: Option<Channels>,
    /// The inputs that hold the scale and the zero point of the integers that it computes.
    pub scale: Option<[usize; 2]>,
    /// How many outputs can hold activations: not statistics, not a mask.
    pub values: usize,
    /// Whether it reads the shape of its input alone: what follows from that says nothing of the
    /// sample.
    pub reads_shape: bool,
    /// Whether its outputs hold integers.
    pub integers: Integers,
    /// The output that holds places among its inputs' elements, whatever the others hold.
    pub places: Option<usize>,
    /// How it is computed beforehand where its inputs are known; `None`: it runs.
    pub folds: Option<Fold>,
    /// What it is in a network that is trained no more.
    pub inference: Inference,
}

impl Operator {
    /// Whether a tensor beside a computed one, as its term, factor or part, may be a parameter.
    #[must_use]
    pub fn takes_weights_beside(&self) -> bool {
        matches!(self.class, Class::Arithmetic | Class::Movement(Movement::Join))
    }

    /// Whether it is a convolution, of any type of numbers.
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
    /// What is known of its operator.
    #[must_use]
    pub fn operator(&self) -> &'static Operator {
        of(self.op_type())
    }
}

/// What is known of an operator of this name; nothing of one that the table lacks.
#[must_use]
pub fn of(name: &str) -> &'static Operator {
    const NOTHING: &Operator = &new("", Class::Other);
    TABLE.iter().find(|operator| operator.name == name).unwrap_or(NOTHING)
}

/// Every operator of which something is known.
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

/// Weights of the inputs, of the state, bias; lengths are no parameter.
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

/// Of integers that stand for real numbers: with the inputs that say how.
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
