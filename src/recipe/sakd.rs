//! Spot-adaptive distillation as a recipe asks for it.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Who decides at which spots a sample is distilled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gates {
    /// A policy that is trained beside the student.
    #[default]
    Learned,
    /// Every sample at every spot: plain distillation, to compare with.
    Always,
}

/// Settings of spot-adaptive distillation (Song et al. 2022), from what a cache holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Sakd {
    /// Who decides.
    pub gates: Gates,
    /// Temperature of the gates' softmax.
    pub temperature: f64,
    /// Factor of the policy's label loss where the route is worse than the student alone; its inverse where it is better.
    pub gamma: f64,
    /// Values of the policy network's hidden layer.
    pub width: usize,
}

impl Default for Sakd {
    fn default() -> Self {
        Self { gates: Gates::Learned, temperature: 5.0, gamma: 1.0, width: 128 }
    }
}

impl Sakd {
    /// Checks every value's range.
    ///
    /// # Errors
    /// At the first value outside its range.
    pub fn validate(&self) -> Result<()> {
        for (key, value) in [("temperature", self.temperature), ("gamma", self.gamma)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::input(format!("recipe: sakd.{key}: expected a value above 0, found {value}")));
            }
        }
        if self.width == 0 { Err(Error::input("recipe: sakd.width: expected 1 or more, found 0")) } else { Ok(()) }
    }
}
