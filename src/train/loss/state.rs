//! What the criteria learn and remember.

use super::negatives::Negatives;
use crate::criterion::crd;
use crate::criterion::module::Module;
use crate::error::{Error, Result};
use candle_core::{Tensor, Var};

/// What one term learns and remembers.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) name: String,
    pub(super) seed: u64,
    /// Trained beside the student: one a layer, or one for all.
    pub(super) modules: Vec<Module>,
    /// Trained before the student and held fixed: one a layer.
    pub(super) paraphrasers: Vec<Module>,
    /// Of the teacher's channels, by layer.
    pub(super) margins: Vec<Tensor>,
    /// One a layer.
    pub(super) memories: Vec<crd::Memory>,
    /// CRD's, and how many a sample.
    pub(super) negatives: Option<(Negatives, usize)>,
}

impl State {
    /// The run's seed.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn module(&self, layer: usize) -> Result<&Module> {
        self.modules.get(layer).ok_or_else(|| self.lacks("module"))
    }

    pub(super) fn paraphraser(&self, layer: usize) -> Result<&Module> {
        self.paraphrasers.get(layer).ok_or_else(|| self.lacks("paraphraser"))
    }

    /// What CRD needs at a layer: the samples that each row is held against, embeddings, memory.
    pub(super) fn contrast(
        &mut self,
        layer: usize,
        rows: &[usize],
        step: usize,
    ) -> Result<(Vec<usize>, &Module, &mut crd::Memory)> {
        let lacks = self.lacks("memory");
        match (&self.negatives, self.modules.get(layer), self.memories.get_mut(layer)) {
            (Some((negatives, count)), Some(module), Some(memory)) => {
                Ok((negatives.draw(rows, step, *count)?, module, memory))
            }
            _ => Err(lacks),
        }
    }

    fn lacks(&self, what: &str) -> Error {
        Error::input(format!("criterion {}: has no {what} of this layer", self.name))
    }

    pub(super) fn path(&self, layer: usize, name: &str) -> String {
        format!("criterion/{}/{layer}/{name}", self.name)
    }

    pub(super) fn named<'a>(
        &'a self,
        layer: usize,
        module: &'a Module,
    ) -> impl Iterator<Item = (String, &'a Var)> {
        module.variables().map(move |(name, var)| (self.path(layer, name), var))
    }

    /// Every variable, what is held fixed too, by name.
    pub(super) fn variables(&self) -> impl Iterator<Item = (String, &Var)> {
        let trained = self.modules.iter().enumerate().map(|(i, m)| (i, m, ""));
        let fixed = self.paraphrasers.iter().enumerate().map(|(i, m)| (i, m, "paraphraser."));
        trained.chain(fixed).flat_map(move |(i, m, prefix)| {
            m.variables().map(move |(name, v)| (self.path(i, &format!("{prefix}{name}")), v))
        })
    }
}
