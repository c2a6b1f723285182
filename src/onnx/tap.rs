//! Taps: which tensors of a graph are worth distilling, from the graph and the shapes that a probe run found.
//!
//! Which taps are **suggested**: for each spatial stage (all maps of one size) the last map through which everything passes that reaches the
//! logits. That is the residual sum or its activation where a block ends, in a pre-activation network the normalised sum that the next
//! stage and its shortcut both read, in a shuffling network the shuffled concatenation; it is never the inside of a residual block. A
//! pointwise convolution in front of a strided depthwise one (an inverted residual) opens the next stage: the map before it counts.
//! A stage without such a map (a U-Net's) suggests its last map in graph order. Then the penultimate vector, in its rank-2 form, and the logits.

mod choice;
mod layout;

pub use choice::{TapChoice, alias, resolve};
pub use layout::PREFIX_TOKENS_MAX;

use super::flow::{Flow, values};
use super::proto::NodeProto;
use super::{Model, logits};
use crate::recipe::Layout;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};

/// What a tap is to distillation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Channel maps `[N, C, H, W]` (or `[N, H, W, C]`, by [`Tap::layout`]).
    Map,
    /// Tokens `[N, T, C]`.
    Tokens,
    /// One vector a sample, `[N, C]`.
    Vector,
    /// The classifier's output before any softmax, `[N, classes]`.
    Logits,
}

/// A candidate tap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// The ONNX tensor's name.
    pub tensor: String,
    /// The operator that computes it.
    pub op: String,
    /// Shape with the batch axis first (`None` where the batch is open), as probed.
    pub shape: Vec<Option<usize>>,
    /// What it is to distillation.
    pub role: Role,
    /// The axis order of a map; `None` for everything else. Suggested maps are NCHW.
    pub layout: Option<Layout>,
    /// Height and width of the image that tokens cover, where the graph shows it; up to [`PREFIX_TOKENS_MAX`] others stand before those.
    pub grid: Option<[usize; 2]>,
    /// Which spatial stage it stands in, from 1 (the stem and everything of the first size) on; `None` for what is no map, and for 1×1 maps.
    pub stage: Option<usize>,
    /// Whether it is one of the suggested taps: the last map of each spatial stage, the penultimate vector, the logits.
    pub suggested: bool,
}

impl Tap {
    /// Height and width of a map.
    #[must_use]
    pub fn spatial(&self) -> Option<[usize; 2]> {
        match (self.layout?, self.shape.as_slice()) {
            (Layout::Nchw, &[_, _, Some(h), Some(w)]) | (Layout::Nhwc, &[_, Some(h), Some(w), _]) => Some([h, w]),
            _ => None,
        }
    }
}

/// All candidate taps in graph order with the suggested ones marked: the outputs of operators whose values depend on the input and that have a
/// batch axis. `shapes`: each tensor's probed shape, batch axis first.
#[must_use]
#[allow(clippy::implicit_hasher, reason = "there is one map of shapes, which the probe makes")]
pub fn candidates(model: &Model, shapes: &HashMap<String, Vec<Option<usize>>>) -> Vec<Tap> {
    let flow = Flow::new(model);
    let found = logits::of_output(model).and_then(|found| found.choose(|tensor| logits::row(shapes, tensor)).ok());
    let logits = found.map(|logits| logits.tensor);
    let layouts = layout::of_tensors(model, &flow, shapes);
    let mut taps = Vec::new();
    for node in &model.graph().node {
        for tensor in values(node).filter(|name| flow.depends_on_input(name)) {
            let Some(shape) = shapes.get(tensor) else { continue };
            let layout = layouts.maps.get(tensor).copied();
            let role = match shape.get(1..).unwrap_or_default() {
                // of any rank: a convolution may have computed them
                _ if logits.as_deref() == Some(tensor) => Role::Logits,
                [Some(1..)] => Role::Vector,
                [Some(1..), Some(1..)] => Role::Tokens,
                [Some(1..), Some(1..), Some(1..)] if layout.is_some() => Role::Map,
                _ => continue,
            };
            taps.push(Tap {
                tensor: tensor.to_owned(),
                op: node.op_type().to_owned(),
                shape: shape.clone(),
                role,
                layout: layout.filter(|_| role == Role::Map),
                grid: layouts.grids.get(tensor).copied(),
                stage: None,
                suggested: role == Role::Logits,
            });
        }
    }
    let stages = stages(&taps);
    for tap in &mut taps {
        tap.stage = tap.spatial().or(tap.grid).and_then(|size| stages.iter().position(|&s| s == size)).map(|index| index + 1);
    }
    let mut suggested = last_maps(model, &flow, &taps, stages.len(), logits.as_deref());
    suggested.extend(logits.as_deref().and_then(|name| penultimate(&flow, shapes, name)));
    for tap in &mut taps {
        tap.suggested |= suggested.contains(tap.tensor.as_str());
    }
    taps
}

/// The spatial sizes in order of appearance. A size that only moved data has, as the half-way of a slice along height and then width, is none,
/// nor is 1×1.
fn stages(taps: &[Tap]) -> Vec<[usize; 2]> {
    let mut sizes = Vec::new();
    for tap in taps
        .iter()
        .filter(|t| !matches!(t.op.as_str(), "Slice" | "Pad" | "Reshape" | "Transpose" | "Concat" | "Split" | "Gather" | "Identity"))
    {
        if let Some(size) = tap.spatial().filter(|&size| size != [1, 1] && !sizes.contains(&size)) {
            sizes.push(size);
        }
    }
    sizes
}

/// The last map of each stage, by the rule at the head of this file.
fn last_maps<'a>(model: &'a Model, flow: &Flow<'a>, taps: &[Tap], stages: usize, logits: Option<&str>) -> HashSet<&'a str> {
    let outputs = model.graph().output.iter().map(super::proto::ValueInfoProto::name);
    // by the graph's own strings, which live as long as the model
    let names = model.graph().node.iter().flat_map(|node| &node.output).map(String::as_str);
    let targets: Vec<&str> = match logits {
        Some(logits) => names.clone().filter(|name| *name == logits).collect(),
        None => outputs.collect(),
    };
    let relevant = flow.ancestors(&targets);
    let bottlenecks = flow.bottlenecks(&targets);
    let maps: HashMap<&str, &Tap> = taps.iter().filter(|t| t.layout == Some(Layout::Nchw)).map(|t| (t.tensor.as_str(), t)).collect();
    let mut last = HashSet::new();
    for stage in 1..=stages {
        let maps: Vec<&str> =
            names.clone().filter(|name| relevant.contains(name) && maps.get(name).is_some_and(|t| t.stage == Some(stage))).collect();
        let passed: Vec<&str> = maps.iter().copied().filter(|name| bottlenecks.contains(name)).collect();
        last.extend(before_expansion(flow, &passed).or(maps.last().copied()));
    }
    last
}

/// The last of these maps, or the one before the pointwise convolution if what follows it feeds a strided depthwise convolution alone.
fn before_expansion<'a>(flow: &Flow<'a>, maps: &[&'a str]) -> Option<&'a str> {
    let last = *maps.last()?;
    let consumers = flow.consumers(last);
    let expands =
        !consumers.is_empty() && consumers.iter().all(|node| node.op_type() == "Conv" && int(node, "group") > 1 && is_strided(node));
    if expands {
        let convolution = |name: &&str| flow.producer(name).is_some_and(|node| node.op_type() == "Conv");
        let pointwise = |name: &str| flow.producer(name).is_some_and(|node| matches!(ints(node, "kernel_shape"), [1, 1]));
        if let Some(index) = maps.iter().rposition(convolution)
            && let (Some(conv), Some(before)) = (maps.get(index), index.checked_sub(1).and_then(|i| maps.get(i)))
            && pointwise(conv)
        {
            return Some(before);
        }
    }
    Some(last)
}

fn is_strided(node: &NodeProto) -> bool {
    ints(node, "strides").iter().any(|&s| s > 1)
}

/// An integer attribute, 0 if absent.
pub(super) fn int(node: &NodeProto, name: &str) -> i64 {
    node.attribute.iter().find(|a| a.name() == name).map_or(0, super::proto::AttributeProto::i)
}

/// A list attribute, empty if absent.
pub(super) fn ints<'a>(node: &'a NodeProto, name: &str) -> &'a [i64] {
    node.attribute.iter().find(|a| a.name() == name).map_or(&[], |a| a.ints.as_slice())
}

/// The vector `[N, C]` that the last linear layer reads.
fn penultimate<'a>(flow: &Flow<'a>, shapes: &HashMap<String, Vec<Option<usize>>>, logits: &str) -> Option<&'a str> {
    let mut node = flow.producer(logits)?;
    let mut tensor = loop {
        let &[only] = flow.data(node).as_slice() else { return None };
        match node.op_type() {
            "Gemm" | "MatMul" | "Conv" => break only,
            "Add" | "Sub" | "Mul" | "Div" | "Identity" | "Cast" | "Flatten" | "Reshape" | "Squeeze" | "BatchNormalization" => {
                node = flow.producer(only)?;
            }
            _ => return None,
        }
    };
    // dropout in training form gives other values at each run: what it reads is the vector
    while let Some(node) = flow.producer(tensor).filter(|node| matches!(node.op_type(), "Dropout" | "Identity")) {
        tensor = *flow.data(node).first()?;
    }
    (shapes.get(tensor)?.len() == 2).then_some(tensor)
}

#[cfg(test)]
mod tests;
