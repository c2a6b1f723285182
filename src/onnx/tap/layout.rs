//! Which tensors are channel maps, and where their channel axis is. ONNX's spatial operators have
//! channels first by definition, and the quantized and channels-last operators of `com.microsoft`
//! say where theirs are; everything else follows what it reads. A network that leaves rank 4 and
//! comes back (a channel shuffle, a transformer's windows) is recognized by its former height and
//! width. Attention scores, also of rank 4, are not maps. An integer tensor has no shape here, but
//! passes its axis order on.
//!
//! A one-dimensional map (`[N, C, T]`, of audio or a time series) counts as a map of height 1. A
//! flattened map (`[N, C, H·W]`) is still a map; transposed, it becomes tokens, whose grid is its
//! height and width, after any tokens put before them. Three-dimensional maps (`[N, C, D, H, W]`)
//! are volumes.

use super::super::Model;
use super::super::flow::{Flow, values};
use super::super::operator::{Channels, Class, Movement};
use super::super::proto::NodeProto;
use super::{int, ints};
use crate::array::Layout;
use std::collections::{HashMap, HashSet};

/// Most tokens that precede the image's: class, distillation, registers.
pub const PREFIX_TOKENS_MAX: usize = 16;

/// Shapes of tensors, batch axis first.
type Shapes = HashMap<String, Vec<Option<usize>>>;

/// What the graph tells about its tensors' axes.
#[derive(Default)]
pub(super) struct Layouts<'a> {
    /// The axis order of every channel map, including one-dimensional ones.
    pub(super) maps: HashMap<&'a str, Layout>,
    /// The channel position in every rank-3 tensor that was flattened from a map.
    pub(super) flattened: HashMap<&'a str, Layout>,
    /// Height and width of the image that the positions of a rank-3 tensor cover.
    pub(super) grids: HashMap<&'a str, [usize; 2]>,
    /// Maps derived from maps through something that is not a map, such as a detector's box
    /// computations.
    pub(super) remade: HashSet<&'a str>,
    /// Three-dimensional maps.
    pub(super) volumes: HashSet<&'a str>,
}

/// Follows maps and tokens through the graph.
pub(super) fn of_tensors<'a>(model: &'a Model, flow: &Flow<'a>, shapes: &Shapes) -> Layouts<'a> {
    let mut found = Layouts::default();
    // height and width of the nearest map before a tensor
    let mut sizes: HashMap<&str, [usize; 2]> = HashMap::new();
    let mut seen: HashSet<[usize; 2]> = HashSet::new();
    for node in &model.graph().node {
        let data = flow.data(node);
        let read = Read::of(&found, &sizes, shapes, &data);
        for tensor in values(node).filter(|name| flow.depends_on_input(name)) {
            let mut spatial = read.size;
            match shapes.get(tensor).map(Vec::as_slice) {
                Some(&[_, Some(a), Some(b), Some(c)]) => {
                    let layout = of_output(node, &read, [a, b, c]);
                    spatial = match layout {
                        Some(Layout::Nchw) => Some([b, c]),
                        Some(Layout::Nhwc) => Some([a, b]),
                        None => read.size,
                    };
                    found.maps.extend(layout.map(|l| (tensor, l)));
                }
                Some(&[_, Some(a), Some(b)]) => {
                    if read.is_sequence(node, [a, b]) {
                        spatial = Some([1, b]);
                        found.maps.insert(tensor, Layout::Nchw);
                        found.grids.insert(tensor, [1, b]);
                    } else if let Some(layout) = of_flattened(node, &read, [a, b]) {
                        found.flattened.insert(tensor, layout);
                        found.grids.extend(
                            read.size
                                .filter(|&size| covers(layout, size, [a, b]))
                                .map(|size| (tensor, size)),
                        );
                    }
                }
                Some([_, _, _, _, _])
                    if of_operator(node).is_some() || (read.is_volume && !rearranges(node)) =>
                {
                    found.volumes.insert(tensor);
                }
                None => found.maps.extend(of_unknown(node, read.map).map(|l| (tensor, l))),
                _ => {}
            }
            if let Some(size) = spatial.filter(|_| found.maps.contains_key(tensor)) {
                let is_good =
                    |name: &&str| found.maps.contains_key(name) && !found.remade.contains(name);
                let is_kept =
                    data.iter().any(is_good) || read.size.is_none() || seen.contains(&size);
                if !is_kept
                    && (of_operator(node).is_some()
                        || data.iter().any(|name| found.remade.contains(name)))
                {
                    found.remade.insert(tensor);
                } else {
                    seen.insert(size);
                }
            }
            sizes.extend(spatial.map(|s| (tensor, s)));
        }
    }
    found
}

/// What a node reads.
struct Read {
    /// The axis order of the first map.
    map: Option<Layout>,
    /// The rank of that map; `None` if unknown.
    rank: Option<usize>,
    /// Its channels, if they come first.
    channels: Option<usize>,
    /// The channel position in the first flattened tensor.
    flattened: Option<Layout>,
    /// Height and width of the nearest map before it.
    size: Option<[usize; 2]>,
    /// The rank of the first tensor.
    first_rank: Option<usize>,
    is_volume: bool,
}

impl Read {
    fn of(
        found: &Layouts<'_>,
        sizes: &HashMap<&str, [usize; 2]>,
        shapes: &Shapes,
        data: &[&str],
    ) -> Self {
        let first = data.iter().find(|name| found.maps.contains_key(**name));
        let shape = first.and_then(|name| shapes.get(*name));
        Self {
            map: first.and_then(|name| found.maps.get(name).copied()),
            rank: shape.map(Vec::len),
            channels: shape.and_then(|shape| shape.get(1).copied().flatten()),
            flattened: data.iter().find_map(|name| found.flattened.get(name).copied()),
            size: data.iter().find_map(|name| sizes.get(name).copied()),
            first_rank: data.first().and_then(|name| shapes.get(*name)).map(Vec::len),
            is_volume: data.iter().any(|name| found.volumes.contains(name))
                || (first.is_some() && shape.is_none()),
        }
    }

    /// Whether an output `[N, a, b]` is a one-dimensional map.
    fn is_sequence(&self, node: &NodeProto, [a, b]: [usize; 2]) -> bool {
        match (of_operator(node), self.map) {
            // normalizing a flattened map leaves it flattened
            (Some(_), map) if node.operator().class == Class::Normalization => {
                map.is_some() || (self.flattened.is_none() && self.size.is_none())
            }
            (Some(_), _) => true,
            (None, None) if node.operator().moves(Movement::Reshape) => {
                self.flattened.is_none() && self.size == Some([1, b])
            }
            // height or width is gone
            (None, Some(Layout::Nchw)) if self.rank == Some(4) && is_reduction(node) => {
                self.channels == Some(a) && self.size.is_some_and(|size| size.contains(&b))
            }
            (None, Some(Layout::Nchw)) if self.rank != Some(4) => !rearranges(node),
            _ => false,
        }
    }
}

/// Whether the positions of a rank-3 tensor are those of an image of this size, possibly after some
/// other tokens.
fn covers(layout: Layout, [height, width]: [usize; 2], [a, b]: [usize; 2]) -> bool {
    let area = height.saturating_mul(width);
    match layout {
        Layout::Nchw => b == area,
        Layout::Nhwc => a.checked_sub(area).is_some_and(|prefix| prefix <= PREFIX_TOKENS_MAX),
    }
}

/// A flattened map keeps its axis order; a transposition swaps channels and positions.
fn of_flattened(node: &NodeProto, read: &Read, dims: [usize; 2]) -> Option<Layout> {
    let before = read.map.or(read.flattened)?;
    match (node.operator().class, ints(node, "perm")) {
        (Class::Movement(Movement::Transpose), [0, 2, 1]) => {
            Some(if before == Layout::Nchw { Layout::Nhwc } else { Layout::Nchw })
        }
        (Class::Movement(Movement::Transpose), _) => None,
        // rows that are not positions are something else
        (Class::Movement(Movement::Reshape), _) => {
            Some(before).filter(|&l| read.size.is_none_or(|size| covers(l, size, dims)))
        }
        _ => Some(before),
    }
}

/// The axis order of an operator's output, if the operator itself defines it whatever the output's
/// rank.
fn of_operator(node: &NodeProto) -> Option<Layout> {
    Some(match node.operator().channels? {
        Channels::First => Layout::Nchw,
        Channels::Last => Layout::Nhwc,
        Channels::ByAttribute(by_default) => {
            let given = node.attribute.iter().any(|a| a.name() == "channels_last");
            let last = if given { int(node, "channels_last") != 0 } else { by_default };
            if last { Layout::Nhwc } else { Layout::Nchw }
        }
    })
}

/// Whether a node gives its input's values other axes.
fn rearranges(node: &NodeProto) -> bool {
    use Movement::{Pick, Reshape, Transpose};
    matches!(
        node.operator().class,
        Class::Movement(Reshape | Transpose | Pick) | Class::Contraction | Class::Product
    )
}

/// Whether a node removes axes.
fn is_reduction(node: &NodeProto) -> bool {
    node.op_type() == "Squeeze" || node.operator().class == Class::Reduction
}

/// The axis order of a tensor of unknown shape.
fn of_unknown(node: &NodeProto, before: Option<Layout>) -> Option<Layout> {
    of_operator(node).or(before.filter(|_| !rearranges(node)))
}

/// `dims` is the output's shape without the batch axis.
fn of_output(node: &NodeProto, read: &Read, dims: [usize; 3]) -> Option<Layout> {
    use Movement::{Pick, Reshape, Transpose};
    let ([a, b, c], size) = (dims, read.size);
    let by_size = match size {
        Some(size) if size == [b, c] => Some(Layout::Nchw),
        Some(size) if size == [a, b] => Some(Layout::Nhwc),
        _ => None,
    };
    match (node.operator().class, read.map) {
        _ if of_operator(node).is_some() => of_operator(node),
        (Class::Movement(Transpose), Some(before)) => match (before, ints(node, "perm")) {
            (Layout::Nchw, [0, 2, 3, 1]) => Some(Layout::Nhwc),
            (Layout::Nhwc, [0, 3, 1, 2]) => Some(Layout::Nchw),
            _ => None,
        },
        // depth to space, or the reverse, spelled out by an exporter
        (Class::Movement(Reshape), _) if read.first_rank == Some(6) => {
            by_size.or(size.filter(|&s| is_scaled(s, [b, c])).map(|_| Layout::Nchw))
        }
        (Class::Product | Class::Softmax | Class::DynamicQuantization, None) => None,
        (Class::Movement(Reshape | Transpose | Pick) | Class::Contraction, _) | (_, None) => {
            by_size
        }
        (_, before) => before,
    }
}

/// Whether both sides changed by the same whole factor.
fn is_scaled(from: [usize; 2], to: [usize; 2]) -> bool {
    let multiple = |small: [usize; 2], large: [usize; 2]| {
        let factor = large[0].checked_div(small[0]).unwrap_or(0);
        factor > 1 && small.map(|side| side.checked_mul(factor)) == large.map(Some)
    };
    from[0].min(from[1]) > 1 && (multiple(from, to) || multiple(to, from))
}
