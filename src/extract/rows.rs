//! Which samples are taken and in which row each stands: a pure function of the data set and the recipe.

use super::source::{Source, describe_bad};
use crate::data::{Dataset, Subset, shuffle};
use crate::error::{Context as _, Error, Result};
use crate::monitor::Monitor;
use crate::recipe::Extract;
use rayon::prelude::*;
use std::path::Path;

/// What is known of the classes that the teacher tells apart.
pub(super) struct TeacherClasses {
    /// How many values its logits have.
    pub(super) classes: Option<usize>,
    /// Their names, where its metadata records them.
    pub(super) recorded_classes: Option<Vec<String>>,
}

/// The cache's rows.
pub(super) struct Rows {
    /// Index in the data set of each row's sample.
    pub(super) samples: Vec<usize>,
    /// Label of each row in the teacher's class order, −1 unlabelled.
    pub(super) labels: Vec<i64>,
    /// Class names in the teacher's order; empty when there are none.
    pub(super) classes: Vec<String>,
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
    /// Leaves out what cannot be read (with `--skip-bad`), maps labels to the teacher's classes, and fixes the permutation.
    ///
    /// # Errors
    /// When a label is outside the teacher's classes, or the file of classes does not fit.
    pub(super) fn arrange(
        recipe: &Extract,
        source: &Source<'_>,
        chosen: Vec<usize>,
        teacher: TeacherClasses,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let (readable, skipped) = if recipe.skip_bad { leave_out_bad(source, chosen, monitor)? } else { (chosen, Vec::new()) };
        let mut samples = readable;
        shuffle(&mut samples, recipe.seed);
        let data = source.data;
        let (classes, order) = match (&recipe.classes, teacher.recorded_classes) {
            (Some(file), _) => {
                let names = read_classes(file, teacher.classes)?;
                let order = class_order(&names, data.classes()).context(|| format!("--classes {}", file.display()))?;
                (names, Some(order))
            }
            // names that have nothing in common are another way of naming, not another order
            (None, Some(names)) if data.classes().iter().any(|class| names.contains(class)) => {
                let order = class_order(&names, data.classes()).context(|| "the teacher's recorded classes".to_owned())?;
                (names, Some(order))
            }
            _ => (data.classes().to_vec(), None),
        };
        let labels = samples.iter().map(|&i| label(data, i, order.as_deref(), teacher.classes)).collect::<Result<_>>()?;
        Ok(Self { samples, labels, classes, skipped })
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

/// A sample's label in the teacher's class order; `order` gives the position of each class of the data.
fn label(data: &dyn Dataset, sample: usize, order: Option<&[i64]>, teacher_classes: Option<usize>) -> Result<i64> {
    let label = data.label(sample);
    let Ok(index) = usize::try_from(label) else { return Ok(-1) };
    if let Some(order) = order {
        let mapped = order.get(index).copied();
        return mapped.ok_or_else(|| Error::input(format!("{}: label {label} has no class name", data.name(sample))));
    }
    match teacher_classes {
        Some(classes) if index >= classes => {
            let class = data.classes().get(index).map_or(String::new(), |name| format!(" ({name})"));
            Err(Error::input(format!(
                "{}: label {label}{class} is outside the teacher's {classes} classes: expected 0 to {}",
                data.name(sample),
                classes.saturating_sub(1)
            ))
            .hint("--classes FILE lists the teacher's classes in the order of its logits; --logits TENSOR names another output"))
        }
        _ => Ok(label),
    }
}

/// A model's class names in the order of its logits, one a line.
///
/// # Errors
/// When the file cannot be read, or does not hold the `expected` number of names.
pub fn read_classes(file: &Path, expected: Option<usize>) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file).context(|| format!("--classes {}: cannot be read", file.display()))?;
    let names: Vec<String> = text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    match expected {
        Some(expected) if expected != names.len() => {
            Err(Error::input(format!("--classes {}: expected {expected} names, one a line, found {}", file.display(), names.len())))
        }
        _ => Ok(names),
    }
}

/// The position among the teacher's classes of each class of the data.
fn class_order(names: &[String], classes: &[String]) -> Result<Vec<i64>> {
    if classes.is_empty() {
        return Err(Error::input("the data set names no classes to map"));
    }
    let position = |class: &String| {
        let found = names.iter().position(|name| name == class).and_then(|p| i64::try_from(p).ok());
        found.ok_or_else(|| Error::input(format!("class `{class}` of the data set is not among them")))
    };
    classes.iter().map(position).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_names_map_the_data_to_the_teacher() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "dog\ncat\n\nbird\n").unwrap();
        let data = ["bird".to_owned(), "cat".to_owned()];
        let names = read_classes(file.path(), Some(3)).unwrap();
        assert_eq!(names, ["dog", "cat", "bird"]);
        assert_eq!(class_order(&names, &data).unwrap(), [2, 1]);
        assert!(read_classes(file.path(), Some(10)).unwrap_err().to_string().contains("expected 10 names, one a line, found 3"));
        assert!(class_order(&names, &["fish".to_owned()]).unwrap_err().to_string().contains("`fish`"));
        assert!(class_order(&names, &[]).is_err());
    }
}
