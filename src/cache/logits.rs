//! What a cache records of its logits, and what their arrays must hold where they are sparse.

use crate::array::Dtype;
use crate::onnx::logits::Conversion;
use crate::statistic::{LOGITS, TopPart, top_classes};
use half::f16;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Describes logits that are not simply a tensor of the teacher over the labels' classes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogitsRecord {
    /// How they were converted, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_of: Option<Conversion>,
    /// Whether their classes differ from those of the labels.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub other_classes: bool,
    /// How many classes are kept, if they are sparse: the arrays are `logits/value`,
    /// `logits/class` and `logits/rest` instead of `logits`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<TopRecord>,
    /// For logits at positions: the input that is 0 at those that don't count, such as padding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
}

/// The size of sparse logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopRecord {
    /// How many classes are kept.
    pub k: usize,
    /// Of how many.
    pub classes: usize,
}

/// Checks that sparse logits are three arrays of the sizes that the record gives, and stand alone.
/// `array`: the row shape and type of the view array of a path.
pub(super) fn validate<'a>(
    top: Option<TopRecord>,
    array: impl Fn(&str) -> Option<(&'a [usize], Dtype)>,
) -> Result<(), String> {
    let parts = TopPart::ALL.map(|part| (part, array(part.path())));
    let Some(TopRecord { k, classes }) = top else {
        return match parts.iter().find(|(_, found)| found.is_some()) {
            Some((part, _)) => Err(format!("array `{}`: expected a record of K", part.path())),
            None => Ok(()),
        };
    };
    if array(LOGITS).is_some() || k == 0 || k > classes || u32::try_from(classes).is_err() {
        return Err(format!(
            "logits: expected sparse logits of 1 to {classes} classes alone, found {k}"
        ));
    }
    let positions = match parts[0].1 {
        Some((&[positions, _], _)) => Some(positions),
        _ => None,
    };
    for (part, found) in parts {
        let last = part.has_top_axis().then_some(k);
        let shape: Vec<usize> = positions.into_iter().chain(last).collect();
        let dtype = part.dtype(classes);
        if found != Some((shape.as_slice(), dtype)) {
            let path = part.path();
            return Err(format!("array `{path}`: expected rows {shape:?} of {}", dtype.name()));
        }
    }
    Ok(())
}

/// The problem with the finite values of a row of sparse logits, if any.
pub(super) fn wrong(part: TopPart, dtype: Dtype, top: TopRecord, bytes: &[u8]) -> Option<String> {
    match part {
        TopPart::Value => {
            let values: Vec<f16> = bytemuck::pod_collect_to_vec(bytes);
            let falls = |row: &[f16]| {
                row.first().is_none_or(|value| *value <= f16::ZERO)
                    && row.is_sorted_by(|a, b| a >= b)
            };
            let falling = "expected falling log-probabilities, found others";
            (!values.chunks(top.k).all(falls)).then(|| falling.to_owned())
        }
        TopPart::Class => {
            let mut seen = HashSet::new();
            top_classes(bytes, dtype).chunks(top.k).find_map(|row| {
                seen.clear();
                let wrong = row.iter().find(|&&c| c >= top.classes || !seen.insert(c))?;
                let last = top.classes - 1;
                Some(format!("class {wrong}: expected {} of 0 to {last}, each once", top.k))
            })
        }
        TopPart::Rest => {
            let masses: Vec<f32> = bytemuck::pod_collect_to_vec(bytes);
            let wrong = masses.into_iter().find(|mass| !(0.0..=1.0).contains(mass))?;
            Some(format!("expected a probability, found {wrong}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_malformed_record_is_refused() {
        type Arrays<'a> = &'a [(&'a str, &'a [usize], Dtype)];
        let check = |top, arrays: Arrays<'_>| {
            validate(top, |path| {
                arrays
                    .iter()
                    .find(|(found, ..)| *found == path)
                    .map(|&(_, row, dtype)| (row, dtype))
            })
        };
        let top = |k, classes| Some(TopRecord { k, classes });
        let [value, class, rest] = TopPart::ALL.map(TopPart::path);
        let whole =
            [(value, &[3][..], Dtype::F16), (class, &[3], Dtype::U16), (rest, &[], Dtype::F32)];
        assert_eq!(check(top(3, 10), &whole), Ok(()));
        let positions = [
            (value, &[5, 3][..], Dtype::F16),
            (class, &[5, 3], Dtype::U32),
            (rest, &[5], Dtype::F32),
        ];
        assert_eq!(check(top(3, 70_000), &positions), Ok(()));
        assert_eq!(check(None, &[("logits", &[10], Dtype::F32)]), Ok(()));
        for (word, top, arrays) in [
            ("a record of K", None, &whole[..]),
            ("1 to 10 classes", top(0, 10), &whole),
            ("1 to 2 classes", top(3, 2), &whole),
            ("alone", top(3, usize::MAX), &whole),
            ("alone", top(3, 10), &[whole.as_slice(), &[("logits", &[10], Dtype::F32)]].concat()),
            ("logits/value`: expected rows [4]", top(4, 10), &whole),
            ("logits/rest`: expected rows [] of float32", top(3, 10), &whole[..2]),
            ("logits/class`: expected rows [3] of uint32", top(3, 70_000), &whole),
            ("logits/class`: expected rows [5, 3]", top(3, 10), &[positions[0], whole[1]]),
        ] {
            let problem = check(top, arrays).expect_err(word);
            assert!(problem.contains(word), "{word}: {problem}");
        }
    }

    #[test]
    fn rows_that_are_no_part_of_a_distribution_are_told() {
        let top = TopRecord { k: 2, classes: 3 };
        let of = |part: TopPart, bytes: &[u8]| wrong(part, part.dtype(3), top, bytes);
        let values = |row: &[f32]| {
            let row = row.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes());
            of(TopPart::Value, &row.collect::<Vec<_>>())
        };
        assert_eq!(values(&[-1.0, -2.0, -0.5, -0.5]), None);
        // two positions are two rows
        assert_eq!(values(&[-2.0, -2.0, -1.0, -3.0]), None);
        for row in [[-2.0, -1.0], [0.5, -1.0]] {
            assert!(values(&row).unwrap().contains("falling"), "{row:?}");
        }
        let classes = |row: &[u16]| {
            let row = row.iter().flat_map(|class| class.to_le_bytes());
            of(TopPart::Class, &row.collect::<Vec<_>>())
        };
        assert_eq!(classes(&[2, 0, 0, 1]), None);
        assert!(classes(&[0, 3]).unwrap().contains("class 3: expected 2 of 0 to 2"));
        assert!(classes(&[1, 1]).unwrap().contains("each once"));
        let rest = |mass: f32| of(TopPart::Rest, &mass.to_le_bytes());
        assert_eq!([rest(0.0), rest(1.0)], [None, None]);
        assert!(rest(-0.1).is_some() && rest(1.1).is_some());
    }
}
