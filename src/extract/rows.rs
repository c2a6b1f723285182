//! Which samples are taken, and the row of each: a pure function of the data set and the recipe.

use super::classes::{Agreement, Known, agreement};
use super::inputs::{TeacherInputs, describe_bad};
use crate::cache::{self, Manifest};
use crate::data::{Augmentation, Dataset, Subset, shuffle};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::recipe::Extract;
use rayon::prelude::*;
use std::collections::HashSet;
use std::path::Path;

/// The cache's rows.
pub(super) struct Rows {
    /// Index in the data set of each row's sample.
    pub(super) samples: Vec<usize>,
    /// Label of each row in the order of `classes`, −1 unlabeled.
    pub(super) labels: Vec<i64>,
    /// Class names, in the teacher's order where it has the same classes; may be empty.
    pub(super) classes: Vec<String>,
    /// Whether the teacher's logits are of other classes.
    pub(super) other_classes: bool,
    /// Samples left out as unreadable, ascending.
    pub(super) skipped: Vec<usize>,
    /// The samples of the rows of the resumed cache, where it may have left out others.
    pub(super) before: Option<Vec<usize>>,
}

/// Refuses an empty subset and warns of classes that `--limit` leaves without a sample.
///
/// # Errors
/// When no sample is chosen.
pub(super) fn check(recipe: &Extract, subset: &Subset, monitor: &dyn Monitor) -> Result<()> {
    if subset.is_empty() {
        return Err(Error::input(format!(
            "data {} ({}): expected samples, found none",
            recipe.data, recipe.split
        )));
    }
    let missing = subset.missing_classes();
    let labeled = subset.indices.iter().any(|&i| subset.dataset.label(i) >= 0);
    if labeled && !missing.is_empty() {
        let all = subset.dataset.classes().len();
        monitor.warn(&format!(
            "{} of {all} classes have no sample in the {} taken (--shuffle SEED mixes before \
             --limit)",
            missing.len(),
            subset.len()
        ));
    }
    Ok(())
}

impl Rows {
    /// Leaves out unreadable samples (with `--skip-bad`, or where the resumed cache does), maps
    /// labels to the teacher's classes where those are the data's, and fixes the permutation.
    ///
    /// # Errors
    /// When the file of classes does not fit.
    pub(super) fn arrange(
        recipe: &Extract,
        source: &TeacherInputs,
        existing: Option<&Manifest>,
        teacher: Known<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let chosen = source.subset.indices.as_slice();
        let out_before = existing.map_or_else(Vec::new, |manifest| left_out(manifest, chosen));
        // a mixed row's partner depends on the number of rows, which must stay
        let fixed = existing
            .and_then(|manifest| manifest.augment.as_ref())
            .is_some_and(Augmentation::mixes);
        let skipped = match (recipe.skip_bad, fixed) {
            (true, _) => leave_out_bad(source, chosen, monitor)?,
            (false, true) => out_before.clone(),
            (false, false) => still_bad(source, &out_before, monitor),
        };
        let (mut samples, mut before) = (order(chosen, &skipped, recipe.seed), None);
        if let Some(manifest) = existing {
            match former_order(&recipe.output, manifest, chosen, recipe.seed)?
                .filter(|_| skipped == out_before)
            {
                Some(former) => samples = former,
                None => before = (!fixed).then(|| order(chosen, &out_before, recipe.seed)),
            }
        }
        let data = source.data();
        let (classes, places, other_classes) =
            match agreement(Known { file: recipe.classes.as_deref(), ..teacher }, data)? {
                Agreement::Same { names, places } => (names, places, false),
                Agreement::Others(reason) => {
                    monitor.note(&format!(
                        "{reason}: its accuracy is not measured, and train refuses to compare \
                         logits (--classes FILE names the teacher's classes)"
                    ));
                    (data.classes().to_vec(), None, true)
                }
            };
        let labels =
            samples.iter().map(|&i| label(data, i, places.as_deref())).collect::<Result<_>>()?;
        Ok(Self { samples, labels, classes, other_classes, skipped, before })
    }

    /// Whether any row has a label.
    pub(super) fn are_labeled(&self) -> bool {
        self.labels.iter().any(|&l| l >= 0)
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.samples.len()
    }
}

/// A sample's label in the class order of the cache; `places`: the index there of each class of the
/// data.
fn label(data: &dyn Dataset, sample: usize, places: Option<&[i64]>) -> Result<i64> {
    let label = data.label(sample);
    let (Ok(index), Some(places)) = (usize::try_from(label), places) else {
        return Ok(label.max(-1));
    };
    let place = places.get(index).copied();
    place.ok_or_else(|| {
        Error::input(format!("{}: label {label} has no class name", data.name(sample)))
    })
}

/// The samples of the rows: those chosen in a random order, in which the last ones take the rows of
/// those left out. So leaving out or taking back a sample moves few others.
fn order(chosen: &[usize], skipped: &[usize], seed: u64) -> Vec<usize> {
    let skipped: HashSet<usize> = skipped.iter().copied().collect();
    let mut rows = chosen.to_vec();
    shuffle(&mut rows, seed);
    let count = rows.iter().filter(|sample| !skipped.contains(sample)).count();
    let mut last = rows.split_off(count);
    last.retain(|sample| !skipped.contains(sample));
    for row in rows.iter_mut().filter(|sample| skipped.contains(sample)) {
        // as many stand past the end as are left out before it
        *row = last.pop().unwrap_or(*row);
    }
    rows
}

/// The order of a cache of an earlier version, which removed samples before the shuffle.
fn former_order(
    folder: &Path,
    manifest: &Manifest,
    chosen: &[usize],
    seed: u64,
) -> Result<Option<Vec<usize>>> {
    let skipped: HashSet<u64> = manifest.data.skipped.iter().copied().collect();
    if skipped.is_empty() {
        return Ok(None);
    }
    let mut rows: Vec<usize> =
        chosen.iter().copied().filter(|&sample| !skipped.contains(&(sample as u64))).collect();
    shuffle(&mut rows, seed);
    let found = cache::sample_ids(folder, manifest)?.unwrap_or_default();
    let is_former =
        found.iter().map(|&id| usize::try_from(id).ok()).eq(rows.iter().map(|&row| Some(row)));
    Ok(Some(rows).filter(|_| is_former))
}

/// The chosen samples that a cache leaves out.
fn left_out(manifest: &Manifest, chosen: &[usize]) -> Vec<usize> {
    let skipped: HashSet<u64> = manifest.data.skipped.iter().copied().collect();
    let mut found: Vec<usize> =
        chosen.iter().copied().filter(|&sample| skipped.contains(&(sample as u64))).collect();
    found.sort_unstable();
    found
}

/// Those of the samples left out of a cache that still cannot be read; the others become rows.
fn still_bad(source: &TeacherInputs, skipped: &[usize], monitor: &dyn Monitor) -> Vec<usize> {
    let (mut bad, mut back) = (Vec::new(), Vec::new());
    for &sample in skipped {
        match source.read(sample) {
            Ok(_) => back.push(source.data().name(sample)),
            Err(error) => bad.push((sample, error)),
        }
    }
    if !bad.is_empty() {
        monitor
            .warn(&format!("{}, as before, left out", describe_bad(source.data(), &bad).chain()));
    }
    if let Some(first) = back.first() {
        monitor.note(&format!(
            "left out before and readable now, so taken in: {} (`{first}` …)",
            back.len()
        ));
    }
    bad.into_iter().map(|(sample, _)| sample).collect()
}

/// Decodes every sample once, since rows must be known before the first is written. Returns those
/// that cannot be read, ascending.
fn leave_out_bad(
    source: &TeacherInputs,
    chosen: &[usize],
    monitor: &dyn Monitor,
) -> Result<Vec<usize>> {
    monitor.begin("check", "samples", chosen.len() as u64, 0);
    let errors = chosen
        .par_iter()
        .map(|&sample| {
            if monitor.stop_requested() {
                return Err(Error::interrupted("while samples were checked; nothing was written"));
            }
            monitor.advance(1, 0);
            // only errors are kept: the bytes of all samples need not fit in memory
            Ok(source.read(sample).err().map(|error| (sample, error)))
        })
        .collect::<Result<Vec<_>>>();
    monitor.end();
    let bad: Vec<(usize, Error)> = errors?.into_iter().flatten().collect();
    if bad.len() == chosen.len() {
        return Err(describe_bad(source.data(), &bad));
    }
    if !bad.is_empty() {
        monitor.warn(&format!("{} left out", describe_bad(source.data(), &bad).chain()));
    }
    let mut skipped: Vec<usize> = bad.into_iter().map(|(sample, _)| sample).collect();
    skipped.sort_unstable();
    Ok(skipped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_moves_few_rows() {
        let chosen: Vec<usize> = (0..1000).collect();
        let whole = order(&chosen, &[], 5);
        let mut shuffled = chosen.clone();
        shuffle(&mut shuffled, 5);
        assert_eq!(whole, shuffled);
        for skipped in [
            &[17][..],
            &[17, 18, 400],
            &whole[990..],
            &[whole[0], whole[999], whole[998], whole[3]],
        ] {
            let rows = order(&chosen, skipped, 5);
            let moved = rows.iter().zip(&whole).filter(|(a, b)| a != b).count();
            assert!(
                rows.len() == 1000 - skipped.len() && moved <= skipped.len(),
                "{skipped:?}: {moved}"
            );
            let mut sorted = rows.clone();
            sorted.sort_unstable();
            assert!(
                sorted.iter().copied().eq((0..1000).filter(|sample| !skipped.contains(sample)))
            );
            let mut again = skipped.to_vec();
            again.reverse();
            assert_eq!(order(&chosen, &again, 5), rows, "a function of the set");
        }
    }
}
