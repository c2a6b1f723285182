//! Arrays in host memory: what data sets yield, ONNX Runtime takes and gives, and shards hold.

use crate::error::{Error, Result};
use half::f16;
use serde::{Deserialize, Serialize};

/// The type of an array's elements. The serde names are Zarr v3's (and NumPy's).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Dtype {
    /// 8-bit unsigned integer.
    #[serde(rename = "uint8")]
    U8,
    /// 32-bit signed integer.
    #[serde(rename = "int32")]
    I32,
    /// 64-bit signed integer.
    #[serde(rename = "int64")]
    I64,
    /// 16-bit float (IEEE 754 binary16).
    #[serde(rename = "float16")]
    F16,
    /// 32-bit float.
    #[serde(rename = "float32")]
    F32,
    /// 64-bit float.
    #[serde(rename = "float64")]
    F64,
}

impl Dtype {
    /// Bytes of one element.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }

    /// The name used by Zarr v3 and NumPy.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "uint8",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::F16 => "float16",
            Self::F32 => "float32",
            Self::F64 => "float64",
        }
    }
}

/// The elements of an [`Array`], row-major.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each variant is the element type it names")]
pub enum Values {
    U8(Vec<u8>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    F16(Vec<f16>),
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// A dense, row-major array.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    shape: Vec<usize>,
    values: Values,
}

impl Array {
    /// Joins a shape and its values.
    ///
    /// # Errors
    /// When the element count is not the product of the shape.
    pub fn new(shape: Vec<usize>, values: Values) -> Result<Self> {
        let expected = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let array = Self { shape, values };
        if expected == Some(array.len()) {
            Ok(array)
        } else {
            Err(Error::input(format!("array of shape {:?}: expected {expected:?} values, found {}", array.shape, array.len())))
        }
    }

    /// An array of zeros.
    ///
    /// # Errors
    /// When there are more elements than memory can address.
    pub fn zeros(dtype: Dtype, shape: Vec<usize>) -> Result<Self> {
        let count = shape.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d)).filter(|&bytes| isize::try_from(bytes).is_ok());
        let Some(bytes) = count else { return Err(Error::input(format!("array of shape {shape:?}: more than memory can hold"))) };
        let len = bytes / dtype.size();
        let values = match dtype {
            Dtype::U8 => Values::U8(vec![0; len]),
            Dtype::I32 => Values::I32(vec![0; len]),
            Dtype::I64 => Values::I64(vec![0; len]),
            Dtype::F16 => Values::F16(bytemuck::zeroed_vec(len)),
            Dtype::F32 => Values::F32(vec![0.0; len]),
            Dtype::F64 => Values::F64(vec![0.0; len]),
        };
        Ok(Self { shape, values })
    }

    /// The size of each axis.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements, row-major.
    #[must_use]
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// Gives the elements away.
    #[must_use]
    pub fn into_values(self) -> Values {
        self.values
    }

    /// How many elements there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.values {
            Values::U8(v) => v.len(),
            Values::I32(v) => v.len(),
            Values::I64(v) => v.len(),
            Values::F16(v) => v.len(),
            Values::F32(v) => v.len(),
            Values::F64(v) => v.len(),
        }
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        match &self.values {
            Values::U8(_) => Dtype::U8,
            Values::I32(_) => Dtype::I32,
            Values::I64(_) => Dtype::I64,
            Values::F16(_) => Dtype::F16,
            Values::F32(_) => Dtype::F32,
            Values::F64(_) => Dtype::F64,
        }
    }

    /// The elements as bytes in the machine's order.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.values {
            Values::U8(v) => v,
            Values::I32(v) => bytemuck::cast_slice(v),
            Values::I64(v) => bytemuck::cast_slice(v),
            Values::F16(v) => bytemuck::cast_slice(v),
            Values::F32(v) => bytemuck::cast_slice(v),
            Values::F64(v) => bytemuck::cast_slice(v),
        }
    }

    /// The bytes of the elements, to be overwritten in the machine's order.
    #[must_use]
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.values {
            Values::U8(v) => v,
            Values::I32(v) => bytemuck::cast_slice_mut(v),
            Values::I64(v) => bytemuck::cast_slice_mut(v),
            Values::F16(v) => bytemuck::cast_slice_mut(v),
            Values::F32(v) => bytemuck::cast_slice_mut(v),
            Values::F64(v) => bytemuck::cast_slice_mut(v),
        }
    }

    /// The elements as `f32`, if that is their type.
    #[must_use]
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.values {
            Values::F32(v) => Some(v),
            _ => None,
        }
    }

    /// The elements converted to `f32`, whatever their type.
    #[must_use]
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "the conversion that was asked for")]
    pub fn to_f32(&self) -> Vec<f32> {
        match &self.values {
            Values::U8(v) => v.iter().map(|&x| f32::from(x)).collect(),
            Values::I32(v) => v.iter().map(|&x| x as f32).collect(),
            Values::I64(v) => v.iter().map(|&x| x as f32).collect(),
            Values::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Values::F32(v) => v.clone(),
            Values::F64(v) => v.iter().map(|&x| x as f32).collect(),
        }
    }
}
