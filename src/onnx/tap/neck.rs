//! The maps that a detector's heads read. What a head computes never becomes a map again. Where
//! that happens at several stages, the last map that all heads of a stage come from, and that is
//! not itself a prediction, belongs to the neck (or to the backbone if there is no neck).

use super::super::Model;
use super::super::flow::{Flow, values};
use super::super::operator::{Class, Movement};
use super::super::proto::NodeProto;
use super::{Role, Tap, ints, is_flattened};
use crate::array::Layout;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The map that the heads of each stage read, by stage; empty unless at least two stages have
/// heads.
pub(super) fn maps<'a>(
    model: &'a Model,
    flow: &Flow<'a>,
    taps: &[Tap],
    targets: &[&'a str],
) -> HashMap<usize, &'a str> {
    let nodes = &model.graph().node;
    let relevant = flow.ancestors(targets);
    let is_staged =
        |t: &&Tap| t.role == Role::Map && !is_flattened(t) && relevant.contains(t.tensor.as_str());
    let staged: HashMap<&str, &Tap> = taps
        .iter()
        .filter(is_staged)
        .filter(|t| t.stage.is_some())
        .map(|t| (t.tensor.as_str(), t))
        .collect();
    let ends = ends(nodes, flow, &relevant, &staged, targets);
    if ends.len() < 2 {
        return HashMap::new();
    }
    let mut found = HashMap::new();
    for (stage, ends) in ends {
        let passed = flow.bottlenecks(&ends);
        let is_candidate = |t: &Tap| t.layout == Some(Layout::Nchw) && t.stage == Some(stage);
        let names = nodes.iter().flat_map(|node| &node.output).map(String::as_str);
        let chain = names.filter(|name| {
            passed.contains(name) && staged.get(name).copied().is_some_and(is_candidate)
        });
        let mut chain: Vec<&str> = chain.collect();
        while chain.pop_if(|last| is_prediction(model, flow, last, &ends, targets)).is_some() {}
        found.extend(chain.pop().map(|map| (stage, map)));
    }
    found
}

/// The maps of each stage whose values leave the maps for good.
fn ends<'a>(
    nodes: &'a [NodeProto],
    flow: &Flow<'a>,
    relevant: &HashSet<&'a str>,
    staged: &HashMap<&str, &Tap>,
    targets: &[&'a str],
) -> BTreeMap<usize, Vec<&'a str>> {
    let is_useful = |node: &&NodeProto| values(node).any(|name| relevant.contains(name));
    let mut ends: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    let mut add = |name: &'a str| {
        let Some(stage) = staged.get(name).and_then(|tap| tap.stage) else { return };
        let of_stage = ends.entry(stage).or_default();
        if !of_stage.contains(&name) {
            of_stage.push(name);
        }
    };
    // tensors that maps are still computed from
    let mut leads: HashSet<&str> = HashSet::new();
    for node in nodes.iter().rev().filter(is_useful) {
        let data = flow.data(node);
        if values(node).any(|name| staged.contains_key(name) || leads.contains(name)) {
            leads.extend(data);
        } else {
            data.into_iter().for_each(&mut add);
        }
    }
    targets.iter().copied().for_each(add);
    ends
}

/// Whether a map is a head's prediction: all ends are this map up to axes and range, and a
/// convolution computes it without an activation.
fn is_prediction(
    model: &Model,
    flow: &Flow<'_>,
    map: &str,
    ends: &[&str],
    targets: &[&str],
) -> bool {
    let mut same: HashSet<&str> = HashSet::from([map]);
    for node in &model.graph().node {
        if hands_on(node) && node.input.iter().any(|name| same.contains(name.as_str())) {
            same.extend(values(node));
        }
    }
    if !ends.iter().all(|end| same.contains(end)) {
        return false;
    }
    // a pyramid that is the model's output ends in convolutions with larger kernels
    let is_output = ends.iter().any(|end| targets.contains(end));
    is_linear(model, flow, map, is_output)
}

/// Whether a node only changes axes, ranges or parts of maps.
fn hands_on(node: &NodeProto) -> bool {
    use Movement::{Cast, Copy, Join, Part, Transpose};
    match node.operator().class {
        Class::Movement(Transpose | Copy | Cast | Part | Join)
        | Class::Softmax
        | Class::Quantization => true,
        _ => node.op_type() == "Sigmoid",
    }
}

/// Whether convolutions compute a map, with at most a sigmoid after them.
fn is_linear(model: &Model, flow: &Flow<'_>, map: &str, pointwise_only: bool) -> bool {
    let mut open = vec![map];
    let mut done: HashSet<&str> = HashSet::new();
    while let Some(name) = open.pop() {
        if !done.insert(name) {
            continue;
        }
        let Some(node) = flow.producer(name) else { return false };
        match node.operator() {
            operator
                if operator.is_convolution() && (!pointwise_only || is_pointwise(model, node)) => {}
            _ if hands_on(node) => open.extend(flow.data(node)),
            _ => return false,
        }
    }
    true
}

fn is_pointwise(model: &Model, node: &NodeProto) -> bool {
    let filters = node.operator().macs.and_then(|(input, _)| node.input.get(input));
    let by_weight = || {
        let weight = model
            .graph()
            .initializer
            .iter()
            .find(|tensor| Some(tensor.name()) == filters.map(String::as_str));
        weight.is_some_and(|weight| weight.dims.iter().skip(2).all(|&k| k == 1))
    };
    match ints(node, "kernel_shape") {
        [] => by_weight(),
        kernel => kernel.iter().all(|&k| k == 1),
    }
}
