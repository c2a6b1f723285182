//! Which samples are taken and in which row each stands: a pure function of the data set and the recipe.

use super::classes::{Agreement, Known, agreement};
use super::source::{Source, describe_bad};
use crate::data::{Dataset, Subset, shuffle};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::recipe::Extract;
use rayon::prelude::*;

/// The cache's rows.
pub(super) struct Rows {
    /// Index in the data set of each row's sample.
    pub(super) samples: Vec<usize>,
    /// Label of each row in the order of `classes`, −1 unlabelled.
    pub(super) labels: Vec<i64>,
    /// Class names, in the teacher's order where it tells the same; empty when there are none.
    pub(super) classes: Vec<String>,
    /// Whether the teacher's logits tell other classes.
    pub(super) other_classes: bool,
    /// Samples left out as unreadable, ascending.
    pub(super) skipped: Vec<usize>,
}

/// Refuses an empty choice and warns of classes that `--limit` leaves without a sample.
///
/// # Errors
/// When no sample is chosen.
pub(super) fn check(recipe: &Extract, subset: &Subset, monitor: &dyn Monitor) -> Result<()> {
    if subset.is_empty() {
        return Err(Error::input(format!("data {} ({}): expected samples, found none", recipe.data, recipe.split)));
    }
    let missing = subset.missing_classes();
    let labelled = subset.indices.iter().any(|&i| subset.dataset.label(i) >= 0);
    if labelled && !missing.is_empty() {
        let all = subset.dataset.classes().len();
        monitor.warn(&format!(
            "{} of {all} classes have no sample in the {} taken (--shuffle SEED mixes before --limit)",
            missing.len(),
            subset.len()
        ));
    }
    Ok(())
}

impl Rows {
    /// Leaves out what cannot be read (with `--skip-bad`), maps labels to the teacher's classes where those are the data's, and fixes the permutation.
    ///
    /// # Errors
    /// When the file of classes does not fit.
    pub(super) fn arrange(
        recipe: &Extract,
        source: &Source<'_>,
        chosen: Vec<usize>,
        teacher: Known<'_>,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let (readable, skipped) = if recipe.skip_bad { leave_out_bad(source, chosen, monitor)? } else { (chosen, Vec::new()) };
        let mut samples = readable;
        shuffle(&mut samples, recipe.seed);
        let data = source.data;
        let (classes, places, other_classes) = match agreement(Known { file: recipe.classes.as_deref(), ..teacher }, data)? {
            Agreement::Same { names, places } => (names, places, false),
            Agreement::Others(reason) => {
                monitor.note(&format!(
                    "{reason}: its accuracy is not measured, and train refuses to compare logits (--classes FILE names the teacher's classes)"
                ));
                (data.classes().to_vec(), None, true)
            }
        };
        let labels = samples.iter().map(|&i| label(data, i, places.as_deref())).collect::<Result<_>>()?;
        Ok(Self { samples, labels, classes, other_classes, skipped })
    }

    /// Whether any row has a label.
    pub(super) fn are_labelled(&self) -> bool {
        self.labels.iter().any(|&l| l >= 0)
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.samples.len()
    }
}

/// A sample's label in the class order of the cache; `places` gives the position there of each class of the data.
fn label(data: &dyn Dataset, sample: usize, places: Option<&[i64]>) -> Result<i64> {
    let label = data.label(sample);
    let (Ok(index), Some(places)) = (usize::try_from(label), places) else { return Ok(label.max(-1)) };
    let place = places.get(index).copied();
    place.ok_or_else(|| Error::input(format!("{}: label {label} has no class name", data.name(sample))))
}

/// Decodes every sample once: rows must be known before the first is written.
fn leave_out_bad(source: &Source<'_>, chosen: Vec<usize>, monitor: &dyn Monitor) -> Result<(Vec<usize>, Vec<usize>)> {
    monitor.begin("check", "samples", chosen.len() as u64, 0);
    let errors = chosen
        .par_iter()
        .map(|&sample| {
            if monitor.stop_requested() {
                return Err(Error::interrupted("while samples were checked; nothing was written"));
            }
            monitor.advance(1, 0);
            // only what is wrong is kept: the bytes of all samples need not fit in memory
            Ok(source.read(sample).err())
        })
        .collect::<Result<Vec<_>>>();
    monitor.end();
    let mut bad = Vec::new();
    let mut good = Vec::with_capacity(chosen.len());
    for (sample, error) in chosen.into_iter().zip(errors?) {
        match error {
            None => good.push(sample),
            Some(error) => bad.push((sample, error)),
        }
    }
    if good.is_empty() {
        return Err(describe_bad(source.data, &bad));
    }
    if !bad.is_empty() {
        monitor.warn(&format!("{} left out", describe_bad(source.data, &bad).chain()));
    }
    let mut skipped: Vec<usize> = bad.into_iter().map(|(sample, _)| sample).collect();
    skipped.sort_unstable();
    Ok((good, skipped))
}
