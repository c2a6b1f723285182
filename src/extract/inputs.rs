//! How samples become the teacher's inputs: the preprocessing, and which arrays feed which input.

use super::estimate::human_bytes;
use super::feed::{Fed, Input};
use super::output::Output;
use crate::array::{Array, Dtype};
use crate::cache::ArraySpec;
use crate::data::{Dataset, Preprocess, PreprocessOptions, Sample, Subset, Witness, preprocess};
use crate::error::{Context as _, Error, Result};
use crate::monitor::Monitor;
use crate::onnx::feed::{self, Constant, Feed, Placed};
use crate::onnx::{Dim, Model, Value, metadata, tap};
use crate::recipe::{Extract, Inputs};
use crate::runtime::Probe;
use std::collections::HashSet;

/// Bad samples that a message names; the others are counted.
const NAMED: usize = 3;

/// Images looked at to find their common size.
const PROBED_IMAGES: usize = 16;
/// Bytes that the inputs and kept tensors of a batch may take, as f32.
const BATCH_BYTES: usize = 64 << 20;
/// Bytes that the largest tensor of a batch may take, as f32.
const TENSOR_BYTES: usize = 128 << 20;
/// Beyond this the CPU gains nothing from a larger batch.
const MAX_BATCH: usize = 64;

/// The data set seen as the teacher's inputs.
pub(super) struct TeacherInputs {
    pub(super) subset: Subset,
    pub(super) inputs: Vec<Input>,
    /// Inputs with the same value for every sample.
    pub(super) constants: Vec<Constant>,
    /// `None`: the samples are arrays, fed as they are.
    pub(super) preprocess: Option<Preprocess>,
    /// Records the files that samples are read from.
    pub(super) witness: Witness,
}

impl TeacherInputs {
    /// Decides the preprocessing (flags, else what the model's metadata records, else what
    /// [`preprocess::resolve`] finds) and checks the data against the model's inputs.
    ///
    /// # Errors
    /// When the data does not fit the model's inputs, or a probed sample cannot be read.
    pub(super) fn new(
        recipe: &Extract,
        model: &Model,
        subset: Subset,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let data = subset.dataset.as_ref();
        let samples = probe_samples(data, &subset.indices, recipe.skip_bad)?;
        let (declared, note) = feed::place(&model.inputs(), &recipe.feeding)?;
        // refuses batches that differ
        feed::fixed_batch(&declared)?;
        if let Some(note) = note {
            monitor.note(&note);
        }
        let constants = declared.iter().filter_map(|placed| placed.constant.clone()).collect();
        let declared: Vec<Placed> =
            declared.into_iter().filter(|placed| placed.constant.is_none()).collect();
        let (inputs, preprocess) = match samples.first() {
            Some(Sample::Image(_)) => {
                let [input] = declared.as_slice() else {
                    return Err(Error::input(format!(
                        "teacher {}: expected 1 input to feed images to, found {}",
                        recipe.teacher.display(),
                        declared.len()
                    ))
                    .hint(
                        "give the others one value for all images, --input NAME=VALUE, or arrays \
                         for all: --data npz:FILE",
                    ));
                };
                let axis = input.batch_axis()?;
                if axis > 0 {
                    return Err(Error::input(format!(
                        "input `{}`: expected the batch on the first axis to feed images, found \
                         it on axis {axis}",
                        input.input.name
                    )));
                }
                let preprocess =
                    decide_preprocess(recipe, model, &input.input, common_size(&samples), monitor)?;
                (vec![image_input(&input.input, &preprocess)], Some(preprocess))
            }
            Some(Sample::Arrays(arrays)) => (array_inputs(&declared, arrays, monitor)?, None),
            None => {
                return Err(Error::input(format!("data {}: no sample can be read", recipe.data)));
            }
        };
        if preprocess.is_none() && !recipe.augmentation.is_none() {
            return Err(Error::input(format!(
                "augmentation ({}): expected images, found arrays",
                recipe.augmentation
            ))
            .hint("leave --augment, --color-jitter, --mixup and --cutmix out"));
        }
        if preprocess.is_none() && recipe.inputs == Some(Inputs::Source) {
            return Err(Error::input("--inputs source: expected images, found arrays")
                .hint("arrays are stored: leave --inputs out"));
        }
        Ok(Self { subset, inputs, constants, preprocess, witness: Witness::default() })
    }

    /// The whole data set.
    pub(super) fn data(&self) -> &dyn Dataset {
        self.subset.dataset.as_ref()
    }

    /// Reads a sample, and records the files that it comes from.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn sample(&self, sample: usize) -> Result<Sample> {
        self.witness.sample(self.data(), sample)
    }

    /// The bytes to store of one sample, one vector an input.
    ///
    /// # Errors
    /// When the sample cannot be read or does not fit.
    pub(super) fn read(&self, sample: usize) -> Result<Vec<Vec<u8>>> {
        match (self.sample(sample)?, &self.preprocess) {
            (Sample::Image(image), Some(preprocess)) => {
                Ok(vec![preprocess::to_bytes(preprocess, &image)?])
            }
            (Sample::Arrays(arrays), None) => {
                self.inputs.iter().map(|input| array_bytes(input, &arrays)).collect()
            }
            _ => Err(Error::input("the data set mixes images and arrays")),
        }
    }

    /// How rows become the model's inputs.
    pub(super) fn fed(&self) -> Fed<'_> {
        Fed {
            inputs: &self.inputs,
            preprocess: self.preprocess.as_ref(),
            constants: &self.constants,
        }
    }

    /// How each input of the model is fed.
    pub(super) fn feeds(&self) -> Vec<Feed> {
        feeds(&self.inputs, &self.constants)
    }

    /// Rows of one run: the model's fixed batch, or `asked`, or as many as fit a fixed amount of
    /// memory.
    ///
    /// # Errors
    /// When the model's batch is fixed to another size than `asked`.
    pub(super) fn batch_size(
        &self,
        probe: &Probe,
        asked: Option<usize>,
        outputs: &[Output],
        monitor: &dyn Monitor,
    ) -> Result<usize> {
        match (probe.batch, asked) {
            (Some(fixed), Some(asked)) if fixed != asked => Err(Error::input(format!(
                "--batch {asked}: the teacher's batch is fixed, expected {fixed}"
            ))),
            (Some(fixed), _) => Ok(fixed),
            (None, Some(asked)) => Ok(asked),
            (None, None) => {
                let elements = |shape: &[usize]| shape.iter().product::<usize>();
                // a statistic may be larger than its map
                let row = |o: &Output| {
                    o.row().map_or(0, |(shape, _)| elements(&shape)).max(elements(&o.shape))
                };
                let row: usize = self
                    .inputs
                    .iter()
                    .map(|i| elements(&i.row_shape))
                    .chain(outputs.iter().map(row))
                    .sum();
                // powers of two divide segments evenly
                let batch = |fitting: usize| 1 << fitting.clamp(1, MAX_BATCH).ilog2();
                let largest = probe.largest_row_bytes();
                let (kept, inside) =
                    (batch(BATCH_BYTES / (row * 4).max(1)), batch(TENSOR_BYTES / largest.max(1)));
                if inside < kept {
                    let largest = human_bytes(largest as u64);
                    monitor.note(&format!(
                        "batches of {inside}, since the teacher's largest tensor takes {largest} \
                         per sample (--batch N: another)"
                    ));
                }
                Ok(kept.min(inside))
            }
        }
    }
}

/// The inputs that the data feeds: those to which the recipe gives no value.
pub(super) fn fed(recipe: &Extract, model: &Model) -> Vec<Value> {
    let is_given =
        |input: &Value| recipe.feeding.values.iter().any(|value| value.input == input.name);
    model.inputs().into_iter().filter(|input| !is_given(input)).collect()
}

/// How each input of a model is fed.
pub(super) fn feeds(inputs: &[Input], constants: &[Constant]) -> Vec<Feed> {
    let given = |input: &Input| Feed {
        name: input.name.clone(),
        dtype: input.fed,
        row: input.row_shape.clone(),
        batch_axis: Some(input.batch_axis),
        constant: None,
    };
    let constant = |constant: &Constant| Feed {
        name: constant.tensor.clone(),
        dtype: constant.dtype,
        row: constant.shape.clone(),
        batch_axis: constant.batch_axis,
        constant: Some(constant.clone()),
    };
    inputs.iter().map(given).chain(constants.iter().map(constant)).collect()
}

/// Evenly spread samples of the chosen ones; an unreadable one is an error unless it is to be
/// skipped.
fn probe_samples(data: &dyn Dataset, chosen: &[usize], skip_bad: bool) -> Result<Vec<Sample>> {
    let step = chosen.len().div_ceil(PROBED_IMAGES).max(1);
    let mut samples = Vec::new();
    for &index in chosen.iter().step_by(step) {
        match data.sample(index) {
            Ok(sample) => samples.push(sample),
            Err(_) if skip_bad => {}
            Err(error) => {
                return Err(describe_bad(data, &[(index, error)])
                    .hint("--skip-bad leaves such samples out"));
            }
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

fn decide_preprocess(
    recipe: &Extract,
    model: &Model,
    input: &Value,
    common: Option<[usize; 2]>,
    monitor: &dyn Monitor,
) -> Result<Preprocess> {
    let dtype = input.dtype.ok_or_else(|| {
        Error::input(format!("input `{}`: its type cannot be fed with images", input.name))
    })?;
    let given = recipe.preprocess.clone();
    let options = match recorded_preprocess(model)? {
        // a named preset replaces the model's record; single fields override it
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

/// The preprocessing that a model's metadata records (`nst-cache.preprocess`, written by our
/// export).
///
/// # Errors
/// When the entry is not of that form.
fn recorded_preprocess(model: &Model) -> Result<Option<PreprocessOptions>> {
    let Some(text) = model.metadata(metadata::PREPROCESS) else { return Ok(None) };
    let recorded: Preprocess = serde_json::from_str(text).context(|| {
        format!("metadata `{}`: not a record of preprocessing", metadata::PREPROCESS)
    })?;
    Ok(Some(options_of(recorded)))
}

/// The options that decide on this preprocessing.
pub(crate) fn options_of(preprocess: Preprocess) -> PreprocessOptions {
    PreprocessOptions {
        preset: None,
        size: Some(preprocess.size),
        resize: preprocess.resize,
        crop_ratio: None,
        interpolation: Some(preprocess.interpolation),
        channels: Some(preprocess.channels),
        layout: Some(preprocess.layout),
        dtype: Some(preprocess.dtype),
        scale: Some(preprocess.scale),
        mean: Some(preprocess.mean),
        std: Some(preprocess.std),
        exif_orientation: Some(preprocess.exif_orientation),
    }
}

/// The class names that a model's metadata records, in the order of its logits
/// (`nst-cache.classes`, a JSON list).
///
/// # Errors
/// When the entry is not a list of names.
pub(crate) fn recorded_classes(model: &Model) -> Result<Option<Vec<String>>> {
    let names = |text| {
        serde_json::from_str(text)
            .context(|| format!("metadata `{}`: not a list of names", metadata::CLASSES))
    };
    model.metadata(metadata::CLASSES).map(names).transpose()
}

/// The input that takes images.
pub(crate) fn image_input(input: &Value, preprocess: &Preprocess) -> Input {
    let axes = match preprocess.layout {
        crate::array::Layout::Nchw => ["c", "h", "w"],
        crate::array::Layout::Nhwc => ["h", "w", "c"],
    };
    Input {
        name: input.name.clone(),
        path: "input".to_owned(),
        dtype: Dtype::U8,
        row_shape: preprocess.input_shape().to_vec(),
        axes: axes.map(str::to_owned).to_vec(),
        batch_axis: 0,
        fed: preprocess.dtype,
    }
}

/// An input as a cache records it; `model`: the teacher's inputs.
pub(super) fn stored_input(spec: &ArraySpec, model: &[Value]) -> Input {
    let name = spec.tensor.clone().unwrap_or_default();
    let fed = model.iter().find(|input| input.name == name).and_then(|input| input.dtype);
    Input {
        name,
        path: spec.path.clone(),
        dtype: spec.dtype,
        row_shape: spec.row_shape.clone(),
        axes: spec.axes.clone(),
        batch_axis: spec.batch_axis.unwrap_or(0),
        fed: fed.unwrap_or(spec.dtype),
    }
}

fn array_inputs(
    declared: &[Placed],
    arrays: &[(String, Array)],
    monitor: &dyn Monitor,
) -> Result<Vec<Input>> {
    let found =
        || arrays.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let mut converted = Vec::new();
    let mut taken = HashSet::new();
    let inputs = declared
        .iter()
        .map(|placed| {
            let name = &placed.input.name;
            let array = arrays.iter().find(|(given, _)| given == name).map(|(_, array)| array);
            let array = array.ok_or_else(|| {
                Error::input(format!(
                    "input `{name}`: no array of that name in the data, found {}",
                    found()
                ))
                .hint(format!("give it one value for all samples: --input {name}=VALUE"))
            })?;
            let fed = check_fit(placed, array)?;
            let dtype = stored_type(fed);
            if array.dtype() != fed {
                converted.push(format!("`{name}` from {} to {}", array.dtype().name(), fed.name()));
            }
            let row_shape = array.shape().to_vec();
            Ok(Input {
                name: name.clone(),
                path: format!("inputs/{}", tap::free(tap::path_name(name), &mut taken)),
                dtype,
                axes: (0..row_shape.len()).map(|axis| format!("axis{axis}")).collect(),
                row_shape,
                batch_axis: placed.batch_axis()?,
                fed,
            })
        })
        .collect::<Result<_>>()?;
    if !converted.is_empty() {
        monitor.note(&format!(
            "arrays are converted to what the teacher takes: {}",
            converted.join(", ")
        ));
    }
    Ok(inputs)
}

/// The type that an input takes, if rows like this one fit it.
fn check_fit(placed: &Placed, row: &Array) -> Result<Dtype> {
    let input = &placed.input;
    let fed =
        input.dtype.filter(|&dtype| Array::converts(row.dtype(), dtype)).ok_or_else(|| {
            let expected = input.dtype.map_or("a type that arrays do not have", Dtype::name);
            Error::input(format!(
                "input `{}`: expected {expected}, found {}",
                input.name,
                row.dtype().name()
            ))
            .hint("convert it with numpy's astype, scaled as the model was trained")
        })?;
    placed.batch_axis()?;
    let declared = placed.row();
    let fits = |(dim, &size): (&Dim, &usize)| !matches!(dim, Dim::Fixed(n) if *n != size);
    let same = declared.len() == row.shape().len() && declared.iter().zip(row.shape()).all(fits);
    if input.has_shape && !same {
        return Err(Error::input(format!(
            "input `{}`: expected rows of {}, found {:?}",
            input.name,
            feed::axes(&declared),
            row.shape()
        )));
    }
    Ok(fed)
}

/// The stored type of an input: caches hold bfloat16 as f32.
fn stored_type(fed: Dtype) -> Dtype {
    if fed == Dtype::BF16 { Dtype::F32 } else { fed }
}

fn array_bytes(input: &Input, arrays: &[(String, Array)]) -> Result<Vec<u8>> {
    let array = arrays.iter().find(|(name, _)| *name == input.name).map(|(_, array)| array);
    let array = array.ok_or_else(|| Error::input(format!("no array `{}`", input.name)))?;
    let context = || format!("array `{}`", input.name);
    if array.shape() != input.row_shape {
        return Err(Error::input(format!(
            "array `{}`: expected {:?}, found {:?}",
            input.name,
            input.row_shape,
            array.shape()
        )));
    }
    if let Some(value) = array.not_finite() {
        return Err(Error::input(format!(
            "array `{}`: expected finite values, found {value}",
            input.name
        )));
    }
    Ok(array
        .converted(input.fed)
        .and_then(|array| array.converted(input.dtype))
        .context(context)?
        .as_bytes()
        .to_vec())
}

/// One line about samples that cannot be read: how many, the first by name and reason.
pub(super) fn describe_bad(data: &dyn Dataset, bad: &[(usize, Error)]) -> Error {
    let count =
        if bad.len() == 1 { "1 sample".to_owned() } else { format!("{} samples", bad.len()) };
    let named: Vec<String> = bad
        .iter()
        .take(NAMED)
        .map(|(sample, error)| {
            let (name, reason) = (data.name(*sample), error.chain());
            if reason.contains(&name) { reason } else { format!("{name}: {reason}") }
        })
        .collect();
    let rest =
        if bad.len() > NAMED { format!("; and {} more", bad.len() - NAMED) } else { String::new() };
    Error::input(format!("{count} cannot be read: {}{rest}", named.join("; ")))
}
