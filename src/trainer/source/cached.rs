//! Batches from a cache: reservoirs of decoded chunks, emptied in shuffled order.

use super::super::order::{Epoch, Order};
use super::{Batch, Mixed, Recent, TeacherLogits, maps, position_of, tensor};
use crate::array::Array;
use crate::cache::{ArraySpec, Cache, Decoder, Originals, ViewTable};
use crate::data::augment::Parameter;
use crate::data::{self, Preprocess, Take, preprocess::normalize_nchw};
use crate::error::{Context, Error, Result};
use crate::onnx::BatchNorm;
use crate::statistic::{LOGITS, Statistic, TopPart};
use candle_core::{DType, Device, Tensor};
use std::ops::Range;

/// Target number of rows in a reservoir, and its limit in bytes.
const RESERVOIR_ROWS: usize = 4096;
const RESERVOIR_BYTES: usize = 64 << 20;
/// Reservoirs kept: for each of up to four loading threads the one being emptied, and the next
/// ones.
const RESERVOIRS: usize = 4;

/// A cache as the trainer reads it.
#[derive(Debug)]
pub struct CacheSource<'a> {
    cache: &'a Cache,
    /// Every array that is read: inputs first, then logits, then taps.
    columns: Vec<Column>,
    inputs: usize,
    /// How many arrays hold the logits, 0 if they are not read; an array of their mask follows if
    /// there is one.
    logits: usize,
    is_masked: bool,
    order: Order,
    seed: u64,
    shuffled: bool,
    reservoirs: Recent<(u64, usize), Reservoir>,
    /// The data set that provides inputs that are not stored.
    originals: Option<Originals<'a>>,
    /// Parameters of the most recent views: two views meet at an epoch boundary.
    tables: Recent<usize, ViewTable>,
}

/// One array and the treatment of its rows.
#[derive(Debug)]
struct Column {
    spec: ArraySpec,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Stored bytes of an image, to be normalized.
    Image(Preprocess),
    /// Values as they are.
    Plain,
    /// A map whose axes become `[channels, height, width]` by this permutation (batch axis first).
    Map([usize; 4]),
}

/// Decoded rows.
#[derive(Debug)]
struct Reservoir {
    rows: Vec<usize>,
    /// The order in which they are handed out.
    draws: Vec<usize>,
    /// Row-major bytes of each column.
    columns: Vec<Vec<u8>>,
}

impl<'a> CacheSource<'a> {
    /// Reads the student's `inputs` by name, the logits if requested, and these tap arrays (by
    /// path). `take` counts samples by their indices in the data set. `shuffled`: in a training
    /// run's order, else in row order. Inputs that are not stored come from
    /// [`CacheSource::with_originals`].
    ///
    /// # Errors
    /// When the cache lacks one of them.
    pub fn new(
        cache: &'a Cache,
        inputs: &[String],
        logits: bool,
        taps: &[String],
        take: Take,
        seed: u64,
        shuffled: bool,
    ) -> Result<Self> {
        let mut columns = Vec::new();
        if cache.manifest().stores_inputs() {
            for name in inputs {
                columns.push(input(cache, name, inputs.len())?);
            }
        } else if inputs.len() != 1 {
            return Err(Error::input(format!(
                "student: expected 1 input to feed images to, found {}",
                inputs.len()
            )));
        }
        let stored_inputs = columns.len();
        if logits {
            let is_sparse = cache.manifest().top().is_some();
            let parts = TopPart::ALL.map(TopPart::path);
            for path in if is_sparse { &parts[..] } else { &[LOGITS] } {
                let spec = spec(cache, path).map_err(|e| {
                    e.hint(
                        "KD needs a teacher that is a classifier; extract again with --logits \
                         TENSOR",
                    )
                })?;
                columns.push(Column { spec, kind: Kind::Plain });
            }
        }
        let logits = columns.len() - stored_inputs;
        let masking = if logits > 0 { cache.manifest().logits_mask() } else { None };
        columns.extend(masking.map(|spec| Column { spec: spec.clone(), kind: Kind::Plain }));
        for path in taps {
            let spec = spec(cache, path)?;
            let alias = Statistic::of_path(path).filter(|(_, s)| *s == Statistic::Features);
            let is_map = alias.is_some_and(|(alias, _)| cache.manifest().map(alias).is_some());
            let kind = if is_map { Kind::Map(permutation(&spec)?) } else { Kind::Plain };
            columns.push(Column { spec, kind });
        }
        let manifest = cache.manifest();
        let subset = take
            .limit
            .filter(|&limit| limit < manifest.rows)
            .map(|_| taken_rows(cache.sample_ids(), take));
        // every chunk length divides the segment's, so their least common multiple does too
        let unit = columns
            .iter()
            .map(|c| c.spec.chunk_rows.max(1))
            .fold(1, lcm)
            .min(manifest.segment_rows.max(1));
        let row_bytes: usize = columns.iter().map(|c| c.spec.row_bytes()).sum();
        let rows = RESERVOIR_ROWS.min(RESERVOIR_BYTES / row_bytes.max(1));
        let order = if shuffled {
            Order::shuffled(manifest.rows, subset, unit, rows.div_ceil(unit))
        } else {
            Order::sequential(manifest.rows, subset, unit)
        };
        Ok(Self {
            cache,
            columns,
            inputs: stored_inputs,
            logits,
            is_masked: masking.is_some(),
            order,
            seed,
            shuffled,
            reservoirs: Recent::new(RESERVOIRS),
            originals: None,
            tables: Recent::new(2),
        })
    }

    /// The same rows, with inputs from the data set that the cache was extracted from instead of
    /// stored ones.
    #[must_use]
    pub fn with_originals(mut self, originals: Originals<'a>) -> Self {
        self.columns.drain(..self.inputs);
        self.inputs = 0;
        self.originals = Some(originals);
        self
    }

    /// Rows per epoch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The rows of an epoch, ascending, each with its label.
    pub(super) fn labels(&self) -> Vec<(usize, i64)> {
        self.order
            .rows()
            .map(|row| (row, self.cache.labels().get(row).copied().unwrap_or(-1)))
            .collect()
    }

    pub(super) fn batch_norm(&self, alias: &str) -> Option<&BatchNorm> {
        self.cache.manifest().tap(alias)?.batch_norm.as_ref()
    }

    /// The view that an epoch reads.
    fn view(&self, epoch: u64) -> usize {
        let views = self.cache.manifest().views.max(1) as u64;
        usize::try_from(epoch % views).unwrap_or(0)
    }

    pub(super) fn batch(&self, epoch: u64, positions: Range<usize>) -> Result<Batch> {
        // an unshuffled order is the same in every epoch
        let order = self.order.epoch(self.seed, if self.shuffled { epoch } else { 0 });
        let batch = |c: &Column| {
            Array::zeros(c.spec.dtype, [&[positions.len()], c.spec.row_shape.as_slice()].concat())
        };
        let mut arrays = self.columns.iter().map(batch).collect::<Result<Vec<_>>>()?;
        let mut rows = Vec::with_capacity(positions.len());
        for (index, part) in order.reservoirs(positions) {
            let held = self
                .reservoirs
                .get((epoch, index), || self.reservoir(&order, index, self.view(epoch)))?;
            for &draw in &held.draws[part] {
                for ((array, column), from) in
                    arrays.iter_mut().zip(&self.columns).zip(&held.columns)
                {
                    let row_bytes = column.spec.row_bytes();
                    array.as_bytes_mut()[rows.len() * row_bytes..][..row_bytes]
                        .copy_from_slice(&from[draw * row_bytes..][..row_bytes]);
                }
                rows.push(held.rows[draw]);
            }
        }
        let mut tensors = Vec::with_capacity(arrays.len());
        for (column, array) in self.columns.iter().zip(arrays) {
            tensors.push(
                column.tensor(array).context(|| format!("cache array {}", column.spec.path))?,
            );
        }
        let taps = tensors.split_off(self.inputs + self.logits + usize::from(self.is_masked));
        let mask = if self.is_masked { tensors.pop() } else { None };
        let logits = self.teacher_logits(tensors.split_off(self.inputs));
        if !self.cache.manifest().stores_inputs() || self.originals.is_some() {
            tensors.push(self.decoded(self.view(epoch), &rows)?);
        }
        let labels = rows.iter().map(|&row| self.label(row)).collect::<Result<_>>()?;
        Ok(Batch {
            labels,
            mixed: self.mixed(self.view(epoch), &rows)?,
            rows,
            inputs: tensors,
            logits,
            logits_mask: mask.as_ref().map(not_zero).transpose()?,
            taps,
        })
    }

    /// The logits from the arrays that hold them.
    fn teacher_logits(&self, arrays: Vec<Tensor>) -> Option<TeacherLogits> {
        match (<[Tensor; 3]>::try_from(arrays), self.cache.manifest().top()) {
            (Ok([value, class, rest]), Some(top)) => {
                Some(TeacherLogits::Sparse { value, class, rest, classes: top.classes })
            }
            (Ok(_), None) => None,
            (Err(mut arrays), _) => arrays.pop().map(TeacherLogits::Dense),
        }
    }

    /// Decodes a reservoir's rows.
    fn reservoir(&self, order: &Epoch<'_>, index: usize, view: usize) -> Result<Reservoir> {
        let spans = order.spans(index);
        let rows: Vec<usize> = spans.iter().flat_map(|s| s.rows.iter().copied()).collect();
        let mut decoder = Decoder::default();
        let mut chunk = Vec::new();
        let mut columns = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            let reader = self.cache.array(&column.spec.path)?;
            let row_bytes = column.spec.row_bytes();
            for span in &spans {
                reader.prefetch(view, span.read.start, span.read.len());
            }
            let mut held = vec![0; rows.len() * row_bytes];
            let mut rest = held.as_mut_slice();
            for span in &spans {
                let (out, after) = rest.split_at_mut(span.rows.len() * row_bytes);
                rest = after;
                if span.rows.len() == span.read.len() {
                    reader.read_into(&mut decoder, view, span.read.start, out)?;
                    continue;
                }
                reader.read(&mut decoder, view, span.read.start, span.read.len(), &mut chunk)?;
                for (row, out) in span.rows.iter().zip(out.chunks_exact_mut(row_bytes.max(1))) {
                    out.copy_from_slice(&chunk[(row - span.read.start) * row_bytes..][..row_bytes]);
                }
            }
            columns.push(held);
        }
        let draws = order.draws(index, rows.len());
        Ok(Reservoir { rows, draws, columns })
    }

    fn label(&self, row: usize) -> Result<i64> {
        self.cache
            .labels()
            .get(row)
            .copied()
            .ok_or_else(|| Error::input("cache: fewer labels than rows"))
    }

    /// The input of each row, recomputed from the data set.
    fn decoded(&self, view: usize, rows: &[usize]) -> Result<Tensor> {
        let (Some(originals), Some(preprocess)) =
            (&self.originals, &self.cache.manifest().data.preprocess)
        else {
            return Err(Error::input(
                "cache: expected inputs, found none stored and no data set to decode them from",
            ));
        };
        let table = self.tables.get(view, || originals.table(view))?;
        let bytes =
            rows.iter().map(|&row| originals.input(&table, row)).collect::<Result<Vec<_>>>()?;
        images(preprocess, &bytes.concat())
    }

    /// The partner of each row, if the cache's views are mixed.
    fn mixed(&self, view: usize, rows: &[usize]) -> Result<Option<Mixed>> {
        let Some(augment) =
            self.cache.manifest().augment.as_ref().filter(|augment| augment.mixes())
        else {
            return Ok(None);
        };
        let table =
            self.tables.get(view, || ViewTable::read(self.cache, view, &Parameter::of(augment)))?;
        let mut mixed = Mixed {
            labels: Vec::with_capacity(rows.len()),
            weights: Vec::with_capacity(rows.len()),
        };
        for &row in rows {
            let mix = table
                .view(row)?
                .mix
                .ok_or_else(|| Error::input("cache: expected a partner of each row, found none"))?;
            mixed.labels.push(self.label(mix.partner)?);
            mixed.weights.push(f64::from(mix.weight));
        }
        Ok(Some(mixed))
    }
}

impl Column {
    fn tensor(&self, rows: Array) -> Result<Tensor> {
        match &self.kind {
            Kind::Image(preprocess) => images(preprocess, rows.as_bytes()),
            Kind::Plain => tensor(rows),
            Kind::Map(permutation) => {
                let stored = maps(rows)?;
                if *permutation == [0, 1, 2, 3] {
                    Ok(stored)
                } else {
                    Ok(stored.permute(permutation.as_slice())?.contiguous()?)
                }
            }
        }
    }
}

/// Stored image bytes of a batch as a student's input `[batch, channels, height, width]`.
pub(super) fn images(preprocess: &Preprocess, bytes: &[u8]) -> Result<Tensor> {
    let ([height, width], channels) = (preprocess.size, preprocess.channels.count());
    let values = normalize_nchw(preprocess, bytes)?;
    let rows = values.len() / (channels * height * width).max(1);
    Ok(Tensor::from_vec(values, (rows, channels, height, width), &Device::Cpu)?)
}

/// Whether each value is other than 0.
fn not_zero(mask: &Tensor) -> Result<Vec<bool>> {
    let values: Vec<f64> = mask.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    Ok(values.into_iter().map(|value| value != 0.0).collect())
}

/// The array that feeds a student's input.
fn input(cache: &Cache, name: &str, inputs: usize) -> Result<Column> {
    let manifest = cache.manifest();
    let image = manifest.view_arrays.iter().find(|a| a.path == "input");
    if let (Some(spec), Some(preprocess), 1) = (image, &manifest.data.preprocess, inputs) {
        return Ok(Column { spec: spec.clone(), kind: Kind::Image(preprocess.clone()) });
    }
    let (names, specs): (Vec<String>, Vec<&ArraySpec>) = manifest
        .view_arrays
        .iter()
        .filter_map(|a| a.path.strip_prefix("inputs/").map(|n| (n.to_owned(), a)))
        .unzip();
    let index = position_of(name, &names, inputs)?;
    Ok(Column { spec: specs[index].clone(), kind: Kind::Plain })
}

fn spec(cache: &Cache, path: &str) -> Result<ArraySpec> {
    Ok(cache.array(path)?.spec().clone())
}

/// The permutation that takes stored axes to `[channels, height, width]`, with the batch axis
/// first.
fn permutation(spec: &ArraySpec) -> Result<[usize; 4]> {
    let at = |axis: &str| spec.axes.iter().position(|a| a == axis).map(|i| i + 1);
    match (spec.row_shape.len(), at("c"), at("h"), at("w")) {
        (3, Some(c), Some(h), Some(w)) => Ok([0, c, h, w]),
        _ => Err(Error::input(format!(
            "cache array {}: expected axes c, h, w, found {}",
            spec.path,
            spec.axes.join(", ")
        ))),
    }
}

/// The rows of the selected samples.
fn taken_rows(sample_ids: &[i64], take: Take) -> Vec<usize> {
    let mut by_sample: Vec<usize> = (0..sample_ids.len()).collect();
    by_sample.sort_unstable_by_key(|&row| sample_ids[row]);
    let mut rows = data::take(by_sample, take);
    rows.sort_unstable();
    rows
}

fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_takes_the_first_samples_wherever_they_stand() {
        let ids = [4, 0, 3, 1, 2];
        assert_eq!(taken_rows(&ids, Take { limit: Some(3), shuffle: None }), [1, 3, 4]);
        // the same samples of the data set, shuffled first
        let take = Take { limit: Some(3), shuffle: Some(42) };
        let mut samples: Vec<i64> =
            taken_rows(&ids, take).into_iter().map(|row| ids[row]).collect();
        samples.sort_unstable();
        let mut expected = data::take(vec![0, 1, 2, 3, 4], take);
        expected.sort_unstable();
        assert_eq!(
            samples,
            expected.iter().map(|&i| i64::try_from(i).unwrap()).collect::<Vec<_>>()
        );
    }

    #[test]
    fn units_hold_whole_chunks() {
        assert_eq!(lcm(64, 256), 256);
        assert_eq!(lcm(48, 32), 96);
        assert_eq!(lcm(1, 7), 7);
    }
}
