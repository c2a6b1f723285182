//! A model that runs on blocks of samples.

use super::feeder::{Bytes, FedRun, Feeder};
use crate::array::{Array, Dtype};
use crate::error::{Error, Result};
use crate::extract::{feed, independence, soundness};
use crate::monitor::Monitor;
use crate::onnx::Model;
use crate::runtime::{Device, Runtime, Session, SessionOptions};

/// Samples in the first run, which shows what the model returns.
const FIRST: usize = 8;

/// The values of a tensor, `[samples, …]`.
pub(super) struct Rows {
    /// Shape of one sample's values.
    pub(super) row: Vec<usize>,
    /// The type that the model returns them in.
    pub(super) dtype: Dtype,
    /// The values, without those of padding.
    pub(super) values: Vec<f32>,
}

impl Rows {
    /// The values of the samples of a run; `None` if they do not have the batch as first axis.
    fn of(array: &Array, samples: usize, batch: usize) -> Option<Self> {
        let (&first, row) = array.shape().split_first()?;
        let mut values = array.to_f32();
        values.truncate(samples * row.iter().product::<usize>());
        // `[batch]` is a value a sample
        let row = if row.is_empty() { vec![1] } else { row.to_vec() };
        (first == batch).then(|| Self { row, dtype: array.dtype(), values })
    }
}

/// What the first run shows.
pub(super) struct First {
    /// The bytes of its samples.
    pub(super) bytes: Bytes,
    /// Their number.
    pub(super) samples: usize,
    /// Each tensor; `None` where it does not have the batch as first axis.
    pub(super) values: Vec<Option<Rows>>,
}

/// A model with its session.
pub(super) struct Runner<'a> {
    /// What messages call it.
    who: &'static str,
    model: &'a Model,
    runtime: &'a Runtime,
    session: Session,
}

impl<'a> Runner<'a> {
    /// Loads a model with these tensors exposed.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub(super) fn new(
        who: &'static str,
        model: &'a Model,
        tensors: &[String],
        (runtime, options): (&'a Runtime, &SessionOptions),
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let session = Session::new(runtime, model, tensors, options)?;
        if options.device == Device::Auto {
            monitor.note(&format!("running on {}", session.provider()));
        }
        Ok(Self { who, model, runtime, session })
    }

    /// The execution provider in use.
    pub(super) fn provider(&self) -> &str {
        self.session.provider()
    }

    /// Runs the first of `available` samples. A model that runs only one sample at a time, whatever
    /// it declares, gets a batch of one from then on.
    ///
    /// # Errors
    /// If the model does not run.
    pub(super) fn first(
        &mut self,
        feeder: &mut Feeder,
        available: usize,
        tensors: &[String],
        read: impl Fn(&Feeder, usize) -> Result<Bytes>,
    ) -> Result<First> {
        let mut run = |feeder: &Feeder, count: usize| {
            let samples = count.min(available);
            let bytes = read(feeder, samples)?;
            let runs = feeder.runs(&bytes, samples)?;
            let run = runs.first().ok_or_else(|| Error::internal("a first run of no samples"))?;
            let arrays = self.session.run(&run.named(), tensors)?;
            let rows = |array: &Array| Rows::of(array, run.samples, run.batch);
            let values = arrays.iter().map(rows).collect();
            Ok(First { bytes, samples, values })
        };
        // exporters bake a batch of one into reshapes and still declare it open
        let first = if feeder.is_fixed { feeder.batch } else { FIRST.min(feeder.batch) };
        match run(feeder, first) {
            Err(error) if !feeder.is_fixed => {
                feeder.batch = 1;
                run(feeder, 1).map_err(|_: Error| error)
            }
            other => other,
        }
    }

    /// Checks on the first samples that these tensors are functions of one sample, or sets the
    /// batch to one if they are only then; and that ONNX Runtime's optimizations keep their values.
    ///
    /// # Errors
    /// Names the node that mixes samples, or draws random numbers.
    pub(super) fn check(
        &mut self,
        feeder: &mut Feeder,
        first: &First,
        tensors: &[String],
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let count = first.samples.min(independence::SAMPLES);
        let part = |bytes: &Vec<u8>| {
            let row = bytes.len() / first.samples.max(1);
            bytes.get(..row * count).unwrap_or_default().to_vec()
        };
        let bytes: Bytes = first.bytes.iter().map(part).collect();
        let subject = independence::Subject {
            who: self.who,
            runtime: self.runtime,
            model: self.model,
            tensors,
            fixed: feeder.is_declared.then_some(feeder.batch),
            inputs: feeder
                .inputs
                .iter()
                .map(|input| (input.dtype, feeder.preprocess.is_some()))
                .collect(),
            feed: &|bytes, count| feed::named(feeder.how(), bytes, count),
        };
        let session = &mut self.session;
        let alone = independence::check(&subject, session, &bytes, count, feeder.batch)?;
        let batch = if alone.is_some() { 1 } else { feeder.batch };
        soundness::check(&subject, session, &bytes, count, batch, monitor)?;
        if let Some(reason) = alone {
            monitor.note(&reason);
        }
        feeder.batch = batch;
        Ok(())
    }

    /// The values of these tensors over some runs.
    ///
    /// # Errors
    /// If the model does not run, or a tensor has no batch axis or other rows than before.
    pub(super) fn run(&mut self, runs: &[FedRun], tensors: &[String]) -> Result<Vec<Rows>> {
        let mut all: Vec<Rows> = Vec::new();
        for run in runs {
            let arrays = self.session.run(&run.named(), tensors)?;
            for (at, (array, name)) in arrays.iter().zip(tensors).enumerate() {
                let rows = Rows::of(array, run.samples, run.batch).ok_or_else(|| {
                    Error::input(format!(
                        "tensor `{name}`: expected a first axis of {} samples, found shape {:?}",
                        run.batch,
                        array.shape()
                    ))
                })?;
                match all.get_mut(at) {
                    None => all.push(rows),
                    Some(before) if before.row == rows.row => before.values.extend(rows.values),
                    Some(before) => return Err(varies(name, &before.row, &rows.row)),
                }
            }
        }
        Ok(all)
    }
}

/// The error of a tensor whose rows have other shapes for some samples.
pub(super) fn varies(tensor: &str, expected: &[usize], found: &[usize]) -> Error {
    Error::input(format!(
        "tensor `{tensor}`: expected {expected:?} for every sample, found {found:?}"
    ))
}
