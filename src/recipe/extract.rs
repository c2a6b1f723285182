//! The recipe of one extraction.

use super::{DataSpec, PreprocessOptions};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What is stored of a tap. Statistics that replace the features come with a later version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// The activations themselves.
    #[default]
    Features,
}

/// The element type of stored features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Store {
    /// f16, or f32 where the first batch's range asks for it.
    #[default]
    Auto,
    /// 16-bit floats; a value beyond 65,504 is an error.
    F16,
    /// 32-bit floats.
    F32,
}

/// One extraction, as asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Extract {
    /// The teacher's ONNX file.
    pub teacher: PathBuf,
    /// The data set.
    pub data: DataSpec,
    /// Which part of it.
    pub split: String,
    /// Taps as written, `TENSOR[:nchw|:nhwc][@HxW][=ALIAS]`; empty: the suggested ones.
    pub taps: Vec<String>,
    /// The tensor that holds the logits, if it is not found by itself.
    pub logits: Option<String>,
    /// What is stored of each tap.
    pub keep: Keep,
    /// Element type of stored features.
    pub store: Store,
    /// Preprocessing as given; what it leaves open comes from the model's metadata.
    pub preprocess: PreprocessOptions,
    /// Preprocessing where neither says anything (the working folder's default).
    pub default_preprocess: PreprocessOptions,
    /// File that lists the teacher's classes, one a line, in the order of its logits.
    pub classes: Option<PathBuf>,
    /// Samples of one inference; `None`: chosen by size.
    pub batch: Option<usize>,
    /// Only the first so many samples (after `shuffle`).
    pub limit: Option<usize>,
    /// Shuffles the data set with this seed before `limit`.
    pub shuffle: Option<u64>,
    /// Seed of the fixed permutation in which rows stand.
    pub seed: u64,
    /// Goes on where samples cannot be read, leaving them out.
    pub skip_bad: bool,
    /// The cache's folder.
    pub output: PathBuf,
    /// Total compute threads.
    pub threads: usize,
}
