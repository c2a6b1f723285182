//! `manifest.json`: what the cache was made from and which segments are published. It is the commit
//! point.

mod records;

pub use records::{DataRecord, TapRecord, TeacherRecord};

use super::logits::{LogitsRecord, TopRecord};
use super::shard::{ShardLayout, Sum};
use super::{document, logits, zarr};
use crate::array::{Dtype, Layout};
use crate::data::Augmentation;
use crate::data::augment::Parameter;
use crate::error::{Error, Result};
use crate::onnx::tap::Role;
use crate::statistic::{LOGITS, MapShape, Statistic, TopPart};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

/// The row array of each row's index in the data set.
pub(super) const SAMPLE_ID: &str = "sample_id";
/// The row array of labels.
pub(super) const LABEL: &str = "label";
/// The longest decoded chunk in bytes, since a reader allocates one.
const CHUNK_BYTES_MAX: u64 = 1 << 30;
/// Rows of all views, bounded so that no product with a chunk's size overflows.
const ROWS_MAX: u64 = 1 << 40;

/// How the chunks of an array are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Codec {
    /// bytes → zstd (level 1, checksum) → crc32c.
    Zstd,
    /// bytes → crc32c, if a probe shows that zstd saves less than 10 %.
    Raw,
}

/// One array of the cache, over `[view, row, …]` or `[row]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArraySpec {
    /// Path in the group: `input`, `inputs/<name>`, a view parameter (`crop`, `flip` …),
    /// `logits`, `logits/<part>`, `taps/<alias>/<statistic>`, `label`, `sample_id`.
    pub path: String,
    /// Element type as stored.
    pub dtype: Dtype,
    /// Shape of one row.
    pub row_shape: Vec<usize>,
    /// Name of each axis of a row: `c`, `h`, `w`, `class`, `t` …
    pub axes: Vec<String>,
    /// The ONNX tensor that it holds, for `logits` and taps.
    pub tensor: Option<String>,
    /// For an input: the axis of the fed tensor that holds the batch, if it is not the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_axis: Option<usize>,
    /// How its chunks are encoded.
    pub codec: Codec,
    /// Rows per inner chunk; divides the segment length.
    pub chunk_rows: usize,
}

impl ArraySpec {
    /// Bytes per decoded row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.row_shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// A published segment: `segment_rows` rows of one view, in a prefix of the view arrays. The prefix
/// is all of them, except while arrays are being added to a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// The view it belongs to.
    pub view: usize,
    /// The segment's index within the view.
    pub index: usize,
    /// Length of each array's shard in bytes, in the order of the view arrays.
    pub bytes: Vec<u64>,
    /// Digest of each array's shard: the CRC-32C over the checksums of its chunks and index.
    pub crc32c: Vec<u32>,
}

impl Segment {
    /// Length and digest of the shard of view array number `array`, if it is published.
    #[must_use]
    pub fn sum(&self, array: usize) -> Option<Sum> {
        let (bytes, crc32c) = (*self.bytes.get(array)?, *self.crc32c.get(array)?);
        Some(Sum { bytes, crc32c })
    }
}

/// The part of a cache that was complete before an extension by views or arrays, and that the
/// extension leaves unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// The number of complete views, counted from the first.
    pub views: usize,
    /// The number of complete taps, counted from the first.
    pub taps: usize,
    /// The number of complete view arrays, counted from the first.
    pub view_arrays: usize,
}

/// The whole manifest, written as JSON under a checksum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the on-disk format: the lowest that can describe the cache, see
    /// [`Manifest::lowest_format`].
    pub format: u32,
    /// The tool and version that wrote it: `nst-cache 0.1.0`.
    pub tool: String,
    /// The teacher that was run.
    pub teacher: TeacherRecord,
    /// The data set that it was run on.
    pub data: DataRecord,
    /// Describes the logits; `None` if they are a tensor of the teacher over the labels' classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logits: Option<LogitsRecord>,
    /// The stored taps, in the order of their first arrays.
    pub taps: Vec<TapRecord>,
    /// Rows per view, without padding.
    pub rows: usize,
    /// Number of views.
    pub views: usize,
    /// The augmentation that the views are drawn from; `None` if there is one view of unchanged
    /// images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<Augmentation>,
    /// Seed of the permutation of the rows, and of the views' parameters.
    pub seed: u64,
    /// Rows per segment: the shard length of every view array.
    pub segment_rows: usize,
    /// Arrays over `[row]`, written whole at the start: `sample_id`, `label`.
    pub row_arrays: Vec<ArraySpec>,
    /// Length and digest of each row array's shard, in order; empty before format 6.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub row_sums: Vec<Sum>,
    /// Arrays over `[view, row, …]`.
    pub view_arrays: Vec<ArraySpec>,
    /// What was complete before the extension in progress; `None` if there is no extension in
    /// progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extends: Option<Extent>,
    /// The published segments, sorted by view, then index.
    pub segments: Vec<Segment>,
}

impl Manifest {
    /// The first format version: no augmentation.
    pub const FORMAT: u32 = 1;
    /// Adds augmentation: a version-1 reader would ignore the partner's label of a mixed sample.
    pub const FORMAT_AUGMENTED: u32 = 2;
    /// Adds statistics and a tap's batch normalization, with or without augmentation.
    pub const FORMAT_STATISTICS: u32 = 3;
    /// Adds the record of the logits: an older reader would compare logits over different classes.
    pub const FORMAT_LOGITS: u32 = 4;

    /// Adds constant inputs, other element types and other batch axes: an older reader would feed
    /// the teacher differently.
    pub const FORMAT_FEEDING: u32 = 5;
    /// Adds digests of the row arrays; every cache that this program writes has this version or a
    /// later one.
    pub const FORMAT_SUMS: u32 = 6;
    /// Adds outputs that are no class logits, of any shape; sparse logits, and logits at positions.
    pub const FORMAT_OUTPUTS: u32 = 7;
    /// The latest version that this program reads.
    pub const FORMAT_LAST: u32 = Self::FORMAT_OUTPUTS;

    /// The lowest format version that can describe this manifest, which is the one it must have.
    #[must_use]
    pub fn lowest_format(&self) -> u32 {
        let is_basic = |dtype| {
            matches!(
                dtype,
                Dtype::U8 | Dtype::I32 | Dtype::I64 | Dtype::F16 | Dtype::F32 | Dtype::F64
            )
        };
        let needs_feeding = |spec: &ArraySpec| spec.batch_axis.is_some() || !is_basic(spec.dtype);
        let images = self.data.preprocess.as_ref();
        let images_need_feeding = images.is_some_and(|p| !is_basic(p.dtype) || p.exif_orientation);
        let new_logits = self.top().is_some() || self.logits_row().is_some_and(|row| row.len() > 1);
        if new_logits || self.taps.iter().any(|tap| tap.output || tap.role == Role::Values) {
            Self::FORMAT_OUTPUTS
        } else if !self.row_sums.is_empty() || self.extends.is_some() {
            Self::FORMAT_SUMS
        } else if !self.teacher.constants.is_empty()
            || self.view_arrays.iter().any(needs_feeding)
            || images_need_feeding
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

    /// The array of the logits, or the first of them where they are sparse.
    #[must_use]
    pub fn logits_array(&self) -> Option<&ArraySpec> {
        let is_logits = |spec: &&ArraySpec| [LOGITS, TopPart::Value.path()].contains(&&*spec.path);
        self.view_arrays.iter().find(is_logits)
    }

    /// The size of sparse logits; `None` if all classes are stored.
    #[must_use]
    pub fn top(&self) -> Option<TopRecord> {
        self.logits.as_ref()?.top
    }

    /// The input that masks the logits of some positions, if there is one.
    #[must_use]
    pub fn logits_mask(&self) -> Option<&ArraySpec> {
        let mask = self.logits.as_ref()?.mask.as_ref()?;
        self.view_arrays.iter().find(|spec| spec.is_input() && spec.tensor.as_ref() == Some(mask))
    }

    /// The shape of a sample's logits if all classes were stored: `[classes]`, or
    /// `[positions, classes]`.
    #[must_use]
    pub fn logits_row(&self) -> Option<Vec<usize>> {
        let mut row = self.logits_array()?.row_shape.clone();
        if let (Some(top), Some(last)) = (self.top(), row.last_mut()) {
            *last = top.classes;
        }
        Some(row)
    }

    /// The tap with this alias.
    #[must_use]
    pub fn tap(&self, alias: &str) -> Option<&TapRecord> {
        self.taps.iter().find(|tap| tap.alias == alias)
    }

    /// The statistics that the cache holds for a tap, each with its array.
    pub fn statistics<'a>(
        &'a self,
        alias: &'a str,
    ) -> impl Iterator<Item = (Statistic, &'a ArraySpec)> {
        self.view_arrays.iter().filter_map(move |spec| match Statistic::of_path(&spec.path) {
            Some((owner, statistic)) if owner == alias => Some((statistic, spec)),
            _ => None,
        })
    }

    /// The map that a tap's arrays hold or are computed from.
    #[must_use]
    pub fn map(&self, alias: &str) -> Option<MapShape> {
        let recorded = self.tap(alias).and_then(|tap| tap.map);
        recorded.or_else(|| {
            self.statistics(alias).find_map(|(statistic, spec)| features_map(statistic, spec))
        })
    }

    /// Number of segments per view.
    #[must_use]
    pub fn segments_per_view(&self) -> usize {
        self.rows.div_ceil(self.segment_rows)
    }

    /// Number of segments in all views.
    #[must_use]
    pub fn segments_total(&self) -> usize {
        self.segments_per_view() * self.views
    }

    /// Number of segments that are published in all arrays.
    #[must_use]
    pub fn whole_segments(&self) -> usize {
        self.segments.iter().filter(|s| s.bytes.len() == self.view_arrays.len()).count()
    }

    /// Whether every segment of every view is published.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.whole_segments() == self.segments_total()
    }

    /// A row array by path, with its shard's length and digest if the manifest has them.
    pub(super) fn row_array(&self, path: &str) -> Option<(&ArraySpec, Option<Sum>)> {
        let index = self.row_arrays.iter().position(|spec| spec.path == path)?;
        Some((self.row_arrays.get(index)?, self.row_sums.get(index).copied()))
    }

    /// The manifest of the cache before the extension in progress, if there is one.
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
            // a map is recorded only with a statistic other than the features
            let stored = part.view_arrays.iter().filter_map(|spec| Statistic::of_path(&spec.path));
            let is_other_statistic = |(alias, statistic): (&str, Statistic)| {
                alias == tap.alias && statistic != Statistic::Features
            };
            tap.map = tap.map.filter(|_| stored.clone().any(is_other_statistic));
        }
        if part.logits_array().is_none() {
            part.logits = None;
        }
        part.format = part.lowest_format();
        Some(part)
    }

    /// Clears `extends` if the extension is complete, or if the part before it no longer is, and
    /// sets the format.
    pub(super) fn settle(&mut self) {
        if self.is_complete() || !self.before_extension().is_some_and(|part| part.is_complete()) {
            self.extends = None;
        }
        self.format = self.lowest_format();
    }

    /// Whether the cache stores inputs; otherwise they are decoded from the data again.
    #[must_use]
    pub fn stores_inputs(&self) -> bool {
        self.view_arrays.iter().any(ArraySpec::is_input)
    }

    /// Rows of data in a segment: `segment_rows`, or fewer in the last one.
    #[must_use]
    pub fn rows_of_segment(&self, segment: usize) -> usize {
        self.rows.saturating_sub(segment * self.segment_rows).min(self.segment_rows)
    }

    /// The rows of a segment, within a view.
    pub(super) fn row_range(&self, segment: usize) -> Range<usize> {
        let first = segment * self.segment_rows;
        first..first + self.rows_of_segment(segment)
    }

    /// The length of the prefix of view arrays that is published in a segment.
    #[must_use]
    pub fn published_arrays(&self, view: usize, index: usize) -> usize {
        self.segment(view, index).map_or(0, |segment| segment.bytes.len())
    }

    /// A segment's record, if any array of it is published.
    #[must_use]
    pub fn segment(&self, view: usize, index: usize) -> Option<&Segment> {
        let found = self.segments.binary_search_by_key(&(view, index), |s| (s.view, s.index));
        self.segments.get(found.ok()?)
    }

    /// Reads the manifest of the cache in `folder`, complete or not; `None` if there is none.
    ///
    /// # Errors
    /// If it is damaged, or of a newer format.
    pub fn find(folder: &Path) -> Result<Option<Self>> {
        document::load(folder)
    }

    /// Reads the manifest of the cache in `folder`, complete or not.
    ///
    /// # Errors
    /// If there is none, or it is damaged or of a newer format.
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

    /// Checks every number and name that other code computes with: afterwards, products do not
    /// overflow and paths stay inside the folder.
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
        let has_path =
            |arrays: &[ArraySpec], path| arrays.iter().any(|a: &ArraySpec| a.path == path);
        if self.row_arrays.len() != 2
            || !has_path(&self.row_arrays, SAMPLE_ID)
            || !has_path(&self.row_arrays, LABEL)
        {
            return Err(format!("row_arrays: expected {SAMPLE_ID} and {LABEL}"));
        }
        for spec in &self.row_arrays {
            if spec.dtype != Dtype::I64 || !spec.row_shape.is_empty() {
                return Err(format!("array {}: expected one int64 per row", spec.path));
            }
        }
        let mut paths = HashSet::new();
        for spec in self.row_arrays.iter().chain(&self.view_arrays) {
            spec.validate(self.segment_rows).map_err(|e| format!("array `{}`: {e}", spec.path))?;
            if !paths.insert(spec.path.to_ascii_lowercase()) {
                return Err(format!(
                    "array `{}`: the path appears twice (ignoring case)",
                    spec.path
                ));
            }
        }
        if let Some(inner) = paths.iter().find(|p| {
            p.match_indices('/')
                .any(|(end, _)| p.get(..end).is_some_and(|outer| paths.contains(outer)))
        }) {
            return Err(format!("array `{inner}`: its path leads through another array"));
        }
        if let Some(logits) = &self.logits
            && (*logits == LogitsRecord::default() || self.logits_array().is_none())
        {
            return Err("logits: expected a record of what is in the array `logits`, found none \
                        or no such array"
                .to_owned());
        }
        let array = |path: &str| {
            let spec = self.view_arrays.iter().find(|spec| spec.path == path)?;
            Some((spec.row_shape.as_slice(), spec.dtype))
        };
        logits::validate(self.top(), array)?;
        self.validate_mask()?;
        if !matches!(self.row_sums.len(), 0 | 2) {
            return Err(format!(
                "row_sums: expected one per row array, found {}",
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

    /// A mask has a value for each position of the logits.
    fn validate_mask(&self) -> Result<(), String> {
        let Some(mask) = self.logits.as_ref().and_then(|logits| logits.mask.as_ref()) else {
            return Ok(());
        };
        let row = self.logits_row().unwrap_or_default();
        let fits = matches!(*row.as_slice(), [positions, _]
            if self.logits_mask().is_some_and(|spec| spec.row_shape == [positions]));
        if fits {
            return Ok(());
        }
        Err(format!("logits: expected an input `{mask}` of a value for each position of {row:?}"))
    }

    /// The rows of a statistic must match the map that its tap records.
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

    /// Augmented images must have an array for each parameter that is drawn.
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
    /// Whether it holds an input of the teacher.
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
            return Err("expected an element type of arrays, found bfloat16".to_owned());
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

/// The map that an array of features holds, according to the names of its axes.
fn features_map(statistic: Statistic, spec: &ArraySpec) -> Option<MapShape> {
    let &[a, b, c] = spec.row_shape.as_slice() else { return None };
    let layout = match (statistic, spec.axes.concat().as_str()) {
        (Statistic::Features, "chw") => Layout::Nchw,
        (Statistic::Features, "hwc") => Layout::Nhwc,
        _ => return None,
    };
    Some(MapShape::of_features(layout, [a, b, c]))
}

/// Whether a string may be part of an array's path: a Zarr node name that is a safe file name on
/// every system.
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
