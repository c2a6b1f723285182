//! Rows of a view, as stored and as the teacher is fed with them.

use super::estimate::human_bytes;
use super::feed::{self, Input};
use super::inputs::{TeacherInputs, describe_bad};
use super::rows::Rows;
use crate::array::Array;
use crate::cache::Manifest;
use crate::data::augment::{self, Parameter, View, ViewKey, Views};
use crate::data::{Sample, ViewCount, preprocess};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::recipe::{Extract, Inputs};
use std::ops::Range;

/// Inputs of more bytes a row than this are decoded again by whoever trains, unless told otherwise:
/// at 224×224 they would be most of the cache.
const STORED_INPUT_BYTES: usize = 64 << 10;

/// Which rows and views there are, and how they are read.
pub(super) struct RowReader {
    pub(super) source: TeacherInputs,
    pub(super) rows: Rows,
    /// How views are drawn; `None`: images as they are, and arrays.
    pub(super) views: Option<Views>,
    /// The parameters of views that are stored.
    pub(super) parameters: Vec<Parameter>,
    pub(super) view_count: usize,
    pub(super) stores_inputs: bool,
    /// The teacher's batch where it is fixed.
    pub(super) fixed_batch: Option<usize>,
}

/// Consecutive rows of a view.
pub(super) struct RowBatch {
    /// Bytes of the rows of each array that comes from the data: inputs, where they are stored, and
    /// parameters.
    pub(super) stored: Vec<Vec<u8>>,
    /// Each input of the teacher by name, constant ones last; of more samples than there are rows
    /// for a teacher of fixed batch.
    fed: Vec<(String, Array)>,
}

impl RowBatch {
    /// As the arguments of [`Session::run`](crate::runtime::Session::run).
    pub(super) fn feed(&self) -> Vec<(&str, &Array)> {
        self.fed.iter().map(|(name, array)| (name.as_str(), array)).collect()
    }
}

/// The bytes of each input and of each parameter.
type Bytes = (Vec<Vec<u8>>, Vec<Vec<u8>>);

/// The bytes of a row's inputs, and what was done to them.
type Row = (Vec<Vec<u8>>, View);

impl RowReader {
    /// Decides views and whether inputs are stored: as the recipe says, else as the existing cache
    /// has it.
    ///
    /// # Errors
    /// When the recipe's augmentation or views are invalid.
    pub(super) fn new(
        recipe: &Extract,
        source: TeacherInputs,
        rows: Rows,
        fixed_batch: Option<usize>,
        existing: Option<&Manifest>,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let augmentation = recipe.augmentation.clone();
        augmentation.validate()?;
        let size = source.preprocess.as_ref().map_or([0, 0], |p| p.size);
        let views = Views { augmentation, size, seed: recipe.seed, rows: rows.len() };
        let (asked, there) = (views.count(recipe.views)?, existing.map_or(1, |m| m.views));
        if asked < there && recipe.views != ViewCount::Count(1) {
            monitor.note(&format!("the cache has {there} views: they stay"));
        }
        let input_bytes = source.inputs.iter().map(Input::row_bytes).sum::<usize>();
        let fits = || {
            existing.map_or(
                source.preprocess.is_none() || input_bytes <= STORED_INPUT_BYTES,
                Manifest::stores_inputs,
            )
        };
        let stores_inputs = recipe.inputs.map_or_else(fits, |inputs| inputs == Inputs::Stored);
        if !stores_inputs {
            monitor.note(&format!(
                "inputs ({} per row) are not stored: train decodes them from the data again \
                 (--inputs stored keeps them)",
                human_bytes(input_bytes as u64)
            ));
        }
        Ok(Self {
            parameters: Parameter::of(&views.augmentation),
            views: Some(views).filter(|views| !views.augmentation.is_none()),
            view_count: asked.max(there),
            stores_inputs,
            fixed_batch,
            source,
            rows,
        })
    }

    /// Reads rows for one run of the teacher.
    ///
    /// # Errors
    /// Counts and names the samples that cannot be read.
    pub(super) fn read(&self, view: usize, rows: Range<usize>) -> Result<RowBatch> {
        let (inputs, parameters) = self.bytes(view, rows.clone())?;
        let fed_rows = self.fixed_batch.unwrap_or(rows.len());
        let fed = feed::named(self.source.fed(), &inputs, fed_rows)?;
        let stored = if self.stores_inputs { inputs } else { Vec::new() };
        Ok(RowBatch { stored: stored.into_iter().chain(parameters).collect(), fed })
    }

    /// The bytes that rows are made of, whether they are stored or not.
    ///
    /// # Errors
    /// As [`RowReader::read`].
    pub(super) fn bytes(&self, view: usize, rows: Range<usize>) -> Result<Bytes> {
        let mut inputs: Vec<Vec<u8>> = self
            .source
            .inputs
            .iter()
            .map(|input| Vec::with_capacity(rows.len() * input.row_bytes()))
            .collect();
        let mut parameters = vec![Vec::new(); self.parameters.len()];
        let mut bad = Vec::new();
        for row in rows {
            match self.row(view, row) {
                Ok((bytes, view)) => {
                    inputs
                        .iter_mut()
                        .zip(bytes)
                        .for_each(|(all, bytes)| all.extend_from_slice(&bytes));
                    self.parameters
                        .iter()
                        .zip(&mut parameters)
                        .for_each(|(parameter, all)| parameter.write(&view, all));
                }
                Err(wrong) => bad.push(wrong),
            }
        }
        if !bad.is_empty() {
            let hint = if self.mixes() {
                // a partner is drawn among all rows
                "--skip-bad leaves them out, in a cache of its own where views are mixed (another \
                 -o, or remove the folder)"
            } else {
                "repair them, or leave them out with --skip-bad: the same folder is resumed, \
                 what is computed stays"
            };
            return Err(describe_bad(self.source.data(), &bad).hint(hint));
        }
        Ok((inputs, parameters))
    }

    /// Reads a row; an error comes with the sample that it is about.
    pub(super) fn row(&self, view: usize, row: usize) -> Result<Row, (usize, Error)> {
        let sample = self.rows.samples[row];
        let (Some(views), Some(preprocess)) = (&self.views, &self.source.preprocess) else {
            return self
                .source
                .read(sample)
                .map(|bytes| (bytes, View::default()))
                .map_err(|e| (sample, e));
        };
        let seen = |row: usize| {
            let sample = self.rows.samples[row];
            let render = || {
                let Sample::Image(image) = self.source.sample(sample)? else {
                    return Err(Error::input("the data set mixes images and arrays"));
                };
                let drawn = views.draw(
                    ViewKey { sample: sample as u64, row, view: view as u64 },
                    preprocess::seen_size(preprocess, &image),
                );
                let rendered =
                    augment::render(views.augmentation.geometry, preprocess, &image, &drawn)?;
                Ok((rendered, drawn))
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

    /// Whether rows are mixed of several samples.
    pub(super) fn mixes(&self) -> bool {
        self.views.as_ref().is_some_and(|views| views.augmentation.mixes())
    }

    /// The name of a row's sample.
    pub(super) fn sample_name(&self, row: usize) -> String {
        self.rows
            .samples
            .get(row)
            .map_or_else(|| format!("row {row}"), |&sample| self.source.data().name(sample))
    }
}
