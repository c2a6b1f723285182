//! Computes and writes what a plan says.

use super::accuracy;
use super::encode::Lost;
use super::pipeline::{self, Ended, Stages, Task};
use super::plan::ExtractPlan;
use super::refresh;
use crate::cache::{Manifest, Writer};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::onnx;
use crate::runtime::{Device, Session, SessionOptions};
use std::time::Instant;

/// Weights that may be in memory more than once.
const WEIGHTS: u64 = 256 << 20;
/// Bytes that the largest tensors of all sessions may take together.
const TENSORS: usize = 512 << 20;

/// What was computed.
pub(super) struct Written {
    /// The cache's manifest at the end.
    pub(super) manifest: Manifest,
    /// Rows of all views that the pipeline computed.
    pub(super) computed: usize,
    /// Rows of changed samples that were computed in place.
    pub(super) replaced: usize,
    /// Rows of changed samples among those that the pipeline computed.
    pub(super) recomputed: usize,
    /// Wall time.
    pub(super) seconds: f64,
    pub(super) stages: Stages,
}

/// Computes the rows of changed samples again, for a refresh, and then what the cache lacks.
///
/// # Errors
/// At the first row that cannot be read, computed or written, or when the user asks to stop; what
/// is published stays.
pub(super) fn compute(
    plan: &ExtractPlan<'_>,
    mut session: Session,
    options: &SessionOptions,
    mut writer: Writer,
    monitor: &dyn Monitor,
) -> Result<Written> {
    let started = Instant::now();
    let data = plan.reader.source.data();
    let mut lost = vec![Lost::NOTHING; plan.outputs.all.len()];
    let [replaced, recomputed] = if plan.recipe.refresh {
        replace_changed(plan, &mut session, &mut writer, monitor, &mut lost)?
    } else {
        writer.relist(data.fingerprint())?;
        [0, 0]
    };
    let (computed, stages) =
        compute_missing(plan, session, options, &mut writer, monitor, &mut lost)?;
    if plan.recipe.refresh {
        pipeline::record(plan, &mut writer)?;
        writer.refreshed(data.fingerprint())?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let manifest = finish(plan, writer, computed, monitor)?;
    Ok(Written { manifest, computed, replaced, recomputed, seconds, stages })
}

/// Computes the rows of changed samples again in place. Gives how many, and how many are left for
/// the pipeline.
fn replace_changed(
    plan: &ExtractPlan<'_>,
    session: &mut Session,
    writer: &mut Writer,
    monitor: &dyn Monitor,
    lost: &mut [Lost],
) -> Result<[usize; 2]> {
    let changed = &plan.changes.changed;
    writer.refresh(changed);
    loop {
        match refresh::run(plan, changed, session, writer, monitor, lost)? {
            (Ended::Done, rows) => return Ok(rows),
            (Ended::BeyondF16(output, why), _) => {
                lost[output] = Lost::NOTHING;
                widen(plan, writer, output, &why, monitor)?;
            }
        }
    }
}

/// Computes the segments that the cache lacks. Gives how many rows, and how long each stage worked.
fn compute_missing(
    plan: &ExtractPlan<'_>,
    session: Session,
    options: &SessionOptions,
    writer: &mut Writer,
    monitor: &dyn Monitor,
    lost: &mut [Lost],
) -> Result<(usize, Stages)> {
    let rows_of = |tasks: &[Task]| tasks.iter().map(|t| t.rows.len()).sum::<usize>();
    let mut tasks = pipeline::tasks(writer, plan.batch);
    if !tasks.is_empty() {
        monitor.note(&plan.estimate.describe(rows_of(&tasks)));
    }
    let mut sessions = sessions(plan, session, options, tasks.len())?;
    let mut stages = Stages::default();
    loop {
        // rows computed before a tap was widened are among those computed for it
        let rows = rows_of(&tasks);
        let result = pipeline::run(plan, tasks, &mut sessions, writer, monitor, lost);
        if !matches!(result, Ok((Ended::BeyondF16(..), _))) {
            pipeline::say_lost(plan, lost, monitor);
        }
        let (ended, worked) = result?;
        stages.add(&worked);
        match ended {
            Ended::Done => return Ok((rows, stages)),
            Ended::BeyondF16(output, why) => {
                lost[output] = Lost::NOTHING;
                widen(plan, writer, output, &why, monitor)?;
            }
        }
        tasks = pipeline::tasks(writer, plan.batch);
    }
}

/// Changes a tap whose values are beyond f16 to f32: it alone is computed again.
fn widen(
    plan: &ExtractPlan<'_>,
    writer: &mut Writer,
    output: usize,
    why: &Error,
    monitor: &dyn Monitor,
) -> Result<()> {
    monitor.warn(&format!(
        "{}: this tap is stored as f32 from now on and computed again, all else stays",
        why.chain()
    ));
    writer.widen(&plan.outputs.all[output].path())
}

/// One single-threaded session a thread instead of one session of all threads, where the teacher is
/// small and runs on the CPU: the threads of one session wait for each other at every operator, and
/// so for whichever the decoders and the writer have displaced.
fn sessions(
    plan: &ExtractPlan<'_>,
    session: Session,
    options: &SessionOptions,
    batches: usize,
) -> Result<Vec<Session>> {
    let weights = onnx::cost::parameters(&plan.model).saturating_mul(size_of::<f32>() as u64);
    let copies =
        options.threads.min(usize::try_from(WEIGHTS / weights.max(1)).unwrap_or(usize::MAX));
    let tensors = plan.largest_tensor.saturating_mul(plan.batch).saturating_mul(options.threads);
    let elsewhere =
        session.provider() != Device::Cpu.to_string() || plan.recipe.in_graph == Some(true);
    if elsewhere
        || copies < options.threads
        || tensors >= TENSORS
        || batches < 4 * options.threads
        || options.threads < 2
    {
        return Ok(vec![session]);
    }
    drop(session);
    let single = SessionOptions { device: Device::Cpu, threads: 1 };
    let new = |_| Session::new(&plan.runtime, &plan.model, &plan.outputs.tensors, &single);
    (0..options.threads).map(new).collect()
}

/// Measures the teacher on the cached logits (not while they are computed: an interruption must not
/// change the figure) and records it.
fn finish(
    plan: &ExtractPlan<'_>,
    mut writer: Writer,
    computed: usize,
    monitor: &dyn Monitor,
) -> Result<Manifest> {
    let rows = &plan.reader.rows;
    let accuracy = match plan.outputs.classes() {
        Some(classes) if rows.are_labeled() && !rows.other_classes => {
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
