//! Computes the rows of changed samples again in place: in their own batches, so that the bytes
//! are those of a cache of the current data. All other rows are copied.

use super::encode::{Encoded, Lost};
use super::pipeline::{self, Ended};
use super::plan::ExtractPlan;
use super::reader::RowReader;
use crate::cache::{Writer, published_rows};
use crate::data::augment::ViewKey;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::recipe::Store;
use crate::runtime::Session;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;

/// Rows of a view that depend on one of these samples: their own sample, or one mixed into them.
fn affected(reader: &RowReader, changed: &HashSet<usize>, view: usize) -> Vec<usize> {
    let is_changed =
        |row: usize| reader.rows.samples.get(row).is_some_and(|sample| changed.contains(sample));
    let mixes = reader.views.as_ref().filter(|views| views.augmentation.mixes());
    let partner = |row: usize| {
        let sample = *reader.rows.samples.get(row)? as u64;
        // the image's size affects only the crop
        mixes?.draw(ViewKey { sample, row, view: view as u64 }, [1, 1]).mix.map(|mix| mix.partner)
    };
    (0..reader.rows.len())
        .filter(|&row| is_changed(row) || partner(row).is_some_and(is_changed))
        .collect()
}

/// Replaces the rows of changed samples in all published segments. A segment with such rows in
/// every batch is withdrawn instead, and computed as any missing one. Returns how many rows were
/// replaced and how many were withdrawn.
///
/// # Errors
/// When a sample cannot be read or computed, a file cannot be written, or the user asks to stop.
/// The cache then still counts as one of other data.
pub(super) fn run(
    plan: &ExtractPlan<'_>,
    changed: &[usize],
    session: &mut Session,
    writer: &mut Writer,
    monitor: &dyn Monitor,
    lost: &mut [Lost],
) -> Result<(Ended, [usize; 2])> {
    let changed: HashSet<usize> = changed.iter().copied().collect();
    let manifest = writer.manifest();
    let mut segments: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for view in 0..manifest.views {
        for row in affected(&plan.reader, &changed, view) {
            let segment = row / manifest.segment_rows;
            if manifest.published_arrays(view, segment) > 0 {
                segments.entry((view, segment)).or_default().push(row);
            }
        }
    }
    let batches = |segment: usize, rows: &[usize]| {
        let first = segment * manifest.segment_rows;
        let end = first + manifest.rows_of_segment(segment);
        let starts: BTreeSet<usize> =
            rows.iter().map(|row| row - (row - first) % plan.batch).collect();
        let all = (end - first).div_ceil(plan.batch);
        (
            starts
                .into_iter()
                .map(|start| start..(start + plan.batch).min(end))
                .collect::<Vec<Range<usize>>>(),
            all,
        )
    };
    let (mut whole, mut parts, mut counts) = (BTreeSet::new(), Vec::new(), [0, 0]);
    for (&(view, segment), rows) in &segments {
        match batches(segment, rows) {
            (batches, all) if batches.len() == all => {
                whole.insert((view, segment));
                counts[1] += rows.len();
            }
            (batches, _) => {
                counts[0] += rows.len();
                parts.push((view, segment, rows, batches));
            }
        }
    }
    writer.unpublish(&whole)?;
    monitor.begin("refresh", "segments", parts.len() as u64, 0);
    for (view, segment, rows, batches) in parts {
        if monitor.stop_requested() {
            return Err(Error::interrupted("while changed rows were computed again")
                .hint("run the same command again to resume"));
        }
        if let Some(ended) = replace(plan, (view, segment), rows, &batches, session, writer, lost)?
        {
            monitor.end();
            return Ok((ended, counts));
        }
        monitor.advance(1, 0);
    }
    monitor.end();
    Ok((Ended::Done, counts))
}

/// Computes some rows of a segment again, in whole batches, and replaces the segment. Returns how
/// it ended if it ended early.
fn replace(
    plan: &ExtractPlan<'_>,
    at: (usize, usize),
    rows: &[usize],
    batches: &[Range<usize>],
    session: &mut Session,
    writer: &mut Writer,
    lost: &mut [Lost],
) -> Result<Option<Ended>> {
    let manifest = writer.manifest().clone();
    let (view, segment) = at;
    let first = segment * manifest.segment_rows;
    let published = manifest.published_arrays(view, segment);
    let specs = manifest.view_arrays.get(..published).unwrap_or_default();
    // by array: rows and their new bytes
    let mut fresh: Vec<Vec<(usize, Vec<u8>)>> = vec![Vec::new(); published];
    for batch_rows in batches {
        let batch = plan.reader.read(view, batch_rows.clone())?;
        let values = session.run(&batch.feed(), &plan.outputs.tensors)?;
        let mut take = |array: usize, bytes: &[u8]| {
            let (Some(spec), Some(fresh)) = (specs.get(array), fresh.get_mut(array)) else {
                return;
            };
            for &row in rows.iter().filter(|row| batch_rows.contains(row)) {
                let at = (row - batch_rows.start) * spec.row_bytes();
                fresh.push((
                    row - first,
                    bytes.get(at..at + spec.row_bytes()).unwrap_or_default().to_vec(),
                ));
            }
        };
        for (array, bytes) in batch.stored.iter().enumerate() {
            take(array, bytes);
        }
        let outputs = plan.outputs.in_order_of(&manifest);
        for ((place, output), array) in outputs.into_iter().zip(batch.stored.len()..) {
            let Some(spec) = specs.get(array) else { continue };
            let name = |row: usize| plan.reader.sample_name(batch_rows.start + row);
            let values = plan.outputs.values(output, &values)?;
            match output.try_encode(values, spec.dtype, batch_rows.len(), name)? {
                Encoded::Bytes(bytes, of) => {
                    take(array, &bytes);
                    lost.iter_mut().skip(place).take(1).for_each(|all| *all = all.and(of));
                }
                Encoded::BeyondF16(error) if plan.recipe.store == Store::Auto => {
                    return Ok(Some(Ended::BeyondF16(place, error)));
                }
                Encoded::BeyondF16(error) => return Err(error),
            }
        }
    }
    let mut replacement = writer.replacement(view, segment)?;
    for (array, fresh) in fresh.into_iter().enumerate() {
        let mut bytes = published_rows(
            &plan.recipe.output,
            &manifest,
            array,
            at,
            0..manifest.rows_of_segment(segment),
        )?;
        let width = specs.get(array).map_or(0, crate::cache::ArraySpec::row_bytes);
        for (row, new) in fresh {
            if let Some(old) = bytes.get_mut(row * width..(row + 1) * width) {
                old.copy_from_slice(&new);
            }
        }
        replacement.append(array, &bytes)?;
    }
    pipeline::record(plan, writer)?;
    writer.replace(replacement)?;
    Ok(None)
}
