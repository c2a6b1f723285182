//! Local response normalization across channels (Krizhevsky et al. 2012).

use super::Float;
use rayon::prelude::*;

/// The constants of the operator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Response {
    /// Channels that are summed over.
    pub size: usize,
    /// Scales the mean square.
    pub alpha: f64,
    /// The exponent.
    pub beta: f64,
    /// Added to the mean square.
    pub bias: f64,
}

impl Response {
    /// The channels whose squares count for channel `c`: ⌊(size − 1)/2⌋ before it, ⌈(size
    /// − 1)/2⌉ behind it.
    fn window(&self, c: usize, channels: usize) -> std::ops::Range<usize> {
        let before = self.size.saturating_sub(1) / 2;
        c.saturating_sub(before)..c.saturating_add(self.size - before).min(channels)
    }

    /// `bias + alpha/size · Σ x²` over the window of every element of one image.
    fn base<T: Float>(&self, x: &[T], channels: usize) -> Vec<f64> {
        let inner = x.len() / channels.max(1);
        #[allow(clippy::cast_precision_loss, reason = "a count of channels")]
        let share = self.alpha / self.size as f64;
        let mut base = vec![self.bias; x.len()];
        for (c, base) in base.chunks_exact_mut(inner.max(1)).enumerate() {
            for other in self.window(c, channels) {
                for (b, x) in base.iter_mut().zip(&x[other * inner..]) {
                    *b += share * x.wide() * x.wide();
                }
            }
        }
        base
    }
}

/// `y = x / (bias + alpha/size · Σ x²)^beta`.
///
/// # Shapes
/// `x`: `[images, channels, inner]`; result: the same.
#[must_use]
pub fn forward<T: Float>(r: &Response, x: &[T], images: usize, channels: usize) -> Vec<T> {
    let mut out = x.to_vec();
    let image = (x.len() / images.max(1)).max(1);
    out.par_chunks_mut(image).zip(x.par_chunks(image)).for_each(|(out, x)| {
        for (o, base) in out.iter_mut().zip(r.base(x, channels)) {
            *o = T::of(o.wide() * base.powf(-r.beta));
        }
    });
    out
}

/// With b the bracket of [`forward`]: `dx_j = dy_j·b_j^−β − 2·alpha·beta/size · x_j · Σ
/// dy_i·x_i·b_i^(−β−1)` over the i whose window contains j.
///
/// # Shapes
/// `x`, `dy`: `[images, channels, inner]`; result: the same.
#[must_use]
pub fn backward<T: Float>(
    r: &Response,
    x: &[T],
    dy: &[T],
    images: usize,
    channels: usize,
) -> Vec<T> {
    let mut out = vec![T::zero(); x.len()];
    let image = (x.len() / images.max(1)).max(1);
    #[allow(clippy::cast_precision_loss, reason = "a count of channels")]
    let factor = 2.0 * r.alpha * r.beta / r.size as f64;
    out.par_chunks_mut(image).zip(x.par_chunks(image).zip(dy.par_chunks(image))).for_each(
        |(out, (x, dy))| {
            let base = r.base(x, channels);
            let inner = x.len() / channels.max(1);
            let mut shares = vec![0f64; x.len()];
            for c in 0..channels {
                for to in r.window(c, channels) {
                    for p in 0..inner {
                        let i = c * inner + p;
                        shares[to * inner + p] +=
                            dy[i].wide() * x[i].wide() * base[i].powf(-r.beta - 1.0);
                    }
                }
            }
            for (i, o) in out.iter_mut().enumerate() {
                *o = T::of(dy[i].wide() * base[i].powf(-r.beta) - factor * x[i].wide() * shares[i]);
            }
        },
    );
    out
}
