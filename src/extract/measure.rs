//! What forms of a tap take on disk, measured on the first rows; rows are in random order, so that
//! these represent all.

use super::encode::Encoded;
use super::output::Output;
use super::prepare::{Prepared, prepare};
use super::reader::RowReader;
use super::{choice, ways};
use crate::array::{Array, Dtype, Values};
use crate::cache::{chunk_rows, compressed_bytes};
use crate::error::Result;
use crate::monitor::{Monitor, Silent};
use crate::recipe::{Compress, Extract, Keep, LogitsKeep, Store};
use crate::runtime::{Runtime, Session, SessionOptions};
use crate::statistic::Statistic;
use serde::Serialize;
use std::collections::BTreeMap;

/// Rows that are measured.
const ROWS: usize = 256;
/// The numbers of classes for which sparse logits are measured.
const TOP: [usize; 4] = [5, 10, 16, 50];
/// Bytes of a form after which no more rows are measured.
const BYTES: usize = 256 << 20;
/// Bytes of a form that are computed at once; a larger row is not computed, and counts as raw.
const GROUP_BYTES: usize = 64 << 20;

/// What each form of a teacher's taps takes on disk.
#[derive(Debug, Clone, Serialize)]
pub struct Sizes {
    /// Rows that were measured (of a form that reaches 256 MiB earlier, fewer).
    pub rows: usize,
    /// The taps, in the order of the outputs.
    pub taps: Vec<TapSizes>,
    /// The class logits, if there are more than 50 classes or `--logits-keep` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logits: Option<LogitsSizes>,
}

/// What each form of the class logits takes on disk.
#[derive(Debug, Clone, Serialize)]
pub struct LogitsSizes {
    /// The ONNX tensor.
    pub tensor: String,
    /// Shape of a sample's logits.
    pub shape: Vec<usize>,
    /// Each form with its bytes a sample: all classes in f32, as they are stored, and in f16, to
    /// compare with; then those of `--logits-keep topk:K`.
    pub bytes: Vec<(String, f64)>,
}

/// What each form of a tap takes on disk.
#[derive(Debug, Clone, Serialize)]
pub struct TapSizes {
    /// Its name in a cache.
    pub tap: String,
    /// The ONNX tensor.
    pub tensor: String,
    /// Shape of a sample's features.
    pub shape: Vec<usize>,
    /// Bytes a sample of the features as they are, in f32.
    pub raw: u64,
    /// Bytes a sample of each form, as stored.
    pub bytes: BTreeMap<Statistic, f64>,
    /// The statistics that an extraction keeps for the recipe's criteria, if it names any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Vec<Statistic>>,
}

/// Measures every form of the recipe's taps, by default the suggested ones; writes nothing.
///
/// # Errors
/// As [`super::run`].
pub fn sizes(
    recipe: &Extract,
    runtime: &Runtime,
    options: &SessionOptions,
    monitor: &dyn Monitor,
) -> Result<Sizes> {
    let all = Extract { keep: Keep::These(Statistic::ALL.to_vec()), ..recipe.clone() };
    let (prepared, mut session) = prepare(&all, None, runtime, options, monitor)?;
    let taps: Vec<&Output> =
        prepared.candidates.all.iter().filter(|output| output.tap().is_some()).collect();
    let bytes = bytes_per_row(&prepared, &mut session, &taps)?;
    let mut sizes: Vec<TapSizes> = Vec::new();
    for (output, bytes) in taps.into_iter().zip(bytes) {
        let alias = output.alias().unwrap_or_default();
        if sizes.last().is_none_or(|last| last.tap != alias) {
            sizes.push(TapSizes {
                tap: alias.to_owned(),
                tensor: output.tensor.clone(),
                shape: output.shape.clone(),
                raw: 4 * output.shape.iter().product::<usize>() as u64,
                bytes: BTreeMap::new(),
                kept: None,
            });
        }
        if let Some(last) = sizes.last_mut() {
            last.bytes.insert(output.statistic(), bytes);
        }
    }
    if !recipe.criteria.is_empty() {
        let features = |o: &&Output| o.tap().is_some() && o.statistic() == Statistic::Features;
        let taps = prepared.candidates.all.iter().filter(features);
        for (sizes, tap) in sizes.iter_mut().zip(taps) {
            sizes.kept = Some(smallest(recipe, tap, &sizes.bytes));
        }
    }
    let logits = logits_sizes(&prepared, &mut session)?;
    Ok(Sizes { rows: ROWS.min(prepared.reader.rows.len()), taps: sizes, logits })
}

/// Measures the forms of the class logits.
fn logits_sizes(prepared: &Prepared<'_>, session: &mut Session) -> Result<Option<LogitsSizes>> {
    let asked = match prepared.recipe.logits_keep {
        Some(LogitsKeep::Top(k)) => Some(k),
        _ => None,
    };
    let Some(found) = prepared.candidates.logits() else { return Ok(None) };
    let (tensor, shape) = (&found.tensor, &found.shape);
    let conversion = found.kept_logits().and_then(|logits| logits.conversion);
    let classes = shape.last().copied().unwrap_or(0);
    if classes <= TOP[TOP.len() - 1] && asked.is_none() {
        return Ok(None);
    }
    let form = |keep| choice::logits_arrays(tensor, shape, conversion, keep);
    let dense = |dtype: Dtype| (dtype.name().to_owned(), form(LogitsKeep::All), Some(dtype));
    let mut forms = vec![dense(Dtype::F32), dense(Dtype::F16)];
    if !choice::are_independent(&prepared.model, tensor, conversion) {
        let mut counts: Vec<usize> = TOP.into_iter().chain(asked).collect();
        counts.sort_unstable();
        counts.dedup();
        let counts = counts.into_iter().filter(|&k| k <= classes).map(LogitsKeep::Top);
        forms.extend(counts.map(|keep| (keep.to_string(), form(keep), None)));
    }
    let arrays: Vec<(&Output, Option<Dtype>)> = forms
        .iter()
        .flat_map(|(_, arrays, dtype)| arrays.iter().map(|array| (array, *dtype)))
        .collect();
    let mut measured = measure(prepared, session, &arrays)?.into_iter();
    let bytes = forms
        .iter()
        .map(|(name, arrays, _)| (name.clone(), measured.by_ref().take(arrays.len()).sum()))
        .collect();
    Ok(Some(LogitsSizes { tensor: tensor.clone(), shape: shape.clone(), bytes }))
}

/// The form of a tap that takes the fewest bytes of those that serve the recipe's criteria.
fn smallest(recipe: &Extract, tap: &Output, bytes: &BTreeMap<Statistic, f64>) -> Vec<Statistic> {
    if tap.map().is_none() {
        return vec![Statistic::Features];
    }
    let total = |way: &Vec<Statistic>| way.iter().filter_map(|s| bytes.get(s)).sum::<f64>();
    let ways = ways::ways(recipe, tap, false, &[]);
    ways.into_iter().min_by(|a, b| total(a).total_cmp(&total(b))).unwrap_or_default()
}

/// Bytes a row of each of these candidates, in chunks as they are stored.
///
/// # Errors
/// When the rows cannot be read, computed or stored.
pub(super) fn bytes_per_row(
    prepared: &Prepared<'_>,
    session: &mut Session,
    outputs: &[&Output],
) -> Result<Vec<f64>> {
    let outputs: Vec<_> = outputs.iter().map(|&output| (output, None)).collect();
    measure(prepared, session, &outputs)
}

/// The same, with the element types of some given.
fn measure(
    prepared: &Prepared<'_>,
    session: &mut Session,
    outputs: &[(&Output, Option<Dtype>)],
) -> Result<Vec<f64>> {
    let Prepared { recipe, reader, candidates, batch, .. } = prepared;
    let mut meters = outputs
        .iter()
        .map(|&(output, dtype)| Ok(Meter { dtype, ..Meter::new(output, reader, recipe.store)? }))
        .collect::<Result<Vec<_>>>()?;
    let rows = ROWS.min(reader.rows.len());
    for first in (0..rows).step_by(*batch) {
        let end = (first + batch).min(rows);
        let batch = reader.read(0, first..end)?;
        let values = session.run(&batch.feed(), &candidates.tensors)?;
        for meter in &mut meters {
            meter.add(first, end - first, candidates.values(meter.output, &values)?)?;
        }
    }
    Ok(meters.into_iter().map(|meter| meter.bytes_per_row(recipe.compress)).collect())
}

/// Bytes of an output's rows so far.
struct Meter<'a> {
    reader: &'a RowReader,
    store: Store,
    output: &'a Output,
    /// Elements of a stored row.
    width: usize,
    /// Decided by the first batch.
    dtype: Option<Dtype>,
    chunk: Vec<u8>,
    rows: usize,
    raw: usize,
    compressed: usize,
}

impl<'a> Meter<'a> {
    fn new(output: &'a Output, reader: &'a RowReader, store: Store) -> Result<Self> {
        Ok(Self {
            reader,
            store,
            output,
            width: output.row()?.0.iter().product(),
            dtype: None,
            chunk: Vec::new(),
            rows: 0,
            raw: 0,
            compressed: 0,
        })
    }

    /// Adds the rows of a batch that begins at row `first`.
    fn add(&mut self, first: usize, rows: usize, values: &Array) -> Result<()> {
        let dtype = match self.dtype {
            Some(dtype) => dtype,
            // reported when the cache is laid out
            None => self.output.dtype(self.store, values, rows, &Silent)?,
        };
        self.dtype = Some(dtype);
        let row_bytes = self.width * dtype.size();
        if row_bytes > GROUP_BYTES {
            (self.rows, self.raw, self.compressed) = (1, row_bytes, row_bytes);
            return Ok(());
        }
        let group = (GROUP_BYTES / row_bytes.max(1)).max(1);
        let chunk_bytes = row_bytes * chunk_rows(row_bytes, ROWS);
        for start in (0..rows).step_by(group) {
            if self.raw >= BYTES {
                return Ok(());
            }
            let count = group.min(rows - start);
            let name = |row: usize| self.reader.sample_name(first + start + row);
            let part = if count == rows { None } else { Some(rows_of(values, start, count)?) };
            let part = part.as_ref().unwrap_or(values);
            let bytes = match self.output.try_encode(part, dtype, count, name)? {
                Encoded::Bytes(bytes, _) => bytes,
                Encoded::BeyondF16(error) if self.store != Store::Auto => return Err(error),
                // stored as f32 from here on: the rows before count as they were
                Encoded::BeyondF16(_) => {
                    self.dtype = Some(Dtype::F32);
                    self.output.encode(part, Dtype::F32, count, name)?
                }
            };
            (self.rows, self.raw) = (self.rows + count, self.raw + bytes.len());
            for bytes in bytes.chunks(row_bytes.max(1)) {
                self.chunk.extend_from_slice(bytes);
                if self.chunk.len() >= chunk_bytes {
                    self.flush();
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        if !self.chunk.is_empty() {
            self.compressed += compressed_bytes(&self.chunk);
            self.chunk.clear();
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "bytes for people")]
    fn bytes_per_row(mut self, compress: Compress) -> f64 {
        self.flush();
        let bytes = match compress {
            Compress::None => self.raw,
            // the cache stores raw what compression hardly makes smaller
            Compress::Auto if self.compressed * 10 > self.raw * 9 => self.raw,
            Compress::Auto | Compress::Zstd => self.compressed,
        };
        bytes as f64 / self.rows.max(1) as f64
    }
}

/// `count` rows of an array of floats, from row `first`.
fn rows_of(values: &Array, first: usize, count: usize) -> Result<Array> {
    let row = values.len() / values.shape().first().copied().unwrap_or(1).max(1);
    let shape = [&[count], values.shape().get(1..).unwrap_or_default()].concat();
    let part = match values.as_f32() {
        Some(floats) => floats.get(first * row..(first + count) * row).unwrap_or_default().to_vec(),
        None => {
            values.to_f32().get(first * row..(first + count) * row).unwrap_or_default().to_vec()
        }
    };
    Array::new(shape, Values::F32(part))
}
