//! A criterion of any type: [`Method`] as a recipe holds it, [`Running`] as a run computes it.

use super::contract::{Comparison, Criterion, Memory, Pretraining, Setup, Spec};
use super::math::evaluation::Evaluation;
use super::math::module::Module;
use crate::error::Result;
use crate::statistic::Statistic;
use candle_core::Tensor;
use serde_json::Value;
use std::fmt::Debug;
use std::sync::Arc;

/// A criterion with its settings.
#[derive(Debug, Clone)]
pub struct Method(Arc<dyn AnyCriterion>);

/// A criterion in a run, with its state.
pub trait Running: Debug + Send {
    /// What the optimizer updates.
    fn modules(&self) -> &[Module];

    /// What a checkpoint holds besides the modules, by `LAYER/NAME`.
    ///
    /// # Errors
    /// When a tensor can't be created.
    fn tensors(&self) -> Result<Vec<(String, Tensor)>>;

    /// Restores the values of [`tensors`](Self::tensors), in the same order.
    ///
    /// # Errors
    /// When a tensor doesn't fit.
    fn restore(&mut self, tensors: Vec<Tensor>) -> Result<()>;

    /// The pretraining to run before the student is trained, if any.
    fn pretraining(&self) -> Option<Pretraining<'_>>;

    /// As [`Criterion::evaluate`].
    ///
    /// # Errors
    /// As for [`Criterion::evaluate`].
    fn evaluate(&mut self, inputs: &Comparison<'_>) -> Result<Evaluation>;

    /// As [`Criterion::weighted`].
    ///
    /// # Errors
    /// As for [`Criterion::weighted`].
    fn weighted(&mut self, weight: f64, inputs: &Comparison<'_>) -> Result<Evaluation>;
}

impl Method {
    /// Wraps a criterion.
    pub fn new(criterion: impl Criterion) -> Self {
        Self(Arc::new(criterion))
    }

    /// The static description, independent of the settings.
    #[must_use]
    pub fn spec(&self) -> &'static Spec {
        self.0.spec()
    }

    /// The settings as a table.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn settings(&self) -> serde_json::Result<Value> {
        self.0.settings()
    }

    /// Checks every setting's range.
    ///
    /// # Errors
    /// At the first value outside its range.
    pub fn check(&self) -> Result<()> {
        self.0.check()
    }

    /// As [`Criterion::ways`].
    #[must_use]
    pub fn ways(&self) -> Vec<Vec<Statistic>> {
        self.0.ways()
    }

    /// The criterion in its state before the first step.
    ///
    /// # Errors
    /// As [`Criterion::start`].
    pub fn start(&self, setup: &Setup<'_>) -> Result<Box<dyn Running>> {
        self.0.start(setup)
    }
}

impl PartialEq for Method {
    fn eq(&self, other: &Self) -> bool {
        let settings = |method: &Self| method.settings().ok();
        self.spec().name == other.spec().name && settings(self) == settings(other)
    }
}

/// A type-erased [`Criterion`].
trait AnyCriterion: Debug + Send + Sync {
    fn spec(&self) -> &'static Spec;
    fn settings(&self) -> serde_json::Result<Value>;
    fn check(&self) -> Result<()>;
    fn ways(&self) -> Vec<Vec<Statistic>>;
    fn start(&self, setup: &Setup<'_>) -> Result<Box<dyn Running>>;
}

impl<C: Criterion> AnyCriterion for C {
    fn spec(&self) -> &'static Spec {
        C::SPEC
    }

    fn settings(&self) -> serde_json::Result<Value> {
        serde_json::to_value(self)
    }

    fn check(&self) -> Result<()> {
        C::check(self, C::SPEC.name)
    }

    fn ways(&self) -> Vec<Vec<Statistic>> {
        C::ways(self)
    }

    fn start(&self, setup: &Setup<'_>) -> Result<Box<dyn Running>> {
        Ok(Box::new(Started { criterion: self.clone(), memory: C::start(self, setup)? }))
    }
}

/// A criterion with its state, which is typed here and nowhere else.
#[derive(Debug)]
struct Started<C: Criterion> {
    criterion: C,
    memory: C::Memory,
}

impl<C: Criterion> Running for Started<C> {
    fn modules(&self) -> &[Module] {
        self.memory.modules()
    }

    fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        self.memory.tensors()
    }

    fn restore(&mut self, tensors: Vec<Tensor>) -> Result<()> {
        self.memory.restore(tensors)
    }

    fn pretraining(&self) -> Option<Pretraining<'_>> {
        self.criterion.pretraining(&self.memory)
    }

    fn evaluate(&mut self, inputs: &Comparison<'_>) -> Result<Evaluation> {
        self.criterion.evaluate(inputs, &mut self.memory)
    }

    fn weighted(&mut self, weight: f64, inputs: &Comparison<'_>) -> Result<Evaluation> {
        self.criterion.weighted(weight, inputs, &mut self.memory)
    }
}
