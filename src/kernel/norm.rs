//! Batch, layer and root-mean-square normalization. Statistics are computed per plane as (mean, M2)
//! and combined in double precision.

use super::Float;
use super::elementwise::{dot, squared_deviation, sum};
use rayon::prelude::*;

/// The sizes of a batch-normalized array `[outer, channels, inner]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NormShape {
    /// Images.
    pub outer: usize,
    /// Channels.
    pub channels: usize,
    /// Positions.
    pub inner: usize,
}

impl NormShape {
    fn plane<'a, T>(&self, data: &'a [T], outer: usize, channel: usize) -> &'a [T] {
        let start = (outer * self.channels + channel) * self.inner;
        &data[start..start + self.inner]
    }

    /// Elements of one channel.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a count of elements in memory")]
    pub fn count(&self) -> f64 {
        (self.outer * self.inner) as f64
    }
}

/// Mean and (biased) variance of every channel.
///
/// # Shapes
/// `x`: `[outer, channels, inner]`; result: `[channels]` pairs.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "counts of elements in memory")]
pub fn statistics<T: Float>(x: &[T], planes: NormShape) -> Vec<(f64, f64)> {
    (0..planes.channels)
        .into_par_iter()
        .map(|c| {
            if planes.inner == 1 {
                return column_statistics(x, planes, c);
            }
            let (mut count, mut mean, mut m2) = (0.0, 0.0, 0.0);
            let n = planes.inner as f64;
            for image in 0..planes.outer {
                let plane = planes.plane(x, image, c);
                let plane_mean = sum(plane) / n;
                let plane_m2 = squared_deviation(plane, plane_mean);
                // Chan et al. 1979: the union of two samples. The rounding of the center to the
                // element type is second order.
                let delta = plane_mean - mean;
                let total = count + n;
                mean += delta * n / total;
                m2 += plane_m2 + delta * delta * count * n / total;
                count = total;
            }
            (mean, m2 / count)
        })
        .collect()
}

/// The same where a plane is a single number: two passes in double precision.
fn column_statistics<T: Float>(x: &[T], planes: NormShape, channel: usize) -> (f64, f64) {
    let column = || x.iter().skip(channel).step_by(planes.channels).map(|v| v.wide());
    let mean = column().sum::<f64>() / planes.count();
    (mean, column().map(|v| (v - mean) * (v - mean)).sum::<f64>() / planes.count())
}

/// `y = x·factor[c] + shift[c]`.
///
/// # Shapes
/// `x`: `[outer, channels, inner]`; `affine`: `[channels]` pairs of factor and shift; result: as
/// `x`.
#[must_use]
pub fn affine<T: Float>(x: &[T], planes: NormShape, affine: &[(f64, f64)]) -> Vec<T> {
    let mut out = vec![T::zero(); x.len()];
    let affine: Vec<(T, T)> = affine.iter().map(|&(a, b)| (T::of(a), T::of(b))).collect();
    let row = (planes.channels * planes.inner).max(1);
    out.par_chunks_mut(row).zip(x.par_chunks(row)).for_each(|(out, x)| {
        for ((out, x), &(a, b)) in
            out.chunks_mut(planes.inner).zip(x.chunks(planes.inner)).zip(&affine)
        {
            for (o, &x) in out.iter_mut().zip(x) {
                *o = x * a + b;
            }
        }
    });
    out
}

/// Normalized and scaled: `y = (x − mean) · factor + shift`. The subtraction comes first, so
/// that a large mean does not cost digits.
///
/// # Shapes
/// `x`: `[outer, channels, inner]`; `terms`: `[channels]` triples of mean, factor and shift;
/// result: as `x`.
#[must_use]
pub fn normalize<T: Float>(x: &[T], planes: NormShape, terms: &[(f64, f64, f64)]) -> Vec<T> {
    let mut out = vec![T::zero(); x.len()];
    let terms: Vec<(T, T, T)> =
        terms.iter().map(|&(m, a, b)| (T::of(m), T::of(a), T::of(b))).collect();
    let row = (planes.channels * planes.inner).max(1);
    out.par_chunks_mut(row).zip(x.par_chunks(row)).for_each(|(out, x)| {
        for ((out, x), &(m, a, b)) in
            out.chunks_mut(planes.inner).zip(x.chunks(planes.inner)).zip(&terms)
        {
            for (o, &x) in out.iter_mut().zip(x) {
                *o = (x - m) * a + b;
            }
        }
    });
    out
}

/// Σ dy and Σ dy·(x − mean) of every channel.
///
/// # Shapes
/// `x`, `dy`: `[outer, channels, inner]`; `means`: `[channels]`; result: `[channels]` pairs.
#[must_use]
pub fn gradient_sums<T: Float>(
    x: &[T],
    dy: &[T],
    planes: NormShape,
    means: &[f64],
) -> Vec<(f64, f64)> {
    means
        .par_iter()
        .enumerate()
        .map(|(c, &mean)| {
            let (mut total, mut weighted) = (0.0, 0.0);
            let center = T::of(mean);
            let mut centered = vec![T::zero(); planes.inner];
            for image in 0..planes.outer {
                let (x, dy) = (planes.plane(x, image, c), planes.plane(dy, image, c));
                for (o, &x) in centered.iter_mut().zip(x) {
                    *o = x - center;
                }
                total += sum(dy);
                weighted += dot(&centered, dy);
            }
            (total, weighted)
        })
        .collect()
}

/// What the gradients of batch normalization's input are made of, from `sums`: Σ dy and
/// Σ dy·(x − mean) of every channel. `count`: how many values a channel has, where mean and
/// variance are theirs; `None` where these are constants.
///
/// With r = 1/√(var + ε): dx = γr·(dy − Σdy/n − (x − μ)·r²·Σdy(x − μ)/n),
/// which is `dy·a + (x − mean)·b + c` for the result's `[mean, a, b, c]` ([`input_gradient`]).
#[must_use]
pub fn input_terms(
    [means, rstd, scale]: [&[f64]; 3],
    count: Option<f64>,
    sums: &[(f64, f64)],
) -> Vec<[f64; 4]> {
    let channels = means.iter().zip(rstd).zip(scale).zip(sums);
    channels
        .map(|(((&mean, &r), &scale), &(sum, product))| {
            let factor = scale * r;
            let share = count.map_or(0.0, |n| factor / n);
            [mean, factor, -share * r * r * product, -share * sum]
        })
        .collect()
}

/// The gradients of batch normalization's scale and bias: dγ = r·Σdy(x − μ), dβ = Σdy.
#[must_use]
pub fn parameter_gradients(rstd: &[f64], sums: &[(f64, f64)]) -> [Vec<f64>; 2] {
    let scale = sums.iter().zip(rstd).map(|((_, product), r)| product * r).collect();
    [scale, sums.iter().map(|(sum, _)| *sum).collect()]
}

/// `dx = dy·a + (x − mean)·b + c`: the input gradient of batch normalization in terms of its
/// per-channel sums.
///
/// # Shapes
/// `x`, `dy`: `[outer, channels, inner]`; `terms`: `[channels]` of `[mean, a, b, c]`; result: as
/// `x`.
#[must_use]
pub fn input_gradient<T: Float>(
    x: &[T],
    dy: &[T],
    planes: NormShape,
    terms: &[[f64; 4]],
) -> Vec<T> {
    let mut out = vec![T::zero(); x.len()];
    let terms: Vec<[T; 4]> = terms.iter().map(|t| t.map(T::of)).collect();
    let row = (planes.channels * planes.inner).max(1);
    out.par_chunks_mut(row).zip(x.par_chunks(row).zip(dy.par_chunks(row))).for_each(
        |(out, (x, dy))| {
            let lines = out
                .chunks_mut(planes.inner)
                .zip(x.chunks(planes.inner).zip(dy.chunks(planes.inner)));
            for ((out, (x, dy)), &[mean, a, b, c]) in lines.zip(&terms) {
                for ((o, &x), &dy) in out.iter_mut().zip(x).zip(dy) {
                    *o = dy * a + (x - mean) * b + c;
                }
            }
        },
    );
    out
}

/// Mean and reciprocal standard deviation of every row.
///
/// # Shapes
/// `x`: `[rows, width]`; result: `[rows]` pairs.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "counts of elements in memory")]
pub fn row_statistics<T: Float>(x: &[T], width: usize, epsilon: f64) -> Vec<(f64, f64)> {
    x.par_chunks(width)
        .map(|row| {
            let mean = sum(row) / width as f64;
            let variance = squared_deviation(row, mean) / width as f64;
            (mean, 1.0 / (variance + epsilon).sqrt())
        })
        .collect()
}

/// Zero instead of the mean, and the reciprocal root mean square, of every row.
///
/// # Shapes
/// As [`row_statistics`].
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "counts of elements in memory")]
pub fn row_scales<T: Float>(x: &[T], width: usize, epsilon: f64) -> Vec<(f64, f64)> {
    x.par_chunks(width)
        .map(|row| (0.0, 1.0 / (dot(row, row) / width as f64 + epsilon).sqrt()))
        .collect()
}

/// Layer normalization: `y = (x − mean)·rstd·scale + bias` by row.
///
/// # Shapes
/// `x`: `[rows, width]`; `statistics`: `[rows]` of (mean, rstd); `scale`, `bias`: `[width]`;
/// result: as `x`.
#[must_use]
pub fn layer_forward<T: Float>(
    x: &[T],
    statistics: &[(f64, f64)],
    scale: &[T],
    bias: Option<&[T]>,
) -> Vec<T> {
    let width = scale.len();
    let mut out = vec![T::zero(); x.len()];
    out.par_chunks_mut(width).zip(x.par_chunks(width)).zip(statistics).for_each(
        |((out, x), &(mean, rstd))| {
            let (mean, rstd) = (T::of(mean), T::of(rstd));
            for ((o, &x), &s) in out.iter_mut().zip(x).zip(scale) {
                *o = (x - mean) * rstd * s;
            }
            for (o, &b) in out.iter_mut().zip(bias.unwrap_or_default()) {
                *o += b;
            }
        },
    );
    out
}

/// The input gradient of layer normalization: with g = dy·scale and x̂ normalized,
/// `dx = rstd·(g − mean(g) − x̂·mean(g·x̂))` by row; without `mean(g)` where the rows are
/// not `centered` (root-mean-square normalization).
///
/// # Shapes
/// As [`layer_forward`].
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "counts of elements in memory")]
pub fn layer_input_gradient<T: Float>(
    x: &[T],
    dy: &[T],
    statistics: &[(f64, f64)],
    scale: &[T],
    centered: bool,
) -> Vec<T> {
    let width = scale.len();
    let mut out = vec![T::zero(); x.len()];
    let rows = out
        .par_chunks_mut(width)
        .zip(x.par_chunks(width).zip(dy.par_chunks(width)))
        .zip(statistics);
    rows.for_each(|((out, (x, dy)), &(mean, rstd))| {
        let (mut total, mut weighted) = (0.0, 0.0);
        for ((x, dy), s) in x.iter().zip(dy).zip(scale) {
            let g = dy.wide() * s.wide();
            total += g;
            weighted += g * (x.wide() - mean) * rstd;
        }
        let (total, weighted) =
            (if centered { total / width as f64 } else { 0.0 }, weighted / width as f64);
        for (((o, x), dy), s) in out.iter_mut().zip(x).zip(dy).zip(scale) {
            let normal = (x.wide() - mean) * rstd;
            *o = T::of(rstd * (dy.wide() * s.wide() - total - normal * weighted));
        }
    });
    out
}

/// The gradients of scale and bias of layer normalization.
///
/// # Shapes
/// `x`, `dy`: `[rows, width]`; `statistics`: `[rows]`; results: `[width]` each.
#[must_use]
pub fn layer_parameter_gradients<T: Float>(
    x: &[T],
    dy: &[T],
    statistics: &[(f64, f64)],
    width: usize,
) -> (Vec<T>, Vec<T>) {
    let (mut scale, mut bias) = (vec![0f64; width], vec![0f64; width]);
    for ((x, dy), &(mean, rstd)) in x.chunks(width).zip(dy.chunks(width)).zip(statistics) {
        for (((s, b), x), dy) in scale.iter_mut().zip(&mut bias).zip(x).zip(dy) {
            *s += dy.wide() * (x.wide() - mean) * rstd;
            *b += dy.wide();
        }
    }
    (scale.into_iter().map(T::of).collect(), bias.into_iter().map(T::of).collect())
}
