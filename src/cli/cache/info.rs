//! `cache info`: teacher, data, preprocessing, and what each array takes on disk.

use super::super::{emit, emit_json};
use crate::array::Dtype;
use crate::cache::{self, ArraySpec, Codec, Manifest};
use crate::data::Augmentation;
use crate::error::Result;
use crate::extract::human_bytes;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

/// Prints what a cache holds.
pub(super) fn run(folder: &Path, json: bool) -> Result<()> {
    let manifest = Manifest::load(folder)?;
    let info =
        Info { extraction_seconds: cache::extraction_seconds(folder)?, ..Info::of(&manifest) };
    if json { emit_json(&info) } else { emit(&info.text(folder)) }
}

/// What a cache holds.
#[derive(Serialize)]
struct Info<'a> {
    complete: bool,
    segments: usize,
    segments_total: usize,
    /// What was complete before the views and arrays that are being added.
    #[serde(skip_serializing_if = "Option::is_none")]
    extends: Option<cache::Extent>,
    rows: usize,
    views: usize,
    /// How the views are made, if images are augmented.
    augment: Option<&'a Augmentation>,
    /// Whether the inputs are stored in the cache, or only in its data set.
    inputs: &'static str,
    segment_rows: usize,
    seed: u64,
    tool: &'a str,
    teacher: &'a cache::TeacherRecord,
    /// Duration of the extraction over all its runs, in seconds, if it was recorded.
    extraction_seconds: Option<f64>,
    data: &'a cache::DataRecord,
    /// How the logits differ from plain teacher logits, if they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    logits: Option<&'a cache::LogitsRecord>,
    taps: &'a [cache::TapRecord],
    arrays: Vec<ArrayInfo<'a>>,
    bytes: u64,
    raw_bytes: u64,
    ratio: f64,
}

/// A view array: what it holds and takes.
#[derive(Serialize)]
struct ArrayInfo<'a> {
    path: &'a str,
    tensor: Option<&'a str>,
    dtype: &'static str,
    row_shape: &'a [usize],
    codec: Codec,
    chunk_rows: usize,
    /// Bytes on disk, of the published segments.
    bytes: u64,
    /// Bytes of the same rows as raw f32 (integers unchanged).
    raw_bytes: u64,
    bytes_per_row: f64,
    ratio: f64,
}

impl<'a> Info<'a> {
    fn of(manifest: &'a Manifest) -> Self {
        let array = |(index, spec): (usize, &'a ArraySpec)| {
            let published = manifest.segments.iter().filter(|s| index < s.bytes.len());
            let rows: u64 = published.map(|s| manifest.rows_of_segment(s.index) as u64).sum();
            let bytes = manifest.segments.iter().filter_map(|s| s.bytes.get(index)).sum();
            let raw_bytes = rows * raw_row_bytes(spec);
            ArrayInfo {
                path: &spec.path,
                tensor: spec.tensor.as_deref(),
                dtype: spec.dtype.name(),
                row_shape: &spec.row_shape,
                codec: spec.codec,
                chunk_rows: spec.chunk_rows,
                bytes,
                raw_bytes,
                bytes_per_row: ratio(bytes, rows),
                ratio: ratio(raw_bytes, bytes),
            }
        };
        let arrays: Vec<_> = manifest.view_arrays.iter().enumerate().map(array).collect();
        let (bytes, raw_bytes) =
            (arrays.iter().map(|a| a.bytes).sum(), arrays.iter().map(|a| a.raw_bytes).sum());
        Self {
            complete: manifest.is_complete(),
            segments: manifest.whole_segments(),
            segments_total: manifest.segments_total(),
            extends: manifest.extends,
            rows: manifest.rows,
            views: manifest.views,
            augment: manifest.augment.as_ref(),
            inputs: if manifest.stores_inputs() { "stored" } else { "source" },
            segment_rows: manifest.segment_rows,
            seed: manifest.seed,
            tool: &manifest.tool,
            teacher: &manifest.teacher,
            extraction_seconds: None,
            data: &manifest.data,
            logits: manifest.logits.as_ref(),
            taps: &manifest.taps,
            arrays,
            bytes,
            raw_bytes,
            ratio: ratio(raw_bytes, bytes),
        }
    }

    fn text(&self, folder: &Path) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<14}{value}");
        };
        let (done, all) = (self.segments, self.segments_total);
        let state = match self.extends {
            _ if self.complete => String::new(),
            None => format!(", incomplete: {done} of {all} segments"),
            Some(before) => format!(
                ", being extended: {done} of {all} segments; readable as {} views of {} arrays \
                 meanwhile",
                before.views, before.view_arrays
            ),
        };
        line("cache", format!("{}{state}", folder.display()));
        let (teacher, data) = (self.teacher, self.data);
        line(
            "teacher",
            format!(
                "{} (sha256 {}…)",
                teacher.file,
                teacher.sha256.chars().take(12).collect::<String>()
            ),
        );
        if let Some(points) = teacher.top1_basis_points {
            line("its top-1", format!("{:.2} %", f64::from(points) / 100.0));
        }
        line(
            "made by",
            format!(
                "{}, ONNX Runtime {} on {}, batch {}",
                self.tool, teacher.runtime, teacher.provider, teacher.batch
            ),
        );
        if let Some(seconds) = self.extraction_seconds {
            line("took", format!("{seconds:.1} s"));
        }
        let skipped = if data.skipped.is_empty() {
            String::new()
        } else {
            format!(", {} left out as unreadable", data.skipped.len())
        };
        let classes = if data.classes.is_empty() {
            "no class names".to_owned()
        } else {
            format!("{} classes", data.classes.len())
        };
        line(
            "data",
            format!(
                "{} split {}, {} of {} samples{skipped}, {classes}",
                data.spec, data.split, self.rows, data.fingerprint.samples
            ),
        );
        if let Some(logits) = self.logits {
            let made_of = logits.made_of.map(|conversion| format!("made of {}", conversion.name()));
            let others =
                logits.other_classes.then(|| "of other classes than the labels".to_owned());
            let top = logits.top.map(|cache::TopRecord { k, classes }| {
                format!("the {k} largest of {classes} classes, and the mass of the others")
            });
            let mask = logits.mask.as_ref().map(|mask| format!("only where `{mask}` is not 0"));
            let all = made_of.into_iter().chain(others).chain(top).chain(mask);
            line("logits", all.collect::<Vec<_>>().join(", "));
        }
        line("preprocessing", preprocess_text(data));
        let augment = self.augment.map_or_else(|| "unaugmented".to_owned(), ToString::to_string);
        let plural = if self.views == 1 { "" } else { "s" };
        line(
            "views",
            format!(
                "{} view{plural}: {augment}; inputs {}",
                self.views,
                if self.inputs == "stored" { "stored" } else { "from the data" }
            ),
        );
        line(
            "layout",
            format!(
                "{} rows per view, segments of {} rows, seed {}",
                self.rows, self.segment_rows, self.seed
            ),
        );
        let _ = write!(text, "\n{}", self.table());
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header([
            "array",
            "tensor",
            "dtype",
            "row shape",
            "on disk",
            "per row",
            "against raw f32",
        ]);
        for array in &self.arrays {
            let shape =
                array.row_shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
            table.add_row([
                array.path.to_owned(),
                array.tensor.unwrap_or("").to_owned(),
                array.dtype.to_owned(),
                shape,
                human_bytes(array.bytes),
                size(array.bytes_per_row),
                times(array.ratio),
            ]);
        }
        let rows = self.arrays.iter().map(|a| a.bytes_per_row).sum();
        table.add_row([
            "all".to_owned(),
            String::new(),
            String::new(),
            String::new(),
            human_bytes(self.bytes),
            size(rows),
            times(self.ratio),
        ]);
        for column in table.column_iter_mut().skip(4) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

/// Bytes of a row in the reference form of ratios: floats as f32, integers unchanged.
fn raw_row_bytes(spec: &ArraySpec) -> u64 {
    let bytes = match spec.dtype {
        Dtype::F16 => spec.row_bytes() * 2,
        Dtype::F64 => spec.row_bytes() / 2,
        _ => spec.row_bytes(),
    };
    bytes as u64
}

fn preprocess_text(data: &cache::DataRecord) -> String {
    let Some(p) = &data.preprocess else { return "none, arrays unchanged".to_owned() };
    let [h, w] = p.size;
    let resize = p.resize.map(|side| format!("resize {side}, crop to ")).unwrap_or_default();
    let norm = if p.is_float() {
        format!(", scale {}, mean {:?}, std {:?}", p.scale, p.mean, p.std)
    } else {
        String::new()
    };
    format!(
        "{resize}{h}x{w} {:?} {:?} {:?} {}{norm}",
        p.interpolation,
        p.channels,
        p.layout,
        p.dtype.name()
    )
    .to_lowercase()
}

/// Mean bytes per row.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "for people: three digits are shown"
)]
fn size(bytes: f64) -> String {
    human_bytes(bytes.round() as u64)
}

#[allow(clippy::cast_precision_loss, reason = "for people: three digits are shown")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn times(ratio: f64) -> String {
    if ratio > 0.0 { format!("{ratio:.2}x smaller") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::testing;

    #[test]
    fn info_sums_what_is_published_and_compares_it_with_raw_f32() {
        let folder = tempfile::tempdir().unwrap();
        testing::write(folder.path(), &testing::plan(10, 2, Codec::Raw)).unwrap();
        let manifest = Manifest::load(folder.path()).unwrap();
        let info = Info::of(&manifest);
        // 16 bytes of image, 4 of mask, 3 logits and 12 halves as f32; two views of ten rows
        let raw: Vec<u64> = info.arrays.iter().map(|a| a.raw_bytes).collect();
        assert_eq!(raw, [16 * 20, 4 * 20, 12 * 20, 48 * 20]);
        assert_eq!((info.complete, info.raw_bytes), (true, 80 * 20));
        let on_disk: u64 = ["input", "inputs", "logits", "taps"]
            .iter()
            .map(|a| disk_bytes(&folder.path().join(a)))
            .sum();
        assert_eq!(info.bytes, on_disk);
        let text = info.text(folder.path());
        assert_eq!((info.augment, info.inputs), (None, "stored"));
        let augmented = testing::augmented(10, 2, Codec::Raw);
        let text_of_views = Info::of(&augmented).text(folder.path());
        assert!(
            text_of_views.contains("2 views: flip, mixup 0.5; inputs stored"),
            "{text_of_views}"
        );
        for part in ["91.25 %", "taps/conv/features", "3x2x2", "10 of 100 samples", "3 classes"] {
            assert!(text.contains(part), "{part} in:\n{text}");
        }
    }

    /// Bytes of all shards below a folder.
    fn disk_bytes(folder: &Path) -> u64 {
        let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap());
        let bytes = |e: std::fs::DirEntry| match e.file_type().unwrap().is_dir() {
            true => disk_bytes(&e.path()),
            false if e.file_name() == "zarr.json" => 0,
            false => e.metadata().unwrap().len(),
        };
        entries.map(bytes).sum()
    }
}
