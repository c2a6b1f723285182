//! Which tensors of rank 4 are channel maps, and where their channels stand. ONNX's spatial operators are NCHW by definition; everything
//! else follows what it reads. A network that leaves rank 4 and comes back (a channel shuffle, windows of a transformer) is recognised by the
//! height and width that it had. Attention scores, also of rank 4, are no maps.
//!
//! Tokens (rank 3) come from a grid where a map was flattened into them: its height and width are theirs, behind what was put before them.

use super::super::Model;
use super::super::flow::{Flow, values};
use super::super::proto::NodeProto;
use super::ints;
use crate::recipe::Layout;
use std::collections::HashMap;

/// Tokens that may stand before those of the image: class, distillation, registers.
pub const PREFIX_TOKENS_MAX: usize = 16;

/// What the graph tells of its tensors' axes.
#[derive(Default)]
pub(super) struct Layouts<'a> {
    /// The axis order of every channel map.
    pub(super) maps: HashMap<&'a str, Layout>,
    /// Height and width of the image that tokens `[N, T, C]` cover.
    pub(super) grids: HashMap<&'a str, [usize; 2]>,
}

/// Follows maps and tokens through the graph.
pub(super) fn of_tensors<'a>(model: &'a Model, flow: &Flow<'a>, shapes: &HashMap<String, Vec<Option<usize>>>) -> Layouts<'a> {
    let mut found = Layouts::default();
    // height and width of the nearest map behind a tensor
    let mut sizes: HashMap<&str, [usize; 2]> = HashMap::new();
    // where the channels stand in a tensor of rank 3
    let mut flattened: HashMap<&str, Layout> = HashMap::new();
    for node in &model.graph().node {
        let data = flow.data(node);
        let before = data.iter().find_map(|name| found.maps.get(name).copied());
        let before_flat = before.or(data.iter().find_map(|name| flattened.get(name).copied()));
        let size = data.iter().find_map(|name| sizes.get(name).copied());
        for tensor in values(node).filter(|name| flow.depends_on_input(name)) {
            let mut spatial = size;
            match shapes.get(tensor).map(Vec::as_slice) {
                Some(&[_, Some(a), Some(b), Some(c)]) => {
                    let layout = of_output(node, before, size, [a, b, c]);
                    spatial = match layout {
                        Some(Layout::Nchw) => Some([b, c]),
                        Some(Layout::Nhwc) => Some([a, b]),
                        None => size,
                    };
                    found.maps.extend(layout.map(|l| (tensor, l)));
                }
                Some(&[_, Some(tokens), Some(_)]) => {
                    let layout = of_flattened(node, before_flat);
                    flattened.extend(layout.map(|l| (tensor, l)));
                    let fits = |size: &[usize; 2]| tokens.checked_sub(size[0] * size[1]).is_some_and(|prefix| prefix <= PREFIX_TOKENS_MAX);
                    found.grids.extend(size.filter(|size| layout == Some(Layout::Nhwc) && fits(size)).map(|size| (tensor, size)));
                }
                _ => {}
            }
            sizes.extend(spatial.map(|s| (tensor, s)));
        }
    }
    found
}

/// A map that is flattened keeps its axis order; a transposition swaps channels and positions.
fn of_flattened(node: &NodeProto, before: Option<Layout>) -> Option<Layout> {
    match (node.op_type(), ints(node, "perm"), before?) {
        ("Transpose", [0, 2, 1], Layout::Nchw) => Some(Layout::Nhwc),
        ("Transpose", [0, 2, 1], Layout::Nhwc) => Some(Layout::Nchw),
        ("Transpose", _, _) => None,
        (_, _, layout) => Some(layout),
    }
}

/// `before`: the layout of what the node reads; `size`: height and width of the nearest map behind it; `dims`: the output without the batch axis.
fn of_output(node: &NodeProto, before: Option<Layout>, size: Option<[usize; 2]>, dims: [usize; 3]) -> Option<Layout> {
    let [a, b, c] = dims;
    let by_size = match size {
        Some(size) if size == [b, c] => Some(Layout::Nchw),
        Some(size) if size == [a, b] => Some(Layout::Nhwc),
        _ => None,
    };
    match (node.op_type(), before) {
        (
            "Conv"
            | "ConvTranspose"
            | "QLinearConv"
            | "MaxPool"
            | "AveragePool"
            | "LpPool"
            | "GlobalAveragePool"
            | "GlobalMaxPool"
            | "BatchNormalization"
            | "InstanceNormalization"
            | "GroupNormalization"
            | "LRN"
            | "Upsample"
            | "DepthToSpace"
            | "SpaceToDepth",
            _,
        ) => Some(Layout::Nchw),
        ("Transpose", Some(before)) => match (before, ints(node, "perm")) {
            (Layout::Nchw, [0, 2, 3, 1]) => Some(Layout::Nhwc),
            (Layout::Nhwc, [0, 3, 1, 2]) => Some(Layout::Nchw),
            _ => None,
        },
        ("Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Gather" | "Einsum", _) => by_size,
        (_, None) => by_size.filter(|_| !matches!(node.op_type(), "MatMul" | "Softmax")),
        (_, before) => before,
    }
}
