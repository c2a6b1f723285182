//! Whether the data is still what a cache was made from. Changes are refused, unless a refresh is
//! to compute their rows again.

use super::prepare::Prepared;
use super::reader::RowReader;
use crate::cache::{self, Compared, Manifest, Moves, Stamps, published_rows};
use crate::data::{Augmentation, Fingerprint, Trace, hashed_names};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use rayon::prelude::*;
use std::collections::{BTreeSet, HashMap};

/// What has changed in the data of an existing cache.
#[derive(Debug)]
pub(super) struct Changes {
    /// Samples whose rows must be computed again, ascending.
    pub(super) changed: Vec<usize>,
    /// Samples whose files look different and hold the same.
    pub(super) restamped: Vec<(usize, Trace)>,
    /// What the manifest says of the data: during a refresh, the data that the cache was made of.
    pub(super) fingerprint: Fingerprint,
}

/// Compares the data with what the resumed cache was made from: its listing, the files of all
/// published samples, the contents of those that look different and of some that do not (for a
/// refresh, of all), and the stored inputs of some with what is decoded now. A listing of the same
/// files becomes the cache's own: after a refresh, or at once where only files that no computed row
/// needs differ.
///
/// # Errors
/// When something has changed without a refresh; when files were added or removed; or when the user
/// asks to stop.
pub(super) fn judge(prepared: &Prepared<'_>, monitor: &dyn Monitor) -> Result<Changes> {
    let (recipe, reader) = (prepared.recipe, &prepared.reader);
    let data = reader.source.data();
    let folder = &recipe.output;
    let unchanged = || Changes {
        changed: Vec::new(),
        restamped: Vec::new(),
        fingerprint: data.fingerprint().clone(),
    };
    let Some(existing) = &prepared.existing else {
        let none = || {
            Error::input(format!(
                "--refresh: expected a cache of this teacher in {}, found none",
                folder.display()
            ))
        };
        return if recipe.refresh { Err(none()) } else { Ok(unchanged()) };
    };
    // a difference of settings is refused later, by its name
    let record = &existing.data;
    let settings = (
        record.split.as_str(),
        record.limit,
        record.shuffle,
        existing.seed,
        existing.augment.as_ref(),
    );
    let asked = reader.views.as_ref().map(|views| &views.augmentation);
    if settings != (recipe.split.as_str(), recipe.limit, recipe.shuffle, recipe.seed, asked) {
        return Ok(unchanged());
    }
    let stamps = Stamps::load(folder).unwrap_or_else(|error| {
        monitor.warn(&format!("{}: treated as missing", error.chain()));
        None
    });
    let names = hashed_names(data)?;
    let moved = record.fingerprint != *data.fingerprint();
    if moved {
        let moves = stamps.as_ref().and_then(|stamps| stamps.moves(&names));
        check_listing(prepared, existing, moves)?;
    } else if names.is_empty() {
        // the fingerprint covers the contents
        return Ok(unchanged());
    }

    let published = published(reader, existing);
    let mixes = asked.is_some_and(Augmentation::mixes) && !published.is_empty();
    // in mixed views a sample is part of rows that are not its own
    let samples =
        if mixes { reader.rows.samples.clone() } else { published.keys().copied().collect() };
    let mut found = stamps.unwrap_or_default().compare(data, &samples, recipe.refresh, monitor)?;
    // a sample that was never read is part of no row
    found.unknown.retain(|sample| published.contains_key(sample));
    let by_inputs = compare_inputs(prepared, existing, &published, &mut found, monitor)?;
    if !found.unknown.is_empty() && !names.is_empty() {
        let (count, all) = (found.unknown.len(), published.len());
        let what = match (recipe.refresh, by_inputs) {
            (true, 0) => "they are computed again".to_owned(),
            (true, _) => "their stored inputs are compared".to_owned(),
            (false, 0) => "whether they have changed cannot be told".to_owned(),
            (false, compared) => format!(
                "the stored inputs of {compared} are compared, whether others have changed cannot \
                 be told"
            ),
        };
        monitor.note(&format!(
            "of {count} of {all} samples it is not recorded what they were read from: {what}"
        ));
    }
    if !recipe.refresh {
        if !found.changed.is_empty() {
            return Err(cache::changed(folder, data, &found.changed));
        }
        if moved && !found.unknown.is_empty() {
            let error = Error::input(format!(
                "cache {}: the data set has changed: files of other sizes",
                folder.display()
            ));
            return Err(error.hint("--refresh computes the rows of what has changed again"));
        }
        if moved {
            monitor.note(
                "files of other sizes in the data set, none of a row that is computed: they are \
                 taken as they are now",
            );
        }
    }
    if !found.restamped.is_empty() {
        let count = found.restamped.len();
        monitor.note(&format!(
            "{count} files were copied or touched since they were read, and hold the same: their \
             stamps are renewed"
        ));
    }
    Ok(Changes {
        changed: found.changed,
        restamped: found.restamped,
        fingerprint: record.fingerprint.clone(),
    })
}

/// Refuses a listing that names other files.
fn check_listing(prepared: &Prepared<'_>, existing: &Manifest, moves: Option<Moves>) -> Result<()> {
    let (recipe, reader) = (prepared.recipe, &prepared.reader);
    let (was, is) = (&existing.data.fingerprint, reader.source.data().fingerprint());
    let what = match moves {
        Some(Moves { added: 0, removed: 0 }) => return Ok(()),
        Some(Moves { added, removed }) => format!("{added} files added, {removed} removed"),
        // samples without names are known by their index and inputs
        None if recipe.refresh
            && was.samples == is.samples
            && tells_by_inputs(reader, existing) =>
        {
            return Ok(());
        }
        None if was.samples != is.samples => {
            format!("{} samples then, {} now", was.samples, is.samples)
        }
        None => {
            format!("as many samples, {} in all, of other names, sizes or contents", is.samples)
        }
    };
    Err(Error::input(format!(
        "cache {}: the data set has changed: {what}",
        recipe.output.display()
    ))
    .hint("choose another folder with -o, or remove this one"))
}

/// Whether the stored inputs of the first view show every change of a sample.
fn tells_by_inputs(reader: &RowReader, existing: &Manifest) -> bool {
    reader.views.is_none() && reader.stores_inputs && existing.stores_inputs()
}

/// The samples of published segments that keep their row, with that row.
fn published(reader: &RowReader, existing: &Manifest) -> HashMap<usize, usize> {
    let rows = &reader.rows;
    let before = rows.before.as_deref().unwrap_or(&rows.samples);
    let segments: BTreeSet<usize> = existing.segments.iter().map(|segment| segment.index).collect();
    let rows_of = |segment: usize| {
        (segment * existing.segment_rows..).take(existing.rows_of_segment(segment))
    };
    let same = |row: usize| {
        before
            .get(row)
            .filter(|sample| rows.samples.get(row) == Some(sample))
            .map(|&sample| (sample, row))
    };
    segments.into_iter().flat_map(rows_of).filter_map(same).collect()
}

/// Compares the first view's stored inputs with what is decoded now: of the samples that were
/// drawn, or, for a refresh, of all without a record. Where inputs cannot show a change, those
/// without a record count as changed. Returns how many were compared.
fn compare_inputs(
    prepared: &Prepared<'_>,
    existing: &Manifest,
    published: &HashMap<usize, usize>,
    found: &mut Compared,
    monitor: &dyn Monitor,
) -> Result<usize> {
    let (refresh, reader) = (prepared.recipe.refresh, &prepared.reader);
    let stored = reader.stores_inputs && existing.stores_inputs();
    if refresh && !tells_by_inputs(reader, existing) {
        found.changed.extend(&found.unknown);
        found.changed.sort_unstable();
        return Ok(0);
    }
    // a mixed row also shows a change of its partner, which is reported by its own name
    if !stored || (reader.mixes() && !found.changed.is_empty()) {
        return Ok(0);
    }
    let samples = if refresh { &found.unknown } else { &found.drawn };
    let compared = samples.par_iter().map(|&sample| {
        if monitor.stop_requested() {
            return Err(Error::interrupted("while the data was compared; nothing was written"));
        }
        Ok(published
            .get(&sample)
            .and_then(|&row| is_stored_input(prepared, existing, row))
            .map(|same| (sample, same)))
    });
    let compared: Vec<(usize, bool)> =
        compared.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    let other = compared.iter().filter(|(_, same)| !same).map(|(sample, _)| *sample);
    found.changed =
        found.changed.iter().copied().chain(other).collect::<BTreeSet<_>>().into_iter().collect();
    Ok(compared.len())
}

/// Whether a row's inputs equal the stored ones; `None` where none are stored or they cannot be
/// read, which `cache verify` reports.
fn is_stored_input(prepared: &Prepared<'_>, existing: &Manifest, row: usize) -> Option<bool> {
    let reader = &prepared.reader;
    let segment = row / existing.segment_rows;
    let within = row % existing.segment_rows;
    let stored = reader.source.inputs.iter().map(|input| {
        let array = existing.view_arrays.iter().position(|spec| spec.path == input.path)?;
        let folder = &prepared.recipe.output;
        published_rows(folder, existing, array, (0, segment), within..within + 1).ok()
    });
    let stored = stored.collect::<Option<Vec<_>>>()?;
    // a sample that can no longer be read has changed
    Some(reader.row(0, row).is_ok_and(|(now, _)| now == stored))
}
