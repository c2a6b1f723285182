//! The table: every operator with the shapes and attributes that it is tried on. Odd sizes, sizes
//! of 1, non-square, overlap, broadcast.

mod places;
mod recurrent;

use super::Random;
use super::graph::{FLOAT, float, floats, int, ints, text};
use super::net::Net;
use nst_cache::onnx::proto::AttributeProto;

#[derive(Debug, Clone)]
pub enum Operand {
    /// Differentiated.
    Float(Vec<usize>),
    Ints(Vec<usize>, Vec<i64>),
    Floats(Vec<usize>, Vec<f64>),
    Bools(Vec<usize>, Vec<bool>),
    Absent,
}

#[derive(Clone)]
pub struct Case {
    pub operator: &'static str,
    pub opsets: &'static [i64],
    pub operands: Vec<Operand>,
    pub attributes: Vec<AttributeProto>,
    pub outputs: usize,
    /// Where the numbers are drawn from.
    pub low: f64,
    pub high: f64,
    /// Outputs are booleans or integers.
    pub whole: bool,
    /// Without a gradient worth a comparison.
    pub flat: bool,
    /// ONNX Runtime does not have it, or reads it otherwise (the reason stands beside the case).
    pub skip_runtime: bool,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shape = |operand: &Operand| match operand {
            Operand::Float(shape) => format!("{shape:?}"),
            Operand::Ints(_, values) => format!("{values:?}i"),
            Operand::Floats(_, values) => format!("{values:?}"),
            Operand::Bools(shape, _) => format!("{shape:?} bool"),
            Operand::Absent => "-".into(),
        };
        let attribute = |a: &AttributeProto| {
            let value = [
                a.i.map(|i| i.to_string()),
                a.f.map(|f| f.to_string()),
                a.s.as_ref().map(|s| String::from_utf8_lossy(s).into()),
            ];
            let value = value
                .into_iter()
                .flatten()
                .next()
                .unwrap_or_else(|| format!("{:?}{:?}{:?}", a.ints, a.floats, a.strings));
            format!("{}={value}", a.name())
        };
        let operands: Vec<String> = self.operands.iter().map(shape).collect();
        let attributes: Vec<String> = self.attributes.iter().map(attribute).collect();
        write!(f, "{}({}) {}", self.operator, operands.join(", "), attributes.join(" "))
    }
}

fn case(operator: &'static str, shapes: &[&[usize]]) -> Case {
    Case {
        operator,
        opsets: &[17],
        operands: shapes.iter().map(|s| Operand::Float(s.to_vec())).collect(),
        attributes: Vec::new(),
        outputs: 1,
        low: -1.5,
        high: 1.5,
        whole: false,
        flat: false,
        skip_runtime: false,
    }
}

impl Case {
    /// The graph of this one operator; floats are initializers that train.
    pub fn net(&self, opset: i64) -> Net {
        let mut net = Net::new(opset);
        let mut random = Random(11);
        let mut names = Vec::new();
        for (i, operand) in self.operands.iter().enumerate() {
            names.push(match operand {
                Operand::Float(shape) => {
                    // a running variance is positive
                    let low = if self.operator == "BatchNormalization" && i == 4 {
                        0.3
                    } else {
                        self.low
                    };
                    net.float(
                        &format!("p{i}"),
                        shape,
                        &random.numbers(shape.iter().product(), low, self.high),
                    )
                }
                Operand::Ints(shape, values) => net.int64(&format!("k{i}"), shape, values),
                Operand::Floats(shape, values) => net.float(&format!("k{i}"), shape, values),
                Operand::Bools(shape, values) => net.boolean(&format!("k{i}"), shape, values),
                Operand::Absent => String::new(),
            });
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let outputs: Vec<String> = (0..self.outputs).map(|i| format!("y{i}")).collect();
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        net.node(self.operator, &names, &outputs, self.attributes.clone());
        for output in outputs {
            if self.whole {
                let name = format!("{output}_float");
                net.node("Cast", &[output], &[&name], vec![int("to", FLOAT.into())]);
                net.output(&name);
            } else {
                net.output(output);
            }
        }
        net
    }

    fn at(mut self, opsets: &'static [i64]) -> Self {
        self.opsets = opsets;
        self
    }
    fn with(mut self, attribute: AttributeProto) -> Self {
        self.attributes.push(attribute);
        self
    }
    fn ints(self, name: &str, values: &[i64]) -> Self {
        self.with(ints(name, values))
    }
    fn int(self, name: &str, value: i64) -> Self {
        self.with(int(name, value))
    }
    fn float(self, name: &str, value: f32) -> Self {
        self.with(float(name, value))
    }
    fn text(self, name: &str, value: &'static str) -> Self {
        self.with(text(name, value))
    }
    /// A vector of known integers as the next input.
    fn known(mut self, values: &[i64]) -> Self {
        self.operands.push(Operand::Ints(vec![values.len()], values.to_vec()));
        self
    }
    fn known_of(mut self, shape: &[usize], values: &[i64]) -> Self {
        self.operands.push(Operand::Ints(shape.to_vec(), values.to_vec()));
        self
    }
    /// A further operand that is differentiated.
    fn beside(mut self, shape: &[usize]) -> Self {
        self.operands.push(Operand::Float(shape.to_vec()));
        self
    }
    fn number(mut self, value: f64) -> Self {
        self.operands.push(Operand::Floats(Vec::new(), vec![value]));
        self
    }
    fn known_floats(mut self, values: &[f64]) -> Self {
        self.operands.push(Operand::Floats(vec![values.len()], values.to_vec()));
        self
    }
    fn absent(mut self) -> Self {
        self.operands.push(Operand::Absent);
        self
    }
    fn outputs(mut self, outputs: usize) -> Self {
        self.outputs = outputs;
        self
    }
    fn positive(mut self) -> Self {
        self.low = 0.3;
        self
    }
    fn within(mut self, low: f64, high: f64) -> Self {
        (self.low, self.high) = (low, high);
        self
    }
    fn whole(mut self) -> Self {
        (self.whole, self.flat) = (true, true);
        self
    }
    fn flat(mut self) -> Self {
        self.flat = true;
        self
    }
    fn not_in_runtime(mut self) -> Self {
        self.skip_runtime = true;
        self
    }
}

pub fn cases() -> Vec<Case> {
    [
        convolutions(),
        transposed_convolutions(),
        normalizations(),
        activations(),
        functions(),
        arithmetic(),
        pools(),
        reductions(),
        products(),
        views(),
        pads(),
        resizes(),
        choices(),
        recurrent::cases(),
        places::cases(),
        indexed(),
        volumes(),
    ]
    .concat()
}

fn convolutions() -> Vec<Case> {
    let conv = |shapes: &[&[usize]]| case("Conv", shapes).at(&[11]);
    vec![
        conv(&[&[2, 3, 7, 5], &[4, 3, 3, 2], &[4]])
            .ints("pads", &[1, 0, 2, 1])
            .ints("strides", &[2, 1])
            .at(&[7, 11, 22]),
        conv(&[&[9, 2, 5, 4], &[3, 2, 1, 1]]),
        conv(&[&[1, 1, 1, 1], &[1, 1, 1, 1], &[1]]),
        conv(&[&[2, 2, 5, 7], &[3, 2, 1, 1]]).ints("strides", &[2, 3]),
        conv(&[&[1, 2, 9, 4], &[3, 2, 3, 3]]).ints("strides", &[2, 2]),
        conv(&[&[2, 4, 6, 7], &[6, 2, 3, 3], &[6]])
            .int("group", 2)
            .ints("dilations", &[2, 1])
            .ints("pads", &[2, 1, 2, 1]),
        conv(&[&[2, 3, 6, 7], &[3, 1, 3, 3]])
            .int("group", 3)
            .ints("pads", &[1, 1, 1, 1])
            .ints("strides", &[2, 2]),
        conv(&[&[2, 3, 5, 5], &[6, 1, 3, 3], &[6]]).int("group", 3).ints("pads", &[1, 1, 1, 1]),
        conv(&[&[1, 2, 7, 8], &[2, 2, 3, 4]])
            .text("auto_pad", "SAME_UPPER")
            .ints("strides", &[2, 3]),
        conv(&[&[1, 2, 7, 8], &[2, 2, 2, 4]]).text("auto_pad", "SAME_LOWER"),
        conv(&[&[1, 2, 7, 8], &[2, 2, 3, 4]])
            .text("auto_pad", "SAME_LOWER")
            .ints("strides", &[3, 2])
            .ints("kernel_shape", &[3, 4]),
        conv(&[&[1, 2, 7, 8], &[2, 2, 3, 3]]).text("auto_pad", "VALID").ints("strides", &[3, 2]),
        conv(&[&[1, 2, 6, 7], &[2, 2, 1, 7], &[2]]).ints("pads", &[0, 3, 0, 3]),
        conv(&[&[1, 2, 7, 6], &[2, 2, 7, 1]]).ints("pads", &[3, 0, 3, 0]),
        conv(&[&[2, 3, 9], &[4, 3, 3], &[4]]).ints("pads", &[1, 1]).ints("strides", &[2]),
        conv(&[&[2, 4, 11], &[4, 1, 3]])
            .int("group", 4)
            .ints("dilations", &[3])
            .ints("pads", &[2, 4]),
        conv(&[&[1, 2, 10], &[3, 2, 4]]).text("auto_pad", "SAME_UPPER").ints("strides", &[3]),
        // a filter larger than the input, that padding makes fit
        conv(&[&[1, 1, 2, 2], &[2, 1, 5, 5]]).ints("pads", &[2, 2, 2, 2]),
    ]
}

fn transposed_convolutions() -> Vec<Case> {
    let conv = |shapes: &[&[usize]]| case("ConvTranspose", shapes).at(&[11]);
    vec![
        conv(&[&[2, 3, 4, 5], &[3, 2, 3, 2], &[2]]).at(&[7, 11, 22]),
        conv(&[&[1, 2, 3, 4], &[2, 3, 2, 2]]).ints("strides", &[2, 2]),
        conv(&[&[1, 2, 3, 4], &[2, 2, 3, 3], &[2]])
            .ints("strides", &[2, 3])
            .ints("pads", &[1, 0, 1, 2])
            .ints("output_padding", &[1, 1]),
        conv(&[&[2, 4, 3, 3], &[4, 2, 3, 2], &[4]])
            .int("group", 2)
            .ints("strides", &[2, 1])
            .ints("dilations", &[2, 1]),
        conv(&[&[1, 3, 4, 3], &[3, 1, 4, 4]])
            .int("group", 3)
            .ints("strides", &[2, 2])
            .ints("pads", &[1, 1, 1, 1]),
        conv(&[&[1, 2, 3, 4], &[2, 1, 3, 3]])
            .ints("strides", &[3, 2])
            .ints("output_shape", &[8, 8]),
        conv(&[&[1, 2, 3, 4], &[2, 1, 3, 3]])
            .ints("strides", &[3, 2])
            .ints("output_shape", &[8, 8])
            .text("auto_pad", "SAME_UPPER"),
        conv(&[&[1, 2, 3, 4], &[2, 1, 3, 3]])
            .ints("strides", &[2, 2])
            .text("auto_pad", "SAME_UPPER"),
        conv(&[&[1, 2, 3, 4], &[2, 1, 3, 4]])
            .ints("strides", &[2, 3])
            .text("auto_pad", "SAME_LOWER"),
        conv(&[&[1, 2, 3, 4], &[2, 1, 1, 1]]),
        conv(&[&[2, 2, 5], &[2, 3, 4], &[3]])
            .ints("strides", &[3])
            .ints("pads", &[1, 2])
            .ints("output_padding", &[2]),
    ]
}

fn normalizations() -> Vec<Case> {
    vec![
        case("BatchNormalization", &[&[3, 2, 3, 2], &[2], &[2], &[2], &[2]]).at(&[9, 14, 15]),
        case("BatchNormalization", &[&[5, 3], &[3], &[3], &[3], &[3]]).float("epsilon", 0.1),
        case("BatchNormalization", &[&[2, 3, 5], &[3], &[3], &[3], &[3]]).float("momentum", 0.5),
        case("InstanceNormalization", &[&[2, 3, 4, 5], &[3], &[3]]).at(&[7, 22]),
        case("InstanceNormalization", &[&[2, 1, 7], &[1], &[1]]).float("epsilon", 0.2),
        case("GroupNormalization", &[&[2, 6, 3, 2], &[3], &[3]]).int("num_groups", 3).at(&[18]),
        case("GroupNormalization", &[&[2, 6, 3, 2], &[6], &[6]])
            .int("num_groups", 2)
            .float("epsilon", 0.05)
            .at(&[21]),
        case("GroupNormalization", &[&[2, 4, 5], &[4], &[4]]).int("num_groups", 1).at(&[21]),
        case("LayerNormalization", &[&[2, 3, 5], &[5], &[5]]),
        case("LayerNormalization", &[&[2, 3, 5], &[5], &[5]]).outputs(3),
        case("LayerNormalization", &[&[2, 3, 5], &[3, 5]]).int("axis", 1).float("epsilon", 0.01),
        case("LayerNormalization", &[&[2, 3, 5], &[1, 5], &[3, 1]]).int("axis", -2),
        // ours broadcasts the scale over axis 0
        case("LayerNormalization", &[&[1, 7], &[7]]).int("axis", 0).not_in_runtime(),
        case("RMSNormalization", &[&[2, 3, 5], &[5]]).at(&[23]),
        case("RMSNormalization", &[&[2, 3, 4], &[3, 4]])
            .int("axis", 1)
            .float("epsilon", 0.1)
            .at(&[23]),
        case("LRN", &[&[2, 7, 2, 3]])
            .int("size", 5)
            .float("alpha", 0.5)
            .float("beta", 0.6)
            .float("bias", 1.5),
        case("LRN", &[&[1, 3, 1, 2]]).int("size", 5).float("alpha", 0.9),
        case("Softmax", &[&[3, 2, 5]]).int("axis", -1).at(&[11, 13]),
        case("Softmax", &[&[3, 2, 5]]).int("axis", 1).at(&[11, 13]),
        case("Softmax", &[&[3, 2, 5]]).int("axis", 0).at(&[11, 13]),
        case("Softmax", &[&[3, 2, 5]]).at(&[7, 17]),
        case("LogSoftmax", &[&[3, 2, 5]]).int("axis", -1).at(&[11, 13]),
        case("LogSoftmax", &[&[3, 2, 5]]).int("axis", 1).at(&[11, 13]),
        case("LogSoftmax", &[&[3, 1]]).at(&[7, 17]),
    ]
}

fn activations() -> Vec<Case> {
    let plain = [
        "Relu",
        "LeakyRelu",
        "Sigmoid",
        "Tanh",
        "HardSigmoid",
        "Elu",
        "Celu",
        "Selu",
        "Softplus",
        "Softsign",
        "HardSwish",
    ];
    let mut all: Vec<Case> =
        plain.iter().map(|operator| case(operator, &[&[3, 7]]).within(-4.0, 4.0)).collect();
    all.extend([
        case("LeakyRelu", &[&[3, 7]]).float("alpha", 0.3),
        case("LeakyRelu", &[&[3, 7]]).float("alpha", -0.3),
        case("HardSigmoid", &[&[3, 7]]).float("alpha", 0.3).float("beta", 0.4).within(-3.0, 3.0),
        case("Elu", &[&[3, 7]]).float("alpha", 0.7),
        case("Celu", &[&[3, 7]]).float("alpha", 0.7),
        case("Selu", &[&[3, 7]]).float("alpha", 1.2).float("gamma", 0.7),
        case("Mish", &[&[3, 7]]).within(-4.0, 4.0).at(&[18]),
        case("ThresholdedRelu", &[&[3, 7]]).float("alpha", 0.4),
        case("Gelu", &[&[3, 7]]).at(&[20]),
        case("Gelu", &[&[3, 7]]).text("approximate", "tanh").at(&[20]),
        case("Swish", &[&[3, 7]]).float("alpha", 0.7).at(&[24]).not_in_runtime(), // opset 24
        case("Clip", &[&[5, 7]]).number(-0.7).number(0.9).at(&[11, 13]),
        case("Clip", &[&[5, 7]]).absent().number(0.9),
        case("Clip", &[&[5, 7]]).number(-0.1),
        case("Clip", &[&[5, 7]]).float("min", -0.7).float("max", 0.9).at(&[7]),
        case("Clip", &[&[5]]),
        case("PRelu", &[&[2, 3, 2, 2], &[3, 1, 1]]).at(&[9, 17]),
        case("PRelu", &[&[2, 3], &[1]]),
        case("PRelu", &[&[2, 3], &[2, 3]]),
        case("PRelu", &[&[2, 3, 4], &[4]]),
        case("Dropout", &[&[6, 7]]).float("ratio", 0.4).at(&[7, 11]),
        case("Dropout", &[&[6, 7]]).number(0.4),
        case("Dropout", &[&[6, 7]]),
    ]);
    all
}

fn functions() -> Vec<Case> {
    let mut all: Vec<Case> = ["Erf", "Exp", "Neg", "Abs", "Sin", "Cos", "Identity"]
        .iter()
        .map(|operator| case(operator, &[&[3, 7]]))
        .collect();
    all.extend(
        ["Sqrt", "Log", "Reciprocal"].iter().map(|operator| case(operator, &[&[2, 5]]).positive()),
    );
    all.extend(
        ["Sign", "Floor", "Ceil", "Round"]
            .iter()
            .map(|operator| case(operator, &[&[3, 7]]).within(-3.0, 3.0)),
    );
    all.extend([
        case("Pow", &[&[3, 7]]).number(2.0),
        case("Pow", &[&[3, 7]]).number(3.0),
        case("Pow", &[&[3, 7]]).number(0.0),
        case("Pow", &[&[3, 7]]).number(2.5).positive(),
        case("Pow", &[&[3, 7]]).number(-0.5).positive(),
        case("Pow", &[&[3, 1], &[2]]).positive(),
        case("Pow", &[&[2, 3], &[1, 2, 1]]).positive(),
        case("Cast", &[&[3, 2]]).int("to", 1),
        case("Cast", &[&[3, 2]]).int("to", 7).whole(),
        case("Cast", &[&[3, 2]]).int("to", 9).whole(),
    ]);
    all
}

fn arithmetic() -> Vec<Case> {
    let shapes: [(&[usize], &[usize]); 7] = [
        (&[2, 3, 4], &[2, 3, 4]),
        (&[2, 3, 4], &[3, 1]),
        (&[4], &[2, 3, 4]),
        (&[2, 1, 4], &[1, 3, 1]),
        (&[2, 3], &[]),
        (&[1], &[3, 2]),
        (&[1, 1], &[1]),
    ];
    let mut all = Vec::new();
    for (a, b) in shapes {
        all.extend(
            ["Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean"]
                .iter()
                .map(|operator| case(operator, &[a, b]).at(&[13])),
        );
        all.push(case("Div", &[a, b]).positive());
    }
    all.extend([
        case("Max", &[&[3, 4]]),
        case("Min", &[&[3, 1], &[4], &[2, 1, 1]]),
        case("Max", &[&[3, 1], &[4], &[2, 1, 1]]),
        case("Sum", &[&[3, 1], &[4], &[2, 1, 1]]),
        case("Mean", &[&[3, 1], &[4], &[2, 1, 1]]),
        case("Mod", &[&[3, 4], &[4]]).int("fmod", 1).positive(),
        case("Mod", &[&[3, 4], &[4]]).positive().not_in_runtime(), // of floats since opset 25
        case("CumSum", &[&[3, 4]]).known_of(&[], &[1]).at(&[11, 14]),
        case("CumSum", &[&[3, 4, 2]]).known_of(&[], &[-2]).int("exclusive", 1).int("reverse", 1),
    ]);
    all
}

fn pools() -> Vec<Case> {
    let mut all = Vec::new();
    for operator in ["MaxPool", "AveragePool"] {
        let pool =
            |shape: &[usize], kernel: &[i64]| case(operator, &[shape]).ints("kernel_shape", kernel);
        all.extend([
            pool(&[2, 2, 7, 5], &[3, 2])
                .ints("strides", &[2, 1])
                .ints("pads", &[1, 0, 1, 1])
                .at(&[10, 17, 22]),
            pool(&[1, 2, 6, 8], &[3, 3]).ints("strides", &[2, 2]).int("ceil_mode", 1).at(&[10, 19]),
            pool(&[1, 2, 6, 7], &[3, 2])
                .ints("strides", &[2, 2])
                .int("ceil_mode", 1)
                .ints("pads", &[1, 1, 1, 1])
                .at(&[11, 19]),
            // the last window would start in the padding
            pool(&[1, 1, 4, 4], &[1, 1]).ints("strides", &[2, 2]).int("ceil_mode", 1).at(&[19]),
            pool(&[1, 2, 7, 6], &[2, 3]).ints("strides", &[2, 2]).text("auto_pad", "SAME_UPPER"),
            pool(&[1, 2, 7, 6], &[2, 3]).ints("strides", &[2, 2]).text("auto_pad", "SAME_LOWER"),
            pool(&[1, 2, 7, 6], &[2, 3]).ints("strides", &[2, 2]).text("auto_pad", "VALID"),
            pool(&[1, 3, 3, 3], &[3, 3]),
            pool(&[2, 3, 9], &[3]).ints("strides", &[2]).ints("pads", &[1, 1]),
            pool(&[2, 3, 8], &[3]).ints("strides", &[2]).int("ceil_mode", 1),
            pool(&[1, 1, 8, 8], &[2, 3]).ints("dilations", &[2, 1]).at(&[19]),
            pool(&[1, 1, 9], &[3]).ints("dilations", &[3]).at(&[19]),
        ]);
    }
    let average = |shape: &[usize], kernel: &[i64]| {
        case("AveragePool", &[shape]).ints("kernel_shape", kernel).int("count_include_pad", 1)
    };
    all.extend([
        average(&[1, 1, 5, 6], &[3, 3]).ints("pads", &[1, 1, 1, 1]).at(&[7, 11, 19]),
        average(&[1, 2, 6, 7], &[3, 3])
            .ints("pads", &[1, 1, 1, 1])
            .ints("strides", &[2, 2])
            .int("ceil_mode", 1)
            .at(&[19]),
        average(&[1, 2, 7], &[3]).ints("pads", &[1, 1]).ints("strides", &[2]),
        average(&[1, 2, 7, 5], &[2, 2]).text("auto_pad", "SAME_UPPER").at(&[19]),
        case("GlobalAveragePool", &[&[2, 3, 4, 5]]),
        case("GlobalAveragePool", &[&[2, 3, 7]]),
        case("GlobalMaxPool", &[&[2, 3, 4, 5]]),
        case("GlobalMaxPool", &[&[2, 1, 7]]),
    ]);
    all
}

fn reductions() -> Vec<Case> {
    let mut all = Vec::new();
    for operator in [
        "ReduceMean",
        "ReduceSum",
        "ReduceMax",
        "ReduceMin",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceProd",
    ] {
        let by_input = if operator == "ReduceSum" { &[13, 18][..] } else { &[18][..] };
        // a logarithm asks for sums above 0
        let case = |operator, shapes: &[&[usize]]| {
            let case = case(operator, shapes);
            if operator == "ReduceLogSum" { case.positive() } else { case }
        };
        all.extend([
            case(operator, &[&[2, 3, 4, 5]]).ints("axes", &[1, -1]).int("keepdims", 0).at(&[11]),
            case(operator, &[&[2, 3, 4]]).ints("axes", &[2, 0]).at(&[11]),
            case(operator, &[&[2, 3, 1]]).known(&[1]).int("keepdims", 0).at(by_input),
            case(operator, &[&[2, 3, 4]]).known(&[0, -1]).at(by_input),
            case(operator, &[&[2, 3]]).at(&[11, 18]),
            case(operator, &[&[2, 3]]).int("keepdims", 0).at(&[11, 18]),
            case(operator, &[&[1]]).known(&[0]).at(&[18]),
        ]);
    }
    all.extend([
        case("ReduceSum", &[&[2, 3]]).int("noop_with_empty_axes", 1).at(&[13]),
        case("ReduceMean", &[&[2, 3]]).known(&[]).int("noop_with_empty_axes", 1).at(&[18]),
        case("ReduceMax", &[&[2, 3]]).known(&[]).int("noop_with_empty_axes", 1).at(&[18]),
    ]);
    all
}

fn products() -> Vec<Case> {
    let mut all = vec![
        case("Gemm", &[&[3, 4], &[4, 5], &[5]]).float("alpha", 0.5).float("beta", 2.0).at(&[7, 13]),
        case("Gemm", &[&[4, 3], &[5, 4], &[3, 1]]).int("transA", 1).int("transB", 1),
        case("Gemm", &[&[4, 3], &[4, 5]]).int("transA", 1),
        case("Gemm", &[&[3, 4], &[5, 4], &[]]).int("transB", 1),
        case("Gemm", &[&[1, 1], &[1, 1], &[1, 1]]),
    ];
    let shapes: [(&[usize], &[usize]); 9] = [
        (&[3, 4], &[4, 5]),
        (&[2, 3, 4], &[4, 5]),
        (&[2, 3, 4], &[2, 4, 5]),
        (&[2, 1, 3, 4], &[3, 4, 2]),
        (&[4], &[4, 5]),
        (&[2, 3, 4], &[4]),
        (&[4], &[4]),
        (&[3, 4], &[2, 4, 5]),
        (&[1, 1, 1], &[1, 1]),
    ];
    all.extend(shapes.iter().map(|(a, b)| case("MatMul", &[a, b])));
    let attention = |shapes: &[&[usize]]| case("Attention", shapes).at(&[23]);
    all.extend([
        attention(&[&[2, 3, 4, 2], &[2, 3, 5, 2], &[2, 3, 5, 3]]),
        attention(&[&[1, 2, 3, 4], &[1, 2, 3, 4], &[1, 2, 3, 4]])
            .int("is_causal", 1)
            .float("scale", 0.3),
        attention(&[&[2, 4, 3, 2], &[2, 2, 5, 2], &[2, 2, 5, 1]]),
        attention(&[&[2, 2, 3, 2], &[2, 2, 4, 2], &[2, 2, 4, 2], &[3, 4]]),
        attention(&[&[2, 2, 3, 2], &[2, 2, 4, 2], &[2, 2, 4, 2], &[2, 1, 3, 4]]),
        attention(&[&[2, 3, 4], &[2, 5, 4], &[2, 5, 6]])
            .int("q_num_heads", 2)
            .int("kv_num_heads", 2),
        attention(&[&[1, 3, 8], &[1, 5, 4], &[1, 5, 2]])
            .int("q_num_heads", 4)
            .int("kv_num_heads", 2),
    ]);
    let mut hidden = attention(&[&[1, 2, 2, 3], &[1, 2, 3, 3], &[1, 2, 3, 2]]);
    hidden.operands.push(Operand::Bools(vec![2, 3], vec![true, false, true, true, true, false]));
    all.push(hidden);
    let equations: [(&'static str, &[&[usize]]); 10] = [
        ("ij,jk->ik", &[&[2, 3], &[3, 4]]),
        ("bhid,bhjd->bhij", &[&[2, 3, 2, 4], &[2, 3, 5, 4]]),
        ("bhij,bjhd->bihd", &[&[2, 3, 2, 4], &[2, 4, 3, 5]]),
        ("bchw,oc->bohw", &[&[2, 3, 1, 4], &[2, 3]]),
        ("i,j->ji", &[&[3], &[2]]),
        ("ij,ij", &[&[3, 2], &[3, 2]]),
        ("ijk,kl", &[&[3, 2, 4], &[4, 2]]),
        ("ijs,jkt->ki", &[&[3, 2, 2], &[2, 4, 3]]),
        ("iji->j", &[&[3, 2, 3]]),
        ("abc->ca", &[&[2, 3, 4]]),
    ];
    all.extend(
        equations
            .iter()
            .map(|(equation, shapes)| case("Einsum", shapes).text("equation", equation)),
    );
    all
}

fn views() -> Vec<Case> {
    vec![
        case("Transpose", &[&[2, 3, 4]]).ints("perm", &[2, 0, 1]),
        case("Transpose", &[&[2, 3]]),
        case("Slice", &[&[5, 6, 3]])
            .known(&[0, 5])
            .known(&[i64::MAX, i64::MIN + 1])
            .known(&[0, 1])
            .known(&[2, -2]),
        case("Slice", &[&[5, 6]]).known(&[-3]).known(&[-1]).known(&[1]),
        case("Slice", &[&[5, 6]])
            .ints("starts", &[1, -4])
            .ints("ends", &[9, -1])
            .ints("axes", &[0, 1])
            .at(&[9]),
        case("Split", &[&[2, 7]]).int("axis", 1).known(&[2, 5]).outputs(2).at(&[13]),
        case("Split", &[&[2, 7]]).int("axis", -1).ints("split", &[4, 3]).outputs(2).at(&[11]),
        case("Split", &[&[6, 2]]).outputs(3).at(&[11, 13]),
        case("Split", &[&[7, 2]]).int("num_outputs", 3).outputs(3).at(&[18]),
        case("Expand", &[&[3, 1]]).known(&[2, 1, 4]),
        case("Expand", &[&[3, 4]]).known(&[1]),
        case("Tile", &[&[2, 1, 3]]).known(&[1, 3, 2]),
        case("Tile", &[&[2]]).known(&[1]),
        case("Concat", &[&[2, 3], &[2, 1], &[2, 2]]).int("axis", -1),
        case("Concat", &[&[1, 3], &[4, 3]]).int("axis", 0),
        case("Concat", &[&[2, 2]]).int("axis", 1),
        case("Gather", &[&[2, 4, 3]]).int("axis", 1).known(&[3, 0, -1, 3]),
        case("Gather", &[&[4, 3]]).known_of(&[2, 2], &[1, 1, -4, 2]),
        case("Gather", &[&[2, 4, 3]]).int("axis", -1).known_of(&[], &[1]),
        case("Reshape", &[&[2, 3, 4]]).known(&[0, -1]),
        case("Reshape", &[&[2, 3, 4]]).known(&[4, 6]).int("allowzero", 1),
        case("Flatten", &[&[2, 3, 4]]).int("axis", 2),
        case("Flatten", &[&[2, 3, 4]]).int("axis", 0),
        case("Flatten", &[&[2, 3, 4]]).int("axis", -1).at(&[11, 13]),
        case("Squeeze", &[&[2, 1, 4]]).known(&[-2]),
        case("Squeeze", &[&[2, 1, 4, 1]]).at(&[11, 13]),
        case("Squeeze", &[&[2, 1, 4, 1]]).ints("axes", &[1]).at(&[11]),
        case("Unsqueeze", &[&[2, 4]]).known(&[0, -1]),
        case("Unsqueeze", &[&[2, 4]]).ints("axes", &[1, 2]).at(&[11]),
        case("DepthToSpace", &[&[2, 12, 2, 3]]).int("blocksize", 2).at(&[11, 13]),
        case("DepthToSpace", &[&[2, 12, 2, 3]]).int("blocksize", 2).text("mode", "CRD"),
        case("SpaceToDepth", &[&[2, 3, 4, 6]]).int("blocksize", 2),
        case("Trilu", &[&[2, 3, 4]]),
        case("Trilu", &[&[4, 3]]).known_of(&[], &[-1]).int("upper", 0),
    ]
}

fn pads() -> Vec<Case> {
    let pad = |shape: &[usize]| case("Pad", &[shape]).at(&[13]);
    vec![
        pad(&[2, 3]).known(&[1, 0, 0, 2]).number(1.5),
        pad(&[2, 3]).known(&[1, 0, 0, 2]).at(&[11, 18]),
        pad(&[2, 3]).ints("pads", &[1, 0, 0, 2]).float("value", 0.5).at(&[7]),
        pad(&[4, 5]).known(&[-1, 2, 1, -2]).number(0.5),
        pad(&[4, 5]).known(&[-1, 0, -1, -2]),
        pad(&[1, 2, 5, 4]).known(&[0, 0, 2, 3, 0, 0, 1, 2]).text("mode", "reflect"),
        pad(&[1, 2, 5, 4]).known(&[0, 0, 2, 3, 0, 0, 7, 1]).text("mode", "edge"),
        pad(&[1, 2, 5, 4]).ints("pads", &[0, 0, 1, 1, 0, 0, 2, 0]).text("mode", "reflect").at(&[7]),
        pad(&[6, 7]).known(&[-1, 2, 2, -3]).text("mode", "edge"),
        pad(&[6, 7]).known(&[-1, 2, 2, -3]).text("mode", "reflect"),
        pad(&[3, 4]).known(&[2, 1, 1, 4]).text("mode", "wrap").at(&[19]),
        pad(&[2, 3, 4]).known(&[1, 2]).number(0.5).known(&[-1]).at(&[18]),
        pad(&[2, 3, 4]).known(&[1, 2, 0, 1]).absent().known(&[2, 0]).at(&[18]),
    ]
}

fn resizes() -> Vec<Case> {
    // before opset 13 what is not given is an empty tensor, and not left out
    let resize = |shape: &[usize]| case("Resize", &[shape]).known_floats(&[]);
    let mut all = Vec::new();
    for mode in ["nearest", "linear", "cubic"] {
        for coordinates in ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"] {
            for sizes in [[1, 2, 8, 10], [1, 2, 3, 11], [1, 2, 1, 4]] {
                let case = resize(&[1, 2, 5, 4]).known_floats(&[]).known(&sizes).text("mode", mode);
                all.push(
                    case.text("coordinate_transformation_mode", coordinates).at(&[11, 13, 19]),
                );
            }
            let case = resize(&[2, 1, 3, 4]).known_floats(&[1.0, 1.0, 2.0, 1.5]).text("mode", mode);
            all.push(case.text("coordinate_transformation_mode", coordinates).at(&[11, 19]));
            let case = resize(&[2, 1, 6, 7]).known_floats(&[1.0, 1.0, 0.6, 0.5]).text("mode", mode);
            all.push(case.text("coordinate_transformation_mode", coordinates).at(&[11, 19]));
        }
    }
    for nearest in ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"] {
        for coordinates in ["half_pixel", "asymmetric"] {
            for scale in [2.0, 0.7] {
                let case = resize(&[1, 1, 5, 4])
                    .known_floats(&[1.0, 1.0, scale, 2.0 * scale])
                    .text("nearest_mode", nearest);
                all.push(case.text("coordinate_transformation_mode", coordinates).at(&[13]));
            }
        }
    }
    all.extend([
        resize(&[1, 2, 4, 3])
            .known_floats(&[2.5, 1.5])
            .ints("axes", &[2, 3])
            .text("mode", "linear")
            .at(&[18]),
        case("Resize", &[&[1, 2, 4, 3]])
            .absent()
            .absent()
            .known(&[5, 2])
            .ints("axes", &[3, 2])
            .text("mode", "linear")
            .at(&[18]),
        resize(&[1, 2, 5]).known_floats(&[1.0, 1.0, 2.0]).text("mode", "linear").at(&[13]),
        resize(&[1, 2, 5, 3])
            .known_floats(&[1.0, 1.0, 1.3, 1.7])
            .text("mode", "linear")
            .text("coordinate_transformation_mode", "half_pixel_symmetric")
            .at(&[19]),
        resize(&[1, 1, 4, 4])
            .known_floats(&[1.0, 1.0, 1.7, 0.8])
            .text("mode", "cubic")
            .float("cubic_coeff_a", -0.5)
            .int("exclude_outside", 1)
            .at(&[13]),
        resize(&[1, 1, 4, 4])
            .known_floats(&[1.0, 1.0, 2.0, 0.8])
            .text("coordinate_transformation_mode", "tf_half_pixel_for_nn")
            .at(&[11]),
        case("Resize", &[&[1, 2, 3, 4]]).known_floats(&[1.0, 1.0, 2.0, 1.5]).at(&[10]),
        case("Resize", &[&[1, 2, 3, 4]])
            .known_floats(&[1.0, 1.0, 2.0, 1.5])
            .text("mode", "linear")
            .at(&[10]),
        case("Resize", &[&[1, 2, 6, 7]]).known_floats(&[1.0, 1.0, 0.5, 0.6]).at(&[10]),
        case("Upsample", &[&[1, 2, 3, 4]]).known_floats(&[1.0, 1.0, 2.0, 3.0]).at(&[9]),
        case("Upsample", &[&[1, 2, 3, 4]])
            .known_floats(&[1.0, 1.0, 2.0, 1.5])
            .text("mode", "linear")
            .at(&[9]),
        case("Upsample", &[&[1, 2, 3, 4]]).with(floats("scales", &[1.0, 1.0, 2.0, 3.0])).at(&[7]),
    ]);
    all
}

fn choices() -> Vec<Case> {
    let mut condition = case("Where", &[]);
    condition.operands = vec![
        Operand::Bools(vec![3, 1], vec![true, false, true]),
        Operand::Float(vec![2, 3, 4]),
        Operand::Float(vec![4]),
    ];
    let mut scalar = case("Where", &[]);
    scalar.operands = vec![
        Operand::Bools(vec![2, 3], vec![true, false, true, false, false, true]),
        Operand::Float(vec![2, 3]),
        Operand::Floats(vec![], vec![-3.0]),
    ];
    let mut all = vec![condition, scalar];
    for operator in ["Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"] {
        all.push(case(operator, &[&[2, 3], &[3]]).whole().at(&[17]));
    }
    all.push(case("IsNaN", &[&[2, 3]]).whole());
    all.push(case("IsInf", &[&[2, 3]]).int("detect_negative", 0).whole());
    all.push(case("ReduceMax", &[&[2, 3]]).known(&[1]).flat().at(&[18, 20]));
    all
}

/// What indices pick, and where they write.
fn indexed() -> Vec<Case> {
    let mut all = vec![
        case("GatherElements", &[&[3, 4]]).known_of(&[2, 4], &[0, 2, 1, -1, 2, 2, 0, -3]).at(&[11]),
        case("GatherElements", &[&[2, 5, 3]])
            .known_of(&[2, 2, 1], &[4, 0, -2, 4])
            .int("axis", 1)
            .at(&[13]),
        case("GatherElements", &[&[2, 3]])
            .known_of(&[2, 5], &[0, 0, 2, 1, -1, 2, 1, 0, 1, 1])
            .int("axis", -1),
        case("GatherND", &[&[3, 4, 2]]).known_of(&[3, 2], &[0, 3, 2, -1, 0, 3]).at(&[11, 13]),
        case("GatherND", &[&[3, 4, 2]]).known_of(&[2, 1, 1], &[2, -3]),
        case("GatherND", &[&[3, 4]]).known_of(&[3, 2], &[0, 0, 2, 3, 0, 0]),
        case("GatherND", &[&[2, 3, 4]])
            .known_of(&[2, 2, 1], &[0, 2, 1, 1])
            .int("batch_dims", 1)
            .at(&[13]),
        case("Scatter", &[&[3, 4]]).known_of(&[1, 4], &[2, 0, 1, -1]).beside(&[1, 4]).at(&[9]),
        // of floats: whole parts count, and -4 to 3 are places
        case("OneHot", &[&[2, 7]])
            .within(-6.0, 6.0)
            .number(4.0)
            .known_floats(&[0.5, 2.0])
            .flat()
            .at(&[11]),
        case("OneHot", &[&[2, 3]])
            .within(-3.0, 3.0)
            .number(3.0)
            .known_floats(&[0.0, 1.0])
            .int("axis", 1)
            .flat(),
    ];
    let elements = |shape: &[usize]| case("ScatterElements", &[shape]);
    let rows = |shape: &[usize]| case("ScatterND", &[shape]);
    all.extend([
        elements(&[3, 4]).known_of(&[2, 3], &[0, 2, 1, -1, 0, 2]).beside(&[2, 3]).at(&[11, 13, 18]),
        // the last of equal places stays
        elements(&[2, 5]).known_of(&[2, 3], &[1, 4, 1, 0, 0, -5]).int("axis", 1).beside(&[2, 3]),
        elements(&[2, 3, 4])
            .known_of(&[2, 2, 1], &[0, 2, -1, 1])
            .int("axis", -2)
            .text("reduction", "none")
            .beside(&[2, 2, 1]),
        rows(&[3, 4]).known_of(&[2, 1], &[2, 0]).beside(&[2, 4]).at(&[11, 13, 18]),
        rows(&[3, 4]).known_of(&[3, 2], &[2, 0, 1, -1, 0, 2]).beside(&[3]),
        rows(&[4, 2, 3]).known_of(&[2, 2, 1], &[3, 0, 1, -2]).beside(&[2, 2, 2, 3]),
    ]);
    for reduction in ["add", "max", "min"] {
        let opsets = if reduction == "add" { &[16, 18][..] } else { &[18][..] };
        all.extend([
            elements(&[3, 4])
                .known_of(&[3, 2], &[0, 2, 0, 2, 1, -1])
                .beside(&[3, 2])
                .text("reduction", reduction)
                .at(opsets),
            rows(&[4, 3])
                .known_of(&[3, 1], &[1, 1, -1])
                .beside(&[3, 3])
                .text("reduction", reduction)
                .at(opsets),
        ]);
    }
    for operator in ["ArgMax", "ArgMin"] {
        all.extend([
            case(operator, &[&[3, 5, 2]]).whole().at(&[11, 13]),
            case(operator, &[&[3, 5, 2]]).int("axis", 1).int("keepdims", 0).whole(),
            case(operator, &[&[2, 3]]).int("axis", -1).int("select_last_index", 1).whole(),
        ]);
    }
    all
}

/// Three spatial axes.
fn volumes() -> Vec<Case> {
    let conv = |shapes: &[&[usize]]| case("Conv", shapes);
    let mut all = vec![
        conv(&[&[2, 3, 4, 5, 3], &[4, 3, 3, 2, 2], &[4]])
            .ints("pads", &[1, 0, 1, 2, 1, 0])
            .ints("strides", &[1, 2, 1])
            .at(&[11, 22]),
        conv(&[&[1, 2, 7, 4, 5], &[3, 2, 3, 1, 2]])
            .ints("dilations", &[2, 1, 3])
            .ints("pads", &[3, 0, 1, 1, 0, 2])
            .ints("strides", &[2, 1, 1]),
        conv(&[&[2, 4, 3, 4, 3], &[6, 2, 2, 3, 1], &[6]]).int("group", 2),
        conv(&[&[1, 3, 4, 3, 5], &[3, 1, 3, 3, 3]])
            .int("group", 3)
            .ints("pads", &[1, 1, 1, 1, 1, 1]),
        conv(&[&[1, 2, 5, 4, 3], &[2, 2, 2, 3, 2]])
            .text("auto_pad", "SAME_UPPER")
            .ints("strides", &[2, 3, 1]),
        conv(&[&[3, 2, 2, 3, 1], &[3, 2, 1, 1, 1], &[3]]),
        case("BatchNormalization", &[&[2, 3, 2, 1, 3], &[3], &[3], &[3], &[3]]),
        case("InstanceNormalization", &[&[2, 3, 2, 4, 3], &[3], &[3]]),
        case("GlobalAveragePool", &[&[2, 3, 2, 4, 3]]),
        case("GlobalMaxPool", &[&[2, 3, 2, 4, 3]]),
    ];
    for operator in ["MaxPool", "AveragePool"] {
        let pool =
            |shape: &[usize], kernel: &[i64]| case(operator, &[shape]).ints("kernel_shape", kernel);
        all.extend([
            pool(&[2, 2, 5, 4, 3], &[2, 3, 1]).ints("strides", &[2, 1, 1]).at(&[11, 19]),
            pool(&[1, 2, 6, 7, 5], &[3, 2, 2])
                .ints("strides", &[2, 3, 2])
                .ints("pads", &[1, 0, 1, 1, 1, 0])
                .int("ceil_mode", 1)
                .at(&[19]),
            pool(&[1, 2, 5, 4, 6], &[2, 2, 3])
                .ints("strides", &[2, 2, 2])
                .text("auto_pad", "SAME_LOWER"),
            pool(&[1, 1, 6, 5, 7], &[2, 2, 3]).ints("dilations", &[3, 1, 2]).at(&[19]),
        ]);
    }
    all.push(
        case("AveragePool", &[&[1, 2, 6, 5, 4]])
            .ints("kernel_shape", &[3, 2, 3])
            .ints("strides", &[2, 2, 1])
            .ints("pads", &[1, 1, 1, 1, 0, 1])
            .int("ceil_mode", 1)
            .int("count_include_pad", 1)
            .at(&[19]),
    );
    all
}
