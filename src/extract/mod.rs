//! Data set → preprocess → teacher → statistic → shards, as an overlapped pipeline with
//! bounded queues. Never names the student.
//!
//! `source` finds how samples become the teacher's inputs and `batch` makes them, `choice` decides
//! which taps are kept of the teacher, `keep` in which form (by what `measure` finds) and `output`
//! how, `rows` fixes which sample stands in which row, `stale` compares the data with what an
//! existing cache was made of, `plan` lays it out on disk, `refresh` computes changed rows again
//! and `pipeline` the missing segments, `accuracy` reads the teacher's own top-1 back.

mod accuracy;
mod choice;
pub mod classes;
mod compute;
mod encode;
mod estimate;
mod feed;
mod in_graph;
pub mod independence;
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
pub mod soundness;
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

pub use estimate::human_bytes;
pub use inputs::{recorded_classes, recorded_preprocess};
pub use keep::{Alternative, Kept};
pub use measure::{Sizes, TapSizes, sizes};
pub use pipeline::Stages;

/// What an extraction did.
#[derive(Debug, Clone, Serialize)]
pub struct ExtractReport {
    /// Rows of the cache.
    pub rows: usize,
    /// Views of each.
    pub views: usize,
    /// Rows that this run computed, of all views (the others were there).
    pub computed: usize,
    /// Bytes of all shards.
    pub bytes: u64,
    /// The same features and logits as raw f32, and inputs as bytes.
    pub raw_bytes: u64,
    /// Wall time of this run.
    pub seconds: f64,
    /// Of it, the computing of rows, without what comes before the first and after the last.
    pub pipeline_seconds: f64,
    /// How long each stage of that worked.
    pub stages: Stages,
    /// The teacher's top-1 in percent, where there are labels.
    pub teacher_top1: Option<f64>,
    /// Unreadable samples left out.
    pub skipped: usize,
    /// Of the computed rows, those of samples that had changed.
    pub refreshed: usize,
    /// The taps whose form this run chose.
    pub kept: Vec<Kept>,
}

/// Runs the recipe; resumes where an earlier run stopped, and adds the views and taps that a cache
/// lacks.
///
/// # Errors
/// Names what is wrong with data, teacher, taps, values, disk or an existing cache, and what to do.
/// When the user asks to stop, published segments stay and the same recipe goes on from them.
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

/// The teacher alone on the recipe's first batches, decoded beforehand, with the same tensors read:
/// what an extraction is measured against. Runs as many batches as the recipe has; gives rows and
/// seconds.
///
/// # Errors
/// As [`run`].
pub fn bare(
    recipe: &Extract,
    runtime: &Runtime,
    options: &SessionOptions,
    monitor: &dyn Monitor,
) -> Result<(usize, f64)> {
    /// Batches that are taken in turn.
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
pub fn image_shape(recipe: &Extract) -> Result<Option<[usize; 3]>> {
    let model = Model::read(&recipe.teacher)?;
    // the extraction reports on the data
    let source = prepare::open_data(recipe, &model, &Silent)?;
    Ok(source.preprocess.map(|p| [p.channels.count(), p.size[0], p.size[1]]))
}
