//! candle's tensors in host memory as slices: kernels read a tensor's storage where it is and build
//! new tensors from vectors, without candle's own operators in between.

use crate::error::{Error, Result};
use crate::kernel::Float;
use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Storage, StorageRef};
use candle_core::{Tensor, Var, WithDType};
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::cell::RefCell;

/// An element type that both the kernels and candle take: `f32` or `f64`.
pub(crate) trait Element: Float + WithDType {
    /// Half-precision values in this type.
    fn widen(from: &[f16], to: &mut [Self]);

    /// The storage's elements, if they are of this type.
    fn of_storage(storage: &mut CpuStorage) -> Option<&mut Vec<Self>>;
}

impl Element for f32 {
    fn widen(from: &[f16], to: &mut [Self]) {
        from.convert_to_f32_slice(to);
    }

    fn of_storage(storage: &mut CpuStorage) -> Option<&mut Vec<Self>> {
        if let CpuStorage::F32(values) = storage { Some(values) } else { None }
    }
}

impl Element for f64 {
    fn widen(from: &[f16], to: &mut [Self]) {
        from.convert_to_f64_slice(to);
    }

    fn of_storage(storage: &mut CpuStorage) -> Option<&mut Vec<Self>> {
        if let CpuStorage::F64(values) = storage { Some(values) } else { None }
    }
}

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
    pub(crate) fn of<T: WithDType>(&self) -> Result<&[T]> {
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

/// candle gives a mutable slice only inside an in-place operation.
struct InPlace<F>(RefCell<Option<F>>);

impl<F: FnOnce(&mut CpuStorage, &Layout) -> candle_core::Result<()>> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "in-place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        match self.0.borrow_mut().take() {
            Some(f) => f(storage, layout),
            None => candle_core::bail!("in-place operation ran twice"),
        }
    }
}

/// Changes a variable's elements where they are.
pub(crate) fn change<T: Element, R>(var: &Var, f: impl FnOnce(&mut [T]) -> R) -> Result<R> {
    let mut result = None;
    var.inplace_op1(&InPlace(RefCell::new(Some(|storage: &mut CpuStorage, layout: &Layout| {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("variable is not contiguous")
        };
        match T::of_storage(storage).and_then(|values| values.get_mut(start..end)) {
            Some(values) => result = Some(f(values)),
            None => candle_core::bail!("variable is not {:?}", T::DTYPE),
        }
        Ok(())
    }))))?;
    result.ok_or_else(|| Error::internal("tensor: in-place operation did not run"))
}
