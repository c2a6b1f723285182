//! Whether a cache holds what its teacher computes: some rows are computed again from their inputs
//! and compared.

use super::feed::{self, Fed, Input};
use super::output::{KeptLogits, Output, OutputKind};
use super::{independence, inputs, resolve, soundness};
use crate::array::{Array, Dtype, Values};
use crate::cache::{ArraySpec, Cache, Decoder, Manifest, Originals};
use crate::data::{self, Dataset};
use crate::error::{Context as _, Error, Result};
use crate::monitor::Monitor;
use crate::onnx::Model;
use crate::onnx::tap;
use crate::runtime::{self, Runtime, Session, SessionOptions};
use crate::statistic::{TopPart, masses, top_classes};
use serde::Serialize;
use std::ops::Range;
use std::path::Path;

/// The least cosine of a row: machines and providers differ in the last bits (TF32 in the last two
/// digits), another model or other inputs in the first.
const COSINE: f64 = 0.999;
/// The largest relative difference of two rows' lengths: the cosine does not see a factor.
const LENGTH: f64 = 0.01;
/// Batches that are computed again.
const BATCHES: usize = 4;

/// The differences between a teacher's values and those in a cache.
#[derive(Debug, Clone, Serialize)]
pub struct Live {
    /// Rows computed again.
    pub rows: usize,
    /// Each array, in the cache's order.
    pub arrays: Vec<LiveArray>,
    /// The least `cosine` that agrees.
    pub bound: f64,
}

/// One array that was computed again.
#[derive(Debug, Clone, Serialize)]
pub struct LiveArray {
    /// Its path in the cache; `logits` for those of sparse logits together.
    pub path: String,
    /// The largest difference of two values.
    pub max_difference: f64,
    /// The smallest cosine between a row as computed and as stored; 1 where both are zero.
    pub cosine: f64,
    /// The largest relative difference of their lengths.
    pub length: f64,
}

impl Live {
    /// The arrays beyond the bounds.
    pub fn wrong(&self) -> impl Iterator<Item = &LiveArray> {
        self.arrays.iter().filter(|array| !array.agrees())
    }
}

impl LiveArray {
    fn new(path: &str) -> Self {
        Self { path: path.to_owned(), max_difference: 0.0, cosine: 1.0, length: 0.0 }
    }

    fn agrees(&self) -> bool {
        self.cosine >= COSINE && self.length <= LENGTH
    }

    /// Adds rows of `width` values. NaN, infinities and missing values disagree.
    fn compare(&mut self, computed: &[f32], stored: &[f32], width: usize) {
        if computed.len() != stored.len() {
            (self.max_difference, self.cosine, self.length) = (f64::INFINITY, -1.0, f64::INFINITY);
        }
        for (a, b) in computed.chunks(width.max(1)).zip(stored.chunks(width.max(1))) {
            let (mut aa, mut bb, mut ab, mut worst) = (0.0, 0.0, 0.0, 0.0f64);
            for (a, b) in a.iter().map(|&v| f64::from(v)).zip(b.iter().map(|&v| f64::from(v))) {
                (aa, bb, ab) = (aa + a * a, bb + b * b, ab + a * b);
                worst = worst.max((a - b).abs());
            }
            let (cosine, length) = if aa == 0.0 && bb == 0.0 {
                (1.0, 0.0)
            } else {
                (ab / (aa * bb).sqrt(), (aa.sqrt() - bb.sqrt()).abs() / bb.sqrt())
            };
            let known = cosine.is_finite() && length.is_finite();
            self.max_difference =
                self.max_difference.max(if known { worst } else { f64::INFINITY });
            self.cosine = self.cosine.min(if known { cosine } else { -1.0 });
            self.length = self.length.max(if known { length } else { f64::INFINITY });
        }
    }
}

/// Computes some batches again, drawn by the cache's seed, and compares every array of features and
/// logits. The batches are those of the extraction, since ONNX Runtime's last bits depend on them.
/// Inputs that are not stored are decoded from the data set that the cache names.
///
/// # Errors
/// When the model is not the cache's teacher, cannot run, or the cache cannot be read.
pub fn compare(
    folder: &Path,
    teacher: &Path,
    runtime: &Runtime,
    options: &SessionOptions,
    monitor: &dyn Monitor,
) -> Result<Live> {
    let cache = Cache::open(folder)?;
    if let Some(note) = cache.extension() {
        monitor.warn(note);
    }
    let manifest = cache.manifest();
    let model = Model::read(teacher)?;
    if model.sha256() != manifest.teacher.sha256 {
        return Err(Error::input(format!(
            "teacher {}: expected the one that the cache was made with (sha256 {}), found {}",
            teacher.display(),
            manifest.teacher.sha256,
            model.sha256()
        )));
    }
    // sparse logits are compared where their values are met
    let is_compared = |spec: &&ArraySpec| {
        resolve::is_output(spec)
            && !matches!(TopPart::of_path(&spec.path), Some(TopPart::Class | TopPart::Rest))
    };
    let kept: Vec<&ArraySpec> = manifest.view_arrays.iter().filter(is_compared).collect();
    let inputs = teacher_inputs(&model, manifest);
    let how = Fed {
        inputs: &inputs,
        preprocess: manifest.data.preprocess.as_ref(),
        constants: &manifest.teacher.constants,
    };
    let probe = runtime::probe(runtime, &model, &inputs::feeds(how.inputs, how.constants))?;
    let logits = manifest.logits_array().and_then(|spec| spec.tensor.as_deref());
    let candidates = tap::candidates(&model, &probe.shapes, logits);
    let outputs = kept
        .iter()
        .map(|spec| Ok(with_all_classes(resolve::recorded(spec, manifest, &probe, &candidates)?)))
        .collect::<Result<Vec<_>>>()?;
    let dataset = if manifest.stores_inputs() { None } else { Some(dataset(manifest, monitor)?) };
    let originals =
        dataset.as_deref().map(|dataset| Originals::new(&cache, dataset)).transpose()?;
    if let Some(originals) = &originals {
        originals.refuse_changed(monitor)?;
    }
    let tensors: Vec<String> = outputs.iter().map(|o| o.tensor.clone()).collect();
    let mut session = Session::new(runtime, &model, &tensors, options)?;

    let mut live = Live {
        rows: 0,
        arrays: outputs.iter().map(|output| LiveArray::new(&output.path())).collect(),
        bound: COSINE,
    };
    for (view, rows) in sample(manifest) {
        let read = |path: &str| {
            let mut bytes = Vec::new();
            cache
                .array(path)?
                .read(&mut Decoder::default(), view, rows.start, rows.len(), &mut bytes)
                .map(|()| bytes)
        };
        let stored = match &originals {
            Some(originals) => {
                let table = originals.table(view)?;
                vec![
                    rows.clone()
                        .map(|row| originals.input(&table, row))
                        .collect::<Result<Vec<_>>>()?
                        .concat(),
                ]
            }
            None => inputs.iter().map(|input| read(&input.path)).collect::<Result<_>>()?,
        };
        if live.rows == 0 {
            let subject = independence::Subject {
                who: "teacher",
                runtime,
                model: &model,
                tensors: &tensors,
                fixed: probe.batch,
                inputs: inputs
                    .iter()
                    .map(|input| (input.dtype, manifest.data.preprocess.is_some()))
                    .collect(),
                feed: &|bytes, count| feed::named(how, bytes, count),
            };
            let count = rows.len().min(independence::SAMPLES);
            let first: Vec<Vec<u8>> = stored
                .iter()
                .map(|bytes| {
                    bytes
                        .get(..bytes.len() / rows.len().max(1) * count)
                        .unwrap_or_default()
                        .to_vec()
                })
                .collect();
            if let Some(reason) =
                independence::check(&subject, &mut session, &first, count, manifest.teacher.batch)?
            {
                return Err(Error::input(format!(
                    "{reason}, but the cache was made {} at a time",
                    manifest.teacher.batch
                ))
                .hint("extract again into another folder"));
            }
            soundness::check(
                &subject,
                &mut session,
                &first,
                count,
                manifest.teacher.batch,
                monitor,
            )?;
        }
        let fed_rows = probe.batch.unwrap_or(rows.len());
        let fed = feed::named(how, &stored, fed_rows)?;
        let named: Vec<(&str, &Array)> =
            fed.iter().map(|(name, array)| (name.as_str(), array)).collect();
        let computed = session.run(&named, &tensors)?;
        for (((spec, output), values), array) in
            kept.iter().zip(&outputs).zip(computed).zip(&mut live.arrays)
        {
            let dtype = if spec.dtype == Dtype::U8 { Dtype::U8 } else { Dtype::F32 };
            let bytes = output
                .encode(&values, dtype, rows.len(), |row| format!("row {}", rows.start + row))?;
            let computed = floats(dtype, &bytes)?;
            let (computed, stored) = if output.path() == spec.path {
                (computed, floats(spec.dtype, &read(&spec.path)?)?)
            } else {
                sparse(&computed, manifest, read)?
            };
            array.compare(&computed, &stored, stored.len() / rows.len().max(1));
        }
        live.rows += rows.len();
    }
    Ok(live)
}

/// Sparse logits as those of all classes.
fn with_all_classes(mut output: Output) -> Output {
    if let OutputKind::Logits(KeptLogits { top, .. }) = &mut output.kind {
        *top = None;
    }
    output
}

/// The probabilities of the recorded classes, and of the others together, as computed and as
/// stored. Those do not depend on which of two nearly equal classes is kept.
fn sparse(
    logits: &[f32],
    manifest: &Manifest,
    read: impl Fn(&str) -> Result<Vec<u8>>,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let top =
        manifest.top().ok_or_else(|| Error::internal("live: sparse logits without a record"))?;
    let part = |part: TopPart| Ok::<_, Error>((part.dtype(top.classes), read(part.path())?));
    let ((dtype, value), (index, class), (_, rest)) =
        (part(TopPart::Value)?, part(TopPart::Class)?, part(TopPart::Rest)?);
    let (value, rest) = (floats(dtype, &value)?, floats(Dtype::F32, &rest)?);
    let class = top_classes(&class, index);
    let rows = logits.chunks(top.classes).zip(class.chunks(top.k));
    let computed = rows.flat_map(|(logits, class)| masses(logits, class)).collect();
    let stored = value.chunks(top.k).zip(rest);
    let stored = stored
        .flat_map(|(value, rest)| value.iter().map(|v| v.exp()).chain([rest]).collect::<Vec<_>>())
        .collect();
    Ok((computed, stored))
}

/// Views and rows of batches that are computed again, in random order.
fn sample(manifest: &Manifest) -> Vec<(usize, Range<usize>)> {
    let batch = manifest.teacher.batch.max(1);
    let batches = |segment: usize| {
        let first = segment * manifest.segment_rows;
        let end = first + manifest.rows_of_segment(segment);
        (first..end).step_by(batch).map(move |start| start..(start + batch).min(end))
    };
    let mut all: Vec<_> = (0..manifest.views)
        .flat_map(|view| {
            (0..manifest.segments_per_view()).flat_map(batches).map(move |rows| (view, rows))
        })
        .collect();
    data::shuffle(&mut all, manifest.seed);
    all.truncate(BATCHES);
    all
}

/// The teacher's inputs as the cache records them.
fn teacher_inputs(model: &Model, manifest: &Manifest) -> Vec<Input> {
    let mut declared = model.inputs();
    declared.retain(|input| {
        manifest.teacher.constants.iter().all(|constant| constant.tensor != input.name)
    });
    if let (false, Some(preprocess), [input]) =
        (manifest.stores_inputs(), &manifest.data.preprocess, declared.as_slice())
    {
        return vec![inputs::image_input(input, preprocess)];
    }
    manifest
        .view_arrays
        .iter()
        .filter(|spec| spec.is_input())
        .map(|spec| inputs::stored_input(spec, &declared))
        .collect()
}

/// The data set of a cache that stores no inputs.
fn dataset(manifest: &Manifest, monitor: &dyn Monitor) -> Result<Box<dyn Dataset>> {
    let data = &manifest.data;
    data::open(&data.spec.parse()?, &data.split, monitor)
        .context(|| "the inputs are not stored, and their data set cannot be opened".to_owned())
}

/// Stored values as numbers; bits as −1 and 1, so that a different sign shows.
fn floats(dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>> {
    let values = match dtype {
        Dtype::U8 => {
            return Ok(bytes
                .iter()
                .flat_map(|byte| {
                    (0..8).map(move |bit| if byte >> bit & 1 == 1 { 1.0 } else { -1.0 })
                })
                .collect());
        }
        Dtype::F16 => Values::F16(bytemuck::pod_collect_to_vec(bytes)),
        _ => Values::F32(bytemuck::pod_collect_to_vec(bytes)),
    };
    let count = bytes.len() / dtype.size();
    Ok(Array::new(vec![count], values)?.to_f32())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistic::LOGITS;

    #[test]
    fn what_differs_or_is_no_number_is_wrong() {
        let agrees = |computed: &[f32], stored: &[f32]| {
            let mut array = LiveArray::new(LOGITS);
            array.compare(computed, stored, 2);
            array.agrees()
        };
        assert!(agrees(&[1.0, 2000.0, 0.0, 0.0], &[1.5, 2000.5, 0.0, 0.0]));
        // one row is turned, scaled, no number, zero, or missing
        for row in [
            &[2000.0, 1.0][..],
            &[1.02, 2040.0],
            &[1.0, f32::NAN],
            &[1.0, f32::INFINITY],
            &[0.0, 0.0],
            &[],
        ] {
            assert!(!agrees(&[3.0, 4.0, 1.0, 2000.0], &[&[3.0, 4.0], row].concat()), "{row:?}");
        }
        assert!(!agrees(&[0.0, 0.0], &[1.0, 0.0]));
        let mut array = LiveArray::new(LOGITS);
        array.compare(&[3.0, 4.0, 1.0, 0.0], &[3.0, 4.0, 0.8, 0.6], 2);
        assert!(
            (array.max_difference - 0.6).abs() < 1e-6 && (array.cosine - 0.8).abs() < 1e-6,
            "{array:?}"
        );
    }
}
