//! Shapes of every tensor of a model, from runs of it: no static inference.

use super::{Runtime, Session};
use crate::array::{Array, Dtype, Values};
use crate::error::{Error, Result};
use crate::onnx::{Dim, Model, Value, values};
use half::f16;
use ort::value::TensorElementType;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;

/// What a probe run found.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Shape of every floating-point tensor that a node computes and that has the batch as its first axis. The first entry is `None` where it
    /// follows the batch and `Some(n)` where the model's batch is fixed to n; the others are the sizes of one sample, the same in every run.
    pub shapes: HashMap<String, Vec<Option<usize>>>,
    /// Tensors left out, with the reason (its shape varies between samples, no batch axis, no floating-point tensor).
    pub refused: Vec<(String, String)>,
    /// The model's batch where it is fixed.
    pub batch: Option<usize>,
    /// Shape of every tensor in the first run, inputs included: what costs are counted from.
    pub observed: HashMap<String, Vec<usize>>,
    /// How many samples that run had.
    pub observed_batch: usize,
}

impl Probe {
    /// What one sample of the largest tensor takes, as f32.
    #[must_use]
    pub fn largest_row_bytes(&self) -> usize {
        let bytes = |shape: &Vec<usize>| shape.iter().fold(size_of::<f32>(), |n, &d| n.saturating_mul(d));
        let of_batch = self.observed.values().filter(|shape| shape.first() == Some(&self.observed_batch));
        of_batch.map(bytes).max().unwrap_or(0) / self.observed_batch.max(1)
    }
}

/// Threads of a probe: it runs a few samples once.
const THREADS: usize = 2;

/// The shape of one sample of each input, without the batch axis. Open axes of an image are `size` (224 if not given), other open axes 1.
///
/// # Errors
/// When an input's shape or type is not declared.
pub fn input_shapes(model: &Model, size: Option<[usize; 2]>) -> Result<Vec<(String, Vec<usize>)>> {
    let size = size.unwrap_or([224, 224]);
    let shape = |input: &Value| {
        let axes =
            input.shape.get(1..).ok_or_else(|| Error::input(format!("input `{}`: expected a declared shape, found none", input.name)))?;
        // the side of an image is an open axis of four that is not the channels': [N, C, H, W], or [N, H, W, C] where the last is 1 to 4
        let nhwc = matches!(axes, [_, _, Dim::Fixed(1..=4)]) && !matches!(axes, [Dim::Fixed(1..=4), _, _]);
        let sides: [Option<usize>; 3] = if nhwc { [Some(size[0]), Some(size[1]), None] } else { [None, Some(size[0]), Some(size[1])] };
        let open = |axis: usize| if axes.len() == 3 { sides.get(axis).copied().flatten().unwrap_or(3) } else { 1 };
        let row = axes.iter().enumerate().map(|(axis, dim)| match dim {
            Dim::Fixed(n) => *n,
            _ => open(axis),
        });
        Ok((input.name.clone(), row.collect()))
    };
    model.inputs().iter().map(shape).collect()
}

/// Runs the model on noise and reads the shapes of all tensors, not their values. Where the batch
/// is open it runs on 2 samples and on 1, or on 3 where one alone takes another shape; where it is
/// fixed, or the model runs on one sample alone whatever it declares, twice on so many with other
/// values. It takes no more memory than such a run: no tensor outlives what reads it. `inputs`: the
/// shape of one sample of each input, without the batch axis.
///
/// # Errors
/// When the model cannot run on such inputs (says which size to give with `--size`).
pub fn probe(runtime: &Runtime, model: &Model, inputs: &[(String, Vec<usize>)]) -> Result<Probe> {
    let declared = model.inputs();
    let fixed = declared.iter().find_map(|input| match input.shape.first() {
        Some(Dim::Fixed(n)) => Some(*n),
        _ => None,
    });
    let tensors = typed_tensors(runtime, model)?;
    let known: Vec<String> = tensors.iter().filter(|(_, kind)| kind.is_some()).map(|(name, _)| name.clone()).collect();
    let (bytes, shapes) = model.with_shapes(&known)?;
    let mut session = Session::plain(runtime, model, &bytes, THREADS)?;
    drop(bytes);
    let mut run = |batch: usize, seed: u64| -> Result<Run> {
        let arrays = declared.iter().map(|input| noise(input, inputs, batch, seed)).collect::<Result<Vec<_>>>()?;
        let named: Vec<(&str, &Array)> = declared.iter().map(|input| input.name.as_str()).zip(&arrays).collect();
        let found = session.run(&named, &shapes)?.into_iter().map(sizes);
        let fed = declared.iter().map(|input| input.name.clone()).zip(arrays.iter().map(|a| a.shape().to_vec()));
        Ok(Run { batch, shapes: fed.chain(known.iter().cloned().zip(found)).collect() })
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
                Err(_) => return Err(error.hint("give the size of the images that the model takes: --size HxW")),
            },
        },
    };
    Ok(compare(&tensors, first, &second))
}

/// One run: the shape of each tensor, inputs included.
struct Run {
    batch: usize,
    shapes: HashMap<String, Vec<usize>>,
}

impl Run {
    /// Whether every tensor that follows the batch follows it in the other run too, and is else the
    /// same there.
    fn agrees_with(&self, other: &Self) -> bool {
        self.shapes.iter().filter(|(_, shape)| shape.first() == Some(&self.batch)).all(|(name, shape)| {
            other.shapes.get(name).is_some_and(|o| o == shape || (o.first() == Some(&other.batch) && o.get(1..) == shape.get(1..)))
        })
    }
}

/// The sizes that a `Shape` node gives.
fn sizes(shape: Array) -> Vec<usize> {
    match shape.into_values() {
        Values::I64(sizes) => sizes.into_iter().map(|n| usize::try_from(n).unwrap_or(0)).collect(),
        _ => Vec::new(),
    }
}

/// Everything that nodes compute, constants excepted, with its element type; `None`: not a tensor.
fn typed_tensors(runtime: &Runtime, model: &Model) -> Result<Vec<(String, Option<TensorElementType>)>> {
    let nodes = model.graph().node.iter().filter(|node| node.op_type() != "Constant");
    let names: Vec<String> = nodes.flat_map(values).map(str::to_owned).collect();
    let exposed = Session::plain(runtime, model, &model.with_outputs(&names)?, THREADS)?;
    let types = exposed.element_types(&names);
    Ok(names.into_iter().zip(types).collect())
}

fn compare(tensors: &[(String, Option<TensorElementType>)], first: Run, second: &Run) -> Probe {
    let open = first.batch != second.batch;
    let mut shapes = HashMap::new();
    let mut refused = Vec::new();
    for (name, kind) in tensors {
        let (Some(kind), Some(a), Some(b)) = (kind, first.shapes.get(name), second.shapes.get(name)) else {
            refused.push((name.clone(), "is not a tensor".to_owned()));
            continue;
        };
        let reason = if !matches!(
            kind,
            TensorElementType::Float32 | TensorElementType::Float16 | TensorElementType::Float64 | TensorElementType::Bfloat16
        ) {
            Some(format!("holds {kind}, not floating-point activations"))
        } else if a.first() != Some(&first.batch) || b.first() != Some(&second.batch) {
            Some("does not have the batch as its first axis".to_owned())
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
    Probe { shapes, refused, batch: (!open).then_some(first.batch), observed: first.shapes, observed_batch: first.batch }
}

/// An input's value: noise, the same in every process. Integers stay 0 or 1, which every table of embeddings has; bytes use their range.
fn noise(input: &Value, shapes: &[(String, Vec<usize>)], batch: usize, seed: u64) -> Result<Array> {
    let name = &input.name;
    let (_, row) =
        shapes.iter().find(|(given, _)| given == name).ok_or_else(|| Error::input(format!("input `{name}`: no shape is given")))?;
    let dtype = input.dtype.ok_or_else(|| Error::input(format!("input `{name}`: expected a tensor of numbers, found another type")))?;
    if !input.shape.is_empty() && input.shape.len() != row.len() + 1 {
        return Err(Error::input(format!("input `{name}`: expected {} axes after the batch, found {row:?}", input.shape.len() - 1)));
    }
    let mut shape = vec![batch];
    shape.extend(row);
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= MAX_ELEMENTS);
    let count = count
        .ok_or_else(|| Error::input(format!("input `{name}`: shape {shape:?} is too large to probe")).hint("give a smaller --size HxW"))?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let noise = match dtype {
        Dtype::U8 => Values::U8((0..count).map(|_| rng.random()).collect()),
        Dtype::I32 => Values::I32((0..count).map(|_| i32::from(rng.random::<bool>())).collect()),
        Dtype::I64 => Values::I64((0..count).map(|_| i64::from(rng.random::<bool>())).collect()),
        Dtype::F16 => Values::F16((0..count).map(|_| f16::from_f32(rng.random())).collect()),
        Dtype::F32 => Values::F32((0..count).map(|_| rng.random()).collect()),
        Dtype::F64 => Values::F64((0..count).map(|_| rng.random()).collect()),
    };
    Array::new(shape, noise)
}

/// A gigabyte of f32: more than any real input of three samples.
const MAX_ELEMENTS: usize = 1 << 28;
