//! A model's cost: its parameters and multiply-accumulates, counted from the graph and the shapes
//! of a run.

use super::flow::Flow;
use super::operator::Macs;
use super::proto::tensor_proto::DataType;
use super::proto::{NodeProto, TensorProto};
use super::tap::int;
use super::{Model, tensor};
use std::collections::{HashMap, HashSet};

/// Elements of all weights: floating-point (and 8-bit quantized) initializers, and Constant nodes
/// read by convolutions or matrix products. Running statistics and rank-0 constants do not count.
#[must_use]
pub fn parameters(model: &Model) -> u64 {
    let graph = model.graph();
    let statistics = graph
        .node
        .iter()
        .flat_map(|n| n.operator().statistics.iter().filter_map(|&slot| n.input.get(slot)));
    let statistics: HashSet<&str> = statistics.map(String::as_str).collect();
    let weights: HashSet<&str> = graph
        .node
        .iter()
        .filter(|n| is_counted(n))
        .flat_map(|n| n.input.iter().skip(1))
        .map(String::as_str)
        .collect();
    let constants = graph.node.iter().filter(|n| {
        n.op_type() == "Constant" && n.output.first().is_some_and(|o| weights.contains(o.as_str()))
    });
    let constants = constants.flat_map(|n| &n.attribute).filter_map(|a| a.t.as_ref());
    let initializers = graph.initializer.iter().filter(|t| !statistics.contains(t.name()));
    initializers
        .chain(constants)
        .filter(|t| is_weight(t))
        .map(elements)
        .fold(0, u64::saturating_add)
}

/// Multiply-accumulates per sample in convolutions and matrix products, including quantized and
/// fused ones. `shapes` holds every tensor's shape in a run on `batch` samples. `None` if a
/// required shape is missing.
#[must_use]
#[allow(clippy::implicit_hasher, reason = "there is one map of shapes, which the probe makes")]
pub fn macs(model: &Model, shapes: &HashMap<String, Vec<usize>>, batch: usize) -> Option<u64> {
    let flow = Flow::new(model);
    let graph = model.graph();
    let constants = graph.node.iter().filter(|n| n.op_type() == "Constant");
    let constants = constants.filter_map(|n| {
        Some((n.output.first()?.as_str(), n.attribute.iter().find_map(|a| a.t.as_ref())?))
    });
    let weights: HashMap<&str, &TensorProto> =
        graph.initializer.iter().map(|t| (t.name(), t)).chain(constants).collect();
    let shape = |name: &str| match shapes.get(name) {
        Some(shape) => Some(shape.clone()),
        None => tensor::shape(weights.get(name)?).ok(),
    };
    let mut total = 0u64;
    for node in graph.node.iter().filter(|n| is_counted(n)) {
        let output = node.output.iter().find(|name| !name.is_empty())?;
        if flow.depends_on_input(output) {
            let input = shape(node.input.first()?)?;
            let (factor, _) = node.operator().macs?;
            let weight = shape(node.input.get(factor)?)?;
            total = total.saturating_add(node_macs(node, &input, &weight, &shape(output)?)?);
        }
    }
    total.checked_div(batch as u64)
}

/// Multiply-accumulates of a node, from the shapes of its first two inputs and its output; `None`
/// for operators that [`macs`] does not count.
pub(crate) fn node_macs(
    node: &NodeProto,
    input: &[usize],
    weight: &[usize],
    output: &[usize],
) -> Option<u64> {
    let product = |shape: &[usize]| shape.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64));
    let (_, macs) = node.operator().macs?;
    Some(match macs {
        // weight [O, I/groups, k…]: each output element sums I/groups·k… products
        Macs::Convolution => product(output).saturating_mul(product(weight.get(1..)?)),
        // weight [I, O/groups, k…]: each input element is spread over O/groups·k… outputs
        Macs::Transposed => product(input).saturating_mul(product(weight.get(1..)?)),
        Macs::Gemm if int(node, "transA") != 0 => {
            product(output).saturating_mul(*input.first()? as u64)
        }
        // weight [D, G·H, I], and [D, G·H, H] of the states; the outputs end in H
        Macs::Recurrent => {
            let (rows, columns) = input.split_at(input.len().checked_sub(1)?);
            let each = columns.first()?.saturating_add(*output.last()?) as u64;
            product(rows).saturating_mul(product(weight.get(..2)?)).saturating_mul(each)
        }
        Macs::Gemm | Macs::Product => product(output).saturating_mul(*input.last()? as u64),
    })
}

fn is_counted(node: &NodeProto) -> bool {
    node.operator().macs.is_some()
}

fn is_weight(tensor: &TensorProto) -> bool {
    let code = DataType::try_from(tensor.data_type.unwrap_or_default());
    let float = matches!(
        code,
        Ok(DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double)
    );
    !tensor.dims.is_empty() && (float || matches!(code, Ok(DataType::Int8 | DataType::Uint8)))
}

fn elements(tensor: &TensorProto) -> u64 {
    tensor.dims.iter().fold(1u64, |n, &d| n.saturating_mul(u64::try_from(d).unwrap_or(0)))
}

#[cfg(test)]
mod tests;
