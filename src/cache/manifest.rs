//! `manifest.json`: what the cache was made of and which segments are published. The commit point.

use super::shard::{ShardLayout, Sum};
use super::{document, zarr};
use crate::array::{Dtype, Layout};
use crate::data::augment::Parameter;
use crate::data::{Augmentation, Fingerprint, Preprocess};
use crate::error::{Error, Result};
use crate::onnx::BatchNorm;
use crate::onnx::feed::Constant;
use crate::onnx::logits::Conversion;
use crate::onnx::tap::Role;
use crate::statistic::{MapShape, Statistic};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

/// The row array of each row's index in the data set.
pub(super) const SAMPLE_ID: &str = "sample_id";
/// The row array of labels.
pub(super) const LABEL: &str = "label";
/// The longest chunk, decoded: a reader allocates one.
const CHUNK_BYTES_MAX: u64 = 1 << 30;
/// Rows of all views; with chunks bounded, no product of the two overflows.
const ROWS_MAX: u64 = 1 << 40;

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
    /// Path in the group: `input`, `inputs/<name>`, a view's parameters (`crop`, `flip` …),
    /// `logits`, `taps/<alias>/<statistic>`, `label`, `sample_id`.
    pub path: String,
    /// Element type as stored.
    pub dtype: Dtype,
    /// Shape of one row.
    pub row_shape: Vec<usize>,
    /// Name of each axis of a row: `c`, `h`, `w`, `class`, `t` …
    pub axes: Vec<String>,
    /// The ONNX tensor it holds, for `logits` and taps.
    pub tensor: Option<String>,
    /// Of an input: where the batch stands among the axes of what the teacher was fed, if not on
    /// the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_axis: Option<usize>,
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherRecord {
    /// File name, for people.
    pub file: String,
    /// SHA-256 of the model and its external data.
    pub sha256: String,
    /// ONNX Runtime's version, and how far it might optimize where that was limited.
    pub runtime: String,
    /// Execution provider: `cpu`, `cuda:0`.
    pub provider: String,
    /// Samples of one inference.
    pub batch: usize,
    /// Inputs that got the same value for every sample.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constants: Vec<Constant>,
    /// The teacher's top-1 on the cached rows in percent times 100, where there are labels; set at
    /// the last segment.
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TapRecord {
    /// Name in the cache: `taps/<alias>/<statistic>`.
    pub alias: String,
    /// The ONNX tensor.
    pub tensor: String,
    /// What it is to distillation.
    pub role: Role,
    /// Its spatial stage, if it has one.
    pub stage: Option<usize>,
    /// The map that its statistics are of; `None` where it has none beside the features, whose
    /// array says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<MapShape>,
    /// The batch normalisation that it comes from, where it stands before an activation and the
    /// teacher's file has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_norm: Option<BatchNorm>,
}

/// What a reader has to know of logits that are no tensor of the teacher over the labels' classes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogitsRecord {
    /// What they were made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_of: Option<Conversion>,
    /// Whether they tell other classes apart than the labels do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub other_classes: bool,
}

/// A published segment: `segment_rows` rows of one view, in the first so many of the view arrays.
/// All of them, but while arrays are added to a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Which view.
    pub view: usize,
    /// Which segment of the view.
    pub index: usize,
    /// Length of each array's shard in bytes, in the order of the view arrays.
    pub bytes: Vec<u64>,
    /// Digest of each array's shard: the CRC-32C over the checksums of its chunks and index.
    pub crc32c: Vec<u32>,
}

impl Segment {
    /// Length and digest of the shard of a view array (by its place), if it is published.
    #[must_use]
    pub fn sum(&self, array: usize) -> Option<Sum> {
        let (bytes, crc32c) = (*self.bytes.get(array)?, *self.crc32c.get(array)?);
        Some(Sum { bytes, crc32c })
    }
}

/// How much of a cache was complete before views or arrays were added to it, and is left as it is
/// while they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// The first so many views.
    pub views: usize,
    /// The first so many taps.
    pub taps: usize,
    /// The first so many view arrays.
    pub view_arrays: usize,
}

/// The whole manifest. Written as JSON with a checksum of its own over everything else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the on-disk format: the lowest that can say what the cache is, see
    /// [`Manifest::lowest_format`].
    pub format: u32,
    /// The tool that wrote it, `nst-cache 0.1.0`.
    pub tool: String,
    /// The teacher.
    pub teacher: TeacherRecord,
    /// The data.
    pub data: DataRecord,
    /// What there is to know of the logits; `None`: they are the teacher's, over the labels'
    /// classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logits: Option<LogitsRecord>,
    /// The taps.
    pub taps: Vec<TapRecord>,
    /// Rows of a view (without padding).
    pub rows: usize,
    /// Views.
    pub views: usize,
    /// What the views are made of; `None`: one view, the images as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<Augmentation>,
    /// Seed of the permutation in which rows stand, and of the views' parameters.
    pub seed: u64,
    /// Rows of a segment: the shard length of every view array.
    pub segment_rows: usize,
    /// Arrays over `[row]`, written whole at the start: `sample_id`, `label`.
    pub row_arrays: Vec<ArraySpec>,
    /// Of each row array's shard, in their order; empty in a cache of a format before 6.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub row_sums: Vec<Sum>,
    /// Arrays over `[view, row, …]`.
    pub view_arrays: Vec<ArraySpec>,
    /// What was complete before the views and arrays that are being added; `None`: nothing was,
    /// or all is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extends: Option<Extent>,
    /// What is published, by view, then index.
    pub segments: Vec<Segment>,
}

impl Manifest {
    /// The format version of a cache without augmentation.
    pub const FORMAT: u32 = 1;
    /// The format version of a cache with it: who knows the former alone would take a mixed
    /// sample's label for the whole truth.
    pub const FORMAT_AUGMENTED: u32 = 2;
    /// The format version of a cache with statistics or a tap's batch normalisation, augmented or
    /// not.
    pub const FORMAT_STATISTICS: u32 = 3;
    /// The format version of a cache with a record of its logits: who knows no such record would
    /// compare other classes with each other.
    pub const FORMAT_LOGITS: u32 = 4;

    /// The format version of a cache whose teacher was fed in another way than by arrays of the
    /// first types with the batch in front.
    pub const FORMAT_FEEDING: u32 = 5;
    /// The format version of a cache whose row arrays have digests too: every one that this
    /// version writes.
    pub const FORMAT_SUMS: u32 = 6;
    /// The last that this version reads.
    pub const FORMAT_LAST: u32 = Self::FORMAT_SUMS;

    /// The format version that this manifest has to have.
    #[must_use]
    pub fn lowest_format(&self) -> u32 {
        let known = |dtype| {
            matches!(
                dtype,
                Dtype::U8 | Dtype::I32 | Dtype::I64 | Dtype::F16 | Dtype::F32 | Dtype::F64
            )
        };
        let is_new = |spec: &ArraySpec| spec.batch_axis.is_some() || !known(spec.dtype);
        let images = self.data.preprocess.as_ref();
        let is_fed_anew = images.is_some_and(|p| !known(p.dtype) || p.exif_orientation);
        if !self.row_sums.is_empty() || self.extends.is_some() {
            Self::FORMAT_SUMS
        } else if !self.teacher.constants.is_empty()
            || self.view_arrays.iter().any(is_new)
            || is_fed_anew
        {
            Self::FORMAT_FEEDING
        } else if self.logits.is_some() {
            Self::FORMAT_LOGITS
        } else if self.taps.iter().any(|tap| tap.map.is_some() || tap.batch_norm.is_some()) {
            Self::FORMAT_STATISTICS
        } else if self.augment.is_some() {
            Self::FORMAT_AUGMENTED
        } else {
            Self::FORMAT
        }
    }

    /// The tap of this alias.
    #[must_use]
    pub fn tap(&self, alias: &str) -> Option<&TapRecord> {
        self.taps.iter().find(|tap| tap.alias == alias)
    }

    /// The statistics that the cache holds of a tap, each with its array.
    pub fn statistics<'a>(
        &'a self,
        alias: &'a str,
    ) -> impl Iterator<Item = (Statistic, &'a ArraySpec)> {
        self.view_arrays.iter().filter_map(move |spec| match Statistic::of_path(&spec.path) {
            Some((of, statistic)) if of == alias => Some((statistic, spec)),
            _ => None,
        })
    }

    /// The map that a tap's arrays hold or are of.
    #[must_use]
    pub fn map(&self, alias: &str) -> Option<MapShape> {
        let recorded = self.tap(alias).and_then(|tap| tap.map);
        recorded.or_else(|| {
            self.statistics(alias).find_map(|(statistic, spec)| features_map(statistic, spec))
        })
    }

    /// Segments of one view.
    #[must_use]
    pub fn segments_per_view(&self) -> usize {
        self.rows.div_ceil(self.segment_rows)
    }

    /// Segments of all views.
    #[must_use]
    pub fn segments_total(&self) -> usize {
        self.segments_per_view() * self.views
    }

    /// Segments that are published in all arrays.
    #[must_use]
    pub fn whole_segments(&self) -> usize {
        self.segments.iter().filter(|s| s.bytes.len() == self.view_arrays.len()).count()
    }

    /// Whether every segment of every view is published.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.whole_segments() == self.segments_total()
    }

    /// A row array by path, and what is known of its shard.
    pub(super) fn row_array(&self, path: &str) -> Option<(&ArraySpec, Option<Sum>)> {
        let at = self.row_arrays.iter().position(|spec| spec.path == path)?;
        Some((self.row_arrays.get(at)?, self.row_sums.get(at).copied()))
    }

    /// Of a cache to which views or arrays are being added, what it was before.
    #[must_use]
    pub fn before_extension(&self) -> Option<Self> {
        let Extent { views, taps, view_arrays } = self.extends?;
        let mut part = Self { extends: None, views, ..self.clone() };
        part.taps.truncate(taps);
        part.view_arrays.truncate(view_arrays);
        part.segments.retain(|segment| segment.view < views);
        for segment in &mut part.segments {
            segment.bytes.truncate(view_arrays);
            segment.crc32c.truncate(view_arrays);
        }
        for tap in &mut part.taps {
            // a map came with the first statistic beside the features
            let stored = part.view_arrays.iter().filter_map(|spec| Statistic::of_path(&spec.path));
            let is_more = |(of, statistic): (&str, Statistic)| {
                of == tap.alias && statistic != Statistic::Features
            };
            tap.map = tap.map.filter(|_| stored.clone().any(is_more));
        }
        part.logits =
            part.logits.filter(|_| part.view_arrays.iter().any(|spec| spec.path == "logits"));
        part.format = part.lowest_format();
        Some(part)
    }

    /// Forgets what was complete before an extension where that is no longer so, or all is.
    pub(super) fn settle(&mut self) {
        let is_whole = |part: Self| part.is_complete();
        if self.is_complete() || !self.before_extension().is_some_and(is_whole) {
            self.extends = None;
        }
        self.format = self.lowest_format();
    }

    /// Whether the inputs lie in the cache; else they are decoded from the data again.
    #[must_use]
    pub fn stores_inputs(&self) -> bool {
        self.view_arrays.iter().any(ArraySpec::is_input)
    }

    /// Rows of data in a segment: `segment_rows`, fewer in the last one.
    #[must_use]
    pub fn rows_of_segment(&self, segment: usize) -> usize {
        self.rows.saturating_sub(segment * self.segment_rows).min(self.segment_rows)
    }

    /// The rows of a segment, within a view.
    pub(super) fn row_range(&self, segment: usize) -> Range<usize> {
        let first = segment * self.segment_rows;
        first..first + self.rows_of_segment(segment)
    }

    /// How many of a segment's arrays are published: the first so many.
    #[must_use]
    pub fn published_arrays(&self, view: usize, index: usize) -> usize {
        self.segment(view, index).map_or(0, |segment| segment.bytes.len())
    }

    /// A segment's record, if any array of it is published.
    #[must_use]
    pub fn segment(&self, view: usize, index: usize) -> Option<&Segment> {
        let at = self.segments.binary_search_by_key(&(view, index), |s| (s.view, s.index)).ok()?;
        self.segments.get(at)
    }

    /// Reads the manifest of the cache in `folder`, complete or not; `None` when there is none.
    ///
    /// # Errors
    /// When it is damaged, or of a newer format.
    pub fn find(folder: &Path) -> Result<Option<Self>> {
        document::load(folder)
    }

    /// Reads the manifest of the cache in `folder`, complete or not.
    ///
    /// # Errors
    /// When there is none, it is damaged, or of a newer format.
    pub fn load(folder: &Path) -> Result<Self> {
        Self::find(folder)?.ok_or_else(|| {
            Error::input(format!(
                "{}: no cache there (expected a folder with {})",
                folder.display(),
                document::NAME
            ))
            .hint("`nst-cache extract` makes one")
        })
    }

    /// The layout of a row array's only shard: rows rounded up to whole segments.
    pub(super) fn row_layout(&self, spec: &ArraySpec) -> ShardLayout {
        ShardLayout::new(spec, self.segments_per_view() * self.segment_rows, self.rows)
    }

    /// The layout of a view array's shard for a segment.
    pub(super) fn view_layout(&self, spec: &ArraySpec, segment: usize) -> ShardLayout {
        ShardLayout::new(spec, self.segment_rows, self.rows_of_segment(segment))
    }

    /// Checks every number and name that other code computes with: after this, products fit and
    /// paths stay inside the folder.
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.format != self.lowest_format() {
            return Err(format!(
                "format: expected {}, found {}",
                self.lowest_format(),
                self.format
            ));
        }
        let padded = self
            .rows
            .checked_next_multiple_of(self.segment_rows.max(1))
            .and_then(|r| r.checked_mul(self.views));
        if self.rows == 0
            || self.views == 0
            || self.segment_rows == 0
            || padded.is_none_or(|p| p as u64 > ROWS_MAX)
        {
            return Err(format!(
                "expected rows, views and segment_rows above 0 and their product within 2^40, \
                 found {}, {}, {}",
                self.rows, self.views, self.segment_rows
            ));
        }
        let named = |arrays: &[ArraySpec], path| arrays.iter().any(|a: &ArraySpec| a.path == path);
        if self.row_arrays.len() != 2
            || !named(&self.row_arrays, SAMPLE_ID)
            || !named(&self.row_arrays, LABEL)
        {
            return Err(format!("row_arrays: expected {SAMPLE_ID} and {LABEL}"));
        }
        for spec in &self.row_arrays {
            if spec.dtype != Dtype::I64 || !spec.row_shape.is_empty() {
                return Err(format!("array {}: expected one int64 a row", spec.path));
            }
        }
        let mut paths = HashSet::new();
        for spec in self.row_arrays.iter().chain(&self.view_arrays) {
            spec.validate(self.segment_rows).map_err(|e| format!("array `{}`: {e}", spec.path))?;
            if !paths.insert(spec.path.to_ascii_lowercase()) {
                return Err(format!(
                    "array `{}`: the path is there twice (case does not count)",
                    spec.path
                ));
            }
        }
        if let Some(inner) = paths.iter().find(|p| {
            p.match_indices('/')
                .any(|(at, _)| p.get(..at).is_some_and(|outer| paths.contains(outer)))
        }) {
            return Err(format!("array `{inner}`: its path leads through another array"));
        }
        if let Some(logits) = self.logits
            && (logits == LogitsRecord::default() || !named(&self.view_arrays, "logits"))
        {
            return Err("logits: expected a record of what is in the array `logits`, found none \
                        or no such array"
                .to_owned());
        }
        if !matches!(self.row_sums.len(), 0 | 2) {
            return Err(format!(
                "row_sums: expected one a row array, found {}",
                self.row_sums.len()
            ));
        }
        for constant in &self.teacher.constants {
            constant
                .validate()
                .map_err(|e| format!("teacher: input `{}`: {e}", constant.tensor))?;
        }
        self.validate_augment()?;
        self.validate_statistics()?;
        self.validate_segments()
    }

    /// A statistic's rows are those of the map that its tap records.
    fn validate_statistics(&self) -> Result<(), String> {
        for spec in &self.view_arrays {
            let Some((alias, statistic)) = Statistic::of_path(&spec.path) else { continue };
            let map = self.tap(alias).and_then(|tap| tap.map);
            let expected = match (map, statistic) {
                (None, Statistic::Features) => continue,
                (None, _) => {
                    return Err(format!(
                        "array `{}`: expected the tap's map, found none",
                        spec.path
                    ));
                }
                (Some(map), _) => map.row(statistic),
            };
            let Some((shape, axes)) = expected else {
                return Err(format!("tap `{alias}`: its map's sizes are beyond computing"));
            };
            if spec.row_shape != shape
                || spec.axes != axes
                || statistic.dtype().is_some_and(|dtype| dtype != spec.dtype)
            {
                return Err(format!(
                    "array `{}`: expected rows {shape:?} ({}), found {:?} ({}) of {}",
                    spec.path,
                    axes.join(", "),
                    spec.row_shape,
                    spec.axes.join(", "),
                    spec.dtype.name()
                ));
            }
        }
        for tap in &self.taps {
            let (Some(norm), channels) =
                (&tap.batch_norm, self.map(&tap.alias).map(|map| map.channels))
            else {
                continue;
            };
            if [norm.scale.len(), norm.bias.len()].map(Some) != [channels; 2] {
                let found = [norm.scale.len(), norm.bias.len()];
                return Err(format!(
                    "tap `{}`: expected a batch norm of its map's {channels:?} channels, found \
                     {found:?}",
                    tap.alias
                ));
            }
        }
        Ok(())
    }

    /// Augmented images have an array for each parameter that was drawn.
    fn validate_augment(&self) -> Result<(), String> {
        let Some(augment) = &self.augment else { return Ok(()) };
        augment.validate().map_err(|e| format!("augment: {e}"))?;
        if augment.is_none() || self.data.preprocess.is_none() {
            return Err(format!("augment: expected an augmentation of images, found {augment}"));
        }
        for parameter in Parameter::of(augment) {
            let expected = parameter.axis().map_or(Vec::new(), |(_, length)| vec![length]);
            let spec = self.view_arrays.iter().find(|spec| spec.path == parameter.path());
            if !spec
                .is_some_and(|spec| spec.dtype == parameter.dtype() && spec.row_shape == expected)
            {
                return Err(format!(
                    "augment: expected an array `{}` of {} {expected:?}",
                    parameter.path(),
                    parameter.dtype().name()
                ));
            }
        }
        Ok(())
    }

    fn validate_segments(&self) -> Result<(), String> {
        let arrays = self.view_arrays.len();
        let mut last = None;
        for segment in &self.segments {
            let key = (segment.view, segment.index);
            if segment.view >= self.views
                || segment.index >= self.segments_per_view()
                || last.is_some_and(|l| l >= key)
            {
                return Err(format!(
                    "segments: view {}, segment {} is out of range, repeated or out of order",
                    key.0, key.1
                ));
            }
            let published = segment.bytes.len();
            if published == 0 || published > arrays || segment.crc32c.len() != published {
                return Err(format!(
                    "segments: view {}, segment {}: expected 1 to {arrays} lengths and as many \
                     checksums",
                    key.0, key.1
                ));
            }
            last = Some(key);
        }
        let Some(Extent { views, taps, view_arrays }) = self.extends else { return Ok(()) };
        let is_part = (1..=self.views).contains(&views)
            && taps <= self.taps.len()
            && (1..=arrays).contains(&view_arrays)
            && self.before_extension().is_some_and(|part| part.is_complete());
        if !is_part || self.is_complete() {
            return Err("extends: expected a complete part of an incomplete cache".to_owned());
        }
        Ok(())
    }
}

impl ArraySpec {
    /// Whether it holds what the teacher was fed.
    #[must_use]
    pub fn is_input(&self) -> bool {
        self.path == "input" || self.path.starts_with("inputs/")
    }

    fn validate(&self, segment_rows: usize) -> Result<(), String> {
        if !self.path.split('/').all(is_name) {
            return Err("expected a path of parts of A-Z a-z 0-9 . _ - joined by /, none that \
                        begins with `.` or `__`"
                .to_owned());
        }
        if self.axes.len() != self.row_shape.len() {
            return Err(format!(
                "expected one axis name for each of {} axes, found {}",
                self.row_shape.len(),
                self.axes.len()
            ));
        }
        if self
            .batch_axis
            .is_some_and(|axis| axis == 0 || axis > self.row_shape.len() || !self.is_input())
        {
            return Err(format!(
                "expected a batch axis behind the first of an input's {} axes",
                self.row_shape.len() + 1
            ));
        }
        if self.dtype == Dtype::BF16 {
            return Err("expected a type that arrays have, found bfloat16".to_owned());
        }
        if self.chunk_rows == 0 || !segment_rows.is_multiple_of(self.chunk_rows) {
            return Err(format!(
                "expected chunk_rows that divide {segment_rows}, found {}",
                self.chunk_rows
            ));
        }
        let row_bytes = self
            .row_shape
            .iter()
            .try_fold(self.dtype.size(), |bytes, &axis| bytes.checked_mul(axis));
        let chunk_bytes = row_bytes.and_then(|b| b.checked_mul(self.chunk_rows));
        match chunk_bytes {
            Some(bytes) if bytes > 0 && bytes as u64 <= CHUNK_BYTES_MAX => Ok(()),
            _ => Err(format!(
                "expected chunks of 1 to {CHUNK_BYTES_MAX} bytes, found {} rows of {:?}",
                self.chunk_rows, self.row_shape
            )),
        }
    }
}

/// The map that an array of features holds, by the names of its axes.
fn features_map(statistic: Statistic, spec: &ArraySpec) -> Option<MapShape> {
    let &[a, b, c] = spec.row_shape.as_slice() else { return None };
    let layout = match (statistic, spec.axes.concat().as_str()) {
        (Statistic::Features, "chw") => Layout::Nchw,
        (Statistic::Features, "hwc") => Layout::Nhwc,
        _ => return None,
    };
    Some(MapShape::of_features(layout, [a, b, c]))
}

/// Whether a string may be a part of an array's path: a Zarr node name that is a safe file name
/// everywhere.
fn is_name(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= 200
        && !part.starts_with('.')
        && !part.starts_with("__")
        && part != zarr::METADATA
        && part != document::NAME
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests;
