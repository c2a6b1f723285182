//! Maximum and average pooling of blocked maps.

use super::elementwise::{min_planes, read};
use super::pack::{Operand, Plane};
use super::simd::{Isa, Level, SimdKernel};
use super::{LANES, Lanes, Map, MapView};
use crate::kernel::pool::PoolWindow;
use rayon::prelude::*;

/// The tap of a window that held the maximum, by lane.
pub type Places = [u8; LANES];

/// Whether [`maximum`] supports this window: the numbers of its taps must fit a byte.
#[must_use]
pub fn takes(w: &PoolWindow) -> bool {
    w.kernel[0].checked_mul(w.kernel[1]).is_some_and(|taps| taps <= 256)
}

/// The maxima of a view, and which tap of the window each comes from (the first of equal ones).
///
/// # Shapes
/// `x`: `[images, channels, height, width]`, blocked, `map` its sizes; `to`, `places`:
/// `[images, channels, output height, output width]`.
///
/// # Panics
/// When a slice has another length than its shape.
pub fn maximum(map: &Map, w: &PoolWindow, x: MapView<'_>, to: &mut [Lanes], places: &mut [Places]) {
    let (area_in, area_out) = areas(w);
    assert_eq!(
        (x.data.len(), to.len(), places.len()),
        lengths(map, area_out),
        "maximum of {map:?}"
    );
    if to.is_empty() {
        return;
    }
    let (level, source, blocks) = (Level::best(), Operand::Input(x), map.blocks());
    to.par_chunks_mut(area_out)
        .zip(places.par_chunks_mut(area_out))
        .with_min_len(min_planes(area_in))
        .enumerate()
        .for_each(|(at, (to, places))| {
            let plane = source.plane(at / blocks, at % blocks, blocks, area_in);
            level.run(Maximum { w, plane, to, places });
        });
}

/// The gradient of [`maximum`], which is overwritten.
///
/// # Shapes
/// As in [`maximum`]: `dy` as its `to`, `dx` as its `x`.
///
/// # Panics
/// When a slice has another length than its shape.
pub fn maximum_gradient(
    map: &Map,
    w: &PoolWindow,
    dy: &[Lanes],
    places: &[Places],
    dx: &mut [Lanes],
) {
    let (area_in, area_out) = areas(w);
    assert_eq!((dx.len(), dy.len(), places.len()), lengths(map, area_out), "maximum of {map:?}");
    if dx.is_empty() {
        return;
    }
    let planes = dx.par_chunks_mut(area_in).with_min_len(min_planes(area_in));
    planes.zip(dy.par_chunks(area_out).zip(places.par_chunks(area_out))).for_each(
        |(dx, (dy, places))| {
            dx.fill(Lanes::ZERO);
            each_output(w, |out, oh, ow| {
                for (lane, (&tap, &d)) in places[out].iter().zip(&dy[out].0).enumerate() {
                    let (kh, kw) = (usize::from(tap) / w.kernel[1], usize::from(tap) % w.kernel[1]);
                    // a window entirely inside the padding has no maximum
                    if let (Some(h), Some(c)) = (position(w, 0, oh, kh), position(w, 1, ow, kw)) {
                        dx[h * w.input[1] + c].0[lane] += d;
                    }
                }
            });
        },
    );
}

/// The averages of a view.
///
/// # Shapes
/// As in [`maximum`].
///
/// # Panics
/// When a slice has another length than its shape.
pub fn average(map: &Map, w: &PoolWindow, x: MapView<'_>, to: &mut [Lanes]) {
    let (area_in, area_out) = areas(w);
    assert_eq!((x.data.len(), to.len(), to.len()), lengths(map, area_out), "average of {map:?}");
    if to.is_empty() {
        return;
    }
    let (level, source, blocks) = (Level::best(), Operand::Input(x), map.blocks());
    to.par_chunks_mut(area_out).with_min_len(min_planes(area_in)).enumerate().for_each(
        |(at, to)| {
            level.run(Average {
                w,
                plane: source.plane(at / blocks, at % blocks, blocks, area_in),
                to,
            });
        },
    );
}

/// The gradient of [`average`], which is overwritten.
///
/// # Shapes
/// As in [`maximum_gradient`].
///
/// # Panics
/// When a slice has another length than its shape.
pub fn average_gradient(map: &Map, w: &PoolWindow, dy: &[Lanes], dx: &mut [Lanes]) {
    let (area_in, area_out) = areas(w);
    assert_eq!((dx.len(), dy.len(), dy.len()), lengths(map, area_out), "average of {map:?}");
    if dx.is_empty() {
        return;
    }
    dx.par_chunks_mut(area_in)
        .with_min_len(min_planes(area_in))
        .zip(dy.par_chunks(area_out))
        .for_each(|(dx, dy)| {
            dx.fill(Lanes::ZERO);
            each_output(w, |out, oh, ow| {
                let share = share(w, oh, ow);
                each_tap(w, oh, ow, |_, at| {
                    for (x, d) in dx[at].0.iter_mut().zip(&dy[out].0) {
                        *x += share * d;
                    }
                });
            });
        });
}

fn areas(w: &PoolWindow) -> (usize, usize) {
    (w.input[0] * w.input[1], w.output[0] * w.output[1])
}

fn lengths(map: &Map, area_out: usize) -> (usize, usize, usize) {
    let out = map.images * map.blocks() * area_out;
    (map.len(), out, out)
}

fn position(w: &PoolWindow, axis: usize, out: usize, tap: usize) -> Option<usize> {
    (out * w.stride[axis] + tap * w.dilation[axis])
        .checked_sub(w.before[axis])
        .filter(|&i| i < w.input[axis])
}

#[inline(always)]
fn each_output(w: &PoolWindow, mut f: impl FnMut(usize, usize, usize)) {
    for oh in 0..w.output[0] {
        for ow in 0..w.output[1] {
            f(oh * w.output[1] + ow, oh, ow);
        }
    }
}

/// Calls `f(tap, pixel)` for the pixels that a window covers.
#[inline(always)]
fn each_tap(w: &PoolWindow, oh: usize, ow: usize, mut f: impl FnMut(usize, usize)) {
    for kh in 0..w.kernel[0] {
        let Some(h) = position(w, 0, oh, kh) else { continue };
        for kw in 0..w.kernel[1] {
            if let Some(c) = position(w, 1, ow, kw) {
                f(kh * w.kernel[1] + kw, h * w.input[1] + c);
            }
        }
    }
}

/// The factor of a window's sum in its average.
#[allow(clippy::cast_precision_loss, reason = "a count of taps")]
fn share(w: &PoolWindow, oh: usize, ow: usize) -> f32 {
    1.0 / (w.span(0, oh) * w.span(1, ow)) as f32
}

/// The values of a plane: views are evaluated once.
#[inline(always)]
fn written<'a, I: Isa>(
    isa: I,
    plane: &Plane<'a>,
    area: usize,
    room: &'a mut Vec<Lanes>,
) -> &'a [Lanes] {
    if let Plane::Plain(x) = *plane {
        return x;
    }
    room.resize(area, Lanes::ZERO);
    read(
        isa,
        plane,
        0..area,
        #[inline(always)]
        |i, value| isa.store(&mut room[i], value),
    );
    room
}

struct Maximum<'a, 'b> {
    w: &'b PoolWindow,
    plane: Plane<'a>,
    to: &'b mut [Lanes],
    places: &'b mut [Places],
}

impl SimdKernel for Maximum<'_, '_> {
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { w, plane, to, places } = self;
        let mut room = Vec::new();
        let x = written(isa, &plane, w.input[0] * w.input[1], &mut room);
        for oh in 0..w.output[0] {
            for ow in 0..w.output[1] {
                let (mut best, mut place) = ([f32::NEG_INFINITY; LANES], [f32::NAN; LANES]);
                each_tap(
                    w,
                    oh,
                    ow,
                    #[inline(always)]
                    |tap, at| {
                        let tap = small(tap);
                        for lane in 0..LANES {
                            let v = x[at].0[lane];
                            // the first tap counts until a larger value follows, NaN included
                            let better = v > best[lane] || place[lane].is_nan();
                            best[lane] = if better { v } else { best[lane] };
                            place[lane] = if better { tap } else { place[lane] };
                        }
                    },
                );
                let out = oh * w.output[1] + ow;
                to[out] = Lanes(best);
                places[out] = place.map(byte);
            }
        }
    }
}

/// A tap's number as a float and back: small integers are exact.
#[inline(always)]
#[allow(clippy::cast_precision_loss, reason = "at most 255")]
fn small(tap: usize) -> f32 {
    tap as f32
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an integer below 256")]
fn byte(place: f32) -> u8 {
    place as u8
}

struct Average<'a, 'b> {
    w: &'b PoolWindow,
    plane: Plane<'a>,
    to: &'b mut [Lanes],
}

impl SimdKernel for Average<'_, '_> {
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { w, plane, to } = self;
        let mut room = Vec::new();
        let x = written(isa, &plane, w.input[0] * w.input[1], &mut room);
        for oh in 0..w.output[0] {
            for ow in 0..w.output[1] {
                let mut sum = isa.splat(0.0);
                each_tap(
                    w,
                    oh,
                    ow,
                    #[inline(always)]
                    |_, at| sum = isa.add(sum, isa.load(&x[at])),
                );
                isa.store(
                    &mut to[oh * w.output[1] + ow],
                    isa.mul(sum, isa.splat(share(w, oh, ow))),
                );
            }
        }
    }
}
