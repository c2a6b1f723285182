//! From stored bytes to the arrays that the model is fed.

use crate::array::{Array, Dtype};
use crate::data::{Preprocess, preprocess};
use crate::error::Result;
use crate::onnx::feed::Constant;
use std::borrow::Cow;

/// One input of the teacher as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Input {
    /// Its name in the model.
    pub(crate) name: String,
    /// The path of its array in the cache.
    pub(crate) path: String,
    /// Its stored type: `uint8` for images.
    pub(crate) dtype: Dtype,
    /// Shape of one stored row.
    pub(crate) row_shape: Vec<usize>,
    /// Name of each axis of a row.
    pub(crate) axes: Vec<String>,
    /// The batch's axis in the model's input.
    pub(crate) batch_axis: usize,
    /// The type that the model takes.
    pub(crate) fed: Dtype,
}

impl Input {
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// Stored bytes as the model takes them, padded to `rows` rows with copies of the last.
///
/// # Errors
/// When the bytes are not whole rows.
fn fed(
    input: &Input,
    preprocess: Option<&Preprocess>,
    stored: &[u8],
    rows: usize,
) -> Result<Array> {
    let row = input.row_bytes();
    let mut padded = Cow::Borrowed(stored);
    while padded.len() < rows * row {
        let last = padded.len() - row;
        padded.to_mut().extend_from_within(last..);
    }
    let stacked = match preprocess {
        Some(preprocess) => preprocess::normalize(preprocess, &padded)?,
        None => {
            Array::from_bytes(input.dtype, [&[rows], input.row_shape.as_slice()].concat(), &padded)?
                .converted(input.fed)?
        }
    };
    stacked.with_first_axis_at(input.batch_axis)
}

/// How a model is fed: inputs with the preprocessing of images, and constant inputs.
#[derive(Clone, Copy)]
pub(crate) struct Fed<'a> {
    pub(crate) inputs: &'a [Input],
    pub(crate) preprocess: Option<&'a Preprocess>,
    pub(crate) constants: &'a [Constant],
}

/// Each input by name, constant ones last, from the stored bytes of `rows` rows.
///
/// # Errors
/// When the bytes are not whole rows.
pub(crate) fn named(how: Fed<'_>, stored: &[Vec<u8>], rows: usize) -> Result<Vec<(String, Array)>> {
    let inputs =
        how.inputs.iter().zip(stored).map(|(input, bytes)| {
            Ok((input.name.clone(), fed(input, how.preprocess, bytes, rows)?))
        });
    let constants =
        how.constants.iter().map(|constant| Ok((constant.tensor.clone(), constant.array(rows)?)));
    inputs.chain(constants).collect()
}
