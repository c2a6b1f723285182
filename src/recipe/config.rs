//! `nst-cache.toml` in the working folder: defaults for flags, and students by name. Library paths
//! are never read from it.

use super::toml_file;
use crate::data::{DataSpec, PreprocessOptions};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path, path::PathBuf};

/// A student named in `[students]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StudentEntry {
    /// A preset's name or an `.onnx` file.
    pub model: String,
    /// Recipe file of its training.
    pub recipe: Option<PathBuf>,
    /// Cache it trains from.
    pub cache: Option<PathBuf>,
}

/// The working folder's defaults.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Config {
    /// Default of `--data`.
    pub data: Option<DataSpec>,
    /// Default of `--split` of `extract` and `train`.
    pub split: Option<String>,
    /// Default of `--cache` and of `extract -o`.
    pub cache: Option<PathBuf>,
    /// Default of `--threads`.
    pub threads: Option<usize>,
    /// Default preprocessing.
    pub preprocess: PreprocessOptions,
    /// Students by name.
    pub students: BTreeMap<String, StudentEntry>,
}

impl Config {
    /// The file's name.
    pub const FILE: &'static str = "nst-cache.toml";

    /// Reads `nst-cache.toml` of `folder`; all defaults when there is none.
    ///
    /// # Errors
    /// When the file is there but cannot be read, is not TOML, or has an unknown key.
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
