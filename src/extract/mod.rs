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

    let mut session = Session::new(runtime, &model, &job.tensors, options)?;
    if options.device == Device::Auto {
        monitor.note(&format!("the teacher runs on {}", session.provider()));
    }
    let first = plan::first_batch(&job, &mut session)?;
    let (plan, estimate) = plan::make(&job, teacher_record(&job, &model, runtime, &session), &first)?;
    estimate.refuse_what_cannot_fit(&recipe.output)?;

    let mut writer = Writer::open(&recipe.output, &plan)?;
    let tasks = pipeline::tasks(&writer, batch);
    let computed = tasks.iter().map(|t| t.rows.len()).sum();
    if computed > 0 {
        monitor.note(&estimate.describe(computed));
    }
    pipeline::run(&job, tasks, &mut session, &mut writer, monitor)?;
    drop(writer);

    let manifest = finish(&job, &plan, computed, monitor)?;
    Ok(ExtractReport {
        rows: rows.len(),
        computed,
        bytes: manifest.segments.iter().flat_map(|s| &s.bytes).sum(),
        raw_bytes: estimate.raw_bytes,
        seconds: started.elapsed().as_secs_f64(),
        teacher_top1: manifest.teacher.top1_basis_points.map(|points| f64::from(points) / 100.0),
        skipped: rows.skipped.len(),
    })
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
