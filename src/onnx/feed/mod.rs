//! How a model's inputs are fed: which axis of each is the batch, and which inputs get the same
//! value for every sample.

use super::{Dim, Value};
use crate::array::{Array, Dtype, Values};
use crate::error::{Context, Error, Result};
use crate::onnx::feeding::{BatchAxis, Feeding, InputValue};
use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;

/// Most elements of a constant, which the manifest holds as text.
const MAX_CONSTANT: usize = 1 << 16;

/// One input as it is fed.
#[derive(Debug, Clone, PartialEq)]
pub struct Feed {
    /// The input's name in the model.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Shape of one sample, without the batch axis.
    pub row: Vec<usize>,
    /// The batch axis; `None` if the input is the same for all samples.
    pub batch_axis: Option<usize>,
    /// The input's value, if it is constant.
    pub constant: Option<Constant>,
}

/// An input with the same value for every sample, as a cache records it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constant {
    /// The input's name in the model.
    pub tensor: String,
    /// Its element type.
    pub dtype: Dtype,
    /// The length of each axis except the batch axis.
    pub shape: Vec<usize>,
    /// The batch axis, along which the value is repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_axis: Option<usize>,
    /// Row-major; a single value fills the whole shape.
    pub values: Vec<f64>,
}

impl Constant {
    /// Checks everything that [`Constant::array`] relies on.
    ///
    /// # Errors
    /// Says in words what is wrong.
    pub fn validate(&self) -> Result<(), String> {
        let count = self
            .shape
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .filter(|&n| n > 0 && n <= MAX_CONSTANT);
        let Some(count) = count else {
            return Err(format!(
                "expected 1 to {MAX_CONSTANT} values, found shape {:?}",
                self.shape
            ));
        };
        if self.values.len() != 1 && self.values.len() != count {
            return Err(format!(
                "expected 1 or {count} values for shape {:?}, found {}",
                self.shape,
                self.values.len()
            ));
        }
        if self.batch_axis.is_some_and(|axis| axis > self.shape.len()) {
            return Err(format!(
                "expected a batch axis among {} axes, found {:?}",
                self.shape.len() + 1,
                self.batch_axis
            ));
        }
        match self.values.iter().find(|&&value| !fits(self.dtype, value)) {
            Some(value) => Err(format!("expected values of {}, found {value}", self.dtype.name())),
            None => Ok(()),
        }
    }

    /// The input for `rows` samples.
    ///
    /// # Errors
    /// See [`Constant::validate`]; also if the array would not fit in memory.
    pub fn array(&self, rows: usize) -> Result<Array> {
        self.validate().context(|| format!("input `{}`", self.tensor))?;
        let count = self.shape.iter().product();
        let repeats = if self.batch_axis.is_some() { rows } else { 1 };
        let row: Vec<f64> = self.values.iter().copied().cycle().take(count).collect();
        let values = numbers(self.dtype, &row.repeat(repeats));
        match self.batch_axis {
            None => Array::new(self.shape.clone(), values),
            Some(axis) => Array::new([&[rows], self.shape.as_slice()].concat(), values)?
                .with_first_axis_at(axis),
        }
    }
}

/// Whether a type can represent a number; floats may round it, but not to infinity.
fn fits(dtype: Dtype, value: f64) -> bool {
    // larger integers are not exact in JSON numbers, which are doubles
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let within = |least: f64, most: f64| value.fract() == 0.0 && (least..=most).contains(&value);
    match dtype {
        Dtype::Bool => within(0.0, 1.0),
        Dtype::U8 => within(0.0, f64::from(u8::MAX)),
        Dtype::U16 => within(0.0, f64::from(u16::MAX)),
        Dtype::U32 => within(0.0, f64::from(u32::MAX)),
        Dtype::U64 => within(0.0, EXACT),
        Dtype::I8 => within(f64::from(i8::MIN), f64::from(i8::MAX)),
        Dtype::I16 => within(f64::from(i16::MIN), f64::from(i16::MAX)),
        Dtype::I32 => within(f64::from(i32::MIN), f64::from(i32::MAX)),
        Dtype::I64 => within(-EXACT, EXACT),
        Dtype::F16 => f16::from_f64(value).is_finite(),
        Dtype::BF16 => bf16::from_f64(value).is_finite(),
        #[allow(
            clippy::cast_possible_truncation,
            reason = "whether it truncates to infinity is the question"
        )]
        Dtype::F32 => (value as f32).is_finite(),
        Dtype::F64 => value.is_finite(),
    }
}

/// Converts numbers accepted by [`fits`] to elements.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "their range was checked"
)]
fn numbers(dtype: Dtype, values: &[f64]) -> Values {
    fn each<T>(values: &[f64], convert: impl Fn(f64) -> T) -> Vec<T> {
        values.iter().map(|&value| convert(value)).collect()
    }
    match dtype {
        Dtype::Bool => Values::Bool(each(values, |v| u8::from(v != 0.0))),
        Dtype::U8 => Values::U8(each(values, |v| v as u8)),
        Dtype::U16 => Values::U16(each(values, |v| v as u16)),
        Dtype::U32 => Values::U32(each(values, |v| v as u32)),
        Dtype::U64 => Values::U64(each(values, |v| v as u64)),
        Dtype::I8 => Values::I8(each(values, |v| v as i8)),
        Dtype::I16 => Values::I16(each(values, |v| v as i16)),
        Dtype::I32 => Values::I32(each(values, |v| v as i32)),
        Dtype::I64 => Values::I64(each(values, |v| v as i64)),
        Dtype::F16 => Values::F16(each(values, f16::from_f64)),
        Dtype::BF16 => Values::BF16(each(values, bf16::from_f64)),
        Dtype::F32 => Values::F32(each(values, |v| v as f32)),
        Dtype::F64 => Values::F64(values.to_vec()),
    }
}

/// Which axis of an input is the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchPosition {
    /// This axis.
    At(usize),
    /// None: the input is the same for all samples.
    Nowhere,
    /// Unknown, with the reason.
    Unknown(String),
}

/// A declared input with its batch axis and, if given, its constant value.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// As the model declares it.
    pub input: Value,
    /// Its batch axis.
    pub place: BatchPosition,
    /// Its constant value, if one is given.
    pub constant: Option<Constant>,
}

impl Placed {
    /// The batch axis of an input that the data feeds.
    ///
    /// # Errors
    /// If it has none, or it is unknown.
    pub fn batch_axis(&self) -> Result<usize> {
        let name = &self.input.name;
        match &self.place {
            BatchPosition::At(axis) => Ok(*axis),
            BatchPosition::Nowhere => Err(Error::input(format!(
                "input `{name}`: has no batch axis, so samples cannot feed it"
            ))
            .hint(format!("give it one value for all of them: --input {name}=VALUE"))),
            BatchPosition::Unknown(why) => Err(Error::input(format!(
                "input `{name}`: its batch axis is unknown: {why}"
            ))
            .hint(format!(
                "give --batch-axis {name}=N, counted from 0, or one value for all \
                 samples: --input {name}=VALUE"
            ))),
        }
    }

    /// The declared axes without the batch axis; empty for an undeclared shape.
    #[must_use]
    pub fn row(&self) -> Vec<Dim> {
        let mut axes = self.input.shape.clone();
        if let (BatchPosition::At(axis), true) = (&self.place, self.input.has_shape) {
            axes.remove(*axis);
        }
        axes
    }

    /// The batch size that the model fixes.
    fn fixed_batch(&self) -> Option<usize> {
        let BatchPosition::At(axis) = self.place else { return None };
        match self.input.shape.get(axis) {
            Some(Dim::Fixed(n)) => Some(*n),
            _ => None,
        }
    }
}

/// The batch size that the inputs' declared shapes fix.
///
/// # Errors
/// If they fix different ones.
pub fn fixed_batch(inputs: &[Placed]) -> Result<Option<usize>> {
    let mut fixed: Option<(&str, usize)> = None;
    for placed in inputs {
        match (placed.fixed_batch(), fixed) {
            (Some(n), Some((first, m))) if n != m => {
                return Err(Error::input(format!(
                    "input `{}`: expected a batch of {m} as of `{first}`, found {n}",
                    placed.input.name
                ))
                .hint(format!("give the batch axis: --batch-axis {}=N", placed.input.name)));
            }
            (Some(n), None) => fixed = Some((&placed.input.name, n)),
            _ => {}
        }
    }
    Ok(fixed.map(|(_, n)| n))
}

/// Finds the batch axis of each input: the one the user gives, else the one whose symbol all
/// inputs' shapes share, else the first axis unless something contradicts it. Also returns a note
/// about batch axes other than the first.
///
/// # Errors
/// If the user's setting names no input, or does not fit it.
pub fn place(inputs: &[Value], feeding: &Feeding) -> Result<(Vec<Placed>, Option<String>)> {
    for named in feeding
        .batch_axes
        .iter()
        .map(|b| ("--batch-axis", &b.input))
        .chain(feeding.values.iter().map(|v| ("--input", &v.input)))
    {
        if !inputs.iter().any(|input| input.name == *named.1) {
            let names: Vec<String> =
                inputs.iter().map(|input| format!("`{}`", input.name)).collect();
            return Err(Error::input(format!(
                "{} {}: the model has no such input, it has {}",
                named.0,
                named.1,
                names.join(", ")
            )));
        }
    }
    let said =
        |input: &Value| feeding.batch_axes.iter().rev().find(|said| said.input == input.name);
    for input in inputs {
        if let Some(BatchAxis { axis: Some(axis), .. }) = said(input)
            && (input.has_shape && *axis >= input.shape.len() || !input.has_shape && *axis > 0)
        {
            return Err(Error::input(format!(
                "--batch-axis {}={axis}: the input has {} axes",
                input.name,
                input.shape.len()
            )));
        }
    }
    let is_given = |input: &Value| feeding.values.iter().any(|value| value.input == input.name);
    // the data-fed inputs decide, and of their symbols those without a user setting
    let fed: Vec<&Value> = inputs.iter().filter(|input| !is_given(input)).collect();
    let open: Vec<&Value> = fed.iter().copied().filter(|input| said(input).is_none()).collect();
    let of_said = |input: &Value| symbol(input, said(input)?.axis?).map(str::to_owned);
    let batches: Vec<String> =
        inputs.iter().filter_map(of_said).chain(batch_symbol(&open)).collect();
    let first_fixed = fed.iter().find_map(|input| match input.shape.first() {
        Some(Dim::Fixed(n)) => Some(*n),
        _ => None,
    });
    let all_fixed =
        fed.iter().all(|input| matches!(input.shape.first(), None | Some(Dim::Fixed(_))));
    let mut found = Vec::with_capacity(inputs.len());
    for input in inputs {
        let place = match said(input) {
            Some(BatchAxis { axis: Some(axis), .. }) => BatchPosition::At(*axis),
            Some(_) => BatchPosition::Nowhere,
            None => by_shape(input, &batches, first_fixed.filter(|_| all_fixed)),
        };
        let given = feeding.values.iter().rev().find(|value| value.input == input.name);
        let constant = given.map(|given| constant(input, &place, given)).transpose()?;
        found.push(Placed { input: input.clone(), place, constant });
    }
    let moved: Vec<String> =
        found.iter().filter(|placed| said(&placed.input).is_none()).filter_map(describe).collect();
    let note = (!moved.is_empty()).then(|| {
        format!("the batch is {} (--batch-axis INPUT=N overrides this)", moved.join(", "))
    });
    Ok((found, note))
}

fn describe(placed: &Placed) -> Option<String> {
    let BatchPosition::At(axis) = placed.place else { return None };
    let symbol = symbol(&placed.input, axis)?;
    (axis > 0).then(|| {
        format!("axis {axis} of input `{}`, where its shape says `{symbol}`", placed.input.name)
    })
}

/// The name of an open axis; a converter's counted name says nothing.
fn symbol(input: &Value, axis: usize) -> Option<&str> {
    match input.shape.get(axis) {
        Some(Dim::Symbol(name)) if !name.starts_with("unk__") => Some(name),
        _ => None,
    }
}

/// How surely a name denotes the batch: 2 with the word in it, 1 for the usual letters, otherwise
/// 0.
fn says_batch(name: &str) -> u8 {
    let lower = name.to_lowercase();
    match lower.as_str() {
        _ if lower.contains("batch") => 2,
        "n" | "b" | "bs" | "nb" | "bsz" | "samples" | "num_samples" | "n_samples" => 1,
        _ => 0,
    }
}

/// Whether a name denotes an axis within a sample.
fn says_another(name: &str) -> bool {
    const WORDS: [&str; 10] =
        ["seq", "time", "frame", "len", "token", "step", "height", "width", "channel", "feature"];
    let lower = name.to_lowercase();
    matches!(lower.as_str(), "t" | "s" | "l" | "h" | "w" | "c")
        || WORDS.iter().any(|word| lower.contains(word))
}

/// The axis whose name most surely denotes the batch, and how surely; the first of equals.
fn named_axis(input: &Value) -> Option<(usize, u8)> {
    let axes =
        (0..input.shape.len()).filter_map(|axis| Some((axis, says_batch(symbol(input, axis)?))));
    axes.filter(|&(_, rank)| rank > 0).min_by_key(|&(axis, rank)| (Reverse(rank), axis))
}

/// The symbol that the inputs use for the batch.
fn batch_symbol(inputs: &[&Value]) -> Option<String> {
    let with_rank = |wanted: u8, only_first: bool| {
        inputs.iter().find_map(move |input| {
            let (axis, rank) = named_axis(input)?;
            // a single letter after a fixed batch of one counts something else
            let baked = axis > 0 && rank == 1 && matches!(input.shape.first(), Some(Dim::Fixed(1)));
            (rank == wanted && (axis == 0 || !only_first) && !baked)
                .then(|| symbol(input, axis))
                .flatten()
        })
    };
    let shaped: Vec<&Value> =
        inputs.iter().copied().filter(|input| !input.shape.is_empty()).collect();
    let shared = || {
        let (first, others) = shaped.split_first()?;
        let has_symbol = |input: &&Value, name: &str| {
            (0..input.shape.len()).any(|axis| symbol(input, axis) == Some(name))
        };
        let mut common = (0..first.shape.len())
            .filter_map(|axis| symbol(first, axis))
            .filter(|name| others.iter().all(|o| has_symbol(o, name)));
        let only = common.next().filter(|_| !others.is_empty())?;
        common.all(|name| name == only).then_some(only)
    };
    let leading = || symbol(shaped.first()?, 0).filter(|name| !says_another(name));
    let found = with_rank(2, false)
        .or_else(|| with_rank(1, true))
        .or_else(shared)
        .or_else(|| with_rank(1, false))
        .or_else(leading);
    found.map(str::to_owned)
}

/// `fixed` is the size of the first input's first axis, if the first axes of all inputs are fixed.
fn by_shape(input: &Value, batches: &[String], fixed: Option<usize>) -> BatchPosition {
    if !input.has_shape {
        return BatchPosition::At(0);
    }
    if input.shape.is_empty() {
        return BatchPosition::Nowhere;
    }
    let axis_of =
        |batch: &String| (0..input.shape.len()).find(|&axis| symbol(input, axis) == Some(batch));
    if let Some(axis) = batches.iter().find_map(axis_of) {
        return BatchPosition::At(axis);
    }
    // several batches have several names: text_batch, image_batch
    if let Some((axis, 2)) = named_axis(input) {
        return BatchPosition::At(axis);
    }
    let other = || {
        batches
            .first()
            .map_or_else(String::new, |batch| format!(", and its shape does not contain `{batch}`"))
    };
    match &input.shape[0] {
        Dim::Fixed(n) if Some(*n) == fixed => BatchPosition::At(0),
        Dim::Fixed(n) => {
            BatchPosition::Unknown(format!("its first axis is fixed to {n}{}", other()))
        }
        Dim::Symbol(name) if !name.starts_with("unk__") => {
            BatchPosition::Unknown(format!("its first axis is `{name}`{}", other()))
        }
        Dim::Symbol(_) | Dim::Open => BatchPosition::At(0),
    }
}

/// A given value in the shape that the model declares.
fn constant(input: &Value, place: &BatchPosition, given: &InputValue) -> Result<Constant> {
    let subject = || format!("--input {}", input.name);
    let dtype = input.dtype.ok_or_else(|| {
        Error::input(format!("{}: the model takes a type that cannot be given", subject()))
    })?;
    let batch_axis = match (place, input.has_shape) {
        (BatchPosition::At(axis), true) => Some(*axis),
        _ => None,
    };
    let mut dims = input.shape.clone();
    if let Some(axis) = batch_axis {
        dims.remove(axis);
    }
    let shape = if !input.has_shape {
        given.shape.clone().unwrap_or_else(|| {
            if given.values.len() == 1 { Vec::new() } else { vec![given.values.len()] }
        })
    } else if let Some(shape) = &given.shape {
        let mut shape = shape.clone();
        // a file may include the batch axis, of size one
        if let Some(axis) =
            batch_axis.filter(|&axis| shape.len() == dims.len() + 1 && shape.get(axis) == Some(&1))
        {
            shape.remove(axis);
        }
        shape
    } else {
        let fixed: usize =
            dims.iter().map(|dim| if let Dim::Fixed(n) = dim { *n } else { 1 }).product();
        let open = dims.iter().filter(|dim| !matches!(dim, Dim::Fixed(_))).count();
        let rest = given.values.len() / fixed.max(1);
        let size = |dim: &Dim| match dim {
            Dim::Fixed(n) => *n,
            _ if open == 1 && given.values.len() > 1 => rest,
            _ => 1,
        };
        dims.iter().map(size).collect()
    };
    let fits = |(dim, size): (&Dim, &usize)| !matches!(dim, Dim::Fixed(n) if n != size);
    if input.has_shape && (shape.len() != dims.len() || !dims.iter().zip(&shape).all(fits)) {
        return Err(Error::input(format!(
            "{}: expected {}, found shape {shape:?}",
            subject(),
            axes(&dims)
        )));
    }
    let constant = Constant {
        tensor: input.name.clone(),
        dtype,
        shape,
        batch_axis,
        values: given.values.clone(),
    };
    constant.validate().context(subject)?;
    Ok(constant)
}

/// Declared axes as messages show them: `[3, height, ?]`.
#[must_use]
pub fn axes(dims: &[Dim]) -> String {
    let axis = |dim: &Dim| match dim {
        Dim::Fixed(n) => n.to_string(),
        Dim::Symbol(name) => name.clone(),
        Dim::Open => "?".to_owned(),
    };
    format!("[{}]", dims.iter().map(axis).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests;
