//! The recipe of one evaluation.

use super::LogitsChoice;
use crate::data::{DataSpec, Preprocess, PreprocessOptions};
use crate::error::{Error, Result};
use crate::onnx::Feeding;
use std::path::PathBuf;
use std::str::FromStr;

/// How an output is read where the user says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// Scores of classes, of which the largest decides.
    Classes,
    /// Independent scores of several labels.
    Labels,
    /// Numbers.
    Values,
}

/// `OUTPUT=classes`, `OUTPUT=labels` or `OUTPUT=values`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputReading {
    /// The name of the student's output, or of the teacher's.
    pub output: String,
    /// How it is read.
    pub kind: OutputKind,
}

impl FromStr for OutputReading {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::input(format!(
                "expected OUTPUT=classes, OUTPUT=labels or OUTPUT=values, found `{text}`"
            ))
        };
        let (output, kind) = split(text).ok_or_else(wrong)?;
        let kind = match kind {
            "classes" => OutputKind::Classes,
            "labels" => OutputKind::Labels,
            "values" => OutputKind::Values,
            _ => return Err(wrong()),
        };
        Ok(Self { output: output.to_owned(), kind })
    }
}

/// `STUDENT=TEACHER`: an output or tensor of the student, and the one of the teacher, or the array
/// of a cache, that it is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputPair {
    /// The student's.
    pub student: String,
    /// The teacher's.
    pub teacher: String,
}

impl FromStr for OutputPair {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (student, teacher) = split(text)
            .ok_or_else(|| Error::input(format!("expected STUDENT=TEACHER, found `{text}`")))?;
        Ok(Self { student: student.to_owned(), teacher: teacher.to_owned() })
    }
}

/// Both sides of the last `=`, neither of them empty.
fn split(text: &str) -> Option<(&str, &str)> {
    text.rsplit_once('=').filter(|(left, right)| !left.is_empty() && !right.is_empty())
}

/// A k-NN evaluation of embeddings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Knn {
    /// The split whose samples vote.
    pub bank: String,
    /// The output or tensor that holds the embeddings; `None`: the only output that can be one.
    pub output: Option<String>,
    /// Whether the preprocessed pixels are the embeddings, and no model runs.
    pub of_pixels: bool,
}

/// One evaluation of a model, as asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluate {
    /// The model's ONNX file.
    pub model: PathBuf,
    /// The data set; not needed against a cache, which has its own samples.
    pub data: Option<DataSpec>,
    /// Which part of it.
    pub split: String,
    /// Where the class logits are.
    pub logits: LogitsChoice,
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
    /// The teacher's ONNX file, or a cache of its values, to compare the outputs with.
    pub against: Option<PathBuf>,
    /// The teacher's preprocessing as given; what it leaves open is the model's.
    pub against_preprocess: PreprocessOptions,
    /// The outputs to compare; empty: those that are alike by name, shape or position.
    pub pairs: Vec<OutputPair>,
    /// How outputs are read where the model does not show it.
    pub readings: Vec<OutputReading>,
    /// Judges embeddings by their nearest neighbors instead.
    pub knn: Option<Knn>,
}

impl Evaluate {
    /// The evaluation of a classifier on all of a data set's test split.
    #[must_use]
    pub fn new(model: impl Into<PathBuf>, data: DataSpec) -> Self {
        Self { data: Some(data), ..Self::of_model(model) }
    }

    /// The comparison of a model's outputs with a teacher's in a cache, or where `data` is set to a
    /// data set, with those of its ONNX file.
    #[must_use]
    pub fn against(model: impl Into<PathBuf>, teacher: impl Into<PathBuf>) -> Self {
        Self { against: Some(teacher.into()), ..Self::of_model(model) }
    }

    /// The evaluation of a classifier on a data set that is still to be named.
    #[must_use]
    pub fn of_model(model: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            data: None,
            split: "test".to_owned(),
            logits: LogitsChoice::Auto,
            classes: None,
            recorded_classes: None,
            batch: None,
            limit: None,
            shuffle: None,
            feeding: Feeding::default(),
            preprocess: PreprocessOptions::default(),
            default_preprocess: PreprocessOptions::default(),
            recorded_preprocess: None,
            against: None,
            against_preprocess: PreprocessOptions::default(),
            pairs: Vec::new(),
            readings: Vec::new(),
            knn: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_and_a_reading_are_two_names() {
        let pair = |text: &str| text.parse::<OutputPair>().map(|pair| (pair.student, pair.teacher));
        assert_eq!(pair("a=b").unwrap(), ("a".into(), "b".into()));
        assert_eq!(pair("a=b=c").unwrap(), ("a=b".into(), "c".into()));
        for text in ["a", "a=", "=b", ""] {
            assert!(pair(text).unwrap_err().to_string().contains("STUDENT=TEACHER"), "{text}");
        }
        let reading = "y=labels".parse::<OutputReading>().unwrap();
        assert_eq!((reading.output.as_str(), reading.kind), ("y", OutputKind::Labels));
        let error = "y=numbers".parse::<OutputReading>().unwrap_err().to_string();
        assert!(error.contains("OUTPUT=values") && error.contains("`y=numbers`"), "{error}");
    }
}
