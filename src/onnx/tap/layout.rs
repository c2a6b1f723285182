//! Which tensors of rank 4 are channel maps, and where their channels stand. ONNX's spatial operators are NCHW by definition; everything
//! else follows what it reads. A network that leaves rank 4 and comes back (a channel shuffle, windows of a transformer) is recognised by the
//! height and width that it had. Attention scores, also of rank 4, are no maps.

use super::super::Model;
use super::super::flow::{Flow, values};
use super::super::proto::NodeProto;
use super::ints;
use crate::recipe::Layout;
use std::collections::HashMap;

/// The layout of every channel map.
pub(super) fn of_maps<'a>(model: &'a Model, flow: &Flow<'a>, shapes: &HashMap<String, Vec<Option<usize>>>) -> HashMap<&'a str, Layout> {
    let mut layouts: HashMap<&str, Layout> = HashMap::new();
    let mut sizes: HashMap<&str, [usize; 2]> = HashMap::new();
    for node in &model.graph().node {
        let data = flow.data(node);
        let before = data.iter().find_map(|name| layouts.get(name).copied());
        let size = data.iter().find_map(|name| sizes.get(name).copied());
        for tensor in values(node).filter(|name| flow.depends_on_input(name)) {
            let mut layout = None;
            let mut spatial = size;
            if let Some(&[_, Some(a), Some(b), Some(c)]) = shapes.get(tensor).map(Vec::as_slice) {
                layout = of_output(node, before, size, [a, b, c]);
                spatial = match layout {
                    Some(Layout::Nchw) => Some([b, c]),
                    Some(Layout::Nhwc) => Some([a, b]),
                    None => size,
                };
            }
            sizes.extend(spatial.map(|s| (tensor, s)));
            layouts.extend(layout.map(|l| (tensor, l)));
        }
    }
    layouts
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
