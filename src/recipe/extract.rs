//! The recipe of one extraction.

use super::{CriterionRecipe, Keep};
use crate::data::{Augmentation, DataSpec, PreprocessOptions, ViewCount};
use crate::onnx::Feeding;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::path::PathBuf;

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

/// Whether stored chunks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compress {
    /// With zstd, each array that it makes at least a tenth smaller.
    #[default]
    Auto,
    /// Not at all: the disk's bytes are the values, and reading costs a checksum alone.
    None,
    /// With zstd, every array.
    Zstd,
}

/// Where a training run takes the inputs of a cache from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inputs {
    /// They lie in the cache.
    Stored,
    /// They are decoded from the data set again, with the views' parameters in the cache.
    Source,
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
    /// Taps as written, `TENSOR[:nchw|:nhwc][@HxW][=ALIAS]`; empty: those that the cache has, else
    /// the suggested ones.
    pub taps: Vec<String>,
    /// The tensor that holds the logits, if it is not found by itself.
    pub logits: Option<String>,
    /// What is stored of each map.
    pub keep: Keep,
    /// The criteria that will be computed from the cache, where that is known: [`Keep::Auto`] keeps
    /// what they need.
    pub criteria: Vec<CriterionRecipe>,
    /// Height and width of the maps that the taps will be compared with, where that is known,
    /// shallowest first: larger maps are pooled to them.
    pub sizes: Vec<[usize; 2]>,
    /// Whether statistics are computed by nodes appended to the teacher's graph; `None`: where it
    /// does not run on the CPU.
    pub in_graph: Option<bool>,
    /// Element type of stored features.
    pub store: Store,
    /// Whether chunks are compressed.
    pub compress: Compress,
    /// Batch axes and values of the teacher's inputs, where it does not say them or the data does
    /// not give them.
    pub feeding: Feeding,
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
    /// How many views of each sample.
    pub views: ViewCount,
    /// What they are made of.
    pub augmentation: Augmentation,
    /// Whether inputs are stored; `None`: as the cache has it, else by size.
    pub inputs: Option<Inputs>,
    /// Seed of the fixed permutation in which rows stand, and of the views.
    pub seed: u64,
    /// Goes on where samples cannot be read, leaving them out.
    pub skip_bad: bool,
    /// Computes the rows of samples that have changed again.
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
            logits: None,
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
