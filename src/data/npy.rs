//! The header of NumPy's `.npy` format, versions 1 to 3: a magic number, the header's length, and a
//! Python dictionary with the keys `descr`, `fortran_order` and `shape`. Parsed by hand, since the
//! text is hostile: no recursion, and no arithmetic that can overflow.

use crate::array::Dtype;
use crate::error::{Context, Error, Result};
use std::path::Path;

/// Longest header text, in bytes; NumPy itself stops at 10,000.
const MAX_HEADER: usize = 10_000;
/// Bytes that are sure to contain the header, if there is one.
pub(super) const MAX_PREFIX: usize = 12 + MAX_HEADER;
/// What every file starts with.
const MAGIC: &[u8] = b"\x93NUMPY";
/// Most axes, as in NumPy.
const MAX_AXES: usize = 64;

/// The content of a header.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(super) struct Header {
    /// Element kind: `b`, `i`, `u`, `f`, `V`, text as `U` and `S`, or an unsupported kind.
    pub kind: char,
    /// The number after the kind: bytes per element, or characters for `U`.
    pub width: usize,
    /// Whether elements are big-endian.
    pub big_endian: bool,
    /// Whether the first axis varies fastest.
    pub fortran_order: bool,
    /// Length of each axis.
    pub shape: Vec<u64>,
    /// Offset of the elements from the beginning of the file, in bytes.
    pub data_start: usize,
}

impl Header {
    /// Bytes per element.
    pub(super) fn element_bytes(&self) -> u64 {
        let unit = if self.kind == 'U' { 4 } else { 1 };
        (self.width as u64).saturating_mul(unit)
    }

    /// The number of elements; `None` on overflow.
    pub(super) fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))
    }

    /// The array type of the elements.
    ///
    /// # Errors
    /// Says what they are instead.
    pub(super) fn dtype(&self) -> Result<Dtype, String> {
        Ok(match (self.kind, self.width) {
            ('b', 1) => Dtype::Bool,
            ('u', 1) => Dtype::U8,
            ('u', 2) => Dtype::U16,
            ('u', 4) => Dtype::U32,
            ('u', 8) => Dtype::U64,
            ('i', 1) => Dtype::I8,
            ('i', 2) => Dtype::I16,
            ('i', 4) => Dtype::I32,
            ('i', 8) => Dtype::I64,
            ('f', 2) => Dtype::F16,
            ('f', 4) => Dtype::F32,
            ('f', 8) => Dtype::F64,
            // how NumPy writes the bfloat16 of ml_dtypes
            ('V', 2) => Dtype::BF16,
            _ => return Err(format!("holds {}", self.content())),
        })
    }

    /// What the elements are, for messages.
    pub(super) fn content(&self) -> String {
        match self.kind {
            'O' => "Python objects (a pickle), which are not read".to_owned(),
            'U' | 'S' => "text".to_owned(),
            'c' => "complex numbers".to_owned(),
            'M' | 'm' => "dates or times".to_owned(),
            'V' => "raw bytes".to_owned(),
            kind => format!("elements of type {kind}{}", self.width),
        }
    }
}

/// Whether bytes start like a file of this format.
pub(super) fn is_npy(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Reads a small file: its shape and its elements as numbers.
///
/// # Errors
/// If it is not a `.npy` file of numbers, or has more than `most` of them.
pub(super) fn numbers(path: &Path, most: usize) -> Result<(Vec<usize>, Vec<f64>)> {
    let context = || format!("{}: cannot be read", path.display());
    let wrong = |what: String| Error::input(format!("{}: {what}", path.display()));
    let longest = (MAX_PREFIX + most.saturating_mul(8)) as u64;
    if std::fs::metadata(path).context(context)?.len() > longest {
        return Err(wrong(format!("expected at most {most} numbers, found a larger file")));
    }
    let bytes = std::fs::read(path).context(context)?;
    let header = parse(&bytes).context(|| path.display().to_string())?;
    let dtype = header.dtype().map_err(|what| wrong(format!("expected numbers, it {what}")))?;
    let shape = header
        .shape
        .iter()
        .map(|&d| usize::try_from(d))
        .collect::<Result<Vec<_>, _>>()
        .context(context)?;
    let data = bytes.get(header.data_start..).unwrap_or_default();
    if header.elements().and_then(|n| n.checked_mul(header.element_bytes()))
        != Some(data.len() as u64)
    {
        return Err(wrong(format!(
            "expected elements for shape {shape:?}, found {} bytes",
            data.len()
        )));
    }
    let values: Option<Vec<f64>> =
        data.chunks_exact(dtype.size()).map(|element| number(&header, element)).collect();
    let values =
        values.ok_or_else(|| wrong("expected numbers that a double holds exactly".to_owned()))?;
    if header.fortran_order && shape.len() > 1 {
        let places = c_order(&header.shape);
        return Ok((
            shape,
            places.into_iter().filter_map(|place| values.get(place).copied()).collect(),
        ));
    }
    Ok((shape, values))
}

/// For each element in row-major order, its position in Fortran order.
pub(super) fn c_order(shape: &[u64]) -> Vec<usize> {
    let count: u64 = shape.iter().product();
    let place = |mut at: u64| {
        let mut index = vec![0; shape.len()];
        for (index, &size) in index.iter_mut().zip(shape).rev() {
            (*index, at) = (at % size, at / size);
        }
        let place =
            index.iter().zip(shape).rev().fold(0, |place, (&index, &size)| place * size + index);
        usize::try_from(place).unwrap_or(usize::MAX)
    };
    (0..count).map(place).collect()
}

/// One element as a number; `None` if a double cannot represent it.
pub(super) fn number(header: &Header, element: &[u8]) -> Option<f64> {
    let mut bytes = element.to_vec();
    if header.big_endian {
        bytes.reverse();
    }
    match header.dtype().ok()? {
        Dtype::F16 => Some(half::f16::from_le_bytes(*bytes.first_chunk()?).to_f64()),
        Dtype::BF16 => Some(half::bf16::from_le_bytes(*bytes.first_chunk()?).to_f64()),
        Dtype::F32 => Some(f64::from(f32::from_le_bytes(*bytes.first_chunk()?))),
        Dtype::F64 => Some(f64::from_le_bytes(*bytes.first_chunk()?)),
        _ => {
            const EXACT: i64 = 1 << 53;
            let value = integer(&bytes, header.kind == 'i')
                .filter(|value| (-EXACT..=EXACT).contains(value))?;
            #[allow(clippy::cast_precision_loss, reason = "within ±2^53")]
            Some(value as f64)
        }
    }
}

/// A little-endian integer of 1 to 8 bytes; `None` if it does not fit.
pub(super) fn integer(element: &[u8], signed: bool) -> Option<i64> {
    let mut bytes = element.to_vec();
    let negative = signed && bytes.last().is_some_and(|b| b & 0x80 != 0);
    bytes.resize(8, if negative { 0xff } else { 0 });
    let value = i64::from_le_bytes(bytes.try_into().ok()?);
    (value >= 0 || negative).then_some(value)
}

/// Parses the beginning of a file (all of it, or [`MAX_PREFIX`] bytes).
///
/// # Errors
/// If it is not a valid header.
pub(super) fn parse(bytes: &[u8]) -> Result<Header> {
    let bad = |what: &str| Error::input(format!("NPY header: {what}"));
    let version = bytes
        .strip_prefix(MAGIC)
        .and_then(|rest| rest.get(..2))
        .ok_or_else(|| bad("expected the magic number"))?;
    let (length, start) = match (version, bytes.get(8..10), bytes.get(8..12)) {
        ([1, _], Some(&[a, b]), _) => (usize::from(u16::from_le_bytes([a, b])), 10),
        ([2 | 3, _], _, Some(&[a, b, c, d])) => (u32::from_le_bytes([a, b, c, d]) as usize, 12),
        _ => return Err(bad(&format!("expected version 1, 2 or 3, found {}", version[0]))),
    };
    if length > MAX_HEADER {
        return Err(bad(&format!("expected at most {MAX_HEADER} bytes, found {length}")));
    }
    let text = bytes
        .get(start..start + length)
        .ok_or_else(|| bad("expected more bytes, found the end of the file"))?;
    let text = std::str::from_utf8(text).map_err(|e| bad("expected UTF-8").because(e))?;
    let value =
        |key: &str| value_of(text, key).ok_or_else(|| bad(&format!("expected the key {key}")));
    let (kind, width, big_endian) = element(value("descr")?).ok_or_else(|| {
        bad("expected an element type such as '<f4', found fields or another text")
    })?;
    let fortran_order = match value("fortran_order")? {
        v if v.starts_with("True") => true,
        v if v.starts_with("False") => false,
        _ => return Err(bad("expected fortran_order True or False")),
    };
    let shape = tuple(value("shape")?).ok_or_else(|| bad("expected a shape such as (2, 3)"))?;
    Ok(Header { kind, width, big_endian, fortran_order, shape, data_start: start + length })
}

/// The text after `'key':`.
fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let after =
        ['\'', '"'].iter().find_map(|quote| text.split_once(&format!("{quote}{key}{quote}")))?.1;
    Some(after.trim_start().strip_prefix(':')?.trim_start())
}

/// Parses `'<f4'` into kind, width and byte order; a type without a width, or with a unit after it,
/// keeps its kind.
fn element(value: &str) -> Option<(char, usize, bool)> {
    let quote = value.chars().next().filter(|q| matches!(q, '\'' | '"'))?;
    let (code, _) = value[1..].split_once(quote)?;
    let mut chars = code.chars();
    let order = chars.next().filter(|order| "<>|=".contains(*order))?;
    let kind = chars.next()?;
    let rest = chars.as_str();
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let width = match (kind, rest.get(..digits)?) {
        ('O', "") => 8,
        (_, width) => width.parse().ok()?,
    };
    Some((kind, width, order == '>'))
}

/// Parses `(2, 3)` into its numbers.
fn tuple(value: &str) -> Option<Vec<u64>> {
    let (inside, _) = value.strip_prefix('(')?.split_once(')')?;
    let inside = inside.trim().trim_end_matches(',');
    if inside.is_empty() {
        return Some(Vec::new());
    }
    let sizes: Option<Vec<u64>> = inside
        .split(',')
        .take(MAX_AXES + 1)
        .map(|n| n.trim().trim_end_matches('L').parse().ok())
        .collect();
    sizes.filter(|s| s.len() <= MAX_AXES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
        bytes.extend(text.bytes());
        bytes
    }

    #[test]
    fn what_numpy_writes_is_read() {
        let parsed =
            parse(&header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n"))
                .unwrap();
        let expected = Header {
            kind: 'f',
            width: 4,
            big_endian: false,
            fortran_order: false,
            shape: vec![2, 3],
            data_start: 10 + 64,
        };
        assert_eq!(Header { data_start: 74, ..parsed }, expected);
        assert_eq!(
            parse(&header("{'descr': '|b1', 'fortran_order': True, 'shape': (), }")).unwrap().shape,
            Vec::<u64>::new()
        );
        assert_eq!(
            parse(&header("{'descr': '>i8', 'fortran_order': False, 'shape': (5,), }"))
                .unwrap()
                .shape,
            [5]
        );
        let mut second = b"\x93NUMPY\x02\x00\x36\x00\x00\x00".to_vec();
        second.extend(b"{'descr': '<f2', 'fortran_order': False, 'shape': (7,)}");
        assert_eq!(parse(&second[..second.len() - 1]).err().map(|e| e.to_string()), None);
    }

    #[test]
    fn every_malformed_field_is_refused() {
        let fails = |bytes: &[u8], what: &str| {
            let error = parse(bytes).unwrap_err().to_string();
            assert!(error.contains(what), "{what}: {error}");
        };
        fails(b"\x93NUMPX\x01\x00\x00\x00", "magic");
        fails(b"\x93NUMPY\x01", "magic");
        fails(b"\x93NUMPY\x09\x00\x00\x00\x00\x00", "version");
        fails(b"\x93NUMPY\x01\x00\x40\x00{", "end of the file");
        fails(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "at most 10000 bytes, found 4294967295");
        fails(&header("{'descr': '<f4', 'fortran_order': False}"), "key shape");
        fails(
            &header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}"),
            "element type",
        );
        fails(&header("{'descr': '', 'fortran_order': False, 'shape': (1,)}"), "element type");
        fails(&header("{'descr': '<f4', 'fortran_order': 1, 'shape': (1,)}"), "fortran_order");
        fails(&header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3)}"), "shape");
        fails(
            &header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}"),
            "shape",
        );
        fails(&header("{'descr': '<f4', 'fortran_order': False, 'shape': ((((((1)"), "shape");
        fails(
            &header(&format!(
                "{{'descr': '<f4', 'fortran_order': False, 'shape': ({})}}",
                "1,".repeat(65)
            )),
            "shape",
        );
    }
}
