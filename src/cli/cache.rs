//! `cache info` and `cache verify`.

use crate::array::Dtype;
use crate::cache::{self, ArraySpec, Codec, Manifest, VerifyReport};
use crate::error::{Error, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// Arguments of `cache`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// What is in a cache: teacher, data, preprocessing, and what each array takes on disk
    Info {
        /// The cache's folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Checks every checksum, shape and finite value of a cache
    Verify {
        /// The cache's folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// Runs `cache`.
///
/// # Errors
/// When the folder is no cache, or (status 1) something in it is wrong.
pub fn run(args: Args, context: &super::Context<'_>) -> Result<()> {
    match args.command {
        Command::Info { folder } => info(&folder, context.json),
        Command::Verify { folder } => verify(&folder, context),
    }
}

fn info(folder: &Path, json: bool) -> Result<()> {
    let manifest = Manifest::load(folder)?;
    let info = Info::of(&manifest);
    if json { print_json(&info) } else { print(&info.text(folder)) }
}

fn verify(folder: &Path, context: &super::Context<'_>) -> Result<()> {
    let report = cache::verify(folder, context.threads, context.monitor)?;
    if context.json {
        print_json(&report)?;
    } else {
        print(&verify_text(&report))?;
    }
    match report.findings.len() {
        0 => Ok(()),
        found => Err(Error::check(format!("cache {}: {found} things are wrong", folder.display()))
            .hint("remove the folder and run the same `nst-cache extract` command again")),
    }
}

/// What is in a cache.
#[derive(Serialize)]
struct Info<'a> {
    complete: bool,
    segments: usize,
    segments_total: usize,
    rows: usize,
    views: usize,
    segment_rows: usize,
    seed: u64,
    tool: &'a str,
    teacher: &'a cache::TeacherRecord,
    data: &'a cache::DataRecord,
    taps: &'a [cache::TapRecord],
    arrays: Vec<ArrayInfo<'a>>,
    bytes: u64,
    raw_bytes: u64,
    ratio: f64,
}

/// One view array: what it holds and takes.
#[derive(Serialize)]
struct ArrayInfo<'a> {
    path: &'a str,
    tensor: Option<&'a str>,
    dtype: &'static str,
    row_shape: &'a [usize],
    codec: Codec,
    chunk_rows: usize,
    /// On disk, of the published segments.
    bytes: u64,
    /// The same rows as raw f32 (integers as they are).
    raw_bytes: u64,
    bytes_per_row: f64,
    ratio: f64,
}

impl<'a> Info<'a> {
    fn of(manifest: &'a Manifest) -> Self {
        let rows: u64 = manifest.segments.iter().map(|s| manifest.rows_of_segment(s.index) as u64).sum();
        let array = |(index, spec): (usize, &'a ArraySpec)| {
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
        let (bytes, raw_bytes) = (arrays.iter().map(|a| a.bytes).sum(), arrays.iter().map(|a| a.raw_bytes).sum());
        Self {
            complete: manifest.is_complete(),
            segments: manifest.segments.len(),
            segments_total: manifest.segments_total(),
            rows: manifest.rows,
            views: manifest.views,
            segment_rows: manifest.segment_rows,
            seed: manifest.seed,
            tool: &manifest.tool,
            teacher: &manifest.teacher,
            data: &manifest.data,
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
        let state = if self.complete { String::new() } else { format!(", incomplete: {} of {} segments", self.segments, self.segments_total) };
        line("cache", format!("{}{state}", folder.display()));
        let (teacher, data) = (self.teacher, self.data);
        line("teacher", format!("{} (sha256 {}…)", teacher.file, teacher.sha256.chars().take(12).collect::<String>()));
        if let Some(points) = teacher.top1_basis_points {
            line("its top-1", format!("{:.2} %", f64::from(points) / 100.0));
        }
        line("made by", format!("{}, ONNX Runtime {} on {}, batch {}", self.tool, teacher.runtime, teacher.provider, teacher.batch));
        let skipped = if data.skipped.is_empty() { String::new() } else { format!(", {} left out as unreadable", data.skipped.len()) };
        let classes = if data.classes.is_empty() { "no class names".to_owned() } else { format!("{} classes", data.classes.len()) };
        line("data", format!("{} split {}, {} of {} samples{skipped}, {classes}", data.spec, data.split, self.rows, data.fingerprint.samples));
        line("preprocessing", preprocess_text(data));
        line("layout", format!("{} views of {} rows, segments of {} rows, seed {}", self.views, self.rows, self.segment_rows, self.seed));
        let _ = writeln!(text, "{}", self.table());
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["array", "tensor", "dtype", "row shape", "on disk", "a row", "against raw f32"]);
        for array in &self.arrays {
            let shape = array.row_shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
            table.add_row([
                array.path.to_owned(),
                array.tensor.unwrap_or("").to_owned(),
                array.dtype.to_owned(),
                shape,
                size(array.bytes as f64),
                size(array.bytes_per_row),
                times(array.ratio),
            ]);
        }
        let rows = self.arrays.iter().map(|a| a.bytes_per_row).sum();
        table.add_row(["all".to_owned(), String::new(), String::new(), String::new(), size(self.bytes as f64), size(rows), times(self.ratio)]);
        for column in table.column_iter_mut().skip(4) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

/// Bytes of a row in the form that ratios are against: floats as f32, integers as they are.
fn raw_row_bytes(spec: &ArraySpec) -> u64 {
    let bytes = match spec.dtype {
        Dtype::F16 => spec.row_bytes() * 2,
        Dtype::F64 => spec.row_bytes() / 2,
        Dtype::U8 | Dtype::I32 | Dtype::I64 | Dtype::F32 => spec.row_bytes(),
    };
    bytes as u64
}

fn preprocess_text(data: &cache::DataRecord) -> String {
    let Some(p) = &data.preprocess else { return "none, arrays as they are".to_owned() };
    let [h, w] = p.size;
    let resize = p.resize.map(|side| format!("resize {side}, crop to ")).unwrap_or_default();
    let norm = if p.is_float() { format!(", scale {}, mean {:?}, std {:?}", p.scale, p.mean, p.std) } else { String::new() };
    format!("{resize}{h}x{w} {:?} {:?} {:?} {}{norm}", p.interpolation, p.channels, p.layout, p.dtype.name()).to_lowercase()
}

fn verify_text(report: &VerifyReport) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let rows = finding.rows.map(|(first, end)| format!(" rows {first}..{end}:")).unwrap_or_default();
        let _ = writeln!(text, "{}:{rows} {}", finding.file, finding.problem);
    }
    let verdict = match (report.findings.len(), report.complete) {
        (0, true) => "sound".to_owned(),
        (0, false) => "sound, but incomplete".to_owned(),
        (n, _) => format!("{n} things are wrong"),
    };
    let _ = writeln!(text, "{} files, {}, {} chunks: {verdict}", report.files, size(report.bytes as f64), report.chunks);
    text
}

#[allow(clippy::cast_precision_loss, reason = "for people: three digits are shown")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn times(ratio: f64) -> String {
    if ratio > 0.0 { format!("{ratio:.2}x smaller") } else { String::new() }
}

/// A number of bytes in binary units.
fn size(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{value:.0} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::input("report: cannot be written as JSON").because(e))?;
    print(&(text + "\n"))
}

/// Writes to stdout; a reader that has gone (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::input("stdout: cannot write").because(e)),
        _ => Ok(()),
    }
}
