//! CRD's negatives: samples of other classes, drawn for each sample and step.

use crate::error::{Error, Result};
use crate::random::{below, keyed};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ops::Range;

/// The samples of a run as places in CRD's memory, grouped by class.
#[derive(Debug)]
pub(super) struct Negatives {
    seed: u64,
    samples: u32,
    /// Each row's place, and the places of its class.
    places: HashMap<usize, (u32, Range<u32>)>,
}

impl Negatives {
    /// The places of these rows, each with its label.
    ///
    /// # Errors
    /// When a row has no label, or all rows have the same label.
    pub(super) fn new(mut rows: Vec<(usize, i64)>, seed: u64) -> Result<Self> {
        if let Some((row, _)) = rows.iter().find(|(_, label)| *label < 0) {
            return Err(Error::input(format!(
                "crd: expected a label of every sample, found none of row {row}"
            )));
        }
        rows.sort_by_key(|&(row, label)| (label, row));
        let samples = u32::try_from(rows.len())
            .map_err(|_| Error::input("crd: more samples than a memory can hold"))?;
        let mut places = HashMap::with_capacity(rows.len());
        let mut start = 0u32;
        for class in rows.chunk_by(|a, b| a.1 == b.1) {
            if class.len() == rows.len() {
                return Err(Error::input(format!(
                    "crd: expected samples of two classes or more, found label {} alone",
                    class[0].1
                )));
            }
            let range = start..start + u32::try_from(class.len()).unwrap_or(u32::MAX);
            places.extend(
                range.clone().zip(class).map(|(place, &(row, _))| (row, (place, range.clone()))),
            );
            start = range.end;
        }
        Ok(Self { seed, samples, places })
    }

    /// The total number of samples.
    pub(super) fn samples(&self) -> usize {
        self.samples as usize
    }

    /// For each row, its own place and `count` places of other classes, `[rows, 1 + count]`: drawn
    /// without replacement if there are enough of them, as in the authors' code. Row i of step k
    /// has its own stream, so earlier draws don't matter.
    ///
    /// # Errors
    /// When a row is unknown.
    pub(super) fn draw(&self, rows: &[usize], step: usize, count: usize) -> Result<Vec<usize>> {
        let key = [self.seed, step as u64, 0, u64::from_le_bytes(*b"negative")];
        let mut indices = vec![0; rows.len() * (1 + count)];
        indices.par_chunks_mut(1 + count).zip(rows).enumerate().try_for_each_init(
            || (0..self.samples).collect::<Vec<u32>>(),
            |order, (i, (indices, row))| -> Result<()> {
                let (own, class) = self.places.get(row).ok_or_else(|| {
                    Error::input(format!("crd: row {row}: expected one of the run's samples"))
                })?;
                let mut random = keyed(key);
                random.set_stream(i as u64);
                indices[0] = *own as usize;
                let others = self.samples - (class.end - class.start);
                // places from the class's start on map to those after the class
                let place = |n: u32| {
                    (if n < class.start { n } else { n + class.end - class.start }) as usize
                };
                if count > others as usize {
                    indices[1..].fill_with(|| place(below(&mut random, others)));
                    return Ok(());
                }
                let mut swaps = Vec::with_capacity(count);
                for (index, first) in indices[1..].iter_mut().zip(0u32..) {
                    let chosen = first + below(&mut random, others - first);
                    order.swap(first as usize, chosen as usize);
                    swaps.push(chosen);
                    *index = place(order[first as usize]);
                }
                // restore the identity, so that the thread's next sample draws as if it were its
                // first
                for (first, chosen) in swaps.into_iter().enumerate().rev() {
                    order.swap(first, chosen as usize);
                }
                Ok(())
            },
        )?;
        Ok(indices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn negatives() -> Negatives {
        // rows 10 … 29 of three classes
        Negatives::new((10..30).map(|row| (row, i64::try_from(row % 3).unwrap())).collect(), 7)
            .unwrap()
    }

    #[test]
    fn each_sample_stands_first_and_others_are_of_other_classes() {
        let negatives = negatives();
        assert_eq!(negatives.samples(), 20);
        let class_of: HashMap<usize, usize> =
            negatives.places.iter().map(|(row, (place, _))| (*place as usize, row % 3)).collect();
        assert_eq!(class_of.len(), 20);
        let rows = [10, 29, 17, 10];
        for count in [1, 8, 13] {
            for (row, indices) in
                rows.iter().zip(negatives.draw(&rows, 3, count).unwrap().chunks(1 + count))
            {
                assert_eq!(indices[0], negatives.places[row].0 as usize);
                assert!(indices[1..].iter().all(|i| class_of[i] != row % 3), "{row}: {indices:?}");
                assert_eq!(indices.iter().collect::<HashSet<_>>().len(), 1 + count, "{indices:?}");
            }
        }
        // more than there are: with replacement
        let many = negatives.draw(&[10], 0, 50).unwrap();
        assert!(many[1..].iter().all(|i| class_of[i] != 1));
        assert!(negatives.draw(&[9], 0, 2).is_err());
    }

    #[test]
    fn a_draw_follows_from_seed_and_step_alone() {
        let negatives = negatives();
        let rows: Vec<usize> = (10..30).collect();
        let draw = |threads: usize, step| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| negatives.draw(&rows, step, 5).unwrap())
        };
        assert_eq!(draw(1, 4), draw(3, 4));
        assert_ne!(draw(1, 4), draw(1, 5));
        // over many samples, all places of other classes come up
        let seen: HashSet<usize> =
            (0..200).flat_map(|step| negatives.draw(&[10], step, 2).unwrap()).collect();
        assert_eq!(seen.len(), 14);
    }

    #[test]
    fn samples_without_classes_are_refused() {
        assert!(
            Negatives::new(vec![(0, 1), (1, -1)], 0).unwrap_err().to_string().contains("row 1")
        );
        assert!(
            Negatives::new(vec![(0, 1), (1, 1)], 0)
                .unwrap_err()
                .to_string()
                .contains("two classes")
        );
    }
}
