//! Augmentation as explicit parameters: a [`View`] says what is done to one sample, [`render`] and
//! [`mix`] do it, in uint8.
//!
//! [`draw`] gives the views of a training run without a cache, [`Views`] those of a cache; both are
//! pure functions of (seed, sample, view).

mod jitter;
mod mixing;
mod parameter;
mod views;

pub use super::geometry::Crop;
pub use jitter::Jitter;
pub use mixing::{Mix, mix};
pub use parameter::Parameter;
pub use views::{Place, Views};

use super::{Image, geometry, preprocess, random};
use crate::data::augmentation::Augment;
use crate::data::preprocessing::{Channels, Preprocess};
use crate::error::Result;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

/// What is done to a sample: crop, then mirror, then colours, then mixing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct View {
    /// The part that is seen; `None`: all of it.
    pub crop: Option<Crop>,
    /// Whether it is mirrored left to right.
    pub flip: bool,
    /// How its colours move.
    pub jitter: Option<Jitter>,
    /// What it is mixed with.
    pub mix: Option<Mix>,
}

/// Words of the generator's stream that a sample may use: one block of ChaCha.
const WORDS: u128 = 16;

/// The view of a training run without a cache, where every epoch is another view: a pure function
/// of its arguments. `image` is height and width as decoded.
///
/// Crops shift by up to an eighth of each side, flips have probability one half.
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
    // always drawn in this order, so that each parameter has its own word whatever the augmentation
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

/// By how many pixels a crop of a side may shift, at most: an eighth of it, and of no image (the
/// longest side is 32,768) more than 4096.
fn padding(side: usize) -> u32 {
    u32::try_from(side / 8).map_or(4096, |pad| pad.min(4096))
}

/// A crop of a preprocessed image's own size.
fn shifted([height, width]: [usize; 2], top: i32, left: i32) -> Crop {
    let side = |side: usize| i32::try_from(side).unwrap_or(i32::MAX);
    Crop { top, left, height: side(height), width: side(width) }
}

fn signed(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// True in half of all cases.
fn toss(rng: &mut ChaCha8Rng) -> bool {
    rng.next_u32() >> 31 == 1
}

/// An image as a model's input in a view of it, mixing excepted: the bytes that are stored and fed,
/// in the model's layout. What a crop takes from outside is filled with the mean colour (the byte
/// nearest `mean/scale`).
///
/// # Shapes
/// The result: `[C, H, W]`, or `[H, W, C]` for [`Layout::Nhwc`](crate::array::Layout::Nhwc).
///
/// # Errors
/// When the image cannot be resized, or the crop is not inside it.
pub fn render(
    augment: Augment,
    preprocess: &Preprocess,
    image: &Image,
    view: &View,
) -> Result<Vec<u8>> {
    let image = preprocess::turned(preprocess, image);
    let coloured = geometry::with_channels(&image, preprocess.channels.count());
    let mut seen = match view.crop {
        Some(crop) if augment == Augment::RandomResizedCrop => geometry::resize(
            &geometry::crop(&coloured, crop)?,
            preprocess.size,
            preprocess.interpolation,
        )?
        .into_owned(),
        Some(crop) => geometry::shift(
            &*preprocess::fit(preprocess, &coloured)?,
            crop.top,
            crop.left,
            &fill(preprocess),
        ),
        None => preprocess::fit(preprocess, &coloured)?.into_owned(),
    };
    if view.flip {
        geometry::mirror(&mut seen);
    }
    if let Some(jitter) = &view.jitter {
        jitter.apply(&mut seen);
    }
    Ok(preprocess::lay_out(preprocess, seen))
}

/// The mean colour as bytes, grey or RGB.
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
        // planes of [2, 3]: 0 to 5, 6 to 11, 12 to 17; the mean colour is 125, 123, 114
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
        // the other layout gives the same pixels, and so does the other order of channels, turned
        // round with its mean
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
