//! Which tensor of a model holds class logits.

use std::convert::Infallible;
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
