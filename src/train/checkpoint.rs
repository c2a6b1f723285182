//! Checkpoints: one safetensors file that holds everything a run needs to go on with the same bits.

use super::loss::Learnable;
use super::metrics::{Evaluation, Sums};
use super::optimizer::Optimizer;
use crate::error::{Context, Error, Result};
use crate::student::Student;
use candle_core::{DType, Device, Tensor, Var};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

/// Where in the run a checkpoint stands; the data order and every random draw follow from the step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Version of this record.
    pub format: u32,
    /// What decides the run's bits (recipe, student, data), as a hash.
    pub identity: String,
    /// Steps taken.
    pub step: usize,
    /// Steps that the optimiser's state stands at.
    pub optimizer_steps: u64,
    /// Steps that the optimiser of what the criteria learn stands at.
    pub learnable_steps: u64,
    /// Length of the metrics file, in bytes.
    pub metrics_bytes: u64,
    /// Training time so far.
    pub seconds: f64,
    /// Sums of the epoch that is under way (or was just finished).
    pub sums: Sums,
    /// The last evaluation.
    pub test: Option<Evaluation>,
}

impl Position {
    /// The version that this code writes.
    pub const FORMAT: u32 = 2;

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
        }
    }
}

/// The header's key.
const KEY: &str = "nst-cache";

/// What of the student and its optimiser is saved, by name.
fn variables<'a>(
    student: &'a Student,
    optimizer: &'a Optimizer,
) -> impl Iterator<Item = (String, &'a Var)> {
    let parameters = student.parameters().iter().map(|p| (format!("parameter/{}", p.name), &p.var));
    let buffers = student.buffers().iter().map(|b| (format!("buffer/{}", b.name), &b.var));
    let state = optimizer.state().into_iter().map(|(name, var)| (format!("optimizer/{name}"), var));
    parameters.chain(buffers).chain(state)
}

/// Writes a checkpoint in place of the last one; a crash leaves the one or the other.
///
/// # Errors
/// When the file cannot be written.
pub fn save(
    path: &Path,
    position: &Position,
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
    let file = safetensors::serialize(views, Some(HashMap::from([(KEY.to_owned(), header)])))
        .context(|| "checkpoint: cannot be encoded".into())?;
    write_atomically(path, &file)
}

/// Reads a checkpoint into the student, its optimiser and what the criteria learn. `accepted`:
/// which runs' identities it may bear.
///
/// # Errors
/// When it is damaged, of another version, of another run, or does not fit the student.
pub fn load(
    path: &Path,
    accepted: impl Fn(&str) -> bool,
    student: &Student,
    optimizer: &mut Optimizer,
    learnable: &mut Learnable,
) -> Result<Position> {
    let what = || format!("checkpoint {}", path.display());
    let file = std::fs::read(path).context(|| format!("{}: cannot be read", what()))?;
    let damaged = || format!("{}: damaged", what());
    let (_, metadata) = SafeTensors::read_metadata(&file).context(damaged)?;
    let header = metadata.metadata().as_ref().and_then(|m| m.get(KEY));
    let header = header.ok_or_else(|| Error::input(format!("{}: not one of ours", what())))?;
    let position: Position = serde_json::from_str(header).context(damaged)?;
    if position.format != Position::FORMAT {
        return Err(Error::input(format!(
            "{}: expected format {}, found {}",
            what(),
            Position::FORMAT,
            position.format
        )));
    }
    if !accepted(&position.identity) {
        return Err(Error::input(format!("{}: of a run with other settings", what()))
            .hint("give another -o"));
    }
    let stored = SafeTensors::deserialize(&file).context(damaged)?;
    let expected = variables(student, optimizer).count() + learnable.tensors()?.len();
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
    Ok(position)
}

/// How a type is stored: in itself where a memory's normalisers need it, else as float32.
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

/// Writes a sibling temporary file, syncs it, renames it over `path`, and syncs the folder: a
/// reader sees the old bytes or the new ones.
///
/// # Errors
/// When the disk refuses.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        // a temporary file is the owner's alone; what is published is to be read by whom the folder
        // lets in
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        }
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        std::fs::File::open(folder)?.sync_all()
    };
    write().context(|| format!("{}: cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write_atomically(&folder.path().join("no/such/a.bin"), b"x").is_err());
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
