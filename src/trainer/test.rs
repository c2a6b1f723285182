//! What is measured on the test samples after each epoch.

use super::loader::{Steps, stream};
use super::metrics::{Evaluation, OutputScore};
use super::pairing::Pair;
use super::source::{Batch, Source, TeacherLogits};
use super::step::count_correct;
use crate::criterion::papers::cross_entropy::cross_entropy;
use crate::error::{Error, Result};
use crate::metric::{Agreement, Bank, Reading, Vectors, percent};
use crate::monitor::Monitor;
use crate::student::{Mode, Pass, Student, TensorId};
use candle_core::{DType, Device, Tensor};

/// The test samples, and what is measured on them.
#[derive(Debug)]
pub struct Test<'a> {
    /// The samples, with the teacher's outputs if they are those of a cache.
    pub source: Source<'a>,
    /// The student's class logits, whose accuracy is measured.
    pub classes: Option<TensorId>,
    /// The student's outputs that are compared with the teacher's.
    pub outputs: Vec<ComparedOutput>,
    /// The embedding whose neighbors are asked.
    pub neighbors: Option<Neighbors<'a>>,
}

/// An output of the student and the teacher's that it is compared with.
#[derive(Debug)]
pub struct ComparedOutput {
    /// The pair, of one shape.
    pub pair: Pair,
    /// The student's tensor.
    pub tensor: TensorId,
    /// Where a batch has the teacher's: the tap at this index, or else the logits.
    pub tap: Option<usize>,
}

/// An embedding, and the samples among which its neighbors are sought.
#[derive(Debug)]
pub struct Neighbors<'a> {
    /// Labeled training samples, unaugmented.
    pub bank: Source<'a>,
    /// The student's tensor `[batch, channels]`.
    pub tensor: TensorId,
    /// Its channels.
    pub channels: usize,
}

/// How a pass over samples is made.
#[derive(Clone, Copy)]
pub struct Passes<'a> {
    /// Samples at a time.
    pub batch: usize,
    /// Threads that prepare batches.
    pub threads: usize,
    /// Receives progress.
    pub monitor: &'a dyn Monitor,
}

impl Test<'_> {
    /// Measures a student in eval mode; `None` if there is nothing to measure it by.
    ///
    /// # Errors
    /// When a sample cannot be read or does not fit the student.
    #[allow(clippy::cast_precision_loss, reason = "a number of samples")]
    pub fn measure(&self, student: &Student, passes: Passes<'_>) -> Result<Option<Evaluation>> {
        let bank = match &self.neighbors {
            Some(neighbors) => Some((neighbors, neighbors.bank(student, passes)?)),
            None => None,
        };
        let mut agreements: Vec<Agreement> =
            self.outputs.iter().map(ComparedOutput::agreement).collect();
        let keep: Vec<TensorId> = self.outputs.iter().map(|output| output.tensor).collect();
        let (mut correct, mut labeled, mut loss) = (0, 0, 0.0);
        let (mut near, mut asked) = (0, 0);
        run(&self.source, "test", student, &keep, passes, |pass, batch| {
            if let Some(classes) = self.classes {
                let scores = pass.value(classes)?;
                let (right, known) = count_correct(scores, &batch.labels)?;
                loss += cross_entropy(scores, &batch.labels, 0.0)?.value * known as f64;
                correct += right;
                labeled += known;
            }
            for (output, agreement) in self.outputs.iter().zip(&mut agreements) {
                let teacher = output.teacher(batch)?;
                let student = output.pair.of_student(pass.value(output.tensor)?)?;
                agreement.add(&values(&student)?, &values(teacher)?)?;
            }
            if let Some((neighbors, bank)) = &bank {
                let found = bank.classify(&values(pass.value(neighbors.tensor)?)?, None)?;
                for (found, label) in found.iter().zip(&batch.labels) {
                    let label = usize::try_from(*label).ok();
                    asked += usize::from(label.is_some());
                    near += usize::from(label.is_some() && *found == label);
                }
            }
            Ok(())
        })?;
        let scores = self.outputs.iter().zip(&agreements).map(|(output, agreement)| {
            let found = agreement.summary();
            let score = OutputScore {
                cosine: found.cosine,
                mse: found.mse,
                top1: found.classes.and_then(|classes| classes.top1),
                not_finite: found.not_finite.student + found.not_finite.teacher,
            };
            (output.pair.student.clone(), score)
        });
        let top1 = percent(correct, labeled);
        let evaluation = Evaluation {
            samples: if top1.is_some() { labeled } else { self.source.len() },
            top1,
            loss: top1.map(|_| loss / labeled as f64),
            knn: percent(near, asked),
            outputs: scores.collect(),
        };
        Ok((!evaluation.is_empty()).then_some(evaluation))
    }
}

impl ComparedOutput {
    fn agreement(&self) -> Agreement {
        // the teacher's logits are class logits by definition
        let reading = if self.tap.is_none() { Reading::Classes } else { Reading::Values };
        Agreement::new(Vectors::of(&self.pair.student_shape), reading)
    }

    fn teacher<'b>(&self, batch: &'b Batch) -> Result<&'b Tensor> {
        let found = match (self.tap, &batch.logits) {
            (Some(tap), _) => batch.taps.get(tap),
            (None, Some(TeacherLogits::Dense(logits))) => Some(logits),
            (None, _) => None,
        };
        found.ok_or_else(|| Error::internal("test: the batch lacks a teacher's output"))
    }
}

impl Neighbors<'_> {
    /// The bank of the student's embeddings.
    fn bank(&self, student: &Student, passes: Passes<'_>) -> Result<Bank> {
        let mut bank = Bank::new(self.channels);
        run(&self.bank, "k-NN bank", student, &[self.tensor], passes, |pass, batch| {
            let embeddings = values(pass.value(self.tensor)?)?;
            let rows = embeddings.chunks(self.channels.max(1)).zip(&batch.labels);
            let labeled =
                rows.filter_map(|(row, label)| Some((row, usize::try_from(*label).ok()?)));
            let (rows, labels): (Vec<&[f32]>, Vec<usize>) = labeled.unzip();
            bank.add(&rows.concat(), &labels)
        })?;
        Ok(bank)
    }
}

/// Passes all samples of a source through a student in eval mode.
fn run(
    source: &Source<'_>,
    name: &str,
    student: &Student,
    keep: &[TensorId],
    passes: Passes<'_>,
    mut each: impl FnMut(&Pass<'_>, &Batch) -> Result<()>,
) -> Result<()> {
    let Passes { batch, threads, monitor } = passes;
    let steps = Steps { rows: source.len(), batch, drop_last: false };
    monitor.begin(name, "images", source.len() as u64, 0);
    stream(source, steps, 0..steps.per_epoch(), threads, |batches| {
        for _ in 0..steps.per_epoch() {
            let batch = batches.take()?;
            let pass = student.forward(&batch.inputs, Mode::Eval, keep, 0)?;
            each(&pass, &batch)?;
            monitor.advance(batch.labels.len() as u64, 0);
        }
        Ok(())
    })?;
    monitor.end();
    Ok(())
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}
