//! Criteria against float64 losses and gradients.

mod methods;

use super::Outcome;
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

type Failure = Box<dyn std::error::Error>;

/// Checks one `.safetensors` case, dispatched by its header's `method` and `hyperparameters`, in
/// f32 and f64.
pub fn check(path: &Path) -> Outcome {
    Case::read(path)
        .and_then(|case| case.check())
        .unwrap_or_else(|e| Outcome::Failed(e.to_string()))
}

/// Checks the same case from the statistics that a cache holds in place of the teacher's maps,
/// where they suffice.
pub fn check_statistics(path: &Path) -> Option<Outcome> {
    Case::read(path)
        .and_then(|case| case.check_statistics())
        .unwrap_or_else(|e| Some(Outcome::Failed(e.to_string())))
}

struct Case {
    header: HashMap<String, String>,
    hyperparameters: Value,
    tensors: HashMap<String, Tensor>,
}

/// The largest error as a share of its tolerance.
struct Worst {
    error: f64,
    tolerance: f64,
    what: String,
}

impl Worst {
    fn see(&mut self, error: f64, tolerance: f64, what: impl FnOnce() -> String) {
        // NaN is worse than everything
        if self.what.is_empty() || !(error / tolerance <= self.error / self.tolerance) {
            *self = Self { error, tolerance, what: what() };
        }
    }
}

impl Case {
    fn read(path: &Path) -> Result<Self, Failure> {
        let bytes = std::fs::read(path)?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes)?;
        let header = metadata.metadata().clone().ok_or("no header")?;
        let hyperparameters =
            serde_json::from_str(header.get("hyperparameters").ok_or("no hyperparameters")?)?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?;
        Ok(Self { header, hyperparameters, tensors })
    }

    fn entry(&self, key: &str) -> Result<&str, Failure> {
        Ok(self.header.get(key).ok_or_else(|| format!("header has no {key}"))?)
    }

    fn tensor(&self, name: &str) -> Result<&Tensor, Failure> {
        Ok(self.tensors.get(name).ok_or_else(|| format!("no tensor {name}"))?)
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn number(&self, key: &str) -> Result<f64, Failure> {
        Ok(self.hyperparameters[key].as_f64().ok_or_else(|| format!("no hyperparameter {key}"))?)
    }

    fn labels(&self, name: &str) -> Result<Vec<i64>, Failure> {
        Ok(self.tensor(name)?.to_vec1::<i64>()?)
    }

    fn check(&self) -> Result<Outcome, Failure> {
        let mut worst = Worst { error: 0.0, tolerance: 1.0, what: String::new() };
        for dtype in [DType::F32, DType::F64] {
            let Some(found) = (methods::Run { case: self, dtype }).compute()? else {
                return Ok(Outcome::NotSupported(self.entry("method")?.to_owned()));
            };
            let expected = self.tensor("loss")?.to_scalar::<f64>()?;
            let (loss_tolerance, gradient_tolerance) = match dtype {
                DType::F32 => (
                    self.entry("tol_f32_loss_abs")?.parse()?,
                    self.entry("tol_f32_grad_rel")?.parse()?,
                ),
                _ => ((1e-9 * expected.abs()).max(1e-13), 1e-8),
            };
            worst.see((found.loss - expected).abs(), loss_tolerance, || format!("loss {dtype:?}"));
            let wanted: Vec<String> = serde_json::from_str(self.entry("gradients_of")?)?;
            for name in wanted {
                let gradient = found
                    .gradients
                    .iter()
                    .find(|(n, _)| *n == name)
                    .ok_or_else(|| format!("no gradient of {name}"))?;
                let error = self.gradient_error(&name, &gradient.1)?;
                worst.see(error, gradient_tolerance, || format!("grad.{name} {dtype:?}"));
            }
            // a value of f32 (CRD's memories, OFD's margins) is rounded once more
            let tolerance = |output: &Tensor| {
                gradient_tolerance.max(if output.dtype() == DType::F32 { 1e-6 } else { 0.0 })
            };
            for (name, output) in found.outputs {
                if let Some(error) = self.output_error(&name, &output)? {
                    worst.see(error, tolerance(&output), || format!("{name} {dtype:?}"));
                }
            }
        }
        Ok(Outcome::Measured { error: worst.error, tolerance: worst.tolerance, what: worst.what })
    }

    /// In f64 from what a cache holds in place of the teacher's maps, in f32: the loss to a
    /// millionth. `None` where that does not suffice.
    fn check_statistics(&self) -> Result<Option<Outcome>, Failure> {
        let Some(found) = (methods::Run { case: self, dtype: DType::F64 }).by_statistics()? else {
            return Ok(None);
        };
        let mut worst = Worst { error: 0.0, tolerance: 1.0, what: String::new() };
        let expected = self.tensor("loss")?.to_scalar::<f64>()?;
        worst.see((found.loss - expected).abs(), (1e-6 * expected.abs()).max(1e-13), || {
            "loss F64".to_owned()
        });
        for (name, gradient) in &found.gradients {
            let tolerance = self.entry("tol_f32_grad_rel")?.parse()?;
            worst.see(self.gradient_error(name, gradient)?, tolerance, || {
                format!("grad.{name} F64")
            });
        }
        Ok(Some(Outcome::Measured {
            error: worst.error,
            tolerance: worst.tolerance,
            what: worst.what,
        }))
    }

    /// max|Δ| / max|x| of an intermediate value, where the file has it, as `out.{name}` or by that
    /// very name.
    fn output_error(&self, name: &str, output: &Tensor) -> Result<Option<f64>, Failure> {
        let Some(expected) =
            self.tensors.get(&format!("out.{name}")).or_else(|| self.tensors.get(name))
        else {
            return Ok(None);
        };
        let wide =
            |x: &Tensor| Ok::<_, Failure>(x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?);
        let (expected, found) = (wide(expected)?, wide(output)?);
        if found.len() != expected.len() {
            return Err(format!(
                "{name}: expected {} values, found {}",
                expected.len(),
                found.len()
            )
            .into());
        }
        let largest = expected.iter().fold(f64::MIN_POSITIVE, |m, x| m.max(x.abs()));
        let off = expected.iter().zip(found).map(|(e, f)| (e - f).abs());
        Ok(Some(
            off.fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) }) / largest,
        ))
    }

    /// max|Δ| / max|g| over the live channels; a dead channel's gradient has to be zero.
    fn gradient_error(&self, name: &str, gradient: &Tensor) -> Result<f64, Failure> {
        let expected = self.tensor(&format!("grad.{name}"))?.flatten_all()?.to_vec1::<f64>()?;
        let found = gradient.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        if found.len() != expected.len() {
            return Err(format!(
                "grad.{name}: expected {} values, found {}",
                expected.len(),
                found.len()
            )
            .into());
        }
        let live = match self.tensors.get(&format!("live.{name}")) {
            Some(live) => live.flatten_all()?.to_vec1::<u8>()?,
            None => vec![1],
        };
        let (mut off, mut largest) = (0.0f64, 0.0f64);
        let per_channel = expected.len() / live.len();
        for ((expected, found), &live) in
            expected.chunks(per_channel).zip(found.chunks(per_channel)).zip(&live)
        {
            for (e, f) in expected.iter().zip(found) {
                if live == 1 {
                    let distance = (e - f).abs();
                    off = if distance.is_nan() { f64::INFINITY } else { off.max(distance) };
                    largest = largest.max(e.abs());
                } else if *f != 0.0 {
                    return Err(
                        format!("grad.{name}: expected 0 in a dead channel, found {f}").into()
                    );
                }
            }
        }
        let zeros: Vec<String> = serde_json::from_str(self.entry("zero_gradients")?)?;
        // what is zero in exact arithmetic has no scale of its own: smallness is all that can be
        // asked
        Ok(if largest == 0.0 || zeros.iter().any(|z| z == name) { off } else { off / largest })
    }
}
