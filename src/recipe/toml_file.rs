//! Parsing of TOML files.

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;

/// Parses a file's content; `name` is the file's name in messages.
///
/// # Errors
/// A single line: the file, the line, and what is wrong there.
pub(super) fn parse<T: DeserializeOwned>(name: &str, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|e| describe(name, text, &e))
}

/// The error as a single line.
pub(super) fn describe(name: &str, text: &str, error: &toml::de::Error) -> Error {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before
        .map_or_else(String::new, |before| format!("line {}: ", before.matches('\n').count() + 1));
    Error::input(format!("{name}: {line}{}", error.message().replace('\n', ", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Config, Train};

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        let error = parse::<Train>("r.toml", "epochs = 3\n\nepochz = 4\n").unwrap_err().chain();
        assert!(
            error.starts_with("r.toml: line 3: unknown field `epochz`, expected one of `epochs`"),
            "{error}"
        );
        let error = parse::<Config>("nst-cache.toml", "data = [1,\n").unwrap_err().chain();
        assert!(error.starts_with("nst-cache.toml: line ") && !error.contains('\n'), "{error}");
        assert!(
            parse::<Config>("nst-cache.toml", "threads = \"two\"")
                .unwrap_err()
                .chain()
                .contains("line 1: invalid type")
        );
    }
}
