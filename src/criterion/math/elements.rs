//! Reading tensors of any floating-point type piece by piece, so that whole-map operators need not
//! convert a map first.

use crate::tensor::Element;
use candle_core::{CpuStorage, Layout, bail};
use half::f16;

/// Elements read at a time: two buffers of them fit in the L1 cache.
pub(crate) const PIECE: usize = 256;

/// The elements of a dense tensor in host memory.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Elements<'a> {
    F16(&'a [f16]),
    F32(&'a [f32]),
    F64(&'a [f64]),
}

impl<'a> Elements<'a> {
    /// The elements of a tensor.
    ///
    /// # Errors
    /// When it is not dense, or has another type.
    pub(crate) fn of(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<Self> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("expected dense values")
        };
        let found = match storage {
            CpuStorage::F16(all) => all.get(start..end).map(Self::F16),
            CpuStorage::F32(all) => all.get(start..end).map(Self::F32),
            CpuStorage::F64(all) => all.get(start..end).map(Self::F64),
            _ => bail!("expected f16, f32 or f64"),
        };
        match found {
            Some(elements) => Ok(elements),
            None => bail!("a layout that reaches past its storage"),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F16(x) => x.len(),
            Self::F32(x) => x.len(),
            Self::F64(x) => x.len(),
        }
    }

    /// Whether single precision represents the elements exactly.
    pub(crate) fn is_single(&self) -> bool {
        !matches!(self, Self::F64(_))
    }

    /// Reads the elements from `start` on.
    pub(crate) fn read<T: Element>(&self, start: usize, to: &mut [T]) {
        let end = start + to.len();
        match self {
            Self::F16(x) => T::widen(&x[start..end], to),
            Self::F32(x) => {
                to.iter_mut().zip(&x[start..end]).for_each(|(to, &x)| *to = T::of(x.into()));
            }
            Self::F64(x) => to.iter_mut().zip(&x[start..end]).for_each(|(to, &x)| *to = T::of(x)),
        }
    }
}

/// Rounds values to the element type.
pub(crate) fn round<T: Element>(values: &[f64], to: &mut [T]) {
    for (to, &value) in to.iter_mut().zip(values) {
        *to = T::of(value);
    }
}

/// A count as a floating-point factor.
#[allow(clippy::cast_precision_loss, reason = "a number of elements in memory")]
pub(crate) fn count(n: usize) -> f64 {
    n as f64
}
