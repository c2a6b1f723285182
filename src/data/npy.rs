//! The header of NumPy's `.npy` format, versions 1 to 3: a magic number, the header's length, and a Python dictionary of the keys
//! `descr`, `fortran_order` and `shape`. Parsed by hand, since the text is hostile: no recursion, and no arithmetic that can overflow.

use crate::error::{Error, Result};

/// Longest header text, in bytes; NumPy itself stops at 10,000.
const MAX_HEADER: usize = 10_000;
/// Bytes that certainly hold a header, if there is one.
pub(super) const MAX_PREFIX: usize = 12 + MAX_HEADER;
/// Most axes, as in NumPy.
const MAX_AXES: usize = 64;

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Element kind: `b`, `i`, `u`, `f`, or one that we do not carry.
    pub kind: char,
    /// Bytes of an element.
    pub width: usize,
    /// Whether elements are big-endian.
    pub big_endian: bool,
    /// Whether the first axis varies fastest.
    pub fortran_order: bool,
    /// The size of each axis.
    pub shape: Vec<u64>,
    /// Where the elements begin, in bytes from the file's beginning.
    pub data_start: usize,
}

/// Parses the beginning of a file (all of it, or [`MAX_PREFIX`] bytes).
///
/// # Errors
/// When it is no header.
pub(super) fn parse(bytes: &[u8]) -> Result<Header> {
    let bad = |what: &str| Error::input(format!("NPY header: {what}"));
    let version = bytes.strip_prefix(b"\x93NUMPY").and_then(|rest| rest.get(..2)).ok_or_else(|| bad("expected the magic number"))?;
    let (length, start) = match (version, bytes.get(8..10), bytes.get(8..12)) {
        ([1, _], Some(&[a, b]), _) => (usize::from(u16::from_le_bytes([a, b])), 10),
        ([2 | 3, _], _, Some(&[a, b, c, d])) => (u32::from_le_bytes([a, b, c, d]) as usize, 12),
        _ => return Err(bad(&format!("expected version 1, 2 or 3, found {}", version[0]))),
    };
    if length > MAX_HEADER {
        return Err(bad(&format!("expected at most {MAX_HEADER} bytes, found {length}")));
    }
    let text = bytes.get(start..start + length).ok_or_else(|| bad("expected more bytes, found the end of the file"))?;
    let text = std::str::from_utf8(text).map_err(|e| bad("expected UTF-8").because(e))?;
    let value = |key: &str| value_of(text, key).ok_or_else(|| bad(&format!("expected the key {key}")));
    let (kind, width, big_endian) = element(value("descr")?).ok_or_else(|| bad("expected an element type such as '<f4'"))?;
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
    let after = ['\'', '"'].iter().find_map(|quote| text.split_once(&format!("{quote}{key}{quote}")))?.1;
    Some(after.trim_start().strip_prefix(':')?.trim_start())
}

/// `'<f4'` to kind, width and byte order.
fn element(value: &str) -> Option<(char, usize, bool)> {
    let quote = value.chars().next().filter(|q| matches!(q, '\'' | '"'))?;
    let (code, _) = value[1..].split_once(quote)?;
    let mut chars = code.chars();
    let order = chars.next().filter(|order| "<>|=".contains(*order))?;
    let kind = chars.next()?;
    Some((kind, chars.as_str().parse().ok()?, order == '>'))
}

/// `(2, 3)` to its numbers.
fn tuple(value: &str) -> Option<Vec<u64>> {
    let (inside, _) = value.strip_prefix('(')?.split_once(')')?;
    let inside = inside.trim().trim_end_matches(',');
    if inside.is_empty() {
        return Some(Vec::new());
    }
    let sizes: Option<Vec<u64>> = inside.split(',').take(MAX_AXES + 1).map(|n| n.trim().trim_end_matches('L').parse().ok()).collect();
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
        let parsed = parse(&header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n")).unwrap();
        let expected = Header { kind: 'f', width: 4, big_endian: false, fortran_order: false, shape: vec![2, 3], data_start: 10 + 64 };
        assert_eq!(Header { data_start: 74, ..parsed }, expected);
        assert_eq!(parse(&header("{'descr': '|b1', 'fortran_order': True, 'shape': (), }")).unwrap().shape, Vec::<u64>::new());
        assert_eq!(parse(&header("{'descr': '>i8', 'fortran_order': False, 'shape': (5,), }")).unwrap().shape, [5]);
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
        fails(&header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}"), "element type");
        fails(&header("{'descr': '', 'fortran_order': False, 'shape': (1,)}"), "element type");
        fails(&header("{'descr': '<f4', 'fortran_order': 1, 'shape': (1,)}"), "fortran_order");
        fails(&header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3)}"), "shape");
        fails(&header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}"), "shape");
        fails(&header("{'descr': '<f4', 'fortran_order': False, 'shape': ((((((1)"), "shape");
        fails(&header(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({})}}", "1,".repeat(65))), "shape");
    }
}
