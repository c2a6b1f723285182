//! From a decoded image to a model's input: geometry and color in uint8, as Pillow does them, then
//! normalization.

use super::{Image, geometry};
use crate::array::{Array, Dtype, Layout, Values};
use crate::data::preprocessing::{Channels, Preprocess, PreprocessOptions, preset};
use crate::error::{Error, Result};
use crate::onnx::Dim;
use half::{bf16, f16};
use std::borrow::Cow;

/// Input side in pixels if nothing else decides.
const DEFAULT_SIDE: usize = 224;

/// Decides every field: from the options, else their preset, else the model's declared input
/// (`dtype`, and `shape` with the batch axis), else the images' common size, else 224. Returns
/// warnings to print: when nothing was given and floats are scaled to [0, 1], or integer inputs are
/// resized to a size that nobody named.
///
/// What a model fixes (size, channels) overrides a preset; an option that contradicts it is
/// refused. A preset that crops a larger image (`imagenet`) ignores the images' common size and
/// uses 224. A single value of mean or std applies to all channels. A given mean is in the model's
/// channel order; a preset's mean is RGB and is reversed for BGR.
///
/// # Errors
/// If options contradict the model or each other.
pub fn resolve(
    options: &PreprocessOptions,
    dtype: Dtype,
    shape: &[Dim],
    common_image_size: Option<[usize; 2]>,
) -> Result<(Preprocess, Vec<String>)> {
    let defaults =
        options.preset.as_deref().map_or_else(|| Ok(PreprocessOptions::default()), preset)?;
    check_dtype(options, dtype)?;
    let axes = Axes::of(shape, options.layout)?;
    let wanted = || options.channels.or(defaults.channels);
    let channels = match (axes.channels, options.channels) {
        (Some(count), Some(given)) if given.count() != count => {
            return Err(Error::input(format!(
                "preprocess: the model takes {count} channels, found channels {given:?} of {}",
                given.count()
            )));
        }
        (Some(1), _) => Channels::Gray,
        (Some(_), given) => given.unwrap_or(Channels::Rgb),
        (None, _) => wanted().unwrap_or(Channels::Rgb),
    };
    let crops = defaults.crop_ratio.is_some();
    // rotated images do not have the size in their headers
    let is_turned = options.exif_orientation == Some(true);
    let common =
        common_image_size.filter(|[height, width]| !crops && (!is_turned || height == width));
    let fallback = options.size.or(defaults.size).or(common).unwrap_or([DEFAULT_SIDE; 2]);
    let size = [axes.size[0].unwrap_or(fallback[0]), axes.size[1].unwrap_or(fallback[1])];
    if let Some([height, width]) = options.size.filter(|&given| given != size) {
        return Err(Error::input(format!(
            "preprocess: the model takes {}x{}, found size {height}x{width}",
            size[0], size[1]
        )));
    }
    let resize = match (options.resize, options.crop_ratio.or(defaults.crop_ratio)) {
        (Some(resize), _) => Some(resize),
        (None, Some(ratio)) => Some(before_crop(size, ratio)?),
        (None, None) => None,
    };
    if let Some(resize) = resize.filter(|&resize| resize < size[0].max(size[1])) {
        return Err(Error::input(format!(
            "preprocess: expected resize of at least the size {}x{}, found {resize}",
            size[0], size[1]
        )));
    }
    let per_channel = |given: &Option<Vec<f32>>, preset: Option<Vec<f32>>, default: f32| {
        let preset = preset.map(|mut values| {
            if channels == Channels::Bgr {
                values.reverse();
            }
            values
        });
        let values = given.clone().or(preset).unwrap_or_else(|| vec![default]);
        if let [value] = values[..] { vec![value; channels.count()] } else { values }
    };
    let preprocess = Preprocess {
        size,
        resize,
        interpolation: options.interpolation.or(defaults.interpolation).unwrap_or_default(),
        channels,
        layout: axes.layout,
        dtype,
        scale: options.scale.or(defaults.scale).unwrap_or(1.0 / 255.0),
        mean: per_channel(&options.mean, defaults.mean, 0.0),
        std: per_channel(&options.std, defaults.std, 1.0),
        exif_orientation: options.exif_orientation.unwrap_or(false),
    };
    preprocess.validate()?;
    let assumed = options.preset.is_none()
        && options.scale.is_none()
        && options.mean.is_none()
        && options.std.is_none();
    let is_size_given = !axes.size.contains(&None) || options.size.or(defaults.size).is_some();
    let is_said = !assumed || !preprocess.is_float() && is_size_given;
    let warnings = if is_said { Vec::new() } else { vec![assumption(&preprocess)] };
    Ok((preprocess, warnings))
}

/// What is assumed where nothing was given.
fn assumption(preprocess: &Preprocess) -> String {
    let [height, width] = preprocess.size;
    let (values, flags) = if preprocess.is_float() {
        ("scaled to [0, 1]", "--preprocess, --mean, --std and --scale")
    } else {
        ("their bytes fed as they are", "--size, --resize and --crop-ratio")
    };
    let order =
        format!("{:?} in {:?} order", preprocess.channels, preprocess.layout).to_lowercase();
    format!(
        "preprocessing was not given: images become {height}x{width} {order}, {values} ({flags} \
         change this)"
    )
}

fn check_dtype(options: &PreprocessOptions, dtype: Dtype) -> Result<()> {
    if let Some(given) = options.dtype.filter(|&given| given != dtype) {
        return Err(Error::input(format!(
            "preprocess: the model takes {}, found dtype {}",
            dtype.name(),
            given.name()
        )));
    }
    if !dtype.is_float() && !matches!(dtype, Dtype::U8 | Dtype::I32) {
        let expected = "float32, float16, float64, bfloat16, uint8 or int32";
        return Err(Error::input(format!(
            "preprocess: expected an input of {expected} to feed images to, found {}",
            dtype.name()
        ))
        .hint("feed arrays instead of images, with npz:FILE"));
    }
    Ok(())
}

/// The shorter side before a crop with this ratio.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes are far below 2^52 and the ratio is positive"
)]
fn before_crop(size: [usize; 2], ratio: f64) -> Result<usize> {
    if !(ratio > 0.0 && ratio <= 1.0) {
        return Err(Error::input(format!(
            "preprocess: expected a crop ratio above 0 and up to 1, found {ratio}"
        )));
    }
    // timm uses math.floor
    Ok((size[0].max(size[1]) as f64 / ratio).floor() as usize)
}

/// What a declared input shape fixes.
struct Axes {
    layout: Layout,
    channels: Option<usize>,
    size: [Option<usize>; 2],
}

impl Axes {
    /// Reads `[N, C, H, W]` or `[N, H, W, C]`; an undeclared shape fixes nothing.
    fn of(shape: &[Dim], layout: Option<Layout>) -> Result<Self> {
        let fixed = |axis: usize| match shape.get(axis) {
            Some(Dim::Fixed(size)) => Some(*size),
            _ => None,
        };
        if !matches!(shape.len(), 0 | 4) {
            return Err(Error::input(format!(
                "preprocess: expected an image input of 4 axes, found {}",
                shape.len()
            ))
            .hint("feed arrays instead of images, with npz:FILE"));
        }
        let is_color = |axis: usize| matches!(fixed(axis), Some(1 | 3));
        let layout =
            layout.unwrap_or(if is_color(3) && !is_color(1) { Layout::Nhwc } else { Layout::Nchw });
        let [channel, row, column] = match layout {
            Layout::Nchw => [1, 2, 3],
            Layout::Nhwc => [3, 1, 2],
        };
        match fixed(channel) {
            Some(count) if !matches!(count, 1 | 3) => Err(Error::input(format!(
                "preprocess: expected 1 or 3 channels on axis {channel} of the model's input, \
                 found {count}"
            ))
            .hint("give --layout nchw or nhwc, or feed arrays with npz:FILE")),
            channels => Ok(Self { layout, channels, size: [fixed(row), fixed(column)] }),
        }
    }
}

/// Geometry and color: the bytes that are stored and fed, in the model's layout (`[C, H, W]` or
/// `[H, W, C]`).
///
/// # Errors
/// If the image cannot be resized (an empty side).
pub fn to_bytes(preprocess: &Preprocess, image: &Image) -> Result<Vec<u8>> {
    let image = turned(preprocess, image);
    let colored = geometry::with_channels(&image, preprocess.channels.count());
    Ok(lay_out(preprocess, fit(preprocess, &colored)?.into_owned()))
}

/// The image rotated by its EXIF orientation, if requested.
pub(super) fn turned<'a>(preprocess: &Preprocess, image: &'a Image) -> Cow<'a, Image> {
    if preprocess.exif_orientation { geometry::upright(image) } else { Cow::Borrowed(image) }
}

/// Height and width of an image as its views are drawn.
#[must_use]
pub fn seen_size(preprocess: &Preprocess, image: &Image) -> [usize; 2] {
    let on_its_side = preprocess.exif_orientation && geometry::is_on_its_side(image);
    if on_its_side { [image.width, image.height] } else { [image.height, image.width] }
}

/// Resize and center crop.
///
/// # Errors
/// See [`to_bytes`].
pub(super) fn fit<'a>(preprocess: &Preprocess, image: &'a Image) -> Result<Cow<'a, Image>> {
    let resized = match preprocess.resize {
        Some(shorter) => geometry::resize(
            image,
            geometry::shorter_side(image, shorter),
            preprocess.interpolation,
        )?,
        None => geometry::resize(image, preprocess.size, preprocess.interpolation)?,
    };
    Ok(match resized {
        Cow::Borrowed(image) => geometry::center_crop(image, preprocess.size)?,
        Cow::Owned(image) => {
            Cow::Owned(geometry::center_crop(&image, preprocess.size)?.into_owned())
        }
    })
}

/// The bytes of an image of the model's size, in the model's layout and channel order.
pub(super) fn lay_out(preprocess: &Preprocess, image: Image) -> Vec<u8> {
    let channels = preprocess.channels.count();
    let source = |channel: usize| {
        if preprocess.channels == Channels::Bgr { channels - 1 - channel } else { channel }
    };
    let plane =
        |channel: usize| image.pixels.iter().skip(source(channel)).step_by(channels).copied();
    match preprocess.layout {
        Layout::Nchw => (0..channels).flat_map(plane).collect(),
        Layout::Nhwc if preprocess.channels == Channels::Bgr => {
            image.pixels.as_chunks::<3>().0.iter().flat_map(|&[r, g, b]| [b, g, r]).collect()
        }
        Layout::Nhwc => image.pixels,
    }
}

/// Turns the stored bytes of a batch into the model's input `[N, …]`: `(x·scale − mean)/std`
/// for float inputs, the bytes themselves for integers.
///
/// # Errors
/// If the byte count is not a multiple of one input's.
pub fn normalize(preprocess: &Preprocess, bytes: &[u8]) -> Result<Array> {
    let count = count(preprocess, bytes)?;
    let values = match preprocess.dtype {
        Dtype::U8 => Values::U8(bytes.to_vec()),
        Dtype::I32 => Values::I32(bytes.iter().map(|&b| i32::from(b)).collect()),
        Dtype::BF16 => Values::BF16(look_up(preprocess, bytes, bf16::from_f32)),
        Dtype::F16 => Values::F16(look_up(preprocess, bytes, f16::from_f32)),
        Dtype::F32 => Values::F32(look_up(preprocess, bytes, |value| value)),
        Dtype::F64 => Values::F64(look_up(preprocess, bytes, f64::from)),
        other => {
            return Err(Error::input(format!("preprocess: images do not become {}", other.name())));
        }
    };
    let mut shape = vec![count];
    shape.extend(preprocess.input_shape());
    Array::new(shape, values)
}

/// Turns the stored bytes of a batch into a student's input, f32 `[N, C, H, W]` whatever the
/// layout of the bytes. A student always sees `(x·scale − mean)/std`, even if the teacher takes
/// integers.
///
/// # Errors
/// See [`normalize`].
pub fn normalize_nchw(preprocess: &Preprocess, bytes: &[u8]) -> Result<Vec<f32>> {
    count(preprocess, bytes)?;
    let channels = preprocess.channels.count();
    if preprocess.layout == Layout::Nchw || channels == 1 {
        return Ok(look_up(preprocess, bytes, |value| value));
    }
    let tables = tables(preprocess, |value| value);
    let mut out = Vec::with_capacity(bytes.len());
    for image in bytes.chunks_exact(input_length(preprocess)) {
        for (channel, table) in tables.iter().enumerate() {
            out.extend(
                image.iter().skip(channel).step_by(channels).map(|&byte| table[usize::from(byte)]),
            );
        }
    }
    Ok(out)
}

/// Elements of one input.
fn input_length(preprocess: &Preprocess) -> usize {
    preprocess.input_shape().iter().product()
}

/// Inputs in a batch.
fn count(preprocess: &Preprocess, bytes: &[u8]) -> Result<usize> {
    let length = input_length(preprocess);
    if length == 0 || !bytes.len().is_multiple_of(length) {
        return Err(Error::input(format!(
            "batch: expected a multiple of {length} bytes, found {}",
            bytes.len()
        )));
    }
    Ok(bytes.len() / length)
}

/// The normalized value of every byte, for each channel.
fn tables<T>(preprocess: &Preprocess, convert: impl Fn(f32) -> T) -> Vec<[T; 256]> {
    let value = |byte: usize, mean: f32, std: f32| {
        // the index is a byte: exact in f32
        #[allow(clippy::cast_precision_loss, reason = "below 256")]
        let byte = byte as f32;
        convert((byte * preprocess.scale - mean) / std)
    };
    let statistics = preprocess.mean.iter().zip(&preprocess.std);
    statistics.map(|(&mean, &std)| std::array::from_fn(|byte| value(byte, mean, std))).collect()
}

/// The normalized values of bytes, in their layout.
fn look_up<T: Copy>(preprocess: &Preprocess, bytes: &[u8], convert: impl Fn(f32) -> T) -> Vec<T> {
    let tables = tables(preprocess, convert);
    let mut out = Vec::with_capacity(bytes.len());
    match preprocess.layout {
        Layout::Nchw => {
            let plane = preprocess.size[0] * preprocess.size[1];
            for (pixels, table) in bytes.chunks_exact(plane.max(1)).zip(tables.iter().cycle()) {
                out.extend(pixels.iter().map(|&byte| table[usize::from(byte)]));
            }
        }
        Layout::Nhwc => out.extend(
            bytes.iter().zip(tables.iter().cycle()).map(|(&byte, table)| table[usize::from(byte)]),
        ),
    }
    out
}

#[cfg(test)]
mod tests;
