//! Finds the tensor that holds a classifier's logits: its first output, or what the softmax or
//! sigmoid before that output reads.
//!
//! Exporters often add nodes after the softmax (casts, reshapes, clips, logarithms, functions), or
//! write it as exponentials over their sum. The graph is walked back through all of it. Where only
//! probabilities are available, their logarithms are logits, since softmax(log p) = p; for a
//! sigmoid, log(p / (1 − p)) is.

mod evidence;
mod walk;

pub use evidence::Verdict;

use super::proto::NodeProto;
use super::{Dim, Model, Value};
use crate::array::Dtype;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use walk::{Activation, Ending};

/// The least size at which probabilities are judged: an error of 1e-7 is 1e-5 of it.
const PROBABILITY: f64 = 1e-2;

/// How logits are derived from a tensor that holds something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conversion {
    /// From probabilities that sum to 1, or from a sum of several such tensors: their logarithms.
    Probabilities,
    /// From independent probabilities: log(p / (1 − p)).
    Sigmoid,
}

/// The logits as they can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logits {
    /// The tensor.
    pub tensor: String,
    /// Number of classes in a row, or at each position of one.
    pub classes: usize,
    /// Number of positions, if each has logits of its own: rows are `[positions, classes]`.
    pub positions: Option<usize>,
    /// The conversion of its values, if any.
    pub conversion: Option<Conversion>,
    /// How it was found, for the user; `None` if it is simply the tensor asked for.
    pub note: Option<String>,
    /// Whether a softmax follows it.
    pub ends_in_softmax: bool,
}

/// The result of walking back from a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogitCandidates {
    tensor: String,
    ending: Option<Ending>,
    /// Whether softmaxes are mixed in a way that is not followed.
    is_mixed: bool,
    /// Whether rows may be `[positions, classes]`.
    of_positions: bool,
}

/// Walks back from the output that may hold class logits: the first one, unless it shows itself to
/// be something else and a later one does hold them. `None` if no such output is declared to be
/// `[N, classes]` floats. `classes`: how many the data has, 0 if unknown.
#[must_use]
pub fn of_output(model: &Model, classes: usize) -> Option<LogitCandidates> {
    let outputs = model.outputs();
    let is_real = |name: &str| model.quantized().contains_key(name);
    let is_float = |o: &Value| o.dtype.is_some_and(Dtype::is_float) || is_real(&o.name);
    let candidate = |output: &Value| LogitCandidates {
        ending: walk::back(model, &output.name),
        is_mixed: walk::is_mixed(model, &output.name),
        of_positions: false,
        tensor: output.name.clone(),
    };
    let verdict = |output: &Value| {
        let width = if let Some(Dim::Fixed(n)) = output.shape.get(1) { *n } else { 0 };
        candidate(output).judge(model, width, classes)
    };
    let (first, others) = outputs.split_first()?;
    let first = Some(first).filter(|o| is_float(o) && matches!(o.shape.len(), 0 | 2));
    let is_other = |o: &&Value| matches!(verdict(o), Verdict::Other(_));
    let later = || {
        let mut tables = others.iter().filter(|o| is_float(o) && o.shape.len() == 2);
        tables.find(|o| verdict(o) == Verdict::Logits)
    };
    let chosen = match first {
        Some(first) if others.is_empty() || !is_other(&first) => Some(first),
        first => later().or(first),
    };
    chosen.map(candidate)
}

/// Finds the class logits of a model among its outputs. `shapes`: each tensor's probed shape,
/// batch axis first; `classes`: how many the data has, 0 if unknown.
///
/// # Errors
/// Says why there are none.
#[allow(clippy::implicit_hasher, reason = "there is one map of shapes, which the probe makes")]
pub fn find(
    model: &Model,
    shapes: &HashMap<String, Vec<Option<usize>>>,
    classes: usize,
) -> Result<Logits, String> {
    let Some(found) = of_output(model, classes) else {
        return Err(if model.outputs().is_empty() {
            "the model has no output".to_owned()
        } else {
            "the first output is not [batch, classes]".to_owned()
        });
    };
    let mut logits = found.choose(|tensor| row(shapes, tensor))?;
    match found.judge(model, logits.classes, classes) {
        Verdict::Logits => {
            let first = model.outputs().into_iter().next().map_or_else(String::new, |o| o.name);
            if logits.note.is_none() && found.tensor != first {
                let tensor = &found.tensor;
                logits.note = Some(format!("`{tensor}`, and not the first output, `{first}`"));
            }
        }
        Verdict::Guess(reason) => logits.note = Some(format!("{reason}: a guess (--logits none)")),
        Verdict::Other(reason) => return Err(reason),
    }
    Ok(logits)
}

/// A tensor that the user names: it is kept, and converted if it holds probabilities.
#[must_use]
pub fn of_tensor(model: &Model, name: &str) -> LogitCandidates {
    let ending = walk::back(model, name).map(|ending| Ending { before: None, ..ending });
    LogitCandidates { tensor: name.to_owned(), ending, is_mixed: false, of_positions: false }
}

/// Whether a tensor's values belong to a sigmoid each, before it or after, rather than to one
/// distribution over classes.
#[must_use]
pub fn are_independent(model: &Model, tensor: &str) -> bool {
    let is_of_each = |ending: &Ending| ending.activation != Activation::Softmax;
    walk::back(model, tensor).is_some_and(|ending| is_of_each(&ending))
        || model.outputs().iter().any(|output| {
            walk::back(model, &output.name)
                .is_some_and(|e| is_of_each(&e) && e.before.as_deref() == Some(tensor))
        })
}

/// The tensor that a student's loss of class logits applies to: an output, or what its softmax
/// reads if no reshape is between them. `classes`: how many the data has, 0 if unknown.
#[must_use]
pub fn of_student(model: &Model, classes: usize) -> Option<String> {
    let Some(found) = of_output(model, classes) else { return at_positions(model)?.before };
    let before = found
        .ending
        .filter(|e| e.activation == Activation::Softmax && !e.is_reshaped)
        .and_then(|ending| ending.before);
    Some(before.unwrap_or(found.tensor))
}

/// The activation that remains between [`of_student`]'s tensor and the logits, so that
/// cross-entropy would take probabilities for logits. `None` if that tensor holds logits, or
/// logarithms of probabilities, which are logits too.
#[must_use]
pub fn activation_of_student(model: &Model, classes: usize) -> Option<&'static str> {
    let ending =
        of_output(model, classes).map_or_else(|| at_positions(model), |found| found.ending)?;
    let is_read = ending.before.is_some() && !ending.is_reshaped;
    match ending.activation {
        Activation::Softmax if is_read || ending.is_log => None,
        Activation::Softmax => Some("softmax"),
        Activation::Sigmoid => Some("sigmoid"),
        Activation::HardSigmoid => Some("hard sigmoid"),
    }
}

/// How a first output `[batch, positions, classes]` ends; what its activation reads only where that
/// is a softmax over the classes.
fn at_positions(model: &Model) -> Option<Ending> {
    let output = model.outputs().into_iter().next().filter(|output| output.shape.len() == 3)?;
    let ending = walk::back(model, &output.name)?;
    // before opset 13: over all axes from this one on, of which there is one
    let is_over_classes =
        matches!(ending.axes, Some(walk::Axes::One(-1 | 2) | walk::Axes::From(-1 | 2)))
            && !ending.is_reshaped;
    Some(Ending { before: ending.before.filter(|_| is_over_classes), ..ending })
}

/// How the values of a tensor come about, as far as that tells what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// By a softmax, or its logarithm: over this axis, counted with the batch and from the end if
    /// negative, where the graph tells.
    Softmax {
        /// The axis.
        axis: Option<i64>,
        /// Whether its logarithm is taken.
        is_log: bool,
    },
    /// By a sigmoid.
    Sigmoid,
    /// They are the indices of the largest values along an axis.
    Indices,
}

impl Nature {
    /// What makes such values.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Softmax { is_log: false, .. } => "softmax",
            Self::Softmax { is_log: true, .. } => "log-softmax",
            Self::Sigmoid => "sigmoid",
            Self::Indices => "arg-max",
        }
    }
}

/// The tensor that the softmax or sigmoid reads which makes this one, where a node computes it.
#[must_use]
pub fn before(model: &Model, tensor: &str) -> Option<String> {
    walk::back(model, tensor)?.before
}

/// The nature of a tensor's values; `None` if the graph shows nothing.
#[must_use]
pub fn nature(model: &Model, tensor: &str) -> Option<Nature> {
    if walk::is_index(model, tensor) {
        return Some(Nature::Indices);
    }
    let ending = walk::back(model, tensor)?;
    match ending.activation {
        Activation::Softmax => {
            let axis = match ending.axes {
                _ if ending.is_reshaped => None,
                Some(walk::Axes::One(axis)) => Some(axis),
                // before opset 13: over all axes from this one on, of which there is one
                Some(walk::Axes::From(-1)) => Some(-1),
                Some(walk::Axes::From(_)) | None => None,
            };
            Some(Nature::Softmax { axis, is_log: ending.is_log })
        }
        Activation::Sigmoid if !ending.is_log => Some(Nature::Sigmoid),
        Activation::Sigmoid | Activation::HardSigmoid => None,
    }
}

/// The size below which a difference between a tensor's values is judged like one of that size.
/// Probabilities have the rounding error of 1, however small they are: sigmoids that work by
/// vectors clip their input, and are 1e-7 off. 0 for other values.
#[must_use]
pub fn least_size(model: &Model, tensor: &str) -> f64 {
    match nature(model, tensor) {
        Some(Nature::Softmax { is_log: false, .. } | Nature::Sigmoid) => PROBABILITY,
        _ => 0.0,
    }
}

/// A tensor's row by its probed shape, batch axis first; `None` if it varies or is unknown.
#[must_use]
#[allow(clippy::implicit_hasher, reason = "there is one map of shapes, which the probe makes")]
pub fn row(shapes: &HashMap<String, Vec<Option<usize>>>, tensor: &str) -> Option<Vec<usize>> {
    shapes.get(tensor)?.get(1..)?.iter().copied().collect()
}

impl LogitCandidates {
    /// The output.
    #[must_use]
    pub fn tensor(&self) -> &str {
        &self.tensor
    }

    /// The same, where rows may also be `[positions, classes]`.
    #[must_use]
    pub fn of_positions(self) -> Self {
        Self { of_positions: true, ..self }
    }

    /// Positions and classes of a row: all its values if at most one axis is longer than 1.
    fn axes(&self, row: &[usize]) -> Option<(Option<usize>, usize)> {
        match (classes(row), row) {
            (Some(classes), _) => Some((None, classes)),
            (None, &[positions, classes]) if self.of_positions && positions * classes > 0 => {
                Some((Some(positions), classes))
            }
            _ => None,
        }
    }

    /// The tensors of which one will hold the logits.
    #[must_use]
    pub fn tensors(&self) -> Vec<String> {
        let before = self.ending.as_ref().and_then(|ending| ending.before.clone());
        before.into_iter().chain([self.tensor.clone()]).collect()
    }

    /// Whether the tensor holds class logits, which the softmax after it shows, or else its name,
    /// its width and the layer that computes it. `classes`: how many the data has, 0 if unknown.
    #[must_use]
    pub fn judge(&self, model: &Model, width: usize, classes: usize) -> Verdict {
        if self.ending.is_some() || self.is_mixed {
            return Verdict::Logits;
        }
        evidence::judge(model, &self.tensor, width, classes)
    }

    /// Chooses the logits by the rows' shapes, which `row` gives without the batch axis.
    ///
    /// # Errors
    /// Says why there are none.
    pub fn choose(&self, row: impl Fn(&str) -> Option<Vec<usize>>) -> Result<Logits, String> {
        let output = &self.tensor;
        let shape = row(output).ok_or_else(|| {
            format!("`{output}`: its shape varies between samples or has no batch axis")
        })?;
        let axes = self.axes(&shape).ok_or_else(|| {
            format!("`{output}`: expected one value per class, found rows of {shape:?}")
        })?;
        let (positions, classes) = axes;
        let kept = |tensor: &str, conversion, note: Option<String>| {
            let ends_in_softmax =
                self.ending.as_ref().is_some_and(|ending| ending.activation == Activation::Softmax);
            let tensor = tensor.to_owned();
            Ok(Logits { tensor, classes, positions, conversion, note, ends_in_softmax })
        };
        let Some(ending) = &self.ending else {
            let note = format!(
                "`{output}` as it is, although it is made of softmaxes (--logits TENSOR names \
                 another)"
            );
            return kept(output, None, self.is_mixed.then_some(note));
        };
        let what = match ending.activation {
            Activation::Softmax => "softmax",
            Activation::Sigmoid => "sigmoid",
            Activation::HardSigmoid => "hard sigmoid",
        };
        let read = ending.reads.as_deref().and_then(&row);
        if let Some(found) =
            read.and_then(|read| ending.normalized(&read)).filter(|&found| found != classes)
        {
            return Err(format!(
                "`{output}`: the softmax before it is over {found} of a row's {classes} values"
            ));
        }
        if let Some(before) = ending
            .before
            .as_deref()
            .filter(|before| row(before).and_then(|row| self.axes(&row)) == Some(axes))
        {
            return kept(
                before,
                None,
                Some(format!("`{before}`, which the {what} at the end reads")),
            );
        }
        match (ending.activation, ending.is_log) {
            (Activation::Softmax, true) => kept(
                output,
                None,
                Some(format!("`{output}`, which holds logarithms of probabilities")),
            ),
            (Activation::Softmax, false) => kept(
                output,
                Some(Conversion::Probabilities),
                Some(Conversion::Probabilities.describe(output)),
            ),
            (Activation::Sigmoid, false) => {
                kept(output, Some(Conversion::Sigmoid), Some(Conversion::Sigmoid.describe(output)))
            }
            (Activation::Sigmoid, true) => Err(format!(
                "`{output}` holds logarithms of a sigmoid, which cannot be turned into logits"
            )),
            (Activation::HardSigmoid, _) => Err(format!(
                "`{output}` holds the values of a hard sigmoid, which cannot be turned into logits"
            )),
        }
    }
}

impl Conversion {
    /// What the values are, in a few words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Probabilities => "probabilities",
            Self::Sigmoid => "values of a sigmoid",
        }
    }

    /// A one-line note for the user about logits derived from a tensor.
    #[must_use]
    pub fn describe(self, tensor: &str) -> String {
        match self {
            Self::Probabilities => format!("log p of `{tensor}`, which holds probabilities"),
            Self::Sigmoid => {
                format!("log(p / (1 - p)) of `{tensor}`, which holds the values of a sigmoid")
            }
        }
    }

    /// Turns probabilities into logits, in place. The logarithm needs a floor: p below what the
    /// teacher's `dtype` can tell from 0 counts as that.
    ///
    /// # Errors
    /// The index of the first value that is not a probability.
    pub fn apply(self, values: &mut [f32], dtype: Dtype) -> Result<(), usize> {
        let smallest =
            if dtype == Dtype::F16 { half::f16::from_bits(1).to_f32() } else { f32::MIN_POSITIVE };
        // any scale will do: softmax(log p) ignores a factor
        let is_valid =
            |p: f32| is_probability(p) || (self == Self::Probabilities && p > 1.0 && p.is_finite());
        if let Some(index) = values.iter().position(|&p| !is_valid(p)) {
            return Err(index);
        }
        // the largest f32 below 1: a sigmoid that is 1 in f32 is not certain
        let largest = 1.0 - f32::EPSILON / 2.0;
        for value in values {
            let p = value.max(smallest);
            *value = match self {
                Self::Probabilities => p.ln(),
                Self::Sigmoid => p.min(largest).ln() - (-p.min(largest)).ln_1p(),
            };
        }
        Ok(())
    }
}

/// The error that rounding to bfloat16, the coarsest type, makes in a sum of 1.
const TOLERANCE: f32 = 4e-3;

fn is_probability(value: f32) -> bool {
    (-TOLERANCE..=1.0 + TOLERANCE).contains(&value)
}

/// Whether rows can only be class probabilities: at least two values, all in [0, 1], and each row
/// sums to 1.
#[must_use]
pub fn are_probabilities(values: &[f32], classes: usize) -> bool {
    let is_one = |row: &[f32]| {
        row.iter().all(|&p| is_probability(p)) && (row.iter().sum::<f32>() - 1.0).abs() <= TOLERANCE
    };
    classes > 1 && !values.is_empty() && values.chunks(classes).all(is_one)
}

/// The number of classes of a row: its values, if at most one axis is longer than 1.
fn classes(row: &[usize]) -> Option<usize> {
    let several: Vec<usize> = row.iter().copied().filter(|&n| n != 1).collect();
    match several.as_slice() {
        _ if row.is_empty() => None,
        [] => Some(1),
        &[n] if n > 0 => Some(n),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
