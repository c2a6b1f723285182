//! The order of rows: a pure function of (seed, epoch), so that a run resumes at any step and the
//! number of threads does not matter.
//!
//! Rows are read in units (the chunks of a cache, single samples of a data set). An epoch shuffles
//! the units, fills a reservoir with some of them, empties it in shuffled order, and refills it.
//! Since a cache's rows are already randomly permuted, this is as good as a full shuffle, every
//! chunk is decoded once per epoch, and the rows of any step can be computed without iterating over
//! earlier ones.

use crate::random::{keyed, shuffle};
use rand_chacha::ChaCha8Rng;
use std::ops::Range;

/// Which rows there are and how they are read.
#[derive(Debug, Clone)]
pub struct Order {
    /// The selected rows, ascending; `None` for all of `0..rows`.
    subset: Option<Vec<usize>>,
    rows: usize,
    /// Where each unit's rows start in the (sub)set, and the end: `units + 1` positions.
    bounds: Vec<usize>,
    /// Units per reservoir.
    reservoir: usize,
    /// Whether the order is shuffled at all.
    shuffled: bool,
}

impl Order {
    /// A shuffled order of `0..total` (or of `subset`, ascending) in units of `unit` consecutive
    /// rows with a reservoir of `reservoir` units.
    #[must_use]
    pub fn shuffled(
        total: usize,
        subset: Option<Vec<usize>>,
        unit: usize,
        reservoir: usize,
    ) -> Self {
        let unit = unit.max(1);
        let rows = subset.as_ref().map_or(total, Vec::len);
        let mut bounds = vec![0];
        match &subset {
            None => bounds.extend((1..=total.div_ceil(unit)).map(|u| (u * unit).min(total))),
            Some(subset) => {
                bounds.extend(
                    (1..subset.len()).filter(|&i| subset[i] / unit != subset[i - 1] / unit),
                );
                if !subset.is_empty() {
                    bounds.push(subset.len());
                }
            }
        }
        Self { subset, rows, bounds, reservoir: reservoir.max(1), shuffled: true }
    }

    /// Rows in stored order (or those of `subset`), for evaluation; read in groups of `unit`.
    #[must_use]
    pub fn sequential(total: usize, subset: Option<Vec<usize>>, unit: usize) -> Self {
        Self { shuffled: false, reservoir: 1, ..Self::shuffled(total, subset, unit, 1) }
    }

    /// Rows per epoch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The order of one epoch.
    #[must_use]
    pub fn epoch(&self, seed: u64, epoch: u64) -> Epoch<'_> {
        let units = self.bounds.len() - 1;
        let mut sequence: Vec<usize> = (0..units).collect();
        if self.shuffled {
            shuffle(&mut sequence, &mut generator(seed, epoch, 0));
        }
        let mut starts = vec![0];
        let mut end = 0;
        for window in sequence.chunks(self.reservoir) {
            end += window.iter().map(|&u| self.bounds[u + 1] - self.bounds[u]).sum::<usize>();
            starts.push(end);
        }
        Epoch { order: self, seed, number: epoch, sequence, starts }
    }

    /// The rows of an epoch, ascending.
    pub fn rows(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.rows).map(|position| self.row(position))
    }

    fn row(&self, position: usize) -> usize {
        self.subset.as_ref().map_or(position, |subset| subset[position])
    }
}

/// The order of one epoch, as a sequence of reservoirs.
#[derive(Debug, Clone)]
pub struct Epoch<'a> {
    order: &'a Order,
    seed: u64,
    number: u64,
    /// Units in the order in which they are read.
    sequence: Vec<usize>,
    /// Position in the epoch at which each reservoir starts, and the end.
    starts: Vec<usize>,
}

/// A range of consecutive rows that are read together, and which of them are selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The rows to read.
    pub read: Range<usize>,
    /// The selected rows among those, ascending.
    pub rows: Vec<usize>,
}

impl Epoch<'_> {
    /// The epoch's number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The reservoirs that hold positions `positions` of the epoch, each with the positions that it
    /// serves, relative to its own start.
    pub fn reservoirs(
        &self,
        positions: Range<usize>,
    ) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        let first = self.starts.partition_point(|&s| s <= positions.start).saturating_sub(1);
        (first..self.starts.len() - 1).map_while(move |r| {
            let (start, end) = (self.starts[r], self.starts[r + 1]);
            (start < positions.end)
                .then(|| (r, positions.start.max(start) - start..positions.end.min(end) - start))
        })
    }

    /// The spans that a reservoir reads, in order.
    #[must_use]
    pub fn spans(&self, reservoir: usize) -> Vec<Span> {
        let first = reservoir * self.order.reservoir;
        let last = (first + self.order.reservoir).min(self.sequence.len());
        let unit = |&u: &usize| {
            let rows: Vec<usize> = (self.order.bounds[u]..self.order.bounds[u + 1])
                .map(|p| self.order.row(p))
                .collect();
            Span { read: rows[0]..rows[rows.len() - 1] + 1, rows }
        };
        self.sequence[first..last].iter().map(unit).collect()
    }

    /// The order in which a reservoir of `len` rows is emptied: for each draw, the index into its
    /// rows as listed by [`Epoch::spans`].
    #[must_use]
    pub fn draws(&self, reservoir: usize, len: usize) -> Vec<usize> {
        let mut draws: Vec<usize> = (0..len).collect();
        if self.order.shuffled {
            shuffle(&mut draws, &mut generator(self.seed, self.number, reservoir as u64 + 1));
        }
        draws
    }
}

/// A generator keyed by everything that the order depends on.
fn generator(seed: u64, epoch: u64, part: u64) -> ChaCha8Rng {
    keyed([seed, epoch, part, u64::from_le_bytes(*b"roworder")])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All rows of an epoch, reservoir by reservoir, cut to `positions`.
    fn rows(order: &Order, seed: u64, epoch: u64, positions: Range<usize>) -> Vec<usize> {
        let epoch = order.epoch(seed, epoch);
        let mut out = Vec::new();
        for (reservoir, part) in epoch.reservoirs(positions) {
            let held: Vec<usize> =
                epoch.spans(reservoir).into_iter().flat_map(|s| s.rows).collect();
            out.extend(epoch.draws(reservoir, held.len())[part].iter().map(|&i| held[i]));
        }
        out
    }

    #[test]
    fn every_row_once_an_epoch() {
        for (total, unit, reservoir) in
            [(1000, 64, 4), (1000, 1, 1000), (7, 64, 4), (64, 64, 1), (65, 64, 2)]
        {
            let order = Order::shuffled(total, None, unit, reservoir);
            let mut seen = rows(&order, 3, 1, 0..total);
            seen.sort_unstable();
            assert_eq!(seen, (0..total).collect::<Vec<_>>());
        }
    }

    #[test]
    fn any_step_is_the_tail_of_the_whole() {
        let order = Order::shuffled(1000, None, 64, 4);
        let whole = rows(&order, 3, 1, 0..1000);
        for step in [0, 1, 9, 15] {
            assert_eq!(rows(&order, 3, 1, step * 64..1000), whole[step * 64..]);
            let end = (step * 64 + 64).min(1000);
            assert_eq!(rows(&order, 3, 1, step * 64..end), whole[step * 64..end]);
        }
    }

    #[test]
    fn seeds_and_epochs_differ_and_repeat() {
        let order = Order::shuffled(500, None, 16, 8);
        let of = |seed, epoch| rows(&order, seed, epoch, 0..500);
        assert_eq!(of(1, 2), of(1, 2));
        assert_ne!(of(1, 2), of(1, 3));
        assert_ne!(of(1, 2), of(2, 2));
    }

    #[test]
    fn a_subset_reads_only_where_its_rows_are() {
        let subset: Vec<usize> = (0..1000).filter(|r| r % 7 == 3).collect();
        let order = Order::shuffled(1000, Some(subset.clone()), 64, 4);
        let mut seen = rows(&order, 0, 0, 0..order.len());
        seen.sort_unstable();
        assert_eq!(seen, subset);
        let epoch = order.epoch(0, 0);
        for span in epoch.spans(0) {
            assert!(span.read.len() <= 64 && span.read.start / 64 == (span.read.end - 1) / 64);
        }
        assert!(Order::shuffled(10, Some(Vec::new()), 4, 2).is_empty());
        assert_eq!(
            rows(&Order::shuffled(10, Some(Vec::new()), 4, 2), 0, 0, 0..0),
            Vec::<usize>::new()
        );
    }

    #[test]
    fn evaluation_reads_in_order() {
        assert_eq!(
            rows(&Order::sequential(100, None, 32), 9, 9, 30..70),
            (30..70).collect::<Vec<_>>()
        );
    }

    #[test]
    fn labels_mix_across_a_batch() {
        // rows sorted by class are the worst case: units of 10 rows of one class each still mix
        // over a reservoir
        let order = Order::shuffled(10_000, None, 10, 100);
        let batch = rows(&order, 0, 0, 0..100);
        let classes: std::collections::HashSet<usize> = batch.iter().map(|r| r / 1000).collect();
        assert!(classes.len() >= 9, "{classes:?}");
    }

    #[test]
    fn the_order_is_pinned() {
        // recorded runs can be resumed only as long as this holds
        assert_eq!(
            rows(&Order::shuffled(10, None, 2, 2), 7, 0, 0..10),
            [2, 3, 7, 6, 9, 8, 4, 5, 1, 0]
        );
    }
}
