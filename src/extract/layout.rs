//! How the cache is laid out: element types and codecs from the first batch, lengths of segments
//! and chunks by size.

use super::Job;
use super::batch::{self, Batch};
use super::estimate::Estimate;
use super::output::{Encoded, Output};
use crate::array::{Array, Dtype};
use crate::cache::{
    self, ArraySpec, Codec, DataRecord, LogitsRecord, Manifest, Plan, TapRecord, TeacherRecord,
    chunk_rows, compressed_bytes, probe_codec,
};
use crate::data::hashed_names;
use crate::error::Result;
use crate::monitor::Monitor;
use crate::onnx::{BatchNorm, Model};
use crate::recipe::{Compress, Store};
use crate::runtime::Session;
use crate::statistic::Statistic;
use std::time::Instant;

/// Segments that a small data set is cut into, so that an interruption costs little of it.
const SEGMENTS: usize = 16;
/// Fewer rows than these are not worth a segment of their own.
const SEGMENT_ROWS_MIN: usize = 128;

/// The first rows, computed to see what the teacher gives.
pub(super) struct First {
    batch: Batch,
    pub(super) values: Vec<Array>,
    pub(super) rows: usize,
    /// Time of the run alone.
    seconds: f64,
}

/// Computes the first rows of the cache.
///
/// # Errors
/// When samples cannot be read or the teacher cannot run on them.
pub(super) fn first_batch(job: &Job<'_>, session: &mut Session) -> Result<First> {
    let rows = job.batch.min(job.rows.len());
    let batch = batch::read(job, 0, 0..rows)?;
    let started = Instant::now();
    let values = session.run(&batch.feed(job), &job.tensors)?;
    Ok(First { batch, values, rows, seconds: started.elapsed().as_secs_f64() })
}

/// Lays out the cache and estimates what it takes.
///
/// # Errors
/// When the first batch holds values that cannot be stored.
pub(super) fn make(
    job: &Job<'_>,
    model: &Model,
    teacher: TeacherRecord,
    first: &First,
    monitor: &dyn Monitor,
) -> Result<(Plan, Estimate)> {
    let mut arrays = Vec::new();
    let mut estimate = Estimate::new(first.seconds, first.rows);
    for (mut spec, bytes) in from_data(job).into_iter().zip(&first.batch.stored) {
        // the first rows may be others than when the cache was begun
        let there = job
            .existing
            .and_then(|manifest| manifest.view_arrays.iter().find(|there| there.path == spec.path));
        spec.codec = match there {
            Some(there) if job.recipe.compress == Compress::Auto => there.codec,
            _ => codec(job.recipe.compress, bytes),
        };
        estimate.add_array(encoded_bytes(spec.codec, bytes), bytes.len());
        arrays.push(spec);
    }
    for (index, output) in job.outputs.iter().enumerate() {
        let values = job.values(output, &first.values)?;
        let path = output.path();
        let there = job
            .existing
            .and_then(|manifest| manifest.view_arrays.iter().find(|spec| spec.path == path));
        // what is added to a cache leaves the other arrays as they are, unless something else is
        // asked for
        let dtype = match there {
            Some(spec) if job.recipe.store == Store::Auto => spec.dtype,
            _ => output.dtype(job.recipe.store, values, first.rows, monitor)?,
        };
        let name = |row| sample_name(job, row);
        let bytes = match output.try_encode(values, dtype, first.rows, name)? {
            Encoded::Bytes(bytes, _) => bytes,
            // found again, and the tap widened, where its rows are computed
            Encoded::BeyondF16(_) if there.is_some() && job.recipe.store == Store::Auto => {
                output.encode(values, Dtype::F32, first.rows, name)?
            }
            Encoded::BeyondF16(error) => return Err(error),
        };
        let codec = match there {
            Some(spec) if job.recipe.compress == Compress::Auto => spec.codec,
            _ => codec(job.recipe.compress, &bytes),
        };
        // what several statistics are of counts once
        let is_first = job.outputs[..index]
            .iter()
            .all(|o| o.is_logits != output.is_logits || o.alias != output.alias);
        let raw = if is_first {
            first.rows * output.shape.iter().product::<usize>() * Dtype::F32.size()
        } else {
            0
        };
        estimate.add_array(encoded_bytes(codec, &bytes), raw);
        let (row_shape, axes) = output.row()?;
        arrays.push(ArraySpec {
            path,
            dtype,
            row_shape,
            axes,
            tensor: Some(output.tensor.clone()),
            batch_axis: None,
            codec,
            chunk_rows: 1,
        });
    }
    let largest_row = arrays.iter().map(ArraySpec::row_bytes).max().unwrap_or(1);
    // arrays that are added to a cache are cut as those that are there
    let segment_rows = job.existing.map_or_else(
        || segment_rows(job.rows.len(), job.batch, largest_row),
        |manifest| manifest.segment_rows,
    );
    for array in &mut arrays {
        array.chunk_rows = chunk_rows(array.row_bytes(), segment_rows);
    }
    estimate.scale_to(job.rows.len() * job.view_count);
    let taps = taps(&job.outputs, model)?;
    Ok((plan(job, teacher, taps, arrays, segment_rows)?, estimate))
}

/// The arrays that come from the data, in the order of [`Batch::stored`]; their codec is still to
/// be decided.
fn from_data(job: &Job<'_>) -> Vec<ArraySpec> {
    let inputs = job.source.inputs.iter().filter(|_| job.stores_inputs).map(|input| ArraySpec {
        path: input.path.clone(),
        dtype: input.dtype,
        row_shape: input.row_shape.clone(),
        axes: input.axes.clone(),
        tensor: Some(input.name.clone()),
        batch_axis: Some(input.batch_axis).filter(|&axis| axis > 0),
        codec: Codec::Zstd,
        chunk_rows: 1,
    });
    let parameters = job.parameters.iter().map(|parameter| ArraySpec {
        path: parameter.path().to_owned(),
        dtype: parameter.dtype(),
        row_shape: parameter.axis().map(|(_, length)| length).into_iter().collect(),
        axes: parameter.axis().map(|(name, _)| name.to_owned()).into_iter().collect(),
        tensor: None,
        batch_axis: None,
        codec: Codec::Zstd,
        chunk_rows: 1,
    });
    inputs.chain(parameters).collect()
}

/// The name of a row's sample.
pub(super) fn sample_name(job: &Job<'_>, row: usize) -> String {
    job.rows
        .samples
        .get(row)
        .map_or_else(|| format!("row {row}"), |&sample| job.source.data.name(sample))
}

fn plan(
    job: &Job<'_>,
    teacher: TeacherRecord,
    taps: Vec<TapRecord>,
    view_arrays: Vec<ArraySpec>,
    segment_rows: usize,
) -> Result<Plan> {
    let (recipe, rows) = (job.recipe, job.rows);
    let augment = job.views.as_ref().map(|views| views.augmentation.clone());
    let mut manifest = Manifest {
        format: Manifest::FORMAT,
        tool: concat!("nst-cache ", env!("CARGO_PKG_VERSION")).to_owned(),
        teacher,
        data: DataRecord {
            spec: recipe.data.to_string(),
            split: recipe.split.clone(),
            fingerprint: job.fingerprint.clone(),
            classes: rows.classes.clone(),
            preprocess: job.source.preprocess.clone(),
            limit: recipe.limit,
            shuffle: recipe.shuffle,
            skipped: rows.skipped.iter().map(|&sample| sample as u64).collect(),
        },
        logits: logits_record(&job.outputs, rows.other_classes),
        taps,
        rows: rows.len(),
        views: job.view_count,
        augment,
        seed: recipe.seed,
        segment_rows,
        row_arrays: ["sample_id", "label"].map(|path| row_array(path, segment_rows)).to_vec(),
        view_arrays,
        row_sums: Vec::new(),
        extends: None,
        segments: Vec::new(),
    };
    manifest.format = manifest.lowest_format();
    // an index of a data set in memory always fits
    let ids = |samples: &[usize]| {
        samples.iter().map(|&sample| i64::try_from(sample).unwrap_or(i64::MAX)).collect()
    };
    Ok(Plan {
        manifest,
        sample_ids: ids(&rows.samples),
        labels: rows.labels.clone(),
        before: rows.before.as_deref().map(ids),
        names: hashed_names(job.source.data)?,
    })
}

/// What a reader has to know of the logits.
fn logits_record(outputs: &[Output], other_classes: bool) -> Option<LogitsRecord> {
    let logits = outputs.iter().find(|output| output.is_logits)?;
    let record = LogitsRecord { made_of: logits.conversion, other_classes };
    (record != LogitsRecord::default()).then_some(record)
}

fn row_array(path: &str, segment_rows: usize) -> ArraySpec {
    ArraySpec {
        path: path.to_owned(),
        dtype: Dtype::I64,
        row_shape: Vec::new(),
        axes: Vec::new(),
        tensor: None,
        batch_axis: None,
        codec: Codec::Zstd,
        chunk_rows: segment_rows,
    }
}

/// How chunks like `bytes` are stored.
fn codec(compress: Compress, bytes: &[u8]) -> Codec {
    match compress {
        Compress::Auto => probe_codec(bytes),
        Compress::None => Codec::Raw,
        Compress::Zstd => Codec::Zstd,
    }
}

/// What `bytes` take on disk.
fn encoded_bytes(codec: Codec, bytes: &[u8]) -> usize {
    match codec {
        Codec::Raw => bytes.len(),
        Codec::Zstd => compressed_bytes(bytes),
    }
}

/// A record of each tap, with the map that its statistics are of and the normalisation that it
/// comes from.
fn taps(outputs: &[Output], model: &Model) -> Result<Vec<TapRecord>> {
    let mut taps: Vec<TapRecord> = Vec::new();
    for output in outputs.iter().filter(|o| !o.is_logits) {
        let map = output.map().filter(|_| output.statistic != Statistic::Features);
        match taps.iter_mut().find(|tap| tap.alias == output.alias) {
            Some(tap) => tap.map = tap.map.or(map),
            None => taps.push(TapRecord {
                alias: output.alias.clone(),
                tensor: output.tensor.clone(),
                role: output.role,
                stage: output.stage,
                map,
                // of what is pooled the deviation is another
                batch_norm: if output.pool.is_none() {
                    BatchNorm::before_activation(model, &output.tensor)?
                } else {
                    None
                },
            }),
        }
    }
    Ok(taps)
}

/// Rows of a segment: a multiple of the batch, so that no inference spans two; shorter than a shard
/// may be where the data set is small.
fn segment_rows(rows: usize, batch: usize, largest_row_bytes: usize) -> usize {
    let wanted = (rows / SEGMENTS).max(SEGMENT_ROWS_MIN).next_multiple_of(batch);
    cache::segment_rows(largest_row_bytes, batch).min(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_whole_batches_and_short_where_there_is_little_data() {
        for (rows, batch, row_bytes, expected) in [
            (12_000, 64, 1000, 768),
            (100, 64, 1000, 128),
            (1, 1, 1, 128),
            (50_000, 64, 57_344, 2048),
        ] {
            assert_eq!(
                segment_rows(rows, batch, row_bytes),
                expected,
                "{rows} rows, batch {batch}"
            );
        }
    }
}
