//! Criterion settings: each is declared once, with its type, default and range.

use crate::error::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// A criterion's settings, as a recipe's table holds them.
pub trait Settings:
    Debug + Clone + PartialEq + Default + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Checks every setting's range.
    ///
    /// # Errors
    /// At the first value outside its range; names the criterion and the setting.
    fn check(&self, criterion: &str) -> Result<()>;
}

/// Declares a criterion's settings: each with its type, default and range.
macro_rules! settings {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr, $range:expr;)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default),* }
            }
        }

        impl $crate::criterion::settings::Settings for $name {
            fn check(&self, criterion: &str) -> $crate::error::Result<()> {
                #[allow(unused_imports, reason = "a criterion may have no settings")]
                use $crate::criterion::settings::{Setting as _, check};
                let _ = criterion;
                $(check(criterion, stringify!($field), self.$field.number(), &$range)?;)*
                Ok(())
            }
        }
    };
}
pub(crate) use settings;

/// The values that a setting may take.
pub(crate) struct Range {
    expected: &'static str,
    holds: fn(f64) -> bool,
}

pub(crate) const ANY: Range = Range { expected: "", holds: |_| true };
pub(crate) const NUMBER: Range = Range { expected: "a finite value", holds: f64::is_finite };
pub(crate) const ABOVE_0: Range =
    Range { expected: "a value above 0", holds: |v| v.is_finite() && v > 0.0 };
pub(crate) const NOT_NEGATIVE: Range =
    Range { expected: "a finite value of 0 or more", holds: |v| v.is_finite() && v >= 0.0 };
pub(crate) const POSITIVE: Range = Range { expected: "1 or more", holds: |v| v >= 1.0 };
pub(crate) const SHARE: Range =
    Range { expected: "0 to below 1", holds: |v| (0.0..1.0).contains(&v) };
pub(crate) const DEGREE: Range = Range { expected: "1 to 8", holds: |v| (1.0..=8.0).contains(&v) };

/// A setting's value.
pub(crate) trait Setting {
    /// The value as a number, if it is one.
    fn number(&self) -> Option<f64>;
}

impl Setting for f64 {
    fn number(&self) -> Option<f64> {
        Some(*self)
    }
}

impl Setting for bool {
    fn number(&self) -> Option<f64> {
        None
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

/// Rejects a setting outside its range.
pub(crate) fn check(criterion: &str, name: &str, value: Option<f64>, range: &Range) -> Result<()> {
    match value {
        Some(value) if !(range.holds)(value) => {
            let name = name.replace('_', "-");
            Err(Error::input(format!(
                "criterion {criterion}: {name}: expected {}, found {value}",
                range.expected
            )))
        }
        _ => Ok(()),
    }
}
