//! The samples of a data set that an evaluation takes.

use crate::data::{self, Dataset, Sample, Take};
use crate::error::{Context as _, Error, Result};
use crate::monitor::Monitor;
use crate::onnx::{Model, Value};
use crate::recipe::Evaluate;
use rayon::prelude::*;
use std::ops::Range;

/// Chosen samples of a data set.
pub(super) struct Samples<'a> {
    pub(super) dataset: &'a dyn Dataset,
    /// Indices into the data set.
    pub(super) chosen: Vec<usize>,
}

impl<'a> Samples<'a> {
    /// The samples that the recipe takes.
    ///
    /// # Errors
    /// If there are none.
    pub(super) fn new(recipe: &Evaluate, dataset: &'a dyn Dataset) -> Result<Self> {
        let take = Take { limit: recipe.limit, shuffle: recipe.shuffle };
        let chosen = data::take((0..dataset.len()).collect(), take);
        if chosen.is_empty() {
            return Err(Error::input("data set: expected samples, found none"));
        }
        Ok(Self { dataset, chosen })
    }

    /// Their number.
    pub(super) fn len(&self) -> usize {
        self.chosen.len()
    }

    /// The first sample.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn first(&self) -> Result<Sample> {
        self.dataset.sample(self.chosen[0])
    }

    /// Reads some of them, on the threads of the pool that this is called in.
    ///
    /// # Errors
    /// Names the sample that cannot be read.
    pub(super) fn read(&self, range: Range<usize>) -> Result<Vec<Sample>> {
        let chosen = self.chosen.get(range).unwrap_or_default();
        let read = |&index: &usize| self.dataset.sample(index).context(|| self.dataset.name(index));
        chosen.par_iter().map(read).collect()
    }

    /// How many classes the data has, 0 if none.
    pub(super) fn classes(&self) -> usize {
        let labels = self.labels(0..self.len()).into_iter();
        class_count(self.dataset.classes(), labels).unwrap_or(0)
    }

    /// The labels of some of them, −1 where there is none.
    pub(super) fn labels(&self, range: Range<usize>) -> Vec<i64> {
        let chosen = self.chosen.get(range).unwrap_or_default();
        chosen.iter().map(|&index| self.dataset.label(index)).collect()
    }

    /// Whether each has a label.
    pub(super) fn are_labeled(&self) -> bool {
        self.chosen.iter().all(|&index| self.dataset.label(index) >= 0)
    }

    /// Requires a label of each.
    ///
    /// # Errors
    /// Names the first sample without one.
    pub(super) fn require_labels(&self) -> Result<()> {
        match self.chosen.iter().find(|&&index| self.dataset.label(index) < 0) {
            None => Ok(()),
            Some(&index) => Err(Error::input(format!(
                "{}: expected a label to compare with, found none",
                self.dataset.name(index)
            ))
            .hint("--against TEACHER.onnx compares a model's outputs without labels")),
        }
    }
}

/// Opens a split of the recipe's data set, for a model's inputs if there is a model, and says what
/// it holds.
///
/// # Errors
/// If no data set is named, or it cannot be read.
pub(super) fn open(
    recipe: &Evaluate,
    split: &str,
    inputs: Option<&[Value]>,
    monitor: &dyn Monitor,
) -> Result<Box<dyn Dataset>> {
    let spec = recipe.data.as_ref().ok_or_else(|| {
        Error::input("no data set given").hint("name one: --data SPEC, such as folder:DIR")
    })?;
    let dataset = match inputs {
        Some(inputs) => data::open_for(spec, split, inputs, monitor)?,
        None => data::open(spec, split, monitor)?,
    };
    monitor.note(&format!("data {spec} ({split}): {}", data::describe(dataset.as_ref())));
    Ok(dataset)
}

/// The inputs of a model that the data feeds: those to which the recipe gives no value.
pub(super) fn fed(recipe: &Evaluate, model: &Model) -> Vec<Value> {
    let mut inputs = model.inputs();
    inputs.retain(|input| recipe.feeding.values.iter().all(|value| value.input != input.name));
    inputs
}

/// How many classes labels tell: those that are named, else as many as are counted.
pub(super) fn class_count(names: &[String], labels: impl Iterator<Item = i64>) -> Option<usize> {
    let counted =
        || labels.filter_map(|label| usize::try_from(label).ok()).max().map(|last| last + 1);
    if names.is_empty() { counted() } else { Some(names.len()) }
}
