//! What is kept of the teacher: its logits and taps, chosen by the user or suggested by the graph, and how their values become stored bytes.

use super::source::Source;
use crate::array::{Array, Dtype, Values};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::onnx::Model;
use crate::onnx::tap::{self, Role, Tap, TapChoice};
use crate::recipe::Extract;
use crate::runtime::{self, Probe, Runtime};
use crate::statistic::{F16_MAX, adaptive_average_pool, finite_range, to_f16};

/// One tensor of the teacher and its array in the cache.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Output {
    /// The ONNX tensor.
    pub(super) tensor: String,
    /// Its name in the cache; empty for the logits.
    pub(super) alias: String,
    pub(super) role: Role,
    pub(super) stage: Option<usize>,
    /// Size to which maps are pooled before they are stored.
    pool: Option<[usize; 2]>,
    /// Shape of one stored row.
    pub(super) shape: Vec<usize>,
    /// Name of each axis of a row.
    pub(super) axes: Vec<String>,
    is_logits: bool,
}

impl Output {
    /// The path of its array.
    pub(super) fn path(&self) -> String {
        if self.is_logits { "logits".to_owned() } else { format!("taps/{}/features", self.alias) }
    }

    /// Whether it is the logits' own array.
    pub(super) fn is_logits(&self) -> bool {
        self.is_logits
    }

    /// How messages call it.
    fn name(&self) -> String {
        if self.is_logits { format!("logits (tensor `{}`)", self.tensor) } else { format!("tap {} (tensor `{}`)", self.alias, self.tensor) }
    }

    /// The stored bytes of the first `rows` rows of a batch of values; `sample_name` names a row.
    ///
    /// # Errors
    /// When the values have another shape than the probe found, are not finite, or are beyond f16 where that is stored.
    pub(super) fn encode(&self, values: Array, dtype: Dtype, rows: usize, sample_name: impl Fn(usize) -> String) -> Result<Vec<u8>> {
        let values = self.first_rows(values, rows)?;
        let floats = values.as_f32().unwrap_or_default();
        let row_len = self.shape.iter().product::<usize>().max(1);
        let place = |index: usize| format!("{}: sample {}", self.name(), sample_name(index / row_len));
        let largest = finite_range(floats).map_err(|index| {
            let value = floats.get(index).copied().unwrap_or(f32::NAN);
            Error::input(format!("{}: expected finite values, found {value}", place(index)))
                .hint("check the preprocessing, or tap another tensor")
        })?;
        match dtype {
            Dtype::F16 if largest > F16_MAX => {
                let index = floats.iter().position(|v| v.abs() > F16_MAX).unwrap_or_default();
                Err(Error::input(format!("{}: value {} is beyond the range of f16 (±{F16_MAX})", place(index), floats[index]))
                    .hint("extract with --store f32, into another folder (-o) or after removing this one"))
            }
            Dtype::F16 => Ok(bytes_of(to_f16(floats)?)),
            _ => Ok(bytes_of(values.into_values())),
        }
    }

    /// f32 values of the first rows, pooled.
    fn first_rows(&self, values: Array, rows: usize) -> Result<Array> {
        let mut shape = values.shape().to_vec();
        let batch = shape.first().copied().unwrap_or_default();
        let row_len = values.len().checked_div(batch).unwrap_or_default();
        if batch < rows {
            return Err(Error::input(format!("{}: expected {rows} rows, found {batch}", self.name())));
        }
        let mut floats = match values.dtype() {
            Dtype::F32 => match values.into_values() {
                Values::F32(floats) => floats,
                _ => Vec::new(),
            },
            _ => values.to_f32(),
        };
        floats.truncate(rows * row_len);
        shape[0] = rows;
        let mut array = Array::new(shape, Values::F32(floats))?;
        if let Some(size) = self.pool {
            array = adaptive_average_pool(&array, size)?;
        }
        if array.shape().get(1..) != Some(self.shape.as_slice()) {
            return Err(Error::input(format!(
                "{}: its shape varies: expected rows of {:?}, found {:?}",
                self.name(),
                self.shape,
                array.shape()
            )));
        }
        Ok(array)
    }
}

fn bytes_of(values: Values) -> Vec<u8> {
    match values {
        Values::F16(v) => bytemuck::cast_slice(&v).to_vec(),
        Values::F32(v) => bytemuck::cast_slice(&v).to_vec(),
        Values::U8(v) => v,
        Values::I32(v) => bytemuck::cast_slice(&v).to_vec(),
        Values::I64(v) => bytemuck::cast_slice(&v).to_vec(),
        Values::F64(v) => bytemuck::cast_slice(&v).to_vec(),
    }
}

/// How many classes the logits have.
pub(super) fn classes(outputs: &[Output]) -> Option<usize> {
    outputs.iter().find(|o| o.is_logits).and_then(|o| o.shape.first().copied())
}

/// Probes the teacher and decides what is kept: the taps asked for, or the suggested maps and the penultimate vector, then the
/// logits (last, so that a value that is not finite is reported where it arises).
///
/// # Errors
/// When a tap is unknown, its shape varies between samples, or it cannot be pooled as asked.
pub(super) fn choose(
    recipe: &Extract,
    runtime: &Runtime,
    model: &Model,
    source: &Source<'_>,
    monitor: &dyn Monitor,
) -> Result<Vec<Output>> {
    let probe = runtime::probe(runtime, model, &source.shapes())?;
    let candidates = tap::candidates(model, &probe.shapes);
    let logits = choose_logits(recipe, model, &probe, monitor)?;
    let choices = choose_taps(recipe, &probe, &candidates)?;
    let mut outputs = choices.into_iter().map(|choice| output(choice, &probe, &candidates)).collect::<Result<Vec<_>>>()?;
    outputs.extend(logits);
    if outputs.is_empty() {
        return Err(Error::input("teacher: no tap is suggested and there are no logits")
            .hint("name what to keep: --tap TENSOR (see `nst-cache inspect`)"));
    }
    Ok(outputs)
}

fn choose_logits(recipe: &Extract, model: &Model, probe: &Probe, monitor: &dyn Monitor) -> Result<Option<Output>> {
    let tensor = if let Some(name) = &recipe.logits {
        let shape = row_shape(name, probe)?;
        if shape.len() != 1 {
            return Err(Error::input(format!("--logits {name}: expected one value a class, found rows of {shape:?}")));
        }
        name.clone()
    } else {
        match tap::logits(model) {
            Some((tensor, softmax)) if row_shape(&tensor, probe).is_ok_and(|s| s.len() == 1) => {
                if softmax {
                    monitor.note(&format!("logits: `{tensor}`, the input of the softmax at the end"));
                }
                tensor
            }
            _ => {
                monitor.note("the teacher's first output is not [batch, classes]: no logits are kept (--logits TENSOR names them)");
                return Ok(None);
            }
        }
    };
    let shape = row_shape(&tensor, probe)?;
    Ok(Some(Output {
        tensor,
        alias: String::new(),
        role: Role::Logits,
        stage: None,
        pool: None,
        shape,
        axes: vec!["class".to_owned()],
        is_logits: true,
    }))
}

fn choose_taps(recipe: &Extract, probe: &Probe, candidates: &[Tap]) -> Result<Vec<TapChoice>> {
    let mut names: Vec<&str> = probe.shapes.keys().map(String::as_str).chain(probe.refused.iter().map(|(name, _)| name.as_str())).collect();
    names.sort_unstable();
    names.dedup();
    if !recipe.taps.is_empty() {
        return tap::resolve(&recipe.taps, &names);
    }
    let suggested: Vec<String> = candidates.iter().filter(|t| t.suggested && t.role != Role::Logits).map(|t| t.tensor.clone()).collect();
    tap::resolve(&suggested, &names)
}

fn output(choice: TapChoice, probe: &Probe, candidates: &[Tap]) -> Result<Output> {
    let mut shape = row_shape(&choice.tensor, probe)?;
    let candidate = candidates.iter().find(|t| t.tensor == choice.tensor);
    let role = match (candidate.map(|t| t.role), shape.len()) {
        (Some(Role::Logits), _) | (None, 1) => Role::Vector,
        (Some(role), _) => role,
        (None, 2) => Role::Tokens,
        (None, 3) => Role::Map,
        (None, axes) => {
            return Err(Error::input(format!("tap `{}`: expected 2 to 4 axes with the batch, found {}", choice.tensor, axes + 1)));
        }
    };
    if let Some(size) = choice.size {
        match shape.as_slice() {
            [c, h, w] if size[0] <= *h && size[1] <= *w && !size.contains(&0) => shape = vec![*c, size[0], size[1]],
            _ => {
                return Err(Error::input(format!(
                    "tap `{}`: cannot be pooled to {}x{}, found rows of {shape:?}",
                    choice.tensor, size[0], size[1]
                )));
            }
        }
    }
    let axes: &[&str] = match (role, shape.len()) {
        (Role::Map, 3) => &["c", "h", "w"],
        (Role::Tokens, 2) => &["t", "c"],
        _ => &["c"],
    };
    let axes = if axes.len() == shape.len() {
        axes.iter().map(|&a| a.to_owned()).collect()
    } else {
        (0..shape.len()).map(|i| format!("axis{i}")).collect()
    };
    let stage = candidate.and_then(|t| t.stage);
    Ok(Output { tensor: choice.tensor, alias: choice.alias, role, stage, pool: choice.size, shape, axes, is_logits: false })
}

/// The probed shape of one row of a tensor.
fn row_shape(tensor: &str, probe: &Probe) -> Result<Vec<usize>> {
    if let Some((_, reason)) = probe.refused.iter().find(|(name, _)| name == tensor) {
        return Err(Error::input(format!("tap `{tensor}`: {reason}")).hint("nst-cache inspect lists the taps that can be kept"));
    }
    let Some(shape) = probe.shapes.get(tensor) else {
        let names: Vec<&str> = probe.shapes.keys().map(String::as_str).collect();
        // resolving an unknown name gives the error that lists the nearest ones
        tap::resolve(&[tensor.to_owned()], &names)?;
        return Err(Error::input(format!("tensor `{tensor}`: not in the model")));
    };
    let row: Option<Vec<usize>> = shape.get(1..).unwrap_or_default().iter().copied().collect();
    row.filter(|row| !row.contains(&0))
        .ok_or_else(|| Error::input(format!("tap `{tensor}`: its shape varies between samples, found {shape:?}")))
}
