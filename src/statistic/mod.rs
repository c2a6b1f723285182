//! What is stored of a tap and how it is computed. This version keeps features; statistics that replace them join here, one a file.

use crate::array::{Array, Values};
use crate::error::{Error, Result};
use half::f16;

/// The largest finite f16.
pub const F16_MAX: f32 = 65_504.0;

/// Adaptive average pooling of maps `[N, C, H, W]` to `[N, C, size[0], size[1]]`: output bin o of n over L inputs averages the inputs
/// floor(o·L/n) … ceil((o+1)·L/n)−1, so bins may overlap (PyTorch's `adaptive_avg_pool2d`). f64 accumulators.
///
/// # Errors
/// When the array is not four-dimensional f32, or a size is 0 or larger than the map.
pub fn adaptive_average_pool(_maps: &Array, _size: [usize; 2]) -> Result<Array> {
    todo!("helper: cache")
}

/// The largest absolute value, or where the first NaN or infinity stands (index into `values`).
///
/// # Errors
/// The index of the first value that is not finite.
pub fn finite_range(values: &[f32]) -> std::result::Result<f32, usize> {
    // a sum over |x| is finite exactly when all are (f32 overflow aside, which the second look settles), but a plain maximum vectorises as well
    let mut largest = 0.0f32;
    for (index, &value) in values.iter().enumerate() {
        if !value.is_finite() {
            return Err(index);
        }
        largest = largest.max(value.abs());
    }
    Ok(largest)
}

/// Converts features to f16.
///
/// # Errors
/// When a value is beyond ±65,504: names `--store f32`.
pub fn to_f16(values: &[f32]) -> Result<Values> {
    if let Some(value) = values.iter().find(|v| v.abs() > F16_MAX) {
        return Err(Error::input(format!("value {value} is beyond the range of f16 (±{F16_MAX})")).hint("extract with --store f32"));
    }
    Ok(Values::F16(values.iter().map(|&v| f16::from_f32(v)).collect()))
}
