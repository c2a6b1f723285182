//! Batches from a data set: supervised training without a teacher, and evaluation.

use super::super::order::Order;
use super::cached::images;
use super::{Batch, Recent, position_of, tensor};
use crate::array::Array;
use crate::data::{self, Augment, Dataset, Preprocess, Sample, Take, augment};
use crate::error::{Context, Error, Result};
use candle_core::Tensor;
use std::ops::Range;

/// A data set as the trainer reads it.
pub struct DataSource<'a> {
    dataset: &'a dyn Dataset,
    preprocess: Option<Preprocess>,
    augment: Augment,
    inputs: Vec<String>,
    seed: u64,
    rows: usize,
    /// The order of the most recently requested epochs: only this index list grows with the data
    /// set.
    orders: Recent<u64, Vec<usize>>,
    order: Option<Order>,
}

impl std::fmt::Debug for DataSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataSource")
            .field("rows", &self.rows)
            .field("augment", &self.augment)
            .finish_non_exhaustive()
    }
}

impl<'a> DataSource<'a> {
    /// Augmented samples in a new order each epoch, for training.
    #[must_use]
    pub fn training(
        dataset: &'a dyn Dataset,
        preprocess: Option<Preprocess>,
        augment: Augment,
        inputs: Vec<String>,
        take: Take,
        seed: u64,
    ) -> Self {
        let rows = take.limit.unwrap_or(usize::MAX).min(dataset.len());
        let subset = take.shuffle.filter(|_| rows < dataset.len()).map(|_| {
            let mut chosen = data::take((0..dataset.len()).collect(), take);
            chosen.sort_unstable();
            chosen
        });
        let order = Some(Order::shuffled(rows, subset, 1, rows.max(1)));
        Self { dataset, preprocess, augment, inputs, seed, rows, orders: Recent::new(2), order }
    }

    /// Unaugmented samples in fixed order, for evaluation.
    #[must_use]
    pub fn evaluation(
        dataset: &'a dyn Dataset,
        preprocess: Option<Preprocess>,
        inputs: Vec<String>,
    ) -> Self {
        Self {
            dataset,
            preprocess,
            augment: Augment::None,
            inputs,
            seed: 0,
            rows: dataset.len(),
            orders: Recent::new(1),
            order: None,
        }
    }

    /// Samples per epoch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no samples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The samples of an epoch, ascending, each with its label.
    pub(super) fn labels(&self) -> Vec<(usize, i64)> {
        let rows: Vec<usize> = self
            .order
            .as_ref()
            .map_or_else(|| (0..self.rows).collect(), |order| order.rows().collect());
        rows.into_iter().map(|row| (row, self.dataset.label(row))).collect()
    }

    pub(super) fn batch(&self, epoch: u64, positions: Range<usize>) -> Result<Batch> {
        let samples = self.samples(epoch, positions)?;
        let labels = samples.iter().map(|&i| self.dataset.label(i)).collect();
        let inputs = match &self.preprocess {
            Some(preprocess) => vec![self.images(preprocess, epoch, &samples)?],
            None => self.arrays(&samples)?,
        };
        Ok(Batch {
            rows: samples,
            labels,
            mixed: None,
            inputs,
            logits: None,
            logits_mask: None,
            taps: Vec::new(),
        })
    }

    fn samples(&self, epoch: u64, positions: Range<usize>) -> Result<Vec<usize>> {
        let Some(order) = &self.order else { return Ok(positions.collect()) };
        let whole = self.orders.get(epoch, || {
            let epoch = order.epoch(self.seed, epoch);
            let mut rows = Vec::with_capacity(self.rows);
            for (reservoir, _) in epoch.reservoirs(0..self.rows) {
                let held: Vec<usize> =
                    epoch.spans(reservoir).into_iter().flat_map(|s| s.rows).collect();
                rows.extend(epoch.draws(reservoir, held.len()).into_iter().map(|draw| held[draw]));
            }
            Ok(rows)
        })?;
        whole
            .get(positions)
            .map(<[usize]>::to_vec)
            .ok_or_else(|| Error::input("data: position past the end"))
    }

    fn images(&self, preprocess: &Preprocess, epoch: u64, samples: &[usize]) -> Result<Tensor> {
        let mut bytes = Vec::new();
        for &index in samples {
            let name = || self.dataset.name(index);
            let Sample::Image(image) = self.dataset.sample(index)? else {
                return Err(Error::input(format!("{}: expected an image, found arrays", name())));
            };
            let view = augment::draw(
                self.augment,
                preprocess,
                data::preprocess::seen_size(preprocess, &image),
                self.seed,
                index as u64,
                epoch,
            );
            bytes.extend_from_slice(
                &augment::render(self.augment, preprocess, &image, &view).context(name)?,
            );
        }
        images(preprocess, &bytes)
    }

    fn arrays(&self, samples: &[usize]) -> Result<Vec<Tensor>> {
        let mut columns: Vec<Option<Array>> = vec![None; self.inputs.len()];
        for (row, &index) in samples.iter().enumerate() {
            let Sample::Arrays(arrays) = self.dataset.sample(index)? else {
                return Err(Error::input(format!(
                    "{}: expected arrays, found an image",
                    self.dataset.name(index)
                )));
            };
            let names: Vec<String> = arrays.iter().map(|(name, _)| name.clone()).collect();
            for (column, name) in columns.iter_mut().zip(&self.inputs) {
                let array = &arrays[position_of(name, &names, self.inputs.len())?].1;
                let rows = match column {
                    Some(rows) => rows,
                    None => column.insert(Array::zeros(
                        array.dtype(),
                        [&[samples.len()], array.shape()].concat(),
                    )?),
                };
                let (dtype, shape) = (rows.dtype(), &rows.shape()[1..]);
                if (array.shape(), array.dtype()) != (shape, dtype) {
                    return Err(Error::input(format!(
                        "{}: input {name}: expected {dtype:?} {shape:?}, found {:?} {:?}",
                        self.dataset.name(index),
                        array.dtype(),
                        array.shape()
                    )));
                }
                let bytes = array.as_bytes();
                rows.as_bytes_mut()[row * bytes.len()..][..bytes.len()].copy_from_slice(bytes);
            }
        }
        columns.into_iter().flatten().map(tensor).collect()
    }
}
