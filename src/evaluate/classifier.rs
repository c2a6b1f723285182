//! A classifier's scores: which tensor holds its logits, and which label is which class.

use super::outputs::{self, Output};
use super::runner::{First, Rows};
use super::samples::Samples;
use super::scores::{RunningScores, Scores};
use crate::array::{Array, Values};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::extract::classes::{Agreement, Known, agreement};
use crate::extract::recorded_classes;
use crate::monitor::Monitor;
use crate::onnx::logits::{self, Conversion, LogitCandidates, Logits, Verdict};
use crate::onnx::{Model, tap};
use crate::recipe::{Evaluate, LogitsChoice};
use std::ops::Range;

/// What helps where a model shows no class logits.
const OTHERWISE: &str = "--logits TENSOR names the logits of a classifier; --against \
                         TEACHER.onnx or --against CACHE compares any outputs with a teacher's, \
                         --knn judges an embedding";

/// The tensors in which to look for the logits; `None` where the model has none.
///
/// # Errors
/// If the tensor that the user names does not exist.
pub(super) fn candidates(
    recipe: &Evaluate,
    model: &Model,
    classes: usize,
) -> Result<Option<LogitCandidates>> {
    match &recipe.logits {
        LogitsChoice::Auto => Ok(logits::of_output(model, classes)),
        LogitsChoice::None => Ok(None),
        LogitsChoice::Tensor(name) => {
            let names = model.graph().node.iter().flat_map(|node| &node.output);
            let names: Vec<&str> = names.map(String::as_str).collect();
            let chosen = tap::resolve(std::slice::from_ref(name), &names)?.remove(0);
            Ok(Some(logits::of_tensor(model, &chosen.tensor)))
        }
    }
}

/// The error of a model whose outputs are no class logits.
pub(super) fn no_logits(recipe: &Evaluate, model: &Model) -> Error {
    let declared = model.outputs();
    let outputs = declared.iter().map(outputs::declared).collect::<Vec<_>>().join(", ");
    Error::input(format!(
        "{}: expected class logits [batch, classes], found {outputs}",
        recipe.model.display()
    ))
    .hint(OTHERWISE)
}

/// A classifier that is scored.
pub(super) struct Classifier {
    pub(super) logits: Logits,
    /// The model's class for each of the data set's labels; `None` if they are the same.
    classes: Option<Vec<usize>>,
    sums: RunningScores,
}

impl Classifier {
    /// Decides by the first run which tensor holds the logits. `tensors`: those of the first run.
    ///
    /// # Errors
    /// Says why there are no logits, or that their classes are not the data's.
    pub(super) fn new(
        recipe: &Evaluate,
        model: &Model,
        found: &LogitCandidates,
        tensors: &[String],
        first: &First,
        dataset: &dyn Dataset,
    ) -> Result<Self> {
        let logits = choose(found, tensors, first)
            .map_err(|reason| Error::input(format!("logits: {reason}")).hint(OTHERWISE))?;
        let classes = class_map(recipe, model, logits.classes, dataset)?;
        Ok(Self { logits, classes, sums: RunningScores::default() })
    }

    /// Says where the logits are, if that is not simply the output.
    pub(super) fn describe(&self, monitor: &dyn Monitor) {
        if let Some(note) = &self.logits.note {
            monitor.note(&format!("logits: {note}"));
        }
    }

    /// Counts some samples.
    ///
    /// # Errors
    /// If the values are not logits, or a label is not among the classes.
    pub(super) fn add(
        &mut self,
        rows: &Rows,
        samples: &Samples<'_>,
        range: Range<usize>,
    ) -> Result<()> {
        let logits = logits_of(&self.logits, rows)?;
        self.sums.add(&logits, &samples.labels(range), self.classes.as_deref())
    }

    /// The scores.
    pub(super) fn scores(&self, seconds: f64, provider: &str) -> Scores {
        self.sums.scores(seconds, provider)
    }
}

/// The logits as the first run shows them.
///
/// # Errors
/// Says why there are none.
fn choose(found: &LogitCandidates, tensors: &[String], first: &First) -> Result<Logits, String> {
    let value = |tensor: &str| {
        let at = tensors.iter().position(|name| name == tensor)?;
        first.values.get(at)?.as_ref()
    };
    let mut logits = found.choose(|tensor| value(tensor).map(|rows| rows.row.clone()))?;
    let values = value(&logits.tensor).map_or(&[][..], |rows| &rows.values);
    if logits.conversion.is_none() && logits::are_probabilities(values, logits.classes) {
        logits.conversion = Some(Conversion::Probabilities);
        logits.note = Some(Conversion::Probabilities.describe(&logits.tensor));
    }
    Ok(logits)
}

/// Marks a model's output if it holds class logits or their probabilities: a softmax ends it,
/// or it has as many values as the data has classes, and the file says nothing else.
pub(super) fn mark(model: &Model, outputs: &mut [Output], classes: Option<usize>) {
    let Some(found) = logits::of_output(model, classes.unwrap_or(0)) else { return };
    let name = found.tensor();
    let Some(output) = outputs.iter_mut().find(|output| output.name == name) else { return };
    // what a softmax reads need not be an output: the output alone is asked
    let row = |tensor: &str| (tensor == name).then(|| output.row.clone());
    if let Ok(logits) = found.choose(row) {
        let verdict = found.judge(model, logits.classes, classes.unwrap_or(0));
        let is_sure = logits.ends_in_softmax || classes == Some(logits.classes);
        output.is_classes = is_sure && verdict == Verdict::Logits;
    }
}

/// The model's class for each of the data set's labels; `None` if they are the same.
fn class_map(
    recipe: &Evaluate,
    model: &Model,
    count: usize,
    dataset: &dyn Dataset,
) -> Result<Option<Vec<usize>>> {
    let recorded = match &recipe.recorded_classes {
        Some(names) => Some(names.clone()),
        None => recorded_classes(model)?,
    };
    let known = Known {
        who: "the model",
        count: Some(count),
        recorded: recorded.as_deref(),
        file: recipe.classes.as_deref(),
    };
    match agreement(known, dataset)? {
        Agreement::Same { places, .. } => Ok(places
            .map(|places| places.into_iter().filter_map(|at| usize::try_from(at).ok()).collect())),
        Agreement::Others(reason) => {
            Err(Error::input(format!("{reason}: there is nothing to measure")).hint(
                "--classes FILE names the model's classes in the order of its logits, --logits \
                 TENSOR another tensor; --against TEACHER.onnx and --knn need no classes",
            ))
        }
    }
}

/// Logits `[N, classes]` from the values of their tensor.
fn logits_of(logits: &Logits, rows: &Rows) -> Result<Array> {
    let mut values = rows.values.clone();
    if let Some(conversion) = logits.conversion {
        conversion.apply(&mut values, rows.dtype).map_err(|index| {
            let value = values.get(index).copied().unwrap_or(f32::NAN);
            Error::input(format!(
                "tensor `{}`: expected a probability, found {value}",
                logits.tensor
            ))
            .hint("name the tensor that holds the logits: --logits TENSOR")
        })?;
    }
    Array::new(vec![values.len() / logits.classes.max(1), logits.classes], Values::F32(values))
}
