//! How far ONNX Runtime may change a graph before it runs it.

use ort::session::builder::GraphOptimizationLevel;
use std::fmt;

/// How far ONNX Runtime may change a graph, the most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Also changes the layout of maps.
    All,
    /// Also fuses nodes into operators of its own.
    Extended,
    /// Rewrites into other ONNX operators.
    Basic,
    /// Not at all.
    Disabled,
}

impl Level {
    pub(super) fn option(self) -> GraphOptimizationLevel {
        match self {
            Self::All => GraphOptimizationLevel::All,
            Self::Extended => GraphOptimizationLevel::Level2,
            Self::Basic => GraphOptimizationLevel::Level1,
            Self::Disabled => GraphOptimizationLevel::Disable,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Extended => "extended",
            Self::Basic => "basic",
            Self::Disabled => "disabled",
        })
    }
}
