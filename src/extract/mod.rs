//! Data set → preprocess → teacher → statistic → shards, as an overlapped pipeline with
//! bounded queues. Never names the student.
//!
//! `plan` decides everything, `compute` does it: a plan is not changed once it is made.
//!
//! * `prepare` opens teacher and data: `inputs` finds how samples become the teacher's inputs,
//!   `choice` which taps may be kept (`resolve` makes an output of a tensor's name), `rows` which
//!   sample stands in which row, and `reader` reads rows.
//! * `plan` adds the form of each tap (`keep`, from what `measure` finds), what has changed in the
//!   data (`stale`) and how the cache is laid out on disk (`layout`).
//! * `compute` replaces changed rows (`refresh`) and computes missing segments (`pipeline`);
//!   `encode` makes stored bytes of the teacher's values, and `accuracy` reads its top-1 back.
//!
//! # Example
//!
//! ```no_run
//! use nst_cache::extract;
//! use nst_cache::monitor::Silent;
//! use nst_cache::recipe::Extract;
//! use nst_cache::runtime::{Device, Runtime, SessionOptions};
//!
//! let recipe = Extract {
//!     taps: vec!["/layer3/Relu_1_output_0@8x8=layer3".to_owned()],
//!     ..Extract::new("teacher.onnx", "folder:photos/train".parse()?, "cache/photos")
//! };
//! let runtime = Runtime::load(None)?;
//! let options = SessionOptions { device: Device::Cpu, threads: recipe.threads };
//! let report = extract::run(&recipe, &runtime, &options, &Silent)?;
//! println!("{} rows, {} of them computed by this run", report.rows, report.computed);
//! # Ok::<(), nst_cache::error::Error>(())
//! ```

mod accuracy;
mod choice;
pub(crate) mod classes;
mod compute;
mod encode;
mod estimate;
pub(crate) mod feed;
mod in_graph;
pub(crate) mod independence;
mod inputs;
mod keep;
mod layout;
pub mod live;
mod measure;
mod output;
mod pipeline;
mod plan;
mod prepare;
mod reader;
mod refresh;
mod resolve;
mod rows;
pub(crate) mod soundness;
mod stale;
mod ways;

use crate::cache::Writer;
use crate::error::Result;
use crate::monitor::{Monitor, Silent};
use crate::onnx::Model;
use crate::recipe::Extract;
use crate::runtime::{Runtime, SessionOptions};
use prepare::prepare;
use serde::Serialize;
use std::ops::Range;
use std::time::Instant;

pub(crate) use estimate::human_bytes;
pub(crate) use inputs::{image_input, options_of, recorded_classes};
pub use keep::{Alternative, Kept};
pub use measure::{LogitsSizes, Sizes, TapSizes, sizes};
pub use pipeline::Stages;

/// The result of an extraction.
#[derive(Debug, Clone, Serialize)]
pub struct ExtractReport {
    /// Rows of the cache.
    pub rows: usize,
    /// Views of each row.
    pub views: usize,
    /// Rows that this run computed, of all views; the others were in the cache.
    pub computed: usize,
    /// Bytes of all shards.
    pub bytes: u64,
    /// The same features and logits as raw f32, and inputs as bytes.
    pub raw_bytes: u64,
    /// Wall time of this run.
    pub seconds: f64,
    /// Wall time from the first row to the last.
    pub pipeline_seconds: f64,
    /// How long each stage worked in that time.
    pub stages: Stages,
    /// The teacher's top-1 in percent, where there are labels.
    pub teacher_top1: Option<f64>,
    /// Unreadable samples left out.
    pub skipped: usize,
    /// Computed rows whose samples had changed.
    pub refreshed: usize,
    /// The taps whose form this run chose.
    pub kept: Vec<Kept>,
}

/// Runs the recipe; resumes where an earlier run stopped, and adds the views and taps that a cache
/// lacks.
///
/// # Errors
/// Names what is wrong with data, teacher, taps, values, disk or an existing cache, and what to do.
/// When the user asks to stop, published segments stay, and the same recipe resumes from them.
pub fn run(
    recipe: &Extract,
    runtime: &Runtime,
    options: &SessionOptions,
    monitor: &dyn Monitor,
) -> Result<ExtractReport> {
    let started = Instant::now();
    let (plan, session) = plan::decide(recipe, runtime, options, monitor)?;
    let mut writer = Writer::open(&recipe.output, &plan.cache)?;
    writer.count_from(started)?;
    writer.renew(&plan.changes.restamped)?;
    let outcome = compute::compute(&plan, session, options, writer, monitor)?;
    let manifest = &outcome.manifest;
    let top1 = manifest.teacher.top1_basis_points;
    Ok(ExtractReport {
        rows: manifest.rows,
        views: manifest.views,
        computed: outcome.computed + outcome.replaced,
        bytes: manifest.segments.iter().flat_map(|s| &s.bytes).sum(),
        raw_bytes: plan.estimate.raw_bytes,
        seconds: started.elapsed().as_secs_f64(),
        pipeline_seconds: outcome.seconds,
        stages: outcome.stages,
        teacher_top1: top1.map(|points| f64::from(points) / 100.0),
        skipped: plan.reader.rows.skipped.len(),
        refreshed: outcome.replaced + outcome.recomputed,
        kept: plan.kept,
    })
}

/// Runs the teacher alone, without writing: as many batches as the recipe has, of rows that are
/// decoded beforehand, with the same tensors read. Returns rows and seconds, which an extraction is
/// measured against.
///
/// # Errors
/// As [`run`].
#[doc(hidden)] // for benchmarks
pub fn bare(
    recipe: &Extract,
    runtime: &Runtime,
    options: &SessionOptions,
    monitor: &dyn Monitor,
) -> Result<(usize, f64)> {
    /// Batches that are decoded, and run in turn.
    const BATCHES: usize = 4;
    let (prepared, mut session) = prepare(recipe, Some(&recipe.output), runtime, options, monitor)?;
    let (outputs, _) = keep::decide(&prepared, &mut session, monitor)?;
    let rows = prepared.reader.rows.len();
    let chunks: Vec<Range<usize>> = (0..rows)
        .step_by(prepared.batch)
        .map(|first| first..(first + prepared.batch).min(rows))
        .collect();
    let batches = chunks
        .iter()
        .take(BATCHES)
        .map(|rows| prepared.reader.read(0, rows.clone()))
        .collect::<Result<Vec<_>>>()?;
    // the first run allocates
    session.run(&batches[0].feed(), &outputs.tensors)?;
    let started = Instant::now();
    for (_, batch) in chunks.iter().zip(batches.iter().cycle()) {
        session.run(&batch.feed(), &outputs.tensors)?;
    }
    Ok((rows, started.elapsed().as_secs_f64()))
}

/// Channels, height and width of the images that the recipe feeds to the teacher; `None`: arrays.
///
/// # Errors
/// When teacher or data cannot be read, or do not fit each other.
pub(crate) fn image_shape(recipe: &Extract) -> Result<Option<[usize; 3]>> {
    let model = Model::read(&recipe.teacher)?;
    // the extraction reports on the data
    let source = prepare::open_data(recipe, &model, &Silent)?;
    Ok(source.preprocess.map(|p| [p.channels.count(), p.size[0], p.size[1]]))
}
