//! Graphs drawn at random: forward as ONNX Runtime, backward as finite differences along random
//! directions.

use super::Random;
use super::graph::{FLOAT, float, int, ints, text};
use super::net::{Net, Objective, compare, values};
use candle_core::DType;
use nst_cache::student::Mode;

/// A graph that grows, and the tensors in it.
pub struct Growth {
    net: Net,
    random: Random,
    /// The tensor that the next operator takes.
    name: String,
    shape: Vec<usize>,
    /// Earlier tensors, for branches to join.
    earlier: Vec<(String, Vec<usize>)>,
    count: usize,
}

const LARGEST: usize = 600;

impl Growth {
    fn new(seed: u64, opset: i64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..5 {
            random.next();
        }
        let mut net = Net::new(opset);
        let shape = match random.below(3) {
            0 => vec![2, 1 + random.below(3), 4 + random.below(4), 3 + random.below(4)],
            1 => vec![2, 2, 5 + random.below(6)],
            _ => vec![3, 4 + random.below(5)],
        };
        let count = shape.iter().product();
        let numbers = random.numbers(count, -1.5, 1.5);
        net.input("x", super::net::array_of(&shape, &numbers));
        let mut growth = Self {
            net,
            random,
            name: "x".into(),
            shape: shape.clone(),
            earlier: Vec::new(),
            count: 0,
        };
        // something to differentiate in front of everything
        let p = growth.parameter(&shape, 0.5, 1.5);
        growth.push("Mul", &[&p], vec![], shape);
        growth
    }

    fn fresh(&mut self, prefix: &str) -> String {
        self.count += 1;
        format!("{prefix}{}", self.count)
    }

    fn parameter(&mut self, shape: &[usize], low: f64, high: f64) -> String {
        let name = self.fresh("p");
        let numbers = self.random.numbers(shape.iter().product(), low, high);
        self.net.float(&name, shape, &numbers)
    }

    fn known(&mut self, values: &[i64]) -> String {
        let name = self.fresh("k");
        self.net.int64(&name, &[values.len()], values)
    }

    /// An operator on the current tensor and more, that becomes the current one.
    fn push(
        &mut self,
        operator: &str,
        more: &[&str],
        attributes: Vec<nst_cache::onnx::proto::AttributeProto>,
        shape: Vec<usize>,
    ) {
        let out = self.fresh("t");
        let name = self.name.clone();
        let inputs: Vec<&str> = [name.as_str()].into_iter().chain(more.iter().copied()).collect();
        self.net.node(operator, &inputs, &[&out], attributes);
        self.earlier.push((
            std::mem::replace(&mut self.name, out),
            std::mem::replace(&mut self.shape, shape),
        ));
    }

    /// One axis from either end.
    fn axis(&mut self) -> (usize, i64) {
        let rank = self.shape.len();
        let axis = self.random.below(rank);
        (axis, if self.random.chance(50) { axis as i64 - rank as i64 } else { axis as i64 })
    }

    fn shape_with(&self, axis: usize, size: usize) -> Vec<usize> {
        let mut shape = self.shape.clone();
        shape[axis] = size;
        shape
    }

    /// A shape that repeats to the current one.
    fn repeating(&mut self) -> Vec<usize> {
        let drop = self.random.below(self.shape.len());
        let kept = self.shape[drop..].to_vec();
        kept.into_iter().map(|n| if self.random.chance(30) { 1 } else { n }).collect()
    }

    fn step(&mut self) {
        let maps = self.shape.len() == 3 || self.shape.len() == 4;
        match self.random.below(if maps { 5 } else { 3 }) {
            0 => self.function(),
            1 => self.join(),
            2 => self.reshape(),
            3 => self.convolve(),
            _ => self.pool(),
        }
    }

    fn function(&mut self) {
        let shape = self.shape.clone();
        let smooth = ["Sigmoid", "Tanh", "Softplus", "Erf", "Softsign", "Sin"];
        let kinked = [
            "Relu",
            "LeakyRelu",
            "Elu",
            "Selu",
            "HardSigmoid",
            "Abs",
            "Identity",
            "Dropout",
            "Neg",
            "Celu",
            "HardSwish",
        ];
        // the last two came with opsets 12 and 14
        let kinked = &kinked[..if self.net.opset >= 14 { 11 } else { 9 }];
        match self.random.below(9) {
            0 | 1 => {
                let operator = self.random.pick(&smooth);
                self.push(operator, &[], vec![], shape);
            }
            2 | 3 => {
                let operator = self.random.pick(kinked);
                self.push(operator, &[], vec![], shape);
            }
            4 => {
                let (_, axis) = self.axis();
                let operator = self.random.pick(&["Softmax", "LogSoftmax"]);
                self.push(operator, &[], vec![int("axis", axis)], shape);
            }
            5 => {
                let (low, high) = (self.fresh("k"), self.fresh("k"));
                self.net.float(&low, &[], &[-0.61]);
                self.net.float(&high, &[], &[0.83]);
                self.push("Clip", &[&low, &high], vec![], shape);
            }
            6 => {
                let slope = self.repeating();
                let slope = self.parameter(&slope, -0.4, 0.6);
                self.push("PRelu", &[&slope], vec![], shape);
            }
            7 if self.net.opset >= 17 => {
                let (axis, written) = self.axis();
                let tail = shape[axis..].to_vec();
                let (scale, bias) =
                    (self.parameter(&tail, 0.5, 1.5), self.parameter(&tail, -0.5, 0.5));
                self.push(
                    "LayerNormalization",
                    &[&scale, &bias],
                    vec![int("axis", written), float("epsilon", 0.01)],
                    shape,
                );
            }
            7 | 8 if shape.len() > 2 => {
                let c = [shape[1]];
                let (scale, bias) = (self.parameter(&c, 0.5, 1.5), self.parameter(&c, -0.5, 0.5));
                if self.random.chance(50) {
                    self.push(
                        "InstanceNormalization",
                        &[&scale, &bias],
                        vec![float("epsilon", 0.1)],
                        shape,
                    );
                } else {
                    let (mean, var) = (self.parameter(&c, -0.5, 0.5), self.parameter(&c, 0.5, 1.5));
                    self.push(
                        "BatchNormalization",
                        &[&scale, &bias, &mean, &var],
                        vec![float("epsilon", 0.1)],
                        shape,
                    );
                }
            }
            _ => self.push("Sigmoid", &[], vec![], shape),
        }
    }

    fn join(&mut self) {
        let shape = self.shape.clone();
        let same: Vec<String> = self
            .earlier
            .iter()
            .filter(|(_, s)| *s == shape)
            .map(|(name, _)| name.clone())
            .collect();
        let other = if same.is_empty() || self.random.chance(40) {
            let own = self.repeating();
            self.parameter(&own, 0.4, 1.4)
        } else {
            same[self.random.below(same.len())].clone()
        };
        match self.random.below(6) {
            0 | 1 => {
                let operator =
                    self.random.pick(&["Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean"]);
                self.push(operator, &[&other], vec![], shape);
            }
            2 if !same.is_empty() => {
                let (axis, written) = self.axis();
                let other = same[0].clone();
                let joined = self.shape_with(axis, 2 * shape[axis]);
                self.push("Concat", &[&other], vec![int("axis", written)], joined);
            }
            3 => {
                // a choice that depends on the data
                let mask = self.fresh("m");
                let name = self.name.clone();
                self.net.node("Greater", &[&name, &other], &[&mask], vec![]);
                if self.random.chance(50) {
                    let scaled = self.fresh("t");
                    self.net.node("Cast", &[&mask], &[&scaled], vec![int("to", FLOAT.into())]);
                    self.push("Mul", &[&scaled], vec![], shape);
                } else {
                    let (out, name) = (self.fresh("t"), self.name.clone());
                    let branch = self.parameter(&[1], -0.7, 0.7);
                    self.net.node("Where", &[&mask, &name, &branch], &[&out], vec![]);
                    self.earlier.push((std::mem::replace(&mut self.name, out), shape));
                }
            }
            4 => {
                let [.., rows] = shape[..] else { return };
                let columns = 1 + self.random.below(4);
                let weight = self.parameter(&[rows, columns], -0.8, 0.8);
                let out = self.shape_with(shape.len() - 1, columns);
                self.push("MatMul", &[&weight], vec![], out);
            }
            _ if shape.len() == 2 => {
                let columns = 1 + self.random.below(4);
                let (weight, bias) = (
                    self.parameter(&[columns, shape[1]], -0.8, 0.8),
                    self.parameter(&[columns], -0.5, 0.5),
                );
                self.push(
                    "Gemm",
                    &[&weight, &bias],
                    vec![int("transB", 1), float("alpha", 0.7)],
                    vec![shape[0], columns],
                );
            }
            _ => self.push("Add", &[&other], vec![], shape),
        }
    }

    fn reshape(&mut self) {
        let shape = self.shape.clone();
        let size: usize = shape.iter().product();
        let late = self.net.opset >= 13;
        let (axis, written) = self.axis();
        match self.random.below(10) {
            0 => {
                let mut order: Vec<usize> = (0..shape.len()).collect();
                order.rotate_left(self.random.below(shape.len()));
                let out = order.iter().map(|&a| shape[a]).collect();
                self.push(
                    "Transpose",
                    &[],
                    vec![ints("perm", &order.iter().map(|&a| a as i64).collect::<Vec<_>>())],
                    out,
                );
            }
            1 if shape[axis] > 1 => {
                let (start, end, at) =
                    (self.known(&[1]), self.known(&[i64::MAX]), self.known(&[written]));
                let out = self.shape_with(axis, shape[axis] - 1);
                self.push("Slice", &[&start, &end, &at], vec![], out);
            }
            2 if size <= LARGEST / 2 => {
                let mut repeats = vec![1i64; shape.len()];
                repeats[axis] = 2;
                let repeats = self.known(&repeats);
                let out = self.shape_with(axis, 2 * shape[axis]);
                self.push("Tile", &[&repeats], vec![], out);
            }
            3 => {
                let indices: Vec<i64> = (0..3)
                    .map(|_| {
                        self.random.below(shape[axis]) as i64
                            - self.random.pick(&[0, shape[axis]]) as i64
                    })
                    .collect();
                let indices = self.known(&indices);
                let out = self.shape_with(axis, 3);
                self.push("Gather", &[&indices], vec![int("axis", written)], out);
            }
            4 => {
                let operator = self.random.pick(&[
                    "ReduceMean",
                    "ReduceMax",
                    "ReduceMin",
                    "ReduceL2",
                    "ReduceLogSumExp",
                ]);
                let out = self.shape_with(axis, 1);
                if self.net.opset >= 18 {
                    let axes = self.known(&[written]);
                    self.push(operator, &[&axes], vec![], out);
                } else {
                    self.push(operator, &[], vec![ints("axes", &[written])], out);
                }
            }
            5 => {
                let out = vec![shape[0], shape[1..].iter().product()];
                self.push("Flatten", &[], vec![], out);
            }
            6 if shape.len() < 4 => {
                let out = [&shape[..1], &[1], &shape[1..]].concat();
                if late {
                    let axes = self.known(&[1]);
                    self.push("Unsqueeze", &[&axes], vec![], out);
                } else {
                    self.push("Unsqueeze", &[], vec![ints("axes", &[1])], out);
                }
            }
            7 if size <= LARGEST / 2 => {
                let mode = self.random.pick(&["constant", "edge", "reflect"]);
                let mut pads = vec![0i64; 2 * shape.len()];
                pads[axis] = i64::from(shape[axis] > 1);
                pads[shape.len() + axis] =
                    if shape[axis] > 2 { self.random.pick(&[-1, 0, 2]) } else { 0 };
                if mode == "reflect" && shape[axis] < 4 {
                    pads.fill(0);
                }
                let grown = shape[axis] as i64 + pads[axis] + pads[shape.len() + axis];
                let (pads, out) = (self.known(&pads), self.shape_with(axis, grown as usize));
                self.push("Pad", &[&pads], vec![text("mode", mode)], out);
            }
            8 if shape[axis] > 1 => {
                // both parts go on
                let (a, b, name) = (self.fresh("t"), self.fresh("t"), self.name.clone());
                let sizes = [1, shape[axis] as i64 - 1];
                if late {
                    let sizes = self.known(&sizes);
                    self.net.node("Split", &[&name, &sizes], &[&a, &b], vec![int("axis", written)]);
                } else {
                    self.net.node(
                        "Split",
                        &[&name],
                        &[&a, &b],
                        vec![int("axis", written), ints("split", &sizes)],
                    );
                }
                let rest = self.shape_with(axis, shape[axis] - 1);
                self.earlier.push((
                    std::mem::replace(&mut self.name, b),
                    std::mem::replace(&mut self.shape, rest),
                ));
                self.push("Concat", &[&a], vec![int("axis", written)], shape);
            }
            _ => {
                let target = self.known(&[0, -1]);
                self.push("Reshape", &[&target], vec![], vec![shape[0], size / shape[0]]);
            }
        }
    }

    /// Sizes of a window along the spatial axes that fits.
    fn convolve(&mut self) {
        let shape = self.shape.clone();
        let spatial = shape.len() - 2;
        let group = if shape[1].is_multiple_of(2) && self.random.chance(40) { 2 } else { 1 };
        let kernel: Vec<usize> =
            shape[2..].iter().map(|&n| 1 + self.random.below(3.min(n))).collect();
        let stride: Vec<usize> = (0..spatial).map(|_| 1 + self.random.below(2)).collect();
        let written = |v: &[usize]| v.iter().map(|&n| n as i64).collect::<Vec<_>>();
        let filters = group * (1 + self.random.below(2));
        let attributes = vec![int("group", group as i64), ints("strides", &written(&stride))];
        let bias = self.parameter(&[filters], -0.5, 0.5);
        let size: usize = shape.iter().product();
        if self.random.chance(30) && size <= LARGEST / 4 {
            let weight =
                self.parameter(&[&[shape[1], filters / group][..], &kernel].concat(), -0.6, 0.6);
            let out: Vec<usize> =
                (0..spatial).map(|i| stride[i] * (shape[2 + i] - 1) + kernel[i]).collect();
            return self.push(
                "ConvTranspose",
                &[&weight, &bias],
                attributes,
                [&[shape[0], filters][..], &out].concat(),
            );
        }
        let weight =
            self.parameter(&[&[filters, shape[1] / group][..], &kernel].concat(), -0.6, 0.6);
        let before: Vec<usize> = (0..spatial).map(|_| self.random.below(2)).collect();
        let after: Vec<usize> = (0..spatial).map(|_| self.random.below(3)).collect();
        let out: Vec<usize> = (0..spatial)
            .map(|i| (shape[2 + i] + before[i] + after[i] - kernel[i]) / stride[i] + 1)
            .collect();
        let pads = ints("pads", &written(&[before, after].concat()));
        self.push(
            "Conv",
            &[&weight, &bias],
            [attributes, vec![pads]].concat(),
            [&[shape[0], filters][..], &out].concat(),
        );
    }

    fn pool(&mut self) {
        let shape = self.shape.clone();
        let spatial = shape.len() - 2;
        let written = |v: &[usize]| v.iter().map(|&n| n as i64).collect::<Vec<_>>();
        match self.random.below(4) {
            0 | 1 => {
                let kernel: Vec<usize> =
                    shape[2..].iter().map(|&n| 1 + self.random.below(3.min(n))).collect();
                let stride: Vec<usize> = (0..spatial).map(|_| 1 + self.random.below(2)).collect();
                let out: Vec<usize> =
                    (0..spatial).map(|i| (shape[2 + i] - kernel[i]) / stride[i] + 1).collect();
                let operator = self.random.pick(&["MaxPool", "AveragePool"]);
                let attributes = vec![
                    ints("kernel_shape", &written(&kernel)),
                    ints("strides", &written(&stride)),
                ];
                self.push(operator, &[], attributes, [&shape[..2], &out].concat());
            }
            2 if shape.iter().product::<usize>() <= LARGEST / 4 => {
                let mode = self.random.pick(&["nearest", "linear"]);
                let out: Vec<usize> =
                    shape[2..].iter().map(|&n| 1 + self.random.below(2 * n)).collect();
                let sizes = self.known(&written(&[&shape[..2], &out].concat()));
                let empty = self.fresh("k");
                self.net.float(&empty, &[0], &[]);
                let coordinates = self.random.pick(&[
                    "half_pixel",
                    "pytorch_half_pixel",
                    "align_corners",
                    "asymmetric",
                ]);
                let attributes =
                    vec![text("mode", mode), text("coordinate_transformation_mode", coordinates)];
                self.push(
                    "Resize",
                    &[&empty, &empty, &sizes],
                    attributes,
                    [&shape[..2], &out].concat(),
                );
            }
            3 if shape.len() == 4 => {
                self.push("LRN", &[], vec![int("size", 3), float("alpha", 0.5)], shape);
            }
            _ => {
                let operator = self.random.pick(&["GlobalAveragePool", "GlobalMaxPool"]);
                self.push(operator, &[], vec![], [&shape[..2], &vec![1; spatial]].concat());
            }
        }
    }

    /// A graph of some operators with one output.
    pub fn grow(seed: u64) -> Net {
        let opset = [11, 13, 17, 18, 20][seed as usize % 5];
        let mut growth = Self::new(seed, opset);
        let length = 3 + growth.random.below(6);
        for _ in 0..length {
            growth.step();
            if growth.shape.iter().product::<usize>() > LARGEST {
                break;
            }
        }
        let name = growth.name.clone();
        growth.net.output(&name);
        growth.net
    }
}

pub fn describe(seed: u64, net: &Net) -> String {
    let operators: Vec<&str> =
        net.nodes.iter().map(nst_cache::onnx::proto::NodeProto::op_type).collect();
    format!("graph {seed} (opset {}, {})", net.opset, operators.join(" → "))
}

const GRAPHS: u64 = 1000;

#[test]
fn random_graphs_agree_with_onnx_runtime() {
    let mut failures = Vec::new();
    for seed in 0..GRAPHS {
        let net = Growth::grow(seed);
        let found = net
            .try_student(DType::F32)
            .and_then(|student| net.evaluate(&student, DType::F32, Mode::Eval));
        let result = found.and_then(|found| {
            compare(&found, &net.runtime().map_err(|e| format!("ONNX Runtime: {e}"))?, 1e-5)
        });
        if let Err(reason) = result {
            failures.push(format!("{}: {reason}", describe(seed, &net)));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {GRAPHS} graphs differ:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn random_graphs_agree_with_finite_differences() {
    let mut failures = Vec::new();
    for seed in 0..GRAPHS {
        let net = Growth::grow(seed);
        if let Err(reason) = slope(&net, seed) {
            failures.push(format!("{}: {reason}", describe(seed, &net)));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {GRAPHS} graphs differ:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// Compares the slope of the objective along two random directions with central differences.
fn slope(net: &Net, seed: u64) -> Result<(), String> {
    net.try_student(DType::F64).and_then(|s| net.evaluate(&s, DType::F64, Mode::Train))?;
    let objective = Objective::new(net);
    let gradients = objective.gradients();
    let points: Vec<Vec<f64>> = (0..gradients.len()).map(|i| objective.get(i)).collect();
    let mut random = Random(seed + 1000);
    for _ in 0..2 {
        let direction: Vec<Vec<f64>> =
            points.iter().map(|p| random.numbers(p.len(), -1.0, 1.0)).collect();
        let dot = |(g, d): (&Option<Vec<f64>>, &Vec<f64>)| {
            g.iter().flatten().zip(d).map(|(g, d)| g * d).sum::<f64>()
        };
        let found: f64 = gradients.iter().zip(&direction).map(dot).sum();
        let moved = |by: f64| {
            for (i, (point, direction)) in points.iter().zip(&direction).enumerate() {
                objective.set(
                    i,
                    &point.iter().zip(direction).map(|(p, d)| p + by * d).collect::<Vec<_>>(),
                );
            }
            objective.loss()
        };
        let difference = |step: f64| (moved(step) - moved(-step)) / (2.0 * step);
        // a kink may lie within the one step: hardly within both
        let close = |step: f64| {
            let expected = difference(step);
            ((found - expected).abs() <= 1e-6 * (1.0 + expected.abs()))
                .then_some(())
                .ok_or(expected)
        };
        let result = close(1e-5).or_else(|_| close(1e-6));
        moved(0.0);
        result.map_err(|expected| format!("slope {found} for {expected}"))?;
    }
    Ok(())
}

#[test]
fn the_same_graph_gives_the_same_bits_on_any_number_of_threads() {
    for seed in 0..40 {
        let net = Growth::grow(seed);
        let bits = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let student = net.student(DType::F32);
                let pass = student.forward(&net.feed(DType::F32), Mode::Train, &[], 1).unwrap();
                let logits = pass.value(student.logits()).unwrap().clone();
                let gradients = pass.backward(vec![(student.logits(), logits.clone())]).unwrap();
                let all: Vec<Vec<u64>> = [Some(logits)]
                    .into_iter()
                    .chain(gradients)
                    .flatten()
                    .map(|t| values(&t).iter().map(|v| v.to_bits()).collect())
                    .collect();
                all
            })
        };
        assert_eq!(bits(1), bits(3), "graph {seed}");
    }
}
