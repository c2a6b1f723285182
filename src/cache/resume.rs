//! Decides whether an existing cache matches a plan, and which of its segments are kept.

use super::manifest::Extent;
use super::plan::CachePlan;
use super::shard::Fault;
use super::{Manifest, document, manifest, read, zarr};
use crate::error::{Error, Result};
use crate::storage::Lock;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

/// The manifest to resume from, if the cache was made with the same settings; it is committed if it
/// differs from `found`. `wanted` is the plan's manifest with the sums of its row arrays.
pub(super) fn resume(
    lock: &Lock,
    wanted: Manifest,
    plan: &CachePlan,
    found: &Manifest,
) -> Result<Manifest> {
    let folder = lock.folder();
    let mut within = within(&wanted, found);
    let before = plan.before.as_deref().filter(|before| before.len() == found.rows);
    if before.is_some() {
        within.rows = found.rows;
    }
    if let Some((field, expected, found)) = document::difference(&within, found) {
        return Err(other_settings(folder, &field, &expected, &found));
    }
    // equal sums prove equal values; the files themselves are rewritten from the plan anyway
    if found.row_sums != wanted.row_sums {
        check_rows(folder, plan, before, found)?;
    }
    let next_segments = wanted.segments_per_view();
    let mut next = Manifest { segments: found.segments.clone(), ..wanted };
    next.teacher.file.clone_from(&found.teacher.file);
    next.teacher.top1_basis_points = found.teacher.top1_basis_points;
    next.data.spec.clone_from(&found.data.spec);
    for (segment, kept) in next.segments.iter_mut().zip(read::published(folder, found)?) {
        segment.bytes.truncate(kept);
        segment.crc32c.truncate(kept);
    }
    next.segments.retain(|segment| !segment.bytes.is_empty());
    let sample_ids = before.unwrap_or(&plan.sample_ids);
    if before.is_some() {
        let has_same_rows = |index| {
            let (old, new) = (found.row_range(index), plan.manifest.row_range(index));
            old == new && sample_ids.get(old) == plan.sample_ids.get(new)
        };
        next.segments
            .retain(|segment| segment.index < next_segments && has_same_rows(segment.index));
    } else {
        next.data.skipped.clone_from(&found.data.skipped);
    }
    let was_complete = found.is_complete().then_some(Extent {
        views: found.views,
        taps: found.taps.len(),
        view_arrays: found.view_arrays.len(),
    });
    next.extends = was_complete.or(found.extends);
    next.settle();
    // before the zarr.json files of new arrays, which are derived from the manifest
    if next != *found {
        document::store(lock, &next)?;
    }
    Ok(next)
}

fn other_settings(folder: &Path, field: &str, expected: &str, found: &str) -> Error {
    Error::input(format!(
        "cache {}: made with another {field}: expected {expected}, found {found}",
        folder.display()
    ))
    .hint("choose another folder with -o, or remove this one")
}

/// Checks the values of the row arrays in the published rows against the plan (or against `before`,
/// the previous sample ids). Unpublished rows may differ: a run may have been killed while it moved
/// them.
fn check_rows(
    folder: &Path,
    plan: &CachePlan,
    before: Option<&[i64]>,
    found: &Manifest,
) -> Result<()> {
    let published: BTreeSet<usize> = found.segments.iter().map(|segment| segment.index).collect();
    let published: Vec<Range<usize>> =
        published.into_iter().map(|index| found.row_range(index)).collect();
    let sample_ids = before.unwrap_or(&plan.sample_ids);
    for (place, spec) in found.row_arrays.iter().enumerate() {
        let sum = found.row_sums.get(place).copied();
        let values = match read::row_array(folder, found, spec, sum) {
            Ok(values) => values,
            // the plan has its values, so it is rewritten
            Err(Fault::Missing | Fault::Damaged(_)) if sum.is_none() => continue,
            // the manifest says that the values differ, so they must be readable
            Err(fault) => {
                let path = folder.join(zarr::row_shard(spec));
                return Err(fault.error(&path.display().to_string()));
            }
        };
        let is_label = spec.path == manifest::LABEL;
        let expected = |row: usize| match (is_label, sample_ids.get(row)) {
            (false, id) => id.copied(),
            // a label moves with its sample
            (true, id) if id == plan.sample_ids.get(row) => plan.labels.get(row).copied(),
            (true, _) => values.get(row).copied(),
        };
        let rows = published.iter().cloned().flatten();
        let mut other = rows
            .filter_map(|row| Some((row, expected(row)?, *values.get(row)?)))
            .filter(|(_, e, f)| e != f);
        if let Some((row, e, f)) = other.next() {
            let field = format!("{} in row {row}", spec.path);
            return Err(other_settings(folder, &field, &e.to_string(), &f.to_string()));
        }
    }
    Ok(())
}

/// The part of a plan that existed when `found` was written: possibly fewer views, taps and view
/// arrays, and no map for a tap that had only features.
fn within(plan: &Manifest, found: &Manifest) -> Manifest {
    let mut within = plan.clone();
    within.views = plan.views.min(found.views);
    within.taps.truncate(found.taps.len());
    for (tap, before) in within.taps.iter_mut().zip(&found.taps) {
        tap.map = tap.map.filter(|_| before.map.is_some());
    }
    within.view_arrays.truncate(found.view_arrays.len());
    if within.logits_array().is_none() {
        within.logits = None;
    }
    // not settings, and compared by value elsewhere
    within.row_sums.clone_from(&found.row_sums);
    within.extends = found.extends;
    // an added statistic may have raised the plan's format
    within.format = within.lowest_format();
    within
}
