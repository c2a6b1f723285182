//! What a manifest records of the teacher, the data, the logits and each tap.

use crate::data::{Fingerprint, Preprocess};
use crate::onnx::BatchNorm;
use crate::onnx::feed::Constant;
use crate::onnx::tap::Role;
use crate::statistic::MapShape;
use serde::{Deserialize, Serialize};

/// The teacher and how it was run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherRecord {
    /// File name, for people.
    pub file: String,
    /// SHA-256 of the model and its external data.
    pub sha256: String,
    /// ONNX Runtime's version, and the optimization level if it was limited.
    pub runtime: String,
    /// Execution provider: `cpu`, `cuda:0`.
    pub provider: String,
    /// Samples per inference.
    pub batch: usize,
    /// Inputs that had the same value for every sample.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constants: Vec<Constant>,
    /// The teacher's top-1 accuracy on the cached rows in basis points (1/100 %), if there are
    /// labels; set with the last segment.
    pub top1_basis_points: Option<u32>,
}

/// The data that the teacher was run on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecord {
    /// The data set as the user named it (`idx:fashion`), for people and as the default of
    /// `--test`.
    pub spec: String,
    /// The split, `train` for example.
    pub split: String,
    /// Identifies the content.
    pub fingerprint: Fingerprint,
    /// Class names in label order.
    pub classes: Vec<String>,
    /// Preprocessing of images; `None` for arrays that are fed unchanged.
    pub preprocess: Option<Preprocess>,
    /// The maximum number of samples (`--limit`).
    pub limit: Option<usize>,
    /// Seed of the shuffle before the limit.
    pub shuffle: Option<u64>,
    /// Indices of samples skipped as unreadable (`--skip-bad`).
    pub skipped: Vec<u64>,
}

/// One stored tap of the teacher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TapRecord {
    /// Name in the cache: `taps/<alias>/<statistic>`.
    pub alias: String,
    /// The ONNX tensor that is tapped.
    pub tensor: String,
    /// How distillation uses it.
    pub role: Role,
    /// The spatial stage it belongs to, if any.
    pub stage: Option<usize>,
    /// Whether it is an output of the teacher.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub output: bool,
    /// What makes an output's values, where they are not plain: `softmax`, `log-softmax` or
    /// `sigmoid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
    /// The map that its statistics are computed from; `None` if only the features are stored, whose
    /// array implies it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<MapShape>,
    /// The batch normalization that produces it, if it is an activation's input and the teacher's
    /// file contains one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_norm: Option<BatchNorm>,
}
