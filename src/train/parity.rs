//! Checks that ONNX Runtime computes the same from the exported student as the trainer does. Two
//! float32 programs never agree to the last bit, and with few steps behind the running statistics a
//! network amplifies last bits into leading ones, so the difference is judged by how far both are
//! from the same graph and weights in float64.

use super::job::Host;
use crate::array::{Array, Dtype, Values};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::onnx::{Model, logits};
use crate::runtime::{Device, Session, SessionOptions};
use crate::student::{
    Executor, FoldedNorms, ImportOptions, Mode, Pass, Projection, Student, TensorId,
};
use crate::trainer::source::Source;
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Samples to compare, and how many at a time.
const SAMPLES: usize = 256;
const BATCH: usize = 64;
/// Samples also computed in float64: this many, or fewer if their inputs would exceed this many
/// elements in total (four images of 224×224), since it takes about a hundred times as long.
const EXACT_SAMPLES: usize = 16;
const EXACT_ELEMENTS: usize = 4 * 3 * 224 * 224;
/// The allowed difference of a sample's values, relative to the largest, whatever their own error.
const BOUND: f64 = 1e-3;
/// The allowed difference as a multiple of the float32 error: Winograd's transforms have forty
/// times the error of direct sums, and few samples show less than the worst of many.
const FACTOR: f64 = 64.0;
/// The same for decisions: two logits within this many errors of each other are tied.
const TIE: f64 = 8.0;
/// The least divisor of a sample's differences, as a share of the output's largest value.
const FLAT: f64 = 0.1;
/// The share of decisions, ties excluded, that must be the same.
const AGREEMENT: f64 = 0.99;

/// How far ONNX Runtime's outputs are from the trainer's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parity {
    /// The class logits, or else the first output.
    #[serde(flatten)]
    pub first: OutputParity,
    /// The other outputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<OutputParity>,
    /// ONNX Runtime's version.
    pub runtime: String,
}

/// How far ONNX Runtime's values of an output are from the trainer's, and the yardstick for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputParity {
    /// The output's name; empty if an earlier build wrote the report.
    #[serde(default)]
    pub output: String,
    /// Whether it holds class logits.
    #[serde(default = "yes")]
    pub classes: bool,
    /// Samples compared.
    pub samples: usize,
    /// max |Δ| over all values.
    pub max_difference: f64,
    /// The largest max |Δ| / max |value| of any sample; the least divisor is a tenth of the
    /// output's largest value, and 0.01 for probabilities.
    pub max_relative: f64,
    /// The upper limit for `max_relative`: 1e-3, or a multiple of the float32 error.
    pub bound: f64,
    /// How far both are from float64; `None` if no sample could be compared with it.
    #[serde(default)]
    pub float32_error: Option<Float32Error>,
    /// What the two decide for: classes, or the values of an output of integers.
    #[serde(default)]
    pub decisions: Decisions,
    /// Samples for which the trainer's own values are not finite; excluded.
    #[serde(default)]
    pub diverged: usize,
    /// Samples for which only ONNX Runtime's values are not finite.
    #[serde(default)]
    pub lost: usize,
}

/// Earlier builds compared class logits alone.
fn yes() -> bool {
    true
}

/// The largest distance from the same graph and weights in float64, measured like
/// [`OutputParity::max_relative`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Float32Error {
    /// Samples computed in float64.
    pub samples: usize,
    /// The distance of the trainer's values.
    pub trainer: f64,
    /// The distance of ONNX Runtime's values.
    pub runtime: f64,
}

impl Float32Error {
    /// The error that float32 itself causes in the network. If the two are not the same function,
    /// only one of them is far off, so the other one shows it.
    fn of_rounding(self) -> f64 {
        self.trainer.min(self.runtime)
    }
}

/// What the two decide for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decisions {
    /// Samples whose two largest logits differ by more than the float32 error, or all integers.
    pub clear: usize,
    /// Those for which both decide for the same.
    pub same: usize,
}

impl Parity {
    /// Every output that was compared.
    pub fn outputs(&self) -> impl Iterator<Item = &OutputParity> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// max |Δ| over all outputs.
    #[must_use]
    pub fn max_difference(&self) -> f64 {
        self.outputs().fold(0.0, |most, output| output.max_difference.max(most))
    }

    /// Fails if the exported model is not the function that was trained.
    ///
    /// # Errors
    /// A failed check: which output differs, and by how much.
    pub fn check(&self) -> Result<()> {
        self.outputs().try_for_each(OutputParity::check)
    }

    /// Warns of problems with a student that the check does not cover.
    pub(super) fn warn(&self, monitor: &dyn Monitor) {
        self.outputs().for_each(|output| output.warn(monitor));
    }
}

impl OutputParity {
    /// How messages call it.
    fn name(&self) -> String {
        if self.classes { "logits".to_owned() } else { format!("output `{}`", self.output) }
    }

    fn check(&self) -> Result<()> {
        let fail = |what: String| {
            let (error, hint) = match self.float32_error {
                Some(Float32Error { trainer, runtime, .. }) => (
                    format!(
                        " (from float64 the trainer's are {trainer:.1e} off, ONNX Runtime's \
                         {runtime:.1e})"
                    ),
                    if runtime > trainer { "try another ONNX Runtime, and " } else { "" },
                ),
                None => (String::new(), ""),
            };
            let name = self.name();
            let what = format!("parity: {name} of student.onnx in ONNX Runtime: {what}{error}");
            Err(Error::check(what)
                .hint(format!("{hint}report this: the file is not what was trained")))
        };
        let Decisions { clear, same } = self.decisions;
        if self.lost > 0 {
            return fail(format!(
                "expected finite values as the trainer's, found others for {} of {} samples",
                self.lost, self.samples
            ));
        }
        if self.max_relative > self.bound {
            return fail(format!(
                "expected within {:.1e} of the trainer's, found {:.1e}",
                self.bound, self.max_relative
            ));
        }
        if !is_agreement(self.decisions) {
            return fail(if self.classes {
                format!("expected the trainer's class for {clear} samples, found it for {same}")
            } else {
                format!("expected the trainer's {clear} integers, found {same} of them")
            });
        }
        Ok(())
    }

    fn warn(&self, monitor: &dyn Monitor) {
        let Self { samples, diverged, lost, decisions, bound, classes, .. } = *self;
        let name = self.name();
        if diverged > 0 {
            monitor.warn(&format!(
                "the run has diverged: the student's {name} are not finite for {diverged} of \
                 {samples} samples (a lower --lr, or clip in the recipe)"
            ));
        }
        if classes && bound > BOUND && decisions.clear == 0 && samples > diverged + lost {
            monitor.warn(
                "the student's logits are within their rounding error of each other for every \
                 sample: there is nothing to compare yet",
            );
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "numbers of samples")]
fn is_agreement(Decisions { clear, same }: Decisions) -> bool {
    same as f64 >= AGREEMENT * clear as f64
}

impl fmt::Display for Parity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = 1 + self.others.len();
        let what = if self.first.classes { "Δlogit" } else { "Δ" };
        write!(f, "parity max |{what}| {:.2e}", self.max_difference())?;
        write!(f, " on {} samples", self.first.samples)?;
        if count > 1 {
            write!(f, " of {count} outputs")?;
        }
        match self.first.float32_error.map(Float32Error::of_rounding) {
            Some(error) if self.first.bound > BOUND => {
                write!(f, ", float32 error {:.1} %", 100.0 * error)
            }
            _ => Ok(()),
        }
    }
}

/// What is compared besides the student's own outputs.
pub(super) struct Subject<'a> {
    /// The student's class logits, if it has any.
    pub(super) classes: Option<TensorId>,
    /// How many classes the data has.
    pub(super) class_count: usize,
    /// The linear layers that were exported with it.
    pub(super) projections: &'a [Projection],
}

/// An output to compare.
#[derive(Clone)]
struct Compared<'a> {
    name: String,
    tensor: TensorId,
    /// The layer that computes it from the tensor.
    projection: Option<&'a Projection>,
    classes: bool,
    /// Whether the file declares integers.
    integers: bool,
    /// The least divisor of a difference.
    least: f64,
}

impl Compared<'_> {
    /// The trainer's values.
    fn of(&self, pass: &Pass<'_>) -> Result<Tensor> {
        let Some(projection) = self.projection else { return flat(pass, self.tensor) };
        let x = pass.value(self.tensor)?.to_device(&candle_core::Device::Cpu)?;
        Ok(projection.apply(&x)?.flatten_all()?)
    }
}

/// Its values `[sample, value]` of the same samples.
#[derive(Default)]
struct OutputValues {
    trainer: Vec<f32>,
    runtime: Vec<f32>,
    /// The values of the first samples.
    exact: Vec<f64>,
}

/// The class logits if there are any, then the outputs that depend on the data.
fn compared<'a>(
    student: &Student,
    model: &Model,
    subject: &Subject<'a>,
    shapes: &[Vec<usize>],
) -> Result<Vec<Compared<'a>>> {
    let classes = subject.classes;
    let integers = |name: &str| {
        let declared = model.outputs().into_iter().find(|output| output.name == name);
        declared.and_then(|output| output.dtype).is_some_and(|dtype: Dtype| !dtype.is_float())
    };
    let mut all = Vec::new();
    for output in student.outputs() {
        if student.is_computed(output.tensor, shapes)? {
            all.push(Compared {
                name: output.name.clone(),
                tensor: output.tensor,
                projection: None,
                classes: classes == Some(output.tensor),
                integers: integers(&output.name),
                least: logits::least_size(model, &output.name),
            });
        }
    }
    if let (Some(tensor), false) = (classes, all.iter().any(|output| output.classes)) {
        let name = logits::of_student(model, subject.class_count)
            .ok_or_else(|| Error::internal("parity: the exported student lost its logits"))?;
        all.push(Compared {
            name,
            tensor,
            projection: None,
            classes: true,
            integers: false,
            least: 0.0,
        });
    }
    for projection in subject.projections {
        let tensor = student.tensor(&projection.tensor).ok_or_else(|| {
            Error::internal(format!("parity: the student lost {}", projection.tensor))
        })?;
        let (name, projection) = (projection.output.clone(), Some(projection));
        all.push(Compared {
            name,
            tensor,
            projection,
            classes: false,
            integers: false,
            least: 0.0,
        });
    }
    all.sort_by_key(|output| !output.classes);
    Ok(all)
}

/// Runs the first samples through both, and some of them in float64.
pub(super) fn parity(
    student: &Student,
    model: &Model,
    subject: &Subject<'_>,
    samples: &Source<'_>,
    host: &Host<'_>,
) -> Result<Parity> {
    let runtime = host.runtime()?;
    let options = SessionOptions { device: Device::Cpu, threads: host.threads };
    let first = samples.batch(0, 0..1)?;
    let shapes: Vec<Vec<usize>> = first.inputs.iter().map(|t| t.dims().to_vec()).collect();
    let outputs = compared(student, model, subject, &shapes)?;
    let kept: Vec<TensorId> = outputs.iter().map(|output| output.tensor).collect();
    let names: Vec<String> = outputs.iter().map(|output| output.name.clone()).collect();
    let mut session = Session::new(&runtime, model, &names, &options)?;
    let inputs = model.inputs();
    let count = samples.len().min(SAMPLES);
    let mut values: Vec<OutputValues> = outputs.iter().map(|_| OutputValues::default()).collect();
    for start in (0..count).step_by(BATCH) {
        let batch = samples.batch(0, start..(start + BATCH).min(count))?;
        let pass = student.forward(&batch.inputs, Mode::Eval, &kept, 0)?;
        let arrays = batch.inputs.iter().zip(&inputs).map(|(tensor, input)| {
            let array = array(tensor)?;
            // a half-precision student takes half-precision inputs
            let dtype = input.dtype.filter(|dtype| dtype.is_float() && array.dtype().is_float());
            array.converted(dtype.unwrap_or(array.dtype()))
        });
        let arrays = arrays.collect::<Result<Vec<_>>>()?;
        let named: Vec<(&str, &Array)> =
            inputs.iter().map(|i| i.name.as_str()).zip(&arrays).collect();
        let results = session.run(&named, &names)?;
        for ((output, values), theirs) in outputs.iter().zip(&mut values).zip(&results) {
            let ours = output.of(&pass)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
            let theirs = theirs.to_f32();
            if ours.len() != theirs.len() {
                return Err(Error::check(format!(
                    "parity: {}: expected {} values from ONNX Runtime, found {}",
                    output.name,
                    ours.len(),
                    theirs.len()
                )));
            }
            values.trainer.extend(ours);
            values.runtime.extend(theirs);
        }
    }
    drop(session);
    exact(model, samples, &outputs, &mut values)?;
    let mut judged =
        outputs.iter().zip(&values).map(|(output, values)| judge(output, values, count));
    let first = judged.next().ok_or_else(|| {
        Error::input("student: expected outputs that depend on the data, found none")
    })?;
    Ok(Parity { first, others: judged.collect(), runtime: runtime.version })
}

/// Adds the exported graph's values of the first samples in float64.
fn exact(
    model: &Model,
    samples: &Source<'_>,
    outputs: &[Compared<'_>],
    values: &mut [OutputValues],
) -> Result<()> {
    let options = ImportOptions {
        dtype: DType::F64,
        executor: Executor::Reference,
        folded_norms: FoldedNorms::Leave,
        ..ImportOptions::default()
    };
    let student = Student::import(model, &options)?;
    let tensor = |output: &Compared<'_>| {
        student.tensor(&output.name).ok_or_else(|| {
            Error::internal(format!("parity: the exported student lost {}", output.name))
        })
    };
    let tensors = outputs.iter().map(tensor).collect::<Result<Vec<_>>>()?;
    let mut count = EXACT_SAMPLES.min(samples.len());
    let mut sample = 0;
    while sample < count {
        let batch = samples.batch(0, sample..sample + 1)?;
        let elements: usize = batch.inputs.iter().map(Tensor::elem_count).sum();
        count = count.min((EXACT_ELEMENTS / elements.max(1)).max(1));
        let pass = student.forward(&batch.inputs, Mode::Eval, &tensors, 0)?;
        for (values, &tensor) in values.iter_mut().zip(&tensors) {
            values.exact.extend(flat(&pass, tensor)?.to_vec1::<f64>()?);
        }
        sample += 1;
    }
    Ok(())
}

fn flat(pass: &Pass<'_>, tensor: TensorId) -> Result<Tensor> {
    Ok(pass.value(tensor)?.to_device(&candle_core::Device::Cpu)?.flatten_all()?)
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

/// Judges the computed values of an output of so many samples.
fn judge(output: &Compared<'_>, values: &OutputValues, samples: usize) -> OutputParity {
    let width = (values.trainer.len() / samples.max(1)).max(1);
    let rows = || {
        let exact = values.exact.chunks(width).map(Some).chain(std::iter::repeat(None));
        values.trainer.chunks(width).zip(values.runtime.chunks(width)).zip(exact)
    };
    let mut parity = OutputParity {
        output: output.name.clone(),
        classes: output.classes,
        samples,
        max_difference: 0.0,
        max_relative: 0.0,
        bound: BOUND,
        float32_error: None,
        decisions: Decisions::default(),
        diverged: 0,
        lost: 0,
    };
    if output.integers {
        let pairs = values.trainer.iter().zip(&values.runtime);
        let same = pairs.filter(|(ours, theirs)| ours.total_cmp(theirs).is_eq()).count();
        parity.decisions = Decisions { clear: values.trainer.len(), same };
        return parity;
    }
    let largest = values
        .trainer
        .iter()
        .filter(|x| x.is_finite())
        .fold(0.0, |m: f64, x| m.max(f64::from(*x).abs()));
    // a row of small values is judged by those of the whole output
    let least = output.least.max(FLAT * largest).max(f64::from(f32::MIN_POSITIVE));
    let scale = |row: &[f32]| magnitude(row).max(least);
    for ((trainer, runtime), exact) in rows() {
        match (is_finite(trainer), is_finite(runtime)) {
            (false, _) => parity.diverged += 1,
            (true, false) => parity.lost += 1,
            (true, true) => {
                let apart = distance(trainer, runtime.iter().map(|&x| f64::from(x)));
                parity.max_difference = parity.max_difference.max(apart);
                parity.max_relative = parity.max_relative.max(apart / scale(trainer));
                let Some(exact) = exact.filter(|row| row.iter().all(|x| x.is_finite())) else {
                    continue;
                };
                let error = parity.float32_error.get_or_insert(Float32Error {
                    samples: 0,
                    trainer: 0.0,
                    runtime: 0.0,
                });
                let of = |row| distance(row, exact.iter().copied()) / scale(trainer);
                error.samples += 1;
                error.trainer = error.trainer.max(of(trainer));
                error.runtime = error.runtime.max(of(runtime));
            }
        }
    }
    let rounding = parity.float32_error.map_or(0.0, Float32Error::of_rounding);
    parity.bound = BOUND.max(FACTOR * rounding);
    if output.classes {
        let tie = BOUND.max(TIE * rounding);
        parity.decisions = decisions(rows().map(|(row, _)| row), tie, scale);
    }
    parity
}

/// What the trainer and ONNX Runtime decide for, ties excluded.
fn decisions<'a>(
    rows: impl Iterator<Item = (&'a [f32], &'a [f32])>,
    tie: f64,
    scale: impl Fn(&[f32]) -> f64,
) -> Decisions {
    let mut found = Decisions::default();
    for (trainer, runtime) in rows {
        let (Some((class, margin)), true) = (decision(trainer), is_finite(trainer)) else {
            continue;
        };
        // both logits can be off, in opposite directions
        if margin > 2.0 * tie * scale(trainer) && is_finite(runtime) {
            found.clear += 1;
            found.same += usize::from(decision(runtime).is_some_and(|(theirs, _)| theirs == class));
        }
    }
    found
}

fn is_finite(row: &[f32]) -> bool {
    row.iter().all(|x| x.is_finite())
}

/// max |value|.
fn magnitude(row: &[f32]) -> f64 {
    row.iter().fold(0.0, |most, &x| most.max(f64::from(x).abs()))
}

/// max |Δ|.
fn distance(row: &[f32], other: impl Iterator<Item = f64>) -> f64 {
    row.iter().zip(other).fold(0.0, |most, (&x, y)| most.max((f64::from(x) - y).abs()))
}

/// The class of the largest logit, and its margin over the next; `None` for fewer than two logits.
fn decision(row: &[f32]) -> Option<(usize, f64)> {
    let largest = |without: Option<usize>| {
        let others = row.iter().enumerate().filter(|(class, _)| Some(*class) != without);
        others.max_by(|(_, a), (_, b)| a.total_cmp(b))
    };
    let (class, first) = largest(None)?;
    let (_, second) = largest(Some(class))?;
    Some((class, f64::from(*first) - f64::from(*second)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: usize = 4;
    const ROWS: usize = 100;

    static LOGITS: std::sync::LazyLock<Compared<'static>> = std::sync::LazyLock::new(|| Compared {
        name: "logits".into(),
        tensor: TensorId(0),
        projection: None,
        classes: true,
        integers: false,
        least: 0.0,
    });

    fn values(trainer: &[f32], runtime: &[f32], exact: Vec<f64>) -> OutputValues {
        OutputValues { trainer: trainer.to_vec(), runtime: runtime.to_vec(), exact }
    }

    /// Logits of a sample in float64, the largest about 2e4, as from immature running statistics.
    fn exact(row: usize) -> [f64; CLASSES] {
        let mut logits = [100.0, -3000.0, 9000.0, 1.0];
        logits[row % CLASSES] = 2e4;
        logits
    }

    /// The same with errors of this size relative to the largest, different for each seed.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "float32 is what is meant; small counts"
    )]
    fn rounded(error: f64, seed: f64) -> Vec<f32> {
        let wave = |at: usize, x: f64| x + 2e4 * error * (at as f64 * seed).sin();
        let all = (0..ROWS).flat_map(exact).enumerate();
        all.map(|(at, x)| wave(at, x) as f32).collect()
    }

    fn judged(trainer: &[f32], runtime: &[f32]) -> Parity {
        let exact: Vec<f64> = (0..EXACT_SAMPLES).flat_map(exact).collect();
        let first = judge(&LOGITS, &values(trainer, runtime, exact), ROWS);
        let parity = Parity { first, others: Vec::new(), runtime: "1.32.0".into() };
        let text = serde_json::to_string(&parity).unwrap();
        assert_eq!(serde_json::from_str::<Parity>(&text).unwrap(), parity, "it is kept as JSON");
        parity
    }

    #[test]
    fn two_roundings_of_one_function_agree_whatever_its_logits() {
        let parity = judged(&rounded(1e-7, 1.0), &rounded(1e-7, 2.0));
        parity.check().unwrap();
        assert!((parity.first.bound - BOUND).abs() < 1e-12 && parity.first.samples == ROWS);
        assert_eq!(parity.first.decisions, Decisions { clear: ROWS, same: ROWS });
        assert!(!parity.to_string().contains("float32 error"), "{parity}");

        // immature statistics: off by hundreds, but no more than float32 itself
        let parity = judged(&rounded(1e-2, 1.0), &rounded(1e-2, 2.0));
        parity.check().unwrap();
        assert!(parity.first.max_difference > 100.0 && parity.first.max_relative > 10.0 * BOUND);
        assert!(parity.to_string().contains("float32 error 1.0 %"), "{parity}");
    }

    #[test]
    fn another_function_is_found_whoever_computes_it() {
        for error in [1e-7, 1e-3] {
            let right = rounded(error, 1.0);
            // a wrong operator, or wrong weights in the file
            let wrong: Vec<f32> = right.iter().map(|x| x * 0.9).collect();
            for (trainer, runtime) in [(&right, &wrong), (&wrong, &right)] {
                let error = judged(trainer, runtime).check().unwrap_err();
                assert!(error.to_string().contains("from float64"), "{error}");
            }
        }
        // a small difference matters where float32 is accurate
        let near: Vec<f32> = rounded(1e-7, 1.0).iter().map(|x| x * 1.002).collect();
        judged(&rounded(1e-7, 1.0), &near).check().unwrap_err();
    }

    #[test]
    fn decisions_beyond_ties_are_the_same() {
        let trainer = rounded(1e-2, 1.0);
        let mut runtime = rounded(1e-2, 2.0);
        let swap = |row: &mut [f32]| {
            let (largest, _) = decision(row).unwrap();
            row[largest] = 8000.0;
        };
        // by size, these differences could be rounding
        runtime.chunks_mut(CLASSES).take(1).for_each(swap);
        judged(&trainer, &runtime).check().unwrap();
        runtime.chunks_mut(CLASSES).skip(20).take(20).for_each(swap);
        let parity = judged(&trainer, &runtime);
        assert!(parity.first.max_relative < parity.first.bound, "{parity:?}");
        assert!(parity.check().unwrap_err().to_string().contains("expected the trainer's class"));

        // two logits that rounding can swap decide nothing
        let tie = |first: f32| [first, 2e4, -1e4, 0.0].repeat(ROWS);
        let exact: Vec<f64> = tie(2e4).into_iter().map(f64::from).collect();
        let (trainer, runtime) = (tie(20_020.0), tie(19_980.0));
        let parity = judge(&LOGITS, &values(&trainer, &runtime, exact), ROWS);
        parity.check().unwrap();
        assert_eq!(parity.decisions.clear, 0);
    }

    #[test]
    fn probabilities_are_judged_as_parts_of_one() {
        let values = values(&[1e-9; 8], &[2e-8; 8], vec![1e-9; 8]);
        let map = |least| Compared { classes: false, least, ..LOGITS.clone() };
        judge(&map(1e-2), &values, 2).check().unwrap();
        judge(&map(0.0), &values, 2).check().unwrap_err();
    }

    #[test]
    fn logits_that_are_no_numbers_are_the_runs_or_the_runtimes() {
        let mut broken = rounded(1e-7, 1.0);
        broken[5] = f32::NAN;
        broken[9] = f32::INFINITY;
        for runtime in [&rounded(1e-7, 2.0), &broken] {
            let parity = judged(&broken, runtime);
            parity.check().unwrap();
            assert_eq!((parity.first.diverged, parity.first.lost), (2, 0));
        }
        let parity = judged(&rounded(1e-7, 2.0), &broken);
        assert_eq!((parity.first.diverged, parity.first.lost), (0, 2));
        assert!(parity.check().unwrap_err().to_string().contains("2 of 100 samples"));
        let nothing = vec![f32::NAN; ROWS * CLASSES];
        let parity = judged(&nothing, &nothing);
        parity.check().unwrap();
        assert_eq!((parity.first.diverged, parity.first.float32_error), (ROWS, None));
    }
}
