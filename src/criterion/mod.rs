//! Criteria, one paper a file: each gives its loss and the gradients for the student's tensors, in f32 or f64.
//!
//! The gradients are explicit, so no criterion depends on an autograd; sums that make the scalar loss run in f64 and in a fixed order,
//! so the bits do not depend on the number of threads.

pub mod ab;
pub mod at;
pub mod autograd;
pub mod catalogue;
pub mod cc;
pub mod convolution;
pub mod crd;
pub mod cross_entropy;
pub mod dist;
pub mod dkd;
pub mod fitnet;
mod formula;
pub mod fsp;
pub mod ft;
pub mod gan;
pub mod init;
pub mod kd;
pub mod module;
pub mod nst;
pub mod ofd;
pub mod operator;
pub mod pkt;
mod pool;
pub mod reviewkd;
pub mod rkd;
pub mod sakd;
pub mod sp;
pub mod vid;

use crate::error::{Error, Result};
use crate::kernel::Float;
use candle_core::{DType, Device, Tensor, WithDType};

/// A loss and its gradient with respect to the student's tensor (same shape and type).
#[derive(Debug, Clone)]
pub struct Loss {
    /// The mean over the batch.
    pub value: f64,
    /// d value / d student.
    pub gradient: Tensor,
}

/// An element type that criteria compute in and candle stores: `f32` or `f64`.
trait Element: Float + WithDType {}
impl<T: Float + WithDType> Element for T {}

/// The values of a tensor, row-major, in `T`.
fn values<T: Element>(tensor: &Tensor) -> Result<Vec<T>> {
    Ok(tensor.to_dtype(T::DTYPE)?.flatten_all()?.to_vec1::<T>()?)
}

/// A tensor of `like`'s shape and type from f64 values.
fn tensor_like(values: Vec<f64>, like: &Tensor) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, like.shape(), &Device::Cpu)?.to_dtype(like.dtype())?)
}

/// Batch and classes of logits.
fn rows_and_classes(logits: &Tensor, who: &str) -> Result<(usize, usize)> {
    match *logits.dims() {
        [rows, classes] if rows > 0 && classes > 0 => Ok((rows, classes)),
        _ => Err(Error::input(format!("{who}: expected logits [batch, classes], found {:?}", logits.dims()))),
    }
}

fn same_shape(student: &Tensor, other: &Tensor, who: &str) -> Result<()> {
    if student.dims() == other.dims() {
        return Ok(());
    }
    Err(Error::input(format!("{who}: expected student and teacher of one shape, found {:?} and {:?}", student.dims(), other.dims())))
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
