//! Tensors as slices: kernels read a tensor's storage and build new ones from vectors, without
//! candle's own operators between.

use crate::error::{Error, Result};
use crate::kernel::Float;
use candle_core::{CpuStorage, Device, Storage, StorageRef, Tensor, WithDType};

/// An element type that both the kernels and candle take.
pub(crate) trait Element: Float + WithDType {}
impl Element for f32 {}
impl Element for f64 {}

/// Runs generic code for a tensor's element type: `typed!(x.dtype(), |T| body)`, where the body is
/// a `Result`.
macro_rules! typed {
    ($dtype:expr, |$t:ident| $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $t = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $t = f64;
                $body
            }
            other => Err($crate::error::Error::input(format!(
                "tensor: expected float32 or float64, found {other:?}"
            ))),
        }
    };
}
pub(crate) use typed;

/// A dense tensor's elements, held for reading.
pub(crate) struct Data<'a> {
    storage: StorageRef<'a>,
    range: std::ops::Range<usize>,
}

/// Opens a dense tensor for reading.
pub(crate) fn data(tensor: &Tensor) -> Result<Data<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or_else(|| Error::internal("tensor: expected dense values, found a strided view"))?;
    Ok(Data { storage, range: start..end })
}

impl Data<'_> {
    /// The elements, row-major.
    pub(crate) fn of<T: Element>(&self) -> Result<&[T]> {
        let Storage::Cpu(storage) = &*self.storage else {
            return Err(Error::internal("tensor: expected host memory, found another device"));
        };
        let storage: &CpuStorage = storage;
        T::cpu_storage_as_slice(storage)?
            .get(self.range.clone())
            .ok_or_else(|| Error::internal("tensor: layout reaches past its storage"))
    }
}

/// A tensor of these values.
pub(crate) fn tensor<T: Element>(values: Vec<T>, shape: &[usize]) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// The elements in double precision.
pub(crate) fn wide(t: &Tensor) -> Result<Vec<f64>> {
    let held = data(t)?;
    typed!(t.dtype(), |T| Ok(held.of::<T>()?.iter().map(|v| v.wide()).collect()))
}

/// A tensor of this type from double-precision values.
pub(crate) fn narrow(values: &[f64], shape: &[usize], dtype: candle_core::DType) -> Result<Tensor> {
    typed!(dtype, |T| tensor(values.iter().map(|&v| T::of(v)).collect::<Vec<T>>(), shape))
}
