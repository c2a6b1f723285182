//! Whether a cache holds what its teacher computes: the first rows are computed again from the stored inputs and compared.

use super::output::Output;
use super::source::{Input, fed};
use super::{choice, source};
use crate::array::{Array, Dtype, Values};
use crate::cache::{ArraySpec, Cache, Decoder};
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::onnx::tap::{self, Tap, TapChoice};
use crate::recipe::Layout;
use crate::runtime::{self, Probe, Runtime, Session, SessionOptions};
use serde::Serialize;
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

/// Computes the first batch of rows again and compares every array of features and logits.
///
/// # Errors
/// When the model is not the cache's teacher, cannot run, or the cache cannot be read.
pub fn compare(folder: &Path, teacher: &Path, runtime: &Runtime, options: &SessionOptions) -> Result<Live> {
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
    let (inputs, kept): (Vec<&ArraySpec>, Vec<&ArraySpec>) =
        manifest.view_arrays.iter().partition(|a| a.path == "input" || a.path.starts_with("inputs/"));
    let inputs: Vec<Input> = inputs.into_iter().map(source::stored_input).collect();
    let shapes: Vec<(String, Vec<usize>)> = inputs.iter().map(|i| (i.name.clone(), i.row_shape.clone())).collect();
    let probe = runtime::probe(runtime, &model, &shapes)?;
    let candidates = tap::candidates(&model, &probe.shapes);
    let outputs = kept.iter().map(|spec| output(spec, &probe, &candidates)).collect::<Result<Vec<_>>>()?;

    let read = |path: &str| {
        let mut bytes = Vec::new();
        cache.array(path)?.read(&mut Decoder::default(), 0, 0, rows, &mut bytes).map(|()| bytes)
    };
    let arrays = inputs
        .iter()
        .map(|input| fed(input, manifest.data.preprocess.as_ref(), &read(&input.path)?, probe.batch.unwrap_or(rows)))
        .collect::<Result<Vec<Array>>>()?;
    let named: Vec<(&str, &Array)> = inputs.iter().map(|input| input.name.as_str()).zip(&arrays).collect();
    let tensors: Vec<String> = outputs.iter().map(|o| o.tensor.clone()).collect();
    let computed = Session::new(runtime, &model, &tensors, options)?.run(&named, &tensors)?;

    let compared = kept.iter().zip(&outputs).zip(computed).map(|((spec, output), values)| {
        let expected: Vec<f32> = bytemuck::pod_collect_to_vec(&output.encode(values, Dtype::F32, rows, |row| format!("row {row}"))?);
        let max_relative = difference(&expected, &floats(spec.dtype, &read(&spec.path)?)?);
        Ok(LiveArray { path: spec.path.clone(), max_relative })
    });
    Ok(Live { rows, arrays: compared.collect::<Result<_>>()?, bound: BOUND })
}

/// How an array of the cache is computed from its tensor.
fn output(spec: &ArraySpec, probe: &Probe, candidates: &[Tap]) -> Result<Output> {
    let unknown = || Error::input(format!("cache array {}: expected logits or the features of a tap of the teacher", spec.path));
    let tensor = spec.tensor.clone().ok_or_else(unknown)?;
    if spec.path == "logits" {
        return choice::logits(&tensor, probe);
    }
    let alias = spec.path.strip_prefix("taps/").and_then(|p| p.strip_suffix("/features")).ok_or_else(unknown)?.to_owned();
    let (layout, size) = match (spec.axes.concat().as_str(), spec.row_shape.as_slice()) {
        ("chw", &[_, h, w]) => (Some(Layout::Nchw), Some([h, w])),
        ("hwc", &[h, w, _]) => (Some(Layout::Nhwc), Some([h, w])),
        _ => (None, None),
    };
    // tokens are stored as a map, but have no axis order of their own
    let is_map = probe.shapes.get(&tensor).is_some_and(|shape| shape.len() == 4);
    choice::output(&TapChoice { tensor, alias, layout: layout.filter(|_| is_map), size }, probe, candidates)
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
