//! What a term's criterion can ask of the run's data.

use super::super::source::Source;
use super::{Objective, Term};
use crate::criterion::RunData;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::statistic::Statistic;
use candle_core::Tensor;

/// A source as one term sees it.
pub(super) struct TermData<'a> {
    pub term: &'a Term,
    pub objective: &'a Objective,
    pub source: &'a Source<'a>,
    pub monitor: &'a dyn Monitor,
}

impl RunData for TermData<'_> {
    fn labels(&self) -> Vec<(usize, i64)> {
        self.source.labels()
    }

    fn batch_norm(&self, layer: usize) -> Option<[&[f32]; 2]> {
        let norm = self.source.batch_norm(&self.term.pairs.get(layer)?.teacher)?;
        Some([&norm.scale, &norm.bias])
    }

    fn first_maps(&self, rows: usize) -> Result<Vec<Tensor>> {
        let taps = self.source.batch(0, 0..rows.min(self.source.len()))?.taps;
        let of_alias = |alias: &str| {
            let path = Statistic::Features.path(alias);
            let tap = self.objective.taps.iter().position(|known| *known == path);
            let maps = tap.and_then(|tap| taps.get(tap)).cloned();
            maps.ok_or_else(|| Error::input(format!("tap {alias}: not in the batch")))
        };
        self.term.pairs.iter().map(|pair| of_alias(&pair.teacher)).collect()
    }

    fn note(&self, text: &str) {
        self.monitor.note(&format!("{}: {text}", self.term.name));
    }
}
