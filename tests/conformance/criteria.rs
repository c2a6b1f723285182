//! Criteria against float64 losses and gradients.

use super::Outcome;
use candle_core::{DType, Device, Tensor};
use nst_cache::criterion::cross_entropy::{cross_entropy, mixed_cross_entropy, soft_cross_entropy};
use nst_cache::criterion::nst::{NstOptions, nst_with};
use nst_cache::criterion::{Loss, kd::kd};
use nst_cache::recipe::{Kernel, Normalization, Sigma};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

type Failure = Box<dyn std::error::Error>;

/// Checks one `.safetensors` case, dispatched by its header's `method` and `hyperparameters`, in f32 and f64.
pub fn check(path: &Path) -> Outcome {
    Case::read(path).and_then(|case| case.check()).unwrap_or_else(|e| Outcome::Failed(e.to_string()))
}

struct Case {
    header: HashMap<String, String>,
    hyperparameters: Value,
    tensors: HashMap<String, Tensor>,
}

/// One loss with the gradients of the inputs that it names.
type Computed = (f64, Vec<(String, Tensor)>);

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
        let hyperparameters = serde_json::from_str(header.get("hyperparameters").ok_or("no hyperparameters")?)?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?;
        Ok(Self { header, hyperparameters, tensors })
    }

    fn entry(&self, key: &str) -> Result<&str, Failure> {
        Ok(self.header.get(key).ok_or_else(|| format!("header has no {key}"))?)
    }

    fn tensor(&self, name: &str) -> Result<&Tensor, Failure> {
        Ok(self.tensors.get(name).ok_or_else(|| format!("no tensor {name}"))?)
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
            let Some((loss, gradients)) = self.compute(dtype)? else {
                return Ok(Outcome::NotSupported(self.entry("method")?.to_owned()));
            };
            let expected = self.tensor("loss")?.to_scalar::<f64>()?;
            let (loss_tolerance, gradient_tolerance) = match dtype {
                DType::F32 => (self.entry("tol_f32_loss_abs")?.parse()?, self.entry("tol_f32_grad_rel")?.parse()?),
                _ => ((1e-9 * expected.abs()).max(1e-13), 1e-8),
            };
            worst.see((loss - expected).abs(), loss_tolerance, || format!("loss {dtype:?}"));
            for (name, gradient) in gradients {
                let error = self.gradient_error(&name, &gradient)?;
                worst.see(error, gradient_tolerance, || format!("grad.{name} {dtype:?}"));
            }
        }
        Ok(Outcome::Measured { error: worst.error, tolerance: worst.tolerance, what: worst.what })
    }

    /// max|Δ| / max|g| over the live channels; a dead channel's gradient has to be zero.
    fn gradient_error(&self, name: &str, gradient: &Tensor) -> Result<f64, Failure> {
        let expected = self.tensor(&format!("grad.{name}"))?.flatten_all()?.to_vec1::<f64>()?;
        let found = gradient.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        if found.len() != expected.len() {
            return Err(format!("grad.{name}: expected {} values, found {}", expected.len(), found.len()).into());
        }
        let live = match self.tensors.get(&format!("live.{name}")) {
            Some(live) => live.flatten_all()?.to_vec1::<u8>()?,
            None => vec![1],
        };
        let (mut off, mut largest) = (0.0f64, 0.0f64);
        let per_channel = expected.len() / live.len();
        for ((expected, found), &live) in expected.chunks(per_channel).zip(found.chunks(per_channel)).zip(&live) {
            for (e, f) in expected.iter().zip(found) {
                if live == 1 {
                    let distance = (e - f).abs();
                    off = if distance.is_nan() { f64::INFINITY } else { off.max(distance) };
                    largest = largest.max(e.abs());
                } else if *f != 0.0 {
                    return Err(format!("grad.{name}: expected 0 in a dead channel, found {f}").into());
                }
            }
        }
        let zeros: Vec<String> = serde_json::from_str(self.entry("zero_gradients")?)?;
        // what is zero in exact arithmetic has no scale of its own: smallness is all that can be asked
        Ok(if largest == 0.0 || zeros.iter().any(|z| z == name) { off } else { off / largest })
    }

    /// The method's loss and gradients in `dtype`; `None` for a method that is not built.
    fn compute(&self, dtype: DType) -> Result<Option<Computed>, Failure> {
        let named = |name: &str| Ok::<_, Failure>(self.tensor(name)?.to_dtype(dtype)?);
        let alone = |loss: Loss| (loss.value, vec![("s".to_owned(), loss.gradient)]);
        let method = self.entry("method")?;
        Ok(Some(match method {
            "kd" | "kl_soft" => alone(kd(&named("s")?, &named("t")?, self.number("T")?)?),
            "ce_smooth" => alone(cross_entropy(&named("s")?, &self.labels("labels")?, self.number("label_smoothing")?)?),
            "ce_mixup" => {
                let (a, b) = (self.labels("labels")?, self.labels("labels.b")?);
                alone(mixed_cross_entropy(&named("s")?, &a, &b, &vec![self.number("lam")?; a.len()], 0.0)?)
            }
            "ce_soft_target" => alone(soft_cross_entropy(&named("s")?, &named("target")?)?),
            _ => match self.nst_options(method)? {
                Some(options) => self.nst(dtype, &options)?,
                None => return Ok(None),
            },
        }))
    }

    fn nst_options(&self, method: &str) -> Result<Option<NstOptions>, Failure> {
        let squared = Kernel::Poly { degree: 2, constant: 0.0 };
        if method == "nst_repdistiller" {
            return Ok(Some(squared.into()));
        }
        if method.starts_with("nst_rsqrt") {
            let teacher_term = self.hyperparameters["teacher_term"].as_bool().ok_or("no hyperparameter teacher_term")?;
            return Ok(Some(NstOptions { kernel: squared, normalization: Normalization::Rsqrt, teacher_term }));
        }
        if !method.starts_with("nst_") {
            return Ok(None);
        }
        let kernel = match self.hyperparameters["kind"].as_str() {
            Some("linear") => Kernel::Linear,
            Some("poly") => {
                let degree = self.hyperparameters["d"].as_u64().ok_or("no hyperparameter d")?;
                Kernel::Poly { degree: degree.try_into()?, constant: self.number("c")? }
            }
            Some("gauss") => Kernel::Gauss {
                sigma: match self.hyperparameters["sigma"].as_str() {
                    Some("auto_sample") => Sigma::AutoSample,
                    Some("auto_batch") => Sigma::AutoBatch,
                    Some(_) => return Ok(None),
                    None => Sigma::Fixed(self.number("sigma")?),
                },
            },
            _ => return Ok(None),
        };
        Ok(Some(kernel.into()))
    }

    /// The sum over the layers `t.0`, `s.0`, …, or the one layer `t`, `s`.
    fn nst(&self, dtype: DType, options: &NstOptions) -> Result<Computed, Failure> {
        let names: Vec<(String, String)> = if self.tensors.contains_key("s") {
            vec![("s".into(), "t".into())]
        } else {
            (0..self.tensors.len())
                .map(|i| (format!("s.{i}"), format!("t.{i}")))
                .take_while(|(s, _)| self.tensors.contains_key(s))
                .collect()
        };
        let (mut value, mut gradients) = (0.0, Vec::new());
        for (student, teacher) in names {
            let loss = nst_with(&self.tensor(&student)?.to_dtype(dtype)?, &self.tensor(&teacher)?.to_dtype(dtype)?, options)?;
            value += loss.value;
            gradients.push((student, loss.gradient));
        }
        Ok((value, gradients))
    }
}
