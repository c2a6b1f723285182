//! Criteria, one paper a file: each gives its loss and the gradients for the student's tensors, in
//! f32 or f64.
//!
//! Gradients are written out where that saves time, memory or digits, as it does for all that is
//! computed of whole maps, and come from [`autograd`] elsewhere; sums that make a scalar loss run
//! in a fixed order, so the bits do not depend on the number of threads.
//!
//! They run on the host: tensors of another device are copied, and gradients come in host memory.

pub mod ab;
pub mod at;
mod attention;
pub mod autograd;
pub mod catalogue;
pub mod cc;
mod chain;
pub mod convolution;
pub mod crd;
pub mod cross_entropy;
pub mod dist;
pub mod dkd;
mod elements;
mod evaluation;
pub mod fitnet;
mod formula;
pub mod fsp;
pub mod ft;
pub mod gan;
pub mod init;
pub mod kd;
pub mod module;
pub mod needs;
pub mod nst;
pub mod ofd;
pub mod operator;
pub mod pkt;
mod pool;
mod products;
pub mod reviewkd;
pub mod rkd;
pub mod sakd;
pub mod sp;
mod squares;
pub mod vid;

use crate::error::{Error, Result};
use crate::kernel::Float;
use candle_core::{DType, Device, Storage, Tensor, WithDType};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// A loss and its gradient with respect to the student's tensor (same shape and type, in host
/// memory).
#[derive(Debug, Clone)]
pub struct Loss {
    /// The mean over the batch.
    pub value: f64,
    /// d value / d student.
    pub gradient: Tensor,
}

/// An element type that criteria compute in and candle stores: `f32` or `f64`.
trait Element: Float + WithDType {
    /// Half-precision values in this type.
    fn widen(from: &[f16], to: &mut [Self]);
}

impl Element for f32 {
    fn widen(from: &[f16], to: &mut [Self]) {
        from.convert_to_f32_slice(to);
    }
}

impl Element for f64 {
    fn widen(from: &[f16], to: &mut [Self]) {
        from.convert_to_f64_slice(to);
    }
}

/// The values of a tensor of any device, row-major, in `T`.
fn values<T: Element>(tensor: &Tensor) -> Result<Vec<T>> {
    Ok(tensor.to_device(&Device::Cpu)?.to_dtype(T::DTYPE)?.flatten_all()?.to_vec1::<T>()?)
}

/// A tensor in host memory, dense.
fn dense(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.to_device(&Device::Cpu)?.contiguous()?)
}

/// Reads the values of a [`dense`] tensor where they lie.
fn with_slice<T: WithDType, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => {
            let values = T::cpu_storage_as_slice(storage)?.get(start..end);
            Ok(f(values
                .ok_or_else(|| Error::input("tensor: its layout reaches past its storage"))?))
        }
        _ => Err(Error::input("tensor: expected dense values in host memory")),
    }
}

/// A tensor of `like`'s shape and type from f64 values.
fn tensor_like(values: Vec<f64>, like: &Tensor) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, like.shape(), &Device::Cpu)?.to_dtype(like.dtype())?)
}

/// Batch and classes of logits.
fn rows_and_classes(logits: &Tensor, who: &str) -> Result<(usize, usize)> {
    match *logits.dims() {
        [rows, classes] if rows > 0 && classes > 0 => Ok((rows, classes)),
        _ => Err(Error::input(format!(
            "{who}: expected logits [batch, classes], found {:?}",
            logits.dims()
        ))),
    }
}

fn same_shape(student: &Tensor, other: &Tensor, who: &str) -> Result<()> {
    if student.dims() == other.dims() {
        return Ok(());
    }
    Err(Error::input(format!(
        "{who}: expected student and teacher of one shape, found {:?} and {:?}",
        student.dims(),
        other.dims()
    )))
}

/// Whether criteria compute in this type.
fn check_dtype(tensor: &Tensor, who: &str) -> Result<()> {
    match tensor.dtype() {
        DType::F32 | DType::F64 => Ok(()),
        other => Err(Error::input(format!("{who}: expected f32 or f64, found {other:?}"))),
    }
}

/// ln softmax(row / temperature), into `out`.
fn log_softmax(row: &[f64], temperature: f64, out: &mut [f64]) {
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
