//! Walks back from an output to the softmax or sigmoid before it.

use super::super::operator::{Class, Movement};
use super::super::tap::{int, ints};
use super::super::{Model, proto};
use super::NodeProto;
use proto::{AttributeProto, TensorProto};
use std::collections::{HashMap, HashSet};

/// Deepest nesting of functions that is followed.
const DEPTH: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    Softmax,
    Sigmoid,
    /// Piecewise linear: it cannot be inverted where it is flat.
    HardSigmoid,
}

/// The axes over which a softmax sums to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axes {
    /// This axis.
    One(i64),
    /// All axes from this one on, as before opset 13.
    From(i64),
}

/// The activation at the end of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) activation: Activation,
    /// Whether its logarithm is taken.
    pub(super) is_log: bool,
    /// Whether something after it changes the rank.
    pub(super) is_reshaped: bool,
    /// The tensor it reads, if a node of the graph computes it.
    pub(super) before: Option<String>,
    /// The tensor it reads, whose shape may be better known.
    pub(super) reads: Option<String>,
    pub(super) axes: Option<Axes>,
}

impl Ending {
    /// How many values of such a row sum to 1; 0 if the sum includes the batch.
    pub(super) fn normalized(&self, row: &[usize]) -> Option<usize> {
        if self.activation != Activation::Softmax {
            return None;
        }
        let rank = i64::try_from(row.len()).ok()? + 1;
        let place = |axis: i64| usize::try_from(if axis < 0 { axis + rank } else { axis }).ok();
        Some(match self.axes? {
            Axes::One(axis) => {
                place(axis)?.checked_sub(1).map_or(0, |at| row.get(at).copied().unwrap_or(0))
            }
            Axes::From(axis) => place(axis)?
                .checked_sub(1)
                .map_or(0, |at| row.get(at..).unwrap_or_default().iter().product()),
        })
    }
}

/// The activation that a tensor comes from; `None` if no known activation is found.
pub(super) fn back(model: &Model, tensor: &str) -> Option<Ending> {
    let graph = model.graph();
    let scope = Scope::new(model, &graph.node, &graph.initializer);
    let Reached::Activation(ending) = scope.walk(tensor, WalkState::default(), 0) else {
        return None;
    };
    // an input or initializer of the graph is not logits
    let before = ending.before.filter(|name| scope.producer.contains_key(name.as_str()));
    Some(Ending { reads: before.clone().or(ending.reads), before, ..ending })
}

/// Whether a tensor is made of softmaxes and constants alone, however they are mixed; a matrix
/// product or another layer stops the search.
pub(super) fn is_mixed(model: &Model, tensor: &str) -> bool {
    let scope = Scope::new(model, &model.graph().node, &model.graph().initializer);
    let constant = |name: &str| scope.initializers.iter().any(|t| t.name() == name);
    let (mut open, mut seen) = (vec![tensor], HashSet::new());
    let mut softmaxes = 0;
    while let Some(name) = open.pop() {
        if name.is_empty() || constant(name) || !seen.insert(name) {
            continue;
        }
        let Some(node) = scope.producer.get(name) else { return false };
        match node.operator().class {
            Class::Softmax => softmaxes += 1,
            Class::Arithmetic
            | Class::Elementwise
            | Class::Reduction
            | Class::Movement(_)
            | Class::Quantization => open.extend(node.input.iter().map(String::as_str)),
            _ if node.op_type() == "Constant" => {}
            _ => return false,
        }
    }
    softmaxes > 0
}

/// Whether a tensor holds the indices that an `ArgMax` gives, whatever copies or moves them since.
pub(super) fn is_index(model: &Model, tensor: &str) -> bool {
    let scope = Scope::new(model, &model.graph().node, &[]);
    let mut tensor = tensor;
    for _ in 0..=scope.producer.len() {
        let Some(node) = scope.node(tensor) else { return false };
        if node.op_type() == "ArgMax" {
            return true;
        }
        let is_moved = matches!(
            node.operator().class,
            Class::Movement(
                Movement::Copy
                    | Movement::Cast
                    | Movement::Reshape
                    | Movement::Transpose
                    | Movement::Part
            )
        );
        match node.input.first() {
            Some(input) if is_moved => tensor = input,
            _ => return false,
        }
    }
    false
}

/// What the walk has passed.
#[derive(Debug, Clone, Copy, Default)]
struct WalkState {
    /// Logarithms minus exponentials.
    logarithms: i32,
    is_reshaped: bool,
}

/// Where a walk ends.
enum Reached {
    Activation(Ending),
    /// A tensor that no node in this scope computes.
    Outside(String, WalkState),
    Unknown,
}

/// A graph or the body of a function.
struct Scope<'a> {
    model: &'a Model,
    initializers: &'a [TensorProto],
    producer: HashMap<&'a str, &'a NodeProto>,
}

impl<'a> Scope<'a> {
    fn new(model: &'a Model, nodes: &'a [NodeProto], initializers: &'a [TensorProto]) -> Self {
        let producer = nodes
            .iter()
            .flat_map(|node| node.output.iter().map(move |name| (name.as_str(), node)))
            .collect();
        Self { model, initializers, producer }
    }

    /// The node whose first output is a tensor.
    fn node(&self, tensor: &str) -> Option<&'a NodeProto> {
        self.producer
            .get(tensor)
            .copied()
            .filter(|node| node.output.first().is_some_and(|first| first == tensor))
    }

    fn walk(&self, tensor: &str, state: WalkState, depth: usize) -> Reached {
        let (mut tensor, mut state) = (tensor.to_owned(), state);
        // a function's body is not checked for cycles
        for _ in 0..=self.producer.len() {
            let Some(node) = self.producer.get(tensor.as_str()).copied() else {
                return Reached::Outside(tensor, state);
            };
            if let Some(function) = self.function(node) {
                match self.call(node, function, &tensor, state, depth) {
                    Reached::Outside(input, after) => (tensor, state) = (input, after),
                    other => return other,
                }
                continue;
            }
            if self.node(&tensor).is_none() {
                return Reached::Unknown;
            }
            if let Some((activation, is_log, before)) = self.activation(node) {
                let logarithms = state.logarithms + i32::from(is_log);
                if !(0..=1).contains(&logarithms) {
                    return Reached::Unknown;
                }
                let before = Some(before.to_owned());
                let is_log = logarithms == 1;
                let (is_reshaped, axes) = (state.is_reshaped, self.axes(node));
                return Reached::Activation(Ending {
                    activation,
                    is_log,
                    is_reshaped,
                    reads: before.clone(),
                    before,
                    axes,
                });
            }
            let Some(input) = self.passed(node, &mut state) else {
                return self.mixture(node, state, depth);
            };
            input.clone_into(&mut tensor);
        }
        Reached::Unknown
    }

    /// A sum of softmaxes: probabilities up to a factor, which a softmax of their logarithms
    /// ignores.
    fn mixture(&self, node: &'a NodeProto, state: WalkState, depth: usize) -> Reached {
        /// Nested sums count as this many functions each.
        const DEEPER: usize = DEPTH / 2;
        /// Most softmaxes in a sum.
        const TERMS: usize = 64;
        let is_sum = matches!(node.op_type(), "Add" | "Sum" | "Mean");
        let is_plain = (0..=1).contains(&state.logarithms);
        if !is_sum || !is_plain || depth + DEEPER > DEPTH || node.input.len() > TERMS {
            return Reached::Unknown;
        }
        let mut terms =
            node.input.iter().map(|term| self.walk(term, WalkState::default(), depth + DEEPER));
        let is_softmax =
            |ending: &Ending| ending.activation == Activation::Softmax && !ending.is_log;
        match terms.next() {
            Some(Reached::Activation(first)) if is_softmax(&first) => {
                let others =
                    terms.all(|term| matches!(term, Reached::Activation(e) if is_softmax(&e)));
                let is_log = state.logarithms == 1;
                let is_reshaped = state.is_reshaped || first.is_reshaped;
                let mixed = Ending { is_log, is_reshaped, before: None, ..first };
                if others { Reached::Activation(mixed) } else { Reached::Unknown }
            }
            _ => Reached::Unknown,
        }
    }

    /// The model's function that a node calls.
    fn function(&self, node: &NodeProto) -> Option<&'a proto::FunctionProto> {
        let is_called =
            |f: &&proto::FunctionProto| f.name() == node.op_type() && f.domain() == node.domain();
        self.model.proto().functions.iter().find(is_called)
    }

    /// Walks through a function; its inputs get the caller's names.
    fn call(
        &self,
        node: &NodeProto,
        function: &'a proto::FunctionProto,
        tensor: &str,
        state: WalkState,
        depth: usize,
    ) -> Reached {
        let output = node
            .output
            .iter()
            .position(|name| name == tensor)
            .and_then(|at| function.output.get(at));
        let Some(output) = output.filter(|_| depth < DEPTH) else { return Reached::Unknown };
        let outer = |inner: &str| {
            let at = function.input.iter().position(|name| name == inner)?;
            node.input.get(at).filter(|name| !name.is_empty()).cloned()
        };
        match Scope::new(self.model, &function.node, &[]).walk(output, state, depth + 1) {
            Reached::Activation(ending) => {
                let before = ending.before.as_deref().and_then(outer);
                Reached::Activation(Ending { reads: before.clone(), before, ..ending })
            }
            Reached::Outside(inner, state) => {
                outer(&inner).map_or(Reached::Unknown, |name| Reached::Outside(name, state))
            }
            Reached::Unknown => Reached::Unknown,
        }
    }

    /// The softmax or sigmoid that a node is, or is the last step of: which one, whether the node
    /// gives its logarithm, and what it reads.
    fn activation(&self, node: &'a NodeProto) -> Option<(Activation, bool, &'a str)> {
        use Activation::{Sigmoid, Softmax};
        let input =
            |at: usize| node.input.get(at).map(String::as_str).filter(|name| !name.is_empty());
        match node.op_type() {
            "Softmax" | "QLinearSoftmax" => Some((Softmax, false, input(0)?)),
            "LogSoftmax" => Some((Softmax, true, input(0)?)),
            "Sigmoid" | "QLinearSigmoid" => Some((Sigmoid, false, input(0)?)),
            // a negative slope reverses the order of classes
            "HardSigmoid" => {
                let slope = node.attribute.iter().find(|a| a.name() == "alpha");
                let rises = slope.is_none_or(|a| a.f() > 0.0);
                rises.then_some((Activation::HardSigmoid, false, input(0)?))
            }
            // exp(x) / Σ exp(x), 1 / (1 + exp(−x))
            "Div" => {
                let (upper, lower) = (input(0)?, input(1)?);
                if self.scalar(upper) == Some(1.0) {
                    return Some((Sigmoid, false, self.of_negative(lower)?));
                }
                self.share(upper, lower).map(|x| (Softmax, false, x))
            }
            "Mul" => {
                let share = |upper, other| {
                    let inverse = self
                        .node(self.plain(other))
                        .filter(|node| node.op_type() == "Reciprocal")?;
                    self.share(upper, inverse.input.first()?)
                };
                share(input(0)?, input(1)?)
                    .or_else(|| share(input(1)?, input(0)?))
                    .map(|x| (Softmax, false, x))
            }
            "Reciprocal" => Some((Sigmoid, false, self.of_negative(input(0)?)?)),
            // x − log Σ exp(x)
            "Sub" => {
                let (scores, sum) = (self.plain(input(0)?), self.node(self.plain(input(1)?))?);
                let summed = self.plain(sum.input.first()?);
                let of = match sum.op_type() {
                    "ReduceLogSumExp" => summed,
                    "ReduceLogSum" => self.exponent(summed)?,
                    "Log" => self.exponent(self.plain(
                        self.node(self.plain(summed)).filter(|node| is_sum(node))?.input.first()?,
                    ))?,
                    _ => return None,
                };
                (self.plain(of) == scores).then(|| (Softmax, true, self.before_shift(scores)))
            }
            _ => None,
        }
    }

    /// Returns x if one tensor is exp(x) and the other its sum.
    fn share(&self, upper: &'a str, lower: &'a str) -> Option<&'a str> {
        let exponential = self.plain(upper);
        let exponent = self.exponent(exponential)?;
        let sum = self.node(self.plain(lower)).filter(|node| is_sum(node))?;
        (self.plain(sum.input.first()?) == exponential).then(|| self.before_shift(exponent))
    }

    fn exponent(&self, tensor: &'a str) -> Option<&'a str> {
        self.node(tensor).filter(|node| node.op_type() == "Exp")?.input.first().map(String::as_str)
    }

    /// Returns x if the tensor is x − max x, a shift that softmax ignores.
    fn before_shift(&self, tensor: &'a str) -> &'a str {
        let shifted = || {
            let node = self.node(self.plain(tensor)).filter(|node| node.op_type() == "Sub")?;
            let (x, max) = (node.input.first()?, self.node(self.plain(node.input.get(1)?))?);
            (max.op_type() == "ReduceMax" && self.plain(max.input.first()?) == self.plain(x))
                .then_some(x.as_str())
        };
        shifted().unwrap_or(tensor)
    }

    /// Returns x if the tensor is 1 + exp(−x).
    fn of_negative(&self, tensor: &'a str) -> Option<&'a str> {
        let sum = self.node(tensor).filter(|node| node.op_type() == "Add")?;
        let [a, b] = sum.input.as_slice() else { return None };
        let exponential = if self.scalar(a) == Some(1.0) {
            b
        } else {
            Some(a).filter(|_| self.scalar(b) == Some(1.0))?
        };
        let negative = self
            .node(self.plain(self.exponent(self.plain(exponential))?))
            .filter(|node| node.op_type() == "Neg")?;
        negative.input.first().map(String::as_str)
    }

    /// The tensor before nodes that change neither values nor their order: copies, casts, axes of
    /// size 1, small guards against 0.
    fn plain(&self, tensor: &'a str) -> &'a str {
        let mut tensor = tensor;
        for _ in 0..=self.producer.len() {
            let mut state = WalkState::default();
            let passed = self
                .node(tensor)
                .filter(|node| !matches!(node.op_type(), "Log" | "Exp" | "Mul" | "Div" | "Sub"));
            let Some(input) = passed.and_then(|node| self.passed(node, &mut state)) else { break };
            tensor = input;
        }
        tensor
    }

    /// The input of a node that neither mixes classes nor changes their order; records in `state`
    /// what the node does to the values.
    fn passed(&self, node: &'a NodeProto, state: &mut WalkState) -> Option<&'a str> {
        const FLOATS: [i64; 4] = [1, 10, 11, 16];
        let input =
            |at: usize| node.input.get(at).map(String::as_str).filter(|name| !name.is_empty());
        let is_constant = |at: usize| input(at).is_some_and(|name| self.scalar(name).is_some());
        let is_positive = |at: usize| {
            input(at).and_then(|name| self.scalar(name)).is_some_and(|value| value > 0.0)
        };
        // of two inputs, the one that is not constant
        let other =
            |is: &dyn Fn(usize) -> bool| if is(1) { input(0) } else { input(1).filter(|_| is(0)) };
        match node.operator().class {
            Class::Movement(Movement::Copy) | Class::Quantization => return input(0),
            Class::Movement(Movement::Reshape | Movement::Transpose) => {
                state.is_reshaped = true;
                return input(0);
            }
            _ => {}
        }
        match node.op_type() {
            "Clip" | "CastLike" => input(0),
            "Expand" => {
                state.is_reshaped = true;
                input(0)
            }
            "Cast" if FLOATS.contains(&int(node, "to")) => input(0),
            "Log" => {
                state.logarithms += 1;
                input(0)
            }
            "Exp" => {
                state.logarithms -= 1;
                input(0)
            }
            "Mul" => other(&is_positive),
            "Div" if is_positive(1) => input(0),
            "Sub" if is_constant(1) => input(0),
            "Add" | "Max" | "Min" if node.input.len() == 2 => other(&is_constant),
            _ => None,
        }
    }

    /// The value of a single-element constant.
    fn scalar(&self, tensor: &str) -> Option<f64> {
        let single = |tensor: &TensorProto| {
            let is_one = tensor.dims.iter().all(|&n| n == 1);
            is_one
                .then(|| self.model.tensor(tensor).ok()?.to_f32().first().copied())
                .flatten()
                .map(f64::from)
        };
        if let Some(found) = self.initializers.iter().find(|t| t.name() == tensor) {
            return single(found);
        }
        let node = self.node(tensor).filter(|node| node.op_type() == "Constant")?;
        let attribute = |name: &str| node.attribute.iter().find(|a| a.name() == name);
        let value = attribute("value").and_then(|a: &AttributeProto| single(a.t.as_ref()?));
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        value
            .or_else(|| attribute("value_float").map(|a| f64::from(a.f())))
            .or_else(|| attribute("value_int").map(|a| a.i() as f64))
    }

    /// The axes of a softmax node; `None` if the softmax is spelled out.
    fn axes(&self, node: &NodeProto) -> Option<Axes> {
        if !matches!(node.op_type(), "Softmax" | "LogSoftmax") {
            return None;
        }
        let attribute = node.attribute.iter().find(|a| a.name() == "axis");
        if attribute.is_some_and(|a| !a.ref_attr_name().is_empty()) {
            return None;
        }
        let axis = attribute.map(AttributeProto::i);
        Some(if self.model.opset() < 13 {
            Axes::From(axis.unwrap_or(1))
        } else {
            Axes::One(axis.unwrap_or(-1))
        })
    }
}

/// Whether a node sums along one axis (L1 norms do too, since exponentials are positive).
fn is_sum(node: &NodeProto) -> bool {
    matches!(node.op_type(), "ReduceSum" | "ReduceL1") && ints(node, "axes").len() < 2
}
