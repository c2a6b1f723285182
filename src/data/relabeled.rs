//! A data set with its labels in the order of another's class names.

use super::{ContentHash, Dataset, Fingerprint, Sample, Stamp};
use crate::error::{Error, Result};

/// A data set whose labels index into other class names.
struct Relabeled {
    inner: Box<dyn Dataset>,
    classes: Vec<String>,
    /// The new label of each of the data set's own.
    labels: Vec<i64>,
}

/// The data set with labels that index into `classes`; itself where it names the same, or either
/// names none (numbers are no names).
///
/// # Errors
/// When one of its classes is not among them.
pub fn relabeled(inner: Box<dyn Dataset>, classes: &[String]) -> Result<Box<dyn Dataset>> {
    let own = inner.classes();
    if own == classes || !are_names(own) || !are_names(classes) {
        return Ok(inner);
    }
    let labels = places(classes, own)?;
    Ok(Box::new(Relabeled { inner, classes: classes.to_vec(), labels }))
}

/// Whether these are names of classes; the numbers 0, 1, … are not.
#[must_use]
pub fn are_names(classes: &[String]) -> bool {
    classes.iter().enumerate().any(|(at, name)| *name != at.to_string())
}

/// The index among some names of each class.
///
/// # Errors
/// When a class is not among them.
pub fn places(names: &[String], classes: &[String]) -> Result<Vec<i64>> {
    let place = |class: &String| {
        let found =
            names.iter().position(|name| name == class).and_then(|at| i64::try_from(at).ok());
        found.ok_or_else(|| {
            Error::input(format!("class `{class}` of the data set is not among them"))
        })
    };
    classes.iter().map(place).collect()
}

impl Dataset for Relabeled {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        self.inner.sample(index)
    }

    fn label(&self, index: usize) -> i64 {
        let own = usize::try_from(self.inner.label(index)).ok();
        own.and_then(|label| self.labels.get(label).copied()).unwrap_or(-1)
    }

    fn name(&self, index: usize) -> String {
        self.inner.name(index)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn fingerprint(&self) -> &Fingerprint {
        self.inner.fingerprint()
    }

    fn image_size(&self, index: usize) -> Option<[usize; 2]> {
        self.inner.image_size(index)
    }

    fn stamp(&self, index: usize) -> Result<Option<Stamp>> {
        self.inner.stamp(index)
    }

    fn content(&self, index: usize) -> Result<Option<ContentHash>> {
        self.inner.content(index)
    }

    fn sample_and_content(&self, index: usize) -> Result<(Sample, Option<ContentHash>)> {
        self.inner.sample_and_content(index)
    }
}
