//! Augmentation as explicit parameters: drawn from a counter-based generator keyed by (seed, sample, view), then applied.

use super::random;
use crate::recipe::{Augment, Layout, Preprocess};
use rand_chacha::rand_core::Rng;

/// Where a view lies on its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct View {
    /// Row offset of the crop, in pixels, negative into the padding.
    pub top: i32,
    /// Column offset of the crop.
    pub left: i32,
    /// Whether it is mirrored left to right (after the crop).
    pub flip: bool,
}

/// Words of the generator's stream that a sample may use: one block of ChaCha.
const WORDS: u128 = 16;

/// The parameters of one view: a pure function of its arguments.
///
/// Crops shift by up to an eighth of each side, flips have probability one half.
#[must_use]
pub fn draw(augment: Augment, preprocess: &Preprocess, seed: u64, sample: u64, view: u64) -> View {
    let mut rng = random::generator(seed, *b"augment\0");
    rng.set_stream(view);
    rng.set_word_pos(u128::from(sample) * WORDS);
    let mut shift = |side: usize| {
        let pad = i32::try_from(side / 8).unwrap_or(i32::MAX / 4);
        let drawn = random::below(&mut rng, pad.unsigned_abs() * 2 + 1);
        i32::try_from(drawn).map_or(0, |drawn| drawn - pad)
    };
    // always drawn in this order, so that each parameter has its own word whatever the augmentation
    let (top, left) = (shift(preprocess.size[0]), shift(preprocess.size[1]));
    let flip = rng.next_u32() >> 31 == 1;
    match augment {
        Augment::None => View::default(),
        Augment::Flip => View { flip, ..View::default() },
        Augment::CropFlip => View { top, left, flip },
    }
}

/// Applies a view to one stored input, in its layout; what the crop takes from outside is filled with the mean colour (the byte nearest `mean/scale`).
///
/// # Shapes
/// `bytes` and the result: `[C, H, W]`, or `[H, W, C]` for [`Layout::Nhwc`].
#[must_use]
pub fn apply(view: View, preprocess: &Preprocess, bytes: &[u8]) -> Vec<u8> {
    if view == View::default() {
        return bytes.to_vec();
    }
    let [height, width] = preprocess.size;
    let channels = preprocess.channels.count();
    let fill = fill_bytes(preprocess);
    let row_of = |y: usize| shifted(y, view.top, height);
    let column_of = |x: usize| shifted(if view.flip { width - 1 - x } else { x }, view.left, width);
    let mut out = Vec::with_capacity(bytes.len());
    let mut push = |y: usize, x: usize, channel: usize| {
        let source = row_of(y).zip(column_of(x)).and_then(|(row, column)| {
            let index = match preprocess.layout {
                Layout::Nchw => (channel * height + row) * width + column,
                Layout::Nhwc => (row * width + column) * channels + channel,
            };
            bytes.get(index).copied()
        });
        out.push(source.unwrap_or_else(|| fill.get(channel).copied().unwrap_or(0)));
    };
    match preprocess.layout {
        Layout::Nchw => (0..channels).for_each(|c| (0..height).for_each(|y| (0..width).for_each(|x| push(y, x, c)))),
        Layout::Nhwc => (0..height).for_each(|y| (0..width).for_each(|x| (0..channels).for_each(|c| push(y, x, c)))),
    }
    out
}

/// A position moved by an offset, if it stays in `0..size`.
fn shifted(position: usize, offset: i32, size: usize) -> Option<usize> {
    position.checked_add_signed(isize::try_from(offset).ok()?).filter(|&p| p < size)
}

/// The mean colour as bytes.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=255 before; NaN becomes 0")]
fn fill_bytes(preprocess: &Preprocess) -> Vec<u8> {
    preprocess.mean.iter().map(|mean| (mean / preprocess.scale).round().clamp(0.0, 255.0) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Dtype;
    use crate::recipe::{Channels, Interpolation};

    fn preprocess(layout: Layout, size: [usize; 2]) -> Preprocess {
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
        }
    }

    #[test]
    fn parameters_depend_on_seed_sample_and_view_alone() {
        let p = preprocess(Layout::Nchw, [32, 32]);
        let draw = |seed, sample, view| draw(Augment::CropFlip, &p, seed, sample, view);
        assert_eq!(draw(1, 2, 3), draw(1, 2, 3));
        let drawn: Vec<View> = (0..4000).map(|sample| draw(0, sample, 0)).collect();
        for (view, other) in [(draw(0, 0, 1), 0), (draw(1, 0, 0), 0)] {
            // one in 162 coincides; these do not
            assert_ne!(view, drawn[other]);
        }
        assert!(drawn.iter().all(|v| (-4..=4).contains(&v.top) && (-4..=4).contains(&v.left)));
        let share = |count: usize| f64::from(u32::try_from(count).unwrap()) / 4000.0;
        assert!((share(drawn.iter().filter(|v| v.flip).count()) - 0.5).abs() < 0.03);
        for offset in -4..=4 {
            assert!((share(drawn.iter().filter(|v| v.top == offset).count()) - 1.0 / 9.0).abs() < 0.02);
            assert!((share(drawn.iter().filter(|v| v.left == offset).count()) - 1.0 / 9.0).abs() < 0.02);
        }
        assert_eq!([draw(0, 0, 0), draw(7, 123_456_789, 5)], GOLDEN_VIEWS);
        assert_eq!(super::draw(Augment::None, &p, 7, 1, 1), View::default());
        let flip = super::draw(Augment::Flip, &p, 7, 123_456_789, 5);
        assert_eq!(flip, View { flip: GOLDEN_VIEWS[1].flip, ..View::default() });
    }
    const GOLDEN_VIEWS: [View; 2] = [View { top: -1, left: 1, flip: false }, View { top: 3, left: 3, flip: false }];

    #[test]
    fn a_crop_takes_the_mean_colour_from_outside_and_is_then_mirrored() {
        let p = preprocess(Layout::Nchw, [2, 3]);
        // three planes [2, 3]; the mean colour is 125, 123, 114
        let bytes: Vec<u8> = (0..18).collect();
        let view = View { top: -1, left: 1, flip: true };
        let out = apply(view, &p, &bytes);
        // without the flip: 125 125 125 / 1 2 125
        assert_eq!(out[..6], [125, 125, 125, 125, 2, 1]);
        assert_eq!(out[6..12], [123, 123, 123, 123, 8, 7]);
        assert_eq!(out[12..], [114, 114, 114, 114, 14, 13]);
        // the other layout gives the same pixels
        let nhwc: Vec<u8> = (0..18).map(|i| bytes[(i % 3) * 6 + i / 3]).collect();
        let other = apply(view, &preprocess(Layout::Nhwc, [2, 3]), &nhwc);
        assert_eq!(other, (0..18).map(|i| out[(i % 3) * 6 + i / 3]).collect::<Vec<u8>>());
        assert_eq!(apply(View::default(), &p, &bytes), bytes);
    }
}
