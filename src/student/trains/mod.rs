//! Which tensors train: those that a module calls its parameters. An exporter that says which they
//! are is believed; otherwise the place where a tensor is read decides, and guesses are marked.

use super::host::Host;
use super::leaf::{Leaf, Leaves, NumberedNodes, is_standard};
use super::{op, pattern};
use crate::error::{Error, Result};
use crate::onnx::operator::Class;
use crate::onnx::proto::NodeProto;
use crate::onnx::signature::{Signature, TensorKind};
use crate::onnx::{Model, metadata};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// A float tensor that a graph contains, and whether it trains.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// Its name.
    pub name: String,
    /// Its axes, as in the file.
    pub shape: Vec<usize>,
    /// Whether it trains.
    pub trains: bool,
    /// Why, in a few words.
    pub reason: String,
    /// Whether the file does not determine it, so that the decision is a guess.
    pub guessed: bool,
}

/// The decisions about a graph's tensors and nodes.
pub(super) struct Trains {
    /// Every float tensor that a node reads, in graph order.
    pub(super) decisions: Vec<Decision>,
    /// Nodes that cannot be run: their numbers among `nodes` and the reasons.
    pub(super) unsupported: Vec<(usize, String)>,
}

/// What the user requests by name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) freeze: &'a [String],
    pub(super) train: &'a [String],
}

/// Decides what trains.
///
/// # Errors
/// When a pattern matches nothing, or a value that decides cannot be read.
pub(super) fn decide(
    model: &Model,
    leaves: &Leaves,
    nodes: &NumberedNodes,
    statistics: &BTreeSet<String>,
    signature: Option<&Signature>,
    asked: Asked<'_>,
) -> Result<Trains> {
    for (what, patterns) in [("freeze", asked.freeze), ("train", asked.train)] {
        if let Some(p) =
            patterns.iter().find(|p| !leaves.keys().any(|name| pattern::matches(p, name)))
        {
            return Err(Error::input(format!("{what}: pattern {p} matches no initializer")));
        }
    }
    let judge = Judge::new(model, leaves, nodes, statistics, signature);
    let mut findings = judge.walk(false);
    if findings.trains.is_empty() {
        // some exporters write weights as Constant nodes
        findings = judge.walk(true);
    }
    let mut decisions = Vec::new();
    for name in judge.read_in_order() {
        let Some(leaf) = leaves.get(name) else { continue };
        let mut decision = judge.decision(name, leaf, &findings)?;
        let matches = |patterns: &[String]| patterns.iter().any(|p| pattern::matches(p, name));
        let may_train = !statistics.contains(name);
        if matches(asked.freeze) && decision.trains {
            decision =
                Decision { trains: false, reason: "frozen".into(), guessed: false, ..decision };
        } else if matches(asked.train) && may_train && !decision.trains {
            decision =
                Decision { trains: true, reason: "asked for".into(), guessed: false, ..decision };
        }
        decisions.push(decision);
    }
    Ok(Trains { decisions, unsupported: findings.unsupported })
}

/// What a tensor depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    /// Constants and shapes only.
    Constant,
    /// Float leaves only, by name: parameters if the value reaches a parameter's place.
    Leaves(BTreeSet<String>),
    /// The graph's input and constants, but no parameter.
    Input,
    /// Input and parameters.
    Active,
}

impl Origin {
    fn leaves(&self) -> Option<&BTreeSet<String>> {
        if let Self::Leaves(names) = self { Some(names) } else { None }
    }
}

/// What an exporter says about a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Parameter,
    Buffer,
    Constant,
}

/// How nodes read a tensor that trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ParameterUse {
    /// As the weight of an operator.
    Weight,
    /// Next to an activation, as a term, a factor or a part.
    Operand,
}

/// What a walk through the graph finds.
#[derive(Default)]
struct Findings {
    trains: BTreeMap<String, ParameterUse>,
    unsupported: Vec<(usize, String)>,
}

/// What the decisions are based on.
struct Judge<'a> {
    model: &'a Model,
    leaves: &'a Leaves,
    nodes: &'a NumberedNodes,
    statistics: &'a BTreeSet<String>,
    signature: Option<&'a Signature>,
    /// Whether initializers are the tensors of a state dict: `TorchScript`'s constants are nodes.
    is_torch: bool,
    /// Modules whose batch norm is written out with its statistics: all their tensors are fixed.
    frozen: HashSet<String>,
}

/// The last part of the names of buffers in common libraries.
const BUFFERS: [&str; 16] = [
    "attn_mask",
    "bands",
    "filt",
    "imagenet_mean",
    "imagenet_std",
    "inv_freq",
    "k_bias",
    "periods",
    "pixel_mean",
    "pixel_std",
    "pos_embed_cached",
    "pos_embed_cos",
    "pos_embed_sin",
    "relative_coords_table",
    "running_mean",
    "running_var",
];

impl<'a> Judge<'a> {
    fn new(
        model: &'a Model,
        leaves: &'a Leaves,
        nodes: &'a NumberedNodes,
        statistics: &'a BTreeSet<String>,
        signature: Option<&'a Signature>,
    ) -> Self {
        let producer = model.metadata(metadata::PRODUCER);
        let producer = producer.unwrap_or_else(|| model.proto().producer_name());
        let is_torch = signature.is_none() && producer == metadata::PYTORCH;
        let frozen = leaves
            .keys()
            .filter(|name| is_torch && !statistics.contains(*name))
            .filter_map(|name| name.strip_suffix(".running_var").map(str::to_owned))
            .collect();
        Self { model, leaves, nodes, statistics, signature, is_torch, frozen }
    }

    /// What the exporter says about a leaf.
    fn told(&self, name: &str) -> Option<Told> {
        let signature = self.signature?;
        match signature.tensors.get(name) {
            Some(TensorKind::Parameter) => Some(Told::Parameter),
            Some(TensorKind::Buffer) => Some(Told::Buffer),
            None => signature.is_whole.then_some(Told::Constant),
        }
    }

    /// The names of all float leaves that nodes read, in graph order.
    fn read_in_order(&self) -> Vec<&'a str> {
        let mut seen = HashSet::new();
        let reads = self.nodes.iter().flat_map(|(_, node)| &node.input).map(String::as_str);
        reads
            .filter(|name| self.leaves.get(*name).is_some_and(Leaf::is_float))
            .filter(|name| seen.insert(*name))
            .collect()
    }

    /// Why a leaf cannot be a parameter, as far as its name and kind show.
    fn rules_out(&self, name: &str, leaf: &Leaf, constants: bool) -> Option<&'static str> {
        if self.statistics.contains(name) {
            return Some("a running statistic");
        }
        match self.told(name) {
            Some(Told::Parameter) => return None,
            Some(Told::Buffer) => return Some("a buffer, as the exporter says"),
            Some(Told::Constant) => return Some("a constant, as the exporter says"),
            None => {}
        }
        if leaf.constant_node && (self.is_torch || !constants) {
            return Some("the value of a Constant node");
        }
        let (module, last) = name.rsplit_once('.').map_or(("", name), |(m, last)| (m, last));
        if self.is_torch && BUFFERS.contains(&last) {
            return Some("a buffer, by its name");
        }
        self.frozen.contains(module).then_some("of a frozen batch norm")
    }

    fn walk(&self, constants: bool) -> Findings {
        let mut origins: HashMap<&str, Origin> = HashMap::new();
        for (name, leaf) in self.leaves {
            let may_train = leaf.is_float() && self.rules_out(name, leaf, constants).is_none();
            let own = || Origin::Leaves(BTreeSet::from([name.clone()]));
            origins.insert(name, if may_train { own() } else { Origin::Constant });
        }
        for input in &self.model.graph().input {
            if !self.leaves.contains_key(input.name()) {
                origins.insert(input.name(), Origin::Input);
            }
        }
        let mut findings = Findings::default();
        for (position, (_, node)) in self.nodes.iter().enumerate() {
            let inputs: Vec<Origin> = node
                .input
                .iter()
                .map(|name| origins.get(name.as_str()).cloned().unwrap_or(Origin::Constant))
                .collect();
            let origin = self.step(&mut findings, position, node, &inputs);
            for output in &node.output {
                origins.insert(output, origin.clone());
            }
        }
        findings
    }

    /// What a node's outputs depend on; records what trains because of it.
    fn step(
        &self,
        findings: &mut Findings,
        position: usize,
        node: &NodeProto,
        inputs: &[Origin],
    ) -> Origin {
        let operator = node.operator();
        let fed = inputs.iter().any(|o| matches!(o, Origin::Input | Origin::Active));
        let refusal =
            if is_standard(node) { op::refusal(node) } else { Some(op::UNKNOWN.to_owned()) };
        // no gradient passes an operator that can only be folded: it reads no parameters
        let folds = is_standard(node)
            && (operator.reads_shape
                || (!fed && operator.folds.is_some())
                || node.op_type() == "Constant");
        let constant = operator.reads_shape || (refusal.is_some() && folds);
        findings.unsupported.extend(refusal.filter(|_| !folds).map(|reason| (position, reason)));
        let active = inputs.contains(&Origin::Active);
        let disguised = node.op_type() == "InstanceNormalization" && self.is_group_statistics(node);
        let mut trained = false;
        for (slot, origin) in inputs.iter().enumerate() {
            let names = origin.leaves().into_iter().flatten();
            for name in names.filter(|_| !constant && fed) {
                let Some(leaf) = self.leaves.get(name) else { continue };
                let told = self.told(name).is_some();
                if disguised && !told {
                    continue;
                }
                let is_state = operator.states.contains(&slot) && !told;
                let found = if operator.parameters.contains(&slot)
                    && (operator.trains_constants || !leaf.constant_node)
                    && !(is_state && leaf.is_no_state(self.model))
                {
                    ParameterUse::Weight
                } else if told
                    || (operator.takes_weights_beside()
                        && active
                        && (leaf.len() > 1 || self.is_of_state(name))
                        && !leaf.constant_node)
                {
                    ParameterUse::Operand
                } else {
                    continue;
                };
                trained = true;
                let before = findings.trains.entry(name.clone()).or_insert(found);
                *before = found.min(*before);
            }
        }
        // what is written into constants is a mask, not a parameter
        let is_mask = self.signature.is_none()
            && !fed
            && matches!(node.op_type(), "ScatterElements" | "ScatterND");
        if constant || is_mask || operator.class == Class::Random {
            Origin::Constant
        } else if active || trained {
            Origin::Active
        } else if fed {
            Origin::Input
        } else {
            let all: BTreeSet<String> =
                inputs.iter().filter_map(Origin::leaves).flatten().cloned().collect();
            if all.is_empty() { Origin::Constant } else { Origin::Leaves(all) }
        }
    }

    /// Whether an initializer has a name of a state dict, not one that `TorchScript` made.
    fn is_of_state(&self, name: &str) -> bool {
        self.is_torch && !name.contains("::") && !name.chars().all(|c| c.is_ascii_digit())
    }

    /// Whether an instance normalization between two Reshapes, of scale 1 and bias 0, is the first
    /// half of a group normalization as `PyTorch` exports it: its affine parameters follow
    /// the second Reshape.
    fn is_group_statistics(&self, node: &NodeProto) -> bool {
        let input = node.input.first();
        let output = node.output.first();
        let all = |slot: usize, value: f64| {
            node.input
                .get(slot)
                .and_then(|name| self.leaves.get(name))
                .is_some_and(|leaf| leaf.is_all(self.model, value))
        };
        let is_reshape = |n: &NodeProto| n.op_type() == "Reshape";
        let reshaped = self.nodes.iter().any(|(_, n)| is_reshape(n) && n.output.first() == input);
        let mut readers =
            self.nodes.iter().filter(|(_, n)| n.input.iter().any(|i| Some(i) == output)).peekable();
        reshaped
            && readers.peek().is_some()
            && readers.all(|(_, n)| is_reshape(n))
            && all(1, 1.0)
            && all(2, 0.0)
    }

    fn decision(&self, name: &str, leaf: &Leaf, findings: &Findings) -> Result<Decision> {
        let decision = |trains: bool, reason: &str, guessed: bool| Decision {
            name: name.to_owned(),
            shape: leaf.shape.clone(),
            trains,
            reason: reason.to_owned(),
            guessed,
        };
        let Some(found) = findings.trains.get(name).copied() else {
            let ruled_out = self.rules_out(name, leaf, true);
            let reason = ruled_out.unwrap_or("no gradient reaches it, or it is a constant");
            // one number next to an activation
            let guessed = ruled_out.is_none() && leaf.len() == 1 && !self.is_torch;
            return Ok(decision(false, reason, guessed));
        };
        if self.told(name).is_some() {
            return Ok(decision(true, "a parameter, as the exporter says", false));
        }
        let last = name.rsplit(['.', '/']).next().unwrap_or(name);
        if matches!(last, "weight" | "bias") {
            return Ok(decision(true, "a weight, by place and name", false));
        }
        if let Some(reason) = self.looks_fixed(found, leaf)? {
            return Ok(decision(false, reason, true));
        }
        Ok(match found {
            ParameterUse::Weight => decision(true, "it stands where weights stand", false),
            ParameterUse::Operand => decision(true, "it stands beside activations", true),
        })
    }

    /// Why the values of a tensor of a state dict seem to be fixed.
    fn looks_fixed(&self, found: ParameterUse, leaf: &Leaf) -> Result<Option<&'static str>> {
        if !self.is_torch || leaf.constant_node {
            return Ok(None);
        }
        let values = Host::from_array(&leaf.value(self.model)?).floats();
        Ok(match found {
            ParameterUse::Weight
                if is_filter(&leaf.shape) && has_equal_rows(&leaf.shape, &values) =>
            {
                Some("its filters are all equal, as those of a fixed blur")
            }
            ParameterUse::Operand if is_sinusoid(&values) => {
                Some("its values are sines and cosines, as those of fixed positions")
            }
            _ => None,
        })
    }
}

/// Whether a weight of this shape covers more than one position.
fn is_filter(shape: &[usize]) -> bool {
    shape.iter().skip(2).any(|n| *n > 1)
}

/// Whether the parts along the first axis are equal, and not all zero.
fn has_equal_rows(shape: &[usize], values: &[f64]) -> bool {
    let count = shape.first().copied().unwrap_or(0);
    if count < 2 || values.is_empty() {
        return false;
    }
    let mut rows = values.chunks_exact(values.len() / count);
    let first = rows.next().unwrap_or_default();
    first.iter().any(|v| *v != 0.0) && rows.all(|row| row == first)
}

/// Whether values are distributed like sines and cosines: within ±1, of mean square ½
/// and mean fourth power between ⅜ (of all angles) and ½ (of many small ones).
fn is_sinusoid(values: &[f64]) -> bool {
    if values.len() < 64 || values.iter().any(|v| v.abs() > 1.0) {
        return false;
    }
    #[allow(clippy::cast_precision_loss, reason = "a number of elements")]
    let count = values.len() as f64;
    let moment = |power: i32| values.iter().map(|v| v.powi(power)).sum::<f64>() / count;
    (0.45..=0.55).contains(&moment(2)) && (0.34..=0.51).contains(&moment(4))
}

impl Trains {
    /// The names of what trains, in graph order.
    pub(super) fn names(&self) -> Vec<String> {
        self.decisions.iter().filter(|d| d.trains).map(|d| d.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
