//! The flags for feeding a model's inputs.

use crate::data;
use crate::error::{Context, Error, Result};
use crate::onnx::{BatchAxis, Feeding, InputValue};
use std::path::Path;

/// The batch axes of inputs.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct BatchAxisArgs {
    /// Batch axis of an input, counted from 0; none if the input is the same for all samples
    /// (repeat for more) [default: by the symbols of the declared shapes]
    #[arg(long, value_name = "INPUT=N")]
    batch_axis: Vec<BatchAxis>,
}

impl BatchAxisArgs {
    /// The flags as settings.
    pub(super) fn feeding(&self) -> Feeding {
        Feeding { batch_axes: self.batch_axis.clone(), values: Vec::new() }
    }
}

/// Batch axes, and values of inputs that the data does not feed.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct FeedArgs {
    #[command(flatten)]
    axes: BatchAxisArgs,
    /// One value for all samples of an input that the data does not feed: a number, a
    /// comma-separated list or @FILE.npy (repeat for more)
    #[arg(long = "input", value_name = "NAME=VALUE")]
    values: Vec<String>,
}

impl FeedArgs {
    /// The flags as settings.
    ///
    /// # Errors
    /// If a value is not a number, a list or a file of numbers.
    pub(super) fn feeding(&self) -> Result<Feeding> {
        let values = self.values.iter().map(|text| value(text)).collect::<Result<_>>()?;
        Ok(Feeding { values, ..self.axes.feeding() })
    }
}

/// Parses `NAME=1`, `NAME=1,2,3` or `NAME=@FILE.npy`.
fn value(text: &str) -> Result<InputValue> {
    let wrong = || {
        Error::input(format!(
            "--input {text}: expected NAME=VALUE, VALUE a number, a comma-separated list \
             or @FILE.npy"
        ))
    };
    if let Some((input, file)) = text.split_once("=@") {
        let (shape, values) =
            data::numbers(Path::new(file)).context(|| format!("--input {input}"))?;
        return Ok(InputValue { input: input.to_owned(), shape: Some(shape), values });
    }
    let (input, list) =
        text.rsplit_once('=').filter(|(input, _)| !input.is_empty()).ok_or_else(wrong)?;
    let number = |text: &str| match text.trim() {
        "true" => Ok(1.0),
        "false" => Ok(0.0),
        other => other.parse::<f64>().ok().filter(|number| number.is_finite()).ok_or_else(wrong),
    };
    Ok(InputValue {
        input: input.to_owned(),
        shape: None,
        values: list.split(',').map(number).collect::<Result<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_a_number_a_list_or_a_file() {
        let read = |text: &str| value(text).map(|v| (v.input, v.values)).map_err(|e| e.chain());
        assert_eq!(read("temp=0.5").unwrap(), ("temp".into(), vec![0.5]));
        assert_eq!(read("a=b=-1, 2,true").unwrap(), ("a=b".into(), vec![-1.0, 2.0, 1.0]));
        for text in ["temp", "temp=", "=1", "temp=one", "temp=1,,2", "temp=inf"] {
            assert!(read(text).unwrap_err().contains("expected NAME=VALUE"), "{text}");
        }
        assert!(read("temp=@/nowhere.npy").unwrap_err().contains("/nowhere.npy"));
    }
}
