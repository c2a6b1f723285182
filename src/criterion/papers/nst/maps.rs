//! The channel maps of one sample, as unit vectors.

use super::kernel::Normalization;
use crate::criterion::math::pool::{pool, pool_adjoint};
use crate::kernel::elementwise::dot;
use crate::tensor::Element;
// at or below this norm a channel is dead: it keeps its (near-zero) value and has no gradient
use crate::statistic::DEAD_NORM;
use half::f16;

/// The ε under the root in `x / √(Σx² + ε)`.
const RSQRT_EPS: f64 = 1e-10;

/// Elements in the type in which they are stored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Values<'a, T> {
    Own(&'a [T]),
    Half(&'a [f16]),
}

/// The maps of a batch, `[batch, channels, from[0], from[1]]`, and the size at which they are
/// compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Maps<'a, T> {
    pub(super) values: Values<'a, T>,
    pub(super) channels: usize,
    pub(super) from: [usize; 2],
    pub(super) size: [usize; 2],
}

impl<'a, T: Element> Maps<'a, T> {
    /// Maps of `[channels, height, width]`.
    pub(super) fn new(
        values: Values<'a, T>,
        [channels, height, width]: [usize; 3],
        size: [usize; 2],
    ) -> Self {
        Self { values, channels, from: [height, width], size }
    }

    /// Positions of a map at the size of comparison.
    pub(super) fn positions(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Writes the unit maps of a sample to `unit` `[channels, positions]`, and the factor that each
    /// was multiplied by to `factors`; 0 where no gradient passes. `plane` is scratch memory for a
    /// pooled map.
    pub(super) fn normalize(
        &self,
        sample: usize,
        how: Normalization,
        unit: &mut [T],
        factors: &mut [T],
        plane: &mut Vec<T>,
    ) {
        let area = self.from[0] * self.from[1];
        for (channel, (map, factor)) in
            unit.chunks_exact_mut(self.positions()).zip(factors).enumerate()
        {
            let at = (sample * self.channels + channel) * area
                ..(sample * self.channels + channel + 1) * area;
            if self.from == self.size {
                match self.values {
                    Values::Own(values) => map.copy_from_slice(&values[at]),
                    Values::Half(values) => T::widen(&values[at], map),
                }
            } else {
                plane.resize(area, T::zero());
                match self.values {
                    Values::Own(values) => pool(&values[at], self.from, self.size, map),
                    Values::Half(values) => {
                        T::widen(&values[at], plane);
                        pool(plane, self.from, self.size, map);
                    }
                }
            }
            *factor = normalize(map, how);
        }
    }

    /// Takes the gradient at the size of comparison to the maps' own size.
    pub(super) fn spread(&self, gradient: &[T], out: &mut [T]) {
        if self.from == self.size {
            out.copy_from_slice(gradient);
            return;
        }
        let planes = out.chunks_exact_mut(self.from[0] * self.from[1]);
        for (out, gradient) in planes.zip(gradient.chunks_exact(self.positions())) {
            pool_adjoint(gradient, self.from, self.size, out);
        }
    }
}

/// Divides a map by its norm; returns the factor, or 0 for a dead map.
fn normalize<T: Element>(map: &mut [T], how: Normalization) -> T {
    let squares = dot(map, map);
    let (scale, live) = match how {
        Normalization::Clamped => (1.0 / squares.sqrt().max(DEAD_NORM), squares.sqrt() > DEAD_NORM),
        Normalization::Rsqrt => (1.0 / (squares + RSQRT_EPS).sqrt(), true),
    };
    let high = T::of(scale);
    // a rounded factor would scale every element, and the norm, by the same error
    let low = T::of(scale - high.wide());
    for value in map {
        *value = *value * high + *value * low;
    }
    if live { high } else { T::zero() }
}
