//! Resizes 8-bit images with the same bits as Pillow, on whose results models are trained:
//! convolution with a filter that widens as the image shrinks, first along rows, then along
//! columns, each pass rounded to bytes, in 22-bit fixed point. (SIMD resizers such as
//! `fast_image_resize` differ by up to 5 levels at edges: they run the passes in the other order.)

use super::{Image, UPRIGHT};
use crate::data::preprocessing::Interpolation;
use std::borrow::Cow;

/// Fractional bits of a weight: 32 minus 8 for the byte and 2 for overshoot.
const FRACTION_BITS: u32 = 22;

/// A filter and the distance beyond which it is 0.
struct Filter {
    support: f64,
    weight: fn(f64) -> f64,
}

/// The input positions summed by one output position, and their weights.
struct FilterWindow {
    first: usize,
    weights: Vec<i32>,
}

/// Resizes an image to `[height, width]`, neither of them 0.
pub(super) fn resample(
    image: &Image,
    [height, width]: [usize; 2],
    interpolation: Interpolation,
) -> Image {
    let filter = match interpolation {
        Interpolation::Nearest => return nearest(image, [height, width]),
        Interpolation::Bilinear => Filter { support: 1.0, weight: triangle },
        Interpolation::Bicubic => Filter { support: 2.0, weight: cubic },
        Interpolation::Lanczos => Filter { support: 3.0, weight: lanczos },
    };
    let mut pixels = Cow::Borrowed(&image.pixels);
    if width != image.width {
        pixels = Cow::Owned(along_rows(
            &pixels,
            image.width,
            image.channels,
            &windows(&filter, image.width, width),
        ));
    }
    if height != image.height {
        pixels = Cow::Owned(along_columns(
            &pixels,
            width * image.channels,
            &windows(&filter, image.height, height),
        ));
    }
    Image {
        height,
        width,
        channels: image.channels,
        pixels: pixels.into_owned(),
        orientation: UPRIGHT,
    }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Keys' cubic with a = −1/2.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| {
        if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) }
    };
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

/// The window of each output position.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positions are far below 2^52; truncation and the stop of negative values at 0 are \
              part of the definition"
)]
fn windows(filter: &Filter, input: usize, output: usize) -> Vec<FilterWindow> {
    let scale = input as f64 / output as f64;
    let stretch = scale.max(1.0);
    let support = filter.support * stretch;
    let window = |position: usize| {
        let center = (position as f64 + 0.5) * scale;
        let first = (center - support + 0.5) as usize;
        let end = ((center + support + 0.5) as usize).min(input);
        let weights: Vec<f64> = (first..end)
            .map(|x| (filter.weight)((x as f64 - center + 0.5) * (1.0 / stretch)))
            .collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| {
            let scaled = weight / sum * f64::from(1 << FRACTION_BITS);
            (scaled + if scaled < 0.0 { -0.5 } else { 0.5 }) as i32
        };
        FilterWindow { first, weights: weights.iter().map(fixed).collect() }
    };
    (0..output).map(window).collect()
}

/// Rounds a fixed-point sum, which already includes one half, to a byte.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=255")]
fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

/// One half, in fixed point.
const HALF: i32 = 1 << (FRACTION_BITS - 1);

fn along_rows(pixels: &[u8], width: usize, channels: usize, windows: &[FilterWindow]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pixels.len() / width * windows.len());
    for row in pixels.chunks_exact(width * channels) {
        for window in windows {
            let inputs = &row[window.first * channels..];
            let mut sums = [HALF; 3];
            for (pixel, weight) in inputs.chunks_exact(channels).zip(&window.weights) {
                sums.iter_mut()
                    .zip(pixel)
                    .for_each(|(sum, &value)| *sum += i32::from(value) * weight);
            }
            out.extend(sums.iter().take(channels).map(|&sum| to_byte(sum)));
        }
    }
    out
}

/// `stride` is the bytes of a row.
fn along_columns(pixels: &[u8], stride: usize, windows: &[FilterWindow]) -> Vec<u8> {
    let mut out = Vec::with_capacity(stride * windows.len());
    let mut sums = vec![HALF; stride];
    for window in windows {
        sums.fill(HALF);
        for (row, weight) in
            pixels[window.first * stride..].chunks_exact(stride).zip(&window.weights)
        {
            sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += i32::from(value) * weight);
        }
        out.extend(sums.iter().map(|&sum| to_byte(sum)));
    }
    out
}

fn nearest(image: &Image, [height, width]: [usize; 2]) -> Image {
    let (rows, columns) =
        (nearest_positions(image.height, height), nearest_positions(image.width, width));
    let mut pixels = Vec::with_capacity(height * width * image.channels);
    for row in rows {
        for column in &columns {
            let start = (row * image.width + column) * image.channels;
            pixels.extend_from_slice(&image.pixels[start..start + image.channels]);
        }
    }
    Image { height, width, channels: image.channels, pixels, orientation: UPRIGHT }
}

/// The input position of each output position. The steps are summed as in Pillow, which decides
/// where a center falls between two positions.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positions are positive and far below 2^52"
)]
fn nearest_positions(input: usize, output: usize) -> Vec<usize> {
    let step = input as f64 / output as f64;
    let centers = std::iter::successors(Some(step * 0.5), |center| Some(center + step));
    centers.take(output).map(|center| (center as usize).min(input - 1)).collect()
}
