//! From a decoded image to a model's input: geometry and colour in uint8, as Pillow does them, then normalisation.

use super::Image;
use crate::array::{Array, Dtype};
use crate::error::Result;
use crate::onnx::Dim;
use crate::recipe::{Preprocess, PreprocessOptions};

/// Decides every field: options, then their preset, then the model's declared input (`dtype`, `shape` with the batch axis), then the images' common size, else 224.
/// Returns warnings to print: one when nothing was given and floats are scaled to [0, 1].
///
/// # Errors
/// When options contradict the model or each other.
pub fn resolve(
    _options: &PreprocessOptions,
    _dtype: Dtype,
    _shape: &[Dim],
    _common_image_size: Option<[usize; 2]>,
) -> Result<(Preprocess, Vec<String>)> {
    todo!("helper: data")
}

/// Geometry and colour: the bytes that are stored and fed, in the model's layout (`[C, H, W]` or `[H, W, C]`).
///
/// # Errors
/// When the image cannot be resized (an empty side).
pub fn to_bytes(_preprocess: &Preprocess, _image: &Image) -> Result<Vec<u8>> {
    todo!("helper: data")
}

/// Stored bytes of a batch to the model's input `[N, …]`: `(x·scale − mean)/std` for float inputs, the values themselves for integers.
///
/// # Errors
/// When the byte count is not a multiple of one input's.
pub fn normalize(_preprocess: &Preprocess, _bytes: &[u8]) -> Result<Array> {
    todo!("helper: data")
}

/// Stored bytes of a batch to a student's input, f32 `[N, C, H, W]` whatever the layout of the bytes.
///
/// # Errors
/// As [`normalize`].
pub fn normalize_nchw(_preprocess: &Preprocess, _bytes: &[u8]) -> Result<Vec<f32>> {
    todo!("helper: data")
}
