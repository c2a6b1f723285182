//! The recipe of one extraction.

use super::{CriterionRecipe, Keep, LogitsChoice, LogitsKeep};
use crate::data::{Augmentation, DataSpec, PreprocessOptions, ViewCount};
use crate::onnx::Feeding;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// The element type of stored features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Store {
    /// f16, or f32 if the first batch's range requires it.
    #[default]
    Auto,
    /// 16-bit floats; a value beyond ±65,504 is an error.
    F16,
    /// 32-bit floats.
    F32,
}

/// Whether stored chunks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compress {
    /// With zstd, for each array that it makes at least a tenth smaller.
    #[default]
    Auto,
    /// Not at all: the bytes on disk are the values, and reading only costs a checksum.
    None,
    /// With zstd, for every array.
    Zstd,
}

/// Where a training run gets a cache's inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inputs {
    /// The cache stores them.
    Stored,
    /// They are decoded from the data set again, with the view parameters stored in the cache.
    Source,
}

/// An extraction, as requested.
#[derive(Debug, Clone, PartialEq)]
pub struct Extract {
    /// The teacher's ONNX file.
    pub teacher: PathBuf,
    /// The data set.
    pub data: DataSpec,
    /// The split of the data set.
    pub split: String,
    /// Taps as written, `TENSOR[:nchw|:nhwc][@HxW][=ALIAS]`; empty for those that the cache has,
    /// else the suggested ones.
    pub taps: Vec<String>,
    /// The class logits.
    pub logits: LogitsChoice,
    /// What is kept of the class logits; `None` for what the cache has of them, else all.
    pub logits_keep: Option<LogitsKeep>,
    /// Of logits at positions the input that is 0 at those that don't count; `None` for that of
    /// the cache, else none.
    pub logits_mask: Option<String>,
    /// The forms of each map to store.
    pub keep: Keep,
    /// The criteria that will be computed from the cache, if known: [`Keep::Auto`] keeps what they
    /// need.
    pub criteria: Vec<CriterionRecipe>,
    /// Height and width of the maps that the taps will be compared with, if known, shallowest
    /// first: larger maps are pooled to these sizes.
    pub sizes: Vec<[usize; 2]>,
    /// Whether statistics are computed by nodes appended to the teacher's graph; `None` to do so
    /// unless it runs on the CPU.
    pub in_graph: Option<bool>,
    /// Element type of stored features.
    pub store: Store,
    /// Whether chunks are compressed.
    pub compress: Compress,
    /// Batch axes and values of the teacher's inputs that neither the teacher nor the data
    /// provides.
    pub feeding: Feeding,
    /// Preprocessing as given; missing parts come from the model's metadata.
    pub preprocess: PreprocessOptions,
    /// Preprocessing for parts that neither provides (the working folder's default).
    pub default_preprocess: PreprocessOptions,
    /// A file that lists the teacher's classes, one per line, in the order of its logits.
    pub classes: Option<PathBuf>,
    /// Samples per inference; `None` to choose by size.
    pub batch: Option<usize>,
    /// Use only this many samples, the first ones after `shuffle`.
    pub limit: Option<usize>,
    /// Shuffles the data set with this seed before `limit`.
    pub shuffle: Option<u64>,
    /// The number of views of each sample.
    pub views: ViewCount,
    /// The augmentation that creates the views.
    pub augmentation: Augmentation,
    /// Whether inputs are stored; `None` for the cache's current choice, else by size.
    pub inputs: Option<Inputs>,
    /// Seed of the fixed permutation of the rows, and of the views.
    pub seed: u64,
    /// Leaves out samples that cannot be read, and continues.
    pub skip_bad: bool,
    /// Recomputes the rows of samples that have changed.
    pub refresh: bool,
    /// The cache's folder.
    pub output: PathBuf,
    /// Total compute threads.
    pub threads: usize,
}

impl Extract {
    /// The defaults of `nst-cache extract`: the suggested taps of all of `train`, images as they
    /// are, all cores.
    #[must_use]
    pub fn new(teacher: impl Into<PathBuf>, data: DataSpec, output: impl Into<PathBuf>) -> Self {
        Self {
            teacher: teacher.into(),
            data,
            split: "train".to_owned(),
            taps: Vec::new(),
            logits: LogitsChoice::Auto,
            logits_keep: None,
            logits_mask: None,
            keep: Keep::Auto,
            criteria: Vec::new(),
            sizes: Vec::new(),
            in_graph: None,
            store: Store::Auto,
            compress: Compress::Auto,
            feeding: Feeding::default(),
            preprocess: PreprocessOptions::default(),
            default_preprocess: PreprocessOptions::default(),
            classes: None,
            batch: None,
            limit: None,
            shuffle: None,
            views: ViewCount::Count(1),
            augmentation: Augmentation::NONE,
            inputs: None,
            seed: 0,
            skip_bad: false,
            refresh: false,
            output: output.into(),
            threads: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        }
    }
}
