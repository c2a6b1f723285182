//! Checks that ONNX Runtime computes the same from the exported student as the trainer does. Two
//! float32 programs never agree to the last bit, and with few steps behind the running statistics a
//! network amplifies last bits into leading ones, so the difference is judged by how far both are
//! from the same graph and weights in float64.

use super::job::Host;
use crate::array::{Array, Values};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::onnx::{Model, logits};
use crate::runtime::{Device, Session, SessionOptions};
use crate::student::{Executor, FoldedNorms, ImportOptions, Mode, Student};
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
/// The allowed difference of a sample's logits, relative to the largest, whatever their own error.
const BOUND: f64 = 1e-3;
/// The allowed difference as a multiple of the float32 error: Winograd's transforms have forty
/// times the error of direct sums, and few samples show less than the worst of many.
const FACTOR: f64 = 64.0;
/// The same for decisions: two logits within this many errors of each other are tied.
const TIE: f64 = 8.0;
/// The share of decisions, ties excluded, that must be the same.
const AGREEMENT: f64 = 0.99;

/// How far ONNX Runtime's logits are from the trainer's, and the yardstick for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parity {
    /// Samples compared.
    pub samples: usize,
    /// max |Δ| over all logits.
    pub max_difference: f64,
    /// The largest max |Δ| / max(1, max |logit|) of any sample.
    pub max_relative: f64,
    /// The upper limit for `max_relative`: 1e-3, or a multiple of the float32 error.
    pub bound: f64,
    /// How far both are from float64; `None` if no sample could be compared with it.
    #[serde(default)]
    pub float32_error: Option<Float32Error>,
    /// The classes that the two decide for.
    #[serde(default)]
    pub decisions: Decisions,
    /// Samples for which the trainer's own logits are not finite; excluded.
    #[serde(default)]
    pub diverged: usize,
    /// Samples for which only ONNX Runtime's logits are not finite.
    #[serde(default)]
    pub lost: usize,
    /// ONNX Runtime's version.
    pub runtime: String,
}

/// The largest distance from the same graph and weights in float64, measured like
/// [`Parity::max_relative`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Float32Error {
    /// Samples computed in float64.
    pub samples: usize,
    /// The distance of the trainer's logits.
    pub trainer: f64,
    /// The distance of ONNX Runtime's logits.
    pub runtime: f64,
}

impl Float32Error {
    /// The error that float32 itself causes in the network. If the two are not the same function,
    /// only one of them is far off, so the other one shows it.
    fn of_rounding(self) -> f64 {
        self.trainer.min(self.runtime)
    }
}

/// The classes that the two decide for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decisions {
    /// Samples whose two largest logits differ by more than the float32 error.
    pub clear: usize,
    /// Those for which both decide for the same class.
    pub same: usize,
}

impl Parity {
    /// Fails if the exported model is not the function that was trained.
    ///
    /// # Errors
    /// A failed check: how far apart the two are.
    pub fn check(&self) -> Result<()> {
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
            let what = format!("parity: logits of student.onnx in ONNX Runtime: {what}{error}");
            Err(Error::check(what)
                .hint(format!("{hint}report this: the file is not what was trained")))
        };
        let Decisions { clear, same } = self.decisions;
        if self.lost > 0 {
            return fail(format!(
                "expected finite ones as the trainer's, found others for {} of {} samples",
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
            return fail(format!(
                "expected the trainer's class for {clear} samples, found it for {same}"
            ));
        }
        Ok(())
    }

    /// Warns of problems with a student that the check does not cover.
    pub(super) fn warn(&self, monitor: &dyn Monitor) {
        let Self { samples, diverged, lost, decisions, bound, .. } = *self;
        if diverged > 0 {
            monitor.warn(&format!(
                "the run has diverged: the student's logits are not finite for {diverged} of \
                 {samples} samples (a lower --lr, or clip in the recipe)"
            ));
        }
        if bound > BOUND && decisions.clear == 0 && samples > diverged + lost {
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
        write!(f, "parity max |Δlogit| {:.2e} on {} samples", self.max_difference, self.samples)?;
        match self.float32_error.map(Float32Error::of_rounding) {
            Some(error) if self.bound > BOUND => {
                write!(f, ", float32 error {:.1} %", 100.0 * error)
            }
            _ => Ok(()),
        }
    }
}

/// Logits `[sample, class]` of the same samples.
struct Logits<'a> {
    classes: usize,
    trainer: &'a [f32],
    runtime: &'a [f32],
    /// The logits of the first samples.
    exact: &'a [f64],
}

/// Runs the first samples through both, and some of them in float64.
pub(super) fn parity(
    student: &Student,
    model: &Model,
    samples: &Source<'_>,
    host: &Host<'_>,
) -> Result<Parity> {
    let runtime = host.runtime()?;
    let options = SessionOptions { device: Device::Cpu, threads: host.threads };
    let outputs = [logits::of_student(model).ok_or_else(|| {
        Error::input("student: expected a first output [batch, classes], found another")
    })?];
    let mut session = Session::new(&runtime, model, &outputs, &options)?;
    let inputs = model.inputs();
    let count = samples.len().min(SAMPLES);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for start in (0..count).step_by(BATCH) {
        let batch = samples.batch(0, start..(start + BATCH).min(count))?;
        ours.extend(evaluate(student, &batch.inputs)?.to_dtype(DType::F32)?.to_vec1::<f32>()?);
        let arrays = batch.inputs.iter().zip(&inputs).map(|(tensor, input)| {
            let array = array(tensor)?;
            // a half-precision student takes half-precision inputs
            let dtype = input.dtype.filter(|dtype| dtype.is_float() && array.dtype().is_float());
            array.converted(dtype.unwrap_or(array.dtype()))
        });
        let arrays = arrays.collect::<Result<Vec<_>>>()?;
        let named: Vec<(&str, &Array)> =
            inputs.iter().map(|i| i.name.as_str()).zip(&arrays).collect();
        let results = session.run(&named, &outputs)?;
        theirs.extend(results.first().map(Array::to_f32).unwrap_or_default());
        if ours.len() != theirs.len() {
            return Err(Error::check(format!(
                "parity: expected {} logits from ONNX Runtime, found {}",
                ours.len(),
                theirs.len()
            )));
        }
    }
    drop(session);
    let exact = exact(model, samples)?;
    Ok(judge(
        &Logits {
            classes: ours.len() / count.max(1),
            trainer: &ours,
            runtime: &theirs,
            exact: &exact,
        },
        runtime.version,
    ))
}

/// The exported graph's logits of the first samples in float64.
fn exact(model: &Model, samples: &Source<'_>) -> Result<Vec<f64>> {
    let options = ImportOptions {
        dtype: DType::F64,
        executor: Executor::Reference,
        folded_norms: FoldedNorms::Leave,
        ..ImportOptions::default()
    };
    let student = Student::import(model, &options)?;
    let mut logits = Vec::new();
    let mut count = EXACT_SAMPLES.min(samples.len());
    let mut sample = 0;
    while sample < count {
        let batch = samples.batch(0, sample..sample + 1)?;
        let elements: usize = batch.inputs.iter().map(Tensor::elem_count).sum();
        count = count.min((EXACT_ELEMENTS / elements.max(1)).max(1));
        logits.extend(evaluate(&student, &batch.inputs)?.to_vec1::<f64>()?);
        sample += 1;
    }
    Ok(logits)
}

/// A student's logits at inference, concatenated.
fn evaluate(student: &Student, inputs: &[Tensor]) -> Result<Tensor> {
    let pass = student.forward(inputs, Mode::Eval, &[], 0)?;
    Ok(pass.value(student.logits())?.flatten_all()?)
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

/// Judges the computed logits. `version`: ONNX Runtime's.
fn judge(logits: &Logits<'_>, version: String) -> Parity {
    let classes = logits.classes.max(1);
    let rows = || {
        let exact = logits.exact.chunks(classes).map(Some).chain(std::iter::repeat(None));
        logits.trainer.chunks(classes).zip(logits.runtime.chunks(classes)).zip(exact)
    };
    let mut parity = Parity {
        samples: rows().count(),
        max_difference: 0.0,
        max_relative: 0.0,
        bound: BOUND,
        float32_error: None,
        decisions: Decisions::default(),
        diverged: 0,
        lost: 0,
        runtime: version,
    };
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
    let tie = BOUND.max(TIE * rounding);
    for ((trainer, runtime), _) in rows() {
        let (Some((class, margin)), true) = (decision(trainer), is_finite(trainer)) else {
            continue;
        };
        // both logits can be off, in opposite directions
        if margin > 2.0 * tie * scale(trainer) && is_finite(runtime) {
            parity.decisions.clear += 1;
            parity.decisions.same +=
                usize::from(decision(runtime).is_some_and(|(theirs, _)| theirs == class));
        }
    }
    parity
}

fn is_finite(row: &[f32]) -> bool {
    row.iter().all(|x| x.is_finite())
}

/// max(1, max |logit|).
fn scale(row: &[f32]) -> f64 {
    row.iter().fold(1.0, |scale, &x| scale.max(f64::from(x).abs()))
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
        let logits = Logits { classes: CLASSES, trainer, runtime, exact: &exact };
        let parity = judge(&logits, "1.32.0".into());
        let text = serde_json::to_string(&parity).unwrap();
        assert_eq!(serde_json::from_str::<Parity>(&text).unwrap(), parity, "it is kept as JSON");
        parity
    }

    #[test]
    fn two_roundings_of_one_function_agree_whatever_its_logits() {
        let parity = judged(&rounded(1e-7, 1.0), &rounded(1e-7, 2.0));
        parity.check().unwrap();
        assert!((parity.bound - BOUND).abs() < 1e-12 && parity.samples == ROWS);
        assert_eq!(parity.decisions, Decisions { clear: ROWS, same: ROWS });
        assert!(!parity.to_string().contains("float32 error"), "{parity}");

        // immature statistics: off by hundreds, but no more than float32 itself
        let parity = judged(&rounded(1e-2, 1.0), &rounded(1e-2, 2.0));
        parity.check().unwrap();
        assert!(parity.max_difference > 100.0 && parity.max_relative > 10.0 * BOUND);
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
        assert!(parity.max_relative < parity.bound, "{parity:?}");
        assert!(parity.check().unwrap_err().to_string().contains("expected the trainer's class"));

        // two logits that rounding can swap decide nothing
        let tie = |first: f32| [first, 2e4, -1e4, 0.0].repeat(ROWS);
        let exact: Vec<f64> = tie(2e4).into_iter().map(f64::from).collect();
        let (trainer, runtime) = (tie(20_020.0), tie(19_980.0));
        let logits =
            Logits { classes: CLASSES, trainer: &trainer, runtime: &runtime, exact: &exact };
        let parity = judge(&logits, String::new());
        parity.check().unwrap();
        assert_eq!(parity.decisions.clear, 0);
    }

    #[test]
    fn logits_that_are_no_numbers_are_the_runs_or_the_runtimes() {
        let mut broken = rounded(1e-7, 1.0);
        broken[5] = f32::NAN;
        broken[9] = f32::INFINITY;
        for runtime in [&rounded(1e-7, 2.0), &broken] {
            let parity = judged(&broken, runtime);
            parity.check().unwrap();
            assert_eq!((parity.diverged, parity.lost), (2, 0));
        }
        let parity = judged(&rounded(1e-7, 2.0), &broken);
        assert_eq!((parity.diverged, parity.lost), (0, 2));
        assert!(parity.check().unwrap_err().to_string().contains("2 of 100 samples"));
        let nothing = vec![f32::NAN; ROWS * CLASSES];
        let parity = judged(&nothing, &nothing);
        parity.check().unwrap();
        assert_eq!((parity.diverged, parity.float32_error), (ROWS, None));
    }
}
