//! The schedule of a criterion's weight.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// When a criterion is on and at what share of its weight, in epochs from the run's start
/// (fractions are allowed). By default it is always on at its full weight.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Course {
    /// It is off before this epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<f64>,
    /// It is off from this epoch on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<f64>,
    /// Epochs over which the weight rises linearly, starting at `from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_epochs: Option<f64>,
    /// The weight that a linear decay reaches, from the end of the warm-up to `until` or the run's
    /// end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_to: Option<f64>,
}

impl Course {
    /// The names of its settings.
    pub(super) const KEYS: [&str; 4] = ["from", "until", "warmup-epochs", "decay-to"];

    /// Whether the criterion is on at an epoch.
    #[must_use]
    pub fn is_on(&self, epoch: f64) -> bool {
        epoch >= self.from.unwrap_or(0.0) && self.until.is_none_or(|until| epoch < until)
    }

    /// Checks every value's range.
    pub(super) fn check(&self, method: &str) -> Result<()> {
        for (key, value) in
            Self::KEYS.into_iter().zip([self.from, self.until, self.warmup_epochs, self.decay_to])
        {
            if let Some(value) = value.filter(|v| !v.is_finite() || *v < 0.0) {
                return Err(Error::input(format!(
                    "criterion {method}: {key}: expected a finite value of 0 or more, found \
                     {value}"
                )));
            }
        }
        match (self.from.unwrap_or(0.0), self.until) {
            (from, Some(until)) if until <= from => Err(Error::input(format!(
                "criterion {method}: until: expected an epoch after {from}, found {until}"
            ))),
            _ => Ok(()),
        }
    }
}
