//! Access to tensor values in host memory, and checks of shapes and types.

use crate::error::{Error, Result};
use crate::tensor::Element;
use candle_core::{CpuStorage, DType, Device, Layout, Storage, Tensor, bail};

/// The values of a tensor on any device, row-major, as `T`.
pub(crate) fn values<T: Element>(tensor: &Tensor) -> Result<Vec<T>> {
    Ok(tensor.to_device(&Device::Cpu)?.to_dtype(T::DTYPE)?.flatten_all()?.to_vec1::<T>()?)
}

/// The tensor as a dense one in host memory.
pub(crate) fn dense(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.to_device(&Device::Cpu)?.contiguous()?)
}

/// The elements of a dense tensor.
pub(crate) fn elements<'a, T: Element>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a [T]> {
    match layout
        .contiguous_offsets()
        .and_then(|(start, end)| T::cpu_storage_as_slice(storage).ok()?.get(start..end))
    {
        Some(values) => Ok(values),
        None => bail!("expected dense values of one floating-point type"),
    }
}

/// Passes the storage of a tensor in host memory to `f` without copying.
pub(crate) fn stored<R>(
    x: &Tensor,
    f: impl FnOnce(&CpuStorage, &Layout) -> candle_core::Result<R>,
) -> candle_core::Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(storage, layout),
        _ => bail!("expected values in host memory"),
    }
}

/// Evaluates `$body` with the element type of a storage.
macro_rules! by_element {
    ($storage:expr, |$t:ident| $body:expr) => {
        match $storage {
            candle_core::CpuStorage::F32(_) => {
                type $t = f32;
                $body
            }
            candle_core::CpuStorage::F64(_) => {
                type $t = f64;
                $body
            }
            _ => candle_core::bail!("expected f32 or f64"),
        }
    };
}

pub(crate) use by_element;

/// A tensor of `like`'s shape and type from f64 values.
pub(crate) fn tensor_like(values: Vec<f64>, like: &Tensor) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, like.shape(), &Device::Cpu)?.to_dtype(like.dtype())?)
}

/// Batch size and number of classes of logits.
pub(crate) fn rows_and_classes(logits: &Tensor, who: &str) -> Result<(usize, usize)> {
    match *logits.dims() {
        [rows, classes] if rows > 0 && classes > 0 => Ok((rows, classes)),
        _ => Err(Error::input(format!(
            "{who}: expected logits [batch, classes], found {:?}",
            logits.dims()
        ))),
    }
}

pub(crate) fn same_shape(student: &Tensor, other: &Tensor, who: &str) -> Result<()> {
    if student.dims() == other.dims() {
        return Ok(());
    }
    Err(Error::input(format!(
        "{who}: expected student and teacher of one shape, found {:?} and {:?}",
        student.dims(),
        other.dims()
    )))
}

/// Checks that criteria compute in this tensor's type.
pub(crate) fn check_dtype(tensor: &Tensor, who: &str) -> Result<()> {
    match tensor.dtype() {
        DType::F32 | DType::F64 => Ok(()),
        other => Err(Error::input(format!("{who}: expected f32 or f64, found {other:?}"))),
    }
}

/// ln softmax(row / temperature), written to `out`.
pub(crate) fn log_softmax(row: &[f64], temperature: f64, out: &mut [f64]) {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for (o, &x) in out.iter_mut().zip(row) {
        *o = (x - largest) / temperature;
        sum += o.exp();
    }
    let log_sum = sum.ln();
    for o in out {
        *o -= log_sum;
    }
}
