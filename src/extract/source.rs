//! How samples become the teacher's inputs: the preprocessing, and which arrays feed which input.

use super::estimate::human_bytes;
use super::output::Output;
use crate::array::{Array, Dtype};
use crate::cache::ArraySpec;
use crate::data::{Dataset, Sample, Subset, preprocess};
use crate::error::{Context as _, Error, Result};
use crate::monitor::Monitor;
use crate::onnx::{Dim, Model, Value, metadata, tap};
use crate::recipe::{Extract, Inputs, Preprocess, PreprocessOptions};
use std::collections::HashSet;

/// Bad samples named in a message; the others are counted.
const NAMED: usize = 3;

/// Images looked at to find their common size.
const PROBED_IMAGES: usize = 16;
/// What one batch of inputs and activations may take, as f32.
const BATCH_BYTES: usize = 64 << 20;
/// What the largest tensor of one batch may take, as f32.
const TENSOR_BYTES: usize = 128 << 20;
/// Beyond this the CPU gains nothing from a larger batch.
const MAX_BATCH: usize = 64;

/// One input of the teacher as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Input {
    /// The model's name of it.
    pub(super) name: String,
    /// The path of its array in the cache.
    pub(super) path: String,
    /// Its stored type: `uint8` for images.
    pub(super) dtype: Dtype,
    /// Shape of one stored row.
    pub(super) row_shape: Vec<usize>,
    /// Name of each axis of a row.
    pub(super) axes: Vec<String>,
}

impl Input {
    pub(super) fn row_bytes(&self) -> usize {
        self.row_shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// The data set seen as the teacher's inputs.
pub(super) struct Source<'a> {
    pub(super) data: &'a dyn Dataset,
    pub(super) inputs: Vec<Input>,
    /// `None`: arrays, fed as they are.
    pub(super) preprocess: Option<Preprocess>,
    /// The model's batch where it is fixed: declared, or found by the probe.
    pub(super) fixed_batch: Option<usize>,
    /// What one sample of the teacher's largest tensor takes, as f32, as the probe found it.
    pub(super) largest_tensor: usize,
}

impl<'a> Source<'a> {
    /// Decides the preprocessing (flags, else what the model's metadata records, else what [`preprocess::resolve`] finds) and checks the data
    /// against the model's inputs.
    ///
    /// # Errors
    /// When the data does not fit the model's inputs, or a probed sample cannot be read.
    pub(super) fn new(recipe: &Extract, model: &Model, subset: &'a Subset, monitor: &dyn Monitor) -> Result<Self> {
        let data = subset.dataset.as_ref();
        let samples = probe_samples(data, &subset.indices, recipe.skip_bad)?;
        let declared = model.inputs();
        let fixed_batch = fixed_batch(&declared)?;
        let (inputs, preprocess) = match samples.first() {
            Some(Sample::Image(_)) => {
                let [input] = declared.as_slice() else {
                    return Err(Error::input(format!(
                        "teacher {}: expected 1 input to feed images to, found {}",
                        recipe.teacher.display(),
                        declared.len()
                    ))
                    .hint("give arrays named like the inputs: --data npz:FILE"));
                };
                let preprocess = decide_preprocess(recipe, model, input, common_size(&samples), monitor)?;
                (vec![image_input(input, &preprocess)], Some(preprocess))
            }
            Some(Sample::Arrays(arrays)) => (array_inputs(&declared, arrays, monitor)?, None),
            None => return Err(Error::input(format!("data {}: no sample can be read", recipe.data))),
        };
        if preprocess.is_none() && !recipe.augmentation.is_none() {
            return Err(Error::input(format!("augmentation ({}): expected images, found arrays", recipe.augmentation))
                .hint("leave --augment, --color-jitter, --mixup and --cutmix out"));
        }
        if preprocess.is_none() && recipe.inputs == Some(Inputs::Source) {
            return Err(Error::input("--inputs source: expected images, found arrays").hint("arrays are stored: leave --inputs out"));
        }
        Ok(Self { data, inputs, preprocess, fixed_batch, largest_tensor: 0 })
    }

    /// The bytes to store of one sample, one vector an input.
    ///
    /// # Errors
    /// When the sample cannot be read or does not fit.
    pub(super) fn read(&self, sample: usize) -> Result<Vec<Vec<u8>>> {
        match (self.data.sample(sample)?, &self.preprocess) {
            (Sample::Image(image), Some(preprocess)) => Ok(vec![preprocess::to_bytes(preprocess, &image)?]),
            (Sample::Arrays(arrays), None) => self.inputs.iter().map(|input| array_bytes(input, &arrays)).collect(),
            _ => Err(Error::input("the data set mixes images and arrays")),
        }
    }

    /// Each input's name and the shape of one row.
    pub(super) fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.inputs.iter().map(|input| (input.name.clone(), input.row_shape.clone())).collect()
    }

    /// Rows of one run: the model's own, or `asked`, or as many as fit a fixed amount of memory.
    ///
    /// # Errors
    /// When the model's batch is fixed to another size than `asked`.
    pub(super) fn batch_size(&self, asked: Option<usize>, outputs: &[Output], monitor: &dyn Monitor) -> Result<usize> {
        match (self.fixed_batch, asked) {
            (Some(fixed), Some(asked)) if fixed != asked => {
                Err(Error::input(format!("--batch {asked}: the teacher's batch is fixed, expected {fixed}")))
            }
            (Some(fixed), _) => Ok(fixed),
            (None, Some(asked)) => Ok(asked),
            (None, None) => {
                let elements = |shape: &[usize]| shape.iter().product::<usize>();
                // what is made of a tap may be larger than the tap
                let row = |o: &Output| o.row().map_or(0, |(shape, _)| elements(&shape)).max(elements(&o.shape));
                let row: usize = self.inputs.iter().map(|i| elements(&i.row_shape)).chain(outputs.iter().map(row)).sum();
                // a power of two divides the lengths of segments best
                let batch = |fitting: usize| 1 << fitting.clamp(1, MAX_BATCH).ilog2();
                let (kept, inside) = (batch(BATCH_BYTES / (row * 4).max(1)), batch(TENSOR_BYTES / self.largest_tensor.max(1)));
                if inside < kept {
                    let largest = human_bytes(self.largest_tensor as u64);
                    monitor.note(&format!(
                        "batches of {inside}, since the teacher's largest tensor takes {largest} a sample (--batch N: another)"
                    ));
                }
                Ok(kept.min(inside))
            }
        }
    }
}

/// Samples spread over the chosen ones; unreadable ones are an error unless they are to be skipped.
fn probe_samples(data: &dyn Dataset, chosen: &[usize], skip_bad: bool) -> Result<Vec<Sample>> {
    let step = chosen.len().div_ceil(PROBED_IMAGES).max(1);
    let mut samples = Vec::new();
    for &index in chosen.iter().step_by(step) {
        match data.sample(index) {
            Ok(sample) => samples.push(sample),
            Err(_) if skip_bad => {}
            Err(error) => return Err(describe_bad(data, &[(index, error)]).hint("--skip-bad leaves such samples out")),
        }
    }
    Ok(samples)
}

fn common_size(samples: &[Sample]) -> Option<[usize; 2]> {
    let mut sizes = samples.iter().map(|sample| match sample {
        Sample::Image(image) => Some([image.height, image.width]),
        Sample::Arrays(_) => None,
    });
    let first = sizes.next()??;
    sizes.all(|size| size == Some(first)).then_some(first)
}

fn fixed_batch(inputs: &[Value]) -> Result<Option<usize>> {
    let mut fixed = None;
    for input in inputs {
        match (input.shape.first(), fixed) {
            (Some(&Dim::Fixed(0)), _) => return Err(Error::input(format!("input `{}`: batch of 0", input.name))),
            (Some(&Dim::Fixed(n)), None) => fixed = Some(n),
            (Some(&Dim::Fixed(n)), Some(other)) if n != other => {
                return Err(Error::input(format!(
                    "input `{}`: expected the first axis of all inputs to be the batch, found {n} and {other}",
                    input.name
                )));
            }
            _ => {}
        }
    }
    Ok(fixed)
}

fn decide_preprocess(
    recipe: &Extract,
    model: &Model,
    input: &Value,
    common: Option<[usize; 2]>,
    monitor: &dyn Monitor,
) -> Result<Preprocess> {
    let dtype = input.dtype.ok_or_else(|| Error::input(format!("input `{}`: its type cannot be fed with images", input.name)))?;
    let given = recipe.preprocess.clone();
    let options = match recorded_preprocess(model)? {
        // a named preset replaces what the model records, single fields are laid over it
        Some(recorded) if given.preset.is_none() => given.or(recorded),
        Some(_) => given,
        None => given.or(recipe.default_preprocess.clone()),
    };
    let (preprocess, warnings) = preprocess::resolve(&options, dtype, &input.shape, common)?;
    for warning in warnings {
        monitor.warn(&warning);
    }
    Ok(preprocess)
}

/// The preprocessing that a model's metadata records (`nst-cache.preprocess`, written by our export).
///
/// # Errors
/// When the entry is there but not of that form.
pub fn recorded_preprocess(model: &Model) -> Result<Option<PreprocessOptions>> {
    let Some(text) = model.metadata(metadata::PREPROCESS) else { return Ok(None) };
    let recorded: Preprocess =
        serde_json::from_str(text).context(|| format!("metadata `{}`: not a record of preprocessing", metadata::PREPROCESS))?;
    Ok(Some(PreprocessOptions {
        preset: None,
        size: Some(recorded.size),
        resize: recorded.resize,
        crop_ratio: None,
        interpolation: Some(recorded.interpolation),
        channels: Some(recorded.channels),
        layout: Some(recorded.layout),
        dtype: Some(recorded.dtype),
        scale: Some(recorded.scale),
        mean: Some(recorded.mean),
        std: Some(recorded.std),
        exif_orientation: Some(recorded.exif_orientation),
    }))
}

/// The class names that a model's metadata records, in the order of its logits (`nst-cache.classes`, a JSON list).
///
/// # Errors
/// When the entry is there but no list of names.
pub fn recorded_classes(model: &Model) -> Result<Option<Vec<String>>> {
    let names = |text| serde_json::from_str(text).context(|| format!("metadata `{}`: not a list of names", metadata::CLASSES));
    model.metadata(metadata::CLASSES).map(names).transpose()
}

/// The input that takes images.
pub(super) fn image_input(input: &Value, preprocess: &Preprocess) -> Input {
    let axes = match preprocess.layout {
        crate::recipe::Layout::Nchw => ["c", "h", "w"],
        crate::recipe::Layout::Nhwc => ["h", "w", "c"],
    };
    Input {
        name: input.name.clone(),
        path: "input".to_owned(),
        dtype: Dtype::U8,
        row_shape: preprocess.input_shape().to_vec(),
        axes: axes.map(str::to_owned).to_vec(),
    }
}

/// An input as a cache records it.
pub(super) fn stored_input(spec: &ArraySpec) -> Input {
    Input {
        name: spec.tensor.clone().unwrap_or_default(),
        path: spec.path.clone(),
        dtype: spec.dtype,
        row_shape: spec.row_shape.clone(),
        axes: spec.axes.clone(),
    }
}

fn array_inputs(declared: &[Value], arrays: &[(String, Array)], monitor: &dyn Monitor) -> Result<Vec<Input>> {
    let found = || arrays.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let unused: Vec<&str> = arrays.iter().map(|(name, _)| name.as_str()).filter(|name| declared.iter().all(|d| d.name != *name)).collect();
    let mut taken = HashSet::new();
    let inputs = declared
        .iter()
        .map(|value| {
            let array = arrays.iter().find(|(name, _)| *name == value.name).map(|(_, array)| array);
            let array = array
                .ok_or_else(|| Error::input(format!("input `{}`: no array of that name in the data, found {}", value.name, found())))?;
            check_fit(value, array)?;
            let row_shape = array.shape().to_vec();
            let axes = (0..row_shape.len()).map(|axis| format!("axis{axis}")).collect();
            Ok(Input {
                name: value.name.clone(),
                path: format!("inputs/{}", tap::free(tap::path_name(&value.name), &mut taken)),
                dtype: array.dtype(),
                row_shape,
                axes,
            })
        })
        .collect::<Result<_>>()?;
    if !unused.is_empty() {
        monitor.note(&format!("arrays that the teacher does not take are left out: {}", unused.join(", ")));
    }
    Ok(inputs)
}

fn check_fit(value: &Value, row: &Array) -> Result<()> {
    if value.dtype != Some(row.dtype()) {
        let expected = value.dtype.map_or("a type that arrays do not have", Dtype::name);
        return Err(Error::input(format!("input `{}`: expected {expected}, found {}", value.name, row.dtype().name())));
    }
    let declared = value.shape.get(1..).unwrap_or_default();
    let fits = value.shape.is_empty()
        || declared.len() == row.shape().len() && declared.iter().zip(row.shape()).all(|(d, &n)| !matches!(d, Dim::Fixed(m) if *m != n));
    if fits { Ok(()) } else { Err(Error::input(format!("input `{}`: expected rows of {declared:?}, found {:?}", value.name, row.shape()))) }
}

fn array_bytes(input: &Input, arrays: &[(String, Array)]) -> Result<Vec<u8>> {
    let array = arrays.iter().find(|(name, _)| *name == input.name).map(|(_, array)| array);
    let array = array.ok_or_else(|| Error::input(format!("no array `{}`", input.name)))?;
    if array.dtype() != input.dtype || array.shape() != input.row_shape {
        return Err(Error::input(format!(
            "array `{}`: expected {} {:?}, found {} {:?}",
            input.name,
            input.dtype.name(),
            input.row_shape,
            array.dtype().name(),
            array.shape()
        )));
    }
    Ok(array.as_bytes().to_vec())
}

/// One line about samples that cannot be read: how many, the first by name and reason.
pub(super) fn describe_bad(data: &dyn Dataset, bad: &[(usize, Error)]) -> Error {
    let count = if bad.len() == 1 { "1 sample".to_owned() } else { format!("{} samples", bad.len()) };
    let named: Vec<String> = bad
        .iter()
        .take(NAMED)
        .map(|(sample, error)| {
            let (name, reason) = (data.name(*sample), error.chain());
            if reason.contains(&name) { reason } else { format!("{name}: {reason}") }
        })
        .collect();
    let rest = if bad.len() > NAMED { format!("; and {} more", bad.len() - NAMED) } else { String::new() };
    Error::input(format!("{count} cannot be read: {}{rest}", named.join("; ")))
}
