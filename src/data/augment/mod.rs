//! Augmentation with explicit parameters: a [`View`] records what happens to one sample; [`render`]
//! and [`mix`] apply it, in uint8.
//!
//! [`draw`] gives the views of training without a cache, [`Views`] those of a cache. Both are pure
//! functions of (seed, sample, view).

mod jitter;
mod mixing;
mod parameter;
mod views;

pub use super::geometry::Crop;
pub use jitter::Jitter;
pub use mixing::{Mix, mix};
pub use parameter::Parameter;
pub use views::{ViewKey, Views};

use super::{Image, geometry, preprocess, random};
use crate::data::augmentation::Augment;
use crate::data::preprocessing::{Channels, Preprocess};
use crate::error::Result;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

/// What happens to a sample: crop, then flip, then color jitter, then mixing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct View {
    /// The visible part; `None` means all of it.
    pub crop: Option<Crop>,
    /// Whether the image is flipped left to right.
    pub flip: bool,
    /// How its colors move.
    pub jitter: Option<Jitter>,
    /// What it is mixed with.
    pub mix: Option<Mix>,
}

/// Words of the random stream that one sample may use: one ChaCha block.
const WORDS: u128 = 16;

/// The view of training without a cache, where every epoch is a new view; a pure function of its
/// arguments. `image` is the decoded height and width, in pixels.
///
/// Crops shift by up to an eighth of each side; flips have probability one half.
#[must_use]
pub fn draw(
    augment: Augment,
    preprocess: &Preprocess,
    image: [usize; 2],
    seed: u64,
    sample: u64,
    view: u64,
) -> View {
    let mut rng = random::generator(seed, *b"augment\0");
    rng.set_stream(view);
    rng.set_word_pos(u128::from(sample) * WORDS);
    let pads = preprocess.size.map(padding);
    // in a fixed order, so that each parameter has its own word whatever the augmentation is
    let [top, left] = pads.map(|pad| signed(random::below(&mut rng, 2 * pad + 1)) - signed(pad));
    let flip = toss(&mut rng);
    let crop = match augment {
        Augment::None => return View::default(),
        Augment::Flip => None,
        Augment::CropFlip => Some(shifted(preprocess.size, top, left)),
        Augment::RandomResizedCrop => Some(views::random_resized_crop(
            &mut random::keyed(seed, *b"resized\0", sample, view),
            image,
        )),
    };
    View { crop, flip, ..View::default() }
}

/// The largest shift of a crop along a side, in pixels: an eighth of it, at most 4096 (the longest
/// side is 32,768).
fn padding(side: usize) -> u32 {
    u32::try_from(side / 8).map_or(4096, |pad| pad.min(4096))
}

/// A crop with the size of a preprocessed image.
fn shifted([height, width]: [usize; 2], top: i32, left: i32) -> Crop {
    let side = |side: usize| i32::try_from(side).unwrap_or(i32::MAX);
    Crop { top, left, height: side(height), width: side(width) }
}

fn signed(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// True with probability one half.
fn toss(rng: &mut ChaCha8Rng) -> bool {
    rng.next_u32() >> 31 == 1
}

/// The model's input for a view of an image, before mixing: the bytes that are stored and fed, in
/// the model's layout. Where a crop extends beyond the image it is filled with the mean color (the
/// byte nearest `mean/scale`).
///
/// # Shapes
/// The result is `[C, H, W]`, or `[H, W, C]` for [`Layout::Nhwc`](crate::array::Layout::Nhwc).
///
/// # Errors
/// If the image cannot be resized, or the crop is not inside it.
pub fn render(
    augment: Augment,
    preprocess: &Preprocess,
    image: &Image,
    view: &View,
) -> Result<Vec<u8>> {
    let image = preprocess::turned(preprocess, image);
    let colored = geometry::with_channels(&image, preprocess.channels.count());
    let mut seen = match view.crop {
        Some(crop) if augment == Augment::RandomResizedCrop => geometry::resize(
            &geometry::crop(&colored, crop)?,
            preprocess.size,
            preprocess.interpolation,
        )?
        .into_owned(),
        Some(crop) => geometry::shift(
            &*preprocess::fit(preprocess, &colored)?,
            crop.top,
            crop.left,
            &fill(preprocess),
        ),
        None => preprocess::fit(preprocess, &colored)?.into_owned(),
    };
    if view.flip {
        geometry::mirror(&mut seen);
    }
    if let Some(jitter) = &view.jitter {
        jitter.apply(&mut seen);
    }
    Ok(preprocess::lay_out(preprocess, seen))
}

/// The mean color as bytes, gray or RGB.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=255 before; NaN becomes 0"
)]
fn fill(preprocess: &Preprocess) -> Vec<u8> {
    let mut fill: Vec<u8> = preprocess
        .mean
        .iter()
        .map(|mean| (mean / preprocess.scale).round().clamp(0.0, 255.0) as u8)
        .collect();
    if preprocess.channels == Channels::Bgr {
        fill.reverse();
    }
    fill
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Dtype;
    use crate::array::Layout;
    use crate::data::preprocessing::Interpolation;

    pub(super) fn preprocess(layout: Layout, size: [usize; 2]) -> Preprocess {
        Preprocess {
            size,
            resize: None,
            interpolation: Interpolation::Bilinear,
            channels: Channels::Rgb,
            layout,
            dtype: Dtype::F32,
            scale: 1.0 / 255.0,
            mean: vec![0.4914, 0.4822, 0.4465],
            std: vec![0.25; 3],
            exif_orientation: false,
        }
    }

    #[test]
    fn parameters_depend_on_seed_sample_and_view_alone() {
        let p = preprocess(Layout::Nchw, [32, 32]);
        let draw = |seed, sample, view| draw(Augment::CropFlip, &p, [32, 32], seed, sample, view);
        assert_eq!(draw(1, 2, 3), draw(1, 2, 3));
        let drawn: Vec<View> = (0..4000).map(|sample| draw(0, sample, 0)).collect();
        for (view, other) in [(draw(0, 0, 1), 0), (draw(1, 0, 0), 0)] {
            // one in 162 coincides; these do not
            assert_ne!(view, drawn[other]);
        }
        let crops: Vec<Crop> = drawn.iter().map(|v| v.crop.unwrap()).collect();
        assert!(crops.iter().all(|c| (-4..=4).contains(&c.top)
            && (-4..=4).contains(&c.left)
            && (c.height, c.width) == (32, 32)));
        let share = |count: usize| f64::from(u32::try_from(count).unwrap()) / 4000.0;
        assert!((share(drawn.iter().filter(|v| v.flip).count()) - 0.5).abs() < 0.03);
        for offset in -4..=4 {
            assert!(
                (share(crops.iter().filter(|c| c.top == offset).count()) - 1.0 / 9.0).abs() < 0.02
            );
            assert!(
                (share(crops.iter().filter(|c| c.left == offset).count()) - 1.0 / 9.0).abs() < 0.02
            );
        }
        assert_eq!([draw(0, 0, 0), draw(7, 123_456_789, 5)], [golden(-1, 1), golden(3, 3)]);
        assert_eq!(super::draw(Augment::None, &p, [9, 9], 7, 1, 1), View::default());
        assert_eq!(super::draw(Augment::Flip, &p, [9, 9], 7, 123_456_789, 5), View::default());
    }

    fn golden(top: i32, left: i32) -> View {
        View { crop: Some(Crop { top, left, height: 32, width: 32 }), ..View::default() }
    }

    #[test]
    fn a_crop_takes_the_mean_colour_from_outside_and_is_then_mirrored() {
        // planes of [2, 3]: 0 to 5, 6 to 11, 12 to 17; the mean color is 125, 123, 114
        let image = Image {
            height: 2,
            width: 3,
            channels: 3,
            pixels: (0..18).map(|i| i % 3 * 6 + i / 3).collect(),
            orientation: 1,
        };
        let view = View {
            crop: Some(Crop { top: -1, left: 1, height: 2, width: 3 }),
            flip: true,
            ..View::default()
        };
        let out =
            render(Augment::CropFlip, &preprocess(Layout::Nchw, [2, 3]), &image, &view).unwrap();
        // without the flip: 125 125 125 / 1 2 125
        assert_eq!(out[..6], [125, 125, 125, 125, 2, 1]);
        assert_eq!(out[6..12], [123, 123, 123, 123, 8, 7]);
        assert_eq!(out[12..], [114, 114, 114, 114, 14, 13]);
        // the other layout gives the same pixels, and so does the reversed channel order with its
        // mean
        let other =
            render(Augment::CropFlip, &preprocess(Layout::Nhwc, [2, 3]), &image, &view).unwrap();
        assert_eq!(other, (0..18).map(|i| out[(i % 3) * 6 + i / 3]).collect::<Vec<u8>>());
        let mut bgr = preprocess(Layout::Nchw, [2, 3]);
        bgr.channels = Channels::Bgr;
        bgr.mean.reverse();
        let turned = render(Augment::CropFlip, &bgr, &image, &view).unwrap();
        assert_eq!(turned, [&out[12..], &out[6..12], &out[..6]].concat());
        let whole =
            render(Augment::None, &preprocess(Layout::Nchw, [2, 3]), &image, &View::default())
                .unwrap();
        assert_eq!(whole, (0..18).collect::<Vec<u8>>());
    }
}
