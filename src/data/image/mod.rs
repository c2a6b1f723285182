//! Decodes image files to 8-bit gray or RGB, like Pillow's `convert('RGB')`: alpha is dropped,
//! palettes are looked up, and 16-bit channels keep their high byte (gray ones too, which Pillow
//! clips to white). Gray stays one channel. The EXIF orientation is read but not applied, as in
//! torchvision's `ImageFolder`; [`super::preprocess`] applies it on request.

use super::Image;
use super::jpeg::{self, End};
use crate::error::{Context, Error, Result};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::borrow::Cow;
use std::io::Cursor;

/// Largest encoded file, in bytes.
pub(super) const MAX_FILE: u64 = 256 << 20;
/// Longest side, in pixels.
const MAX_SIDE: u32 = 32_768;
/// Most pixels of an image.
const MAX_PIXELS: u64 = 1 << 27;
/// Most memory that a decoder may allocate, in bytes.
const MAX_ALLOCATION: u64 = 1 << 30;

/// Height and width, from the header alone.
///
/// # Errors
/// If the format is unknown or the image is too large.
pub(super) fn size(bytes: &[u8]) -> Result<[usize; 2]> {
    check_length(bytes)?;
    let decoder = decoder(bytes)?;
    let (width, height) = decoder.dimensions();
    Ok([height as usize, width as usize])
}

/// Decodes a file's bytes.
///
/// # Errors
/// If the format is unknown, or the image is too large, damaged, truncated, or of floating-point
/// pixels.
pub(super) fn decode(bytes: &[u8]) -> Result<Image> {
    check_length(bytes)?;
    let picture = first_picture(bytes)?;
    let mut decoder = decoder(&picture)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms).to_exif();
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
        other => {
            return Err(Error::input(format!(
                "expected 8-bit or 16-bit pixels, found {:?}",
                other.color()
            )));
        }
    };
    Ok(Image { height, width, channels, pixels, orientation })
}

fn check_length(bytes: &[u8]) -> Result<()> {
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::input(format!(
            "expected a file of at most {} MiB, found a larger one",
            MAX_FILE >> 20
        )));
    }
    Ok(())
}

/// The bytes of the first picture of a JPEG, closed by an end marker; other files unchanged.
fn first_picture(bytes: &[u8]) -> Result<Cow<'_, [u8]>> {
    const START: [u8; 3] = [0xff, 0xd8, 0xff];
    if !bytes.starts_with(&START) {
        return Ok(Cow::Borrowed(bytes));
    }
    match jpeg::end(bytes).map_err(|fault| Error::input(fault.reason()))? {
        End::Marked(end) => Ok(Cow::Borrowed(bytes.get(..end).unwrap_or(bytes))),
        End::Unmarked(end) => {
            Ok(Cow::Owned([bytes.get(..end).unwrap_or(bytes), &[0xff, 0xd9]].concat()))
        }
        End::Unknown => Ok(Cow::Borrowed(bytes)),
    }
}

fn decoder(bytes: &[u8]) -> Result<impl ImageDecoder> {
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .context(|| "cannot be read".into())?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_ALLOCATION);
    reader.limits(limits);
    match reader.format() {
        None => {
            return Err(Error::input(
                "expected a JPEG, PNG, BMP, GIF, WebP, TIFF or PNM image, found other bytes",
            ));
        }
        Some(ImageFormat::Png) if !has_whole_colors(bytes) => {
            return Err(Error::input("the palette is damaged"));
        }
        Some(ImageFormat::Gif) if !fills_its_screen(bytes) => {
            return Err(Error::input(
                "the first frame of the GIF covers only part of its screen: the rest is undefined",
            ));
        }
        Some(_) => {}
    }
    let decoder = reader.into_decoder().context(|| "cannot be decoded".into())?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > MAX_PIXELS || width > MAX_SIDE || height > MAX_SIDE {
        return Err(Error::input(format!(
            "expected 1 to {MAX_PIXELS} pixels and sides up to {MAX_SIDE}, found {width} pixels \
             wide and {height} high"
        )));
    }
    Ok(decoder)
}

/// Whether a PNG's palettes consist of whole colors, three bytes each: the decoder panics on
/// others.
fn has_whole_colors(bytes: &[u8]) -> bool {
    const SIGNATURE: usize = 8;
    let mut rest = bytes.get(SIGNATURE..).unwrap_or_default();
    // length, kind, data, checksum; a palette after the first pixels does not apply to them
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

/// Whether the first frame of a GIF covers its screen (`GIF89a`, sections 18 and 20); true if the
/// structure is damaged, which the decoder reports.
fn fills_its_screen(bytes: &[u8]) -> bool {
    let table_bytes = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3usize << ((flags & 7) + 1) };
    let Some(&[w0, w1, h0, h1, flags]) = bytes.get(6..11).and_then(<[u8]>::first_chunk) else {
        return true;
    };
    let mut at = 13 + table_bytes(flags);
    // extensions: a label, then blocks that each begin with their length, the last of length 0
    while bytes.get(at) == Some(&0x21) {
        at += 2;
        while let Some(&length) = bytes.get(at) {
            at += 1 + usize::from(length);
            if length == 0 {
                break;
            }
        }
    }
    let frame = bytes.get(at..).and_then(<[u8]>::first_chunk);
    frame.is_none_or(|&[kind, left0, left1, top0, top1, width0, width1, height0, height1]| {
        kind != 0x2c
            || [left0, left1, top0, top1] == [0; 4]
                && [width0, width1, height0, height1] == [w0, w1, h0, h1]
    })
}

/// Pixels of `N` channels without their last channel.
fn without_alpha<const N: usize, T: Copy>(samples: &[T], byte: impl Fn(T) -> u8) -> Vec<u8> {
    let (pixels, _) = samples.as_chunks::<N>();
    pixels.iter().flat_map(|pixel| &pixel[..N - 1]).map(|&v| byte(v)).collect()
}

#[cfg(test)]
mod tests;
