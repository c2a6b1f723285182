//! Consecutive rows of a view, as stored and as fed.

use super::Job;
use super::feed;
use super::source::describe_bad;
use crate::array::Array;
use crate::data::augment::{self, View, ViewKey};
use crate::data::{Sample, preprocess};
use crate::error::{Error, Result};
use std::ops::Range;

/// Consecutive rows of a view.
pub(super) struct Batch {
    /// Bytes of the rows of each array that comes from the data: inputs, where they are stored, and
    /// parameters.
    pub(super) stored: Vec<Vec<u8>>,
    /// Each input of the model as it takes it, those that are constant last; of more samples than
    /// the rows for a model of fixed batch.
    fed: Vec<Array>,
}

impl Batch {
    /// As the arguments of [`Session::run`](crate::runtime::Session::run).
    pub(super) fn feed<'b>(&'b self, job: &'b Job<'_>) -> Vec<(&'b str, &'b Array)> {
        let names = job.source.inputs.iter().map(|input| input.name.as_str());
        names
            .chain(job.source.constants.iter().map(|constant| constant.tensor.as_str()))
            .zip(&self.fed)
            .collect()
    }
}

/// Reads rows for one run of the model.
///
/// # Errors
/// Counts and names the samples that cannot be read.
pub(super) fn read(job: &Job<'_>, view: usize, rows: Range<usize>) -> Result<Batch> {
    let source = job.source;
    let (inputs, parameters) = stored(job, view, rows.clone())?;
    let fed_rows = source.fixed_batch.unwrap_or(rows.len());
    let fed =
        feed::named(source.fed(), &inputs, fed_rows)?.into_iter().map(|(_, array)| array).collect();
    let stored = if job.stores_inputs { inputs } else { Vec::new() };
    Ok(Batch { stored: stored.into_iter().chain(parameters).collect(), fed })
}

/// The bytes of each input and of each parameter.
type Bytes = (Vec<Vec<u8>>, Vec<Vec<u8>>);

/// What rows are made of.
///
/// # Errors
/// As [`read`].
pub(super) fn stored(job: &Job<'_>, view: usize, rows: Range<usize>) -> Result<Bytes> {
    let source = job.source;
    let mut inputs: Vec<Vec<u8>> = source
        .inputs
        .iter()
        .map(|input| Vec::with_capacity(rows.len() * input.row_bytes()))
        .collect();
    let mut parameters = vec![Vec::new(); job.parameters.len()];
    let mut bad = Vec::new();
    for row in rows {
        match read_row(job, view, row) {
            Ok((bytes, view)) => {
                inputs.iter_mut().zip(bytes).for_each(|(all, bytes)| all.extend_from_slice(&bytes));
                job.parameters
                    .iter()
                    .zip(&mut parameters)
                    .for_each(|(parameter, all)| parameter.write(&view, all));
            }
            Err(wrong) => bad.push(wrong),
        }
    }
    if !bad.is_empty() {
        let mixes = job.views.as_ref().is_some_and(|views| views.augmentation.mixes());
        let hint = if mixes {
            // a partner is drawn among all rows
            "--skip-bad leaves them out, in a cache of its own where views are mixed (another -o, \
             or remove the folder)"
        } else {
            "mend them, or leave them out with --skip-bad: the same folder is gone on with, what \
             is computed stays"
        };
        return Err(describe_bad(source.data, &bad).hint(hint));
    }
    Ok((inputs, parameters))
}

/// The bytes of a row's inputs, and what was done to them.
pub(super) type Row = (Vec<Vec<u8>>, View);

/// Reads a row; an error comes with the sample that it is about.
pub(super) fn read_row(job: &Job<'_>, view: usize, row: usize) -> Result<Row, (usize, Error)> {
    let sample = job.rows.samples[row];
    let (Some(views), Some(preprocess)) = (&job.views, &job.source.preprocess) else {
        return job
            .source
            .read(sample)
            .map(|bytes| (bytes, View::default()))
            .map_err(|e| (sample, e));
    };
    let seen = |row: usize| {
        let sample = job.rows.samples[row];
        let render = || {
            let Sample::Image(image) = job.source.sample(sample)? else {
                return Err(Error::input("the data set mixes images and arrays"));
            };
            let drawn = views.draw(
                ViewKey { sample: sample as u64, row, view: view as u64 },
                preprocess::seen_size(preprocess, &image),
            );
            Ok((augment::render(views.augmentation.geometry, preprocess, &image, &drawn)?, drawn))
        };
        render().map_err(|e| (sample, e))
    };
    let (mut own, drawn) = seen(row)?;
    if let Some(mix) = &drawn.mix {
        let (other, _) = seen(mix.partner)?;
        augment::mix(preprocess, &mut own, &other, mix).map_err(|e| (sample, e))?;
    }
    Ok((vec![own], drawn))
}
