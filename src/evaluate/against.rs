//! The agreement of a student's outputs with a teacher's.

use super::outputs::{self, Output};
use super::pairs;
use super::runner::{Rows, varies};
use crate::error::{Error, Result};
use crate::metric::{Agreement, AgreementSummary, Reading};
use crate::monitor::Monitor;
use crate::recipe::{Evaluate, LogitsChoice, OutputKind};
use crate::statistic::Statistic;
use serde::Serialize;

/// How far a student's outputs agree with a teacher's.
#[derive(Debug, Clone, Serialize)]
pub struct TeacherAgreement {
    /// The teacher's file, or the cache's folder.
    pub teacher: String,
    /// Samples that were compared.
    pub samples: usize,
    /// Each pair of outputs, in the student's order.
    pub outputs: Vec<OutputAgreement>,
    /// Outputs of the student that have no counterpart.
    pub unpaired_student: Vec<String>,
    /// Outputs of the teacher that have no counterpart.
    pub unpaired_teacher: Vec<String>,
}

/// How far two outputs agree.
#[derive(Debug, Clone, Serialize)]
pub struct OutputAgreement {
    /// The student's output or tensor.
    pub student: String,
    /// The teacher's output or tensor, or the array of the cache.
    pub teacher: String,
    /// Shape of one sample's values.
    pub shape: Vec<usize>,
    /// Length of the vectors that cosines are taken of.
    pub channels: usize,
    /// How the values are read: `values`, `classes`, `indices` or `labels`.
    pub reading: &'static str,
    /// In what they agree.
    #[serde(flatten)]
    pub agreement: AgreementSummary,
}

/// A comparison of outputs, over any number of blocks.
pub(super) struct Comparison {
    pairs: Vec<Compared>,
    unpaired_student: Vec<String>,
    unpaired_teacher: Vec<String>,
}

/// Two outputs that are compared.
pub(super) struct Compared {
    pub(super) student: Output,
    pub(super) teacher: Output,
    reading: Reading,
    channels: usize,
    agreement: Agreement,
}

/// The outputs of one side: those that can be compared, and what is said of the others.
pub(super) type Side = (Vec<Output>, Vec<String>);

impl Comparison {
    /// Decides what is compared with what and how it is read, and says what is guessed.
    ///
    /// # Errors
    /// As [`pairs::pair`].
    pub(super) fn new(
        recipe: &Evaluate,
        student: &Side,
        teacher: &Side,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let pairs = pairs::pair(&student.0, &teacher.0, &recipe.pairs)?;
        for reading in &recipe.readings {
            let is_read = pairs.iter().any(|pair| {
                student.0[pair.student].is_called(&reading.output)
                    || teacher.0[pair.teacher].is_called(&reading.output)
            });
            if !is_read {
                let names = pairs.iter().map(|pair| format!("`{}`", student.0[pair.student].name));
                return Err(Error::input(format!(
                    "--read {}: expected an output that is compared, such as {}",
                    reading.output,
                    names.collect::<Vec<_>>().join(", ")
                )));
            }
        }
        let unpaired = |(outputs, others): &Side, taken: &[usize]| -> Vec<String> {
            if !recipe.pairs.is_empty() {
                return Vec::new();
            }
            let left = outputs.iter().enumerate().filter(|(at, _)| !taken.contains(at));
            left.map(|(_, output)| output.describe()).chain(others.iter().cloned()).collect()
        };
        let taken: Vec<usize> = pairs.iter().map(|pair| pair.student).collect();
        let unpaired_student = unpaired(student, &taken);
        let taken: Vec<usize> = pairs.iter().map(|pair| pair.teacher).collect();
        let unpaired_teacher = unpaired(teacher, &taken);
        for (whose, unpaired) in [("student", &unpaired_student), ("teacher", &unpaired_teacher)] {
            if !unpaired.is_empty() {
                monitor.note(&format!(
                    "not compared, of the {whose}: {} (--pair STUDENT=TEACHER compares what it \
                     names)",
                    unpaired.join(", ")
                ));
            }
        }
        let mut compared = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let (student, teacher) = (&student.0[pair.student], &teacher.0[pair.teacher]);
            if let Some(guess) = pair.guess {
                monitor.note(&format!(
                    "`{}` of the student is compared with `{}` of the teacher, {guess}",
                    student.name, teacher.name
                ));
            }
            compared.push(Compared::new(recipe, student, teacher, monitor));
        }
        Ok(Self { pairs: compared, unpaired_student, unpaired_teacher })
    }

    /// The pairs.
    pub(super) fn pairs(&self) -> &[Compared] {
        &self.pairs
    }

    /// Bytes that the compared values of one sample take on each side.
    pub(super) fn row_bytes(&self) -> usize {
        let values = |pair: &Compared| pair.student.row.iter().product::<usize>();
        self.pairs.iter().map(values).sum::<usize>() * size_of::<f32>()
    }

    /// Adds a block: the values of each pair's outputs.
    ///
    /// # Errors
    /// If a shape varies.
    pub(super) fn add(&mut self, student: &[Rows], teacher: &[Rows]) -> Result<()> {
        for ((pair, student), teacher) in self.pairs.iter_mut().zip(student).zip(teacher) {
            for (output, rows) in [(&pair.student, student), (&pair.teacher, teacher)] {
                if rows.row != output.row {
                    return Err(varies(&output.name, &output.row, &rows.row));
                }
            }
            pair.agreement.add(&student.values, &teacher.values)?;
        }
        Ok(())
    }

    /// What has been found.
    pub(super) fn report(&self, teacher: String) -> TeacherAgreement {
        let output = |pair: &Compared| OutputAgreement {
            student: pair.student.name.clone(),
            teacher: pair.teacher.name.clone(),
            shape: pair.student.row.clone(),
            channels: pair.channels,
            reading: match pair.reading {
                Reading::Values => "values",
                Reading::Classes => "classes",
                Reading::Indices => "indices",
                Reading::Labels(_) => "labels",
            },
            agreement: pair.agreement.summary(),
        };
        let outputs: Vec<OutputAgreement> = self.pairs.iter().map(output).collect();
        TeacherAgreement {
            teacher,
            samples: outputs.first().map_or(0, |output| output.agreement.samples),
            outputs,
            unpaired_student: self.unpaired_student.clone(),
            unpaired_teacher: self.unpaired_teacher.clone(),
        }
    }
}

impl Compared {
    fn new(recipe: &Evaluate, student: &Output, teacher: &Output, monitor: &dyn Monitor) -> Self {
        let said = recipe.readings.iter().find(|reading| {
            student.is_called(&reading.output) || teacher.is_called(&reading.output)
        });
        let is_named =
            matches!(&recipe.logits, LogitsChoice::Tensor(name) if *name == student.name);
        let asked = said.map(|reading| reading.kind);
        let asked = asked.or(is_named.then_some(OutputKind::Classes));
        let may_be_classes = recipe.logits != LogitsChoice::None;
        let (reading, vectors, note) = outputs::reading(student, teacher, asked, may_be_classes);
        if let Some(note) = note {
            monitor.note(&note);
        }
        // what makes a tap of a cache is not recorded
        let is_tap = Statistic::of_path(&teacher.name).is_some();
        let is_unlike =
            !is_tap && outputs::are_probabilities(student) != outputs::are_probabilities(teacher);
        if is_unlike && reading != Reading::Indices {
            let (with, without) = if outputs::are_probabilities(student) {
                ("student", "teacher")
            } else {
                ("teacher", "student")
            };
            monitor.warn(&format!(
                "`{}`: the {with}'s values are probabilities, the {without}'s are not: cosine and \
                 MSE compare unlike values",
                student.name
            ));
        }
        let (student, teacher) = (student.clone(), teacher.clone());
        let agreement = Agreement::new(vectors, reading);
        Self { student, teacher, reading, channels: vectors.channels, agreement }
    }
}
