//! Elementwise maps and sums over contiguous slices, parallel in fixed chunks.

use super::Float;
use rayon::prelude::*;

/// Elements per task: large enough to outweigh the task, small enough to stay in the cache.
const CHUNK: usize = 1 << 15;

/// `f(a)` for every element.
pub fn map<T: Float>(a: &[T], f: impl Fn(T) -> T + Sync) -> Vec<T> {
    let mut out = vec![T::zero(); a.len()];
    out.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).for_each(|(out, a)| {
        for (o, &a) in out.iter_mut().zip(a) {
            *o = f(a);
        }
    });
    out
}

/// `f(a, b)` for every pair of elements.
///
/// # Panics
/// When the lengths differ.
pub fn zip<T: Float>(a: &[T], b: &[T], f: impl Fn(T, T) -> T + Sync) -> Vec<T> {
    assert_eq!(a.len(), b.len(), "operands of one length");
    let mut out = vec![T::zero(); a.len()];
    out.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK))).for_each(
        |(out, (a, b))| {
            for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *o = f(a, b);
            }
        },
    );
    out
}

/// `f(i, a)` for every element and its index.
pub fn map_indexed<T: Float>(a: &[T], f: impl Fn(u64, T) -> T + Sync) -> Vec<T> {
    let mut out = vec![T::zero(); a.len()];
    out.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).enumerate().for_each(|(chunk, (out, a))| {
        for (i, (o, &a)) in out.iter_mut().zip(a).enumerate() {
            *o = f((chunk * CHUNK + i) as u64, a);
        }
    });
    out
}

/// Adds `bias[c]` to every element of channel `c`.
///
/// # Shapes
/// `data`: `[outer, channels, inner]`; `bias`: `[channels]`.
pub fn add_per_channel<T: Float>(data: &mut [T], bias: &[T], inner: usize) {
    let row = (bias.len() * inner).max(1);
    data.par_chunks_mut(row).for_each(|data| {
        for (data, &b) in data.chunks_mut(inner.max(1)).zip(bias) {
            for d in data {
                *d += b;
            }
        }
    });
}

/// The sum over everything but the channels, each accumulated in double precision.
///
/// # Shapes
/// `data`: `[outer, channels, inner]`; result: `[channels]`.
#[must_use]
pub fn sum_per_channel<T: Float>(data: &[T], channels: usize, inner: usize) -> Vec<T> {
    let row = (channels * inner).max(1);
    (0..channels)
        .into_par_iter()
        .map(|c| {
            let total: f64 =
                data.chunks_exact(row).map(|row| sum(&row[c * inner..(c + 1) * inner])).sum();
            T::of(total)
        })
        .collect()
}

/// The lanes of a sum: independent partial sums let the compiler use vector registers, and shorten
/// the chain of roundings.
const LANES: usize = 16;

/// Σ a, in lanes of the element type and blocks of double precision.
#[must_use]
pub fn sum<T: Float>(a: &[T]) -> f64 {
    lanes(a, a, |a, _| a)
}

/// Σ a·b, in lanes of the element type and blocks of double precision.
#[must_use]
pub fn dot<T: Float>(a: &[T], b: &[T]) -> f64 {
    lanes(a, b, |a, b| a * b)
}

/// Σ (a − center)², likewise.
#[must_use]
pub fn squared_deviation<T: Float>(a: &[T], center: f64) -> f64 {
    let center = T::of(center);
    lanes(a, a, |a, _| (a - center) * (a - center))
}

#[inline]
fn lanes<T: Float>(a: &[T], b: &[T], f: impl Fn(T, T) -> T) -> f64 {
    // 64 additions per lane in the element type, then double precision
    const BLOCK: usize = LANES * 64;
    let mut total = 0.0;
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        let mut acc = [T::zero(); LANES];
        let (wide_a, wide_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
        let rest: f64 =
            wide_a.remainder().iter().zip(wide_b.remainder()).map(|(&a, &b)| f(a, b).wide()).sum();
        for (a, b) in wide_a.zip(wide_b) {
            for ((acc, &a), &b) in acc.iter_mut().zip(a).zip(b) {
                *acc += f(a, b);
            }
        }
        total += rest + acc.iter().map(|x| x.wide()).sum::<f64>();
    }
    total
}
