//! Linear resampling along one axis: every output is a weighted sum of a few inputs. Resizing in
//! any mode and padding by copies are resampling.

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

/// The adjoint of [`forward`]: each gradient is spread over the inputs read, by their weights.
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

/// The weights of four points by cubic convolution (Keys 1981), at distance `s` behind the second.
#[must_use]
pub fn cubic(a: f64, s: f64) -> [f64; 4] {
    let near = |d: f64| ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
    let far = |d: f64| ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a;
    [far(s + 1.0), near(s), near(1.0 - s), far(2.0 - s)]
}

/// The slopes of the weights of [`cubic`] along `s`.
#[must_use]
pub fn cubic_slopes(a: f64, s: f64) -> [f64; 4] {
    let near = |d: f64| (3.0 * (a + 2.0) * d - 2.0 * (a + 3.0)) * d;
    let far = |d: f64| (3.0 * a * d - 10.0 * a) * d + 8.0 * a;
    [far(s + 1.0), near(s), -near(1.0 - s), -far(2.0 - s)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cubic_weights_meet_the_points_and_have_these_slopes() {
        let at_a_point: f64 =
            cubic(-0.75, 0.0).iter().zip([0.0, 1.0, 0.0, 0.0]).map(|(w, e)| (w - e).abs()).sum();
        assert!(at_a_point < 1e-12);
        for s in [0.0, 0.3, 0.9] {
            let (above, below) = (cubic(-0.75, s + 1e-6), cubic(-0.75, s - 1e-6));
            for ((slope, a), b) in cubic_slopes(-0.75, s).iter().zip(above).zip(below) {
                assert!((slope - (a - b) / 2e-6).abs() < 1e-6, "{slope} at {s}");
            }
        }
    }

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
