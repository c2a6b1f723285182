//! Data sets: samples by index, labels, class names, a fingerprint; one file a format. Every byte read here is hostile.

pub mod augment;
pub mod preprocess;

use crate::array::Array;
use crate::error::Result;
use crate::recipe::{DataFormat, DataSpec};
use serde::{Deserialize, Serialize};

/// A decoded image: 8-bit, rows of pixels of 1 (grey) or 3 (RGB) channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// 1 or 3.
    pub channels: usize,
    /// `[height, width, channels]`, row-major.
    pub pixels: Vec<u8>,
}

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub enum Sample {
    /// An image, to be preprocessed.
    Image(Image),
    /// Arrays by input name, without the batch axis, fed as they are.
    Arrays(Vec<(String, Array)>),
}

/// What identifies a data set's content: a resume and a training run compare it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// The layout.
    pub format: DataFormat,
    /// Samples in the whole split (before any limit).
    pub samples: usize,
    /// SHA-256 over every file's path relative to the root and size, in canonical order (and over small index files' bytes).
    pub listing_sha256: String,
}

/// A data set open for reading; samples are numbered in a canonical order that depends on content alone (byte order of paths).
pub trait Dataset: Send + Sync {
    /// How many samples there are.
    fn len(&self) -> usize;
    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads and decodes one sample. Called from many threads at once.
    ///
    /// # Errors
    /// Names the file (or row) and what is wrong with it.
    fn sample(&self, index: usize) -> Result<Sample>;
    /// The label, −1 for an unlabelled sample.
    fn label(&self, index: usize) -> i64;
    /// The sample's name in messages: the path inside the data set, or `row 17`.
    fn name(&self, index: usize) -> String;
    /// Class names in label order; empty when there are none.
    fn classes(&self) -> &[String];
    /// What identifies the content.
    fn fingerprint(&self) -> &Fingerprint;
}

/// Opens a split. A format without splits accepts `train` only by its default… see each format. A bare path is recognised by what is there.
///
/// # Errors
/// When nothing is there, it is no known layout, or a file is damaged.
pub fn open(_spec: &DataSpec, _split: &str) -> Result<Box<dyn Dataset>> {
    todo!("helper: data")
}
