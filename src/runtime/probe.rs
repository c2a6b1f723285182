//! Shapes of every tensor of a model, from runs of it rather than static inference.

use super::{Runtime, Session};
use crate::array::{Array, Dtype, Values};
use crate::error::{Error, Result};
use crate::onnx::feed::{self, BatchPosition, Feed, Placed};
use crate::onnx::{Dim, Feeding, Model, Quantization, Value, values};
use half::{bf16, f16};
use ort::value::TensorElementType;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;

/// The result of a probe.
#[derive(Debug, Clone, Default)]
pub struct Probe {
    /// Shape of every tensor of real numbers (floating-point or quantized) that a node computes and
    /// that has the batch as its first axis. The first entry is `None` where the batch is open and
    /// `Some(n)` where the model's batch is fixed to n; the others are the sizes of one sample, the
    /// same in every run.
    pub shapes: HashMap<String, Vec<Option<usize>>>,
    /// Tensors left out, with the reason (its shape varies between samples, no batch axis, no
    /// floating-point tensor).
    pub refused: Vec<(String, String)>,
    /// The model's batch where it is fixed.
    pub batch: Option<usize>,
    /// Shape of every tensor in the first run, inputs included; costs are counted from these.
    pub observed: HashMap<String, Vec<usize>>,
    /// How many samples that run had.
    pub observed_batch: usize,
}

impl Probe {
    /// Bytes that one sample of the largest tensor takes, as f32.
    pub(crate) fn largest_row_bytes(&self) -> usize {
        let bytes =
            |shape: &Vec<usize>| shape.iter().fold(size_of::<f32>(), |n, &d| n.saturating_mul(d));
        let of_batch =
            self.observed.values().filter(|shape| shape.first() == Some(&self.observed_batch));
        of_batch.map(bytes).max().unwrap_or(0) / self.observed_batch.max(1)
    }
}

/// Threads of a probe: it runs a few samples once.
const THREADS: usize = 2;

/// How each input is fed in a probe. Open axes of an image are `size` (224 if not given), other
/// open axes 1.
///
/// # Errors
/// When an input's shape or type is not declared, or `feeding` does not fit the inputs.
pub fn feeds(model: &Model, size: Option<[usize; 2]>, feeding: &Feeding) -> Result<Vec<Feed>> {
    let size = size.unwrap_or([224, 224]);
    let feed = |placed: Placed| {
        let (name, dtype) = (placed.input.name.clone(), placed.input.dtype);
        if !placed.input.has_shape {
            return Err(Error::input(format!(
                "input `{name}`: expected a declared shape, found none"
            )));
        }
        let dtype = dtype.ok_or_else(|| {
            Error::input(format!(
                "input `{name}`: expected a tensor of numbers, found another type"
            ))
        })?;
        let batch_axis = match placed.place {
            BatchPosition::At(axis) => Some(axis),
            // any batch axis will do as long as the model runs
            BatchPosition::Unknown(_)
                if placed.input.shape.iter().any(|dim| !matches!(dim, Dim::Fixed(_))) =>
            {
                Some(0)
            }
            BatchPosition::Nowhere | BatchPosition::Unknown(_) => None,
        };
        let place = batch_axis.map_or(BatchPosition::Nowhere, BatchPosition::At);
        let axes = Placed { place, ..placed.clone() }.row();
        // the side of an image is an open axis of four that is not the channels': [N, C, H, W], or
        // [N, H, W, C] where the last is 1 to 4
        let nhwc = matches!(axes.as_slice(), [_, _, Dim::Fixed(1..=4)])
            && !matches!(axes.as_slice(), [Dim::Fixed(1..=4), _, _]);
        let sides: [Option<usize>; 3] = if nhwc {
            [Some(size[0]), Some(size[1]), None]
        } else {
            [None, Some(size[0]), Some(size[1])]
        };
        let open = |axis: usize| {
            if axes.len() == 3 { sides.get(axis).copied().flatten().unwrap_or(3) } else { 1 }
        };
        let row = axes.iter().enumerate().map(|(axis, dim)| match dim {
            Dim::Fixed(n) => *n,
            _ => open(axis),
        });
        Ok(Feed { name, dtype, row: row.collect(), batch_axis, constant: placed.constant })
    };
    feed::place(&model.inputs(), feeding)?.0.into_iter().map(feed).collect()
}

/// Runs the model on noise and reads the shapes of all tensors, not their values. Where the batch
/// is open it runs on 2 samples and on 1, or on 3 where a single one gets another shape; where it
/// is fixed, or the model takes only single samples whatever it declares, it runs twice on that
/// many with other values. It takes no more memory than such a run: a tensor is freed after its
/// last reader.
///
/// # Errors
/// When the model cannot run on such inputs (says which size to give with `--size`).
pub fn probe(runtime: &Runtime, model: &Model, feeds: &[Feed]) -> Result<Probe> {
    let declared = model.inputs();
    let fixed = feeds.iter().find_map(|feed| {
        let input = declared.iter().find(|input| input.name == feed.name)?;
        match input.shape.get(feed.batch_axis?)? {
            Dim::Fixed(n) => Some(*n),
            _ => None,
        }
    });
    let tensors = typed_tensors(runtime, model)?;
    let known: Vec<String> =
        tensors.iter().filter(|(_, kind)| kind.is_some()).map(|(name, _)| name.clone()).collect();
    let (bytes, shapes) = model.with_shapes(&known)?;
    let mut session = Session::plain(runtime, model, &bytes, THREADS)?;
    drop(bytes);
    let mut run = |batch: usize, seed: u64| -> Result<ProbeRun> {
        let arrays =
            feeds.iter().map(|feed| value(feed, batch, seed)).collect::<Result<Vec<_>>>()?;
        let named: Vec<(&str, &Array)> =
            feeds.iter().map(|feed| feed.name.as_str()).zip(&arrays).collect();
        let found = session.run(&named, &shapes)?.into_iter().map(sizes);
        let fed = feeds
            .iter()
            .map(|feed| feed.name.clone())
            .zip(arrays.iter().map(|a| a.shape().to_vec()));
        Ok(ProbeRun { batch, shapes: fed.chain(known.iter().cloned().zip(found)).collect() })
    };
    let (first, second) = match fixed {
        Some(n) => (run(n, 0)?, run(n, 1)?),
        None => match run(2, 0) {
            Ok(first) => {
                // an axis of one may be squeezed away
                let second = run(1, 1).ok().filter(|second| first.agrees_with(second));
                (first, second.map_or_else(|| run(3, 1), Ok)?)
            }
            // exporters bake a batch of one into reshapes and still declare it open
            Err(error) => match run(1, 0) {
                Ok(first) => (first, run(1, 1)?),
                Err(_) if declared.iter().any(is_open_image) => {
                    return Err(
                        error.hint("give the size of the images that the model takes: --size HxW")
                    );
                }
                Err(_) => return Err(error),
            },
        },
    };
    Ok(compare(feeds, &tensors, first, &second, &model.quantized()))
}

/// Whether an input can be an image whose height or width is open.
fn is_open_image(input: &Value) -> bool {
    let is_open = |dim: &Dim| !matches!(dim, Dim::Fixed(_));
    matches!(input.shape.as_slice(), [_, axes @ ..] if axes.len() == 3 && axes.iter().any(is_open))
}

/// One run: the shape of each tensor, inputs included.
struct ProbeRun {
    batch: usize,
    shapes: HashMap<String, Vec<usize>>,
}

impl ProbeRun {
    /// Whether every tensor with the batch as its first axis has it in the other run too, and is
    /// otherwise the same there.
    fn agrees_with(&self, other: &Self) -> bool {
        self.shapes.iter().filter(|(_, shape)| shape.first() == Some(&self.batch)).all(
            |(name, shape)| {
                other.shapes.get(name).is_some_and(|o| {
                    o == shape || (o.first() == Some(&other.batch) && o.get(1..) == shape.get(1..))
                })
            },
        )
    }
}

/// The sizes that a `Shape` node gives.
fn sizes(shape: Array) -> Vec<usize> {
    match shape.into_values() {
        Values::I64(sizes) => sizes.into_iter().map(|n| usize::try_from(n).unwrap_or(0)).collect(),
        _ => Vec::new(),
    }
}

/// Everything that nodes compute, except constants, with its element type; `None`: not a tensor.
fn typed_tensors(
    runtime: &Runtime,
    model: &Model,
) -> Result<Vec<(String, Option<TensorElementType>)>> {
    let nodes = model.graph().node.iter().filter(|node| node.op_type() != "Constant");
    let names: Vec<String> = nodes.flat_map(values).map(str::to_owned).collect();
    let exposed = Session::plain(runtime, model, &model.with_outputs(&names)?, THREADS)?;
    let types = exposed.element_types(&names);
    Ok(names.into_iter().zip(types).collect())
}

fn compare(
    feeds: &[Feed],
    tensors: &[(String, Option<TensorElementType>)],
    first: ProbeRun,
    second: &ProbeRun,
    quantized: &HashMap<String, Quantization>,
) -> Probe {
    let open = first.batch != second.batch;
    // a fixed batch is known only by its size, which another axis may have where the batch is not
    // always first
    let doubtful = !open
        && first.batch > 1
        && feeds.iter().any(|feed| feed.batch_axis.is_some_and(|axis| axis > 0));
    let mut shapes = HashMap::new();
    let mut refused = Vec::new();
    for (name, kind) in tensors {
        let (Some(kind), Some(a), Some(b)) =
            (kind, first.shapes.get(name), second.shapes.get(name))
        else {
            refused.push((name.clone(), "is not a tensor".to_owned()));
            continue;
        };
        let reason = if !(is_real(*kind) || is_small_integer(*kind) && quantized.contains_key(name))
        {
            Some(format!("holds {kind}, not floating-point activations"))
        } else if a.first() != Some(&first.batch) || b.first() != Some(&second.batch) {
            Some("does not have the batch as its first axis".to_owned())
        } else if doubtful && a.iter().skip(1).any(|&n| n == first.batch) {
            Some(format!("has several axes of {}, of which any may be the batch's", first.batch))
        } else if a.get(1..) != b.get(1..) {
            Some(format!("its shape varies between samples: {a:?} in one run, {b:?} in another"))
        } else {
            None
        };
        if let Some(reason) = reason {
            refused.push((name.clone(), reason));
        } else {
            let axes = a.iter().enumerate().map(|(axis, &n)| (axis > 0 || !open).then_some(n));
            shapes.insert(name.clone(), axes.collect());
        }
    }
    Probe {
        shapes,
        refused,
        batch: (!open).then_some(first.batch),
        observed: first.shapes,
        observed_batch: first.batch,
    }
}

fn is_real(kind: TensorElementType) -> bool {
    use TensorElementType::{Bfloat16, Float16, Float32, Float64};
    matches!(kind, Float32 | Float16 | Float64 | Bfloat16)
}

/// Whether such values may be quantized.
fn is_small_integer(kind: TensorElementType) -> bool {
    use TensorElementType::{Int8, Int16, Uint8, Uint16};
    matches!(kind, Uint8 | Int8 | Uint16 | Int16)
}

/// An input's value in a run.
fn value(feed: &Feed, batch: usize, seed: u64) -> Result<Array> {
    if let Some(constant) = &feed.constant {
        return constant.array(batch);
    }
    match feed.batch_axis {
        Some(axis) => {
            noise(feed, [&[batch], feed.row.as_slice()].concat(), seed)?.with_first_axis_at(axis)
        }
        None => noise(feed, feed.row.clone(), seed),
    }
}

/// Noise, the same in every process. Integers are 0 or 1, which are valid indices of any embedding;
/// bytes use their whole range.
fn noise(Feed { name, dtype, .. }: &Feed, shape: Vec<usize>, seed: u64) -> Result<Array> {
    let count =
        shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= MAX_ELEMENTS);
    let count = count.ok_or_else(|| {
        Error::input(format!("input `{name}`: shape {shape:?} is too large to probe"))
            .hint("give a smaller --size HxW")
    })?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let noise = match dtype {
        Dtype::Bool => Values::Bool((0..count).map(|_| u8::from(rng.random::<bool>())).collect()),
        Dtype::U8 => Values::U8((0..count).map(|_| rng.random()).collect()),
        Dtype::U16 => Values::U16((0..count).map(|_| u16::from(rng.random::<bool>())).collect()),
        Dtype::U32 => Values::U32((0..count).map(|_| u32::from(rng.random::<bool>())).collect()),
        Dtype::U64 => Values::U64((0..count).map(|_| u64::from(rng.random::<bool>())).collect()),
        Dtype::I8 => Values::I8((0..count).map(|_| i8::from(rng.random::<bool>())).collect()),
        Dtype::I16 => Values::I16((0..count).map(|_| i16::from(rng.random::<bool>())).collect()),
        Dtype::I32 => Values::I32((0..count).map(|_| i32::from(rng.random::<bool>())).collect()),
        Dtype::I64 => Values::I64((0..count).map(|_| i64::from(rng.random::<bool>())).collect()),
        Dtype::F16 => Values::F16((0..count).map(|_| f16::from_f32(rng.random())).collect()),
        Dtype::BF16 => Values::BF16((0..count).map(|_| bf16::from_f32(rng.random())).collect()),
        Dtype::F32 => Values::F32((0..count).map(|_| rng.random()).collect()),
        Dtype::F64 => Values::F64((0..count).map(|_| rng.random()).collect()),
    };
    Array::new(shape, noise)
}

/// A gigabyte of f32: more than any real input of three samples.
const MAX_ELEMENTS: usize = 1 << 28;
