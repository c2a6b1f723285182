//! Arrays in host memory: what data sets yield, ONNX Runtime takes and returns, and shards hold.

use crate::error::{Error, Result};
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// The axis order of a model's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the field's own names")]
pub enum Layout {
    Nchw,
    Nhwc,
}

/// An array's element type. The serde names are those of Zarr v3 and NumPy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Dtype {
    /// A byte that is 0 or 1.
    #[serde(rename = "bool")]
    Bool,
    /// 8-bit signed integer.
    #[serde(rename = "int8")]
    I8,
    /// 16-bit signed integer.
    #[serde(rename = "int16")]
    I16,
    /// 8-bit unsigned integer.
    #[serde(rename = "uint8")]
    U8,
    /// 16-bit unsigned integer.
    #[serde(rename = "uint16")]
    U16,
    /// 32-bit unsigned integer.
    #[serde(rename = "uint32")]
    U32,
    /// 64-bit unsigned integer.
    #[serde(rename = "uint64")]
    U64,
    /// 32-bit signed integer.
    #[serde(rename = "int32")]
    I32,
    /// 64-bit signed integer.
    #[serde(rename = "int64")]
    I64,
    /// The upper half of a 32-bit float. Models may use it; caches store such values as `float32`.
    #[serde(rename = "bfloat16")]
    BF16,
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
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::BF16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    /// The name used by Zarr v3 and NumPy.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::BF16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
            Self::F64 => "float64",
        }
    }

    /// Whether the type is floating point.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::BF16 | Self::F32 | Self::F64)
    }
}

/// The elements of an [`Array`], row-major.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each variant is the element type it names")]
pub enum Values {
    /// Bytes that are 0 or 1.
    Bool(Vec<u8>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// Evaluates one expression with the elements of any type.
macro_rules! each {
    ($values:expr, $v:ident => $body:expr) => {
        match $values {
            Values::Bool($v) | Values::U8($v) => $body,
            Values::U16($v) => $body,
            Values::U32($v) => $body,
            Values::U64($v) => $body,
            Values::I8($v) => $body,
            Values::I16($v) => $body,
            Values::I32($v) => $body,
            Values::I64($v) => $body,
            Values::F16($v) => $body,
            Values::BF16($v) => $body,
            Values::F32($v) => $body,
            Values::F64($v) => $body,
        }
    };
}

impl Values {
    /// `len` zeros.
    fn zeros(dtype: Dtype, len: usize) -> Self {
        match dtype {
            Dtype::Bool => Self::Bool(vec![0; len]),
            Dtype::U8 => Self::U8(vec![0; len]),
            Dtype::U16 => Self::U16(vec![0; len]),
            Dtype::U32 => Self::U32(vec![0; len]),
            Dtype::U64 => Self::U64(vec![0; len]),
            Dtype::I8 => Self::I8(vec![0; len]),
            Dtype::I16 => Self::I16(vec![0; len]),
            Dtype::I32 => Self::I32(vec![0; len]),
            Dtype::I64 => Self::I64(vec![0; len]),
            Dtype::F16 => Self::F16(bytemuck::zeroed_vec(len)),
            Dtype::BF16 => Self::BF16(bytemuck::zeroed_vec(len)),
            Dtype::F32 => Self::F32(vec![0.0; len]),
            Dtype::F64 => Self::F64(vec![0.0; len]),
        }
    }

    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        each!(self, v => v.len())
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::Bool(_) => Dtype::Bool,
            Self::U8(_) => Dtype::U8,
            Self::U16(_) => Dtype::U16,
            Self::U32(_) => Dtype::U32,
            Self::U64(_) => Dtype::U64,
            Self::I8(_) => Dtype::I8,
            Self::I16(_) => Dtype::I16,
            Self::I32(_) => Dtype::I32,
            Self::I64(_) => Dtype::I64,
            Self::F16(_) => Dtype::F16,
            Self::BF16(_) => Dtype::BF16,
            Self::F32(_) => Dtype::F32,
            Self::F64(_) => Dtype::F64,
        }
    }

    /// The elements as doubles, if they are floats.
    fn as_floats(&self) -> Option<Vec<f64>> {
        match self {
            Self::F16(v) => Some(v.iter().map(|x| x.to_f64()).collect()),
            Self::BF16(v) => Some(v.iter().map(|x| x.to_f64()).collect()),
            Self::F32(v) => Some(v.iter().map(|&x| f64::from(x)).collect()),
            Self::F64(v) => Some(v.clone()),
            _ => None,
        }
    }

    /// The elements as integers of a type that holds all; empty for floats.
    fn as_integers(&self) -> Vec<i128> {
        match self {
            Self::Bool(v) | Self::U8(v) => v.iter().map(|&x| x.into()).collect(),
            Self::U16(v) => v.iter().map(|&x| x.into()).collect(),
            Self::U32(v) => v.iter().map(|&x| x.into()).collect(),
            Self::U64(v) => v.iter().map(|&x| x.into()).collect(),
            Self::I8(v) => v.iter().map(|&x| x.into()).collect(),
            Self::I16(v) => v.iter().map(|&x| x.into()).collect(),
            Self::I32(v) => v.iter().map(|&x| x.into()).collect(),
            Self::I64(v) => v.iter().map(|&x| x.into()).collect(),
            _ => Vec::new(),
        }
    }

    /// Rounds to a float type; the error says which value does not fit.
    fn from_floats(floats: &[f64], to: Dtype) -> Result<Self, String> {
        #[allow(clippy::cast_possible_truncation, reason = "the rounding that was asked for")]
        let values = match to {
            Dtype::F16 => Self::F16(floats.iter().map(|&x| f16::from_f64(x)).collect()),
            Dtype::BF16 => Self::BF16(floats.iter().map(|&x| bf16::from_f64(x)).collect()),
            Dtype::F32 => Self::F32(floats.iter().map(|&x| x as f32).collect()),
            Dtype::F64 => Self::F64(floats.to_vec()),
            _ => return Err("floats".to_owned()),
        };
        let rounded = values.as_floats().unwrap_or_default();
        match floats.iter().zip(rounded).find(|(x, rounded)| x.is_finite() && !rounded.is_finite())
        {
            Some((x, _)) => Err(format!("{x:e}, which is beyond its range")),
            None => Ok(values),
        }
    }

    /// Converts to another integer type; the error says which value does not fit.
    fn from_integers(integers: &[i128], to: Dtype) -> Result<Self, String> {
        fn each<T: TryFrom<i128>>(integers: &[i128]) -> Result<Vec<T>, String> {
            integers
                .iter()
                .map(|&x| T::try_from(x).map_err(|_| format!("{x}, which is beyond its range")))
                .collect()
        }
        Ok(match to {
            Dtype::Bool => match integers.iter().find(|x| !(0..=1).contains(*x)) {
                Some(x) => return Err(format!("{x}, which is beyond its range")),
                None => Self::Bool(each(integers)?),
            },
            Dtype::U8 => Self::U8(each(integers)?),
            Dtype::U16 => Self::U16(each(integers)?),
            Dtype::U32 => Self::U32(each(integers)?),
            Dtype::U64 => Self::U64(each(integers)?),
            Dtype::I8 => Self::I8(each(integers)?),
            Dtype::I16 => Self::I16(each(integers)?),
            Dtype::I32 => Self::I32(each(integers)?),
            Dtype::I64 => Self::I64(each(integers)?),
            _ => return Err("integers".to_owned()),
        })
    }

    /// The elements' bytes in native order.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        each!(self, v => bytemuck::cast_slice(v))
    }
}

/// A dense, row-major array.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    shape: Vec<usize>,
    values: Values,
}

impl Array {
    /// Combines a shape with its values.
    ///
    /// # Errors
    /// If the number of values is not the product of the shape.
    pub fn new(shape: Vec<usize>, values: Values) -> Result<Self> {
        let expected = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let array = Self { shape, values };
        if expected == Some(array.len()) {
            Ok(array)
        } else {
            Err(Error::input(format!(
                "array of shape {:?}: expected {expected:?} values, found {}",
                array.shape,
                array.len()
            )))
        }
    }

    /// An array of zeros.
    ///
    /// # Errors
    /// If there are more elements than memory can address.
    pub fn zeros(dtype: Dtype, shape: Vec<usize>) -> Result<Self> {
        let count = shape
            .iter()
            .try_fold(dtype.size(), |n, &d| n.checked_mul(d))
            .filter(|&bytes| isize::try_from(bytes).is_ok());
        let Some(bytes) = count else {
            return Err(Error::input(format!(
                "array of shape {shape:?}: more than memory can hold"
            )));
        };
        let values = Values::zeros(dtype, bytes / dtype.size());
        Ok(Self { shape, values })
    }

    /// The length of each axis.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements, row-major.
    #[must_use]
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// Consumes the array and returns its elements.
    #[must_use]
    pub fn into_values(self) -> Values {
        self.values
    }

    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.values.dtype()
    }

    /// An array from its elements' bytes in native order.
    ///
    /// # Errors
    /// If the number of bytes does not match the shape.
    pub fn from_bytes(dtype: Dtype, shape: Vec<usize>, bytes: &[u8]) -> Result<Self> {
        let mut array = Self::zeros(dtype, shape)?;
        let expected = array.as_bytes().len();
        if expected != bytes.len() {
            return Err(Error::input(format!(
                "array of shape {:?}: expected {expected} bytes, found {}",
                array.shape,
                bytes.len()
            )));
        }
        array.as_bytes_mut().copy_from_slice(bytes);
        Ok(array)
    }

    /// Whether [`Array::converted`] can convert one type to another: among floats, and among
    /// integers and booleans.
    #[must_use]
    pub fn converts(from: Dtype, to: Dtype) -> bool {
        from.is_float() == to.is_float()
    }

    /// Converts the elements to another type: floats are rounded to the nearest value, integers
    /// must be in range.
    ///
    /// # Errors
    /// If a value is out of range, or exactly one of the types is a float.
    pub fn converted(&self, to: Dtype) -> Result<Self> {
        if to == self.dtype() {
            return Ok(self.clone());
        }
        let values = match self.values.as_floats() {
            Some(floats) => Values::from_floats(&floats, to),
            None => Values::from_integers(&self.values.as_integers(), to),
        };
        let values =
            values.map_err(|what| Error::input(format!("expected {}, found {what}", to.name())))?;
        Ok(Self { shape: self.shape.clone(), values })
    }

    /// Moves the first axis after the `axis` axes that follow it: with 1, `[n, a, b]` becomes `[a,
    /// n, b]`.
    ///
    /// # Errors
    /// If there are too few axes.
    pub fn with_first_axis_at(self, axis: usize) -> Result<Self> {
        if axis == 0 {
            return Ok(self);
        }
        let (Some((&rows, rest)), true) = (self.shape.split_first(), axis < self.shape.len())
        else {
            return Err(Error::input(format!(
                "array of shape {:?}: expected an axis {axis}, found none",
                self.shape
            )));
        };
        let (before, after) = rest.split_at(axis);
        let shape = [before, &[rows], after].concat();
        let run = after.iter().product::<usize>() * self.dtype().size();
        let runs: usize = before.iter().product();
        let mut moved = Self::zeros(self.dtype(), shape)?;
        let from = self.as_bytes();
        // run `r` of row `n` is at `r · rows + n`
        for (at, out) in moved.as_bytes_mut().chunks_exact_mut(run.max(1)).enumerate() {
            let (r, n) = (at / rows.max(1), at % rows.max(1));
            let start = (n * runs + r) * run;
            out.copy_from_slice(from.get(start..start + run).unwrap_or_default());
        }
        Ok(moved)
    }

    /// The elements' bytes in native order.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.values.as_bytes()
    }

    /// The elements' bytes in native order, to be overwritten.
    #[must_use]
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        each!(&mut self.values, v => bytemuck::cast_slice_mut(v))
    }

    /// The first element that is NaN or infinite.
    #[must_use]
    pub fn not_finite(&self) -> Option<f64> {
        self.values.as_floats()?.into_iter().find(|x| !x.is_finite())
    }

    /// The elements, if they are `f32`.
    #[must_use]
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.values {
            Values::F32(v) => Some(v),
            _ => None,
        }
    }

    /// The elements converted to `f32` from any type.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "the conversion that was asked for"
    )]
    pub fn to_f32(&self) -> Vec<f32> {
        match &self.values {
            Values::Bool(v) | Values::U8(v) => v.iter().map(|&x| f32::from(x)).collect(),
            Values::U16(v) => v.iter().map(|&x| f32::from(x)).collect(),
            Values::U32(v) => v.iter().map(|&x| x as f32).collect(),
            Values::U64(v) => v.iter().map(|&x| x as f32).collect(),
            Values::I8(v) => v.iter().map(|&x| f32::from(x)).collect(),
            Values::I16(v) => v.iter().map(|&x| f32::from(x)).collect(),
            Values::I32(v) => v.iter().map(|&x| x as f32).collect(),
            Values::I64(v) => v.iter().map(|&x| x as f32).collect(),
            Values::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Values::BF16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Values::F32(v) => v.clone(),
            Values::F64(v) => v.iter().map(|&x| x as f32).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(shape: &[usize], values: Values) -> Array {
        Array::new(shape.to_vec(), values).unwrap()
    }

    #[test]
    fn the_first_axis_moves_behind_others() {
        // element [n, a, b] is 100·n + 10·a + b
        let values = (0..2)
            .flat_map(|n| (0..3).flat_map(move |a| (0..2).map(move |b| 100 * n + 10 * a + b)));
        let stacked = array(&[2, 3, 2], Values::I32(values.collect()));
        let moved = stacked.clone().with_first_axis_at(1).unwrap();
        assert_eq!(
            moved,
            array(
                &[3, 2, 2],
                Values::I32(vec![0, 1, 100, 101, 10, 11, 110, 111, 20, 21, 120, 121])
            )
        );
        let moved = stacked.clone().with_first_axis_at(2).unwrap();
        assert_eq!(
            moved,
            array(
                &[3, 2, 2],
                Values::I32(vec![0, 100, 1, 101, 10, 110, 11, 111, 20, 120, 21, 121])
            )
        );
        assert_eq!(stacked.clone().with_first_axis_at(0).unwrap(), stacked);
        assert!(stacked.with_first_axis_at(3).is_err());
        assert!(array(&[], Values::I32(vec![1])).with_first_axis_at(1).is_err());
        assert_eq!(
            array(&[2, 0], Values::U8(vec![])).with_first_axis_at(1).unwrap().shape(),
            [0, 2]
        );
    }

    #[test]
    fn types_are_converted_within_their_range() {
        let convert = |values: Values, dtype| {
            array(&[1], values).converted(dtype).map(Array::into_values).map_err(|e| e.to_string())
        };
        assert_eq!(convert(Values::F64(vec![0.1]), Dtype::F32).unwrap(), Values::F32(vec![0.1]));
        assert_eq!(
            convert(Values::F16(vec![f16::from_f32(0.5)]), Dtype::F64).unwrap(),
            Values::F64(vec![0.5])
        );
        assert_eq!(
            convert(Values::F32(vec![1.0 + 1.0 / 512.0]), Dtype::BF16).unwrap(),
            Values::BF16(vec![bf16::ONE])
        );
        assert_eq!(convert(Values::I64(vec![-7]), Dtype::I32).unwrap(), Values::I32(vec![-7]));
        assert_eq!(convert(Values::Bool(vec![1]), Dtype::U8).unwrap(), Values::U8(vec![1]));
        assert!(convert(Values::F64(vec![f64::NAN]), Dtype::F32).is_ok());
        assert!(
            convert(Values::F64(vec![1e300]), Dtype::F32)
                .unwrap_err()
                .contains("expected float32, found 1e300")
        );
        assert!(
            convert(Values::I64(vec![1 << 40]), Dtype::I32)
                .unwrap_err()
                .contains("found 1099511627776")
        );
        assert!(convert(Values::U8(vec![2]), Dtype::Bool).unwrap_err().contains("found 2"));
        assert!(
            convert(Values::U8(vec![2]), Dtype::F32)
                .unwrap_err()
                .contains("expected float32, found integers")
        );
        assert!(
            convert(Values::F32(vec![2.0]), Dtype::I32)
                .unwrap_err()
                .contains("expected int32, found floats")
        );
    }

    #[test]
    fn bytes_become_the_elements_that_they_are() {
        assert_eq!(
            Array::from_bytes(Dtype::U16, vec![2], &[1, 0, 0, 1]).unwrap().values(),
            &Values::U16(vec![1, 256])
        );
        assert!(
            Array::from_bytes(Dtype::U16, vec![2], &[0; 3])
                .unwrap_err()
                .to_string()
                .contains("expected 4 bytes, found 3")
        );
        assert!(Array::from_bytes(Dtype::U8, vec![usize::MAX, 2], &[]).is_err());
    }
}
