//! Linear resampling along one axis: every output is a weighted sum of a few inputs. Resizing by
//! any mode and padding by copies are this.

use super::Float;
use rayon::prelude::*;

/// For each output position the input positions it reads and their weights.
pub type Taps = Vec<Vec<(usize, f64)>>;

/// Resamples the middle axis.
///
/// # Shapes
/// `x`: `[outer, size, inner]`; `taps`: `[output size]`; result: `[outer, output size, inner]`.
#[must_use]
pub fn forward<T: Float>(x: &[T], size: usize, inner: usize, taps: &[Vec<(usize, f64)>]) -> Vec<T> {
    let (block, row) = (size * inner, taps.len() * inner);
    let mut out = vec![T::zero(); x.len() / block.max(1) * row];
    out.par_chunks_mut(row.max(1)).zip(x.par_chunks(block.max(1))).for_each(|(out, x)| {
        for (out, taps) in out.chunks_exact_mut(inner.max(1)).zip(taps) {
            for &(from, weight) in taps {
                let weight = T::of(weight);
                for (o, &x) in out.iter_mut().zip(&x[from * inner..]) {
                    *o += weight * x;
                }
            }
        }
    });
    out
}

/// The adjoint of [`forward`]: each gradient goes to the inputs read, by weight.
///
/// # Shapes
/// `dy`: `[outer, output size, inner]`; result: `[outer, size, inner]`.
#[must_use]
pub fn backward<T: Float>(
    dy: &[T],
    size: usize,
    inner: usize,
    taps: &[Vec<(usize, f64)>],
) -> Vec<T> {
    let (block, row) = (size * inner, taps.len() * inner);
    let mut dx = vec![T::zero(); dy.len() / row.max(1) * block];
    dx.par_chunks_mut(block.max(1)).zip(dy.par_chunks(row.max(1))).for_each(|(dx, dy)| {
        for (dy, taps) in dy.chunks_exact(inner.max(1)).zip(taps) {
            for &(to, weight) in taps {
                let weight = T::of(weight);
                for (x, &d) in dx[to * inner..].iter_mut().zip(dy) {
                    *x += weight * d;
                }
            }
        }
    });
    dx
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backward_pass_is_the_adjoint() {
        let taps: Taps = vec![vec![(0, 1.0)], vec![(0, 0.5), (2, 0.5)], vec![], vec![(1, 2.0)]];
        let x: Vec<f64> = (0..12).map(|i| f64::from(i * i % 7)).collect();
        let y = forward(&x, 3, 2, &taps);
        assert_eq!(
            y[..8],
            [
                x[0],
                x[1],
                0.5 * x[0] + 0.5 * x[4],
                0.5 * x[1] + 0.5 * x[5],
                0.0,
                0.0,
                2.0 * x[2],
                2.0 * x[3]
            ]
        );
        let dy: Vec<f64> = (0..16).map(|i| f64::from(i * 5 % 11)).collect();
        let dx = backward(&dy, 3, 2, &taps);
        let inner = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        assert!((inner(&y, &dy) - inner(&x, &dx)).abs() < 1e-9);
    }
}
