//! Elementwise kernels on maps: views and gradients evaluated, and sums of views.

use super::pack::{Operand, Plane};
use super::simd::{Isa, Level, SimdKernel};
use super::{Gradient, LANES, Lanes, Map, MapView, Through};
use rayon::prelude::*;
use std::ops::Range;

/// Pixels that are read from one summand before the other.
const RUN: usize = 32;

/// Evaluates a view.
///
/// # Shapes
/// `x`, `to`: `[images, channels, height, width]`, blocked.
///
/// # Panics
/// When a slice has another length than its shape.
pub fn write(map: &Map, x: MapView<'_>, to: &mut [Lanes]) {
    assert_eq!(x.data.len(), map.len(), "blocked map of {map:?}");
    let source = Operand::Input(x);
    each_plane(map, to, |image, block, to| Write {
        plane: plane(&source, map, image, block),
        add: false,
        to,
    });
}

/// Evaluates a gradient, or adds it to the content of `to`.
///
/// # Shapes
/// `dz`, `to`: `[images, channels, height, width]`, blocked.
///
/// # Panics
/// When a slice has another length than its shape.
pub fn resolve(map: &Map, dz: Gradient<'_>, add: bool, to: &mut [Lanes]) {
    assert_eq!(dz.dy.len(), map.len(), "blocked map of {map:?}");
    let source = Operand::Gradient(dz);
    each_plane(map, to, |image, block, to| Write {
        plane: plane(&source, map, image, block),
        add,
        to,
    });
}

/// [`resolve`] in place: `dy` is overwritten by `dz`.
///
/// # Shapes
/// `dy` and the map of `through`: `[images, channels, height, width]`, blocked.
///
/// # Panics
/// When a slice has another length than its shape.
pub fn resolve_in_place(map: &Map, dy: &mut [Lanes], through: Through<'_>) {
    assert_eq!(through.z.len(), map.len(), "blocked map of {map:?}");
    let (area, blocks) = (map.area(), map.blocks());
    each_plane(map, dy, |image, block, dy| {
        let z = &through.z[(image * blocks + block) * area..][..area];
        InPlace {
            dy,
            z,
            affine: through.affine[block],
            clamp: through.clamp,
            terms: through.terms[block],
        }
    });
}

/// The sum of two views.
///
/// # Shapes
/// `a`, `b`, `to`: `[images, channels, height, width]`, blocked.
///
/// # Panics
/// When a slice has another length than its shape.
pub fn sum(map: &Map, a: MapView<'_>, b: MapView<'_>, to: &mut [Lanes]) {
    assert_eq!((a.data.len(), b.data.len()), (map.len(), map.len()), "blocked maps of {map:?}");
    let (a, b) = (Operand::Input(a), Operand::Input(b));
    each_plane(map, to, |image, block, to| Sum {
        a: plane(&a, map, image, block),
        b: plane(&b, map, image, block),
        to,
    });
}

fn plane<'a>(source: &Operand<'a>, map: &Map, image: usize, block: usize) -> Plane<'a> {
    source.plane(image, block, map.blocks(), map.area())
}

/// Runs a kernel for every plane of `to`.
fn each_plane<'b, W: SimdKernel>(
    map: &Map,
    to: &'b mut [Lanes],
    kernel: impl Fn(usize, usize, &'b mut [Lanes]) -> W + Sync,
) {
    assert_eq!(to.len(), map.len(), "blocked map of {map:?}");
    let (level, area, blocks) = (Level::best(), map.area(), map.blocks());
    if to.is_empty() {
        return;
    }
    to.par_chunks_mut(area)
        .with_min_len(min_planes(area))
        .enumerate()
        .for_each(|(at, to)| level.run(kernel(at / blocks, at % blocks, to)));
}

/// Planes per task, enough to outweigh the cost of a task.
pub(super) fn min_planes(area: usize) -> usize {
    (4096 / area.max(1)).max(1)
}

/// Calls `f(pixel, value)` for a run of a plane's pixels.
#[inline(always)]
pub(super) fn read<I: Isa>(
    isa: I,
    plane: &Plane<'_>,
    run: Range<usize>,
    mut f: impl FnMut(usize, I::V),
) {
    match *plane {
        Plane::Plain(x) => {
            for (i, x) in run.clone().zip(&x[run]) {
                f(i, isa.load(x));
            }
        }
        Plane::Affine { x, affine, clamp } => {
            let ([factor, shift], [low, high]) =
                (affine.map(|a| isa.load(&a)), clamp.map(|c| isa.splat(c)));
            for (i, x) in run.clone().zip(&x[run]) {
                f(i, isa.clamp(isa.fma(isa.load(x), factor, shift), low, high));
            }
        }
        Plane::Through { dy, z, affine, clamp, terms } => {
            let ([factor, shift], [low, high]) =
                (affine.map(|a| isa.load(&a)), clamp.map(|c| isa.splat(c)));
            let [scale, slope, offset] = terms.map(|t| isa.load(&t));
            for (i, (dy, z)) in run.clone().zip(dy[run.clone()].iter().zip(&z[run])) {
                let z = isa.load(z);
                let dy = isa.inside(isa.fma(z, factor, shift), low, high, isa.load(dy));
                f(i, isa.fma(scale, dy, isa.fma(slope, z, offset)));
            }
        }
    }
}

struct Write<'a, 'b> {
    plane: Plane<'a>,
    add: bool,
    to: &'b mut [Lanes],
}

impl SimdKernel for Write<'_, '_> {
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let all = 0..self.to.len();
        let to = self.to;
        if self.add {
            read(
                isa,
                &self.plane,
                all,
                #[inline(always)]
                |i, value| {
                    let sum = isa.add(isa.load(&to[i]), value);
                    isa.store(&mut to[i], sum);
                },
            );
        } else {
            read(
                isa,
                &self.plane,
                all,
                #[inline(always)]
                |i, value| isa.store(&mut to[i], value),
            );
        }
    }
}

struct InPlace<'a, 'b> {
    dy: &'b mut [Lanes],
    z: &'a [Lanes],
    affine: [Lanes; 2],
    clamp: Option<[f32; 2]>,
    terms: [Lanes; 3],
}

impl SimdKernel for InPlace<'_, '_> {
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let [factor, shift] = self.affine.map(|a| isa.load(&a));
        let [scale, slope, offset] = self.terms.map(|t| isa.load(&t));
        let [low, high] =
            self.clamp.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]).map(|c| isa.splat(c));
        for (to, z) in self.dy.iter_mut().zip(self.z) {
            let z = isa.load(z);
            let dy = isa.inside(isa.fma(z, factor, shift), low, high, isa.load(to));
            isa.store(to, isa.fma(scale, dy, isa.fma(slope, z, offset)));
        }
    }
}

struct Sum<'a, 'b> {
    a: Plane<'a>,
    b: Plane<'a>,
    to: &'b mut [Lanes],
}

impl SimdKernel for Sum<'_, '_> {
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut held = [Lanes::ZERO; RUN];
        for first in (0..self.to.len()).step_by(RUN) {
            let run = first..(first + RUN).min(self.to.len());
            read(
                isa,
                &self.a,
                run.clone(),
                #[inline(always)]
                |i, value| isa.store(&mut held[i - first], value),
            );
            let to = &mut *self.to;
            read(
                isa,
                &self.b,
                run,
                #[inline(always)]
                |i, value| isa.store(&mut to[i], isa.add(isa.load(&held[i - first]), value)),
            );
        }
    }
}

/// The gradient of [`super::sums::means`]: every pixel of a channel gets its share.
///
/// # Shapes
/// `dy`: `[images, channels]`; `to`: `[images, channels, height, width]`, blocked.
///
/// # Panics
/// When a slice has another length than its shape.
#[allow(clippy::cast_precision_loss, reason = "a count of pixels in memory")]
pub fn spread_mean(map: &Map, dy: &[f32], to: &mut [Lanes]) {
    assert_eq!(
        (dy.len(), to.len()),
        (map.images * map.channels, map.len()),
        "blocked map of {map:?}"
    );
    if to.is_empty() {
        return;
    }
    let (area, share) = (map.area(), 1.0 / map.area() as f32);
    to.par_chunks_mut(area).with_min_len(min_planes(area)).enumerate().for_each(|(at, to)| {
        let (image, block) = (at / map.blocks(), at % map.blocks());
        let own = &dy[image * map.channels..][..map.channels];
        let mut value = Lanes::ZERO;
        value.0.iter_mut().zip(&own[block * LANES..]).for_each(|(v, d)| *v = d * share);
        to.fill(value);
    });
}
