//! Removes large weights from a model's encoded graph: each becomes external data of the very file
//! it is in, so a weight is read where it is needed and a graph of gigabytes is handled as one of
//! kilobytes. Everything else is copied unchanged, including unknown fields.

use super::proto::tensor_proto::{DataLocation, DataType};
use super::proto::{StringStringEntryProto, TensorProto};
use super::{external, tensor};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use std::collections::HashMap;

/// Tensors of fewer bytes stay: shapes and scales are read at once, and a reference takes room too.
const LARGE: usize = 1 << 14;
/// Deepest nesting of messages; no reader accepts more.
const DEPTH: usize = 100;

/// Field numbers of a tensor's values, for the fields whose bytes can be raw data.
const FLOATS: u32 = 4;
const RAW: u32 = 9;
const DOUBLES: u32 = 10;

/// What to change in an encoded model.
#[derive(Debug, Default)]
pub(super) struct Edit {
    /// The external data location that refers to the model's own file, if large weights stay in it.
    pub(super) file: Option<String>,
    /// New locations of external data by the old ones.
    pub(super) moved: HashMap<String, String>,
}

/// The bytes are not an encoded model; decoding them gives the better message.
struct Malformed;

/// Messages that can contain tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MessageKind {
    Model,
    Graph,
    Function,
    Node,
    Attribute,
    Sparse,
    Value,
    Tensor,
}

impl MessageKind {
    /// The type of a field, if it can contain tensors.
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

    /// The field number of free text.
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
    /// Its offset in the message.
    start: usize,
    /// Its content, if it is length-delimited.
    payload: Option<&'a [u8]>,
}

/// Applies an edit; `None` if it changes nothing, or the bytes are not a model.
pub(super) fn edited(bytes: &[u8], edit: &Edit) -> Option<Vec<u8>> {
    rewrite(MessageKind::Model, bytes, 0, edit, edit.file.is_some(), DEPTH).ok().flatten()
}

/// `offset` is the message's offset in the file; `large` tells whether its large tensors may stay
/// in the file.
fn rewrite(
    kind: MessageKind,
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
        let preceding = || bytes.get(..field.start).unwrap_or_default().to_vec();
        if let (Some(text), Some(payload)) = (kind.text(), field.payload)
            && field.number == text
            && std::str::from_utf8(payload).is_err()
        {
            // free text in another encoding, from an old exporter, is no reason to refuse its graph
            out.get_or_insert_with(preceding);
            continue;
        }
        let changed = match (kind.field(field.number), field.payload) {
            (Some(inner), Some(payload)) => {
                let start = offset + at - payload.len();
                // a function is copied wherever it is called; a sparse tensor's values have their
                // own shape
                let large = large && !matches!(inner, MessageKind::Function | MessageKind::Sparse);
                match inner {
                    MessageKind::Tensor => reference(payload, start, edit, large)?,
                    _ => rewrite(inner, payload, start, edit, large, depth)?,
                }
            }
            _ => None,
        };
        match (changed, &mut out) {
            (Some(message), out) => {
                let out = out.get_or_insert_with(preceding);
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

/// A tensor whose values stay in the file, or whose external data has a new location.
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
    // packed floats and doubles have the bytes of raw data
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

/// The field at `at`, which advances past it; `None` at the end.
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
        // groups, which the format does not use
        WireType::StartGroup | WireType::EndGroup => return Err(Malformed),
    };
    let rest = rest.get(skipped..).ok_or(Malformed)?;
    *at = bytes.len() - rest.len();
    Ok(Some(field))
}
