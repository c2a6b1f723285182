//! The settings of spot-adaptive distillation.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// What the policy learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SakdMode {
    /// The data in the cache: linear probes stand in for the rest of either network after a spot.
    #[default]
    Cached,
    /// Routes through both networks, as published: the teacher's stages run at every step.
    Exact,
}

impl fmt::Display for SakdMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cached => "cached",
            Self::Exact => "exact",
        })
    }
}

impl FromStr for SakdMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "cached" => Ok(Self::Cached),
            "exact" => Ok(Self::Exact),
            other => Err(Error::input(format!("sakd: expected cached or exact, found `{other}`"))),
        }
    }
}

/// What decides at which spots a sample is distilled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gates {
    /// A policy that is trained alongside the student.
    #[default]
    Learned,
    /// Every sample at every spot: plain distillation, for comparison.
    Always,
}

/// Settings of spot-adaptive distillation (Song et al. 2022).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Sakd {
    /// What the policy learns from.
    pub mode: SakdMode,
    /// The teacher's ONNX file, which the exact mode runs. It must be the one that produced the
    /// cache: its hash affects the result, its path does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<PathBuf>,
    /// What decides.
    pub gates: Gates,
    /// Temperature of the gates' softmax.
    pub temperature: f64,
    /// Factor of the policy's label loss if the route is worse than the student alone, and divisor
    /// if it is better.
    pub gamma: f64,
    /// The width of the policy network's hidden layer.
    pub width: usize,
}

impl Default for Sakd {
    fn default() -> Self {
        Self {
            mode: SakdMode::Cached,
            teacher: None,
            gates: Gates::Learned,
            temperature: 5.0,
            gamma: 1.0,
            width: 128,
        }
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
                return Err(Error::input(format!(
                    "recipe: sakd.{key}: expected a value above 0, found {value}"
                )));
            }
        }
        if self.mode == SakdMode::Cached && self.teacher.is_some() {
            return Err(Error::input(
                "recipe: sakd.teacher: expected mode \"exact\" beside it, found \"cached\"",
            )
            .hint(
                "the cached mode runs no teacher: write mode = \"exact\" (--sakd exact), or leave \
                 the file out",
            ));
        }
        if self.width == 0 {
            Err(Error::input("recipe: sakd.width: expected 1 or more, found 0"))
        } else {
            Ok(())
        }
    }
}
