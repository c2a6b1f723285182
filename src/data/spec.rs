//! Where samples come from: `folder:DIR`, `idx:DIR`, `cifar10:DIR`, `cifar100:DIR`, `npz:FILE`,
//! `fashion-mnist`, or a bare path.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, str::FromStr};

/// How a data set is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataFormat {
    /// One folder per class, or a `.tar`/`.tar.gz`/`.zip` of such a folder, or a flat folder
    /// without labels.
    Folder,
    /// MNIST's IDX files, plain or gzipped.
    Idx,
    /// CIFAR-10's binary version.
    Cifar10,
    /// CIFAR-100's binary version (fine labels).
    Cifar100,
    /// NumPy arrays named like the model's inputs, optionally with `labels`.
    Npz,
    /// The embedded subset of Fashion-MNIST.
    FashionMnist,
}

impl DataFormat {
    const PREFIXES: [(&'static str, DataFormat); 5] = [
        ("folder:", DataFormat::Folder),
        ("idx:", DataFormat::Idx),
        ("cifar10:", DataFormat::Cifar10),
        ("cifar100:", DataFormat::Cifar100),
        ("npz:", DataFormat::Npz),
    ];
}

/// A data set as the user named it. `format` is `None` for a bare path, whose content decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSpec {
    /// The format, if it was named.
    pub format: Option<DataFormat>,
    /// The file or folder (empty for the embedded set).
    pub path: PathBuf,
}

impl FromStr for DataSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "fashion-mnist" {
            return Ok(Self { format: Some(DataFormat::FashionMnist), path: PathBuf::new() });
        }
        let (format, path) = DataFormat::PREFIXES
            .iter()
            .find_map(|&(prefix, format)| {
                text.strip_prefix(prefix).map(|rest| (Some(format), rest))
            })
            .unwrap_or((None, text));
        if path.is_empty() {
            return Err(Error::input(format!("data `{text}`: expected a path, found none")).hint(
                "write folder:DIR, idx:DIR, cifar10:DIR, cifar100:DIR, npz:FILE or fashion-mnist",
            ));
        }
        Ok(Self { format, path: PathBuf::from(path) })
    }
}

impl fmt::Display for DataSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.format == Some(DataFormat::FashionMnist) {
            return f.write_str("fashion-mnist");
        }
        let prefix =
            DataFormat::PREFIXES.iter().find(|p| Some(p.1) == self.format).map_or("", |p| p.0);
        write!(f, "{prefix}{}", self.path.display())
    }
}

impl<'de> Deserialize<'de> for DataSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for DataSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which samples of a data set a run uses: the first `limit` (all if `None`), after a shuffle if
/// its seed is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Take {
    /// Most samples to use.
    pub limit: Option<usize>,
    /// Seed of the shuffle.
    pub shuffle: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_written_as_it_was_read() {
        for text in [
            "folder:a/b",
            "idx:d",
            "cifar10:/d",
            "cifar100:d",
            "npz:x.npz",
            "fashion-mnist",
            "some/path.tar.gz",
            "./fashion-mnist",
        ] {
            assert_eq!(text.parse::<DataSpec>().unwrap().to_string(), text);
        }
        assert_eq!("cifar100:d".parse::<DataSpec>().unwrap().format, Some(DataFormat::Cifar100));
        assert_eq!("d".parse::<DataSpec>().unwrap().format, None);
        for text in ["", "idx:"] {
            assert!(text.parse::<DataSpec>().unwrap_err().to_string().contains("expected a path"));
        }
    }
}
