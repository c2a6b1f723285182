//! The recipe of one training run: what `recipes/*.toml` holds and flags override.

use super::{CriterionRecipe, DataSpec};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How parameters follow their gradients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum OptimizerRecipe {
    /// Stochastic gradient descent, in PyTorch's form.
    Sgd {
        /// Peak learning rate.
        lr: f64,
        /// Momentum.
        #[serde(default)]
        momentum: f64,
        /// Nesterov's form.
        #[serde(default)]
        nesterov: bool,
        /// L2 penalty, added to the gradient of every parameter.
        #[serde(default, rename = "weight-decay")]
        weight_decay: f64,
    },
    /// AdamW (decoupled weight decay).
    Adamw {
        /// Peak learning rate.
        lr: f64,
        /// Decay of the two moments.
        #[serde(default = "default_betas")]
        betas: [f64; 2],
        /// Added to the denominator.
        #[serde(default = "default_eps")]
        eps: f64,
        /// Decoupled weight decay.
        #[serde(default, rename = "weight-decay")]
        weight_decay: f64,
    },
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}
fn default_eps() -> f64 {
    1e-8
}

/// How the learning rate moves; evaluated at every step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum ScheduleRecipe {
    /// The peak rate throughout.
    Constant {
        /// Epochs of linear warm-up from 0.
        #[serde(default, rename = "warmup-epochs")]
        warmup_epochs: f64,
    },
    /// Half a cosine from the peak to `min-lr` over all steps.
    Cosine {
        /// Epochs of linear warm-up from 0.
        #[serde(default, rename = "warmup-epochs")]
        warmup_epochs: f64,
        /// The rate at the end.
        #[serde(default, rename = "min-lr")]
        min_lr: f64,
    },
    /// Times `gamma` at each milestone.
    Multistep {
        /// Epochs at which the rate drops.
        milestones: Vec<f64>,
        /// Factor of a drop.
        gamma: f64,
        /// Epochs of linear warm-up from 0.
        #[serde(default, rename = "warmup-epochs")]
        warmup_epochs: f64,
    },
}

/// Augmentation of a supervised run without a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// The images as they are.
    None,
    /// Random crop after padding by an eighth (4 of 32 pixels), and random horizontal flip.
    #[default]
    CropFlip,
    /// Random horizontal flip alone.
    Flip,
}

/// One training run. Everything but the paths decides the trained bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Train {
    /// Epochs.
    pub epochs: usize,
    /// Samples of a step.
    pub batch: usize,
    /// Seed of initial weights, data order and augmentation.
    pub seed: u64,
    /// Whether the last incomplete batch of an epoch is left out.
    pub drop_last: bool,
    /// The optimiser.
    pub optimizer: OptimizerRecipe,
    /// The learning rate's course.
    pub schedule: ScheduleRecipe,
    /// Largest global L2 norm of the gradient; larger ones are scaled down to it.
    pub clip: Option<f64>,
    /// Share of the target spread over all classes.
    pub label_smoothing: f64,
    /// Terms of the loss. Without a `ce` term cross-entropy counts with weight 1. Empty: CE + 50·NST-poly (with a cache), CE (without).
    #[serde(rename = "criterion")]
    pub criteria: Vec<CriterionRecipe>,
    /// Augmentation when there is no cache.
    pub augment: Augment,
    /// Initialisers that do not train, as glob patterns.
    pub freeze: Vec<String>,
    /// Initialisers that train although they would not by themselves, as glob patterns.
    pub train: Vec<String>,
    /// Batch normalisation by running statistics, which stay as they are.
    pub freeze_batchnorm: bool,
    /// Only the first so many samples.
    pub limit: Option<usize>,
    /// Data set of the evaluation, `SPEC`.
    pub test: Option<DataSpec>,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            epochs: 30,
            batch: 128,
            seed: 0,
            drop_last: false,
            optimizer: OptimizerRecipe::Sgd { lr: 0.05, momentum: 0.9, nesterov: true, weight_decay: 5e-4 },
            schedule: ScheduleRecipe::Cosine { warmup_epochs: 0.0, min_lr: 0.0 },
            clip: None,
            label_smoothing: 0.0,
            criteria: Vec::new(),
            augment: Augment::default(),
            freeze: Vec::new(),
            train: Vec::new(),
            freeze_batchnorm: false,
            limit: None,
            test: None,
        }
    }
}

impl Train {
    /// Reads a recipe file.
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, has an unknown key, or a value outside its range.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).map_err(|e| Error::input(format!("recipe {}: cannot be read", path.display())).because(e))?;
        let recipe: Self =
            toml::from_str(&text).map_err(|e| Error::input(format!("recipe {}: {}", path.display(), e.message())).because(e))?;
        recipe.validate()?;
        Ok(recipe)
    }

    /// Checks every value's range.
    ///
    /// # Errors
    /// At the first value outside its range.
    pub fn validate(&self) -> Result<()> {
        todo!("helper: train")
    }
}
