//! Maximum and average pooling over two spatial axes.

use super::Float;
use rayon::prelude::*;

/// A pooling window over `[planes, height, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolWindow {
    /// Input height and width.
    pub input: [usize; 2],
    /// Output height and width.
    pub output: [usize; 2],
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Steps down and right.
    pub stride: [usize; 2],
    /// Steps within the window.
    pub dilation: [usize; 2],
    /// Padding above and to the left.
    pub before: [usize; 2],
    /// Padding below and to the right.
    pub after: [usize; 2],
    /// Whether an average counts the padding.
    pub count_padding: bool,
}

impl PoolWindow {
    /// The input positions that output position `o` covers along an axis.
    fn reach(&self, axis: usize, o: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        let (start, dilation, size, pad) =
            (o * self.stride[axis], self.dilation[axis], self.input[axis], self.before[axis]);
        (0..self.kernel[axis])
            .filter_map(move |k| (start + k * dilation).checked_sub(pad).filter(|&i| i < size))
    }

    /// How many positions an average divides by along an axis: the window within the padded input,
    /// or within the input.
    pub(super) fn span(&self, axis: usize, o: usize) -> usize {
        if !self.count_padding {
            return self.reach(axis, o).count();
        }
        let end = self.input[axis] + self.before[axis] + self.after[axis];
        (0..self.kernel[axis])
            .filter(|k| o * self.stride[axis] + k * self.dilation[axis] < end)
            .count()
    }

    fn areas(&self) -> [usize; 2] {
        [self.input[0] * self.input[1], self.output[0] * self.output[1]]
    }
}

/// The maxima and their places in the plane (the first of equal ones).
///
/// # Shapes
/// `x`: `[planes, height, width]`; results: `[planes, output height, output width]`.
#[must_use]
#[allow(
    clippy::cast_possible_truncation,
    reason = "a plane has fewer than 2³² positions: checked when the window is planned"
)]
pub fn max_forward<T: Float>(x: &[T], w: PoolWindow) -> (Vec<T>, Vec<u32>) {
    let [from, to] = w.areas();
    let planes = x.len() / from.max(1);
    let (mut out, mut places) = (vec![T::zero(); planes * to], vec![0u32; planes * to]);
    out.par_chunks_mut(to).zip(places.par_chunks_mut(to)).zip(x.par_chunks(from)).for_each(
        |((out, places), x)| {
            for oh in 0..w.output[0] {
                for ow in 0..w.output[1] {
                    let (mut best, mut place) = (T::neg_infinity(), None);
                    for h in w.reach(0, oh) {
                        for c in w.reach(1, ow) {
                            let i = h * w.input[1] + c;
                            if place.is_none() || x[i] > best || x[i].is_nan() {
                                (best, place) = (x[i], Some(i));
                            }
                        }
                    }
                    out[oh * w.output[1] + ow] = best;
                    places[oh * w.output[1] + ow] = place.unwrap_or(0) as u32;
                }
            }
        },
    );
    (out, places)
}

/// Hands each gradient to the place of its maximum.
///
/// # Shapes
/// `dy`, `places`: `[planes, output height, output width]`; result: `[planes, height, width]`.
#[must_use]
pub fn max_backward<T: Float>(dy: &[T], places: &[u32], w: PoolWindow) -> Vec<T> {
    let [from, to] = w.areas();
    let mut dx = vec![T::zero(); dy.len() / to.max(1) * from];
    dx.par_chunks_mut(from).zip(dy.par_chunks(to)).zip(places.par_chunks(to)).for_each(
        |((dx, dy), places)| {
            for (&d, &place) in dy.iter().zip(places) {
                dx[place as usize] += d;
            }
        },
    );
    dx
}

/// The averages.
///
/// # Shapes
/// `x`: `[planes, height, width]`; result: `[planes, output height, output width]`.
#[must_use]
pub fn average_forward<T: Float>(x: &[T], w: PoolWindow) -> Vec<T> {
    let [from, to] = w.areas();
    let mut out = vec![T::zero(); x.len() / from.max(1) * to];
    let factors = factors::<T>(w);
    out.par_chunks_mut(to).zip(x.par_chunks(from)).for_each(|(out, x)| {
        for oh in 0..w.output[0] {
            for ow in 0..w.output[1] {
                let mut total = T::zero();
                for h in w.reach(0, oh) {
                    for c in w.reach(1, ow) {
                        total += x[h * w.input[1] + c];
                    }
                }
                let o = oh * w.output[1] + ow;
                out[o] = total * factors[o];
            }
        }
    });
    out
}

/// Spreads each gradient over its window.
///
/// # Shapes
/// `dy`: `[planes, output height, output width]`; result: `[planes, height, width]`.
#[must_use]
pub fn average_backward<T: Float>(dy: &[T], w: PoolWindow) -> Vec<T> {
    let [from, to] = w.areas();
    let mut dx = vec![T::zero(); dy.len() / to.max(1) * from];
    let factors = factors::<T>(w);
    dx.par_chunks_mut(from).zip(dy.par_chunks(to)).for_each(|(dx, dy)| {
        for oh in 0..w.output[0] {
            for ow in 0..w.output[1] {
                let o = oh * w.output[1] + ow;
                let share = dy[o] * factors[o];
                for h in w.reach(0, oh) {
                    for c in w.reach(1, ow) {
                        dx[h * w.input[1] + c] += share;
                    }
                }
            }
        }
    });
    dx
}

/// One over the number of positions of every window.
#[allow(clippy::cast_precision_loss, reason = "a window's size")]
#[must_use]
pub fn factors<T: Float>(w: PoolWindow) -> Vec<T> {
    let widths: Vec<usize> = (0..w.output[1]).map(|o| w.span(1, o)).collect();
    (0..w.output[0])
        .flat_map(|oh| {
            let h = w.span(0, oh);
            widths.iter().map(move |c| T::of(1.0 / (h * c).max(1) as f64)).collect::<Vec<_>>()
        })
        .collect()
}
