//! The recipe of one evaluation.

use crate::data::{DataSpec, Preprocess, PreprocessOptions};
use crate::onnx::Feeding;
use std::path::PathBuf;

/// One evaluation of a classifier, as asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluate {
    /// The classifier's ONNX file.
    pub model: PathBuf,
    /// The data set.
    pub data: DataSpec,
    /// Which part of it.
    pub split: String,
    /// The tensor that holds the logits; `None`: the first output, before its softmax.
    pub logits: Option<String>,
    /// File that lists the model's classes, one a line in the order of its logits.
    pub classes: Option<PathBuf>,
    /// The model's classes, where they are known from elsewhere than the model.
    pub recorded_classes: Option<Vec<String>>,
    /// Samples of one run; `None`: what the model fixes, else 64.
    pub batch: Option<usize>,
    /// Only the first so many samples (after `shuffle`).
    pub limit: Option<usize>,
    /// Shuffles the data set with this seed before `limit`.
    pub shuffle: Option<u64>,
    /// Batch axes and values of inputs that the data does not give.
    pub feeding: Feeding,
    /// Preprocessing as given; what it leaves open comes from the model.
    pub preprocess: PreprocessOptions,
    /// Preprocessing where neither says anything.
    pub default_preprocess: PreprocessOptions,
    /// The whole preprocessing, where it is known from elsewhere than the model.
    pub recorded_preprocess: Option<Preprocess>,
}

impl Evaluate {
    /// The evaluation of a classifier on all of a data set's test split.
    #[must_use]
    pub fn new(model: impl Into<PathBuf>, data: DataSpec) -> Self {
        Self {
            model: model.into(),
            data,
            split: "test".to_owned(),
            logits: None,
            classes: None,
            recorded_classes: None,
            batch: None,
            limit: None,
            shuffle: None,
            feeding: Feeding::default(),
            preprocess: PreprocessOptions::default(),
            default_preprocess: PreprocessOptions::default(),
            recorded_preprocess: None,
        }
    }
}
