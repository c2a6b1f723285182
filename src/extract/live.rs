//! Whether a cache holds what its teacher computes: the first rows of its first and last view are computed again from their inputs and compared.

use super::source::Input;
use super::{batch, choice, source};
use crate::array::{Array, Dtype, Values};
use crate::cache::{ArraySpec, Cache, Decoder, Manifest, Originals};
use crate::data::{self, Dataset};
use crate::error::{Context as _, Error, Result};
use crate::monitor::Monitor;
use crate::onnx::Model;
use crate::onnx::tap;
use crate::runtime::{self, Runtime, Session, SessionOptions};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;

/// What a value may differ by, relative to max(1, |value|): four times f16's rounding, and ten times what machines differ by in f32.
const BOUND: f64 = 2e-3;

/// How far a teacher's values are from those in a cache.
#[derive(Debug, Clone, Serialize)]
pub struct Live {
    /// Rows computed again.
    pub rows: usize,
    /// Each array, in the cache's order.
    pub arrays: Vec<LiveArray>,
    /// What `max_relative` may be.
    pub bound: f64,
}

/// One array that was computed again.
#[derive(Debug, Clone, Serialize)]
pub struct LiveArray {
    /// Its path in the cache.
    pub path: String,
    /// max |Δ| / max(1, |value|).
    pub max_relative: f64,
}

impl Live {
    /// The arrays beyond the bound.
    pub fn wrong(&self) -> impl Iterator<Item = &LiveArray> {
        // NaN is beyond it too
        self.arrays.iter().filter(|a| !matches!(a.max_relative.partial_cmp(&self.bound), Some(std::cmp::Ordering::Less)))
    }
}

/// Computes the first batch of rows of the first and of the last view again and compares every array of features and logits. Inputs that are not
/// stored are decoded from the data set that the cache names.
///
/// # Errors
/// When the model is not the cache's teacher, cannot run, or the cache cannot be read.
pub fn compare(folder: &Path, teacher: &Path, runtime: &Runtime, options: &SessionOptions, monitor: &dyn Monitor) -> Result<Live> {
    let cache = Cache::open(folder)?;
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
    let rows = manifest.teacher.batch.min(manifest.rows);
    let kept: Vec<&ArraySpec> = manifest.view_arrays.iter().filter(|spec| choice::is_output(spec)).collect();
    let inputs = inputs(&model, manifest);
    let shapes: Vec<(String, Vec<usize>)> = inputs.iter().map(|i| (i.name.clone(), i.row_shape.clone())).collect();
    let probe = runtime::probe(runtime, &model, &shapes)?;
    let candidates = tap::candidates(&model, &probe.shapes);
    let outputs = kept.iter().map(|spec| choice::recorded(spec, &probe, &candidates)).collect::<Result<Vec<_>>>()?;
    let dataset = if manifest.stores_inputs() { None } else { Some(dataset(manifest, monitor)?) };
    let originals = dataset.as_deref().map(|dataset| Originals::new(&cache, dataset)).transpose()?;

    let tensors: Vec<String> = outputs.iter().map(|o| o.tensor.clone()).collect();
    let mut session = Session::new(runtime, &model, &tensors, options)?;
    let mut arrays: Vec<LiveArray> = kept.iter().map(|spec| LiveArray { path: spec.path.clone(), max_relative: 0.0 }).collect();
    let views: BTreeSet<usize> = [0, manifest.views - 1].into();
    for &view in &views {
        let read = |path: &str| {
            let mut bytes = Vec::new();
            cache.array(path)?.read(&mut Decoder::default(), view, 0, rows, &mut bytes).map(|()| bytes)
        };
        let stored = match &originals {
            Some(originals) => {
                let table = originals.table(view)?;
                vec![(0..rows).map(|row| originals.input(&table, row)).collect::<Result<Vec<_>>>()?.concat()]
            }
            None => inputs.iter().map(|input| read(&input.path)).collect::<Result<_>>()?,
        };
        let fed = inputs
            .iter()
            .zip(&stored)
            .map(|(input, bytes)| batch::fed(input, manifest.data.preprocess.as_ref(), bytes, probe.batch.unwrap_or(rows)));
        let fed = fed.collect::<Result<Vec<Array>>>()?;
        let named: Vec<(&str, &Array)> = inputs.iter().map(|input| input.name.as_str()).zip(&fed).collect();
        let computed = session.run(&named, &tensors)?;
        for (((spec, output), values), array) in kept.iter().zip(&outputs).zip(computed).zip(&mut arrays) {
            let expected: Vec<f32> = bytemuck::pod_collect_to_vec(&output.encode(values, Dtype::F32, rows, |row| format!("row {row}"))?);
            array.max_relative = array.max_relative.max(difference(&expected, &floats(spec.dtype, &read(&spec.path)?)?));
        }
    }
    Ok(Live { rows: rows * views.len(), arrays, bound: BOUND })
}

/// The teacher's inputs as the cache was made with them.
fn inputs(model: &Model, manifest: &Manifest) -> Vec<Input> {
    if let (false, Some(preprocess), [input]) = (manifest.stores_inputs(), &manifest.data.preprocess, model.inputs().as_slice()) {
        return vec![source::image_input(input, preprocess)];
    }
    manifest.view_arrays.iter().filter(|spec| spec.is_input()).map(source::stored_input).collect()
}

/// The data set that a cache without inputs was made of.
fn dataset(manifest: &Manifest, monitor: &dyn Monitor) -> Result<Box<dyn Dataset>> {
    let data = &manifest.data;
    data::open(&data.spec.parse()?, &data.split, monitor)
        .context(|| "the inputs are not stored, and their data set cannot be opened".to_owned())
}

fn floats(dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>> {
    let values = match dtype {
        Dtype::F16 => Values::F16(bytemuck::pod_collect_to_vec(bytes)),
        _ => Values::F32(bytemuck::pod_collect_to_vec(bytes)),
    };
    let count = bytes.len() / dtype.size();
    Ok(Array::new(vec![count], values)?.to_f32())
}

/// max |Δ| / max(1, |value|), infinite where the lengths differ.
fn difference(expected: &[f32], found: &[f32]) -> f64 {
    if expected.len() != found.len() {
        return f64::INFINITY;
    }
    let relative = |(&e, &f): (&f32, &f32)| f64::from((e - f).abs()) / f64::from(e.abs()).max(1.0);
    expected.iter().zip(found).map(relative).fold(0.0, |worst: f64, d| if d.is_nan() { f64::INFINITY } else { worst.max(d) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_or_is_no_number_is_wrong() {
        let live = |max_relative| Live { rows: 1, arrays: vec![LiveArray { path: "logits".into(), max_relative }], bound: BOUND };
        assert_eq!(live(difference(&[1.0, 2000.0], &[1.0005, 2000.5])).wrong().count(), 0);
        for (a, b) in [(&[1.0][..], &[1.01][..]), (&[1.0], &[f32::NAN]), (&[1.0], &[1.0, 2.0])] {
            assert_eq!(live(difference(a, b)).wrong().count(), 1, "{a:?} {b:?}");
        }
    }
}
