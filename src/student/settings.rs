//! Choices of how a student is imported and computed.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How much rounding error the convolutions of a student may add.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// Winograd's F(4×4) as well: 1e-6 to 4e-6 relative. docs/accuracy.md shows that students
    /// train equally well.
    #[default]
    Fast,
    /// Direct products and Winograd's F(2×2) only: below 1e-6.
    Strict,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fast => "fast",
            Self::Strict => "strict",
        })
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "fast" => Ok(Self::Fast),
            "strict" => Ok(Self::Strict),
            other => {
                Err(Error::input(format!("precision: expected fast or strict, found `{other}`")))
            }
        }
    }
}

/// What happens to batch norms that a student's exporter folded into its convolutions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FoldedNorms {
    /// Those that had learned nothing are restored; a student whose norms had is refused.
    #[default]
    Ask,
    /// New ones are inserted in their place.
    Insert,
    /// The student trains without them.
    Leave,
}

impl FoldedNorms {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde requires it")]
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
