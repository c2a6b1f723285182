//! How a model's inputs are fed, where the model itself does not tell.

use crate::error::{Error, Result};
use std::str::FromStr;

/// The user's settings for a model's inputs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Feeding {
    /// Batch axes of inputs.
    pub batch_axes: Vec<BatchAxis>,
    /// Inputs that get the same value for every sample.
    pub values: Vec<InputValue>,
}

/// `INPUT=N`: axis N (from 0) of the input is the batch; `INPUT=none`: it has no batch axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchAxis {
    /// The input's name.
    pub input: String,
    /// The batch axis; `None` if there is none.
    pub axis: Option<usize>,
}

impl FromStr for BatchAxis {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::input(format!(
                "expected INPUT=N, N counted from 0, or INPUT=none, found `{text}`"
            ))
        };
        let (input, axis) =
            text.rsplit_once('=').filter(|(input, _)| !input.is_empty()).ok_or_else(wrong)?;
        let axis = if axis == "none" { None } else { Some(axis.parse().map_err(|_| wrong())?) };
        Ok(Self { input: input.to_owned(), axis })
    }
}

/// The value of an input that is the same for every sample.
#[derive(Debug, Clone, PartialEq)]
pub struct InputValue {
    /// The input's name.
    pub input: String,
    /// The value's own shape, if it has one; a list takes the shape that the model declares.
    pub shape: Option<Vec<usize>>,
    /// Elements, row-major; a single one fills the whole shape.
    pub values: Vec<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_axis_is_a_name_and_a_number() {
        let axis = |text: &str| {
            text.parse::<BatchAxis>().map(|a| (a.input, a.axis)).map_err(|e| e.to_string())
        };
        assert_eq!(axis("state=1").unwrap(), ("state".into(), Some(1)));
        assert_eq!(axis("a=b=0").unwrap(), ("a=b".into(), Some(0)));
        assert_eq!(axis("temp=none").unwrap(), ("temp".into(), None));
        for text in ["state", "=1", "state=-1", "state=first", "state="] {
            assert!(axis(text).unwrap_err().contains("expected INPUT=N"), "{text}");
        }
    }
}
