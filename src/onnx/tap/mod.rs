//! Taps: which tensors of a graph are worth distilling, judged by the graph and the shapes that a
//! probe run found.
//!
//! For each spatial stage (all maps of one size), the **suggested** tap is the last map that
//! everything on the way to the logits passes through. That is the residual sum, or its activation,
//! at the end of a block; in a pre-activation network, the normalized sum that both the next stage
//! and its shortcut read; in a shuffling network, the shuffled concatenation. It is never inside a
//! residual block. A pointwise convolution before a strided depthwise one (an inverted residual)
//! opens the next stage, so the map before it counts. A stage without such a map (in a U-Net)
//! suggests its last map in graph order. The penultimate vector, in its rank-2 form, and the logits
//! follow. In networks with heads at several stages, such as detectors, a stage with heads suggests
//! the map that they read: the neck's.
//!
//! ```no_run
//! use nst_cache::onnx::{Feeding, Model, logits, tap};
//! use nst_cache::runtime::{self, Runtime};
//!
//! let teacher = Model::read("teacher.onnx".as_ref())?;
//! let feeds = runtime::feeds(&teacher, None, &Feeding::default())?;
//! let probe = runtime::probe(&Runtime::load(None)?, &teacher, &feeds)?;
//! let logits = logits::find(&teacher, &probe.shapes, 0).ok().map(|logits| logits.tensor);
//! let taps = tap::candidates(&teacher, &probe.shapes, logits.as_deref());
//! for tap in taps.iter().filter(|tap| tap.suggested) {
//!     println!("{} {:?} {:?}", tap.tensor, tap.role, tap.shape);
//! }
//! # Ok::<(), nst_cache::error::Error>(())
//! ```

mod choice;
mod layout;
mod neck;

pub use choice::{TapChoice, alias, free, path_name, resolve};
pub use layout::PREFIX_TOKENS_MAX;

use super::Model;
use super::flow::{Flow, values};
use super::operator::{self, Class, Movement};
use super::proto::NodeProto;
use crate::array::Layout;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};

/// What a tap holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Channel maps `[N, C, H, W]` (or `[N, H, W, C]`, see [`Tap::layout`]), or flat ones `[N, C,
    /// T]` (see [`Tap::grid`]).
    Map,
    /// Tokens `[N, T, C]`.
    Tokens,
    /// Three-dimensional maps `[N, C, D, H, W]`, stored whole: no statistic is taken of them.
    Volume,
    /// An output of any other form, stored whole.
    Values,
    /// One vector per sample, `[N, C]`.
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
    /// The probed shape with the batch axis first (`None` where the batch is open).
    pub shape: Vec<Option<usize>>,
    /// What it holds.
    pub role: Role,
    /// A map's axis order; `None` for anything else. Suggested maps are NCHW.
    pub layout: Option<Layout>,
    /// Height and width of the image that tokens cover, if the graph tells; up to
    /// [`PREFIX_TOKENS_MAX`] other tokens precede those. For a flat map its height and width, with
    /// height 1 if it is one-dimensional.
    pub grid: Option<[usize; 2]>,
    /// Spatial stage, from 1 (the stem and everything of the first size); `None` for 1×1 maps and
    /// anything that is not a map.
    pub stage: Option<usize>,
    /// Whether it is suggested: the last map of a spatial stage, the penultimate vector, and the
    /// logits, or else the outputs.
    pub suggested: bool,
    /// Whether it is an output of the model.
    pub output: bool,
}

impl Tap {
    /// Height and width of a map.
    #[must_use]
    pub fn spatial(&self) -> Option<[usize; 2]> {
        match (self.layout?, self.shape.as_slice()) {
            (Layout::Nchw, &[_, _, Some(h), Some(w)])
            | (Layout::Nhwc, &[_, Some(h), Some(w), _]) => Some([h, w]),
            (_, &[_, _, _]) => self.grid,
            _ => None,
        }
    }
}

/// All candidate taps in graph order, with the suggested ones marked: operator outputs that depend
/// on the input and have a batch axis. `shapes` holds each tensor's probed shape, batch axis first;
/// `logits` is the tensor of the class logits, if there are any.
#[must_use]
#[allow(clippy::implicit_hasher, reason = "there is one map of shapes, which the probe makes")]
pub fn candidates(
    model: &Model,
    shapes: &HashMap<String, Vec<Option<usize>>>,
    logits: Option<&str>,
) -> Vec<Tap> {
    let flow = Flow::new(model);
    let outputs: HashSet<&str> =
        model.graph().output.iter().map(super::proto::ValueInfoProto::name).collect();
    let layouts = layout::of_tensors(model, &flow, shapes);
    let mut taps = Vec::new();
    for node in &model.graph().node {
        for tensor in values(node).filter(|name| flow.depends_on_input(name)) {
            let Some(shape) = shapes.get(tensor) else { continue };
            let is_output = outputs.contains(tensor);
            let grid = layouts.grids.get(tensor).copied();
            let flattened = layouts.flattened.get(tensor).copied();
            let layout = layouts
                .maps
                .get(tensor)
                .copied()
                .or(flattened.filter(|&l| l == Layout::Nchw && grid.is_some()));
            let role = match shape.get(1..).unwrap_or_default() {
                // of any rank: a convolution may compute the logits
                _ if logits == Some(tensor) => Role::Logits,
                [Some(1..)] => Role::Vector,
                // a vector of one value
                [] if is_output => Role::Vector,
                [Some(1..), Some(1..)] | [Some(1..), Some(1..), Some(1..)] if layout.is_some() => {
                    Role::Map
                }
                // channels first, over positions that are not an image's
                [Some(1..), Some(1..)] if flattened == Some(Layout::Nchw) && !is_output => continue,
                [Some(1..), Some(1..)] if flattened == Some(Layout::Nchw) => Role::Values,
                [Some(1..), Some(1..)] => Role::Tokens,
                [Some(1..), Some(1..), Some(1..), Some(1..)]
                    if layouts.volumes.contains(tensor) =>
                {
                    Role::Volume
                }
                row if is_output
                    && !row.is_empty()
                    && row.iter().all(|n| n.is_some_and(|n| n > 0)) =>
                {
                    Role::Values
                }
                _ => continue,
            };
            taps.push(Tap {
                tensor: tensor.to_owned(),
                op: node.op_type().to_owned(),
                shape: shape.clone(),
                role,
                layout: layout.filter(|_| role == Role::Map),
                grid,
                stage: None,
                suggested: role == Role::Logits || (is_output && logits.is_none()),
                output: is_output,
            });
        }
    }
    let stages = stages(&taps, &layouts.remade);
    for tap in &mut taps {
        tap.stage = tap
            .spatial()
            .or(tap.grid)
            .and_then(|size| stages.iter().position(|&s| s == size))
            .map(|index| index + 1);
    }
    let mut suggested = last_maps(model, &flow, &taps, stages.len(), logits);
    suggested.extend(logits.and_then(|name| penultimate(&flow, shapes, name)));
    for tap in &mut taps {
        tap.suggested |= suggested.contains(tap.tensor.as_str());
    }
    taps
}

/// The spatial sizes in order of appearance. Skips 1×1, sizes of remade maps, and sizes that only
/// moved data has, such as halfway through a slice along height and then width.
fn stages(taps: &[Tap], remade: &HashSet<&str>) -> Vec<[usize; 2]> {
    let mut sizes = Vec::new();
    for tap in taps
        .iter()
        .filter(|t| !remade.contains(t.tensor.as_str()) && !is_flattened(t))
        .filter(|t| !matches!(operator::of(&t.op).class, Class::Movement(_)))
    {
        if let Some(size) = tap.spatial().filter(|&size| size != [1, 1] && !sizes.contains(&size)) {
            sizes.push(size);
        }
    }
    sizes
}

/// Whether a map is flattened, and so the same as the map it is made from.
fn is_flattened(tap: &Tap) -> bool {
    tap.shape.len() == 3 && tap.grid.is_some_and(|[height, _]| height > 1)
}

/// The last map of each stage, by the rule at the top of this file.
fn last_maps<'a>(
    model: &'a Model,
    flow: &Flow<'a>,
    taps: &[Tap],
    stages: usize,
    logits: Option<&str>,
) -> HashSet<&'a str> {
    let outputs = model.graph().output.iter().map(super::proto::ValueInfoProto::name);
    // by the graph's own strings, which live as long as the model
    let names = model.graph().node.iter().flat_map(|node| &node.output).map(String::as_str);
    let targets: Vec<&str> = match logits {
        Some(logits) => names.clone().filter(|name| *name == logits).collect(),
        None => outputs.collect(),
    };
    let relevant = flow.ancestors(&targets);
    let bottlenecks = flow.bottlenecks(&targets);
    let is_map = |t: &&Tap| t.layout == Some(Layout::Nchw) && !is_flattened(t);
    let maps: HashMap<&str, &Tap> =
        taps.iter().filter(is_map).map(|t| (t.tensor.as_str(), t)).collect();
    let necks =
        if logits.is_none() { neck::maps(model, flow, taps, &targets) } else { HashMap::new() };
    let mut last = HashSet::new();
    for stage in 1..=stages {
        if let Some(neck) = necks.get(&stage) {
            last.insert(*neck);
            continue;
        }
        let maps: Vec<&str> = names
            .clone()
            .filter(|name| {
                relevant.contains(name) && maps.get(name).is_some_and(|t| t.stage == Some(stage))
            })
            .collect();
        let passed: Vec<&str> =
            maps.iter().copied().filter(|name| bottlenecks.contains(name)).collect();
        last.extend(before_expansion(flow, &passed).or(maps.last().copied()));
    }
    last
}

/// The last of these maps, or the one before the pointwise convolution if what follows feeds only a
/// strided depthwise convolution.
fn before_expansion<'a>(flow: &Flow<'a>, maps: &[&'a str]) -> Option<&'a str> {
    let last = *maps.last()?;
    let consumers = flow.consumers(last);
    let expands = !consumers.is_empty()
        && consumers.iter().all(|node| {
            node.operator().is_convolution() && int(node, "group") > 1 && is_strided(node)
        });
    if expands {
        let convolution =
            |name: &&str| flow.producer(name).is_some_and(|node| node.operator().is_convolution());
        let pointwise = |name: &str| {
            flow.producer(name).is_some_and(|node| matches!(ints(node, "kernel_shape"), [1, 1]))
        };
        if let Some(index) = maps.iter().rposition(convolution)
            && let (Some(conv), Some(before)) =
                (maps.get(index), index.checked_sub(1).and_then(|i| maps.get(i)))
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
fn penultimate<'a>(
    flow: &Flow<'a>,
    shapes: &HashMap<String, Vec<Option<usize>>>,
    logits: &str,
) -> Option<&'a str> {
    let mut node = flow.producer(logits)?;
    let mut tensor = loop {
        let mut data = flow.data(node);
        if data.len() > 1 {
            // a scale that depends on the input has no batch axis
            data.retain(|name| shapes.contains_key(*name));
        }
        let only = match (node.op_type(), data.as_slice(), flow.data(node).first()) {
            (_, &[only], _) => only,
            // the other inputs are scales and zero points
            ("MatMulInteger", _, Some(&first)) => first,
            _ => return None,
        };
        match node.operator().class {
            Class::Product => break only,
            Class::Spatial if node.operator().is_convolution() => break only,
            Class::Arithmetic
            | Class::Quantization
            | Class::Movement(Movement::Copy | Movement::Cast | Movement::Reshape) => {
                node = flow.producer(only)?;
            }
            Class::Normalization if !node.operator().statistics.is_empty() => {
                node = flow.producer(only)?;
            }
            _ => return None,
        }
    };
    // dropout in training form is random, and an integer stands for a float: what they read is the
    // vector
    let passes = |node: &&NodeProto| {
        node.operator().moves(Movement::Copy) || node.op_type() == "DynamicQuantizeLinear"
    };
    while let Some(node) = flow.producer(tensor).filter(passes) {
        tensor = *flow.data(node).first()?;
    }
    (shapes.get(tensor)?.len() == 2).then_some(tensor)
}

#[cfg(test)]
mod tests;
