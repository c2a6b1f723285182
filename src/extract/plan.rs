//! How the cache is laid out: element types and codecs from the first batch, lengths of segments and chunks by size.

use super::Job;
use super::estimate::Estimate;
use super::source::Batch;
use crate::array::{Array, Dtype};
use crate::cache::{ArraySpec, DataRecord, Manifest, Plan, TapRecord, TeacherRecord, probe_codec};
use crate::error::Result;
use crate::recipe::Store;
use crate::runtime::Session;
use crate::statistic::F16_MAX;
use std::time::Instant;

/// Rows of a segment lie between these, the batch and the data set permitting.
const SEGMENT_ROWS: std::ops::RangeInclusive<usize> = 128..=2048;
/// Segments that a small data set is cut into, so that an interruption costs little of it.
const SEGMENTS: usize = 16;
/// A shard stays below this.
const SHARD_BYTES: usize = 256 << 20;
/// Decoded bytes of a chunk: 64–256 KiB compressed at the ratios of real activations.
const CHUNK_BYTES: usize = 384 << 10;

/// The first rows, computed to see what the teacher gives.
pub(super) struct First {
    batch: Batch,
    values: Vec<Array>,
    rows: usize,
    /// Time of the run alone.
    seconds: f64,
}

/// Computes the first rows of the cache.
///
/// # Errors
/// When samples cannot be read or the teacher cannot run on them.
pub(super) fn first_batch(job: &Job<'_>, session: &mut Session) -> Result<First> {
    let samples = &job.rows.samples[..job.batch.min(job.rows.len())];
    let batch = job.source.batch(samples)?;
    let started = Instant::now();
    let values = session.run(&job.source.feed(&batch), &job.tensors)?;
    Ok(First { batch, values, rows: samples.len(), seconds: started.elapsed().as_secs_f64() })
}

/// Lays out the cache and estimates what it takes.
///
/// # Errors
/// When the first batch holds values that cannot be stored.
pub(super) fn make(job: &Job<'_>, teacher: TeacherRecord, first: &First) -> Result<(Plan, Estimate)> {
    let mut arrays = Vec::new();
    let mut estimate = Estimate::new(first.seconds, first.rows);
    for (input, bytes) in job.source.inputs.iter().zip(&first.batch.stored) {
        let (codec, encoded) = probe_codec(bytes)?;
        estimate.add_array(bytes.len(), encoded, bytes.len());
        arrays.push(ArraySpec {
            path: input.path.clone(),
            dtype: input.dtype,
            row_shape: input.row_shape.clone(),
            axes: input.axes.clone(),
            tensor: Some(input.name.clone()),
            codec,
            chunk_rows: 1,
        });
    }
    for (output, values) in job.outputs.iter().zip(&first.values) {
        let dtype = if output.is_logits() { Dtype::F32 } else { stored_type(job.recipe.store, output.range(values)) };
        let bytes = output.encode(values.clone(), dtype, first.rows, |row| sample_name(job, row))?;
        let (codec, encoded) = probe_codec(&bytes)?;
        estimate.add_array(bytes.len(), encoded, bytes.len() / dtype.size() * Dtype::F32.size());
        arrays.push(ArraySpec {
            path: output.path(),
            dtype,
            row_shape: output.shape.clone(),
            axes: output.axes.clone(),
            tensor: Some(output.tensor.clone()),
            codec,
            chunk_rows: 1,
        });
    }
    let largest_row = arrays.iter().map(ArraySpec::row_bytes).max().unwrap_or(1);
    let segment_rows = segment_rows(job.rows.len(), job.batch, largest_row);
    for array in &mut arrays {
        array.chunk_rows = chunk_rows(segment_rows, array.row_bytes());
    }
    estimate.scale_to(job.rows.len());
    Ok((plan(job, teacher, arrays, segment_rows), estimate))
}

/// The name of a row's sample.
pub(super) fn sample_name(job: &Job<'_>, row: usize) -> String {
    job.rows.samples.get(row).map_or_else(|| format!("row {row}"), |&sample| job.source.data.name(sample))
}

fn plan(job: &Job<'_>, teacher: TeacherRecord, view_arrays: Vec<ArraySpec>, segment_rows: usize) -> Plan {
    let (recipe, rows) = (job.recipe, job.rows);
    let taps = job.outputs.iter().filter(|o| !o.is_logits());
    let manifest = Manifest {
        format: Manifest::FORMAT,
        tool: concat!("nst-cache ", env!("CARGO_PKG_VERSION")).to_owned(),
        teacher,
        data: DataRecord {
            spec: recipe.data.to_string(),
            split: recipe.split.clone(),
            fingerprint: job.source.data.fingerprint().clone(),
            classes: rows.classes.clone(),
            preprocess: job.source.preprocess.clone(),
            limit: recipe.limit,
            shuffle: recipe.shuffle,
            skipped: rows.skipped.iter().map(|&sample| sample as u64).collect(),
        },
        taps: taps.map(|o| TapRecord { alias: o.alias.clone(), tensor: o.tensor.clone(), role: o.role, stage: o.stage }).collect(),
        rows: rows.len(),
        views: 1,
        seed: recipe.seed,
        segment_rows,
        row_arrays: ["sample_id", "label"].map(|path| row_array(path, segment_rows)).to_vec(),
        view_arrays,
        segments: Vec::new(),
    };
    // an index of a data set in memory always fits
    let sample_ids = rows.samples.iter().map(|&sample| i64::try_from(sample).unwrap_or(i64::MAX)).collect();
    Plan { manifest, sample_ids, labels: rows.labels.clone() }
}

fn row_array(path: &str, segment_rows: usize) -> ArraySpec {
    ArraySpec {
        path: path.to_owned(),
        dtype: Dtype::I64,
        row_shape: Vec::new(),
        axes: Vec::new(),
        tensor: None,
        codec: crate::cache::Codec::Zstd,
        chunk_rows: segment_rows,
    }
}

/// f32 where the first batch comes within a factor of two of the end of f16.
fn stored_type(store: Store, range: f32) -> Dtype {
    match store {
        Store::F32 => Dtype::F32,
        Store::Auto if range > F16_MAX / 2.0 => Dtype::F32,
        Store::F16 | Store::Auto => Dtype::F16,
    }
}

/// Rows of a segment: a multiple of the batch, so that no inference spans two.
fn segment_rows(rows: usize, batch: usize, largest_row_bytes: usize) -> usize {
    let fitting = SHARD_BYTES / largest_row_bytes.max(1);
    let wanted = (rows / SEGMENTS).clamp(*SEGMENT_ROWS.start(), *SEGMENT_ROWS.end()).min(fitting);
    // no longer than the data set itself needs
    let batches = (wanted / batch).min(rows.div_ceil(batch)).max(1);
    batches * batch
}

/// Rows of a chunk: the largest divisor of the segment that stays below the wanted size.
fn chunk_rows(segment_rows: usize, row_bytes: usize) -> usize {
    let wanted = (CHUNK_BYTES / row_bytes.max(1)).clamp(1, segment_rows);
    (1..=wanted).rev().find(|rows| segment_rows % rows == 0).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_multiples_of_the_batch_within_bounds() {
        for (rows, batch, row_bytes) in [(50_000, 64, 57_344), (100, 64, 10), (1, 1, 1), (1_281_167, 48, 401_408), (12_000, 100, 9_000_000)] {
            let length = segment_rows(rows, batch, row_bytes);
            assert_eq!(length % batch, 0);
            assert!(length <= 2048 && (length == batch || length * row_bytes <= SHARD_BYTES), "{rows} {batch} {row_bytes}: {length}");
        }
        assert_eq!(segment_rows(12_000, 64, 1000), 704);
        assert_eq!(segment_rows(100, 64, 1000), 128);
    }

    #[test]
    fn chunks_divide_their_segment() {
        assert_eq!(chunk_rows(704, 100), 704);
        assert_eq!(chunk_rows(2048, 32_768), 8);
        assert_eq!(chunk_rows(97, 32_768), 1);
        assert_eq!(chunk_rows(128, 10 << 20), 1);
    }

    #[test]
    fn a_wide_range_is_stored_as_f32() {
        assert_eq!(stored_type(Store::Auto, 18_718.0), Dtype::F16);
        assert_eq!(stored_type(Store::Auto, 40_000.0), Dtype::F32);
        assert_eq!(stored_type(Store::F16, 40_000.0), Dtype::F16);
        assert_eq!(stored_type(Store::F32, 1.0), Dtype::F32);
    }
}
