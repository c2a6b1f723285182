//! Decodes image files to 8-bit grey or RGB, as Pillow's `convert('RGB')` does: alpha is dropped, palettes are looked up, the high byte
//! of 16-bit channels is taken (of grey ones too, where Pillow clips to white). Grey stays one channel. EXIF orientation is not applied,
//! as torchvision's `ImageFolder` does not.

use super::Image;
use crate::error::{Context, Error, Result};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::io::Cursor;

/// Largest encoded file, in bytes.
pub(super) const MAX_FILE: u64 = 256 << 20;
/// Longest side, in pixels.
const MAX_SIDE: u32 = 32_768;
/// Most pixels of an image.
const MAX_PIXELS: u64 = 1 << 27;
/// Most memory that a decoder may ask for, in bytes.
const MAX_ALLOCATION: u64 = 1 << 30;

/// Height and width, from the header alone.
///
/// # Errors
/// When it is no image of a known kind, or too large.
pub(super) fn size(bytes: &[u8]) -> Result<[usize; 2]> {
    let decoder = decoder(bytes)?;
    let (width, height) = decoder.dimensions();
    Ok([height as usize, width as usize])
}

/// Decodes a file's bytes.
///
/// # Errors
/// When it is no image of a known kind, too large, damaged or truncated, or of floating-point pixels.
pub(super) fn decode(bytes: &[u8]) -> Result<Image> {
    let decoder = decoder(bytes)?;
    let image = DynamicImage::from_decoder(decoder).context(|| "cannot be decoded".into())?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let high = |value: u16| value.to_be_bytes()[0];
    let (channels, pixels) = match image {
        DynamicImage::ImageLuma8(i) => (1, i.into_raw()),
        DynamicImage::ImageLumaA8(i) => (1, without_alpha::<2, u8>(&i, |v| v)),
        DynamicImage::ImageRgb8(i) => (3, i.into_raw()),
        DynamicImage::ImageRgba8(i) => (3, without_alpha::<4, u8>(&i, |v| v)),
        DynamicImage::ImageLuma16(i) => (1, i.iter().copied().map(high).collect()),
        DynamicImage::ImageLumaA16(i) => (1, without_alpha::<2, u16>(&i, high)),
        DynamicImage::ImageRgb16(i) => (3, i.iter().copied().map(high).collect()),
        DynamicImage::ImageRgba16(i) => (3, without_alpha::<4, u16>(&i, high)),
        other => return Err(Error::input(format!("expected 8-bit or 16-bit pixels, found {:?}", other.color()))),
    };
    Ok(Image { height, width, channels, pixels })
}

fn decoder(bytes: &[u8]) -> Result<impl ImageDecoder> {
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::input(format!("expected a file of at most {} MiB, found a larger one", MAX_FILE >> 20)));
    }
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().context(|| "cannot be read".into())?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_ALLOCATION);
    reader.limits(limits);
    match reader.format() {
        None => return Err(Error::input("expected a JPEG, PNG, BMP, GIF, WebP, TIFF or PNM image, found other bytes")),
        Some(ImageFormat::Jpeg) if !is_complete_jpeg(bytes) => return Err(Error::input("the image is truncated")),
        Some(ImageFormat::Png) if !has_whole_colours(bytes) => return Err(Error::input("the palette is damaged")),
        Some(_) => {}
    }
    let decoder = reader.into_decoder().context(|| "cannot be decoded".into())?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > MAX_PIXELS || width > MAX_SIDE || height > MAX_SIDE {
        return Err(Error::input(format!(
            "expected 1 to {MAX_PIXELS} pixels and sides up to {MAX_SIDE}, found {width} pixels wide and {height} high"
        )));
    }
    Ok(decoder)
}

/// Whether the last scan of a JPEG is followed by an end-of-image marker: the decoder would fill the missing part with grey.
/// Neither marker occurs inside a scan, where the byte after 0xFF is 0 or a restart marker.
fn is_complete_jpeg(bytes: &[u8]) -> bool {
    let last = |marker: u8| bytes.windows(2).rposition(|pair| pair == [0xff, marker]);
    last(0xd9) > last(0xda)
}

/// Whether a PNG's palettes are of whole colours, three bytes each: on any other the decoder panics.
fn has_whole_colours(bytes: &[u8]) -> bool {
    const SIGNATURE: usize = 8;
    let mut rest = bytes.get(SIGNATURE..).unwrap_or_default();
    // length, kind, data, checksum; what is behind the first pixels is no palette of theirs
    while let Some((&[a, b, c, d, ref kind @ ..], data)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        match kind {
            b"IDAT" => break,
            b"PLTE" if !length.is_multiple_of(3) => return false,
            _ => rest = data.get(length.saturating_add(4)..).unwrap_or_default(),
        }
    }
    true
}

/// The pixels of `N` channels without their last channel.
fn without_alpha<const N: usize, T: Copy>(samples: &[T], byte: impl Fn(T) -> u8) -> Vec<u8> {
    let (pixels, _) = samples.as_chunks::<N>();
    pixels.iter().flat_map(|pixel| &pixel[..N - 1]).map(|&v| byte(v)).collect()
}

#[cfg(test)]
mod tests;
