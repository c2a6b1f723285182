//! Features as they are stored: finite, and in f16 if they fit.

use crate::array::Values;
use crate::error::{Error, Result};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// The largest finite f16.
pub const F16_MAX: f32 = 65_504.0;

/// The largest absolute value (0 for an empty slice).
///
/// # Errors
/// The index in `values` of the first NaN or infinity.
pub fn finite_range(values: &[f32]) -> std::result::Result<f32, usize> {
    // without the sign bit, floats order like their bits, with infinity and then NaN on top; an
    // integer maximum vectorizes
    let largest =
        values.iter().fold(0, |largest: u32, value| largest.max(value.to_bits() & !(1 << 31)));
    let largest = f32::from_bits(largest);
    if largest.is_finite() {
        return Ok(largest);
    }
    Err(values.iter().position(|value| !value.is_finite()).unwrap_or_default())
}

/// What features lose in f16 beyond rounding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// This value is out of range.
    Overflow(f32),
    /// Values as small as this one become 0 or lose most of their digits, and they are a
    /// significant part of the row.
    Underflow(f32),
}

/// The acceptable relative error of a row, by its length; rounding alone takes 3e-4.
const LOST: f64 = 1e-3;
/// One in this many nonzero values may become 0.
const ZEROED: usize = 100;

/// What a row loses when it is stored in f16; `None` if that is negligible. Values must be finite.
#[must_use]
pub fn f16_loss(row: &[f32]) -> Option<Loss> {
    // below this f16 loses digits, and below half of its smallest number it has 0
    const NORMAL: f32 = 6.103_515_6e-5;
    const ZERO: f32 = 2.980_232_2e-8;
    let largest = row.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
    if largest > F16_MAX {
        return Some(Loss::Overflow(
            row.iter().copied().find(|v| v.abs() > F16_MAX).unwrap_or(largest),
        ));
    }
    let count = |is: fn(f32) -> bool| row.iter().filter(|v| is(v.abs())).count();
    let small = count(|v| v > 0.0 && v < NORMAL);
    if small == 0 {
        return None;
    }
    let (nonzero, zeroed) = (count(|v| v > 0.0), count(|v| v > 0.0 && v <= ZERO));
    // each value below the normal range is off by at most half of the smallest number, which bounds
    // their total loss
    #[allow(clippy::cast_precision_loss, reason = "a count of values")]
    let bound = f64::from(ZERO).powi(2) * small as f64 / f64::from(largest).powi(2);
    let is_lost = || {
        let (off, all) = row.iter().fold((0.0, 0.0), |(off, all), &v| {
            let (value, stored) = (f64::from(v), f64::from(f16::from_f32(v).to_f32()));
            (off + (value - stored).powi(2), all + value * value)
        });
        off > all * LOST.powi(2)
    };
    let lost = zeroed * ZEROED > nonzero || (bound > LOST.powi(2) / 4.0 && is_lost());
    lost.then(|| {
        Loss::Underflow(
            row.iter().map(|v| v.abs()).filter(|&v| v > 0.0).fold(f32::INFINITY, f32::min),
        )
    })
}

/// Converts features to f16, rounding to nearest even.
///
/// # Errors
/// If a value is beyond ±65,504, infinite or NaN: names it, and `--store f32` if that helps.
pub fn to_f16(values: &[f32]) -> Result<Values> {
    match finite_range(values) {
        Ok(largest) if largest <= F16_MAX => {}
        Ok(largest) => {
            let value = values.iter().find(|v| v.abs() > F16_MAX).unwrap_or(&largest);
            return Err(Error::input(format!(
                "value {value} is beyond the range of f16 (±{F16_MAX})"
            ))
            .hint("extract with --store f32"));
        }
        Err(index) => {
            let value = values.get(index).unwrap_or(&f32::NAN);
            return Err(Error::input(format!(
                "value {index}: expected a finite number, found {value}"
            )));
        }
    }
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    Ok(Values::F16(halves))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_the_largest_absolute_value_or_the_first_bad_index() {
        assert_eq!(finite_range(&[]), Ok(0.0));
        assert_eq!(finite_range(&[1.0, -3.5, 2.0, -0.0]), Ok(3.5));
        assert_eq!(finite_range(&[f32::MIN_POSITIVE / 2.0, -1e-45]), Ok(f32::MIN_POSITIVE / 2.0));
        assert_eq!(finite_range(&[f32::MAX, f32::MIN]), Ok(f32::MAX));
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![1.0; 100];
            values[70] = bad;
            values[90] = bad;
            assert_eq!(finite_range(&values), Err(70), "{bad}");
        }
    }

    #[test]
    fn what_f16_loses_is_seen_and_what_it_rounds_is_none() {
        let ramp =
            |scale: f32| (0u16..1000).map(|i| (f32::from(i) - 500.0) * scale).collect::<Vec<_>>();
        assert_eq!(f16_loss(&[]), None);
        assert_eq!(f16_loss(&[0.0; 8]), None);
        assert_eq!(f16_loss(&ramp(1e-3)), None);
        assert_eq!(f16_loss(&ramp(1e-6)), None);
        assert_eq!(f16_loss(&ramp(1e-9)), Some(Loss::Underflow(1e-9)));
        // all are subnormal: digits are lost, not values
        assert_eq!(f16_loss(&ramp(2e-8)), Some(Loss::Underflow(2e-8)));
        assert_eq!(f16_loss(&[1e-12; 4]), Some(Loss::Underflow(1e-12)));
        // one in a hundred vanishes among large ones: negligible
        let mut few = ramp(1.0);
        few[3] = 1e-9;
        assert_eq!(f16_loss(&few), None);
        few[..20].fill(1e-9);
        assert_eq!(f16_loss(&few), Some(Loss::Underflow(1e-9)));
        assert_eq!(f16_loss(&[1.0, -70_000.0]), Some(Loss::Overflow(-70_000.0)));
    }

    #[test]
    fn f16_rounds_to_nearest_even_and_refuses_what_it_cannot_hold() {
        let values = [
            0.0,
            -1.0,
            65_504.0,
            1.0 + 1.0 / 2048.0,
            1.0 + 3.0 / 2048.0,
            5.96e-8,
            0.1,
            -65_504.0,
            3.0,
        ];
        let expected: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
        assert_eq!(to_f16(&values).unwrap(), Values::F16(expected));
        let error = to_f16(&[1.0, 65_505.0]).unwrap_err();
        assert!(
            error.to_string().contains("65505")
                && error.find_hint().is_some_and(|h| h.contains("--store f32")),
            "{error}"
        );
        assert!(to_f16(&[1.0, f32::NAN]).unwrap_err().to_string().contains("value 1"));
        assert!(to_f16(&[f32::INFINITY]).is_err());
    }
}
