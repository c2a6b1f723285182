//! Which tensor of the module each input of a graph reads.

use crate::onnx::operator::Class;
use crate::onnx::proto::{
    AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, type_proto,
};
use crate::onnx::proto::{tensor_proto::DataType, tensor_shape_proto::dimension::Value as Size};
use crate::onnx::signature::{self, Call, Signature};
use std::collections::{HashMap, HashSet};

/// An input that reads a tensor of the module.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) node: usize,
    pub(super) slot: usize,
    /// Its name in the state dict.
    pub(super) name: String,
    /// Whether the input reads its transpose.
    pub(super) is_turned: bool,
}

/// What the inputs of a graph read.
#[derive(Debug, Default)]
pub(super) struct Reads {
    pub(super) named: Vec<Read>,
    /// Inputs that read an initializer which is not a tensor of the module.
    pub(super) constants: Vec<(usize, usize)>,
}

/// A bias that was dropped: its node, name and length.
#[derive(Debug)]
pub(super) struct LostBias {
    pub(super) node: usize,
    pub(super) name: String,
    pub(super) channels: usize,
}

/// The nodes of each call, in the graph's order.
fn calls(graph: &GraphProto) -> Vec<(Call<'_>, Vec<usize>)> {
    let mut places: HashMap<Call<'_>, usize> = HashMap::new();
    let mut calls: Vec<(Call<'_>, Vec<usize>)> = Vec::new();
    for (number, node) in graph.node.iter().enumerate() {
        let Some(call) = Call::of(node) else { continue };
        let place = *places.entry(call).or_insert_with(|| {
            calls.push((call, Vec::new()));
            calls.len() - 1
        });
        if let Some((_, nodes)) = calls.get_mut(place) {
            nodes.push(number);
        }
    }
    calls
}

/// The argument of its call that an input of a node reads, where node and call are one operation.
fn argument(node: &NodeProto, call: &Call<'_>, slot: usize) -> Option<usize> {
    let function = call.function();
    let is_norm = !node.operator().statistics.is_empty();
    match node.op_type() {
        "Conv" | "ConvTranspose" if function.starts_with("conv") => Some(slot),
        "Gemm" if function == "linear" => Some(slot),
        // bias, input, weight
        "Gemm" if function == "addmm" => [1, 2, 0].get(slot).copied(),
        // input, normalized shape or number of groups, weight, bias
        "LayerNormalization" if function.contains("layer_norm") => Some(slot + 1),
        "GroupNormalization" if function == "group_norm" => Some(slot + 1),
        _ if is_norm && function.contains("batch_norm") => Some(slot),
        "PRelu" => Some(slot),
        _ => None,
    }
}

impl Reads {
    pub(super) fn of(graph: &GraphProto, signature: &Signature) -> Self {
        let leaves: HashSet<&str> =
            graph.initializer.iter().filter(|t| is_float(t)).map(TensorProto::name).collect();
        let folded: HashMap<&str, &ValueInfoProto> =
            graph.value_info.iter().map(|value| (value.name(), value)).collect();
        let mut reads = Self::default();
        for (call, nodes) in calls(graph) {
            let mut of_call = CallReads { graph, signature, call, reads: Vec::new() };
            for &number in &nodes {
                let Some(node) = graph.node.get(number) else { continue };
                if node.operator().reads_shape {
                    continue;
                }
                let held = node.input.iter().enumerate().filter(|(_, i)| leaves.contains(&***i));
                for (slot, leaf) in held {
                    let origin = origin(leaf, signature, &folded, &call);
                    of_call.reads.push(Open { node: number, slot, leaf, origin, name: None });
                }
            }
            of_call.resolve();
            for read in of_call.reads {
                match read.name {
                    Some(name) => reads.named.push(Read {
                        is_turned: of_call.call.function() == "linear"
                            && is_matmul(graph, read.node)
                            && read.slot == 1
                            && !signature.tensors.contains_key(read.leaf),
                        node: read.node,
                        slot: read.slot,
                        name,
                    }),
                    None => reads.constants.push((read.node, read.slot)),
                }
            }
        }
        reads
    }

    /// The biases that calls take and no node adds.
    pub(super) fn lost_biases(graph: &GraphProto, signature: &Signature) -> Vec<LostBias> {
        let shapes: HashMap<&str, &ValueInfoProto> =
            graph.value_info.iter().map(|value| (value.name(), value)).collect();
        let weights: HashMap<&str, &TensorProto> =
            graph.initializer.iter().map(|tensor| (tensor.name(), tensor)).collect();
        // what follows a product in a student that was restored before
        let sums: HashSet<(&str, &str)> = graph
            .node
            .iter()
            .filter(|n| n.op_type() == "Add")
            .filter_map(|n| Some((n.input.first()?.as_str(), n.input.get(1)?.as_str())))
            .collect();
        let mut lost = Vec::new();
        for (call, nodes) in calls(graph) {
            let function = call.function();
            let place = match function {
                "linear" => 2,
                "addmm" => 0,
                _ if function.starts_with("conv") => 2,
                _ => continue,
            };
            let Some(bias) = signature.argument(&call, place) else { continue };
            let of = |number: &usize| graph.node.get(*number).map(|node| (*number, node));
            let nodes: Vec<(usize, &NodeProto)> = nodes.iter().filter_map(of).collect();
            let adds = nodes.iter().any(|(_, n)| {
                n.op_type() == "Add" || n.input.get(2).is_some_and(|input| !input.is_empty())
            });
            let Some((number, node)) =
                nodes.iter().rev().find(|(_, n)| n.operator().macs.is_some()).filter(|_| !adds)
            else {
                continue;
            };
            if node.output.first().is_some_and(|output| sums.contains(&(output.as_str(), bias))) {
                continue;
            }
            if let Some(channels) = channels(node, &shapes, &weights) {
                lost.push(LostBias { node: *number, name: bias.to_owned(), channels });
            }
        }
        lost
    }
}

/// No layer has more channels: a hostile size must not fill the memory.
const CHANNELS: usize = 1 << 24;

/// The number of output channels of a convolution or product.
pub(super) fn channels(
    node: &NodeProto,
    shapes: &HashMap<&str, &ValueInfoProto>,
    weights: &HashMap<&str, &TensorProto>,
) -> Option<usize> {
    let size = |n: i64| usize::try_from(n).ok().filter(|n| (1..=CHANNELS).contains(n));
    let int =
        |name: &str| node.attribute.iter().find(|a| a.name() == name).map_or(0, AttributeProto::i);
    if let Some(weight) = node.input.get(1).and_then(|name| weights.get(name.as_str())) {
        let dims = &weight.dims;
        return match node.op_type() {
            "Conv" => size(*dims.first()?),
            "ConvTranspose" => size(dims.get(1)?.checked_mul(int("group").max(1))?),
            "Gemm" if int("transB") != 0 => size(*dims.first()?),
            _ => size(*dims.last()?),
        };
    }
    // the weight is computed: the declared shape of the result
    let value = shapes.get(node.output.first()?.as_str())?.r#type.as_ref()?.value.as_ref()?;
    let type_proto::Value::TensorType(tensor) = value else { return None };
    let dims = &tensor.shape.as_ref()?.dim;
    let axis = if node.operator().is_convolution() { dims.get(1)? } else { dims.last()? };
    if let Some(Size::DimValue(n)) = axis.value { size(n) } else { None }
}

fn is_float(tensor: &TensorProto) -> bool {
    matches!(
        DataType::try_from(tensor.data_type()),
        Ok(DataType::Float | DataType::Double | DataType::Float16 | DataType::Bfloat16)
    )
}

fn is_matmul(graph: &GraphProto, node: usize) -> bool {
    graph.node.get(node).is_some_and(|n| n.op_type() == "MatMul")
}

/// Functions whose weights an exporter may rearrange before use.
const MOVED: [&str; 4] = ["linear", "group_norm", "native_group_norm", "prelu"];
/// How exporters name the results of functions that only rearrange values.
const MOVES: [&str; 9] =
    ["view", "reshape", "permute", "transpose", "unsqueeze", "squeeze", "t", "flatten", "_to_copy"];

/// The tensor of the module whose values an initializer has, in whatever arrangement.
fn origin<'a>(
    leaf: &'a str,
    signature: &'a Signature,
    folded: &HashMap<&str, &ValueInfoProto>,
    call: &Call<'_>,
) -> Option<String> {
    if signature.tensors.contains_key(leaf) {
        return Some(leaf.to_owned());
    }
    let from = signature::folded_from(folded.get(leaf)?);
    let mut sources = from.iter().filter(|name| signature.tensors.contains_key(*name));
    let source = sources.next()?;
    let moves = |name: &str| {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_');
        MOVES.contains(&stem)
    };
    let is_inner = |name: &str| name.starts_with("val_");
    let moved_inside = is_inner(leaf) && MOVED.contains(&call.function());
    let is_moved = (moves(leaf) || moved_inside)
        && from.iter().all(|name| name == source || is_inner(name) || moves(name));
    (sources.next().is_none() && is_moved).then(|| source.clone())
}

/// A read whose tensor is to be determined.
struct Open<'a> {
    node: usize,
    slot: usize,
    leaf: &'a str,
    /// The tensor of the module that the initializer was before others were merged into it.
    origin: Option<String>,
    name: Option<String>,
}

/// The reads of one call.
struct CallReads<'a> {
    graph: &'a GraphProto,
    signature: &'a Signature,
    call: Call<'a>,
    reads: Vec<Open<'a>>,
}

impl CallReads<'_> {
    /// Names the reads: by place where node and call are one operation; then by name; then the rest
    /// of both sides in order; last by the module of the node.
    fn resolve(&mut self) {
        let is_group_norm = self.call.function().ends_with("group_norm");
        let is_batch_norm = self.call.function().contains("batch_norm");
        let mut open: Vec<usize> = Vec::new();
        for (number, read) in self.reads.iter_mut().enumerate() {
            let Some(node) = self.graph.node.get(read.node) else { continue };
            let normalizes = node.operator().class == Class::Normalization;
            // the ones and zeros of a group norm that is exported as an instance norm
            if is_group_norm && node.op_type() == "InstanceNormalization" {
                continue;
            }
            // what a norm was folded into
            if is_batch_norm && !normalizes {
                read.name.clone_from(&read.origin);
                continue;
            }
            read.name = argument(node, &self.call, read.slot)
                .and_then(|n| self.signature.argument(&self.call, n))
                .map(str::to_owned);
            if read.name.is_none() {
                open.push(number);
            }
        }
        let mut left: Vec<&str> = self.signature.taken_by(&self.call);
        let named: HashSet<String> = self.reads.iter().filter_map(|r| r.name.clone()).collect();
        left.retain(|name| !named.contains(*name));
        open.retain(|&number| {
            let read = &mut self.reads[number];
            let place = left.iter().position(|name| Some(*name) == read.origin.as_deref());
            if let Some(place) = place {
                read.name = Some(left.remove(place).to_owned());
            }
            place.is_none()
        });
        // only a read of a parameter's value can be that parameter
        open.retain(|&number| self.reads[number].origin.is_some());
        if open.len() == left.len() {
            for (&number, name) in open.iter().zip(&left) {
                self.reads[number].name = Some((*name).to_owned());
            }
            return;
        }
        for number in open {
            let read = &self.reads[number];
            let name = self.of_module(read);
            self.reads[number].name = name;
        }
    }

    /// The tensor of the node's own module that has the last part of the initializer's name.
    fn of_module(&self, read: &Open<'_>) -> Option<String> {
        let node = self.graph.node.get(read.node)?;
        let last = read.origin.as_deref()?.rsplit('.').next()?;
        signature::modules(node)
            .iter()
            .map(
                |module| {
                    if module.is_empty() { last.to_owned() } else { format!("{module}.{last}") }
                },
            )
            .find(|name| self.signature.tensors.contains_key(name))
    }
}
