//! The part of a data set that a run uses.

use super::{Dataset, random};
use crate::data::spec::Take;

/// A data set and the samples of it that a run uses, in order.
pub struct Subset {
    /// The whole data set: its fingerprint, class names and labels apply.
    pub dataset: Box<dyn Dataset>,
    /// Indices into the data set.
    pub indices: Vec<usize>,
}

/// The first `limit` samples (all if `None`), after a shuffle if its seed is given.
#[must_use]
pub fn subset(dataset: Box<dyn Dataset>, limit: Option<usize>, shuffle: Option<u64>) -> Subset {
    let indices = take((0..dataset.len()).collect(), Take { limit, shuffle });
    Subset { dataset, indices }
}

/// The part of `samples`, which are in the data set's order, that a run uses.
#[must_use]
pub fn take(mut samples: Vec<usize>, take: Take) -> Vec<usize> {
    if let Some(seed) = take.shuffle {
        random::shuffle(&mut samples, seed);
    }
    samples.truncate(take.limit.unwrap_or(usize::MAX));
    samples
}

impl Subset {
    /// How many samples are used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether no sample is used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Names of the classes that have samples in the data set but none in the subset.
    #[must_use]
    pub fn missing_classes(&self) -> Vec<&str> {
        let classes = self.dataset.classes();
        let seen = |indices: &mut dyn Iterator<Item = usize>| {
            let mut seen = vec![false; classes.len()];
            for index in indices {
                if let Some(class) = usize::try_from(self.dataset.label(index))
                    .ok()
                    .and_then(|label| seen.get_mut(label))
                {
                    *class = true;
                }
            }
            seen
        };
        let (all, taken) =
            (seen(&mut (0..self.dataset.len())), seen(&mut self.indices.iter().copied()));
        classes
            .iter()
            .zip(all.iter().zip(taken))
            .filter(|(_, (there, taken))| **there && !taken)
            .map(|(name, _)| name.as_str())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fashion() -> Box<dyn Dataset> {
        super::super::open(&"fashion-mnist".parse().unwrap(), "test", &crate::monitor::Silent)
            .unwrap()
    }

    #[test]
    fn the_limit_follows_the_shuffle() {
        let first = subset(fashion(), Some(5), None);
        assert_eq!(first.indices, [0, 1, 2, 3, 4]);
        let shuffled = subset(fashion(), None, Some(7));
        let limited = subset(fashion(), Some(5), Some(7));
        assert_eq!(limited.indices, shuffled.indices[..5]);
        assert_ne!(limited.indices, first.indices);
        let mut sorted = shuffled.indices.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().copied().eq(0..shuffled.dataset.len()));
        assert_ne!(subset(fashion(), None, Some(8)).indices, shuffled.indices);
    }

    #[test]
    fn the_shuffle_of_a_seed_never_changes() {
        let mut items: Vec<u32> = (0..10).collect();
        random::shuffle(&mut items, 42);
        assert_eq!(items, GOLDEN_SHUFFLE_42);
    }
    const GOLDEN_SHUFFLE_42: [u32; 10] = [1, 9, 7, 3, 6, 2, 8, 0, 5, 4];

    #[test]
    fn classes_without_a_sample_are_named() {
        // the first test labels are 9 2 1 1
        assert_eq!(
            subset(fashion(), Some(4), None).missing_classes(),
            ["T-shirt/top", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag"]
        );
        assert!(subset(fashion(), None, None).missing_classes().is_empty());
    }
}
