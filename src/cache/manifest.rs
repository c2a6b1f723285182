//! `manifest.json`: what the cache was made of and which segments are published. The commit point.

use crate::array::Dtype;
use crate::data::Fingerprint;
use crate::onnx::tap::Role;
use crate::recipe::Preprocess;
use serde::{Deserialize, Serialize};

/// How the chunks of an array are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Codec {
    /// bytes → zstd (level 1, checksum) → crc32c.
    Zstd,
    /// bytes → crc32c, where a probe shows that zstd saves under 10 %.
    Raw,
}

/// One array of the cache over `[view, row, …]` (or `[row]`, see `per_view`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArraySpec {
    /// Path in the group: `input`, `inputs/<name>`, `logits`, `taps/<alias>/features`, `label`, `sample_id`.
    pub path: String,
    /// Element type as stored.
    pub dtype: Dtype,
    /// Shape of one row.
    pub row_shape: Vec<usize>,
    /// Name of each axis of a row: `c`, `h`, `w`, `class`, `t` …
    pub axes: Vec<String>,
    /// The ONNX tensor it holds, for `logits` and taps.
    pub tensor: Option<String>,
    /// Encoding of its chunks.
    pub codec: Codec,
    /// Rows of an inner chunk; divides the segment length.
    pub chunk_rows: usize,
}

impl ArraySpec {
    /// Bytes of one decoded row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.row_shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// The teacher that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherRecord {
    /// File name, for people.
    pub file: String,
    /// SHA-256 of the model and its external data.
    pub sha256: String,
    /// ONNX Runtime's version.
    pub runtime: String,
    /// Execution provider: `cpu`, `cuda:0`.
    pub provider: String,
    /// Samples of one inference.
    pub batch: usize,
    /// The teacher's top-1 on the cached rows in percent times 100, where there are labels; set at the last segment.
    pub top1_basis_points: Option<u32>,
}

/// The data that went in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecord {
    /// As the user named it (`idx:fashion`), for people and as the default of `--test`.
    pub spec: String,
    /// The split.
    pub split: String,
    /// What identifies the content.
    pub fingerprint: Fingerprint,
    /// Class names in label order.
    pub classes: Vec<String>,
    /// Preprocessing of images; `None` for arrays fed as they are.
    pub preprocess: Option<Preprocess>,
    /// Samples taken (`--limit`).
    pub limit: Option<usize>,
    /// Seed of the shuffle before the limit.
    pub shuffle: Option<u64>,
    /// Samples left out as unreadable (`--skip-bad`), by index.
    pub skipped: Vec<u64>,
}

/// A stored tap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TapRecord {
    /// Name in the cache: `taps/<alias>/features`.
    pub alias: String,
    /// The ONNX tensor.
    pub tensor: String,
    /// What it is to distillation.
    pub role: Role,
    /// Its spatial stage, if it has one.
    pub stage: Option<usize>,
}

/// A published segment: `segment_rows` rows of one view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Which view.
    pub view: usize,
    /// Which segment of the view.
    pub index: usize,
    /// Length of each array's shard in bytes, in the order of the view arrays.
    pub bytes: Vec<u64>,
    /// CRC-32C of each array's shard.
    pub crc32c: Vec<u32>,
}

/// The whole manifest. Written as JSON with a checksum of its own over everything else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the on-disk format; this code reads and writes [`Manifest::FORMAT`].
    pub format: u32,
    /// The tool that wrote it, `nst-cache 0.1.0`.
    pub tool: String,
    /// The teacher.
    pub teacher: TeacherRecord,
    /// The data.
    pub data: DataRecord,
    /// The taps.
    pub taps: Vec<TapRecord>,
    /// Rows of a view (without padding).
    pub rows: usize,
    /// Views.
    pub views: usize,
    /// Seed of the permutation in which rows stand.
    pub seed: u64,
    /// Rows of a segment: the shard length of every view array.
    pub segment_rows: usize,
    /// Arrays over `[row]`, written whole at the start: `sample_id`, `label`.
    pub row_arrays: Vec<ArraySpec>,
    /// Arrays over `[view, row, …]`.
    pub view_arrays: Vec<ArraySpec>,
    /// What is published.
    pub segments: Vec<Segment>,
}

impl Manifest {
    /// The format version of this code.
    pub const FORMAT: u32 = 1;

    /// Segments of one view.
    #[must_use]
    pub fn segments_per_view(&self) -> usize {
        self.rows.div_ceil(self.segment_rows)
    }

    /// Whether every segment of every view is published.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.segments.len() == self.segments_per_view() * self.views
    }
}
