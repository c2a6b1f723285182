//! Sequences of tensors written as what they hold: a part that `SequenceAt` takes of what
//! `SplitToSequence` makes is a slice (ONNX opset 11). `torch.export` writes every split so.

use crate::array::{Array, Values};
use crate::error::Result;
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto};
use crate::onnx::{Model, tensor_proto};
use std::collections::{HashMap, HashSet};

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

/// The model without sequences whose parts and places are constants.
///
/// # Errors
/// When constants cannot be read.
pub(super) fn unrolled(model: &Model) -> Result<Model> {
    let graph = model.graph();
    let mut splits: HashMap<&str, Split> = HashMap::new();
    for node in graph.node.iter().filter(|node| node.op_type() == "SplitToSequence") {
        if let (Some(split), Some(output)) = (split(model, node)?, node.output.first()) {
            splits.insert(output, split);
        }
    }
    if splits.is_empty() {
        return Ok(model.clone());
    }
    let mut nodes = Vec::with_capacity(graph.node.len());
    let mut initializers = graph.initializer.clone();
    for node in &graph.node {
        let slice = match (node.op_type(), node.input.as_slice()) {
            ("SequenceAt", [sequence, index]) => match splits.get(sequence.as_str()) {
                Some(split) => {
                    let index = ints(model, index)?.and_then(|index| index.first().copied());
                    index.and_then(|index| Some((split, split.part(index)?)))
                }
                None => None,
            },
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

/// A split whose sizes are known and whose parts keep the axis.
fn split(model: &Model, node: &NodeProto) -> Result<Option<Split>> {
    let int = |name: &str| node.attribute.iter().find(|a| a.name() == name).map(AttributeProto::i);
    let (Some(input), Some(sizes)) = (node.input.first(), node.input.get(1)) else {
        return Ok(None);
    };
    let Some(value) = constant(model, sizes)? else { return Ok(None) };
    let Values::I64(sizes) = value.values() else { return Ok(None) };
    Ok((!sizes.is_empty() && sizes.iter().all(|&size| size > 0)).then(|| Split {
        input: input.clone(),
        axis: int("axis").unwrap_or(0),
        is_even: value.shape().is_empty(),
        sizes: sizes.clone(),
    }))
}

fn ints(model: &Model, name: &str) -> Result<Option<Vec<i64>>> {
    let value = constant(model, name)?;
    Ok(value.and_then(|array| match array.into_values() {
        Values::I64(values) => Some(values),
        _ => None,
    }))
}

/// The value of an initializer or of a Constant node.
fn constant(model: &Model, name: &str) -> Result<Option<Array>> {
    if let Some(array) = model.initializer(name)? {
        return Ok(Some(array));
    }
    let makes = |n: &&NodeProto| n.output.first().is_some_and(|output| output == name);
    let node = model.graph().node.iter().find(|n| n.op_type() == "Constant" && makes(n));
    let value = node.and_then(|n| n.attribute.iter().find(|a| a.name() == "value"));
    value.and_then(|a| a.t.as_ref()).map(|tensor| model.tensor(tensor)).transpose()
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
