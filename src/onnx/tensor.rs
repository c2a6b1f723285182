//! Converts tensors of the file format (typed fields, raw bytes or external data) to arrays and
//! back.

use super::proto::TensorProto;
use super::proto::tensor_proto::DataType;
use crate::array::{Array, Dtype, Values};
use crate::error::{Error, Result};
use half::{bf16, f16};

/// The array type of an ONNX element type; `None` if arrays do not support it.
pub(crate) fn dtype(code: i32) -> Option<Dtype> {
    match DataType::try_from(code).ok()? {
        DataType::Bool => Some(Dtype::Bool),
        DataType::Uint8 => Some(Dtype::U8),
        DataType::Uint16 => Some(Dtype::U16),
        DataType::Uint32 => Some(Dtype::U32),
        DataType::Uint64 => Some(Dtype::U64),
        DataType::Int8 => Some(Dtype::I8),
        DataType::Int16 => Some(Dtype::I16),
        DataType::Int32 => Some(Dtype::I32),
        DataType::Int64 => Some(Dtype::I64),
        DataType::Float16 => Some(Dtype::F16),
        DataType::Bfloat16 => Some(Dtype::BF16),
        DataType::Float => Some(Dtype::F32),
        DataType::Double => Some(Dtype::F64),
        _ => None,
    }
}

/// Encodes an array as a named ONNX tensor (raw little-endian data).
#[must_use]
pub fn tensor_proto(name: &str, array: &Array) -> TensorProto {
    let code = match array.dtype() {
        Dtype::Bool => DataType::Bool,
        Dtype::U8 => DataType::Uint8,
        Dtype::U16 => DataType::Uint16,
        Dtype::U32 => DataType::Uint32,
        Dtype::U64 => DataType::Uint64,
        Dtype::I8 => DataType::Int8,
        Dtype::I16 => DataType::Int16,
        Dtype::I32 => DataType::Int32,
        Dtype::I64 => DataType::Int64,
        Dtype::F16 => DataType::Float16,
        Dtype::BF16 => DataType::Bfloat16,
        Dtype::F32 => DataType::Float,
        Dtype::F64 => DataType::Double,
    };
    TensorProto {
        name: Some(name.to_owned()),
        // a size in memory is far below 2⁶³
        dims: array.shape().iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect(),
        data_type: Some(code as i32),
        // little-endian like the machine, which cache readers require too
        raw_data: Some(array.as_bytes().to_vec().into()),
        ..Default::default()
    }
}

/// The length of each axis.
///
/// # Errors
/// If one is negative.
pub(super) fn shape(tensor: &TensorProto) -> Result<Vec<usize>> {
    let size = |&d: &i64| {
        usize::try_from(d).map_err(|_| {
            Error::input(format!("expected sizes of 0 or more, found {:?}", tensor.dims))
        })
    };
    tensor.dims.iter().map(size).collect()
}

/// Bytes of the tensor's elements in raw form; `None` for an element type that arrays do not
/// support.
///
/// # Errors
/// If no memory could hold the shape.
pub(super) fn byte_count(tensor: &TensorProto) -> Result<Option<usize>> {
    let Some(size) = data_type(tensor).and_then(element_size) else { return Ok(None) };
    let bytes = shape(tensor)?.iter().try_fold(size, |n, &d| n.checked_mul(d));
    bytes
        .map(Some)
        .ok_or_else(|| Error::input(format!("shape {:?} is beyond any memory", tensor.dims)))
}

/// Decodes a tensor. `outside` holds its bytes if they are stored elsewhere.
///
/// # Errors
/// If the bytes do not match its shape and type, or the type is not supported.
pub(super) fn decode(tensor: &TensorProto, outside: Option<&[u8]>) -> Result<Array> {
    let (Some(code), Some(expected)) = (data_type(tensor), byte_count(tensor)?) else {
        return Err(unsupported(tensor));
    };
    let values = if let Some(bytes) = outside {
        from_raw(code, bytes)
    } else if let Some(raw) = &tensor.raw_data {
        if raw.len() != expected {
            return Err(Error::input(format!(
                "shape {:?}: expected {expected} bytes, found {}",
                tensor.dims,
                raw.len()
            )));
        }
        from_raw(code, raw)
    } else {
        from_fields(code, tensor)
    };
    Array::new(shape(tensor)?, values.ok_or_else(|| unsupported(tensor))?)
}

/// The element type and shape of the array that a tensor decodes to.
///
/// # Errors
/// See [`decode`], as far as it is known without the values.
pub(super) fn head(tensor: &TensorProto) -> Result<(Dtype, Vec<usize>)> {
    let none = data_type(tensor)
        .and_then(|code| from_raw(code, &[]))
        .ok_or_else(|| unsupported(tensor))?;
    byte_count(tensor)?;
    Ok((Array::new(vec![0], none)?.dtype(), shape(tensor)?))
}

fn data_type(tensor: &TensorProto) -> Option<DataType> {
    DataType::try_from(tensor.data_type.unwrap_or_default()).ok()
}

/// An element type as messages show it.
pub(super) fn type_name(code: i32) -> String {
    match DataType::try_from(code) {
        Ok(DataType::Float) => "float32".to_owned(),
        Ok(DataType::Double) => "float64".to_owned(),
        Ok(known) => known.as_str_name().to_lowercase(),
        Err(_) => format!("type {code}"),
    }
}

fn unsupported(tensor: &TensorProto) -> Error {
    let found = type_name(tensor.data_type.unwrap_or_default());
    Error::input(format!("expected a tensor of numbers or booleans, found element type {found}"))
}

fn element_size(code: DataType) -> Option<usize> {
    match code {
        DataType::Uint8 | DataType::Int8 | DataType::Bool => Some(1),
        DataType::Uint16 | DataType::Int16 | DataType::Float16 | DataType::Bfloat16 => Some(2),
        DataType::Int32 | DataType::Uint32 | DataType::Float => Some(4),
        DataType::Int64 | DataType::Uint64 | DataType::Double => Some(8),
        _ => None,
    }
}

/// Little-endian elements of `N` bytes.
fn elements<const N: usize, T>(raw: &[u8], decode: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>().0.iter().map(|&bytes| decode(bytes)).collect()
}

fn from_raw(code: DataType, raw: &[u8]) -> Option<Values> {
    Some(match code {
        DataType::Uint8 | DataType::Bool => Values::U8(raw.to_vec()),
        DataType::Int8 => Values::I32(elements(raw, |b| i32::from(i8::from_le_bytes(b)))),
        DataType::Uint16 => Values::I32(elements(raw, |b| i32::from(u16::from_le_bytes(b)))),
        DataType::Int16 => Values::I32(elements(raw, |b| i32::from(i16::from_le_bytes(b)))),
        DataType::Int32 => Values::I32(elements(raw, i32::from_le_bytes)),
        DataType::Uint32 => Values::I64(elements(raw, |b| i64::from(u32::from_le_bytes(b)))),
        DataType::Int64 => Values::I64(elements(raw, i64::from_le_bytes)),
        DataType::Uint64 => Values::I64(elements(raw, |b| wide(u64::from_le_bytes(b)))),
        DataType::Float16 => Values::F16(elements(raw, f16::from_le_bytes)),
        DataType::Bfloat16 => Values::F32(elements(raw, |b| bf16::from_le_bytes(b).to_f32())),
        DataType::Float => Values::F32(elements(raw, f32::from_le_bytes)),
        DataType::Double => Values::F64(elements(raw, f64::from_le_bytes)),
        _ => return None,
    })
}

/// Decodes typed fields: small types, including 16-bit floats, are widened in `int32_data`, 32-bit
/// unsigned integers in `uint64_data`.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the format stores small types in the low bits of wider fields"
)]
fn from_fields(code: DataType, tensor: &TensorProto) -> Option<Values> {
    let ints = tensor.int32_data.iter();
    Some(match code {
        DataType::Uint8 | DataType::Bool => Values::U8(ints.map(|&x| x as u8).collect()),
        DataType::Int8 => Values::I32(ints.map(|&x| i32::from(x as i8)).collect()),
        DataType::Uint16 => Values::I32(ints.map(|&x| i32::from(x as u16)).collect()),
        DataType::Int16 => Values::I32(ints.map(|&x| i32::from(x as i16)).collect()),
        DataType::Int32 => Values::I32(tensor.int32_data.clone()),
        DataType::Int64 => Values::I64(tensor.int64_data.clone()),
        DataType::Uint32 => {
            Values::I64(tensor.uint64_data.iter().map(|&x| i64::from(x as u32)).collect())
        }
        DataType::Uint64 => Values::I64(tensor.uint64_data.iter().map(|&x| wide(x)).collect()),
        DataType::Float16 => Values::F16(ints.map(|&x| f16::from_bits(x as u16)).collect()),
        DataType::Bfloat16 => {
            Values::F32(ints.map(|&x| bf16::from_bits(x as u16).to_f32()).collect())
        }
        DataType::Float => Values::F32(tensor.float_data.clone()),
        DataType::Double => Values::F64(tensor.double_data.clone()),
        _ => return None,
    })
}

/// The largest unsigned values mean "no limit" in shape arithmetic; saturated, they still do.
fn wide(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(code: DataType, dims: &[i64]) -> TensorProto {
        TensorProto { data_type: Some(code as i32), dims: dims.to_vec(), ..Default::default() }
    }

    fn raw(code: DataType, dims: &[i64], bytes: &[u8]) -> TensorProto {
        TensorProto { raw_data: Some(bytes.to_vec().into()), ..typed(code, dims) }
    }

    #[test]
    fn arrays_survive_the_round_trip() {
        for values in [
            Values::U8(vec![0, 255]),
            Values::I32(vec![i32::MIN, 7]),
            Values::I64(vec![i64::MAX, -1]),
            Values::F16(vec![f16::from_f32(1.5), f16::NEG_INFINITY]),
            Values::F32(vec![0.1, f32::MIN_POSITIVE]),
            Values::F64(vec![0.1, -1e300]),
        ] {
            let array = Array::new(vec![1, 2], values).unwrap();
            assert_eq!(decode(&tensor_proto("x", &array), None).unwrap(), array);
        }
        let scalar = Array::new(vec![], Values::F32(vec![3.0])).unwrap();
        assert_eq!(decode(&tensor_proto("x", &scalar), None).unwrap(), scalar);
    }

    #[test]
    fn raw_and_typed_fields_of_the_small_types_agree() {
        let cases = [
            (DataType::Bool, vec![1, 0], vec![1u8, 0]),
            (DataType::Uint8, vec![200, 3], vec![200, 3]),
            (DataType::Int8, vec![-2, 3], vec![0xfe, 3]),
            (DataType::Uint16, vec![65_535, 1], vec![0xff, 0xff, 1, 0]),
            (DataType::Int16, vec![-1, 1], vec![0xff, 0xff, 1, 0]),
            (DataType::Float16, vec![0x3c00, 0xc000], vec![0x00, 0x3c, 0x00, 0xc0]),
            (DataType::Bfloat16, vec![0x3f80, 0xc000], vec![0x80, 0x3f, 0x00, 0xc0]),
        ];
        for (code, ints, bytes) in cases {
            let fields = TensorProto { int32_data: ints, ..typed(code, &[2]) };
            assert_eq!(
                decode(&fields, None).unwrap(),
                decode(&raw(code, &[2], &bytes), None).unwrap(),
                "{code:?}"
            );
        }
        let half = decode(&raw(DataType::Bfloat16, &[2], &[0x80, 0x3f, 0x00, 0xc0]), None).unwrap();
        assert_eq!(half.values(), &Values::F32(vec![1.0, -2.0]));
        let signed = decode(&raw(DataType::Int8, &[2], &[0xfe, 3]), None).unwrap();
        assert_eq!(signed.values(), &Values::I32(vec![-2, 3]));
        let large = TensorProto { uint64_data: vec![u64::MAX, 5], ..typed(DataType::Uint64, &[2]) };
        assert_eq!(decode(&large, None).unwrap().values(), &Values::I64(vec![i64::MAX, 5]));
    }

    #[test]
    fn hostile_sizes_are_refused_before_anything_is_allocated() {
        let message = |tensor: &TensorProto| decode(tensor, None).unwrap_err().chain();
        assert!(
            message(&raw(DataType::Float, &[3], &[0; 8])).contains("expected 12 bytes, found 8")
        );
        assert!(message(&raw(DataType::Float, &[-3], &[0; 8])).contains("0 or more"));
        assert!(
            message(&raw(DataType::Double, &[1 << 40, 1 << 40], &[])).contains("beyond any memory")
        );
        assert!(message(&raw(DataType::Double, &[1 << 61], &[])).contains("beyond any memory"));
        assert!(message(&raw(DataType::Double, &[1 << 60], &[])).contains("found 0"));
        assert!(
            message(&TensorProto { float_data: vec![1.0], ..typed(DataType::Float, &[2]) })
                .contains("found 1")
        );
        assert!(message(&typed(DataType::String, &[1])).contains("string"));
        assert!(
            message(&TensorProto { data_type: Some(999), ..Default::default() }).contains("999")
        );
        assert!(message(&TensorProto::default()).contains("undefined"));
    }
}
