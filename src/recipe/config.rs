//! `nst-cache.toml` in the working folder: defaults for flags, and named students. Library paths
//! are never read from it.

use super::toml_file;
use crate::data::{DataSpec, PreprocessOptions};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path, path::PathBuf};

/// A named student of `[students]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StudentEntry {
    /// A preset's name or an `.onnx` file.
    pub model: String,
    /// Recipe file for its training.
    pub recipe: Option<PathBuf>,
    /// Cache to train it from.
    pub cache: Option<PathBuf>,
}

/// The working folder's defaults.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Config {
    /// Default for `--data`.
    pub data: Option<DataSpec>,
    /// Default for `--split` of `extract` and `train`.
    pub split: Option<String>,
    /// Default for `--cache` and for `extract -o`.
    pub cache: Option<PathBuf>,
    /// Default for `--threads`.
    pub threads: Option<usize>,
    /// Default preprocessing.
    pub preprocess: PreprocessOptions,
    /// Students by name.
    pub students: BTreeMap<String, StudentEntry>,
}

impl Config {
    /// The file's name.
    pub const FILE: &'static str = "nst-cache.toml";

    /// Reads `nst-cache.toml` in `folder`; all defaults if there is none.
    ///
    /// # Errors
    /// When the file exists but cannot be read, is not TOML, or has an unknown key.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(Self::FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => {
                return Err(Error::input(format!("{}: cannot be read", path.display())).because(e));
            }
        };
        toml_file::parse(&path.display().to_string(), &text)
    }
}
