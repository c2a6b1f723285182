//! The ranges of settings.

use super::nst::{Normalization, Sigma};
use crate::error::{Error, Result};

/// What a setting may be.
pub(super) struct Range {
    expected: &'static str,
    holds: fn(f64) -> bool,
}

pub(super) const ANY: Range = Range { expected: "", holds: |_| true };
pub(super) const NUMBER: Range = Range { expected: "a finite value", holds: f64::is_finite };
pub(super) const ABOVE_0: Range =
    Range { expected: "a value above 0", holds: |v| v.is_finite() && v > 0.0 };
pub(super) const NOT_NEGATIVE: Range =
    Range { expected: "a finite value of 0 or more", holds: |v| v.is_finite() && v >= 0.0 };
pub(super) const POSITIVE: Range = Range { expected: "1 or more", holds: |v| v >= 1.0 };
pub(super) const SHARE: Range =
    Range { expected: "0 to below 1", holds: |v| (0.0..1.0).contains(&v) };
pub(super) const DEGREE: Range = Range { expected: "1 to 8", holds: |v| (1.0..=8.0).contains(&v) };

/// A setting's value.
pub(super) trait Setting {
    /// As a number, if it is one.
    fn number(&self) -> Option<f64>;
}

impl Setting for f64 {
    fn number(&self) -> Option<f64> {
        Some(*self)
    }
}

impl Setting for u32 {
    fn number(&self) -> Option<f64> {
        Some(f64::from(*self))
    }
}

impl Setting for usize {
    #[allow(clippy::cast_precision_loss, reason = "compared with small numbers")]
    fn number(&self) -> Option<f64> {
        Some(*self as f64)
    }
}

impl Setting for Normalization {
    fn number(&self) -> Option<f64> {
        None
    }
}

impl Setting for Sigma {
    fn number(&self) -> Option<f64> {
        match self {
            Self::Fixed(value) => Some(*value),
            Self::AutoSample | Self::AutoBatch => None,
        }
    }
}

/// Refuses a setting outside its range.
pub(super) fn check(method: &str, name: &str, value: Option<f64>, range: &Range) -> Result<()> {
    match value {
        Some(value) if !(range.holds)(value) => {
            let name = name.replace('_', "-");
            Err(Error::input(format!(
                "criterion {method}: {name}: expected {}, found {value}",
                range.expected
            )))
        }
        _ => Ok(()),
    }
}
