//! The trained student as ONNX: what travels with it, and the check that ONNX Runtime computes what
//! the trainer does.

use super::material::{Material, Model};
use crate::array::{Array, Values};
use crate::cli::Context;
use crate::error::{Context as _, Error, Result};
use crate::onnx::{self, logits, metadata as keys};
use crate::recipe::Train;
use crate::runtime::{Device, Session, SessionOptions};
use crate::student::{Mode, Student};
use crate::train::metrics::Evaluation;
use crate::train::source::Source;
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Samples on which the two are compared, and how many at once.
const SAMPLES: usize = 256;
const BATCH: usize = 64;
/// What a logit may differ by, relative to max(1, |logit|).
const BOUND: f64 = 1e-3;

/// How far ONNX Runtime's logits are from the trainer's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::cli) struct Parity {
    /// Samples compared.
    pub samples: usize,
    /// max |Δ|.
    pub max_difference: f64,
    /// max |Δ| / max(1, |logit|).
    pub max_relative: f64,
    /// What the latter may be.
    pub bound: f64,
    /// ONNX Runtime's version.
    pub runtime: String,
}

impl Parity {
    /// Fails when the bound does not hold.
    pub(super) fn check(&self) -> Result<()> {
        // NaN does not hold either
        if self.max_relative <= self.bound {
            return Ok(());
        }
        Err(Error::check(format!(
            "parity: logits of student.onnx in ONNX Runtime: expected within {:.0e} of the \
             trainer's, found {:.2e}",
            self.bound, self.max_relative
        )))
    }
}

impl fmt::Display for Parity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "parity max |Δlogit| {:.2e} on {} samples", self.max_difference, self.samples)
    }
}

/// What travels in the model: enough for `eval` to need no flags, and to say where it came from.
/// Neither path, time nor host.
pub(super) fn metadata(
    recipe: &Train,
    model: &Model,
    material: &Material,
    test: Option<&Evaluation>,
) -> Result<Vec<(String, String)>> {
    let recipe = Train { test: None, ..recipe.clone() };
    let mut entries = vec![(keys::RECIPE, json(&recipe)?)];
    if !model.classes.is_empty() {
        entries.push((keys::CLASSES, json(&model.classes)?));
    }
    if let Some(preprocess) = &model.preprocess {
        entries.push((keys::PREPROCESS, json(preprocess)?));
    }
    if let Some(cache) = material.cache() {
        entries.push((keys::TEACHER, cache.manifest().teacher.sha256.clone()));
    }
    if let Some(test) = test {
        entries.push((keys::ACCURACY, format!("{:.2}", test.top1)));
    }
    Ok(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).context(|| "metadata: cannot be encoded".to_owned())
}

/// Runs the first samples through both.
pub(super) fn parity(
    student: &Student,
    model: &onnx::Model,
    samples: &Source<'_>,
    context: &Context<'_>,
) -> Result<Parity> {
    let runtime = context.runtime()?;
    let options = SessionOptions { device: Device::Cpu, threads: context.threads };
    let logits = logits::of_student(model);
    let outputs = [logits.ok_or_else(|| {
        Error::input("student: expected a first output [batch, classes], found another")
    })?];
    let mut session = Session::new(&runtime, model, &outputs, &options)?;
    let inputs = model.inputs();
    let mut parity = Parity {
        samples: 0,
        max_difference: 0.0,
        max_relative: 0.0,
        bound: BOUND,
        runtime: runtime.version.clone(),
    };
    while parity.samples < samples.len().min(SAMPLES) {
        let end = (parity.samples + BATCH).min(samples.len()).min(SAMPLES);
        let batch = samples.batch(0, parity.samples..end)?;
        let pass = student.forward(&batch.inputs, Mode::Eval, &[], 0)?;
        let ours =
            pass.value(student.logits())?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let arrays = batch.inputs.iter().map(array).collect::<Result<Vec<_>>>()?;
        let named: Vec<(&str, &Array)> =
            inputs.iter().map(|i| i.name.as_str()).zip(&arrays).collect();
        let results = session.run(&named, &outputs)?;
        let theirs = results.first().map(Array::to_f32).unwrap_or_default();
        if ours.len() != theirs.len() {
            return Err(Error::check(format!(
                "parity: expected {} logits from ONNX Runtime, found {}",
                ours.len(),
                theirs.len()
            )));
        }
        for (a, b) in ours.iter().zip(&theirs) {
            let difference = f64::from((a - b).abs());
            let relative = difference / f64::from(a.abs().max(1.0));
            // max() would drop a NaN
            parity.max_difference =
                if difference.is_nan() { f64::NAN } else { parity.max_difference.max(difference) };
            parity.max_relative =
                if relative.is_nan() { f64::INFINITY } else { parity.max_relative.max(relative) };
        }
        parity.samples = end;
    }
    Ok(parity)
}

fn array(tensor: &Tensor) -> Result<Array> {
    let flat = tensor.flatten_all()?;
    let values = match tensor.dtype() {
        DType::U8 => Values::U8(flat.to_vec1()?),
        DType::I64 => Values::I64(flat.to_vec1()?),
        _ => Values::F32(flat.to_dtype(DType::F32)?.to_vec1()?),
    };
    Array::new(tensor.dims().to_vec(), values)
}
