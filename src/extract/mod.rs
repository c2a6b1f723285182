//! Data set → preprocess → teacher → statistic → shards, as an overlapped pipeline with bounded queues. Never names the student.
//!
//! `source` turns samples into the teacher's inputs, `choice` decides what is kept of the teacher and `output` how, `rows` fixes which sample
//! stands in which row, `plan` lays it out on disk, `pipeline` computes the missing segments, `accuracy` reads the teacher's own top-1 back.

mod accuracy;
mod choice;
mod estimate;
pub mod live;
mod output;
mod pipeline;
mod plan;
mod rows;
mod source;

use crate::cache::{Manifest, Plan, TeacherRecord, Writer};
use crate::data::{self, subset};
use crate::error::Result;
use crate::monitor::Monitor;
use crate::onnx::Model;
use crate::recipe::Extract;
use crate::runtime::{self, Device, Runtime, Session, SessionOptions};
use output::Output;
use rows::{Rows, TeacherClasses};
use serde::Serialize;
use source::Source;
use std::time::Instant;

pub use estimate::human_bytes;
pub use pipeline::Stages;
pub use rows::read_classes;
pub use source::recorded_preprocess;

/// What an extraction did.
#[derive(Debug, Clone, Serialize)]
pub struct ExtractReport {
    /// Rows of the cache.
    pub rows: usize,
    /// Rows that this run computed (the others were there).
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
}

/// What is decided before the first segment is computed.
struct Job<'a> {
    recipe: &'a Extract,
    source: &'a Source<'a>,
    outputs: &'a [Output],
    /// The tensors of `outputs`.
    tensors: Vec<String>,
    rows: &'a Rows,
    /// Rows of one inference.
    batch: usize,
}

/// Runs the recipe; resumes where an earlier run stopped.
///
/// # Errors
/// Names what is wrong with data, teacher, taps, values, disk or an existing cache, and what to do. When the user asks to stop, published
/// segments stay and the same recipe goes on from them.
pub fn run(recipe: &Extract, runtime: &Runtime, options: &SessionOptions, monitor: &dyn Monitor) -> Result<ExtractReport> {
    let started = Instant::now();
    prepare(recipe, runtime, options, monitor, |job, model, mut session| {
        let first = plan::first_batch(job, &mut session)?;
        let (plan, estimate) = plan::make(job, teacher_record(job, model, runtime, &session), &first)?;
        estimate.refuse_what_cannot_fit(&recipe.output)?;

        let mut writer = Writer::open(&recipe.output, &plan)?;
        let tasks = pipeline::tasks(&writer, job.batch);
        let computed = tasks.iter().map(|t| t.rows.len()).sum();
        if computed > 0 {
            monitor.note(&estimate.describe(computed));
        }
        let pipeline_started = Instant::now();
        let stages = pipeline::run(job, tasks, &mut session, &mut writer, monitor)?;
        let pipeline_seconds = pipeline_started.elapsed().as_secs_f64();
        drop(writer);

        let manifest = finish(job, &plan, computed, monitor)?;
        Ok(ExtractReport {
            rows: job.rows.len(),
            computed,
            bytes: manifest.segments.iter().flat_map(|s| &s.bytes).sum(),
            raw_bytes: estimate.raw_bytes,
            seconds: started.elapsed().as_secs_f64(),
            pipeline_seconds,
            stages,
            teacher_top1: manifest.teacher.top1_basis_points.map(|points| f64::from(points) / 100.0),
            skipped: job.rows.skipped.len(),
        })
    })
}

/// The teacher alone on the recipe's first batches, decoded beforehand, with the same tensors read: what an extraction is measured against.
/// Runs as many batches as the recipe has; gives rows and seconds.
///
/// # Errors
/// As [`run`].
pub fn bare(recipe: &Extract, runtime: &Runtime, options: &SessionOptions, monitor: &dyn Monitor) -> Result<(usize, f64)> {
    /// Batches that are taken in turn.
    const BATCHES: usize = 4;
    prepare(recipe, runtime, options, monitor, |job, _, mut session| {
        let chunks: Vec<&[usize]> = job.rows.samples.chunks(job.batch).collect();
        let batches = chunks.iter().take(BATCHES).map(|samples| job.source.batch(samples)).collect::<Result<Vec<_>>>()?;
        // the first run allocates
        session.run(&job.source.feed(&batches[0]), &job.tensors)?;
        let started = Instant::now();
        for (_, batch) in chunks.iter().zip(batches.iter().cycle()) {
            session.run(&job.source.feed(batch), &job.tensors)?;
        }
        Ok((job.rows.len(), started.elapsed().as_secs_f64()))
    })
}

/// Decides everything that comes before the first segment and gives it to `body`, with the teacher ready to run.
fn prepare<R>(
    recipe: &Extract,
    runtime: &Runtime,
    options: &SessionOptions,
    monitor: &dyn Monitor,
    body: impl FnOnce(&Job<'_>, &Model, Session) -> Result<R>,
) -> Result<R> {
    let model = Model::read(&recipe.teacher)?;
    let subset = subset(data::open(&recipe.data, &recipe.split, monitor)?, recipe.limit, recipe.shuffle);
    rows::check(recipe, &subset, monitor)?;
    let mut source = Source::new(recipe, &model, &subset, monitor)?;
    let probe = runtime::probe(runtime, &model, &source.shapes())?;
    source.fixed_batch = probe.batch;
    let outputs = choice::choose(recipe, &model, &probe, monitor)?;
    let classes = TeacherClasses { classes: output::classes(&outputs), recorded_classes: source::recorded_classes(&model)? };
    let rows = Rows::arrange(recipe, &source, subset.indices.clone(), classes, monitor)?;
    let tensors = outputs.iter().map(|o| o.tensor.clone()).collect();
    let batch = source.batch_size(recipe.batch, &outputs)?;
    let job = Job { recipe, source: &source, outputs: &outputs, tensors, rows: &rows, batch };

    let session = Session::new(runtime, &model, &job.tensors, options)?;
    if options.device == Device::Auto {
        monitor.note(&format!("the teacher runs on {}", session.provider()));
    }
    body(&job, &model, session)
}

fn teacher_record(job: &Job<'_>, model: &Model, runtime: &Runtime, session: &Session) -> TeacherRecord {
    TeacherRecord {
        file: job.recipe.teacher.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        sha256: model.sha256().to_owned(),
        runtime: runtime.version.clone(),
        provider: session.provider().to_owned(),
        batch: job.batch,
        top1_basis_points: None,
    }
}

/// Measures the teacher on the cached logits (not while they are computed: an interruption must not change the figure) and records it.
fn finish(job: &Job<'_>, plan: &Plan, computed: usize, monitor: &dyn Monitor) -> Result<Manifest> {
    let accuracy = match output::classes(job.outputs) {
        Some(classes) if job.rows.are_labelled() => Some(accuracy::of_cache(&job.recipe.output, classes)?),
        _ => None,
    };
    if let Some(accuracy) = &accuracy {
        accuracy.warn_near_chance(monitor);
    }
    let mut writer = Writer::open(&job.recipe.output, plan)?;
    let basis_points = accuracy.map(accuracy::Accuracy::basis_points);
    if computed > 0 || writer.manifest().teacher.top1_basis_points != basis_points {
        writer.finish(basis_points)?;
    }
    Ok(writer.manifest().clone())
}
