//! The optimizer of a run, and its per-parameter exceptions.

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The update rule.
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
        /// Whether to use Nesterov momentum.
        #[serde(default)]
        nesterov: bool,
        /// L2 penalty, added to the gradient of every parameter.
        #[serde(default, rename = "weight-decay")]
        weight_decay: f64,
    },
    /// `AdamW` (decoupled weight decay).
    Adamw {
        /// Peak learning rate.
        lr: f64,
        /// Decay rates of the two moments.
        #[serde(default = "default_betas")]
        betas: [f64; 2],
        /// The ε added to the denominator.
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

/// A recipe's table `optimizer`: the update rule, and its exceptions for some parameters. These are
/// selected by glob patterns; `norm` matches scale and bias of every normalization.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, Value>")]
pub struct Optimization {
    /// The update rule.
    #[serde(flatten)]
    pub rule: OptimizerRecipe,
    /// Patterns of parameters without weight decay.
    #[serde(rename = "no-decay", skip_serializing_if = "Vec::is_empty")]
    pub no_decay: Vec<String>,
    /// Parameters with their own learning rate; the first group that matches a parameter applies.
    #[serde(rename = "group", skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<ParameterGroup>,
}

/// Parameters with their own learning rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ParameterGroup {
    /// The pattern that selects them.
    pub pattern: String,
    /// The factor of the run's learning rate.
    pub lr_factor: f64,
}

impl From<OptimizerRecipe> for Optimization {
    /// The same rule for all parameters.
    fn from(rule: OptimizerRecipe) -> Self {
        Self { rule, no_decay: Vec::new(), groups: Vec::new() }
    }
}

impl TryFrom<BTreeMap<String, Value>> for Optimization {
    type Error = Error;

    /// Takes its own keys out of the table; the rest belong to the rule, which rejects unknown
    /// names.
    fn try_from(mut table: BTreeMap<String, Value>) -> Result<Self> {
        let mut list = |key: &str| table.remove(key).unwrap_or_else(|| Value::Array(Vec::new()));
        let (no_decay, groups) = (list("no-decay"), list("group"));
        Ok(Self {
            rule: read("optimizer", table.into_iter().collect())?,
            no_decay: read("optimizer.no-decay", no_decay)?,
            groups: read("optimizer.group", groups)?,
        })
    }
}

fn read<T: DeserializeOwned>(what: &str, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| Error::input(format!("{what}: {e}")))
}

impl Optimization {
    pub(super) fn validate(&self) -> Result<()> {
        self.rule.validate()?;
        for pattern in &self.no_decay {
            check("optimizer.no-decay", "a pattern", !pattern.is_empty(), "an empty one")?;
        }
        self.groups.iter().try_for_each(|ParameterGroup { pattern, lr_factor }| {
            check("optimizer.group: pattern", "a pattern", !pattern.is_empty(), "an empty one")?;
            let holds = lr_factor.is_finite() && *lr_factor >= 0.0;
            check("optimizer.group: lr-factor", "0 or more", holds, lr_factor)
        })
    }
}

impl OptimizerRecipe {
    /// The peak learning rate.
    #[must_use]
    pub fn lr(&self) -> f64 {
        match *self {
            Self::Sgd { lr, .. } | Self::Adamw { lr, .. } => lr,
        }
    }

    /// The same rule with the weight decay times `factor`.
    #[must_use]
    pub(crate) fn with_decay(&self, factor: f64) -> Self {
        let mut scaled = self.clone();
        match &mut scaled {
            Self::Sgd { weight_decay, .. } | Self::Adamw { weight_decay, .. } => {
                *weight_decay *= factor;
            }
        }
        scaled
    }

    /// Sets the peak learning rate.
    pub fn set_lr(&mut self, rate: f64) {
        match self {
            Self::Sgd { lr, .. } | Self::Adamw { lr, .. } => *lr = rate,
        }
    }

    fn validate(&self) -> Result<()> {
        let not_negative =
            |name, value: f64| check(name, "0 or more", value.is_finite() && value >= 0.0, value);
        not_negative("optimizer.lr", self.lr())?;
        match *self {
            Self::Sgd { momentum, nesterov, weight_decay, .. } => {
                not_negative("optimizer.weight-decay", weight_decay)?;
                check(
                    "optimizer.momentum",
                    "0 to below 1",
                    (0.0..1.0).contains(&momentum),
                    momentum,
                )?;
                check(
                    "optimizer.nesterov",
                    "momentum above 0 with it",
                    !nesterov || momentum > 0.0,
                    "momentum 0",
                )
            }
            Self::Adamw { betas, eps, weight_decay, .. } => {
                not_negative("optimizer.weight-decay", weight_decay)?;
                not_negative("optimizer.eps", eps)?;
                betas.into_iter().try_for_each(|beta| {
                    check("optimizer.betas", "0 to below 1", (0.0..1.0).contains(&beta), beta)
                })
            }
        }
    }
}

/// Rejects a value outside its range.
pub(super) fn check(
    what: &str,
    expected: &str,
    holds: bool,
    found: impl std::fmt::Display,
) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Error::input(format!("recipe: {what}: expected {expected}, found {found}")))
    }
}
