//! Labels in the forms in which people save them: numbers, one-hot rows, booleans, class names.

use super::layout::NpzArray;
use super::{NpzFiles, Region};
pub(super) use crate::data::labels::Labels;
use crate::data::npy::{self, Header};
use crate::error::{Context, Error, Result};

/// Reads an array of labels.
///
/// # Errors
/// Says what it holds instead.
pub(super) fn read(files: &NpzFiles, found: &NpzArray) -> Result<Labels> {
    let header = found.header.as_ref().map_err(|why| Error::input(why.clone()))?;
    let [rows, rest @ ..] = header.shape.as_slice() else {
        return Err(Error::input("expected one label per row, found a single value"));
    };
    let classes = rest.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).unwrap_or(u64::MAX);
    let is_text = matches!(header.kind, 'U' | 'S');
    if !is_text && (header.dtype().is_err() || header.kind == 'V') {
        return Err(Error::input(format!("expected labels, it holds {}", header.content())));
    }
    if (is_text && classes != 1) || rest.iter().filter(|&&size| size != 1).count() > 1 {
        return Err(Error::input(format!(
            "expected one label per row or one-hot rows, found shape {:?}",
            header.shape
        )));
    }
    if *rows == 0 || header.element_bytes() == 0 {
        return Ok(Labels {
            values: vec![-1; usize::try_from(*rows).unwrap_or(0)],
            classes: Vec::new(),
        });
    }
    let start = header.data_start as u64;
    let region = Region {
        offset: found.region.offset + start,
        length: found.region.length.saturating_sub(start),
        ..found.region
    };
    let length = usize::try_from(region.length).context(|| "too many labels".into())?;
    let bytes = files.read_at(region, 0, length)?;
    let width = usize::try_from(header.element_bytes()).context(|| "labels are too long".into())?;
    if is_text {
        return names(header, &bytes, width);
    }
    let number = |element: &[u8]| npy::number(header, element);
    let values = if classes == 1 {
        bytes
            .chunks_exact(width)
            .enumerate()
            .map(|(row, element)| label(row, number(element)))
            .collect::<Result<_>>()?
    } else {
        let (rows, classes) =
            (usize::try_from(*rows).unwrap_or(0), usize::try_from(classes).unwrap_or(0));
        let index = |row: usize, class: usize| {
            if header.fortran_order { class * rows + row } else { row * classes + class }
        };
        let value = |row, class| {
            bytes
                .get(index(row, class) * width..)
                .and_then(|rest| rest.get(..width))
                .and_then(number)
        };
        (0..rows)
            .map(|row| one_hot(row, (0..classes).map(|class| value(row, class))))
            .collect::<Result<_>>()?
    };
    Ok(Labels { values, classes: Vec::new() })
}

/// A class by its number; −1 means none.
#[allow(clippy::cast_possible_truncation, reason = "integral, and within ±2^53")]
fn label(row: usize, number: Option<f64>) -> Result<i64> {
    match number {
        Some(number) if number.fract() == 0.0 && (-1.0..=9e15).contains(&number) => {
            Ok(number as i64)
        }
        Some(number) if number.fract() == 0.0 && number < -1.0 => Err(Error::input(format!(
            "row {row}: expected a label from 0, or -1 for none, found {number}"
        ))),
        Some(number) => Err(Error::input(format!(
            "row {row}: expected a label from 0, found {number}: these are not classes"
        ))
        .hint(
            "save it under a name other than labels, label, y, target or class, if it is not \
             meant as labels",
        )),
        None => Err(Error::input(format!(
            "row {row}: expected a label from 0, or -1 for none, found a larger number"
        ))),
    }
}

/// The class whose value is 1 where all others are 0.
fn one_hot(row: usize, values: impl Iterator<Item = Option<f64>>) -> Result<i64> {
    let mut class = None;
    for (index, value) in values.enumerate() {
        match value {
            Some(0.0) => {}
            Some(1.0) if class.is_none() => class = i64::try_from(index).ok(),
            Some(1.0) => {
                return Err(Error::input(format!(
                    "row {row}: has several labels, which are not supported: expected one-hot rows"
                )));
            }
            _ => {
                let found = value.map_or_else(|| "another".to_owned(), |value| value.to_string());
                return Err(Error::input(format!(
                    "row {row}: expected one label per row, or one-hot rows of 0 and 1, found \
                     {found}"
                )));
            }
        }
    }
    class.ok_or_else(|| {
        Error::input(format!(
            "row {row}: has no label among several, which is not supported: expected one-hot rows"
        ))
    })
}

/// Labels that are class names, numbered in the names' order.
fn names(header: &Header, bytes: &[u8], width: usize) -> Result<Labels> {
    let name = |(row, element): (usize, &[u8])| {
        let text = if header.kind == 'S' {
            std::str::from_utf8(element).ok().map(str::to_owned)
        } else {
            let characters = element.as_chunks::<4>().0.iter();
            characters
                .map(|&c| {
                    char::from_u32(if header.big_endian {
                        u32::from_be_bytes(c)
                    } else {
                        u32::from_le_bytes(c)
                    })
                })
                .collect()
        };
        let text: String = text.ok_or_else(|| {
            Error::input(format!("row {row}: expected a class name, found bytes that are not text"))
        })?;
        // NumPy pads names to the longest one
        match text.trim_end_matches('\0') {
            "" => {
                Err(Error::input(format!("row {row}: expected a class name, found an empty one")))
            }
            name => Ok(name.to_owned()),
        }
    };
    let all = bytes.chunks_exact(width).enumerate().map(name).collect::<Result<Vec<_>>>()?;
    Ok(Labels::of_names(&all.iter().map(|name| Some(name.as_str())).collect::<Vec<_>>()))
}
