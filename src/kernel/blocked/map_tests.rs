//! Whole-map kernels against plain arithmetic in double precision.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "tests: small counts, rounding on purpose"
)]

use super::reference::{blocked, error, gradient, numbers, to_blocked, values, view};
use super::*;
use crate::kernel::pool::{
    PoolWindow, average_backward, average_forward, max_backward, max_forward,
};
use crate::kernel::window_count;

const MAPS: &[Map] = &[
    Map { images: 1, channels: 1, height: 1, width: 1 },
    Map { images: 3, channels: 5, height: 7, width: 3 },
    Map { images: 2, channels: 16, height: 8, width: 8 },
    Map { images: 5, channels: 40, height: 5, width: 11 },
    Map { images: 2, channels: 33, height: 40, width: 39 },
];

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

/// `[factor, shift]` by block, zero past the last channel.
fn affine(m: &Map, seed: u64) -> Vec<[Lanes; 2]> {
    let values = numbers(2 * m.channels, seed);
    let [factor, shift] = [0, 1]
        .map(|n| sums::lanes(values[n * m.channels..(n + 1) * m.channels].iter().map(|v| 0.5 + v)));
    factor.into_iter().zip(shift).map(|(a, b)| [a, b]).collect()
}

/// Every view of a map.
fn each_view(f: impl Fn(&Map, MapView<'_>, Vec<f64>)) {
    for (i, m) in MAPS.iter().enumerate() {
        let (data, affine) = (blocked(m, i as u64), affine(m, 90 + i as u64));
        for affine in [None, Some(&affine[..])] {
            for clamp in [None, Some([0.0, f32::INFINITY]), Some([0.0, 0.7])] {
                let v = MapView { data: &data, affine, clamp };
                f(m, v, view(m, &v));
            }
        }
    }
}

#[test]
fn plain_and_blocked_are_the_same_map() {
    each_view(|m, v, expected| {
        let mut plain = vec![f32::NAN; expected.len()];
        convert::to_plain(m, v, &mut plain);
        assert!(error(&wide(&plain), &expected) < 1e-7, "{m:?} {v:?}");
        let mut back = vec![Lanes([f32::NAN; LANES]); m.len()];
        convert::from_plain(m, &plain, &mut back);
        assert_eq!(back, to_blocked(m, &plain), "{m:?}");
        let mut written = back.clone();
        elementwise::write(m, v, &mut written);
        assert_eq!(values(m, &written), wide(&plain), "{m:?} {v:?}");
    });
}

#[test]
fn views_are_summed() {
    each_view(|m, v, expected| {
        let other = blocked(m, 7);
        let mut sum = vec![Lanes([f32::NAN; LANES]); m.len()];
        elementwise::sum(m, v, MapView::plain(&other), &mut sum);
        let expected: Vec<f64> =
            expected.iter().zip(values(m, &other)).map(|(a, b)| a + b).collect();
        assert!(error(&values(m, &sum), &expected) < 1e-6, "{m:?} {v:?}");
    });
}

#[test]
fn gradients_are_resolved() {
    for (i, m) in MAPS.iter().enumerate() {
        let seed = i as u64;
        let (dy, z, affine) = (blocked(m, seed), blocked(m, seed + 20), affine(m, seed + 40));
        let terms: Vec<[Lanes; 3]> = affine.iter().map(|&[a, b]| [b, a, b]).collect();
        for clamp in [None, Some([0.0, f32::INFINITY]), Some([0.0, 0.7])] {
            let through = Through { z: &z, affine: &affine, clamp, terms: &terms };
            let dz = Gradient { dy: &dy, through: Some(through) };
            let expected = gradient(m, &dz);
            let mut to = vec![Lanes([f32::NAN; LANES]); m.len()];
            elementwise::resolve(m, dz, false, &mut to);
            assert!(error(&values(m, &to), &expected) < 1e-6, "{m:?}");
            let mut own = dy.clone();
            elementwise::resolve_in_place(m, &mut own, through);
            assert_eq!(own, to, "{m:?}");
            elementwise::resolve(m, dz, true, &mut to);
            let twice: Vec<f64> = expected.iter().map(|e| 2.0 * e).collect();
            assert!(error(&values(m, &to), &twice) < 1e-6, "{m:?}");
        }
    }
}

#[test]
fn moments_are_those_of_each_channel() {
    for (i, m) in MAPS.iter().enumerate() {
        // a mean far from zero would cost a naive sum of squares its digits
        let plain: Vec<f32> = numbers(m.images * m.channels * m.area(), i as u64)
            .iter()
            .map(|x| 1000.0 + x)
            .collect();
        let found = sums::moments(m, &to_blocked(m, &plain));
        assert_eq!(found.len(), m.channels);
        for (c, (mean, variance)) in found.into_iter().enumerate() {
            let own: Vec<f64> = wide(&plain)
                .chunks(m.area())
                .enumerate()
                .filter(|(p, _)| p % m.channels == c)
                .flat_map(|(_, p)| p.to_vec())
                .collect();
            let n = own.len() as f64;
            let expected = own.iter().sum::<f64>() / n;
            let spread = own.iter().map(|x| (x - expected).powi(2)).sum::<f64>() / n;
            assert!((mean - expected).abs() < 1e-5, "{m:?} channel {c}: {mean} for {expected}");
            assert!(
                (variance - spread).abs() <= 1e-5 * spread,
                "{m:?} channel {c}: {variance} for {spread}"
            );
        }
    }
}

#[test]
fn gradient_sums_count_what_the_clamp_lets_through() {
    each_view(|m, v, _| {
        let dy = blocked(m, 3);
        let means: Vec<f64> = (0..m.channels).map(|c| 0.1 * c as f64 - 0.3).collect();
        let found = sums::gradient_sums(m, &dy, v, &means);
        let identity = vec![[Lanes([1.0; LANES]), Lanes::ZERO]; m.blocks()];
        let terms = vec![[Lanes([1.0; LANES]), Lanes::ZERO, Lanes::ZERO]; m.blocks()];
        let through = Through {
            z: v.data,
            affine: v.affine.unwrap_or(&identity),
            clamp: v.clamp,
            terms: &terms,
        };
        let masked = gradient(m, &Gradient { dy: &dy, through: Some(through) });
        let z = values(m, v.data);
        let (mut sum, mut weighted) = (vec![0.0; m.channels], vec![0.0; m.channels]);
        for (i, (d, z)) in masked.iter().zip(&z).enumerate() {
            let c = i / m.area() % m.channels;
            sum[c] += d;
            weighted[c] += d * (z - means[c]);
        }
        for c in 0..m.channels {
            let scale = (m.images * m.area()) as f64;
            assert!(
                (found[c].0 - sum[c]).abs() < 1e-6 * scale,
                "{m:?} {v:?}: {} for {}",
                found[c].0,
                sum[c]
            );
            assert!(
                (found[c].1 - weighted[c]).abs() < 4e-6 * scale,
                "{m:?} {v:?}: {} for {}",
                found[c].1,
                weighted[c]
            );
        }
    });
}

#[test]
fn means_and_their_gradient() {
    each_view(|m, v, expected| {
        let means: Vec<f64> =
            expected.chunks(m.area()).map(|p| p.iter().sum::<f64>() / m.area() as f64).collect();
        assert!(error(&wide(&sums::means(m, v)), &means) < 1e-6, "{m:?} {v:?}");
        let mut spread = vec![Lanes([f32::NAN; LANES]); m.len()];
        elementwise::spread_mean(m, &narrow(&means), &mut spread);
        let shares: Vec<f64> =
            means.iter().flat_map(|x| vec![x / m.area() as f64; m.area()]).collect();
        assert!(error(&values(m, &spread), &shares) < 1e-6, "{m:?}");
        assert_eq!(
            to_blocked(m, &narrow(&values(m, &spread))),
            spread,
            "lanes past the last of {m:?}"
        );
    });
}

#[test]
fn windows_are_pooled_as_plain_maps_are() {
    let windows = [
        ([3, 3], [2, 2], [1, 1], [1, 1], true),
        ([2, 3], [1, 2], [0, 1], [1, 0], false),
        ([2, 2], [2, 2], [0, 0], [0, 0], false),
    ];
    each_view(|m, v, _| {
        for (kernel, stride, before, after, ceil) in windows {
            let input = [m.height, m.width];
            let size = |a: usize| {
                window_count(input[a], kernel[a], stride[a], 1, [before[a], after[a]], ceil)
            };
            let (Some(h), Some(w)) = (size(0), size(1)) else { continue };
            let window = PoolWindow {
                input,
                output: [h, w],
                kernel,
                stride,
                dilation: [1, 1],
                before,
                after,
                count_padding: ceil,
            };
            let out = Map { height: h, width: w, ..*m };
            let mut plain = vec![0.0; m.images * m.channels * m.area()];
            convert::to_plain(m, v, &mut plain);
            let dy = numbers(out.images * out.channels * out.area(), 5);
            let (mut y, mut dx) = (
                vec![Lanes([f32::NAN; LANES]); out.len()],
                vec![Lanes([f32::NAN; LANES]); m.len()],
            );
            let mut places = vec![[0; LANES]; out.len()];

            let (expected, at) = max_forward(&plain, window);
            pool::maximum(m, &window, v, &mut y, &mut places);
            assert_eq!(y, to_blocked(&out, &expected), "{m:?} {window:?}");
            pool::maximum_gradient(m, &window, &to_blocked(&out, &dy), &places, &mut dx);
            let expected = max_backward(&dy, &at, window);
            assert!(error(&values(m, &dx), &wide(&expected)) < 1e-6, "{m:?} {window:?}");

            pool::average(m, &window, v, &mut y);
            assert!(
                error(&values(&out, &y), &wide(&average_forward(&plain, window))) < 1e-6,
                "{m:?} {window:?}"
            );
            pool::average_gradient(m, &window, &to_blocked(&out, &dy), &mut dx);
            assert!(
                error(&values(m, &dx), &wide(&average_backward(&dy, window))) < 1e-6,
                "{m:?} {window:?}"
            );
        }
    });
}
