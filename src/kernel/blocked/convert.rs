//! Conversion between plain `[images, channels, height, width]` and blocked maps.

use super::elementwise::read;
use super::pack::{Operand, Plane};
use super::simd::{Isa, Level, SimdKernel};
use super::{LANES, Lanes, Map, MapView};
use rayon::prelude::*;

/// Pixels that are transposed together: sixteen cache lines.
const TILE: usize = 16;

/// Converts a plain map to blocks; lanes past the last channel become zero.
///
/// # Shapes
/// `x`: `[images, channels, height, width]`; `to`: the same, blocked.
///
/// # Panics
/// When a slice has another length than its shape.
pub fn from_plain(map: &Map, x: &[f32], to: &mut [Lanes]) {
    let area = map.area();
    assert_eq!(x.len(), map.images * map.channels * area, "plain map of {map:?}");
    assert_eq!(to.len(), map.len(), "blocked map of {map:?}");
    if to.is_empty() {
        return;
    }
    to.par_chunks_mut(area).enumerate().for_each(|(plane, to)| {
        let (image, block) = (plane / map.blocks(), plane % map.blocks());
        let channels = LANES.min(map.channels - block * LANES);
        let planes = &x[(image * map.channels + block * LANES) * area..][..channels * area];
        if channels < LANES {
            to.fill(Lanes::ZERO);
        }
        for (lane, plane) in planes.chunks_exact(area).enumerate() {
            for (to, &x) in to.iter_mut().zip(plane) {
                to.0[lane] = x;
            }
        }
    });
}

/// Evaluates a view as a plain map.
///
/// # Shapes
/// `x`: `[images, channels, height, width]`, blocked; `to`: the same, plain.
///
/// # Panics
/// When a slice has another length than its shape.
pub fn to_plain(map: &Map, x: MapView<'_>, to: &mut [f32]) {
    let area = map.area();
    assert_eq!(to.len(), map.images * map.channels * area, "plain map of {map:?}");
    assert_eq!(x.data.len(), map.len(), "blocked map of {map:?}");
    if to.is_empty() {
        return;
    }
    let (level, source) = (Level::best(), Operand::Input(x));
    to.par_chunks_mut(map.channels * area).enumerate().for_each(|(image, to)| {
        for (block, to) in to.chunks_mut(LANES * area).enumerate() {
            level.run(Unblock { plane: source.plane(image, block, map.blocks(), area), area, to });
        }
    });
}

/// One plane of a block to the planes of its channels.
struct Unblock<'a, 'b> {
    plane: Plane<'a>,
    area: usize,
    to: &'b mut [f32],
}

impl SimdKernel for Unblock<'_, '_> {
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut tile = [Lanes::ZERO; TILE];
        for first in (0..self.area).step_by(TILE) {
            let count = TILE.min(self.area - first);
            read(
                isa,
                &self.plane,
                first..first + count,
                #[inline(always)]
                |i, value| isa.store(&mut tile[i - first], value),
            );
            for (lane, to) in self.to.chunks_exact_mut(self.area).enumerate() {
                for (to, x) in to[first..first + count].iter_mut().zip(&tile) {
                    *to = x.0[lane];
                }
            }
        }
    }
}
