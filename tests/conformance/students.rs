//! Student graphs against float64 logits, loss, gradients, running statistics and optimizer steps.
//!
//! Tolerances are those that the reference's README states. A file with `logits_train` is run in
//! training mode, one without as it stands.

use super::Outcome;
use candle_core::{DType, Device, Tensor};
use nst_cache::error::{Error, Result};
use nst_cache::onnx::Model;
use nst_cache::student::{
    Executor, FoldedNorms, ImportOptions, Mode, Precision, Student, TensorId,
};
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Checks one graph, in f32, with the `.safetensors` file beside it; the quantity that comes
/// nearest to its tolerance, or farthest beyond, is shown. Beyond its tolerance, the same
/// quantity's error in f64 tells a mistake from a ReLU that f32's rounding moved over its edge.
pub fn check(graph: &Path) -> Vec<(String, Outcome)> {
    let name = graph.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut outcome = compare(graph, DType::F32).unwrap_or_else(|e| Outcome::Failed(e.chain()));
    if let Outcome::Measured { error, tolerance, what } = &mut outcome
        && !(*error <= *tolerance)
        && let Ok(Outcome::Measured { error, what: worst, .. }) = compare(graph, DType::F64)
    {
        *what = format!("{what}; in float64 at most {error:.1e}, {worst}");
    }
    vec![(name, outcome)]
}

/// The worst share of a tolerance so far.
struct Worst {
    error: f64,
    tolerance: f64,
    what: String,
    quantities: usize,
}

impl Worst {
    fn add(&mut self, what: &str, error: f64, tolerance: f64) {
        self.quantities += 1;
        if !(error / tolerance <= self.error / self.tolerance) {
            (self.error, self.tolerance, self.what) = (error, tolerance, what.to_owned());
        }
    }
}

/// A reference file: arrays in double precision and the header's strings.
struct Reference {
    arrays: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
    header: HashMap<String, String>,
}

impl Reference {
    fn read(path: &Path) -> Result<Self> {
        let fail = |what: String| Error::input(format!("{}: {what}", path.display()));
        let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| fail(e.to_string()))?;
        let mut arrays = BTreeMap::new();
        for (name, view) in
            SafeTensors::deserialize(&bytes).map_err(|e| fail(e.to_string()))?.iter()
        {
            let values = match view.dtype() {
                Dtype::F64 => {
                    view.data().as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
                }
                Dtype::F32 => view
                    .data()
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| f64::from(f32::from_le_bytes(*b)))
                    .collect(),
                Dtype::I64 => view
                    .data()
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| i64::from_le_bytes(*b) as f64)
                    .collect(),
                other => return Err(fail(format!("{name} has type {other:?}"))),
            };
            arrays.insert(name.to_owned(), (view.shape().to_vec(), values));
        }
        Ok(Self { arrays, header: header.metadata().clone().unwrap_or_default() })
    }

    fn get(&self, key: &str) -> Result<&[f64]> {
        self.arrays
            .get(key)
            .map(|(_, v)| v.as_slice())
            .ok_or_else(|| Error::input(format!("reference has no {key}")))
    }

    /// The arrays under a prefix, by the rest of their key.
    fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a [f64])> {
        self.arrays
            .iter()
            .filter_map(move |(key, (_, v))| Some((key.strip_prefix(prefix)?, v.as_slice())))
    }

    fn number(&self, key: &str) -> f64 {
        self.header.get(key).and_then(|v| v.parse().ok()).unwrap_or(0.0)
    }
}

fn values(t: &Tensor) -> Result<Vec<f64>> {
    Ok(t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

fn norm(a: &[f64]) -> f64 {
    a.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt()
}

/// Relative L2 error over several tensors together.
#[derive(Default)]
struct Together {
    error: f64,
    size: f64,
}

impl Together {
    fn add(&mut self, a: &[f64], b: &[f64]) {
        self.error += distance(a, b).powi(2);
        self.size += norm(b).powi(2);
    }

    fn relative(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { (self.error / self.size).sqrt() }
    }
}

fn relative(a: &[f64], b: &[f64]) -> f64 {
    let mut t = Together::default();
    t.add(a, b);
    t.relative()
}

/// Mean cross-entropy and its gradient with respect to the logits.
fn cross_entropy(logits: &Tensor, labels: &[f64]) -> Result<(f64, Tensor)> {
    let (rows, classes) = logits.dims2()?;
    let mut gradient = values(logits)?;
    let mut loss = 0.0;
    for (row, &label) in gradient.chunks_mut(classes).zip(labels) {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = row.iter().map(|v| (v - max).exp()).sum();
        loss -= row[label as usize] - max - total.ln();
        for (class, v) in row.iter_mut().enumerate() {
            *v = ((*v - max).exp() / total - f64::from(u8::from(class == label as usize)))
                / rows as f64;
        }
    }
    Ok((
        loss / rows as f64,
        Tensor::from_vec(gradient, (rows, classes), &Device::Cpu)?.to_dtype(logits.dtype())?,
    ))
}

/// The inputs in the student's order, and the labels.
fn batch(
    student: &Student,
    reference: &Reference,
    dtype: DType,
) -> Result<(Vec<Tensor>, Vec<f64>)> {
    let keys: HashMap<String, String> = reference
        .header
        .get("inputs")
        .and_then(|s| serde_json::from_str(s).ok())
        .unwrap_or_default();
    let inputs = student.inputs().iter().map(|input| {
        let key = keys.get(&input.name).map_or("x", String::as_str);
        let (shape, values) = reference
            .arrays
            .get(key)
            .ok_or_else(|| Error::input(format!("reference has no {key}")))?;
        Ok(Tensor::from_vec(values.clone(), shape.as_slice(), &Device::Cpu)?.to_dtype(dtype)?)
    });
    Ok((inputs.collect::<Result<_>>()?, reference.get("labels")?.to_vec()))
}

fn compare(path: &Path, dtype: DType) -> Result<Outcome> {
    let own = Reference::read(&path.with_extension("safetensors"))?;
    let model = Model::read(path)?;
    // the references are of the files as they stand: what an exporter folded stays folded
    let folded_norms = FoldedNorms::Leave;
    let mut blockers = Student::check(&model)?.blockers;
    blockers.retain(|(node, ..)| !node.is_empty());
    if !blockers.is_empty() {
        let list: Vec<String> = blockers
            .iter()
            .map(|(node, operator, reason)| format!("{operator} {node}: {reason}"))
            .collect();
        return Ok(Outcome::NotSupported(list.join("; ")));
    }
    let executor = match std::env::var("NST_EXECUTOR").as_deref() {
        Ok("candle") => Executor::Device,
        Ok("general") => Executor::Reference,
        Ok("cpu") | Err(_) => Executor::Blocked(Precision::Strict),
        Ok(other) => {
            return Err(Error::input(format!(
                "NST_EXECUTOR: expected cpu, general or candle, found {other}"
            )));
        }
    };
    let student = Student::import(
        &model,
        &ImportOptions { dtype, executor, folded_norms, ..ImportOptions::default() },
    )?;
    let base = match own.header.get("inputs_from") {
        Some(file) => Reference::read(&path.with_file_name(file))?,
        None => Reference::read(&path.with_extension("safetensors"))?,
    };
    let (inputs, labels) = batch(&student, &base, dtype)?;
    let expected: Vec<&str> = own.under("grad.").map(|(name, _)| name).collect();
    let found: Vec<&str> = student.parameters().iter().map(|p| p.name.as_str()).collect();
    if expected != found {
        let missing: Vec<&&str> = expected.iter().filter(|n| !found.contains(n)).collect();
        let extra: Vec<&&str> = found.iter().filter(|n| !expected.contains(n)).collect();
        return Err(Error::check(format!(
            "parameters missing: {missing:?}; trained but not parameters: {extra:?}"
        )));
    }
    let mut worst = Worst { error: 0.0, tolerance: 1.0, what: String::new(), quantities: 0 };
    let training = own.arrays.contains_key("logits_train");
    let mode = if training { Mode::Train } else { Mode::AsWritten };
    let logits_tolerance = (10.0 * base.number("f32_rel_err_logits")).max(1e-5);
    if training {
        let taps: Vec<(TensorId, &str, &[f64])> = own
            .under("tap.")
            .map(|(name, v)| {
                Ok((
                    student
                        .tensor(name)
                        .ok_or_else(|| Error::check(format!("no tensor {name}")))?,
                    name,
                    v,
                ))
            })
            .collect::<Result<_>>()?;
        let keep: Vec<TensorId> = taps.iter().map(|t| t.0).collect();
        let pass = student.forward(&inputs, Mode::Eval, &keep, 0)?;
        worst.add(
            "logits_eval",
            relative(&values(pass.value(student.logits())?)?, own.get("logits_eval")?),
            logits_tolerance,
        );
        let mut together = Together::default();
        for (id, _, expected) in taps {
            together.add(&values(pass.value(id)?)?, expected);
        }
        worst.add("taps", together.relative(), logits_tolerance);
    }
    steps(&student, &inputs, &labels, mode, &own, logits_tolerance, &mut worst)?;
    let what = format!("{} (worst of {} quantities)", worst.what, worst.quantities);
    Ok(Outcome::Measured { error: worst.error, tolerance: worst.tolerance, what })
}

/// One forward and backward pass, and the optimizer steps that the reference has.
fn steps(
    student: &Student,
    inputs: &[Tensor],
    labels: &[f64],
    mode: Mode,
    own: &Reference,
    logits_tolerance: f64,
    worst: &mut Worst,
) -> Result<()> {
    let gradient_tolerance = (10.0 * own.number("f32_rel_err_grad")).max(1e-5);
    let three_tolerance = (10.0 * own.number("f32_rel_err_sgd3_update")).max(1e-5);
    let start: Vec<Vec<f64>> =
        student.parameters().iter().map(|p| values(p.var.as_tensor())).collect::<Result<_>>()?;
    let three = own.get("losses_sgd3").ok();
    let mut velocity: Vec<Option<Tensor>> = vec![None; start.len()];
    for step in 0..if three.is_some() { 3 } else { 1 } {
        let pass = student.forward(inputs, mode, &[], 0)?;
        let logits = pass.value(student.logits())?.clone();
        let (loss, seed) = cross_entropy(&logits, labels)?;
        if let Some(losses) = three {
            worst.add("losses_sgd3", (loss / losses[step] - 1.0).abs(), three_tolerance);
        }
        let gradients = pass.backward(vec![(student.logits(), seed)])?;
        if step == 0 {
            let key = if mode == Mode::Train { "logits_train" } else { "logits_eval" };
            worst.add(key, relative(&values(&logits)?, own.get(key)?), logits_tolerance);
            worst.add("loss", (loss / own.get("loss")?[0] - 1.0).abs(), logits_tolerance);
            statistics(student, own, "bn.", logits_tolerance, worst)?;
            compare_gradients(student, &gradients, own, gradient_tolerance, worst)?;
        }
        for ((parameter, gradient), velocity) in
            student.parameters().iter().zip(&gradients).zip(&mut velocity)
        {
            let Some(g) = gradient else { continue };
            let p = parameter.var.as_tensor().copy()?;
            let d = (g + (&p * 5e-4)?)?;
            let v = match velocity.take() {
                None => d.clone(),
                Some(v) => ((v * 0.9)? + &d)?,
            };
            parameter.var.set(&(p - ((d + (&v * 0.9)?)? * 0.1)?)?)?;
            *velocity = Some(v);
        }
        if step == 0 {
            for ((parameter, start), i) in student.parameters().iter().zip(&start).zip(0..) {
                let Ok(expected) = own.get(&format!("after_sgd.{}", parameter.name)) else {
                    continue;
                };
                let update = distance(expected, start);
                let share = gradients_share(own, &parameter.name, gradient_tolerance, update);
                let error = distance(&values(parameter.var.as_tensor())?, expected);
                worst.add(
                    &format!("after_sgd.{} ({i})", parameter.name),
                    error,
                    (1e-6 * norm(expected)).max(share),
                );
            }
        }
    }
    if three.is_some() {
        let mut together = Together::default();
        for (parameter, start) in student.parameters().iter().zip(&start) {
            let update =
                |to: &[f64]| -> Vec<f64> { to.iter().zip(start).map(|(a, b)| a - b).collect() };
            together.add(
                &update(&values(parameter.var.as_tensor())?),
                &update(own.get(&format!("after_sgd3.{}", parameter.name))?),
            );
        }
        worst.add("after_sgd3", together.relative(), three_tolerance);
        statistics(student, own, "bn3.", three_tolerance, worst)?;
    }
    Ok(())
}

/// What an update may be off by: the gradient's bound on it, with the same allowance for tensors
/// whose gradient is zero but for rounding.
fn gradients_share(own: &Reference, _name: &str, gradient_tolerance: f64, update: f64) -> f64 {
    (gradient_tolerance.max(1e-4) * update).max(0.19 * 1e-5 * own.number("grad_l2"))
}

fn statistics(
    student: &Student,
    own: &Reference,
    prefix: &str,
    tolerance: f64,
    worst: &mut Worst,
) -> Result<()> {
    let mut together = Together::default();
    for (name, expected) in own.under(prefix) {
        let buffer = student
            .buffers()
            .iter()
            .find(|b| b.name == name)
            .ok_or_else(|| Error::check(format!("no running statistic {name}")))?;
        together.add(&values(buffer.var.as_tensor())?, expected);
    }
    worst.add(prefix.trim_end_matches('.'), together.relative(), tolerance);
    Ok(())
}

fn compare_gradients(
    student: &Student,
    gradients: &[Option<Tensor>],
    own: &Reference,
    tolerance: f64,
    worst: &mut Worst,
) -> Result<()> {
    let mut together = Together::default();
    let mut pairs = Vec::new();
    for (parameter, gradient) in student.parameters().iter().zip(gradients) {
        let expected = own.get(&format!("grad.{}", parameter.name))?;
        let found = match gradient {
            Some(g) if g.dims() == parameter.var.dims() => values(g)?,
            Some(g) => {
                return Err(Error::check(format!(
                    "gradient of {}: shape {:?}",
                    parameter.name,
                    g.dims()
                )));
            }
            None => vec![0.0; expected.len()],
        };
        together.add(&found, expected);
        pairs.push((&parameter.name, distance(&found, expected), norm(expected)));
    }
    worst.add("grad", together.relative(), tolerance);
    let size = together.size.sqrt();
    for (name, error, norm) in pairs {
        worst.add(&format!("grad.{name}"), error, 1e-4 * norm + 1e-5 * size);
    }
    Ok(())
}
