//! Tensors that depend only on random draws and constants (the masks of drop path and similar), and
//! the means that replace them where nothing is drawn. So drop path becomes the identity and
//! `RReLU` a leaky ReLU of its mean slope, which is what they are in inference.
//!
//! The mean replaces a value only where that is combined with data as a term, a factor or a slope,
//! in which the result is linear. A value without a known mean there is refused.

use super::host::Host;
use super::op::Built;
use super::op::random::bounds;
use super::op::site::{INTEGERS, Site, attribute};
use crate::array::Dtype;
use crate::error::{Error, Result};
use crate::onnx::dtype;
use crate::onnx::operator::{Class, Movement};
use crate::onnx::proto::{AttributeProto, NodeProto};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// ONNX's number for the type `bool`.
const BOOL: i64 = 9;

/// A random tensor of which all elements have this mean.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mean {
    pub(super) value: f64,
    pub(super) dtype: Dtype,
}

/// The random tensors of a graph.
#[derive(Debug, Clone, Default)]
pub(super) struct Chance {
    /// Those whose mean is known.
    means: BTreeMap<String, Mean>,
    /// Where one is combined with data: the node, by its number in the model's graph, and the
    /// input.
    meetings: BTreeMap<usize, usize>,
}

/// How the elements of a random tensor are distributed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Law {
    /// Uniform between two bounds.
    Even([f64; 2]),
    /// The first value with this probability, otherwise the second.
    Coin(f64, [f64; 2]),
    /// Any law with this mean.
    Mean(f64),
    Unknown,
}

impl Law {
    fn mean(self) -> Option<f64> {
        let mean = match self {
            Self::Even([low, high]) => f64::midpoint(low, high),
            Self::Coin(chance, [one, other]) => chance * one + (1.0 - chance) * other,
            Self::Mean(mean) => mean,
            Self::Unknown => return None,
        };
        mean.is_finite().then_some(mean)
    }

    /// The law of `f(x)`, for a function of the form a·x + b.
    fn linear(self, f: impl Fn(f64) -> f64) -> Self {
        match self {
            Self::Even([low, high]) => {
                let (low, high) = (f(low), f(high));
                Self::Even([low.min(high), low.max(high)])
            }
            Self::Coin(chance, values) => Self::Coin(chance, values.map(f)),
            Self::Mean(mean) => Self::Mean(f(mean)),
            Self::Unknown => Self::Unknown,
        }
    }

    /// The law of a function of a coin.
    fn of_coin(self, f: impl Fn(f64) -> f64) -> Self {
        if let Self::Coin(chance, values) = self {
            Self::Coin(chance, values.map(f))
        } else {
            Self::Unknown
        }
    }

    /// 1 below a bound, otherwise 0.
    fn below(self, bound: f64) -> Self {
        match self {
            Self::Even([low, high]) if low < high => {
                Self::Coin(((bound - low) / (high - low)).clamp(0.0, 1.0), [1.0, 0.0])
            }
            _ => Self::Unknown,
        }
    }

    /// Known for numbers within two steps.
    fn floor(self) -> Self {
        match self {
            Self::Even([low, high]) if low < high && high - low.floor() <= 2.0 => {
                let step = low.floor() + 1.0;
                let chance = ((high - step) / (high - low)).clamp(0.0, 1.0);
                Self::Coin(chance, [step, step - 1.0])
            }
            _ => self.of_coin(f64::floor),
        }
    }
}

/// What a tensor depends on.
#[derive(Debug, Clone)]
enum Dependence {
    /// It depends on the data or on a parameter.
    Data,
    /// It depends on constants and shapes only; the value, if all elements are equal.
    Constant(Option<f64>),
    Random {
        law: Law,
        dtype: Dtype,
        /// The nodes that drew it.
        draws: BTreeSet<usize>,
    },
}

/// Nodes that cannot be run, by position, and the reason.
pub(super) type Refusals = Vec<(usize, String)>;

/// What the rest of a graph determines about its tensors.
pub(super) struct GraphContext<'a> {
    /// Those that are constants, and the value of all elements if they are equal.
    pub(super) constants: HashMap<&'a str, Option<f64>>,
    /// The fill values of `ConstantOfShape` nodes, by the name of the output.
    pub(super) fills: HashMap<&'a str, Option<f64>>,
    /// The graph's outputs.
    pub(super) outputs: BTreeSet<&'a str>,
    /// The type of the weights.
    pub(super) dtype: Dtype,
}

/// Follows random draws through numbered nodes.
pub(super) fn follow(
    nodes: &[(usize, NodeProto)],
    context: &GraphContext<'_>,
) -> (Chance, Refusals) {
    let (mut chance, mut refusals) = (Chance::default(), Refusals::new());
    let mut states: HashMap<&str, Dependence> = context
        .constants
        .iter()
        .chain(&context.fills)
        .map(|(name, value)| (*name, Dependence::Constant(*value)))
        .collect();
    // the nodes at which each draw is combined with data, and whether as a term
    let mut met: BTreeMap<usize, Vec<(usize, bool)>> = BTreeMap::new();
    for (position, (number, node)) in nodes.iter().enumerate() {
        if node.op_type() == "ConstantOfShape" {
            continue;
        }
        let state = |name: &String| match states.get(name.as_str()) {
            Some(state) => state.clone(),
            None if name.is_empty() => Dependence::Constant(None),
            None => Dependence::Data,
        };
        // only the type of the second input matters
        let read = if node.op_type() == "CastLike" { 1 } else { node.input.len() };
        let inputs: Vec<Dependence> = node.input.iter().take(read).map(state).collect();
        let reads_shape = node.operator().reads_shape;
        if reads_shape && inputs.iter().any(|state| matches!(state, Dependence::Random { .. })) {
            refusals.push((position, SHAPE.to_owned()));
        }
        let result = if node.operator().class == Class::Random {
            let of = attribute(node, "dtype").and_then(|a| element(a.i()));
            Dependence::Random {
                law: drawn(node, &inputs),
                dtype: of.unwrap_or(context.dtype),
                draws: BTreeSet::from([position]),
            }
        } else if let Some((slot, law, draws)) = meeting(&inputs) {
            match (law.mean(), taken(node, slot)) {
                (None, _) => refusals.push((position, NO_MEAN.to_owned())),
                (_, None) => refusals.push((position, NOT_LINEAR.to_owned())),
                (Some(_), Some(is_term)) => {
                    chance.meetings.insert(*number, slot);
                    for draw in draws {
                        met.entry(*draw).or_default().push((position, is_term));
                    }
                }
            }
            Dependence::Data
        } else {
            computed(node, &inputs)
        };
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            if let Dependence::Random { law, dtype, .. } = &result {
                if context.outputs.contains(name.as_str()) {
                    refusals.push((position, "an output of the graph is random".to_owned()));
                }
                if let Some(value) = law.mean() {
                    chance.means.insert(name.clone(), Mean { value, dtype: *dtype });
                }
            }
            states.insert(name, result.clone());
        }
    }
    for places in met.values().filter(|places| places.len() > 1) {
        let terms = places.iter().filter(|(_, is_term)| *is_term);
        refusals.extend(terms.map(|(position, _)| (*position, TERM_AND_FACTOR.to_owned())));
    }
    refusals.sort();
    refusals.dedup();
    (chance, refusals)
}

const NO_MEAN: &str =
    "a random input has no mean that is known: nothing can stand in its place in inference";
const NOT_LINEAR: &str =
    "random values beside data: expected a term, a factor or a slope, which have a mean";
/// A mean is written as one number.
const SHAPE: &str = "the shape of random values is asked for: in inference they have none";
/// As in `AlphaDropout`, whose means do not give the identity that it is in inference.
const TERM_AND_FACTOR: &str =
    "random values are added here that the data meets elsewhere too: the mean of both is not known";

/// The value of all elements, if they are equal.
#[allow(clippy::float_cmp, reason = "the same number")]
pub(super) fn single(host: &Host) -> Option<f64> {
    let floats = host.floats();
    let first = *floats.first()?;
    floats.iter().all(|&v| v == first).then_some(first)
}

fn element(code: i64) -> Option<Dtype> {
    i32::try_from(code).ok().and_then(dtype).filter(|d| d.is_float())
}

/// The law of a draw.
fn drawn(node: &NodeProto, inputs: &[Dependence]) -> Law {
    let number =
        |name: &str, default: f32| attribute(node, name).map_or(default, AttributeProto::f);
    match node.op_type() {
        "RandomUniform" | "RandomUniformLike" => {
            bounds(number("low", 0.0), number("high", 1.0)).map_or(Law::Unknown, Law::Even)
        }
        "RandomNormal" | "RandomNormalLike" => Law::Mean(number("mean", 0.0).into()),
        "Bernoulli" => match inputs.first() {
            Some(Dependence::Constant(Some(p))) => Law::Coin(p.clamp(0.0, 1.0), [1.0, 0.0]),
            _ => Law::Unknown,
        },
        _ => Law::Unknown,
    }
}

/// The random input of a node that reads data as well: its law and its draws.
fn meeting(inputs: &[Dependence]) -> Option<(usize, Law, &BTreeSet<usize>)> {
    inputs.iter().find(|state| matches!(state, Dependence::Data))?;
    inputs.iter().enumerate().find_map(|(slot, state)| match state {
        Dependence::Random { law, draws, .. } => Some((slot, *law, draws)),
        _ => None,
    })
}

/// Whether this input, which its mean may replace, is a term; `None`: its mean may not replace it.
fn taken(node: &NodeProto, slot: usize) -> Option<bool> {
    match (node.op_type(), slot) {
        ("Add" | "Sub", _) => Some(true),
        ("Mul", _) | ("PRelu", 1) => Some(false),
        _ => None,
    }
}

/// The output of a node that reads constants and random values.
fn computed(node: &NodeProto, inputs: &[Dependence]) -> Dependence {
    if node.operator().reads_shape {
        return Dependence::Constant(None);
    }
    let mut draws = BTreeSet::new();
    let mut random = None;
    for state in inputs {
        match state {
            Dependence::Data => return Dependence::Data,
            Dependence::Random { draws: own, dtype, .. } => {
                draws.extend(own);
                random.get_or_insert(*dtype);
            }
            Dependence::Constant(_) => {}
        }
    }
    let to = attribute(node, "to").map(AttributeProto::i);
    let Some(dtype) = random else { return Dependence::Constant(constant(node, inputs)) };
    let law = law(node, inputs, to);
    Dependence::Random { law, dtype: to.and_then(element).unwrap_or(dtype), draws }
}

/// The value of all elements of an output that depends on constants, if they are equal.
fn constant(node: &NodeProto, inputs: &[Dependence]) -> Option<f64> {
    let keeps = matches!(
        node.operator().class,
        Class::Movement(
            Movement::Copy | Movement::Cast | Movement::Reshape | Movement::Repeat | Movement::Part
        )
    );
    match inputs.first() {
        Some(Dependence::Constant(value)) if keeps => *value,
        _ => None,
    }
}

/// The law of a node's output from random values and constants. `to`: the type that it casts to.
fn law(node: &NodeProto, inputs: &[Dependence], to: Option<i64>) -> Law {
    let of = |slot: usize| match inputs.get(slot) {
        Some(Dependence::Random { law, .. }) => Some(*law),
        _ => None,
    };
    let value = |slot: usize| match inputs.get(slot) {
        Some(Dependence::Constant(value)) => *value,
        _ => None,
    };
    // a mean replaces one output
    if node.output.len() > 1 {
        return Law::Unknown;
    }
    let not = |law: Law| law.linear(|v| 1.0 - v);
    match (node.op_type(), of(0), of(1), value(0), value(1)) {
        ("Add", Some(law), _, _, Some(c)) | ("Add", _, Some(law), Some(c), _) => {
            law.linear(|v| v + c)
        }
        ("Sub", Some(law), _, _, Some(c)) => law.linear(|v| v - c),
        ("Sub", _, Some(law), Some(c), _) => law.linear(|v| c - v),
        ("Mul", Some(law), _, _, Some(c)) | ("Mul", _, Some(law), Some(c), _) => {
            law.linear(|v| v * c)
        }
        ("Div", Some(law), _, _, Some(c)) => law.linear(|v| v / c),
        ("Add" | "Sub", Some(a), Some(b), ..) => match (a.mean(), b.mean()) {
            (Some(a), Some(b)) => Law::Mean(if node.op_type() == "Add" { a + b } else { a - b }),
            _ => Law::Unknown,
        },
        ("Neg", Some(law), ..) => law.linear(|v| -v),
        ("Less" | "LessOrEqual", Some(law), _, _, Some(c))
        | ("Greater" | "GreaterOrEqual", _, Some(law), Some(c), _) => law.below(c),
        ("Greater" | "GreaterOrEqual", Some(law), _, _, Some(c))
        | ("Less" | "LessOrEqual", _, Some(law), Some(c), _) => not(law.below(c)),
        ("Not", Some(law), ..) => not(law),
        ("Floor", Some(law), ..) => law.floor(),
        ("Ceil", Some(law), ..) => law.linear(|v| -v).floor().linear(|v| -v),
        ("Where", Some(law), ..) => match (value(1), value(2)) {
            (Some(a), Some(b)) => law.of_coin(|v| if v == 0.0 { b } else { a }),
            _ => Law::Unknown,
        },
        ("Cast", Some(law), ..) => match to {
            Some(BOOL) => law.of_coin(|v| f64::from(u8::from(v != 0.0))),
            Some(to) if INTEGERS.contains(&to) => law.of_coin(f64::trunc),
            _ => law,
        },
        // to any type: the values of a coin are usually whole numbers
        ("CastLike", Some(law), ..) => law.of_coin(|v| v),
        (_, Some(law), ..) => match node.operator().class {
            Class::Movement(Movement::Join | Movement::Pad | Movement::Cast) => Law::Unknown,
            Class::Movement(_) => law,
            _ => Law::Unknown,
        },
        _ => Law::Unknown,
    }
}

impl Chance {
    /// Fails where a random value would be broadcast to a larger shape than the data's: its mean
    /// has no shape.
    pub(super) fn check(&self, number: usize, site: &Site<'_>, built: &Built) -> Result<()> {
        let Some(slot) = self.meetings.get(&number) else { return Ok(()) };
        let (random, data) = (site.shape(*slot)?, site.shape(1 - slot)?);
        if built.outputs.first().is_some_and(|shape| shape == data) {
            return Ok(());
        }
        Err(Error::input(format!(
            "random values of shape {random:?}: expected a shape that repeats to that of the \
             data, {data:?}"
        )))
    }

    /// The mean that replaces a node's output when nothing is drawn.
    pub(super) fn mean(&self, node: &NodeProto) -> Option<&Mean> {
        self.means.get(node.output.first()?)
    }

    /// The input that a node passes on unchanged when nothing is drawn: the data, next to a factor
    /// of 1 or a term of 0.
    #[allow(clippy::float_cmp, reason = "only a mean of exactly 1 or 0 is neutral")]
    pub(super) fn passed(&self, number: usize, node: &NodeProto) -> Option<usize> {
        let slot = *self.meetings.get(&number)?;
        let mean = self.means.get(node.input.get(slot)?)?.value;
        let neutral = match (node.op_type(), slot) {
            ("Mul", _) => mean == 1.0,
            ("Add", _) | ("Sub", 1) => mean == 0.0,
            _ => false,
        };
        neutral.then_some(1 - slot)
    }
}
