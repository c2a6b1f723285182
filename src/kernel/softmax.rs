//! Softmax and its logarithm over the last axis.

use super::Float;
use rayon::prelude::*;

/// Softmax of every row, shifted by its maximum.
///
/// # Shapes
/// `x`: `[rows, width]`; result: the same.
#[must_use]
pub fn forward<T: Float>(x: &[T], width: usize) -> Vec<T> {
    let mut out = x.to_vec();
    out.par_chunks_mut(width.max(1)).for_each(|row| {
        let max = row.iter().copied().fold(T::neg_infinity(), T::max);
        let mut total = T::zero();
        for v in row.iter_mut() {
            *v = (*v - max).exp();
            total += *v;
        }
        for v in row.iter_mut() {
            *v /= total;
        }
    });
    out
}

/// The gradient of the input: `dx = y · (dy − Σ y·dy)` by row.
///
/// # Shapes
/// `y` (the output) and `dy`: `[rows, width]`; result: the same.
#[must_use]
pub fn backward<T: Float>(y: &[T], dy: &[T], width: usize) -> Vec<T> {
    let mut dx = dy.to_vec();
    dx.par_chunks_mut(width.max(1)).zip(y.par_chunks(width.max(1))).for_each(|(dx, y)| {
        let inner: T = dx.iter().zip(y).map(|(&d, &y)| d * y).sum();
        for (d, &y) in dx.iter_mut().zip(y) {
            *d = y * (*d - inner);
        }
    });
    dx
}

/// The logarithm of the softmax of every row: `x − max − ln Σ exp(x − max)`.
///
/// # Shapes
/// As [`forward`].
#[must_use]
pub fn log_forward<T: Float>(x: &[T], width: usize) -> Vec<T> {
    let mut out = x.to_vec();
    out.par_chunks_mut(width.max(1)).for_each(|row| {
        let max = row.iter().copied().fold(T::neg_infinity(), T::max);
        let total: T = row.iter().map(|&v| (v - max).exp()).sum();
        let shift = total.ln();
        for v in row.iter_mut() {
            *v = (*v - max) - shift;
        }
    });
    out
}

/// The gradient of the input of [`log_forward`]: `dx = dy − exp(y) · Σ dy` by row.
///
/// # Shapes
/// As [`backward`].
#[must_use]
pub fn log_backward<T: Float>(y: &[T], dy: &[T], width: usize) -> Vec<T> {
    let mut dx = dy.to_vec();
    dx.par_chunks_mut(width.max(1)).zip(y.par_chunks(width.max(1))).for_each(|(dx, y)| {
        let total: T = dx.iter().copied().sum();
        for (d, &y) in dx.iter_mut().zip(y) {
            *d -= y.exp() * total;
        }
    });
    dx
}
