//! Features as they are stored: finite, in f16 where they fit.

use crate::array::Values;
use crate::error::{Error, Result};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// The largest finite f16.
pub const F16_MAX: f32 = 65_504.0;

/// The largest absolute value (0 of none), or where the first NaN or infinity stands (index into `values`).
///
/// # Errors
/// The index of the first value that is not finite.
pub fn finite_range(values: &[f32]) -> std::result::Result<f32, usize> {
    // without their sign, the bits of floats order as the values do, with infinity and then NaN on top; an integer maximum vectorises
    let largest = values.iter().fold(0, |largest: u32, value| largest.max(value.to_bits() & !(1 << 31)));
    let largest = f32::from_bits(largest);
    if largest.is_finite() {
        return Ok(largest);
    }
    Err(values.iter().position(|value| !value.is_finite()).unwrap_or_default())
}

/// Converts features to f16, rounding to nearest even.
///
/// # Errors
/// When a value is beyond ±65,504, infinite or NaN: names it, and `--store f32` where that helps.
pub fn to_f16(values: &[f32]) -> Result<Values> {
    match finite_range(values) {
        Ok(largest) if largest <= F16_MAX => {}
        Ok(largest) => {
            let value = values.iter().find(|v| v.abs() > F16_MAX).unwrap_or(&largest);
            return Err(Error::input(format!("value {value} is beyond the range of f16 (±{F16_MAX})")).hint("extract with --store f32"));
        }
        Err(index) => {
            let value = values.get(index).unwrap_or(&f32::NAN);
            return Err(Error::input(format!("value {index}: expected a finite number, found {value}")));
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
    fn f16_rounds_to_nearest_even_and_refuses_what_it_cannot_hold() {
        let values = [0.0, -1.0, 65_504.0, 1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 5.96e-8, 0.1, -65_504.0, 3.0];
        let expected: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
        assert_eq!(to_f16(&values).unwrap(), Values::F16(expected));
        let error = to_f16(&[1.0, 65_505.0]).unwrap_err();
        assert!(error.to_string().contains("65505") && error.find_hint().is_some_and(|h| h.contains("--store f32")), "{error}");
        assert!(to_f16(&[1.0, f32::NAN]).unwrap_err().to_string().contains("value 1"));
        assert!(to_f16(&[f32::INFINITY]).is_err());
    }
}
