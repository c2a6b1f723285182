//! Two samples in one: blended (mixup) or pasted (`CutMix`), in uint8.

use super::super::random;
use super::{Crop, signed};
use crate::array::Layout;
use crate::data::preprocessing::Preprocess;
use crate::error::{Error, Result};
use rand_chacha::ChaCha8Rng;

/// What a sample is mixed with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mix {
    /// The row of the other sample.
    pub partner: usize,
    /// The sample's own weight in the target, 0 to 1; without a box, also in every pixel.
    pub weight: f32,
    /// The box of the input that shows the other sample.
    pub cut: Option<Crop>,
}

impl Mix {
    /// The sample itself has weight `weight` in every pixel.
    #[allow(clippy::cast_possible_truncation, reason = "stored as f32, and used as it is stored")]
    pub(super) fn blend(partner: usize, weight: f64) -> Self {
        Self { partner, weight: weight as f32, cut: None }
    }
}

/// `CutMix`'s box, as torchvision's `v2.CutMix` draws it: centered anywhere, each side √(1−λ)
/// times the input's, clipped at the edges. The weight is the fraction of the area left.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "sides of images, and a share that is stored as f32"
)]
pub(super) fn cut(partner: usize, lambda: f64, size: [usize; 2], rng: &mut ChaCha8Rng) -> Mix {
    let reach = 0.5 * (1.0 - lambda).sqrt();
    let mut span = |side: usize| {
        let side = u32::try_from(side).unwrap_or(u32::MAX / 2);
        let (center, half) = (random::below(rng, side), (reach * f64::from(side)) as u32);
        let (first, end) = (center.saturating_sub(half), (center + half).min(side));
        (signed(first), signed(end - first))
    };
    let (left, width) = span(size[1]);
    let (top, height) = span(size[0]);
    let share = f64::from(height) * f64::from(width) / (size[0] * size[1]).max(1) as f64;
    Mix { partner, weight: (1.0 - share) as f32, cut: Some(Crop { top, left, height, width }) }
}

/// Mixes another sample's input into a sample's own, both rendered by
/// [`render`](super::render): the other's bytes inside the box, or `λ·own + (1−λ)·other`
/// everywhere, to the nearest byte (a half rounds up).
///
/// # Errors
/// If either length differs from the preprocessed input's.
/// When the two have other lengths than the preprocessing's input.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a mean of two bytes is one"
)]
pub fn mix(preprocess: &Preprocess, own: &mut [u8], other: &[u8], mix: &Mix) -> Result<()> {
    let expected: usize = preprocess.input_shape().iter().product();
    if own.len() != expected || other.len() != expected {
        return Err(Error::input(format!(
            "mixing: expected inputs of {expected} bytes, found {} and {}",
            own.len(),
            other.len()
        )));
    }
    let weight = f64::from(mix.weight);
    let Some(cut) = mix.cut else {
        for (own, &other) in own.iter_mut().zip(other) {
            *own =
                (weight * f64::from(*own) + (1.0 - weight) * f64::from(other) + 0.5).floor() as u8;
        }
        return Ok(());
    };
    let [height, width] = preprocess.size;
    let channels = preprocess.channels.count();
    let side = |first: i32, length: i32, all: usize| {
        let first = usize::try_from(first).unwrap_or_default().min(all);
        first..first.saturating_add(usize::try_from(length).unwrap_or_default()).min(all)
    };
    let (rows, columns) = (side(cut.top, cut.height, height), side(cut.left, cut.width, width));
    // bytes between neighboring pixels, and the number of planes
    let (step, planes) = match preprocess.layout {
        Layout::Nchw => (1, channels),
        Layout::Nhwc => (channels, 1),
    };
    for plane in 0..planes {
        for row in rows.clone() {
            let start = (plane * height + row) * width * step;
            let span = start + columns.start * step..start + columns.end * step;
            own[span.clone()].copy_from_slice(&other[span]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::preprocess;
    use super::*;

    #[test]
    fn a_blend_rounds_and_a_box_replaces() {
        let p = preprocess(Layout::Nchw, [2, 3]);
        let (own, other): (Vec<u8>, Vec<u8>) = ((0..18).collect(), (100..118).collect());
        let mut blended = own.clone();
        mix(&p, &mut blended, &other, &Mix { partner: 0, weight: 0.75, cut: None }).unwrap();
        assert_eq!(blended, (25..43).collect::<Vec<u8>>());
        let mut half = own.clone();
        mix(&p, &mut half, &[1; 18], &Mix { partner: 0, weight: 0.5, cut: None }).unwrap();
        assert_eq!(half[..4], [1, 1, 2, 2]);
        let cut = Mix {
            partner: 0,
            weight: 0.5,
            cut: Some(Crop { top: 1, left: 1, height: 1, width: 2 }),
        };
        let mut pasted = own.clone();
        mix(&p, &mut pasted, &other, &cut).unwrap();
        let expected: Vec<u8> =
            (0..18).map(|i| if matches!(i % 6, 4 | 5) { i + 100 } else { i }).collect();
        assert_eq!(pasted, expected);
        // the same pixels in the other layout
        let turn = |bytes: &[u8]| (0..18).map(|i| bytes[(i % 3) * 6 + i / 3]).collect::<Vec<u8>>();
        let mut last = turn(&own);
        mix(&preprocess(Layout::Nhwc, [2, 3]), &mut last, &turn(&other), &cut).unwrap();
        assert_eq!(last, turn(&expected));
        // a box from a damaged file does no harm
        let wild = Crop { top: i32::MAX, left: -5, height: i32::MAX, width: -1 };
        mix(&p, &mut pasted, &other, &Mix { cut: Some(wild), ..cut }).unwrap();
        assert_eq!(pasted, expected);
        assert!(mix(&p, &mut pasted, &other[1..], &cut).is_err());
    }

    #[test]
    fn the_weight_of_a_box_is_the_area_that_is_left() {
        let mut rng = random::generator(5, *b"test\0\0\0\0");
        for draw in 0..2000u32 {
            let lambda = f64::from(draw) / 2000.0;
            let mixed = cut(3, lambda, [20, 30], &mut rng);
            let Crop { top, left, height, width } = mixed.cut.unwrap();
            assert!(
                top >= 0
                    && left >= 0
                    && height >= 0
                    && width >= 0
                    && top + height <= 20
                    && left + width <= 30
            );
            #[allow(clippy::cast_precision_loss, reason = "600 pixels")]
            let left_over = 1.0 - (height * width) as f32 / 600.0;
            assert!((mixed.weight - left_over).abs() < 1e-6);
            assert!(
                f64::from(mixed.weight) >= lambda - 1e-6,
                "a box is never larger than asked for"
            );
        }
    }
}
