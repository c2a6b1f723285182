//! The classes of embeddings by their nearest neighbors, as DINO (Caron et al. 2021) judges
//! features.

use crate::error::{Context as _, Error, Result};
use rayon::prelude::*;
use std::cmp::Reverse;

/// Neighbors that vote.
pub const NEIGHBORS: usize = 20;
/// The temperature of a vote: a neighbor of cosine c counts exp(c / 0.07).
pub const TEMPERATURE: f64 = 0.07;

/// Queries that one thread compares with a row of the bank while that is in its cache.
const GROUP: usize = 8;
/// Products that are added side by side.
const LANES: usize = 16;

/// Embeddings with known classes, scaled to length 1.
#[derive(Debug)]
pub struct Bank {
    channels: usize,
    classes: usize,
    /// `[rows, channels]`.
    rows: Vec<f32>,
    /// The class of each row.
    labels: Vec<usize>,
    /// The sample that each row is of.
    samples: Vec<usize>,
    /// Samples that have been added or left out.
    seen: usize,
}

impl Bank {
    /// An empty bank of embeddings of so many channels.
    #[must_use]
    pub fn new(channels: usize) -> Self {
        Self {
            channels,
            classes: 0,
            rows: Vec::new(),
            labels: Vec::new(),
            samples: Vec::new(),
            seen: 0,
        }
    }

    /// Adds samples; those without a direction (zeros, NaN, infinities) are left out.
    ///
    /// # Shapes
    /// `embeddings`: `[samples, channels]`, one for each of `labels`.
    ///
    /// # Errors
    /// If the lengths do not match, or memory runs out.
    pub fn add(&mut self, embeddings: &[f32], labels: &[usize]) -> Result<()> {
        self.check(embeddings, labels.len())?;
        self.rows
            .try_reserve(embeddings.len())
            .context(|| format!("k-NN: no memory for {} embeddings", self.seen + labels.len()))?;
        for (embedding, &label) in embeddings.chunks(self.channels.max(1)).zip(labels) {
            if let Some(unit) = unit(embedding) {
                self.rows.extend(unit);
                self.labels.push(label);
                self.samples.push(self.seen);
                self.classes = self.classes.max(label + 1);
            }
            self.seen += 1;
        }
        Ok(())
    }

    /// Rows of the bank.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Samples that were left out.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.seen - self.len()
    }

    /// The class of each query: the [`NEIGHBORS`] rows of the largest cosine vote, each with
    /// exp(cosine / [`TEMPERATURE`]). Equal votes go to the lower class, equal cosines to the
    /// earlier row. `None` for a query without a direction, or where nobody votes.
    ///
    /// `own`: the first query's sample in the bank, the others follow it: none votes for itself.
    ///
    /// # Shapes
    /// `queries`: `[queries, channels]`.
    ///
    /// # Errors
    /// If the queries are not of the bank's channels.
    pub fn classify(&self, queries: &[f32], own: Option<usize>) -> Result<Vec<Option<usize>>> {
        let channels = self.channels.max(1);
        self.check(queries, queries.len() / channels)?;
        let groups = queries.par_chunks(GROUP * channels).enumerate();
        let found = groups.flat_map_iter(|(group, queries)| {
            let units: Vec<_> = queries.chunks(channels).map(unit).collect();
            let own = own.map(|first| first + group * GROUP);
            self.nearest(&units, own).into_iter().map(|nearest| self.vote(&nearest))
        });
        Ok(found.collect())
    }

    fn check(&self, embeddings: &[f32], samples: usize) -> Result<()> {
        if self.channels == 0 || embeddings.len() != samples * self.channels {
            return Err(Error::input(format!(
                "k-NN: expected {samples} embeddings of {} channels, found {} values",
                self.channels,
                embeddings.len()
            )));
        }
        Ok(())
    }

    /// The cosines and rows of each query's neighbors, nearest first.
    fn nearest(&self, queries: &[Option<Vec<f32>>], own: Option<usize>) -> Vec<Vec<(f32, usize)>> {
        let mut nearest = vec![Vec::with_capacity(NEIGHBORS + 1); queries.len()];
        for (row, embedding) in self.rows.chunks(self.channels.max(1)).enumerate() {
            for (at, (query, nearest)) in queries.iter().zip(&mut nearest).enumerate() {
                let Some(query) = query else { continue };
                if own.is_some_and(|own| self.samples.get(row) == Some(&(own + at))) {
                    continue;
                }
                let cosine = product(query, embedding);
                let is_full = nearest.len() == NEIGHBORS;
                if is_full && nearest.last().is_some_and(|&(least, _)| cosine <= least) {
                    continue;
                }
                let place = nearest.partition_point(|&(other, _)| other >= cosine);
                nearest.insert(place, (cosine, row));
                nearest.truncate(NEIGHBORS);
            }
        }
        nearest
    }

    fn vote(&self, nearest: &[(f32, usize)]) -> Option<usize> {
        let mut votes: Vec<(usize, f64)> = Vec::new();
        for &(cosine, row) in nearest {
            let (class, weight) = (*self.labels.get(row)?, (f64::from(cosine) / TEMPERATURE).exp());
            match votes.iter_mut().find(|(voted, _)| *voted == class) {
                Some((_, sum)) => *sum += weight,
                None => votes.push((class, weight)),
            }
        }
        votes
            .into_iter()
            .max_by(|a, b| a.1.total_cmp(&b.1).then(Reverse(a.0).cmp(&Reverse(b.0))))
            .map(|(class, _)| class)
    }
}

/// A vector scaled to length 1; `None` if it has no direction.
#[allow(clippy::cast_possible_truncation, reason = "rounded to the bank's type")]
fn unit(vector: &[f32]) -> Option<Vec<f32>> {
    let square: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let length = square.sqrt();
    (length > 0.0 && length.is_finite())
        .then(|| vector.iter().map(|&x| (f64::from(x) / length) as f32).collect())
}

/// Σ a·b in a fixed order: the parts of vectors of length 1 lose nothing that matters in f32.
fn product(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bank(rows: &[[f32; 2]], labels: &[usize]) -> Bank {
        let mut bank = Bank::new(2);
        bank.add(rows.as_flattened(), labels).unwrap();
        bank
    }

    #[test]
    fn near_neighbors_outvote_many_far_ones() {
        // two at 1: 2·e^14.3; ten at 0.8: 10·e^11.4, a tenth of it
        let near = [[2.0, 0.0]; 2];
        let far = [[0.8, 0.6]; 10];
        let bank = bank(&[&near[..], &far[..]].concat(), &[&[3; 2][..], &[1; 10][..]].concat());
        let found = bank.classify(&[5.0, 0.0, 0.8, 0.6], None).unwrap();
        assert_eq!(found, [Some(3), Some(1)]);
    }

    #[test]
    fn only_the_nearest_vote_and_equal_votes_go_to_the_lower_class() {
        // of 21 equal rows of class 1 the last does not vote: 20 against none
        let mut rows = vec![[1.0, 0.0]; 21];
        rows.extend([[0.99, 0.1]; 40]);
        let labels = [&[1; 21][..], &[0; 40][..]].concat();
        assert_eq!(bank(&rows, &labels).classify(&[1.0, 0.0], None).unwrap(), [Some(1)]);
        let tied = bank(&[[1.0, 0.0]; 2], &[7, 4]);
        assert_eq!(tied.classify(&[1.0, 0.0], None).unwrap(), [Some(4)]);
        // the earlier of equal rows: 20 of class 2, then one of class 1
        let rows = [[1.0, 0.0]; 41];
        let labels = [&[2; 11][..], &[1; 30][..]].concat();
        assert_eq!(bank(&rows, &labels).classify(&[1.0, 0.0], None).unwrap(), [Some(2)]);
    }

    #[test]
    fn nobody_votes_for_itself_and_what_has_no_direction_is_left_out() {
        let rows = [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [f32::NAN, 1.0], [0.1, 0.9]];
        let bank = bank(&rows, &[0, 0, 1, 1, 2]);
        assert_eq!((bank.len(), bank.left_out()), (3, 2));
        let all = rows.as_flattened();
        let own = bank.classify(all, Some(0)).unwrap();
        // the nearest others: of (1, 0) and of (0, 1) it is the last row, of which it is the third
        assert_eq!(own, [Some(2), None, Some(2), None, Some(1)]);
        let first = bank.classify(&all[8..], Some(4)).unwrap();
        assert_eq!(first, [Some(1)]);
        let alone = bank_of_one();
        assert_eq!(alone.classify(&[1.0, 0.0], Some(0)).unwrap(), [None]);
        assert_eq!(alone.classify(&[1.0, 0.0], None).unwrap(), [Some(5)]);
        assert!(Bank::new(2).is_empty());
    }

    fn bank_of_one() -> Bank {
        bank(&[[1.0, 0.0]], &[5])
    }

    #[test]
    fn threads_do_not_change_the_answer() {
        let values = |count: u16, seed: f32| -> Vec<f32> {
            (0..count * 19).map(|at| (f32::from(at) * 0.731 + seed).sin()).collect()
        };
        let mut bank = Bank::new(19);
        let labels: Vec<usize> = (0..200).map(|at| at % 7).collect();
        bank.add(&values(200, 0.0), &labels).unwrap();
        let queries = values(50, 0.4);
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| bank.classify(&queries, None).unwrap())
        };
        let alone = with(1);
        assert_eq!(with(4), alone);
        // one at a time too, and as the definition says
        for (query, found) in queries.chunks(19).zip(&alone) {
            assert_eq!(bank.classify(query, None).unwrap(), [*found]);
            let query = unit(query).unwrap();
            let cosine =
                |row: &[f32]| row.iter().zip(&query).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let mut all: Vec<(f64, usize)> =
                bank.rows.chunks(19).map(cosine).zip(labels.iter().copied()).collect();
            all.sort_by(|a, b| b.0.total_cmp(&a.0));
            let mut votes = [0.0; 7];
            for (cosine, label) in &all[..NEIGHBORS] {
                votes[*label] += (cosine / TEMPERATURE).exp();
            }
            let best = (0..7).max_by(|&a, &b| votes[a].total_cmp(&votes[b]));
            assert_eq!(best, *found);
        }
    }

    #[test]
    fn other_channels_are_refused() {
        let bank = bank_of_one();
        let error = bank.classify(&[1.0; 3], None).unwrap_err().to_string();
        assert!(error.contains("embeddings of 2 channels"), "{error}");
        assert!(Bank::new(2).add(&[1.0; 4], &[0]).is_err());
        assert!(Bank::new(0).add(&[], &[]).is_err());
    }
}
