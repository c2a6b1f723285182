//! Replaces sequences of tensors: an element that `SequenceAt` takes from the result of
//! `SplitToSequence` is a slice (ONNX opset 11). `torch.export` writes every split this way.

use crate::array::{Array, Values};
use crate::error::Result;
use crate::onnx::proto::{
    AttributeProto, GraphProto, NodeProto, TensorProto, tensor_proto::DataType,
};
use crate::onnx::{Model, tensor_proto};
use std::collections::{HashMap, HashSet};

/// Longer lists are not the sizes of a split.
const SMALL: i64 = 1 << 16;

/// A split into a sequence.
struct Split {
    input: String,
    axis: i64,
    /// The size of each part, or of all.
    sizes: Vec<i64>,
    is_even: bool,
}

impl Split {
    /// The bounds of a part along the axis.
    fn part(&self, index: i64) -> Option<[i64; 2]> {
        let place = usize::try_from(index).ok()?;
        if self.is_even {
            let size = *self.sizes.first()?;
            return Some([index.checked_mul(size)?, index.checked_add(1)?.checked_mul(size)?]);
        }
        let sum = |sizes: &[i64]| sizes.iter().try_fold(0i64, |n, &size| n.checked_add(size));
        Some([sum(self.sizes.get(..place)?)?, sum(self.sizes.get(..=place)?)?])
    }
}

/// The model without sequences whose sizes and indices are constants.
///
/// # Errors
/// When constants cannot be read.
pub(super) fn unrolled(model: &Model) -> Result<Model> {
    let graph = model.graph();
    if graph.node.iter().all(|node| node.op_type() != "SplitToSequence") {
        return Ok(model.clone());
    }
    let constants = Constants::of(model)?;
    let mut splits: HashMap<&str, Split> = HashMap::new();
    for node in graph.node.iter().filter(|node| node.op_type() == "SplitToSequence") {
        if let (Some(split), Some(output)) = (split(&constants, node), node.output.first()) {
            splits.insert(output, split);
        }
    }
    let mut nodes = Vec::with_capacity(graph.node.len());
    let mut initializers = graph.initializer.clone();
    for node in &graph.node {
        let slice = match (node.op_type(), node.input.as_slice()) {
            ("SequenceAt", [sequence, index]) => splits.get(sequence.as_str()).and_then(|split| {
                let index = *constants.get(index)?.1.first()?;
                Some((split, split.part(index)?))
            }),
            _ => None,
        };
        let (Some((split, bounds)), Some(output)) = (slice, node.output.first()) else {
            nodes.push(node.clone());
            continue;
        };
        let mut input = vec![split.input.clone()];
        let [start, end] = bounds;
        for (what, value) in [("start", start), ("end", end), ("axis", split.axis)] {
            let name = format!("{output}.{what}");
            initializers.push(tensor_proto(&name, &Array::new(vec![1], Values::I64(vec![value]))?));
            input.push(name);
        }
        let op_type = Some("Slice".to_owned());
        nodes.push(NodeProto { op_type, input, attribute: Vec::new(), ..node.clone() });
    }
    let read: HashSet<String> = nodes.iter().flat_map(|n| n.input.iter().cloned()).collect();
    let is_left = |n: &NodeProto| n.output.first().is_some_and(|o| splits.contains_key(o.as_str()));
    nodes.retain(|n| !is_left(n) || n.output.iter().any(|output| read.contains(output)));
    model.with_graph(GraphProto { node: nodes, initializer: initializers, ..graph.clone() })
}

/// The split of a node whose sizes are known.
fn split(constants: &Constants, node: &NodeProto) -> Option<Split> {
    let int = |name: &str| node.attribute.iter().find(|a| a.name() == name).map(AttributeProto::i);
    let (shape, sizes) = constants.get(node.input.get(1)?)?;
    (!sizes.is_empty() && sizes.iter().all(|&size| size > 0)).then(|| Split {
        input: node.input.first().cloned().unwrap_or_default(),
        axis: int("axis").unwrap_or(0),
        is_even: shape.is_empty(),
        sizes: sizes.to_vec(),
    })
}

/// The integers among the initializers and Constant nodes of a model.
struct Constants(HashMap<String, Array>);

impl Constants {
    /// Reads those that are small enough to be sizes or indices.
    fn of(model: &Model) -> Result<Self> {
        let graph = model.graph();
        let is_small = |t: &&TensorProto| {
            t.data_type() == DataType::Int64 as i32 && t.dims.iter().all(|&d| d < SMALL)
        };
        let mut found = HashMap::new();
        for tensor in graph.initializer.iter().filter(|t| t.dims.len() < 2).filter(is_small) {
            found.insert(tensor.name().to_owned(), model.tensor(tensor)?);
        }
        for node in graph.node.iter().filter(|n| n.op_type() == "Constant") {
            let value = node.attribute.iter().find(|a| a.name() == "value");
            let tensor = value.and_then(|a| a.t.as_ref()).filter(is_small);
            if let (Some(tensor), Some(output)) = (tensor, node.output.first()) {
                found.insert(output.clone(), model.tensor(tensor)?);
            }
        }
        Ok(Self(found))
    }

    /// A value with at most one axis.
    fn get(&self, name: &str) -> Option<(&[usize], &[i64])> {
        let array = self.0.get(name)?;
        if let Values::I64(values) = array.values() { Some((array.shape(), values)) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::Split;

    #[test]
    fn parts_are_slices() {
        let split = |sizes: &[i64], is_even| Split {
            input: String::new(),
            axis: 1,
            sizes: sizes.to_vec(),
            is_even,
        };
        assert_eq!(split(&[32], true).part(1), Some([32, 64]));
        assert_eq!(split(&[1, 64, 64], false).part(2), Some([65, 129]));
        assert_eq!(split(&[1, 64], false).part(2), None);
        assert_eq!(split(&[1, 64], false).part(-1), None);
        assert_eq!(split(&[i64::MAX], true).part(9), None);
    }
}
