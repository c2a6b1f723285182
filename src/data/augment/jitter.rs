//! Color jitter with the same bits as torchvision's `ColorJitter` on Pillow images, in uint8.

use super::super::{Image, geometry::luma, random};
use crate::data::augmentation::ColorJitter;
use rand_chacha::ChaCha8Rng;

/// The four adjustments, in `ColorJitter`'s numbering.
const BRIGHTNESS: u8 = 0;
const CONTRAST: u8 = 1;
const SATURATION: u8 = 2;
const HUE: u8 = 3;

/// A view's color factors and the order in which they apply.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Jitter {
    /// Factors of brightness, contrast and saturation, and the hue shift as a fraction of the
    /// circle. Factors of 1 and a shift of 0 change nothing.
    pub factors: [f32; 4],
    /// Which adjustment is first, second, third and last.
    pub order: [u8; 4],
}

impl Jitter {
    /// No change.
    pub(super) const NONE: Self =
        Self { factors: [1.0, 1.0, 1.0, 0.0], order: [BRIGHTNESS, CONTRAST, SATURATION, HUE] };

    /// Draws each factor uniformly from its range, and an order.
    #[allow(clippy::cast_possible_truncation, reason = "stored as f32, and used as it is stored")]
    pub(super) fn draw(settings: &ColorJitter, rng: &mut ChaCha8Rng) -> Self {
        let mut factor =
            |range: f64| random::uniform(rng, (1.0 - range).max(0.0), 1.0 + range) as f32;
        let [brightness, contrast, saturation] =
            [settings.brightness, settings.contrast, settings.saturation].map(&mut factor);
        let hue = random::uniform(rng, -settings.hue, settings.hue) as f32;
        let mut order = [BRIGHTNESS, CONTRAST, SATURATION, HUE];
        for (place, left) in (0..3).zip([4, 3, 2]) {
            order.swap(place, place + random::below(rng, left) as usize);
        }
        Self { factors: [brightness, contrast, saturation, hue], order }
    }

    /// Adjusts an image's colors; a gray image has no saturation and no hue.
    pub(super) fn apply(&self, image: &mut Image) {
        let [brightness, contrast, saturation, hue] = self.factors;
        for step in self.order {
            match step {
                BRIGHTNESS => blend(image, brightness, |_| [0; 3]),
                CONTRAST => {
                    let gray = mean_gray(image);
                    blend(image, contrast, |_| [gray; 3]);
                }
                SATURATION if image.channels == 3 => {
                    blend(image, saturation, |pixel| [gray(pixel); 3]);
                }
                HUE if image.channels == 3 => turn(image, hue),
                _ => {}
            }
        }
    }
}

/// Pillow's `Image.blend` of `from(pixel)` with the pixel itself: truncated in between, clipped
/// beyond.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast of a float to u8 truncates and clips, as wanted"
)]
fn blend(image: &mut Image, factor: f32, from: impl Fn(&[u8]) -> [u8; 3]) {
    for pixel in image.pixels.chunks_exact_mut(image.channels) {
        let base = from(pixel);
        for (value, base) in pixel.iter_mut().zip(base) {
            *value = (f32::from(base) + factor * (f32::from(*value) - f32::from(base))) as u8;
        }
    }
}

/// The luma of a pixel; a gray pixel is its own luma.
fn gray(pixel: &[u8]) -> u8 {
    match *pixel {
        [red, green, blue] => luma([red, green, blue]),
        _ => pixel.first().copied().unwrap_or_default(),
    }
}

/// The mean luma, to the nearest byte.
#[allow(clippy::cast_possible_truncation, reason = "a mean of bytes is one")]
fn mean_gray(image: &Image) -> u8 {
    let pixels = image.pixels.chunks_exact(image.channels);
    let count = pixels.len().max(1) as u64;
    let sum: u64 = pixels.map(|pixel| u64::from(gray(pixel))).sum();
    ((2 * sum + count) / (2 * count)) as u8
}

/// Shifts the hue of each pixel by a fraction of the circle, through Pillow's 8-bit HSV, which
/// loses some colors there too.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "|hue| ≤ 0.5, and a negative move wraps round the circle of 256"
)]
fn turn(image: &mut Image, hue: f32) {
    if hue == 0.0 {
        return;
    }
    let steps = (f64::from(hue) * 255.0) as i32 as u8;
    for pixel in image.pixels.as_chunks_mut().0 {
        let [h, s, v] = to_hsv(*pixel);
        *pixel = to_rgb([h.wrapping_add(steps), s, v]);
    }
}

/// Pillow's `rgb2hsv_row`.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "products of at most 255, truncated as in Pillow"
)]
fn to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (largest, smallest) = (r.max(g).max(b), r.min(g).min(b));
    if largest == smallest {
        return [0, 0, largest];
    }
    let range = f32::from(largest - smallest);
    let saturation = range / f32::from(largest);
    let [red, green, blue] = [r, g, b].map(|value| f32::from(largest - value) / range);
    // in double where C's constants make it so
    let hue = if r == largest {
        f64::from(blue - green)
    } else if g == largest {
        2.0 + f64::from(red) - f64::from(blue)
    } else {
        4.0 + f64::from(green) - f64::from(red)
    };
    let turned = ((f64::from(hue as f32) / 6.0 + 1.0) % 1.0) as f32;
    [(f64::from(turned) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, largest]
}

/// Pillow's `hsv2rgb`.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "products of at most 255, rounded as in Pillow"
)]
fn to_rgb([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let place = f64::from(h) * 6.0 / 255.0;
    let sector = place.floor();
    let within = (place - sector) as f32;
    let saturation = f32::from(s) / 255.0;
    let scaled = |share: f64| (f64::from(v) * share).round().clamp(0.0, 255.0) as u8;
    let low = scaled(1.0 - f64::from(saturation));
    let falling = scaled(1.0 - f64::from(saturation * within));
    let rising = scaled(1.0 - f64::from(saturation) * (1.0 - f64::from(within)));
    match sector as u8 % 6 {
        0 => [v, rising, low],
        1 => [falling, v, low],
        2 => [low, v, rising],
        3 => [low, falling, v],
        4 => [rising, low, v],
        _ => [v, low, falling],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pillow(name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/tests/data/pil/{name}.raw", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    /// Each adjustment alone (below, within and beyond its range), and all of them in another
    /// order; every color for hue.
    #[test]
    fn moves_match_torchvision_on_pillow() {
        let source = || Image {
            height: 23,
            width: 31,
            channels: 3,
            pixels: pillow("source-23x31-rgb"),
            orientation: 1,
        };
        let colors = || Image {
            height: 64,
            width: 64,
            channels: 3,
            pixels: pillow("colours-64x64"),
            orientation: 1,
        };
        let alone = |step: u8, factor: f32| {
            let mut jitter = Jitter { order: [step; 4], ..Jitter::NONE };
            jitter.factors[usize::from(step)] = factor;
            // one adjustment rather than four
            jitter.order = [step, 9, 9, 9];
            jitter
        };
        let all = Jitter {
            factors: [0.7, 1.3, 0.6, -0.07],
            order: [HUE, CONTRAST, SATURATION, BRIGHTNESS],
        };
        for (name, mut image, jitter) in [
            ("brightness-0.6", source(), alone(BRIGHTNESS, 0.6)),
            ("brightness-1.4", source(), alone(BRIGHTNESS, 1.4)),
            ("contrast-0.3", source(), alone(CONTRAST, 0.3)),
            ("contrast-1.7", source(), alone(CONTRAST, 1.7)),
            ("saturation-0.2", source(), alone(SATURATION, 0.2)),
            ("saturation-1.9", source(), alone(SATURATION, 1.9)),
            ("hue-0.1", colors(), alone(HUE, 0.1)),
            ("hue--0.25", colors(), alone(HUE, -0.25)),
            ("jitter", source(), all),
        ] {
            jitter.apply(&mut image);
            let differing = image.pixels.iter().zip(&pillow(name)).filter(|(a, b)| a != b).count();
            assert_eq!(differing, 0, "{name}: values differ");
        }
    }

    #[test]
    fn a_gray_image_has_brightness_and_contrast_alone() {
        let gray = || Image {
            height: 1,
            width: 4,
            channels: 1,
            pixels: vec![0, 10, 100, 255],
            orientation: 1,
        };
        let mut same = gray();
        Jitter { factors: [1.0, 1.0, 0.3, 0.4], ..Jitter::NONE }.apply(&mut same);
        assert_eq!(same, gray());
        let mut brighter = gray();
        Jitter { factors: [1.5, 1.0, 1.0, 0.0], ..Jitter::NONE }.apply(&mut brighter);
        assert_eq!(brighter.pixels, [0, 15, 150, 255]);
        let mut flat = gray();
        Jitter { factors: [1.0, 0.0, 1.0, 0.0], ..Jitter::NONE }.apply(&mut flat);
        assert_eq!(flat.pixels, [91; 4]);
    }

    #[test]
    fn factors_stay_in_their_range_and_orders_vary() {
        let settings = ColorJitter { brightness: 0.4, contrast: 2.0, saturation: 0.0, hue: 0.1 };
        let drawn: Vec<Jitter> = (0..200)
            .map(|sample| Jitter::draw(&settings, &mut random::keyed(0, [0; 8], sample, 0)))
            .collect();
        for Jitter { factors: [brightness, contrast, saturation, hue], order } in &drawn {
            assert!(
                (0.6..=1.4).contains(brightness)
                    && (0.0..=3.0).contains(contrast)
                    && (*saturation - 1.0).abs() < 1e-6
            );
            assert!(hue.abs() <= 0.1 && order.iter().map(|&s| 1 << s).sum::<u32>() == 15);
        }
        let orders: std::collections::HashSet<[u8; 4]> = drawn.iter().map(|j| j.order).collect();
        assert_eq!(orders.len(), 24);
    }
}
