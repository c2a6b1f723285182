//! Criteria as a recipe names them: `nst`, `nst:kernel=gauss,weight=25,pairs=stage2=layer2`, or a `[[criterion]]` table.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// The kernel of the squared maximum mean discrepancy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kernel", deny_unknown_fields)]
pub enum Kernel {
    /// k(x, y) = x·y.
    Linear,
    /// k(x, y) = (x·y + c)^d.
    Poly {
        /// The exponent d.
        #[serde(default = "default_degree")]
        degree: u32,
        /// The constant c.
        #[serde(default)]
        constant: f64,
    },
    /// k(x, y) = exp(−‖x−y‖² / (2σ²)).
    Gauss {
        /// σ², or how it is found.
        #[serde(default)]
        sigma: Sigma,
    },
}

fn default_degree() -> u32 {
    2
}

/// The width of the Gaussian kernel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Sigma {
    /// σ² = mean ‖t_i − s_j‖² over the teacher–student pairs of a sample, without gradient.
    #[default]
    AutoSample,
    /// The same mean over all samples of the batch.
    AutoBatch,
    /// σ itself.
    #[serde(untagged)]
    Fixed(f64),
}

/// One pair of taps to bring together: the cache's alias and the student's tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairRecipe {
    /// Alias (or tensor name) of the teacher's tap in the cache.
    pub teacher: String,
    /// Name of the student's tensor.
    pub student: String,
}

/// What a criterion computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "method")]
pub enum Method {
    /// Cross-entropy with the labels.
    Ce,
    /// Hinton's knowledge distillation on the logits.
    Kd {
        /// The temperature T.
        #[serde(default = "default_temperature")]
        temperature: f64,
    },
    /// Neuron selectivity transfer: squared MMD between channel maps.
    Nst {
        /// The kernel.
        #[serde(flatten)]
        kernel: Kernel,
        /// The taps to pair; empty: the suggested pairs.
        #[serde(default)]
        pairs: Vec<PairRecipe>,
    },
}

fn default_temperature() -> f64 {
    4.0
}

/// One weighted term of the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CriterionRecipe {
    /// The factor of this term in the total.
    pub weight: f64,
    /// What is computed.
    #[serde(flatten)]
    pub method: Method,
}

impl CriterionRecipe {
    /// The name under which metrics list this term: `ce`, `kd`, `nst-poly`, …
    #[must_use]
    pub fn name(&self) -> &'static str {
        match &self.method {
            Method::Ce => "ce",
            Method::Kd { .. } => "kd",
            Method::Nst { kernel: Kernel::Linear, .. } => "nst-linear",
            Method::Nst { kernel: Kernel::Poly { .. }, .. } => "nst-poly",
            Method::Nst { kernel: Kernel::Gauss { .. }, .. } => "nst-gauss",
        }
    }

    /// Checks weights, temperature, degree and width.
    ///
    /// # Errors
    /// When a value is outside its range.
    pub fn validate(&self) -> Result<()> {
        let bad = |what: &str, expected: &str, found: f64| {
            Err(Error::input(format!("criterion {}: {what}: expected {expected}, found {found}", self.name())))
        };
        if !self.weight.is_finite() || self.weight < 0.0 {
            return bad("weight", "a finite value of 0 or more", self.weight);
        }
        match &self.method {
            Method::Kd { temperature } if !(temperature.is_finite() && *temperature > 0.0) => {
                bad("temperature", "a value above 0", *temperature)
            }
            Method::Nst { kernel: Kernel::Poly { degree, .. }, .. } if !(1..=8).contains(degree) => {
                bad("degree", "1 to 8", f64::from(*degree))
            }
            Method::Nst { kernel: Kernel::Gauss { sigma: Sigma::Fixed(s) }, .. } if !(s.is_finite() && *s > 0.0) => {
                bad("sigma", "a value above 0", *s)
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for CriterionRecipe {
    type Err = Error;

    /// `METHOD[:key=value,…]`, METHOD one of ce, kd, nst, nst-linear, nst-poly, nst-gauss.
    /// Keys: weight; temperature (kd); kernel, degree, constant, sigma, pair=TEACHER>STUDENT, which may be repeated (nst).
    fn from_str(_text: &str) -> Result<Self> {
        todo!("helper: train")
    }
}
