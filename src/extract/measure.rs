//! What forms of a tap take on disk, measured on the first rows, which stand for all: rows are in
//! random order.

use super::output::{Encoded, Output};
use super::plan::sample_name;
use super::{Job, batch, ways};
use crate::array::{Array, Dtype, Values};
use crate::cache::{chunk_rows, compressed_bytes};
use crate::error::Result;
use crate::monitor::{Monitor, Silent};
use crate::recipe::{Compress, Extract, Keep, Store};
use crate::runtime::{Runtime, Session, SessionOptions};
use crate::statistic::Statistic;
use serde::Serialize;
use std::collections::BTreeMap;

/// Rows that are measured.
const ROWS: usize = 256;
/// Bytes of a form after which fewer rows will do.
const BYTES: usize = 256 << 20;
/// Bytes of a form that are computed at once; a row that is larger is not, but counts as it is.
const GROUP_BYTES: usize = 64 << 20;

/// What each form of a teacher's taps would take.
#[derive(Debug, Clone, Serialize)]
pub struct Sizes {
    /// Rows that were measured (fewer of a form where 256 MiB of it are less).
    pub rows: usize,
    /// Each tap.
    pub taps: Vec<TapSizes>,
}

/// What each form of a tap would take.
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
    /// What would be kept for the criteria that the recipe names, if it names some.
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
    super::prepare(&all, None, runtime, options, monitor, |job, _, mut session, _| {
        let taps: Vec<Output> = job.outputs.iter().filter(|o| !o.is_logits).cloned().collect();
        let bytes = bytes_per_row(job, &mut session, &taps)?;
        let mut sizes = Sizes { rows: ROWS.min(job.rows.len()), taps: Vec::new() };
        for (tap, bytes) in taps.iter().zip(bytes) {
            if sizes.taps.last().is_none_or(|last| last.tap != tap.alias) {
                sizes.taps.push(TapSizes {
                    tap: tap.alias.clone(),
                    tensor: tap.tensor.clone(),
                    shape: tap.shape.clone(),
                    raw: 4 * tap.shape.iter().product::<usize>() as u64,
                    bytes: BTreeMap::new(),
                    kept: None,
                });
            }
            if let Some(last) = sizes.taps.last_mut() {
                last.bytes.insert(tap.statistic, bytes);
            }
        }
        if !recipe.criteria.is_empty() {
            for (sizes, tap) in sizes
                .taps
                .iter_mut()
                .zip(taps.iter().filter(|tap| tap.statistic == Statistic::Features))
            {
                let ways = if tap.map().is_some() {
                    ways::ways(recipe, tap, false, &[])
                } else {
                    vec![vec![Statistic::Features]]
                };
                let total = |way: &Vec<Statistic>| {
                    way.iter().filter_map(|s| sizes.bytes.get(s)).sum::<f64>()
                };
                sizes.kept = Some(
                    ways.into_iter()
                        .min_by(|a, b| total(a).total_cmp(&total(b)))
                        .unwrap_or_default(),
                );
            }
        }
        Ok(sizes)
    })
}

/// Bytes a row of each of these outputs, in chunks as they are stored; the job fetches their
/// tensors.
///
/// # Errors
/// When the rows cannot be read, computed or stored.
pub(super) fn bytes_per_row(
    job: &Job<'_>,
    session: &mut Session,
    outputs: &[Output],
) -> Result<Vec<f64>> {
    let mut meters = outputs.iter().map(Meter::new).collect::<Result<Vec<_>>>()?;
    let rows = ROWS.min(job.rows.len());
    for first in (0..rows).step_by(job.batch) {
        let end = (first + job.batch).min(rows);
        let batch = batch::read(job, 0, first..end)?;
        let values = session.run(&batch.feed(job), &job.tensors)?;
        for meter in &mut meters {
            meter.add(job, first, end - first, job.values(meter.output, &values)?)?;
        }
    }
    Ok(meters.into_iter().map(|meter| meter.bytes_per_row(job.recipe.compress)).collect())
}

/// What an output came to so far.
struct Meter<'a> {
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
    fn new(output: &'a Output) -> Result<Self> {
        let width = output.row()?.0.iter().product();
        Ok(Self { output, width, dtype: None, chunk: Vec::new(), rows: 0, raw: 0, compressed: 0 })
    }

    /// Takes in the rows of a batch that begins at row `first`.
    fn add(&mut self, job: &Job<'_>, first: usize, rows: usize, values: &Array) -> Result<()> {
        let dtype = match self.dtype {
            Some(dtype) => dtype,
            // said where the cache is laid out
            None => self.output.dtype(job.recipe.store, values, rows, &Silent)?,
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
            let name = |row: usize| sample_name(job, first + start + row);
            let part = if count == rows { None } else { Some(rows_of(values, start, count)?) };
            let part = part.as_ref().unwrap_or(values);
            let bytes = match self.output.try_encode(part, dtype, count, name)? {
                Encoded::Bytes(bytes, _) => bytes,
                Encoded::BeyondF16(error) if job.recipe.store != Store::Auto => return Err(error),
                // as it is stored then: the rows before it count as they were
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
            // as the cache decides: what is hardly smaller is stored as it is
            Compress::Auto if self.compressed * 10 > self.raw * 9 => self.raw,
            Compress::Auto | Compress::Zstd => self.compressed,
        };
        bytes as f64 / self.rows.max(1) as f64
    }
}

/// Some rows of an array of floats.
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
