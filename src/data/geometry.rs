//! Color conversion, resizing and center crop of 8-bit images, matching Pillow and torchvision.

use super::resample::resample;
use super::{Image, UPRIGHT};
use crate::data::preprocessing::Interpolation;
use crate::error::{Error, Result};
use std::borrow::Cow;

/// A box in pixels: of the preprocessed image, beyond whose edges it may extend; for
/// [`RandomResizedCrop`](crate::data::augmentation::Augment::RandomResizedCrop), of the decoded
/// image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// First row.
    pub top: i32,
    /// First column.
    pub left: i32,
    /// Number of rows.
    pub height: i32,
    /// Number of columns.
    pub width: i32,
}

/// Most pixels of a resized image.
const MAX_PIXELS: usize = 1 << 27;

/// The image with 1 or 3 channels: gray is repeated; color becomes gray by the ITU-R 601-2 luma in
/// Pillow's 16-bit fixed point.
pub(super) fn with_channels(image: &Image, channels: usize) -> Cow<'_, Image> {
    let pixels = match (image.channels, channels) {
        (1, 3) => image.pixels.iter().flat_map(|&gray| [gray; 3]).collect(),
        (3, 1) => image.pixels.as_chunks().0.iter().copied().map(luma).collect(),
        _ => return Cow::Borrowed(image),
    };
    Cow::Owned(Image { channels, pixels, ..*image })
}

/// The ITU-R 601-2 luma.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the weights sum to 65,536, so the result is at most 255"
)]
pub(super) fn luma([red, green, blue]: [u8; 3]) -> u8 {
    ((u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471 + 0x8000) >> 16)
        as u8
}

/// Resizes an image to `[height, width]`.
///
/// # Errors
/// If a side is empty, or the result would be absurdly large (a one-pixel line resized to a shorter
/// side of 256).
pub(super) fn resize(
    image: &Image,
    [height, width]: [usize; 2],
    interpolation: Interpolation,
) -> Result<Cow<'_, Image>> {
    if [image.height, image.width] == [height, width] {
        return Ok(Cow::Borrowed(image));
    }
    if [image.height, image.width, height, width].contains(&0) {
        return Err(Error::input(format!(
            "image of {}x{} pixels: cannot be resized to {height}x{width}",
            image.height, image.width
        )));
    }
    if height.saturating_mul(width) > MAX_PIXELS {
        return Err(Error::input(format!(
            "resize to {height}x{width}: expected at most {MAX_PIXELS} pixels"
        )));
    }
    Ok(Cow::Owned(resample(image, [height, width], interpolation)))
}

/// The size of an image resized to a shorter side of `shorter`, rounded as in torchvision:
/// `⌊shorter · long / short⌋`.
pub(super) fn shorter_side(image: &Image, shorter: usize) -> [usize; 2] {
    let (height, width) = (image.height, image.width);
    let longer = |long: usize, short: usize| shorter.saturating_mul(long) / short.max(1);
    if width <= height {
        [longer(height, width), shorter]
    } else {
        [shorter, longer(width, height)]
    }
}

/// The center of an image, `[height, width]`; the offset is rounded half to even, as in
/// torchvision.
///
/// # Errors
/// If the image is smaller.
pub(super) fn center_crop(image: &Image, [height, width]: [usize; 2]) -> Result<Cow<'_, Image>> {
    if [image.height, image.width] == [height, width] {
        return Ok(Cow::Borrowed(image));
    }
    let (Some(spare_rows), Some(spare_columns)) =
        (image.height.checked_sub(height), image.width.checked_sub(width))
    else {
        return Err(Error::input(format!(
            "crop of {height}x{width}: expected a resized image as large, found {}x{}",
            image.height, image.width
        )));
    };
    let half = |spare: usize| spare / 2 + usize::from(spare % 4 == 3);
    let (top, left) = (half(spare_rows), half(spare_columns));
    Ok(Cow::Owned(part(image, [top, left], [height, width])))
}

/// A box of an image.
///
/// # Errors
/// If it is empty or extends beyond the image.
pub(super) fn crop(image: &Image, crop: Crop) -> Result<Image> {
    let side = |first: i32, length: i32, all: usize| {
        let (first, length) = (usize::try_from(first).ok()?, usize::try_from(length).ok()?);
        (length > 0 && first.checked_add(length)? <= all).then_some((first, length))
    };
    let (rows, columns) =
        (side(crop.top, crop.height, image.height), side(crop.left, crop.width, image.width));
    let (Some((top, height)), Some((left, width))) = (rows, columns) else {
        return Err(Error::input(format!(
            "crop {crop:?}: expected a box inside the image of {}x{} pixels",
            image.height, image.width
        )));
    };
    Ok(part(image, [top, left], [height, width]))
}

/// A box inside an image.
fn part(image: &Image, [top, left]: [usize; 2], [height, width]: [usize; 2]) -> Image {
    let rows = image.pixels.chunks_exact(image.width * image.channels).skip(top).take(height);
    let pixels = rows
        .flat_map(|row| &row[left * image.channels..(left + width) * image.channels])
        .copied()
        .collect();
    Image { height, width, channels: image.channels, pixels, orientation: UPRIGHT }
}

/// The image shifted so that `(top, left)` becomes its corner; the uncovered part is filled with
/// the color `fill`.
pub(super) fn shift(image: &Image, top: i32, left: i32, fill: &[u8]) -> Image {
    let within = |position: usize, offset: i32, size: usize| {
        position.checked_add_signed(isize::try_from(offset).ok()?).filter(|&p| p < size)
    };
    let mut pixels = Vec::with_capacity(image.pixels.len());
    for y in 0..image.height {
        let row = within(y, top, image.height);
        for x in 0..image.width {
            let inside = row
                .zip(within(x, left, image.width))
                .map(|(row, column)| (row * image.width + column) * image.channels);
            let pixel =
                inside.and_then(|at| image.pixels.get(at..at + image.channels)).unwrap_or(fill);
            pixels.extend_from_slice(pixel);
        }
    }
    Image { pixels, ..*image }
}

/// Whether an orientation swaps height and width.
pub(super) fn is_on_its_side(image: &Image) -> bool {
    matches!(image.orientation, 5..=8)
}

/// The image rotated and flipped by its EXIF orientation (EXIF 2.32, tag 0x0112), like Pillow's
/// `ImageOps.exif_transpose`; values other than 2 to 8 change nothing.
pub(super) fn upright(image: &Image) -> Cow<'_, Image> {
    if !matches!(image.orientation, 2..=8) {
        return Cow::Borrowed(image);
    }
    let Image { height, width, channels, .. } = *image;
    let [rows, columns] = if is_on_its_side(image) { [width, height] } else { [height, width] };
    let mut pixels = Vec::with_capacity(image.pixels.len());
    for y in 0..rows {
        for x in 0..columns {
            let [row, column] = match image.orientation {
                2 => [y, width - 1 - x],
                3 => [height - 1 - y, width - 1 - x],
                4 => [height - 1 - y, x],
                5 => [x, y],
                6 => [height - 1 - x, y],
                7 => [height - 1 - x, width - 1 - y],
                _ => [x, width - 1 - y],
            };
            let at = (row * width + column) * channels;
            pixels.extend_from_slice(image.pixels.get(at..at + channels).unwrap_or_default());
        }
    }
    Cow::Owned(Image { height: rows, width: columns, channels, pixels, orientation: UPRIGHT })
}

/// Flips an image left to right.
pub(super) fn mirror(image: &mut Image) {
    let Image { width, channels, .. } = *image;
    for row in image.pixels.chunks_exact_mut(width * channels) {
        for x in 0..width / 2 {
            for channel in 0..channels {
                row.swap(x * channels + channel, (width - 1 - x) * channels + channel);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file in `tests/data/pil`, written by Pillow (see its README).
    fn pillow(name: &str, [height, width]: [usize; 2], channels: usize) -> Image {
        let path = format!("{}/tests/data/pil/{name}", env!("CARGO_MANIFEST_DIR"));
        let pixels = std::fs::read(&path).unwrap();
        assert_eq!(pixels.len(), height * width * channels, "{path}");
        Image { height, width, channels, pixels, orientation: UPRIGHT }
    }

    fn source() -> Image {
        pillow("source-23x31-rgb.raw", [23, 31], 3)
    }

    /// The largest difference, and how many values differ.
    fn difference(a: &Image, b: &Image) -> (u8, usize) {
        assert_eq!((a.height, a.width, a.channels), (b.height, b.width, b.channels));
        let apart: Vec<u8> = a.pixels.iter().zip(&b.pixels).map(|(&x, &y)| x.abs_diff(y)).collect();
        (apart.iter().copied().max().unwrap_or(0), apart.iter().filter(|&&d| d > 0).count())
    }

    #[test]
    fn resizing_matches_pillow() {
        let filters = [
            ("nearest", Interpolation::Nearest),
            ("bilinear", Interpolation::Bilinear),
            ("bicubic", Interpolation::Bicubic),
            ("lanczos", Interpolation::Lanczos),
        ];
        for (name, filter) in filters {
            for size in [[10, 12], [40, 37]] {
                let expected = pillow(&format!("{name}-{}x{}.raw", size[0], size[1]), size, 3);
                let found = resize(&source(), size, filter).unwrap().into_owned();
                let (largest, differing) = difference(&found, &expected);
                assert_eq!(largest, 0, "{name} to {size:?}: {differing} values differ");
            }
        }
    }

    #[test]
    fn resize_and_centre_crop_match_torchvision() {
        let image = source();
        assert_eq!(shorter_side(&image, 16), [16, 21]);
        let resized = resize(&image, [16, 21], Interpolation::Bilinear).unwrap();
        let cropped = center_crop(&resized, [13, 15]).unwrap();
        assert_eq!(*cropped, pillow("resize16-crop13x15.raw", [13, 15], 3));
    }

    #[test]
    fn crop_offsets_are_rounded_half_to_even() {
        let image = Image {
            height: 1,
            width: 9,
            channels: 1,
            pixels: (0..9).collect(),
            orientation: UPRIGHT,
        };
        // Python: round(0.5) = 0, round(1.5) = 2, round(2.5) = 2, round(3.5) = 4
        for (width, left) in [(8, 0), (6, 2), (4, 2), (2, 4), (7, 1), (5, 2)] {
            assert_eq!(center_crop(&image, [1, width]).unwrap().pixels[0], left, "width {width}");
        }
        assert!(center_crop(&image, [2, 9]).is_err());
    }

    #[test]
    fn grey_is_pillows_luma() {
        let gray = with_channels(&source(), 1).into_owned();
        assert_eq!(gray, pillow("grey.raw", [23, 31], 1));
        let rgb = with_channels(&gray, 3).into_owned();
        assert_eq!(
            rgb.pixels[..6],
            [
                gray.pixels[0],
                gray.pixels[0],
                gray.pixels[0],
                gray.pixels[1],
                gray.pixels[1],
                gray.pixels[1]
            ]
        );
    }

    #[test]
    fn a_resized_crop_matches_torchvision() {
        let name = "crop-3-5-13x17-to-10x12";
        let part = crop(&source(), Crop { top: 3, left: 5, height: 13, width: 17 }).unwrap();
        let mut found = resize(&part, [10, 12], Interpolation::Bilinear).unwrap().into_owned();
        assert_eq!(difference(&found, &pillow(&format!("{name}.raw"), [10, 12], 3)), (0, 0));
        mirror(&mut found);
        assert_eq!(
            difference(&found, &pillow(&format!("{name}-mirrored.raw"), [10, 12], 3)),
            (0, 0)
        );
        let whole = Crop { top: 0, left: 0, height: 23, width: 31 };
        assert_eq!(crop(&source(), whole).unwrap(), source());
        for bad in [
            Crop { top: -1, ..whole },
            Crop { left: 1, ..whole },
            Crop { height: 0, ..whole },
            Crop { width: -3, ..whole },
            Crop { top: i32::MAX, height: i32::MAX, ..whole },
        ] {
            assert!(
                crop(&source(), bad).unwrap_err().to_string().contains("inside the image of 23x31")
            );
        }
    }

    #[test]
    fn a_window_moved_far_away_shows_nothing_but_the_fill() {
        let away = shift(&source(), i32::MAX, i32::MIN, &[1, 2, 3]);
        assert!(
            away.pixels.len() == 23 * 31 * 3
                && away.pixels.as_chunks().0.iter().all(|p| *p == [1, 2, 3])
        );
        assert_eq!(shift(&source(), 0, 0, &[0; 3]), source());
    }

    #[test]
    fn empty_sides_are_refused() {
        let empty =
            Image { height: 0, width: 3, channels: 3, pixels: Vec::new(), orientation: UPRIGHT };
        assert!(resize(&empty, [2, 2], Interpolation::Bilinear).is_err());
        assert!(resize(&source(), [0, 2], Interpolation::Bilinear).is_err());
        assert!(resize(&source(), [1 << 20, 1 << 20], Interpolation::Bilinear).is_err());
    }

    #[test]
    fn orientations_turn_as_exif_transpose_does() {
        // numpy's form of Pillow's transpositions of [[0, 1, 2], [3, 4, 5]]
        let expected: [(u8, [usize; 2], [u8; 6]); 9] = [
            (0, [2, 3], [0, 1, 2, 3, 4, 5]),
            (1, [2, 3], [0, 1, 2, 3, 4, 5]),
            (2, [2, 3], [2, 1, 0, 5, 4, 3]),
            (3, [2, 3], [5, 4, 3, 2, 1, 0]),
            (4, [2, 3], [3, 4, 5, 0, 1, 2]),
            (5, [3, 2], [0, 3, 1, 4, 2, 5]),
            (6, [3, 2], [3, 0, 4, 1, 5, 2]),
            (7, [3, 2], [5, 2, 4, 1, 3, 0]),
            (8, [3, 2], [2, 5, 1, 4, 0, 3]),
        ];
        for (orientation, size, pixels) in expected {
            let image =
                Image { height: 2, width: 3, channels: 1, pixels: (0..6).collect(), orientation };
            let turned = upright(&image);
            assert_eq!(
                ([turned.height, turned.width], turned.pixels.as_slice()),
                (size, &pixels[..]),
                "{orientation}"
            );
        }
    }
}
