//! A model's outputs: which can be compared, and how their values are read.

use super::runner::First;
use crate::array::Dtype;
use crate::error::{Error, Result};
use crate::metric::{Reading, Vectors};
use crate::onnx::logits::{Nature, nature};
use crate::onnx::{Dim, Model, Value, is_transposed, nearest};
use crate::recipe::OutputKind;

/// An output, another tensor of a model, or an array of a cache.
#[derive(Debug, Clone)]
pub(super) struct Output {
    /// The tensor's name, or the array's path.
    pub(super) name: String,
    /// Its other names: an array of a cache has its tensor's, and its tap's alias.
    pub(super) also: Vec<String>,
    /// Shape of one sample's values.
    pub(super) row: Vec<usize>,
    /// The shape and the channel axis of the same values with the positions along one axis, if they
    /// are a map's.
    pub(super) flat: Option<(Vec<usize>, usize)>,
    /// The axis of `row` that has the channels, where it is known.
    pub(super) channel_axis: Option<usize>,
    pub(super) dtype: Dtype,
    pub(super) nature: Option<Nature>,
    /// Whether it holds class logits or their probabilities, as far as is known.
    pub(super) is_classes: bool,
    /// Its position among the model's outputs.
    pub(super) position: Option<usize>,
}

impl Output {
    /// Whether a name is this output's.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name == name || self.also.iter().any(|other| other == name)
    }

    /// Whether rows of this shape can be compared with it.
    pub(super) fn has_row(&self, row: &[usize]) -> bool {
        self.row == row || self.flat.as_ref().is_some_and(|(flat, _)| flat == row)
    }

    /// `name` and the shape of a row.
    pub(super) fn describe(&self) -> String {
        format!("`{}` {:?}", self.name, self.row)
    }
}

/// An output as a model declares it.
pub(super) fn declared(value: &Value) -> String {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(n) => n.to_string(),
        Dim::Symbol(name) => name.clone(),
        Dim::Open => "?".to_owned(),
    };
    let axes: Vec<String> = value.shape.iter().map(size).collect();
    if value.has_shape && value.dtype.is_some() {
        format!("`{}` [{}]", value.name, axes.join(", "))
    } else {
        format!("`{}` ({})", value.name, value.kind)
    }
}

/// The tensors to run a model for: its outputs that are arrays of numbers, and others by name.
///
/// # Errors
/// If there is no tensor of such a name.
pub(super) fn tensors<'a>(
    who: &str,
    model: &Model,
    others: impl Iterator<Item = &'a str>,
) -> Result<Vec<String>> {
    let outputs = model.outputs().into_iter().filter(|output| output.dtype.is_some());
    let mut tensors: Vec<String> = outputs.map(|output| output.name).collect();
    let names = model.graph().node.iter().flat_map(|node| &node.output).map(String::as_str);
    let names: Vec<&str> = names.collect();
    for other in others {
        if !tensors.iter().any(|tensor| tensor == other) {
            if !names.contains(&other) {
                let near = nearest(other, &names);
                let near: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
                return Err(Error::input(format!(
                    "tensor `{other}`: no node of the {who} computes it"
                ))
                .hint(format!("the nearest names are {}", near.join(", "))));
            }
            tensors.push(other.to_owned());
        }
    }
    Ok(tensors)
}

/// Names without repeats, in order.
pub(super) fn unique(names: &[String]) -> Vec<String> {
    let is_first = |&(at, name): &(usize, &String)| !names[..at].contains(name);
    names.iter().enumerate().filter(is_first).map(|(_, name)| name.clone()).collect()
}

/// Those of some tensors that can be compared, and what is said of the others. `tensors`: those of
/// the first run.
pub(super) fn comparable(
    model: &Model,
    some: &[String],
    tensors: &[String],
    first: &First,
) -> (Vec<Output>, Vec<String>) {
    let declared = model.outputs();
    let (mut outputs, mut others) = (Vec::new(), Vec::new());
    for (name, rows) in tensors.iter().zip(&first.values).filter(|(name, _)| some.contains(name)) {
        let Some(rows) = rows else {
            others.push(format!("`{name}` (without a batch axis)"));
            continue;
        };
        let nature = nature(model, name);
        if rows.row.contains(&0) {
            others.push(format!("`{name}` (empty)"));
        } else if !rows.dtype.is_float() && nature != Some(Nature::Indices) {
            others.push(format!("`{name}` ({})", rows.dtype.name()));
        } else {
            outputs.push(Output {
                name: name.clone(),
                also: Vec::new(),
                row: rows.row.clone(),
                flat: None,
                channel_axis: is_transposed(model, name).then_some(2),
                dtype: rows.dtype,
                nature,
                is_classes: false,
                position: declared.iter().position(|output| output.name == *name),
            });
        }
    }
    let unread = declared.iter().filter(|output| output.dtype.is_none());
    others.extend(unread.map(|output| format!("`{}` ({})", output.name, output.kind)));
    (outputs, others)
}

/// How two outputs are read, and why, where that is a guess.
pub(super) fn reading(
    student: &Output,
    teacher: &Output,
    asked: Option<OutputKind>,
    may_be_classes: bool,
) -> (Reading, Vectors, Option<String>) {
    let row = &student.row;
    let axis = softmax_axis(student, row).or_else(|| softmax_axis(teacher, row));
    let given = match &teacher.flat {
        _ if teacher.row == *row => teacher.channel_axis,
        Some((_, axis)) => Some(*axis),
        None => None,
    };
    let vectors = given.map_or_else(|| Vectors::of(row), |axis| Vectors::along(row, axis));
    let along = axis.map_or(vectors, |axis| Vectors::along(row, axis));
    let labels = Reading::Labels([student, teacher].map(threshold));
    let is_index = |output: &Output| output.nature == Some(Nature::Indices);
    let positions = Vectors::along(&[&[1], row.as_slice()].concat(), 0);
    match asked {
        Some(OutputKind::Classes) if is_index(student) => {
            return (Reading::Indices, positions, None);
        }
        Some(OutputKind::Classes) => return (Reading::Classes, along, None),
        Some(OutputKind::Labels) => return (labels, vectors, None),
        Some(OutputKind::Values) => return (Reading::Values, vectors, None),
        None => {}
    }
    let name = &student.name;
    let note = |what: &str, why: &str| {
        Some(format!(
            "`{name}` is read as {what}, since {why} (--read {name}=values reads numbers)"
        ))
    };
    let is = |nature: fn(Nature) -> bool| {
        [student, teacher].into_iter().any(|output| output.nature.is_some_and(nature))
    };
    let is_softmax = is(|nature| matches!(nature, Nature::Softmax { .. }));
    if !may_be_classes {
        (Reading::Values, vectors, None)
    } else if is_index(student) && is_index(teacher) {
        (Reading::Indices, positions, note("class indices", "an ArgMax makes it"))
    } else if vectors.positions() > 1 {
        match axis.filter(|_| along.channels > 1) {
            Some(axis) => {
                let why = format!("a softmax over axis {} makes it", axis + 1);
                (Reading::Classes, along, note("class maps", &why))
            }
            None => (Reading::Values, vectors, None),
        }
    } else if vectors.channels > 1 && is_softmax {
        (Reading::Classes, vectors, note("classes", "a softmax makes it"))
    } else if vectors.channels > 1 && (student.is_classes || teacher.is_classes) {
        let why = format!("the data has {} classes", vectors.channels);
        (Reading::Classes, vectors, note("classes", &why))
    } else if is(|nature| nature == Nature::Sigmoid) {
        (labels, vectors, note("independent labels", "a sigmoid makes it"))
    } else {
        (Reading::Values, vectors, None)
    }
}

/// The axis of a row over which a softmax makes an output.
fn softmax_axis(output: &Output, row: &[usize]) -> Option<usize> {
    let Some(Nature::Softmax { axis: Some(axis), .. }) = output.nature else { return None };
    let rank = i64::try_from(row.len() + 1).ok()?;
    let axis = if axis < 0 { axis + rank } else { axis };
    usize::try_from(axis - 1).ok().filter(|&axis| axis < row.len())
}

/// Above what a value says yes to a label.
fn threshold(output: &Output) -> f32 {
    if output.nature == Some(Nature::Sigmoid) { 0.5 } else { 0.0 }
}

/// Whether an output holds probabilities.
pub(super) fn are_probabilities(output: &Output) -> bool {
    matches!(output.nature, Some(Nature::Softmax { is_log: false, .. } | Nature::Sigmoid))
}
