//! Convolutions as plain loops in double precision, for the tests.

#![allow(
    clippy::many_single_char_names,
    clippy::cast_precision_loss,
    reason = "the names of the mathematics; small numbers"
)]

use super::{Gradient, LANES, Lanes, Map, MapView};
use crate::kernel::conv::Conv;

/// The maps of a convolution.
pub(super) fn maps(c: &Conv) -> [Map; 2] {
    let map =
        |channels, [height, width]: [usize; 2]| Map { images: c.images, channels, height, width };
    [map(c.channels, c.input), map(c.filters, c.output)]
}

/// Numbers of about unit size.
pub(super) fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next() + next()).collect()
}

/// A blocked map of numbers, zero in the lanes past the last channel.
pub(super) fn blocked(m: &Map, seed: u64) -> Vec<Lanes> {
    to_blocked(m, &numbers(m.images * m.channels * m.area(), seed))
}

pub(super) fn to_blocked(m: &Map, plain: &[f32]) -> Vec<Lanes> {
    let mut data = vec![Lanes::ZERO; m.len()];
    for (plane, values) in plain.chunks(m.area().max(1)).enumerate() {
        let (image, channel) = (plane / m.channels, plane % m.channels);
        for (i, &x) in values.iter().enumerate() {
            data[(image * m.blocks() + channel / LANES) * m.area() + i].0[channel % LANES] = x;
        }
    }
    data
}

/// `[images, channels, height, width]` of a blocked map, each element computed from its place and
/// its channel.
fn plain(m: &Map, f: impl Fn(usize, usize, usize) -> f64) -> Vec<f64> {
    let mut out = Vec::new();
    for image in 0..m.images {
        for channel in 0..m.channels {
            for i in 0..m.area() {
                out.push(f(
                    (image * m.blocks() + channel / LANES) * m.area() + i,
                    channel / LANES,
                    channel % LANES,
                ));
            }
        }
    }
    out
}

pub(super) fn values(m: &Map, data: &[Lanes]) -> Vec<f64> {
    plain(m, |at, _, lane| f64::from(data[at].0[lane]))
}

/// The values of a view.
pub(super) fn view(m: &Map, v: &MapView<'_>) -> Vec<f64> {
    plain(m, |at, block, lane| {
        let x = f64::from(v.data[at].0[lane]);
        let x = v.affine.map_or(x, |a| {
            f64::from(a[block][0].0[lane]).mul_add(x, f64::from(a[block][1].0[lane]))
        });
        v.clamp.map_or(x, |[low, high]| x.clamp(f64::from(low), f64::from(high)))
    })
}

/// The values of a gradient.
pub(super) fn gradient(m: &Map, g: &Gradient<'_>) -> Vec<f64> {
    plain(m, |at, block, lane| {
        let dy = f64::from(g.dy[at].0[lane]);
        let Some(t) = g.through else { return dy };
        let z = t.z[at].0[lane];
        let y = t.affine[block][0].0[lane].mul_add(z, t.affine[block][1].0[lane]);
        let inside = t.clamp.is_none_or(|[low, high]| low < y && y < high);
        let [scale, slope, offset] = t.terms[block].map(|t| f64::from(t.0[lane]));
        scale * if inside { dy } else { 0.0 } + slope * f64::from(z) + offset
    })
}

/// Calls `f(x index, weight index, y index)` for every product of the convolution.
fn each(c: &Conv, mut f: impl FnMut(usize, usize, usize)) {
    let (channels, filters) = (c.channels / c.groups, c.filters / c.groups);
    for n in 0..c.images {
        for o in 0..c.filters {
            for i in 0..channels {
                for kh in 0..c.kernel[0] {
                    for kw in 0..c.kernel[1] {
                        for oh in 0..c.output[0] {
                            for ow in 0..c.output[1] {
                                let (h, w) = (
                                    oh * c.stride[0] + kh * c.dilation[0],
                                    ow * c.stride[1] + kw * c.dilation[1],
                                );
                                let (Some(h), Some(w)) =
                                    (h.checked_sub(c.before[0]), w.checked_sub(c.before[1]))
                                else {
                                    continue;
                                };
                                if h >= c.input[0] || w >= c.input[1] {
                                    continue;
                                }
                                let channel = o / filters * channels + i;
                                let x =
                                    ((n * c.channels + channel) * c.input[0] + h) * c.input[1] + w;
                                let weight =
                                    ((o * channels + i) * c.kernel[0] + kh) * c.kernel[1] + kw;
                                f(
                                    x,
                                    weight,
                                    ((n * c.filters + o) * c.output[0] + oh) * c.output[1] + ow,
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Output, input gradient and weight gradient.
pub(super) fn convolution(
    c: &Conv,
    x: &[f64],
    weight: &[f32],
    bias: Option<&[f32]>,
    dz: &[f64],
) -> [Vec<f64>; 3] {
    let area = (c.output[0] * c.output[1]).max(1);
    let mut y: Vec<f64> =
        (0..dz.len()).map(|i| bias.map_or(0.0, |b| f64::from(b[i / area % c.filters]))).collect();
    let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
    each(c, |i, w, o| {
        y[o] += x[i] * f64::from(weight[w]);
        dx[i] += f64::from(weight[w]) * dz[o];
        dw[w] += x[i] * dz[o];
    });
    [y, dx, dw]
}

/// Root mean square of the error relative to that of the reference.
pub(super) fn error(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square: f64 = want.iter().map(|w| w * w).sum();
    let wrong: f64 = got.iter().zip(want).map(|(g, w)| (g - w) * (g - w)).sum();
    if wrong == 0.0 { 0.0 } else { (wrong / square).sqrt() }
}
