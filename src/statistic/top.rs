//! Sparse logits: the K largest log-probabilities of a distribution over classes, and the mass of
//! the others.

use crate::array::{Dtype, Values};
use half::f16;
use rayon::prelude::*;
use std::cmp::Ordering;

/// One array of sparse logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopPart {
    /// The natural log-probabilities of the K classes at temperature 1, falling: f16 `[…, k]`.
    Value,
    /// Their classes, equal values by index: u16 `[…, k]`, u32 beyond 65,536 classes.
    Class,
    /// The probability of all other classes together: f32 `[…]`.
    Rest,
}

impl TopPart {
    /// All parts, in the order of their arrays in a cache.
    pub const ALL: [Self; 3] = [Self::Value, Self::Class, Self::Rest];

    /// The path of its array in a cache.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Value => "logits/value",
            Self::Class => "logits/class",
            Self::Rest => "logits/rest",
        }
    }

    /// The part in an array of this path.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.path() == path)
    }

    /// The stored element type.
    #[must_use]
    pub fn dtype(self, classes: usize) -> Dtype {
        match self {
            Self::Value => Dtype::F16,
            Self::Class if classes <= 1 << 16 => Dtype::U16,
            Self::Class => Dtype::U32,
            Self::Rest => Dtype::F32,
        }
    }

    /// Whether its rows have an axis of K values.
    #[must_use]
    pub fn has_top_axis(self) -> bool {
        self != Self::Rest
    }

    /// The stored values of rows of logits `[…, classes]`, which are finite; 1 ≤ `k` ≤ `classes`.
    /// Log-softmax in f64 over all classes, rounded once.
    ///
    /// # Errors
    /// The first row with a log-probability beyond the range of f16, and that value.
    pub fn compute(self, logits: &[f32], classes: usize, k: usize) -> Result<Values, (usize, f64)> {
        let tops: Vec<Top> =
            logits.par_chunks_exact(classes.max(1)).map(|row| Top::of(row, k)).collect();
        let class = || tops.iter().flat_map(|top| &top.class);
        #[allow(clippy::cast_possible_truncation, reason = "the rounding of the format")]
        Ok(match (self, self.dtype(classes)) {
            (Self::Value, _) => {
                let beyond = |top: &Top| top.value.iter().copied().find(|&v| v < -F16_MAX);
                if let Some(found) =
                    tops.iter().enumerate().find_map(|(i, t)| Some((i, beyond(t)?)))
                {
                    return Err(found);
                }
                Values::F16(tops.iter().flat_map(|top| &top.value).map(|&v| nearest(v)).collect())
            }
            (Self::Class, Dtype::U16) => Values::U16(class().map(|&class| class as u16).collect()),
            (Self::Class, _) => Values::U32(class().copied().collect()),
            (Self::Rest, _) => Values::F32(tops.iter().map(|top| top.rest as f32).collect()),
        })
    }
}

/// Stored classes as indices; `dtype` is u16 or u32.
#[must_use]
pub fn top_classes(bytes: &[u8], dtype: Dtype) -> Vec<usize> {
    if dtype == Dtype::U16 {
        return bytes.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b).into()).collect();
    }
    let index = |b: &[u8; 4]| usize::try_from(u32::from_le_bytes(*b)).unwrap_or(usize::MAX);
    bytes.as_chunks().0.iter().map(index).collect()
}

/// The probabilities of these classes, and of all others together, of one row of logits; NaN for a
/// class that there is not.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "compared as f32")]
pub fn masses(logits: &[f32], classes: &[usize]) -> Vec<f32> {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |largest, &x| largest.max(x));
    let mut masses: Vec<f64> =
        logits.iter().map(|&x| (f64::from(x) - f64::from(largest)).exp()).collect();
    let sum: f64 = masses.iter().sum();
    let take = |&class: &usize| masses.get_mut(class).map_or(f64::NAN, std::mem::take);
    let kept: Vec<f64> = classes.iter().map(take).collect();
    let rest = masses.iter().sum();
    kept.into_iter().chain([rest]).map(|mass| (mass / sum) as f32).collect()
}

/// The largest finite f16.
const F16_MAX: f64 = 65_504.0;

/// The K largest of a distribution.
#[derive(Debug)]
struct Top {
    class: Vec<u32>,
    /// ln p of each.
    value: Vec<f64>,
    /// Σ p of the other classes, in the order of their indices.
    rest: f64,
}

impl Top {
    fn of(logits: &[f32], k: usize) -> Self {
        let falling = |&i: &u32, &j: &u32| {
            let (a, b) = (logits[i as usize], logits[j as usize]);
            b.partial_cmp(&a).unwrap_or(Ordering::Equal).then(i.cmp(&j))
        };
        let mut class: Vec<u32> = (0..).take(logits.len()).collect();
        let mut others = Vec::new();
        if k < class.len() {
            class.select_nth_unstable_by(k, falling);
            others = class.split_off(k);
            others.sort_unstable();
        }
        class.sort_unstable_by(falling);
        let largest = class.first().map_or(0.0, |&i| f64::from(logits[i as usize]));
        let above = |i: u32| f64::from(logits[i as usize]) - largest;
        let sum: f64 = (0..).take(logits.len()).map(|i| above(i).exp()).sum();
        let value = class.iter().map(|&i| above(i) - sum.ln()).collect();
        let rest = others.into_iter().map(|i| above(i).exp()).sum::<f64>() / sum;
        Self { class, value, rest }
    }
}

/// The nearest f16 of a double, ties to even, rounded once: by way of f32 rounded to odd, which
/// keeps on which side of a tie the double lies.
#[allow(clippy::cast_possible_truncation, reason = "the rounding is corrected")]
fn nearest(value: f64) -> f16 {
    let near = value as f32;
    let mut bits = near.to_bits();
    if f64::from(near).abs() > value.abs() {
        bits -= 1;
    }
    if f64::from(f32::from_bits(bits)).to_bits() != value.to_bits() {
        bits |= 1;
    }
    f16::from_f32(f32::from_bits(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::cast_possible_truncation, reason = "a table of f32 logits")]
    fn the_largest_fall_and_equal_ones_stand_by_class() {
        let logits = [[0.125f64, 0.5, 0.125, 0.25]; 2].concat();
        let logits: Vec<f32> = logits.into_iter().map(|p| p.ln() as f32).collect();
        let of = |part: TopPart, k| part.compute(&logits, 4, k).unwrap();
        assert_eq!(of(TopPart::Class, 3), Values::U16(vec![1, 3, 0, 1, 3, 0]));
        assert_eq!(of(TopPart::Class, 4), Values::U16(vec![1, 3, 0, 2, 1, 3, 0, 2]));
        let Values::F16(value) = of(TopPart::Value, 2) else { panic!() };
        let expected = [0.5f64, 0.25, 0.5, 0.25].map(|p| f16::from_f32(p.ln() as f32));
        assert_eq!(value, expected);
        let Values::F32(rest) = of(TopPart::Rest, 2) else { panic!() };
        assert!(rest.iter().all(|r| (r - 0.25).abs() < 1e-7), "{rest:?}");
        assert_eq!(of(TopPart::Rest, 4), Values::F32(vec![0.0, 0.0]));
    }

    /// The rest is summed, so that it keeps its digits where 1 − Σ has none.
    #[test]
    #[allow(clippy::cast_possible_truncation, reason = "rounded as it is stored")]
    fn a_small_rest_is_exact() {
        let Values::F32(rest) = TopPart::Rest.compute(&[40.0, 0.0, -1.0], 3, 1).unwrap() else {
            panic!()
        };
        let expected = ((-40f64).exp() + (-41f64).exp()) as f32;
        assert_eq!(rest, [expected]);
    }

    #[test]
    fn masses_are_those_of_any_classes() {
        let logits = [0.125f32, 0.5, 0.125, 0.25].map(f32::ln);
        let close = |found: Vec<f32>, expected: &[f32]| {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        };
        close(masses(&logits, &[3, 0]), &[0.25, 0.125, 0.625]);
        assert!(masses(&logits, &[4])[0].is_nan());
        let bytes: Vec<u8> = [1, 0, 255, 255].to_vec();
        assert_eq!(top_classes(&bytes, Dtype::U16), [1, 65_535]);
        assert_eq!(top_classes(&bytes, Dtype::U32), [0xffff_0001]);
    }

    #[test]
    fn classes_beyond_u16_take_u32() {
        assert_eq!(TopPart::Class.dtype(65_536), Dtype::U16);
        let mut logits = vec![0.0; 65_537];
        logits[65_536] = 1.0;
        assert_eq!(
            TopPart::Class.compute(&logits, 65_537, 2).unwrap(),
            Values::U32(vec![65_536, 0])
        );
    }

    #[test]
    fn what_f16_cannot_hold_is_named() {
        let found = TopPart::Value.compute(&[0.0, -1.0, 0.0, -70_000.0], 2, 2).unwrap_err();
        assert_eq!(found.0, 1);
        assert!(found.1 < -69_999.0);
        assert!(TopPart::Value.compute(&[0.0, -70_000.0], 2, 1).is_ok());
    }

    #[test]
    fn doubles_are_rounded_to_f16_once() {
        // just above and below the tie between 1 and the next f16: through f32 both are ties
        let tie = 1.0 + 2f64.powi(-11);
        let next = f16::from_bits(f16::ONE.to_bits() + 1);
        for sign in [1.0, -1.0] {
            let signed = |x: f16| if sign < 0.0 { -x } else { x };
            assert_eq!(nearest(sign * (tie + 1e-15)), signed(next));
            assert_eq!(nearest(sign * tie), signed(f16::ONE));
            assert_eq!(nearest(sign * (tie - 1e-15)), signed(f16::ONE));
        }
        assert_eq!(nearest(-1e-30), -f16::ZERO);
        assert_eq!(nearest(-65_504.0), f16::MIN);
    }
}
