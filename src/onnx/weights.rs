//! A model's encoded graph without its large weights: each becomes external data of the very file
//! that it stands in, so that whoever needs a weight reads it there, and a graph of gigabytes is
//! handled as one of kilobytes. All else is copied as it stands, unknown fields included.

use super::proto::tensor_proto::{DataLocation, DataType};
use super::proto::{StringStringEntryProto, TensorProto};
use super::{external, tensor};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use std::collections::HashMap;

/// Tensors of fewer bytes stay: shapes and scales are read at once, and a reference takes room too.
const LARGE: usize = 1 << 14;
/// Deeper messages are no graph that anything could read.
const DEPTH: usize = 100;

/// The fields of a tensor's values whose bytes can be the raw ones.
const FLOATS: u32 = 4;
const RAW: u32 = 9;
const DOUBLES: u32 = 10;

/// What to change in an encoded model.
#[derive(Debug, Default)]
pub(super) struct Edit {
    /// The location, as external data, of the file that the bytes are of: large weights are left
    /// there.
    pub(super) file: Option<String>,
    /// New locations of external data by the old ones.
    pub(super) moved: HashMap<String, String>,
}

/// Bytes that are no encoded model, which whoever decodes them says better.
struct Malformed;

/// The messages on the way to tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    Graph,
    Function,
    Node,
    Attribute,
    Sparse,
    Value,
    Tensor,
}

impl Kind {
    /// What a field holds, if a tensor can lie below it.
    fn field(self, number: u32) -> Option<Self> {
        Some(match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Self::Tensor,
            (Self::Graph, 11..=13) => Self::Value,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::Sparse,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            _ => return None,
        })
    }

    /// The field of free text.
    fn text(self) -> Option<u32> {
        Some(match self {
            Self::Model | Self::Node => 6,
            Self::Graph => 10,
            Self::Function => 8,
            Self::Attribute => 13,
            Self::Value => 3,
            Self::Tensor | Self::Sparse => return None,
        })
    }
}

/// A field of a message.
struct Field<'a> {
    number: u32,
    /// Where it begins in the message.
    start: usize,
    /// What it holds, where it has a length.
    payload: Option<&'a [u8]>,
}

/// The model with this edit; `None` where it changes nothing, or where the bytes are no model.
pub(super) fn edited(bytes: &[u8], edit: &Edit) -> Option<Vec<u8>> {
    rewrite(Kind::Model, bytes, 0, edit, edit.file.is_some(), DEPTH).ok().flatten()
}

/// `offset`: where the message begins in the file. `large`: whether large tensors in it may be left
/// in the file.
fn rewrite(
    kind: Kind,
    bytes: &[u8],
    offset: usize,
    edit: &Edit,
    large: bool,
    depth: usize,
) -> Result<Option<Vec<u8>>, Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed)?;
    let mut out: Option<Vec<u8>> = None;
    let mut at = 0;
    while let Some(field) = next(bytes, &mut at)? {
        let whole = bytes.get(field.start..at).ok_or(Malformed)?;
        let before = || bytes.get(..field.start).unwrap_or_default().to_vec();
        if let (Some(text), Some(payload)) = (kind.text(), field.payload)
            && field.number == text
            && std::str::from_utf8(payload).is_err()
        {
            // what an exporter of another age noted in another encoding is no reason to refuse its
            // graph
            out.get_or_insert_with(before);
            continue;
        }
        let changed = match (kind.field(field.number), field.payload) {
            (Some(inner), Some(payload)) => {
                let start = offset + at - payload.len();
                // a function is copied wherever it is called, the values of a sparse tensor have a
                // shape of their own
                let large = large && !matches!(inner, Kind::Function | Kind::Sparse);
                match inner {
                    Kind::Tensor => reference(payload, start, edit, large)?,
                    _ => rewrite(inner, payload, start, edit, large, depth)?,
                }
            }
            _ => None,
        };
        match (changed, &mut out) {
            (Some(message), out) => {
                let out = out.get_or_insert_with(before);
                encode_key(field.number, WireType::LengthDelimited, out);
                encode_varint(message.len() as u64, out);
                out.extend(message);
            }
            (None, Some(out)) => out.extend(whole),
            (None, None) => {}
        }
    }
    Ok(out)
}

/// A tensor whose values are left in the file, or whose external data has another location now.
fn reference(
    bytes: &[u8],
    offset: usize,
    edit: &Edit,
    large: bool,
) -> Result<Option<Vec<u8>>, Malformed> {
    // the message without its values, and where they are
    let mut head = Vec::new();
    let mut values: Vec<(u32, usize, usize)> = Vec::new();
    let mut at = 0;
    while let Some(field) = next(bytes, &mut at)? {
        match (field.number, field.payload) {
            (FLOATS | RAW | DOUBLES, Some(payload)) => {
                values.push((field.number, offset + at - payload.len(), payload.len()));
            }
            // values in other fields, or one by one
            (4..=7 | 9..=11, _) => return Ok(None),
            _ => head.extend(bytes.get(field.start..at).ok_or(Malformed)?),
        }
    }
    let Ok(mut known) = TensorProto::decode(head.as_slice()) else { return Ok(None) };
    if external::is_external(&known) {
        let location = known.external_data.iter_mut().find(|entry| entry.key() == "location");
        let Some(location) = location else { return Ok(None) };
        let Some(new) = edit.moved.get(location.value()) else { return Ok(None) };
        location.value = Some(new.clone());
        return Ok(Some(known.encode_to_vec()));
    }
    let (Some(file), true, &[(field, start, length)]) =
        (edit.file.as_deref(), large, values.as_slice())
    else {
        return Ok(None);
    };
    // packed floats and doubles are the bytes that a raw tensor of them has
    let is_raw = match field {
        FLOATS => known.data_type() == DataType::Float as i32,
        DOUBLES => known.data_type() == DataType::Double as i32,
        _ => true,
    };
    if !is_raw || length < LARGE || tensor::byte_count(&known).ok().flatten() != Some(length) {
        return Ok(None);
    }
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value),
    };
    let reference = TensorProto {
        data_location: Some(DataLocation::External.into()),
        external_data: vec![
            entry("location", file.to_owned()),
            entry("offset", start.to_string()),
            entry("length", length.to_string()),
        ],
        ..TensorProto::default()
    };
    head.extend(reference.encode_to_vec());
    Ok(Some(head))
}

/// The field at `at`, which moves behind it; `None` at the end.
fn next<'a>(bytes: &'a [u8], at: &mut usize) -> Result<Option<Field<'a>>, Malformed> {
    let start = *at;
    let mut rest = bytes.get(start..).ok_or(Malformed)?;
    if rest.is_empty() {
        return Ok(None);
    }
    let (number, wire) = decode_key(&mut rest).map_err(|_| Malformed)?;
    let mut field = Field { number, start, payload: None };
    let skipped = match wire {
        WireType::Varint => {
            decode_varint(&mut rest).map_err(|_| Malformed)?;
            0
        }
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::LengthDelimited => {
            let length = decode_varint(&mut rest).map_err(|_| Malformed)?;
            let length = usize::try_from(length).map_err(|_| Malformed)?;
            field.payload = Some(rest.get(..length).ok_or(Malformed)?);
            length
        }
        // groups, which the format has none of
        WireType::StartGroup | WireType::EndGroup => return Err(Malformed),
    };
    let rest = rest.get(skipped..).ok_or(Malformed)?;
    *at = bytes.len() - rest.len();
    Ok(Some(field))
}
