//! Sums over the channels of blocked maps, for batch normalization: each plane in single precision
//! over short runs of pixels, everything above that in double precision and in a fixed order.

use super::elementwise::{min_planes, read};
use super::pack::{Operand, Plane};
use super::simd::{Isa, Level, SimdKernel};
use super::{Gradient, LANES, Lanes, Map, MapView};
use rayon::prelude::*;

/// Pixels that are summed in single precision.
const RUN: usize = 32;

/// Two sums of a plane, by channel.
pub(super) type Sums = [[f64; LANES]; 2];

/// Mean and (biased) variance of every channel.
///
/// # Shapes
/// `x`: `[images, channels, height, width]`, blocked; result: `[channels]` pairs.
///
/// # Panics
/// When the map has another length than its shape.
#[must_use]
pub fn moments(map: &Map, x: &[Lanes]) -> Vec<(f64, f64)> {
    let (level, area) = (Level::best(), map.area());
    assert_eq!(x.len(), map.len(), "blocked map of {map:?}");
    if x.is_empty() {
        return vec![(0.0, 0.0); map.channels];
    }
    let planes: Vec<Sums> = x
        .par_chunks(area)
        .with_min_len(min_planes(area))
        .map(|plane| plane_moments(level, plane))
        .collect();
    combine(map, &planes)
}

/// Mean and sum of squared deviations of a plane, taken around its first pixel.
#[allow(clippy::cast_precision_loss, reason = "counts of pixels in memory")]
pub(super) fn plane_moments(level: Level, plane: &[Lanes]) -> Sums {
    let mut sums = [[0.0; LANES]; 2];
    level.run(Moments { plane, sums: &mut sums });
    let n = plane.len() as f64;
    let [sum, squares] = sums;
    let mean = std::array::from_fn(|l| f64::from(plane[0].0[l]) + sum[l] / n);
    [mean, std::array::from_fn(|l| (squares[l] - sum[l] * sum[l] / n).max(0.0))]
}

/// Mean and variance of every channel from those of its planes, `[images, blocks]`.
#[allow(clippy::cast_precision_loss, reason = "counts of pixels in memory")]
pub(super) fn combine(map: &Map, planes: &[Sums]) -> Vec<(f64, f64)> {
    let area = map.area();
    (0..map.channels)
        .map(|channel| {
            let (block, lane) = (channel / LANES, channel % LANES);
            let (mut count, mut mean, mut m2) = (0.0, 0.0, 0.0);
            for plane in planes.iter().skip(block).step_by(map.blocks()) {
                // Chan et al. 1979: the union of two samples
                let (n, delta) = (area as f64, plane[0][lane] - mean);
                let total = count + n;
                mean += delta * n / total;
                m2 += plane[1][lane] + delta * delta * count * n / total;
                count = total;
            }
            (mean, m2 / count)
        })
        .collect()
}

/// Σ m·dy and Σ m·dy·(z − mean) of every channel, where `m` is 1 where
/// `low < factor·z + shift < high` and 0 elsewhere: the sums that the gradients of batch
/// normalization and of its parameters are made of.
///
/// # Shapes
/// `dy`, `z`: `[images, channels, height, width]`, blocked; `affine`: `[blocks]` of factor and
/// shift; `means`: `[channels]`; result: `[channels]` pairs.
///
/// # Panics
/// When a slice has another length than its shape.
#[must_use]
pub fn gradient_sums(map: &Map, dy: &[Lanes], z: MapView<'_>, means: &[f64]) -> Vec<(f64, f64)> {
    let (level, area, blocks) = (Level::best(), map.area(), map.blocks());
    assert_eq!(
        (dy.len(), z.data.len(), means.len()),
        (map.len(), map.len(), map.channels),
        "blocked maps of {map:?}"
    );
    let centers: Vec<Lanes> = lanes(means.iter().map(|&m| narrow(m)));
    let planes: Vec<Sums> = (0..map.images * blocks)
        .into_par_iter()
        .with_min_len(min_planes(area))
        .map(|plane| {
            let mut sums = [[0.0; LANES]; 2];
            let part = plane * area..(plane + 1) * area;
            let affine = z.affine.filter(|_| z.clamp.is_some()).map(|a| a[plane % blocks]);
            let center = &centers[plane % blocks];
            level.run(GradientSums {
                dy: &dy[part.clone()],
                z: &z.data[part],
                affine,
                clamp: z.clamp,
                center,
                sums: &mut sums,
            });
            sums
        })
        .collect();
    (0..map.channels)
        .map(|channel| {
            let own = planes.iter().skip(channel / LANES).step_by(blocks);
            own.fold((0.0, 0.0), |(a, b), [sum, weighted]| {
                (a + sum[channel % LANES], b + weighted[channel % LANES])
            })
        })
        .collect()
}

/// The sum of every channel of a gradient.
///
/// # Shapes
/// `dz`: `[images, channels, height, width]`, blocked; result: `[channels]`.
///
/// # Panics
/// When the map has another length than its shape.
#[must_use]
pub fn totals(map: &Map, dz: Gradient<'_>) -> Vec<f64> {
    assert_eq!(dz.dy.len(), map.len(), "blocked map of {map:?}");
    let planes = plane_totals(map, &Operand::Gradient(dz));
    (0..map.channels)
        .map(|c| {
            planes.iter().skip(c / LANES).step_by(map.blocks()).map(|sums| sums[c % LANES]).sum()
        })
        .collect()
}

/// The mean of every channel of a view.
///
/// # Shapes
/// `x`: `[images, channels, height, width]`, blocked; result: `[images, channels]`.
///
/// # Panics
/// When the map has another length than its shape.
#[must_use]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a count of pixels; rounding to the maps' type"
)]
pub fn means(map: &Map, x: MapView<'_>) -> Vec<f32> {
    assert_eq!(x.data.len(), map.len(), "blocked map of {map:?}");
    let sums = plane_totals(map, &Operand::Input(x));
    let by_image = sums.as_flattened().chunks((map.blocks() * LANES).max(1));
    by_image
        .flat_map(|sums| sums[..map.channels].iter().map(|sum| (sum / map.area() as f64) as f32))
        .collect()
}

/// Numbers by channel in blocks, zero past the last channel.
#[must_use]
pub fn lanes(channels: impl Iterator<Item = f32>) -> Vec<Lanes> {
    let mut blocks: Vec<Lanes> = Vec::new();
    for (i, x) in channels.enumerate() {
        if i % LANES == 0 {
            blocks.push(Lanes::ZERO);
        }
        if let Some(last) = blocks.last_mut() {
            last.0[i % LANES] = x;
        }
    }
    blocks
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to the type of maps is intended")]
fn narrow(x: f64) -> f32 {
    x as f32
}

/// The sum of every plane, `[images, blocks, 16]`.
pub(super) fn plane_totals(map: &Map, source: &Operand<'_>) -> Vec<[f64; LANES]> {
    let (level, blocks, area) = (Level::best(), map.blocks(), map.area());
    let mut sums = vec![[0.0; LANES]; map.images * blocks];
    sums.par_iter_mut().with_min_len(min_planes(area)).enumerate().for_each(|(at, sums)| {
        level.run(Total {
            plane: source.plane(at / blocks, at % blocks, blocks, area),
            area,
            sums,
        });
    });
    sums
}

struct Total<'a, 'b> {
    plane: Plane<'a>,
    area: usize,
    sums: &'b mut [f64; LANES],
}

impl SimdKernel for Total<'_, '_> {
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for first in (0..self.area).step_by(RUN) {
            let mut sum = isa.splat(0.0);
            read(
                isa,
                &self.plane,
                first..(first + RUN).min(self.area),
                #[inline(always)]
                |_, value| sum = isa.add(sum, value),
            );
            widen(isa, sum, self.sums);
        }
    }
}

struct Moments<'a> {
    plane: &'a [Lanes],
    sums: &'a mut Sums,
}

impl SimdKernel for Moments<'_> {
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let pivot = isa.load(&self.plane[0]);
        for run in self.plane.chunks(RUN) {
            let (mut sum, mut squares) = ([isa.splat(0.0); 2], [isa.splat(0.0); 2]);
            for (i, x) in run.iter().enumerate() {
                let d = isa.sub(isa.load(x), pivot);
                sum[i % 2] = isa.add(sum[i % 2], d);
                squares[i % 2] = isa.fma(d, d, squares[i % 2]);
            }
            widen(isa, isa.add(sum[0], sum[1]), &mut self.sums[0]);
            widen(isa, isa.add(squares[0], squares[1]), &mut self.sums[1]);
        }
    }
}

struct GradientSums<'a> {
    dy: &'a [Lanes],
    z: &'a [Lanes],
    affine: Option<[Lanes; 2]>,
    clamp: Option<[f32; 2]>,
    center: &'a Lanes,
    sums: &'a mut Sums,
}

impl SimdKernel for GradientSums<'_> {
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let center = isa.load(self.center);
        let [factor, shift] =
            self.affine.unwrap_or([Lanes([1.0; LANES]), Lanes::ZERO]).map(|a| isa.load(&a));
        let bounds = self.clamp.map(|clamp| clamp.map(|c| isa.splat(c)));
        for (dy, z) in self.dy.chunks(RUN).zip(self.z.chunks(RUN)) {
            let (mut sum, mut weighted) = ([isa.splat(0.0); 2], [isa.splat(0.0); 2]);
            for (i, (dy, z)) in dy.iter().zip(z).enumerate() {
                let (mut dy, z) = (isa.load(dy), isa.load(z));
                if let Some([low, high]) = bounds {
                    dy = isa.inside(isa.fma(z, factor, shift), low, high, dy);
                }
                sum[i % 2] = isa.add(sum[i % 2], dy);
                weighted[i % 2] = isa.fma(dy, isa.sub(z, center), weighted[i % 2]);
            }
            widen(isa, isa.add(sum[0], sum[1]), &mut self.sums[0]);
            widen(isa, isa.add(weighted[0], weighted[1]), &mut self.sums[1]);
        }
    }
}

/// Adds sixteen lanes to sums in double precision.
#[inline(always)]
fn widen<I: Isa>(isa: I, x: I::V, to: &mut [f64; LANES]) {
    let mut stored = Lanes::ZERO;
    isa.store(&mut stored, x);
    for (to, x) in to.iter_mut().zip(stored.0) {
        *to += f64::from(x);
    }
}
