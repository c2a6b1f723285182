//! How the cache is laid out: element types and codecs from the first batch, lengths of segments
//! and chunks by size.

use super::encode::Encoded;
use super::estimate::Estimate;
use super::output::{KeptMap, Output, Outputs, TapForm};
use super::prepare::Prepared;
use super::reader::{RowBatch, RowReader};
use crate::array::{Array, Dtype};
use crate::cache::{
    self, ArraySpec, CachePlan, Codec, DataRecord, LogitsRecord, Manifest, TapRecord,
    TeacherRecord, TopRecord, chunk_rows, compressed_bytes, probe_codec,
};
use crate::data::{Fingerprint, hashed_names};
use crate::error::Result;
use crate::monitor::Monitor;
use crate::onnx::{BatchNorm, Model, logits};
use crate::recipe::{Compress, Store};
use crate::runtime::Session;
use crate::statistic::Statistic;
use std::time::Instant;

/// Segments of a small data set, so that an interruption costs little of it.
const SEGMENTS: usize = 16;
/// Least rows of a segment.
const SEGMENT_ROWS_MIN: usize = 128;

/// The first rows, and what the teacher computes of them.
pub(super) struct FirstBatch {
    batch: RowBatch,
    pub(super) values: Vec<Array>,
    pub(super) rows: usize,
    /// Time of the inference alone.
    seconds: f64,
}

/// Computes the first rows of the cache.
///
/// # Errors
/// When samples cannot be read or the teacher cannot run on them.
pub(super) fn first_batch(
    reader: &RowReader,
    outputs: &Outputs,
    batch_rows: usize,
    session: &mut Session,
) -> Result<FirstBatch> {
    let rows = batch_rows.min(reader.rows.len());
    let batch = reader.read(0, 0..rows)?;
    let started = Instant::now();
    let values = session.run(&batch.feed(), &outputs.tensors)?;
    Ok(FirstBatch { batch, values, rows, seconds: started.elapsed().as_secs_f64() })
}

/// Lays out the cache and estimates what it takes. `fingerprint`: what its manifest says of the
/// data; `provider`: where the teacher runs.
///
/// # Errors
/// When the first batch holds values that cannot be stored.
pub(super) fn lay_out(
    prepared: &Prepared<'_>,
    outputs: &Outputs,
    first: &FirstBatch,
    fingerprint: Fingerprint,
    provider: &str,
    monitor: &dyn Monitor,
) -> Result<(CachePlan, Estimate)> {
    let Prepared { recipe, reader, .. } = prepared;
    let existing = |path: &str| {
        let manifest = prepared.existing.as_ref()?;
        manifest.view_arrays.iter().find(|spec| spec.path == path)
    };
    let mut arrays = Vec::new();
    let mut estimate = Estimate::new(first.seconds, first.rows);
    for (mut spec, bytes) in from_data(reader).into_iter().zip(&first.batch.stored) {
        // the first rows may be others than when the cache was begun
        spec.codec = match existing(&spec.path) {
            Some(there) if recipe.compress == Compress::Auto => there.codec,
            _ => codec(recipe.compress, bytes),
        };
        estimate.add_array(encoded_bytes(spec.codec, bytes), bytes.len());
        arrays.push(spec);
    }
    for (index, output) in outputs.all.iter().enumerate() {
        let there = existing(&output.path());
        let (spec, bytes) = array_of_output(prepared, outputs, output, first, there, monitor)?;
        // a tap of several statistics counts once
        let is_first = outputs.all[..index].iter().all(|o| o.alias() != output.alias());
        let numbers = if is_first { output.shape.iter().product::<usize>() } else { 0 };
        let raw = first.rows * numbers * Dtype::F32.size();
        estimate.add_array(encoded_bytes(spec.codec, &bytes), raw);
        arrays.push(spec);
    }
    let largest_row = arrays.iter().map(ArraySpec::row_bytes).max().unwrap_or(1);
    // segments are the same for all arrays
    let segment_rows = prepared.existing.as_ref().map_or_else(
        || segment_rows(reader.rows.len(), prepared.batch, largest_row),
        |manifest| manifest.segment_rows,
    );
    estimate.scale_to(reader.rows.len() * reader.view_count);
    for array in &mut arrays {
        array.chunk_rows = chunk_rows(array.row_bytes(), segment_rows);
    }
    let mut manifest = Manifest {
        format: Manifest::FORMAT,
        tool: concat!("nst-cache ", env!("CARGO_PKG_VERSION")).to_owned(),
        teacher: teacher_record(prepared, provider),
        data: data_record(prepared, fingerprint),
        logits: logits_record(outputs, reader.rows.other_classes, prepared.mask.clone()),
        taps: taps(&outputs.all, &prepared.model)?,
        rows: reader.rows.len(),
        views: reader.view_count,
        augment: reader.views.as_ref().map(|views| views.augmentation.clone()),
        seed: recipe.seed,
        segment_rows,
        row_arrays: ["sample_id", "label"].map(|path| row_array(path, segment_rows)).to_vec(),
        view_arrays: arrays,
        row_sums: Vec::new(),
        extends: None,
        segments: Vec::new(),
    };
    manifest.format = manifest.lowest_format();
    let rows = &reader.rows;
    let plan = CachePlan {
        manifest,
        sample_ids: ids(&rows.samples),
        labels: rows.labels.clone(),
        before: rows.before.as_deref().map(ids),
        names: hashed_names(reader.source.data())?,
    };
    Ok((plan, estimate))
}

/// The array of an output, and the bytes of the first rows in it. `there`: the existing cache's
/// array of this path, which stays as it is unless the recipe says otherwise.
fn array_of_output(
    prepared: &Prepared<'_>,
    outputs: &Outputs,
    output: &Output,
    first: &FirstBatch,
    there: Option<&ArraySpec>,
    monitor: &dyn Monitor,
) -> Result<(ArraySpec, Vec<u8>)> {
    let Prepared { recipe, reader, .. } = prepared;
    let values = outputs.values(output, &first.values)?;
    let dtype = match there {
        Some(spec) if recipe.store == Store::Auto => spec.dtype,
        _ => output.dtype(recipe.store, values, first.rows, monitor)?,
    };
    let name = |row| reader.sample_name(row);
    let bytes = match output.try_encode(values, dtype, first.rows, name)? {
        Encoded::Bytes(bytes, _) => bytes,
        // met again when its rows are computed, where the tap is widened
        Encoded::BeyondF16(_) if there.is_some() && recipe.store == Store::Auto => {
            output.encode(values, Dtype::F32, first.rows, name)?
        }
        Encoded::BeyondF16(error) => return Err(error),
    };
    let codec = match there {
        Some(spec) if recipe.compress == Compress::Auto => spec.codec,
        _ => codec(recipe.compress, &bytes),
    };
    let (row_shape, axes) = output.row()?;
    let spec = ArraySpec {
        path: output.path(),
        dtype,
        row_shape,
        axes,
        tensor: Some(output.tensor.clone()),
        batch_axis: None,
        codec,
        chunk_rows: 1,
    };
    Ok((spec, bytes))
}

fn teacher_record(prepared: &Prepared<'_>, provider: &str) -> TeacherRecord {
    let file = prepared.recipe.teacher.file_name().unwrap_or_default();
    TeacherRecord {
        file: file.to_string_lossy().into_owned(),
        sha256: prepared.model.sha256().to_owned(),
        runtime: prepared.runtime.describe(),
        provider: provider.to_owned(),
        batch: prepared.batch,
        constants: prepared.reader.source.constants.clone(),
        top1_basis_points: None,
    }
}

fn data_record(prepared: &Prepared<'_>, fingerprint: Fingerprint) -> DataRecord {
    let (recipe, rows) = (prepared.recipe, &prepared.reader.rows);
    DataRecord {
        spec: recipe.data.to_string(),
        split: recipe.split.clone(),
        fingerprint,
        classes: rows.classes.clone(),
        preprocess: prepared.reader.source.preprocess.clone(),
        limit: recipe.limit,
        shuffle: recipe.shuffle,
        skipped: rows.skipped.iter().map(|&sample| sample as u64).collect(),
    }
}

/// Sample ids; an index of a data set in memory always fits.
fn ids(samples: &[usize]) -> Vec<i64> {
    samples.iter().map(|&sample| i64::try_from(sample).unwrap_or(i64::MAX)).collect()
}

/// The arrays that come from the data, in the order of [`RowBatch::stored`]; their codec is still
/// to be decided.
fn from_data(reader: &RowReader) -> Vec<ArraySpec> {
    let inputs =
        reader.source.inputs.iter().filter(|_| reader.stores_inputs).map(|input| ArraySpec {
            path: input.path.clone(),
            dtype: input.dtype,
            row_shape: input.row_shape.clone(),
            axes: input.axes.clone(),
            tensor: Some(input.name.clone()),
            batch_axis: Some(input.batch_axis).filter(|&axis| axis > 0),
            codec: Codec::Zstd,
            chunk_rows: 1,
        });
    let parameters = reader.parameters.iter().map(|parameter| ArraySpec {
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

/// What a reader must know of the logits.
fn logits_record(
    outputs: &Outputs,
    other_classes: bool,
    mask: Option<String>,
) -> Option<LogitsRecord> {
    let logits = outputs.logits()?;
    let kept = logits.kept_logits()?;
    let classes = logits.shape.last().copied().unwrap_or(0);
    let top = kept.top.map(|(_, k)| TopRecord { k, classes });
    let record = LogitsRecord { made_of: kept.conversion, other_classes, top, mask };
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

/// The codec for chunks like `bytes`.
fn codec(compress: Compress, bytes: &[u8]) -> Codec {
    match compress {
        Compress::Auto => probe_codec(bytes),
        Compress::None => Codec::Raw,
        Compress::Zstd => Codec::Zstd,
    }
}

/// The size of `bytes` on disk.
fn encoded_bytes(codec: Codec, bytes: &[u8]) -> usize {
    match codec {
        Codec::Raw => bytes.len(),
        Codec::Zstd => compressed_bytes(bytes),
    }
}

/// A record of each tap, with the map that its statistics are taken of and the batch norm before
/// it.
fn taps(outputs: &[Output], model: &Model) -> Result<Vec<TapRecord>> {
    let mut taps: Vec<TapRecord> = Vec::new();
    for (output, kept) in outputs.iter().filter_map(|o| Some((o, o.tap()?))) {
        let map = output.map().filter(|_| output.statistic() != Statistic::Features);
        let is_pooled = matches!(kept.form, TapForm::Map(KeptMap { pool: Some(_), .. }));
        match taps.iter_mut().find(|tap| tap.alias == kept.alias) {
            Some(tap) => tap.map = tap.map.or(map),
            None => taps.push(TapRecord {
                alias: kept.alias.clone(),
                tensor: output.tensor.clone(),
                role: kept.form.role(),
                stage: kept.stage,
                output: kept.output,
                made_by: logits::nature(model, &output.tensor)
                    .filter(|_| kept.output)
                    .map(|nature| nature.name().to_owned()),
                map,
                // pooling changes the deviation
                batch_norm: if is_pooled {
                    None
                } else {
                    BatchNorm::before_activation(model, &output.tensor)?
                },
            }),
        }
    }
    Ok(taps)
}

/// Rows of a segment: a multiple of the batch, so that no inference spans two; fewer than a shard
/// may hold where the data set is small.
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
