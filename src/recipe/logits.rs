//! Which tensor of a model holds class logits, and what is kept of them.

use crate::error::{self, Error};
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

/// The tensor of a model's class logits, as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LogitsChoice {
    /// The first output, before its softmax, where the model shows that it holds class logits.
    #[default]
    Auto,
    /// The model has none.
    None,
    /// This tensor.
    Tensor(String),
}

impl LogitsChoice {
    /// The tensor that the user names.
    #[must_use]
    pub fn tensor(&self) -> Option<&str> {
        match self {
            Self::Tensor(name) => Some(name),
            Self::Auto | Self::None => None,
        }
    }
}

impl FromStr for LogitsChoice {
    type Err = Infallible;

    /// `none`, or a tensor's name.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text == "none" { Self::None } else { Self::Tensor(text.to_owned()) })
    }
}

/// What is kept of class logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogitsKeep {
    /// The logits of all classes.
    #[default]
    All,
    /// The log-probabilities of this many classes, the largest ones, and the mass of the others.
    Top(usize),
}

impl FromStr for LogitsKeep {
    type Err = Error;

    /// `all`, or `topk:K` with K of 1 or more.
    fn from_str(text: &str) -> error::Result<Self> {
        let count = text.strip_prefix("topk:").and_then(|k| k.parse().ok()).filter(|&k| k > 0);
        match (text, count) {
            ("all", _) => Ok(Self::All),
            (_, Some(k)) => Ok(Self::Top(k)),
            _ => Err(Error::input(format!("expected all or topk:K, K from 1, found `{text}`"))),
        }
    }
}

impl fmt::Display for LogitsKeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Top(k) => write!(f, "topk:{k}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_all_or_a_count() {
        for (text, expected) in [("all", LogitsKeep::All), ("topk:16", LogitsKeep::Top(16))] {
            assert_eq!(text.parse::<LogitsKeep>().unwrap(), expected);
            assert_eq!(expected.to_string(), text);
        }
        for wrong in ["", "topk", "topk:", "topk:0", "topk:-1", "topk:1.5", "16", "top:3"] {
            let error = wrong.parse::<LogitsKeep>().unwrap_err().to_string();
            assert!(error.contains("topk:K"), "{wrong}: {error}");
        }
    }
}
