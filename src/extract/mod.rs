//! Data set → preprocess → teacher → statistic → shards, as an overlapped pipeline with
//! bounded queues. Never names the student.
//!
//! `source` finds how samples become the teacher's inputs and `batch` makes them, `choice` decides
//! which taps are kept of the teacher, `keep` in which form (by what `measure` finds) and `output`
//! how, `rows` fixes which sample stands in which row, `stale` compares the data with what an
//! existing cache was made of, `plan` lays it out on disk, `refresh` computes changed rows again
//! and `pipeline` the missing segments, `accuracy` reads the teacher's own top-1 back.

mod accuracy;
mod batch;
mod choice;
pub mod classes;
mod estimate;
mod feed;
mod in_graph;
pub mod independence;
mod keep;
pub mod live;
mod measure;
mod output;
mod pipeline;
mod plan;
mod refresh;
mod rows;
pub mod soundness;
mod source;
mod stale;
mod ways;

use crate::array::Array;
use crate::cache::{Manifest, TeacherRecord, Writer};
use crate::data::augment::{Parameter, Views};
use crate::data::{self, Fingerprint, ViewCount, subset};
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Silent};
use crate::onnx::{self, Model};
use crate::recipe::{Extract, Inputs};
use crate::runtime::{self, Device, Runtime, Session, SessionOptions};
use crate::statistic::Statistic;
use choice::Choice;
use output::{Lost, Output};
use pipeline::Ended;
use rows::Rows;
use serde::Serialize;
use source::Source;
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

pub use estimate::human_bytes;
pub use keep::{Alternative, Kept};
pub use measure::{Sizes, TapSizes, sizes};
pub use pipeline::Stages;
pub use source::{recorded_classes, recorded_preprocess};

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

/// What is decided before the first segment is computed.
struct Job<'a> {
    /// ONNX Runtime, its optimizations as far as they keep the teacher's values.
    runtime: Runtime,
    recipe: &'a Extract,
    source: &'a Source<'a>,
    outputs: Vec<Output>,
    /// The tensors that they are made of, each once.
    tensors: Vec<String>,
    rows: &'a Rows,
    /// Rows of one inference.
    batch: usize,
    /// The manifest of the cache that is gone on with or added to.
    existing: Option<&'a Manifest>,
    /// What the views are made of; `None`: images as they are, and arrays.
    views: Option<Views>,
    /// Their parameters that are stored.
    parameters: Vec<Parameter>,
    /// How many views.
    view_count: usize,
    /// Whether inputs are stored.
    stores_inputs: bool,
    /// What the manifest says of the data: while a cache is refreshed, that which it was made of.
    fingerprint: Fingerprint,
}

impl Job<'_> {
    fn set_outputs(&mut self, outputs: Vec<Output>) {
        self.tensors = tensors(&outputs);
        self.outputs = outputs;
    }

    /// The values that an output is made of, among those of [`Job::tensors`].
    fn values<'v>(&self, output: &Output, values: &'v [Array]) -> Result<&'v Array> {
        let at = self.tensors.iter().position(|tensor| *tensor == output.fetched());
        at.and_then(|at| values.get(at)).ok_or_else(|| {
            Error::input(format!("tensor `{}`: the run gave no value", output.fetched()))
        })
    }
}

/// The tensors that outputs are made of, each once.
fn tensors(outputs: &[Output]) -> Vec<String> {
    let mut tensors: Vec<String> = Vec::new();
    for output in outputs {
        if !tensors.iter().any(|tensor| tensor == output.fetched()) {
            tensors.push(output.fetched().to_owned());
        }
    }
    tensors
}

/// Inputs of more bytes a row than this are decoded again by whoever trains, unless told otherwise:
/// at 224×224 they would be most of the cache.
const STORED_INPUT_BYTES: usize = 64 << 10;

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
    let folder = Some(recipe.output.as_path());
    prepare(recipe, folder, runtime, options, monitor, |job, model, mut session, kept| {
        for output in job.outputs.iter().filter(|output| output.statistic == Statistic::Gram) {
            keep::warn_of_large_gram(output, monitor);
        }
        let stale::Judged { changed, restamped } = stale::judge(job, monitor)?;
        let first = plan::first_batch(job, &mut session)?;
        choice::convert_probabilities(job, &first, monitor)?;
        let (plan, estimate) =
            plan::make(job, model, teacher_record(job, model, &session), &first, monitor)?;
        drop(first);
        estimate.refuse_what_cannot_fit(&recipe.output)?;

        let mut writer = Writer::open(&recipe.output, &plan)?;
        writer.count_from(started)?;
        writer.renew(&restamped)?;
        let pipeline_started = Instant::now();
        let [mut replaced, mut missing] = [0, 0];
        let mut lost = vec![Lost::NOTHING; job.outputs.len()];
        if recipe.refresh {
            writer.refresh(&changed);
            [replaced, missing] = loop {
                let session = &mut session;
                match refresh::run(job, &changed, session, &mut writer, monitor, &mut lost)? {
                    (Ended::Done, rows) => break rows,
                    (Ended::BeyondF16(output, why), _) => {
                        lost[output] = Lost::NOTHING;
                        widen(job, &mut writer, output, &why, monitor)?;
                    }
                }
            };
        } else {
            writer.relist(job.source.data.fingerprint())?;
        }
        let mut tasks = pipeline::tasks(&writer, job.batch);
        let rows_of = |tasks: &[pipeline::Task]| tasks.iter().map(|t| t.rows.len()).sum::<usize>();
        if !tasks.is_empty() {
            monitor.note(&estimate.describe(rows_of(&tasks)));
        }
        let mut sessions = sessions(job, model, session, options, tasks.len())?;
        let mut stages = Stages::default();
        let computed = loop {
            // what was computed before a tap was widened is among what is computed for it
            let rows = rows_of(&tasks);
            let result = pipeline::run(job, tasks, &mut sessions, &mut writer, monitor, &mut lost);
            if !matches!(result, Ok((Ended::BeyondF16(..), _))) {
                pipeline::say_lost(job, &lost, monitor);
            }
            let (ended, worked) = result?;
            stages.add(&worked);
            match ended {
                Ended::Done => break rows,
                Ended::BeyondF16(output, why) => {
                    lost[output] = Lost::NOTHING;
                    widen(job, &mut writer, output, &why, monitor)?;
                }
            }
            tasks = pipeline::tasks(&writer, job.batch);
        };
        if recipe.refresh {
            pipeline::record(job, &mut writer)?;
            writer.refreshed(job.source.data.fingerprint())?;
        }
        let pipeline_seconds = pipeline_started.elapsed().as_secs_f64();
        let manifest = finish(job, writer, computed, monitor)?;
        Ok(ExtractReport {
            rows: job.rows.len(),
            views: manifest.views,
            computed: computed + replaced,
            bytes: manifest.segments.iter().flat_map(|s| &s.bytes).sum(),
            raw_bytes: estimate.raw_bytes,
            seconds: started.elapsed().as_secs_f64(),
            pipeline_seconds,
            stages,
            teacher_top1: manifest
                .teacher
                .top1_basis_points
                .map(|points| f64::from(points) / 100.0),
            skipped: job.rows.skipped.len(),
            refreshed: replaced + missing,
            kept,
        })
    })
}

/// Goes over to f32 for a tap whose values f16 cannot say: it alone is computed again.
fn widen(
    job: &mut Job<'_>,
    writer: &mut Writer,
    output: usize,
    why: &Error,
    monitor: &dyn Monitor,
) -> Result<()> {
    let tap = job.outputs.remove(output);
    monitor.warn(&format!(
        "{}: this tap is stored as f32 from now on and computed again, all else stays",
        why.chain()
    ));
    writer.widen(&tap.path())?;
    job.outputs.push(tap);
    Ok(())
}

/// Weights that may be in memory more than once.
const WEIGHTS: u64 = 256 << 20;
/// What the largest tensors of all sessions together may take.
const TENSORS: usize = 512 << 20;

/// A session of one thread for each thread, in place of one session of all, where the teacher is
/// small and runs on the CPU: the threads of one session wait for each other at every operator, and
/// so for whichever the decoders and the writer have displaced.
fn sessions(
    job: &Job<'_>,
    model: &Model,
    session: Session,
    options: &SessionOptions,
    batches: usize,
) -> Result<Vec<Session>> {
    let weights = onnx::cost::parameters(model).saturating_mul(size_of::<f32>() as u64);
    let copies =
        options.threads.min(usize::try_from(WEIGHTS / weights.max(1)).unwrap_or(usize::MAX));
    let tensors =
        job.source.largest_tensor.saturating_mul(job.batch).saturating_mul(options.threads);
    let elsewhere =
        session.provider() != Device::Cpu.to_string() || job.recipe.in_graph == Some(true);
    if elsewhere
        || copies < options.threads
        || tensors >= TENSORS
        || batches < 4 * options.threads
        || options.threads < 2
    {
        return Ok(vec![session]);
    }
    drop(session);
    let alone = SessionOptions { device: Device::Cpu, threads: 1 };
    (0..options.threads).map(|_| Session::new(&job.runtime, model, &job.tensors, &alone)).collect()
}

/// The teacher alone on the recipe's first batches, decoded beforehand, with the same tensors read:
/// what an extraction is measured against. Runs as many batches as the recipe has; gives rows and
/// seconds.
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
    /// Batches that are taken in turn.
    const BATCHES: usize = 4;
    prepare(recipe, Some(&recipe.output), runtime, options, monitor, |job, _, mut session, _| {
        let rows = job.rows.len();
        let chunks: Vec<Range<usize>> = (0..rows)
            .step_by(job.batch)
            .map(|first| first..(first + job.batch).min(rows))
            .collect();
        let batches = chunks
            .iter()
            .take(BATCHES)
            .map(|rows| batch::read(job, 0, rows.clone()))
            .collect::<Result<Vec<_>>>()?;
        // the first run allocates
        session.run(&batches[0].feed(job), &job.tensors)?;
        let started = Instant::now();
        for (_, batch) in chunks.iter().zip(batches.iter().cycle()) {
            session.run(&batch.feed(job), &job.tensors)?;
        }
        Ok((job.rows.len(), started.elapsed().as_secs_f64()))
    })
}

/// Decides everything that comes before the first segment and gives it to `body`, with the teacher
/// ready to run. `folder`: where a cache may be to go on with.
fn prepare<R>(
    recipe: &Extract,
    folder: Option<&Path>,
    runtime: &Runtime,
    options: &SessionOptions,
    monitor: &dyn Monitor,
    body: impl FnOnce(&mut Job<'_>, &Model, Session, Vec<Kept>) -> Result<R>,
) -> Result<R> {
    let model = Model::read(&recipe.teacher)?;
    let fed = source::fed(recipe, &model);
    let dataset = data::open_for(&recipe.data, &recipe.split, &fed, monitor)?;
    monitor.note(&format!(
        "data {} ({}): {}",
        recipe.data,
        recipe.split,
        data::describe(dataset.as_ref())
    ));
    let subset = subset(dataset, recipe.limit, recipe.shuffle);
    rows::check(recipe, &subset, monitor)?;
    let mut source = Source::new(recipe, &model, &subset, monitor)?;
    let probe = runtime::probe(runtime, &model, &source.feeds())?;
    source.fixed_batch = probe.batch;
    source.largest_tensor = probe.largest_row_bytes();
    let existing = folder.map(|folder| existing(folder, &model, &source)).transpose()?.flatten();
    let Choice { outputs, undecided } =
        choice::choose(recipe, &model, &probe, existing.as_ref(), monitor)?;
    let recorded = source::recorded_classes(&model)?;
    let known = classes::Known {
        who: "the teacher",
        count: output::classes(&outputs),
        recorded: recorded.as_deref(),
        file: None,
    };
    let rows = Rows::arrange(recipe, &source, &subset.indices, existing.as_ref(), known, monitor)?;
    let mut job = job(runtime, recipe, &source, outputs, &rows, existing.as_ref(), monitor)?;

    let mut session = Session::new(runtime, &model, &job.tensors, options)?;
    if options.device == Device::Auto {
        monitor.note(&format!("the teacher runs on {}", session.provider()));
    }
    if recipe.in_graph.unwrap_or(session.provider() != Device::Cpu.to_string())
        && job.outputs.iter().any(|o| o.map().is_some())
    {
        let mut outputs = job.outputs.clone();
        let extended = in_graph::append(&model, &probe, &mut outputs)?;
        job.set_outputs(outputs);
        session = Session::new(runtime, &extended, &job.tensors, options)?;
        settle(&mut job, &extended, &mut session, monitor)?;
    } else {
        settle(&mut job, &model, &mut session, monitor)?;
    }
    let kept = keep::decide(&mut job, &undecided, &mut session, monitor)?;
    body(&mut job, &model, session, kept)
}

/// Channels, height and width of the images that the recipe feeds to the teacher; `None`: arrays.
///
/// # Errors
/// When teacher or data cannot be read, or do not fit each other.
pub fn image_shape(recipe: &Extract) -> Result<Option<[usize; 3]>> {
    let model = Model::read(&recipe.teacher)?;
    // what there is to say of the data is said when it is extracted
    let fed = source::fed(recipe, &model);
    let subset = subset(
        data::open_for(&recipe.data, &recipe.split, &fed, &Silent)?,
        recipe.limit,
        recipe.shuffle,
    );
    rows::check(recipe, &subset, &Silent)?;
    let source = Source::new(recipe, &model, &subset, &Silent)?;
    Ok(source.preprocess.map(|p| [p.channels.count(), p.size[0], p.size[1]]))
}

/// Sees that the teacher's values are functions of one sample; where they are so only of a batch of
/// one, that is the batch. And that ONNX Runtime's optimizations keep them, as far as they do.
fn settle(
    job: &mut Job<'_>,
    model: &Model,
    session: &mut Session,
    monitor: &dyn Monitor,
) -> Result<()> {
    let source = job.source;
    let count = job.rows.len().min(independence::SAMPLES);
    let (rows, _) = batch::stored(job, 0, 0..count)?;
    let subject = independence::Subject {
        who: "teacher",
        runtime: &job.runtime,
        model,
        tensors: &job.tensors,
        fixed: source.fixed_batch,
        inputs: source
            .inputs
            .iter()
            .map(|input| (input.dtype, source.preprocess.is_some()))
            .collect(),
        feed: &|bytes, count| feed::named(source.fed(), bytes, count),
    };
    let alone = independence::check(&subject, session, &rows, count, job.batch)?;
    let batch = if alone.is_some() { 1 } else { job.batch };
    let limited = soundness::check(&subject, session, &rows, count, batch, monitor)?;
    job.batch = batch;
    if let Some(reason) = alone {
        monitor.note(&reason);
    }
    if let Some(runtime) = limited {
        job.runtime = runtime;
    }
    Ok(())
}

/// The manifest of a cache of this teacher and preprocessing in the folder. Any other one is
/// refused when it is opened, by what differs.
fn existing(folder: &Path, model: &Model, source: &Source<'_>) -> Result<Option<Manifest>> {
    let found = Manifest::find(folder)?;
    Ok(found
        .filter(|m| m.teacher.sha256 == model.sha256() && m.data.preprocess == source.preprocess))
}

/// Decides batch, views and what is stored of the inputs: as the recipe says, else as the cache has
/// it.
fn job<'a>(
    runtime: &Runtime,
    recipe: &'a Extract,
    source: &'a Source<'a>,
    outputs: Vec<Output>,
    rows: &'a Rows,
    existing: Option<&'a Manifest>,
    monitor: &dyn Monitor,
) -> Result<Job<'a>> {
    let augmentation = recipe.augmentation.clone();
    augmentation.validate()?;
    let size = source.preprocess.as_ref().map_or([0, 0], |p| p.size);
    let views = Views { augmentation, size, seed: recipe.seed, rows: rows.len() };
    let (asked, there) = (views.count(recipe.views)?, existing.map_or(1, |m| m.views));
    if asked < there && recipe.views != ViewCount::Count(1) {
        monitor.note(&format!("the cache has {there} views: they stay"));
    }
    let input_bytes = source.inputs.iter().map(feed::Input::row_bytes).sum::<usize>();
    let fits = || {
        existing.map_or(
            source.preprocess.is_none() || input_bytes <= STORED_INPUT_BYTES,
            Manifest::stores_inputs,
        )
    };
    let stores_inputs = recipe.inputs.map_or_else(fits, |inputs| inputs == Inputs::Stored);
    if !stores_inputs {
        monitor.note(&format!(
            "inputs ({} a row) are not stored: train decodes them from the data again (--inputs \
             stored keeps them)",
            human_bytes(input_bytes as u64)
        ));
    }
    Ok(Job {
        runtime: runtime.clone(),
        recipe,
        source,
        batch: source.batch_size(
            recipe.batch.or(existing.map(|m| m.teacher.batch)),
            &outputs,
            monitor,
        )?,
        tensors: tensors(&outputs),
        outputs,
        rows,
        existing,
        parameters: Parameter::of(&views.augmentation),
        views: Some(views).filter(|views| !views.augmentation.is_none()),
        view_count: asked.max(there),
        stores_inputs,
        fingerprint: source.data.fingerprint().clone(),
    })
}

fn teacher_record(job: &Job<'_>, model: &Model, session: &Session) -> TeacherRecord {
    TeacherRecord {
        file: job.recipe.teacher.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        sha256: model.sha256().to_owned(),
        runtime: job.runtime.describe(),
        provider: session.provider().to_owned(),
        batch: job.batch,
        constants: job.source.constants.clone(),
        top1_basis_points: None,
    }
}

/// Measures the teacher on the cached logits (not while they are computed: an interruption must not
/// change the figure) and records it.
fn finish(
    job: &Job<'_>,
    mut writer: Writer,
    computed: usize,
    monitor: &dyn Monitor,
) -> Result<Manifest> {
    let accuracy = match output::classes(&job.outputs) {
        Some(classes) if job.rows.are_labelled() && !job.rows.other_classes => {
            Some(accuracy::of_cache(&writer.read()?, classes)?)
        }
        _ => None,
    };
    if let Some(accuracy) = &accuracy {
        accuracy.warn_near_chance(monitor);
    }
    let basis_points = accuracy.map(accuracy::Accuracy::basis_points);
    if computed > 0 || writer.manifest().teacher.top1_basis_points != basis_points {
        writer.finish(basis_points)?;
    }
    Ok(writer.manifest().clone())
}
