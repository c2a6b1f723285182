//! How good a classifier is on a data set, in ONNX Runtime.
//!
//! ```no_run
//! use nst_cache::evaluate;
//! use nst_cache::monitor::Silent;
//! use nst_cache::recipe::Evaluate;
//! use nst_cache::runtime::{Device, Runtime, SessionOptions};
//!
//! # fn main() -> nst_cache::error::Result<()> {
//! let recipe = Evaluate::new("runs/resnet20/student.onnx", "folder:photos".parse()?);
//! let options = SessionOptions { device: Device::Cpu, threads: 4 };
//! let scores = evaluate::run(&recipe, &Runtime::load(None)?, &options, &Silent)?;
//! println!("top-1 {:.2} % of {} samples", scores.top1, scores.samples);
//! # Ok(())
//! # }
//! ```

mod scores;

pub use scores::Scores;

use crate::array::{Array, Dtype, Values};
use crate::data::{self, Dataset, Preprocess, Sample, Take};
use crate::error::{Context as _, Error, Result};
use crate::extract::classes::{Agreement, Known, agreement};
use crate::extract::{independence, recorded_classes, soundness};
use crate::monitor::Monitor;
use crate::onnx::feed::{self, Placed};
use crate::onnx::logits::{self, Conversion, LogitCandidates, Logits};
use crate::onnx::{Model, metadata, tap};
use crate::recipe::Evaluate;
use crate::runtime::{Device, Runtime, Session, SessionOptions};
use crate::threads;
use rayon::prelude::*;
use scores::RunningScores;
use std::time::Instant;

/// Batch size if neither the model nor the user decides.
const DEFAULT_BATCH: usize = 64;
/// Samples in the first run, which shows what the model returns.
const FIRST: usize = 8;
/// Most decoded batches that wait for the model.
const QUEUE: usize = 2;

/// Runs a classifier over a labeled data set. A quarter of the threads decode; with fewer than
/// four, decoding shares the model's cores.
///
/// # Errors
/// If the model or the data cannot be read or do not match, there are no labels, or the user asks
/// to stop.
pub fn run(
    recipe: &Evaluate,
    runtime: &Runtime,
    options: &SessionOptions,
    monitor: &dyn Monitor,
) -> Result<Scores> {
    let model = Model::read(&recipe.model)?;
    let mut fed = model.inputs();
    fed.retain(|input| recipe.feeding.values.iter().all(|value| value.input != input.name));
    let dataset = data::open_for(&recipe.data, &recipe.split, &fed, monitor)?;
    monitor.note(&format!(
        "data {} ({}): {}",
        recipe.data,
        recipe.split,
        data::describe(dataset.as_ref())
    ));
    let mut plan = EvalPlan::new(recipe, monitor, &model, dataset.as_ref())?;
    let decoders = options.threads / 4;
    let device = options.device;
    let options = SessionOptions { device, threads: options.threads - decoders };
    let found = find_logits(recipe, &model)?;
    let mut session = Session::new(runtime, &model, &found.tensors(), &options)?;
    if device == Device::Auto {
        monitor.note(&format!("running on {}", session.provider()));
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(decoders.max(1))
        .build()
        .context(|| "decoding threads cannot be started".to_owned())?;
    let logits = plan.settle(dataset.as_ref(), &mut session, &found)?;
    plan.classes = class_map(recipe, &model, logits.classes, dataset.as_ref())?;
    if let Some(note) = &logits.note {
        monitor.note(&format!("logits: {note}"));
    }
    plan.check_values(dataset.as_ref(), &model, &logits, runtime, &mut session, monitor)?;
    measure(&plan, &logits, dataset.as_ref(), &mut session, &pool, monitor)
}

/// Everything decided before the first sample is read.
struct EvalPlan {
    inputs: Vec<Placed>,
    /// `None` for a data set of arrays, which are fed unchanged.
    preprocess: Option<Preprocess>,
    /// The model's class for each of the data set's labels; `None` if they are the same.
    classes: Option<Vec<usize>>,
    /// Indices into the data set.
    samples: Vec<usize>,
    batch: usize,
    /// Whether every run must have exactly `batch` samples.
    is_fixed: bool,
    /// Whether the model declares that batch.
    is_declared: bool,
}

impl EvalPlan {
    fn new(
        recipe: &Evaluate,
        monitor: &dyn Monitor,
        model: &Model,
        dataset: &dyn Dataset,
    ) -> Result<Self> {
        let take = Take { limit: recipe.limit, shuffle: recipe.shuffle };
        let samples = data::take((0..dataset.len()).collect(), take);
        if samples.is_empty() {
            return Err(Error::input("data set: expected samples, found none"));
        }
        if let Some(&index) = samples.iter().find(|&&index| dataset.label(index) < 0) {
            return Err(Error::input(format!(
                "{}: expected a label to compare with, found none",
                dataset.name(index)
            )));
        }
        let (inputs, note) = feed::place(&model.inputs(), &recipe.feeding)?;
        if let Some(note) = note {
            monitor.note(&note);
        }
        let fixed = feed::fixed_batch(&inputs)?;
        if let (Some(fixed), Some(asked)) = (fixed, recipe.batch)
            && fixed != asked
        {
            return Err(Error::input(format!(
                "--batch: expected {fixed}, which the model fixes, found {asked}"
            )));
        }
        let batch = fixed.or(recipe.batch).unwrap_or(DEFAULT_BATCH);
        let preprocess = match dataset.sample(samples[0])? {
            Sample::Image(_) => Some(match &recipe.recorded_preprocess {
                Some(preprocess) => preprocess.clone(),
                None => preprocess(recipe, monitor, model, &inputs, data::common_size(dataset))?,
            }),
            Sample::Arrays(_) => None,
        };
        Ok(Self {
            inputs,
            preprocess,
            classes: None,
            samples,
            batch,
            is_fixed: fixed.is_some() || recipe.batch.is_some(),
            is_declared: fixed.is_some(),
        })
    }

    /// The inputs that the data feeds.
    fn data_inputs(&self) -> impl Iterator<Item = &Placed> {
        self.inputs.iter().filter(|placed| placed.constant.is_none())
    }

    /// Each input by name, for this many samples. `stacked` returns a data-fed input by position
    /// and name, with the samples along the first axis.
    fn fed(
        &self,
        rows: usize,
        stacked: impl Fn(usize, &str) -> Result<Array>,
    ) -> Result<Vec<(String, Array)>> {
        let constants = self.inputs.iter().filter_map(|placed| placed.constant.as_ref());
        let constants =
            constants.map(|constant| Ok((constant.tensor.clone(), constant.array(rows)?)));
        let given = self.data_inputs().enumerate().map(|(at, placed)| {
            let name = &placed.input.name;
            let array = stacked(at, name)?;
            let taken = placed.input.dtype.unwrap_or(array.dtype());
            let array = array.converted(taken).context(|| format!("array `{name}`"))?;
            Ok((name.clone(), array.with_first_axis_at(placed.batch_axis()?)?))
        });
        given.chain(constants).collect()
    }

    /// Runs the first samples to decide the batch size and which tensor holds the logits.
    fn settle(
        &mut self,
        dataset: &dyn Dataset,
        session: &mut Session,
        found: &LogitCandidates,
    ) -> Result<Logits> {
        let tensors = found.tensors();
        let mut runs = |count: usize| {
            let batch = decode(self, dataset, 0..count.min(self.samples.len()))?;
            Ok((session.run(&batch.named(), &tensors)?, batch.labels.len()))
        };
        // exporters bake a batch of one into reshapes and still declare it open: such a model runs
        // one sample at a time
        let (values, rows) = match runs(if self.is_fixed { self.batch } else { FIRST }) {
            Err(error) if !self.is_fixed => {
                let first = runs(1).map_err(|_: Error| error)?;
                self.batch = 1;
                first
            }
            other => other?,
        };
        let value_of = |tensor: &str| {
            tensors.iter().position(|name| name == tensor).and_then(|at| values.get(at))
        };
        let row = |tensor: &str| {
            value_of(tensor).and_then(|array| array.shape().get(1..)).map(<[usize]>::to_vec)
        };
        let mut logits = found.choose(row).map_err(|reason| {
            Error::input(format!("logits: {reason}"))
                .hint("name the tensor that holds the logits: --logits TENSOR")
        })?;
        let values = value_of(&logits.tensor).map(Array::to_f32).unwrap_or_default();
        let is_open = logits.conversion.is_none();
        if is_open
            && logits::are_probabilities(
                values.get(..rows * logits.classes).unwrap_or_default(),
                logits.classes,
            )
        {
            logits.conversion = Some(Conversion::Probabilities);
            logits.note = Some(Conversion::Probabilities.describe(&logits.tensor));
        }
        Ok(logits)
    }
}

impl EvalPlan {
    /// Checks that the model's logits are functions of one sample, or sets the batch to one if they
    /// are only then; and that ONNX Runtime's optimizations keep their values.
    fn check_values(
        &mut self,
        dataset: &dyn Dataset,
        model: &Model,
        logits: &Logits,
        runtime: &Runtime,
        session: &mut Session,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let count = self.samples.len().min(independence::SAMPLES);
        let samples = self
            .samples
            .iter()
            .take(count)
            .map(|&sample| dataset.sample(sample).context(|| dataset.name(sample)));
        let samples = samples.collect::<Result<Vec<_>>>()?;
        let bytes: Vec<Vec<u8>> = if let Some(preprocess) = &self.preprocess {
            vec![images(preprocess, samples.iter())?.concat()]
        } else {
            let stacked = self
                .data_inputs()
                .map(|input| Ok(stack(&input.input.name, samples.iter())?.as_bytes().to_vec()));
            stacked.collect::<Result<_>>()?
        };
        let shapes = match samples.first() {
            Some(Sample::Arrays(arrays)) => arrays.clone(),
            _ => Vec::new(),
        };
        let shape = |name: &str| {
            shapes
                .iter()
                .find(|(given, _)| given == name)
                .map(|(_, array)| (array.dtype(), array.shape().to_vec()))
        };
        let subject = independence::Subject {
            who: "model",
            runtime,
            model,
            tensors: std::slice::from_ref(&logits.tensor),
            fixed: self.is_declared.then_some(self.batch),
            inputs: self
                .data_inputs()
                .map(|input| {
                    shape(&input.input.name).map_or((Dtype::U8, true), |(dtype, _)| (dtype, false))
                })
                .collect(),
            feed: &|bytes, count| {
                self.fed(count, |at, name| {
                    if let Some(preprocess) = &self.preprocess {
                        return data::preprocess::normalize(preprocess, &bytes.concat());
                    }
                    let (dtype, row) = shape(name).unwrap_or((Dtype::F32, Vec::new()));
                    Array::from_bytes(
                        dtype,
                        [&[count], row.as_slice()].concat(),
                        bytes.get(at).map_or(&[], Vec::as_slice),
                    )
                })
            },
        };
        let alone = independence::check(&subject, session, &bytes, count, self.batch)?;
        let batch = if alone.is_some() { 1 } else { self.batch };
        soundness::check(&subject, session, &bytes, count, batch, monitor)?;
        self.batch = batch;
        if let Some(reason) = alone {
            monitor.note(&reason);
        }
        Ok(())
    }
}

/// Images as the bytes of the model's input.
fn images<'a>(
    preprocess: &Preprocess,
    samples: impl Iterator<Item = &'a Sample>,
) -> Result<Vec<Vec<u8>>> {
    let bytes = |sample: &Sample| match sample {
        Sample::Image(image) => data::preprocess::to_bytes(preprocess, image),
        Sample::Arrays(_) => {
            Err(Error::input("data set: expected images throughout, found arrays"))
        }
    };
    samples.collect::<Vec<_>>().into_par_iter().map(bytes).collect()
}

/// The tensors in which to look for the logits.
fn find_logits(recipe: &Evaluate, model: &Model) -> Result<LogitCandidates> {
    if let Some(name) = &recipe.logits {
        let names: Vec<&str> =
            model.graph().node.iter().flat_map(|node| &node.output).map(String::as_str).collect();
        return Ok(logits::of_tensor(
            model,
            &tap::resolve(std::slice::from_ref(name), &names)?.remove(0).tensor,
        ));
    }
    logits::of_output(model).ok_or_else(|| {
        Error::input(format!(
            "{}: expected a first output [batch, classes], found another",
            recipe.model.display()
        ))
        .hint("name the tensor that holds the logits: --logits TENSOR")
    })
}

/// Preprocessing from the flags, else from the model's metadata, else from the working folder's
/// defaults and the model's declaration.
fn preprocess(
    recipe: &Evaluate,
    monitor: &dyn Monitor,
    model: &Model,
    inputs: &[Placed],
    image_size: Option<[usize; 2]>,
) -> Result<Preprocess> {
    let options = recipe.preprocess.clone();
    if options.is_empty()
        && let Some(text) = model.metadata(metadata::PREPROCESS)
    {
        let preprocess: Preprocess = serde_json::from_str(text).context(|| {
            format!("{}: metadata `{}`", recipe.model.display(), metadata::PREPROCESS)
        })?;
        preprocess.validate()?;
        return Ok(preprocess);
    }
    let fed: Vec<&Placed> = inputs.iter().filter(|placed| placed.constant.is_none()).collect();
    let [placed] = fed[..] else {
        return Err(Error::input(format!(
            "{}: expected one input for images, found {}",
            recipe.model.display(),
            fed.len()
        ))
        .hint("give the others one value for all images: --input NAME=VALUE"));
    };
    if placed.batch_axis()? > 0 {
        return Err(Error::input(format!(
            "input `{}`: expected the batch on the first axis to feed images",
            placed.input.name
        )));
    }
    let input = &placed.input;
    let dtype = input.dtype.ok_or_else(|| {
        Error::input(format!("input `{}`: expected numbers, found another type", input.name))
    })?;
    let options = options.or(recipe.default_preprocess.clone());
    let (preprocess, warnings) =
        data::preprocess::resolve(&options, dtype, &input.shape, image_size)?;
    for warning in &warnings {
        monitor.warn(warning);
    }
    Ok(preprocess)
}

/// The model's class for each of the data set's labels; `None` if they are the same.
fn class_map(
    recipe: &Evaluate,
    model: &Model,
    count: usize,
    dataset: &dyn Dataset,
) -> Result<Option<Vec<usize>>> {
    let recorded = match &recipe.recorded_classes {
        Some(names) => Some(names.clone()),
        None => recorded_classes(model)?,
    };
    let known = Known {
        who: "the model",
        count: Some(count),
        recorded: recorded.as_deref(),
        file: recipe.classes.as_deref(),
    };
    match agreement(known, dataset)? {
        Agreement::Same { places, .. } => Ok(places
            .map(|places| places.into_iter().filter_map(|at| usize::try_from(at).ok()).collect())),
        Agreement::Others(reason) => {
            Err(Error::input(format!("{reason}: there is nothing to measure")).hint(
                "--classes FILE names the model's classes in the order of its logits, --logits \
                 TENSOR another tensor",
            ))
        }
    }
}

/// A decoded batch.
struct EvalBatch {
    inputs: Vec<(String, Array)>,
    labels: Vec<i64>,
}

impl EvalBatch {
    /// The arguments for [`Session::run`].
    fn named(&self) -> Vec<(&str, &Array)> {
        self.inputs.iter().map(|(name, array)| (name.as_str(), array)).collect()
    }
}

/// Decodes ahead on worker threads while the model runs.
fn measure(
    plan: &EvalPlan,
    logits: &Logits,
    dataset: &dyn Dataset,
    session: &mut Session,
    pool: &rayon::ThreadPool,
    monitor: &dyn Monitor,
) -> Result<Scores> {
    monitor.begin("eval", "images", plan.samples.len() as u64, 0);
    let started = Instant::now();
    let (sender, receiver) = crossbeam_channel::bounded(QUEUE);
    let mut sums = RunningScores::default();
    std::thread::scope(|scope| {
        threads::start(scope, move || {
            for start in (0..plan.samples.len()).step_by(plan.batch) {
                let batch = pool.install(|| {
                    decode(plan, dataset, start..plan.samples.len().min(start + plan.batch))
                });
                let is_last = batch.is_err();
                // the receiver is dropped when inference fails
                if sender.send(batch).is_err() || is_last {
                    return;
                }
            }
        })?;
        // moved in, so that an early return drops it and the decoder stops
        for batch in receiver {
            if monitor.stop_requested() {
                return Err(Error::interrupted("stopped before the end; nothing was measured"));
            }
            let batch = batch?;
            let outputs = session.run(&batch.named(), std::slice::from_ref(&logits.tensor))?;
            let values = outputs.first().ok_or_else(|| {
                Error::input(format!("output `{}`: the run gave no value", logits.tensor))
            })?;
            sums.add(&rows_of(logits, values)?, &batch.labels, plan.classes.as_deref())?;
            monitor.advance(batch.labels.len() as u64, 0);
        }
        Ok(())
    })?;
    monitor.end();
    Ok(sums.scores(started.elapsed().as_secs_f64(), session.provider()))
}

fn decode(
    plan: &EvalPlan,
    dataset: &dyn Dataset,
    rows: std::ops::Range<usize>,
) -> Result<EvalBatch> {
    let rows = plan.samples.get(rows).unwrap_or_default();
    let labels: Vec<i64> = rows.iter().map(|&row| dataset.label(row)).collect();
    let read = |&row: &usize| dataset.sample(row).context(|| dataset.name(row));
    let samples: Vec<Sample> = rows.par_iter().map(read).collect::<Result<_>>()?;
    // a model with a fixed batch gets the last sample repeatedly; those results are not counted
    let missing = if plan.is_fixed { plan.batch.saturating_sub(labels.len()) } else { 0 };
    let padded = || samples.iter().chain(samples.last().into_iter().cycle().take(missing));
    let inputs = plan.fed(labels.len() + missing, |_, name| match &plan.preprocess {
        Some(preprocess) => {
            data::preprocess::normalize(preprocess, &images(preprocess, padded())?.concat())
        }
        None => stack(name, padded()),
    })?;
    Ok(EvalBatch { inputs, labels })
}

/// Stacks an array of each sample along a new first axis.
fn stack<'a>(name: &str, samples: impl Iterator<Item = &'a Sample>) -> Result<Array> {
    let array = |sample: &'a Sample| match sample {
        Sample::Arrays(arrays) => {
            arrays.iter().find(|(given, _)| given == name).map(|(_, array)| array)
        }
        Sample::Image(_) => None,
    };
    let rows: Option<Vec<&Array>> = samples.map(array).collect();
    let rows = rows.ok_or_else(|| {
        Error::input(format!(
            "data set: expected an array `{name}`, which the model takes, found none"
        ))
    })?;
    let Some(first) = rows.first() else {
        return Err(Error::input("data set: expected samples, found none"));
    };
    if let Some(other) =
        rows.iter().find(|row| row.shape() != first.shape() || row.dtype() != first.dtype())
    {
        return Err(Error::input(format!(
            "array `{name}`: expected shape {:?} for every sample, found {:?}",
            first.shape(),
            other.shape()
        )));
    }
    let bytes: Vec<u8> = rows.iter().flat_map(|row| row.as_bytes()).copied().collect();
    Array::from_bytes(first.dtype(), [&[rows.len()], first.shape()].concat(), &bytes)
}

/// Logits `[N, classes]` from the values of their tensor.
fn rows_of(logits: &Logits, values: &Array) -> Result<Array> {
    let rows = values.shape().first().copied().unwrap_or_default();
    let mut floats = values.to_f32();
    if let Some(conversion) = logits.conversion {
        conversion.apply(&mut floats, values.dtype()).map_err(|index| {
            let value = floats.get(index).copied().unwrap_or(f32::NAN);
            Error::input(format!(
                "tensor `{}`: expected a probability, found {value}",
                logits.tensor
            ))
            .hint("name the tensor that holds the logits: --logits TENSOR")
        })?;
    }
    Array::new(vec![rows, logits.classes], Values::F32(floats))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Values;

    #[test]
    fn arrays_are_stacked_by_name() {
        let sample = |v: i32| {
            Sample::Arrays(vec![(
                "x".into(),
                Array::new(vec![2], Values::I32(vec![v, v + 1])).unwrap(),
            )])
        };
        let samples = [sample(1), sample(5)];
        let stacked = stack("x", samples.iter()).unwrap();
        assert_eq!(
            (stacked.shape(), stacked.values()),
            (&[2, 2][..], &Values::I32(vec![1, 2, 5, 6]))
        );
        assert!(stack("y", samples.iter()).unwrap_err().to_string().contains("`y`"));
    }
}
