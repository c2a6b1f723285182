//! Checkpoints: one safetensors file that holds everything needed to resume a run bit for bit.

use super::loss::Learnable;
use super::metrics::{self, Evaluation, Sums};
use super::optimizer::Optimizer;
use crate::error::{Context, Error, Result};
use crate::hash;
use crate::storage::{self, Lock};
use crate::student::Student;
use candle_core::{DType, Device, Tensor, Var};
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Write as _};
use std::path::Path;

/// A checkpoint's position in the run; the data order and every random draw follow from the step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Version of this record.
    pub format: u32,
    /// A hash of everything that determines the run's bits (recipe, student, data).
    pub identity: String,
    /// Steps taken.
    pub step: usize,
    /// Steps that the optimizer's state has taken.
    pub optimizer_steps: u64,
    /// Steps that the optimizer of the criteria's modules has taken.
    pub learnable_steps: u64,
    /// Length of the metrics file, in bytes.
    pub metrics_bytes: u64,
    /// Training time so far, in seconds.
    pub seconds: f64,
    /// Sums over the current epoch (or the one just finished).
    pub sums: Sums,
    /// The last evaluation.
    pub test: Option<Evaluation>,
    /// The best evaluation's score so far.
    #[serde(default)]
    pub best: Option<f64>,
}

impl Position {
    /// The version that this code writes.
    pub const FORMAT: u32 = 3;

    /// The start of a run.
    #[must_use]
    pub fn start(identity: &str) -> Self {
        Self {
            format: Self::FORMAT,
            identity: identity.to_owned(),
            step: 0,
            optimizer_steps: 0,
            learnable_steps: 0,
            metrics_bytes: 0,
            seconds: 0.0,
            sums: Sums::default(),
            test: None,
            best: None,
        }
    }
}

/// The checkpoint's name in a run's folder.
pub const CHECKPOINT: &str = "checkpoint.safetensors";

/// The header's key for the position.
const KEY: &str = "nst-cache";
/// The header's key for the metrics so far: deflated, in hexadecimal digits. Omitted if they are
/// too long for a header.
const METRICS: &str = "metrics";
/// Enough for the lines of a hundred million steps.
const METRICS_BYTES_MAX: u64 = 2 << 30;
/// The most bytes of packed metrics that a header holds.
const PACKED_BYTES_MAX: usize = 64 << 20;
/// The most bytes of metrics that a hexadecimal digit can expand to; a header that claims more is
/// damaged.
const PACKED: u64 = 200;
/// More than the largest header that safetensors accepts.
const HEADER_BYTES_MAX: u64 = 128 << 20;
/// The header's key for the SHA-256 of both, and of all tensors by name.
const SUM: &str = "sha256";

/// SHA-256 of the header's entries and of the tensors in order of name, each with its type, its
/// shape and its bytes.
fn sha256<'a>(
    position: &str,
    metrics: Option<&str>,
    tensors: impl Iterator<Item = (&'a str, TensorView<'a>)>,
) -> String {
    let mut sum = Sha256::new();
    sum.update(format!("{position}\n{}\n", metrics.unwrap_or_default()));
    for (name, tensor) in tensors.collect::<BTreeMap<_, _>>() {
        sum.update(format!("{name} {:?} {:?}\n", tensor.dtype(), tensor.shape()));
        sum.update(tensor.data());
    }
    hash::hex(&sum.finalize())
}

fn deflated(text: &[u8]) -> std::io::Result<String> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text)?;
    Ok(hash::hex(&encoder.finish()?))
}

/// Inverts [`deflated`]; `None` unless the result is `bytes` long.
fn inflated(text: &str, bytes: u64) -> Option<Vec<u8>> {
    if bytes > METRICS_BYTES_MAX.min(PACKED * (text.len() as u64 + 1)) {
        return None;
    }
    let digits = text.as_bytes().chunks(2);
    let bytes_of = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let packed = digits.map(bytes_of).collect::<Option<Vec<u8>>>()?;
    let mut out = Vec::new();
    DeflateDecoder::new(&*packed).take(bytes.saturating_add(1)).read_to_end(&mut out).ok()?;
    Some(out).filter(|out| out.len() as u64 == bytes)
}

/// Reads the metrics file next to a checkpoint that doesn't hold them, up to the checkpoint's
/// length.
fn lines_beside(path: &Path, bytes: u64) -> Result<Vec<u8>> {
    let path = path.with_file_name(metrics::METRICS);
    let mut lines = storage::read_whole(&path)?.unwrap_or_default();
    match usize::try_from(bytes) {
        Ok(bytes) if bytes <= lines.len() => lines.truncate(bytes),
        _ => {
            return Err(Error::input(format!(
                "{}: shorter than its checkpoint says",
                path.display()
            ))
            .hint("give another -o"));
        }
    }
    Ok(lines)
}

/// The variables of the student and its optimizer, by the names that a checkpoint uses.
fn variables<'a>(
    student: &'a Student,
    optimizer: &'a Optimizer,
) -> impl Iterator<Item = (String, &'a Var)> {
    let parameters = student.parameters().iter().map(|p| (format!("parameter/{}", p.name), &p.var));
    let buffers = student.buffers().iter().map(|b| (format!("buffer/{}", b.name), &b.var));
    let state = optimizer.state().into_iter().map(|(name, var)| (format!("optimizer/{name}"), var));
    parameters.chain(buffers).chain(state)
}

/// Writes a checkpoint into a run's folder in place of the previous one; a crash leaves one or the
/// other. `metrics`: all lines so far.
///
/// # Errors
/// When the file cannot be written.
pub fn save(
    folder: &Lock,
    position: &Position,
    metrics: &[u8],
    student: &Student,
    optimizer: &Optimizer,
    learnable: &Learnable,
) -> Result<()> {
    let header = serde_json::to_string(position)
        .context(|| "checkpoint: position cannot be written".into())?;
    let mut data = Vec::new();
    let own = variables(student, optimizer).map(|(name, var)| (name, var.as_tensor().clone()));
    for (name, tensor) in own.chain(learnable.tensors()?) {
        let (dtype, bytes) = bytes(&tensor)?;
        data.push((name, dtype, tensor.dims().to_vec(), bytes));
    }
    let views: Vec<(&str, TensorView<'_>)> = data
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            TensorView::new(*dtype, shape.clone(), bytes).map(|view| (name.as_str(), view))
        })
        .collect::<Result<_, _>>()
        .context(|| "checkpoint: tensors do not fit their shapes".into())?;
    let metrics = deflated(metrics).context(|| "checkpoint: metrics cannot be packed".into())?;
    let metrics = Some(metrics).filter(|packed| packed.len() <= PACKED_BYTES_MAX);
    let sum = sha256(&header, metrics.as_deref(), views.iter().cloned());
    let entries = [(KEY, Some(header)), (METRICS, metrics), (SUM, Some(sum))];
    let entries: HashMap<String, String> =
        entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
    let file = safetensors::serialize(views, Some(entries))
        .context(|| "checkpoint: cannot be encoded".into())?;
    folder.replace(CHECKPOINT, &file)
}

/// Loads a checkpoint into the student, its optimizer and the criteria's state, and returns its
/// position and the metrics up to there. `accepted`: whether a run of this identity can be resumed.
///
/// # Errors
/// When it is damaged, has another version, belongs to another run, or does not fit the student.
pub fn load(
    path: &Path,
    accepted: impl Fn(&str) -> bool,
    student: &Student,
    optimizer: &mut Optimizer,
    learnable: &mut Learnable,
) -> Result<(Position, Vec<u8>)> {
    let what = || format!("checkpoint {}", path.display());
    let own = variables(student, optimizer).map(|(_, var)| var.elem_count());
    let learned = learnable.tensors()?;
    let numbers: usize = own.chain(learned.iter().map(|(_, t)| t.elem_count())).sum();
    let file = storage::read_bounded(path, (numbers * 8) as u64 + HEADER_BYTES_MAX)?
        .ok_or_else(|| Error::input(format!("{}: missing", what())))?;
    let damaged = || format!("{}: damaged", what());
    let is_damaged =
        || Error::input(damaged()).hint("delete it, and the same command trains from the start");
    let stored = SafeTensors::deserialize(&file).context(damaged)?;
    let (_, metadata) = SafeTensors::read_metadata(&file).context(damaged)?;
    let entry = |key: &str| metadata.metadata().as_ref().and_then(|entries| entries.get(key));
    let header = entry(KEY).ok_or_else(|| Error::input(format!("{}: not one of ours", what())))?;
    let position: Position = serde_json::from_str(header).context(damaged)?;
    if position.format != Position::FORMAT {
        return Err(Error::input(format!(
            "{}: expected format {}, found {}",
            what(),
            Position::FORMAT,
            position.format
        ))
        .hint("finish it with the build that began it, or give another -o"));
    }
    let metrics = entry(METRICS).map(String::as_str);
    if entry(SUM) != Some(&sha256(header, metrics, stored.iter())) {
        return Err(is_damaged());
    }
    if !accepted(&position.identity) {
        return Err(Error::input(format!("{}: of a run with other settings", what()))
            .hint("give another -o"));
    }
    let metrics = match metrics {
        Some(packed) => inflated(packed, position.metrics_bytes).ok_or_else(is_damaged)?,
        None => lines_beside(path, position.metrics_bytes)?,
    };
    let expected = variables(student, optimizer).count() + learned.len();
    if stored.len() != expected {
        return Err(Error::input(format!(
            "{}: expected {expected} tensors, found {}",
            what(),
            stored.len()
        )));
    }
    let read = |name: &str, shape: &[usize], dtype: DType| -> Result<Tensor> {
        let view = stored.tensor(name).context(|| format!("{}: no tensor {name}", what()))?;
        if view.shape() != shape || view.dtype() != stored_as(dtype) {
            return Err(Error::input(format!(
                "{}: {name}: expected {dtype:?} {shape:?}, found {:?} {:?}",
                what(),
                view.dtype(),
                view.shape()
            )));
        }
        Ok(match dtype {
            DType::F64 => Tensor::from_vec(
                bytemuck::pod_collect_to_vec::<u8, f64>(view.data()),
                shape,
                &Device::Cpu,
            )?,
            _ => Tensor::from_vec(
                bytemuck::pod_collect_to_vec::<u8, f32>(view.data()),
                shape,
                &Device::Cpu,
            )?,
        })
    };
    for (name, var) in variables(student, optimizer) {
        var.set(&read(&name, var.dims(), var.dtype())?.to_device(var.device())?)?;
    }
    learnable.restore(position.learnable_steps, read)?;
    optimizer.set_steps(position.optimizer_steps);
    Ok((position, metrics))
}

/// The stored type: float64 as itself, since a memory's normalizers need it, all others as float32.
fn stored_as(dtype: DType) -> Dtype {
    if dtype == DType::F64 { Dtype::F64 } else { Dtype::F32 }
}

fn bytes(tensor: &Tensor) -> Result<(Dtype, Vec<u8>)> {
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::F64 => (Dtype::F64, bytemuck::cast_slice(&flat.to_vec1::<f64>()?).to_vec()),
        _ => (Dtype::F32, bytemuck::cast_slice(&flat.to_vec1::<f32>()?).to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_packed_and_nothing_of_another_length_is_unpacked() {
        for text in [Vec::new(), b"one\n".to_vec(), [b'x'; 100].repeat(9)] {
            let (packed, bytes) = (deflated(&text).unwrap(), text.len() as u64);
            assert_eq!(inflated(&packed, bytes), Some(text));
            assert_eq!(inflated(&packed, bytes + 1), None);
            assert_eq!(inflated(&packed[1..], bytes), None);
        }
        assert_eq!(inflated(&deflated(&[0; 99]).unwrap(), 98), None);
    }

    #[test]
    fn lines_beside_are_taken_as_far_as_the_checkpoint_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CHECKPOINT);
        assert!(lines_beside(&path, 1).is_err());
        std::fs::write(folder.path().join(metrics::METRICS), b"one\ntwo\n").unwrap();
        assert_eq!(lines_beside(&path, 4).unwrap(), b"one\n");
        assert!(lines_beside(&path, 9).is_err() && lines_beside(&path, u64::MAX).is_err());
    }

    #[test]
    fn positions_read_back_exactly() {
        let mut position = Position::start("abc");
        position.seconds = 0.1 + 0.2;
        position.sums.parts = vec![1.0 / 3.0, 1e-300];
        let text = serde_json::to_string(&position).unwrap();
        assert_eq!(serde_json::from_str::<Position>(&text).unwrap(), position);
    }
}
