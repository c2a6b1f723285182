//! Adaptive average pooling of channel maps and its adjoint, generic over the element type.

use crate::kernel::Float;
use std::ops::Range;

/// The inputs, out of `length`, that output bin `bin` of `bins` averages:
/// floor(o·L/n) … ceil((o+1)·L/n)−1. Bins may overlap.
fn span(bin: usize, bins: usize, length: usize) -> Range<usize> {
    bin * length / bins..((bin + 1) * length).div_ceil(bins)
}

/// Pools a plane of size `from` to `to`; no side of `to` exceeds that of `from`.
pub fn pool<T: Float>(plane: &[T], from: [usize; 2], to: [usize; 2], out: &mut [T]) {
    for (o, value) in out.iter_mut().enumerate() {
        let (rows, columns) = (span(o / to[1], to[0], from[0]), span(o % to[1], to[1], from[1]));
        let divisor = count::<f64>(&rows, &columns);
        let sum: f64 = rows
            .map(|r| plane[r * from[1]..][columns.clone()].iter().map(|v| v.wide()).sum::<f64>())
            .sum();
        // rounded once: equal values stay what they are
        *value = T::of(sum / divisor);
    }
}

/// The adjoint of [`pool`]: takes the gradient at size `to` to the gradient at size `from`.
pub fn pool_adjoint<T: Float>(gradient: &[T], from: [usize; 2], to: [usize; 2], out: &mut [T]) {
    out.fill(T::zero());
    for (o, &gradient) in gradient.iter().enumerate() {
        let (rows, columns) = (span(o / to[1], to[0], from[0]), span(o % to[1], to[1], from[1]));
        let share = gradient / count::<T>(&rows, &columns);
        for row in rows {
            for value in &mut out[row * from[1]..][columns.clone()] {
                *value += share;
            }
        }
    }
}

/// A number of pixels as a divisor.
#[allow(clippy::cast_precision_loss, reason = "a number of pixels")]
fn count<T: Float>(rows: &Range<usize>, columns: &Range<usize>) -> T {
    T::of((rows.len() * columns.len()) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled(plane: &[f64], from: [usize; 2], to: [usize; 2]) -> Vec<f64> {
        let mut out = vec![f64::NAN; to[0] * to[1]];
        pool(plane, from, to, &mut out);
        out
    }

    fn spread(gradient: &[f64], from: [usize; 2], to: [usize; 2]) -> Vec<f64> {
        let mut out = vec![f64::NAN; from[0] * from[1]];
        pool_adjoint(gradient, from, to, &mut out);
        out
    }

    #[test]
    fn overlapping_bins_by_hand() {
        // 3 inputs to 2 bins: {0, 1} and {1, 2}
        assert_eq!(pooled(&[1.0, 3.0, 8.0], [1, 3], [1, 2]), [2.0, 5.5]);
        assert_eq!(spread(&[2.0, 4.0], [1, 3], [1, 2]), [1.0, 3.0, 2.0]);
    }

    #[test]
    fn the_adjoint_is_the_transpose() {
        let (from, to) = ([5, 7], [3, 4]);
        let x: Vec<f64> = (0..35).map(|i| f64::from(i * i % 23)).collect();
        let y: Vec<f64> = (0..12).map(|i| f64::from(i * 7 % 11)).collect();
        let left: f64 = pooled(&x, from, to).iter().zip(&y).map(|(a, b)| a * b).sum();
        let right: f64 = spread(&y, from, to).iter().zip(&x).map(|(a, b)| a * b).sum();
        assert!((left - right).abs() < 1e-9, "{left} {right}");
    }
}
