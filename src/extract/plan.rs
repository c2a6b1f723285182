//! What an extraction does, decided before anything is written.

use super::choice;
use super::estimate::Estimate;
use super::keep::{self, Kept};
use super::layout;
use super::output::Outputs;
use super::prepare::{Prepared, prepare};
use super::reader::RowReader;
use super::stale::{self, Changes};
use crate::cache;
use crate::error::Result;
use crate::monitor::Monitor;
use crate::onnx::Model;
use crate::recipe::Extract;
use crate::runtime::{Runtime, Session, SessionOptions};
use crate::statistic::Statistic;

/// What an extraction does.
pub(super) struct ExtractPlan<'a> {
    pub(super) recipe: &'a Extract,
    pub(super) model: Model,
    pub(super) reader: RowReader,
    /// ONNX Runtime, with the optimizations that keep the teacher's values.
    pub(super) runtime: Runtime,
    /// Rows of one inference.
    pub(super) batch: usize,
    /// Bytes that one sample of the teacher's largest tensor takes as f32.
    pub(super) largest_tensor: usize,
    pub(super) outputs: Outputs,
    /// The taps whose form was chosen by size.
    pub(super) kept: Vec<Kept>,
    pub(super) changes: Changes,
    pub(super) cache: cache::CachePlan,
    pub(super) estimate: Estimate,
}

/// Decides everything from the recipe, the teacher, the data and the cache that may exist; gives
/// the teacher's session with it.
///
/// # Errors
/// Whatever can be refused before the first row is written: names what is wrong with data, teacher,
/// taps, values, disk or the existing cache.
pub(super) fn decide<'a>(
    recipe: &'a Extract,
    runtime: &Runtime,
    options: &SessionOptions,
    monitor: &dyn Monitor,
) -> Result<(ExtractPlan<'a>, Session)> {
    let (prepared, mut session) = prepare(recipe, Some(&recipe.output), runtime, options, monitor)?;
    let (outputs, kept) = keep::decide(&prepared, &mut session, monitor)?;
    for output in outputs.all.iter().filter(|output| output.statistic() == Statistic::Gram) {
        keep::warn_of_large_gram(output, monitor);
    }
    let changes = stale::judge(&prepared, monitor)?;
    let first = layout::first_batch(&prepared.reader, &outputs, prepared.batch, &mut session)?;
    let existing = prepared.existing.as_ref();
    let outputs =
        choice::convert_probabilities(outputs, existing, &first.values, first.rows, monitor)?;
    let fingerprint = changes.fingerprint.clone();
    let (cache, estimate) =
        layout::lay_out(&prepared, &outputs, &first, fingerprint, session.provider(), monitor)?;
    drop(first);
    estimate.refuse_what_cannot_fit(&recipe.output)?;
    let Prepared { model, reader, runtime, batch, largest_tensor, .. } = prepared;
    let plan = ExtractPlan {
        recipe,
        model,
        reader,
        runtime,
        batch,
        largest_tensor,
        outputs,
        kept,
        changes,
        cache,
        estimate,
    };
    Ok((plan, session))
}
