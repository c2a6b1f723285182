//! Batches prepared ahead of the trainer, on their own threads, behind bounded queues.

use super::source::{Batch, Source};
use crate::error::{Error, Result};
use crate::threads;
use crossbeam_channel::{Receiver, TryRecvError, bounded};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

/// Batches that one thread can have ready.
const QUEUE: usize = 2;

/// How an epoch is divided into steps. A single sample left at the end joins the previous step:
/// alone it has no batch statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// Samples per epoch.
    pub rows: usize,
    /// Samples per step.
    pub batch: usize,
    /// Whether the last incomplete batch is left out.
    pub drop_last: bool,
}

impl Steps {
    /// Steps per epoch.
    #[must_use]
    pub fn per_epoch(&self) -> usize {
        let whole = self.rows / self.batch;
        let rest = self.rows % self.batch;
        whole + usize::from(!self.drop_last && (rest > 1 || (rest == 1 && whole == 0)))
    }

    /// Whether the last sample joins the previous step.
    #[must_use]
    pub fn joins_last(&self) -> bool {
        !self.drop_last && self.rows > self.batch && self.rows % self.batch == 1
    }

    /// The epoch of a step, counted from 0 over the whole run, and its positions in the epoch's
    /// order.
    #[must_use]
    pub fn positions(&self, step: usize) -> (u64, Range<usize>) {
        let per_epoch = self.per_epoch().max(1);
        let within = step % per_epoch;
        let start = within * self.batch;
        let is_last = within + 1 == per_epoch && !self.drop_last;
        let end = if is_last { self.rows } else { (start + self.batch).min(self.rows) };
        ((step / per_epoch) as u64, start..end)
    }
}

/// The batches of consecutive steps.
#[derive(Debug)]
pub struct Batches {
    /// One queue per thread; thread w prepares every step with remainder w.
    queues: Vec<Receiver<Result<Batch>>>,
    next: usize,
    waited: Duration,
}

impl Batches {
    /// The next step's batch.
    ///
    /// # Errors
    /// When it could not be prepared.
    pub fn take(&mut self) -> Result<Batch> {
        let queue = &self.queues[self.next % self.queues.len()];
        self.next += 1;
        let batch = match queue.try_recv() {
            Ok(batch) => Ok(batch),
            Err(TryRecvError::Disconnected) => Err(()),
            Err(TryRecvError::Empty) => {
                let start = Instant::now();
                let batch = queue.recv().map_err(|_| ());
                self.waited += start.elapsed();
                batch
            }
        };
        batch.map_err(|()| Error::input("loader: a thread stopped before the last batch"))?
    }

    /// Time spent waiting for batches so far.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

/// Gives `body` the batches of the steps in `range`, prepared ahead on `threads` threads. A batch
/// is the same whichever thread prepares it.
///
/// # Errors
/// The errors of `body`.
pub fn stream<R>(
    source: &Source<'_>,
    steps: Steps,
    range: Range<usize>,
    threads: usize,
    body: impl FnOnce(&mut Batches) -> Result<R>,
) -> Result<R> {
    let threads = threads.clamp(1, range.len().max(1));
    thread::scope(|scope| {
        let mut queues = Vec::with_capacity(threads);
        for offset in 0..threads {
            let (sender, receiver) = bounded(QUEUE);
            let mine = (range.start + offset..range.end).step_by(threads);
            let work = move || {
                for step in mine {
                    let (epoch, positions) = steps.positions(step);
                    let batch = source.batch(epoch, positions);
                    let failed = batch.is_err();
                    // the receiver is gone once the trainer has stopped
                    if sender.send(batch).is_err() || failed {
                        return;
                    }
                }
            };
            threads::start(scope, work)?;
            queues.push(receiver);
        }
        let mut batches = Batches { queues, next: 0, waited: Duration::ZERO };
        body(&mut batches)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_cut_an_epoch() {
        let steps = Steps { rows: 10, batch: 4, drop_last: false };
        assert_eq!(steps.per_epoch(), 3);
        assert_eq!(steps.positions(2), (0, 8..10));
        assert_eq!(steps.positions(3), (1, 0..4));
        let steps = Steps { drop_last: true, ..steps };
        assert_eq!(steps.per_epoch(), 2);
        assert_eq!(steps.positions(3), (1, 4..8));
    }

    #[test]
    fn a_single_sample_at_the_end_joins_the_step_before() {
        let steps = Steps { rows: 9, batch: 4, drop_last: false };
        assert_eq!((steps.per_epoch(), steps.joins_last()), (2, true));
        assert_eq!([0, 1, 2].map(|step| steps.positions(step)), [(0, 0..4), (0, 4..9), (1, 0..4)]);
        let dropped = Steps { drop_last: true, ..steps };
        assert_eq!((dropped.per_epoch(), dropped.joins_last()), (2, false));
        assert_eq!(dropped.positions(1), (0, 4..8));
        // a data set of one sample leaves no other choice
        let single = Steps { rows: 1, ..steps };
        assert_eq!((single.per_epoch(), single.positions(1)), (1, (1, 0..1)));
        assert_eq!(Steps { rows: 3, batch: 1, drop_last: false }.per_epoch(), 3);
    }
}
