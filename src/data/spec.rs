//! Where samples come from: `folder:DIR`, `wds:SHARDS`, `parquet:FILES`, `csv:FILE`, `idx:DIR`,
//! `cifar10:DIR`, `cifar100:DIR`, `npz:FILE`, `fashion-mnist`, or a bare path.

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
    /// `WebDataset` shards.
    Wds,
    /// Parquet files of encoded images, as Hugging Face's data sets are.
    Parquet,
    /// A table of image files and labels, `.csv` or `.tsv`.
    Csv,
    /// MNIST's IDX files, plain or gzipped.
    Idx,
    /// CIFAR-10's binary or Python version.
    Cifar10,
    /// CIFAR-100's binary or Python version (fine labels).
    Cifar100,
    /// NumPy arrays named like the model's inputs, optionally with `labels`.
    Npz,
    /// The embedded subset of Fashion-MNIST.
    FashionMnist,
}

impl DataFormat {
    const PREFIXES: [(&'static str, DataFormat); 8] = [
        ("folder:", DataFormat::Folder),
        ("wds:", DataFormat::Wds),
        ("parquet:", DataFormat::Parquet),
        ("csv:", DataFormat::Csv),
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
    /// Columns of a table that the user named.
    pub columns: Columns,
}

/// Columns of a Parquet file or a table, written behind its path: `#image=COLUMN,label=COLUMN`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Columns {
    /// The column of images, or of their paths.
    pub image: Option<String>,
    /// The column of labels.
    pub label: Option<String>,
}

impl Columns {
    /// A path and the columns behind it; a `#` that no column follows is part of the path.
    fn split(text: &str) -> Result<(&str, Self)> {
        let mut columns = Self::default();
        let is_column = |text: &str| text.starts_with("image=") || text.starts_with("label=");
        let Some((path, named)) = text.rsplit_once('#').filter(|(_, named)| is_column(named))
        else {
            return Ok((text, columns));
        };
        for pair in named.split(',') {
            let place = match pair.split_once('=') {
                Some(("image", name)) => Some((&mut columns.image, name)),
                Some(("label", name)) => Some((&mut columns.label, name)),
                _ => None,
            };
            match place {
                Some((column, name)) if column.is_none() && !name.is_empty() => {
                    *column = Some(name.to_owned());
                }
                _ => {
                    return Err(Error::input(format!(
                        "data `{text}`: expected #image=COLUMN,label=COLUMN behind the path, found \
                         `{pair}`"
                    )));
                }
            }
        }
        Ok((path, columns))
    }
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [("image", &self.image), ("label", &self.label)];
        let named = named.iter().filter_map(|(key, name)| Some((key, name.as_ref()?)));
        for (place, (key, name)) in named.enumerate() {
            write!(f, "{}{key}={name}", if place == 0 { '#' } else { ',' })?;
        }
        Ok(())
    }
}

impl FromStr for DataSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "fashion-mnist" {
            let format = Some(DataFormat::FashionMnist);
            return Ok(Self { format, path: PathBuf::new(), columns: Columns::default() });
        }
        let (format, path) = DataFormat::PREFIXES
            .iter()
            .find_map(|&(prefix, format)| {
                text.strip_prefix(prefix).map(|rest| (Some(format), rest))
            })
            .unwrap_or((None, text));
        let (path, columns) = match format {
            None | Some(DataFormat::Parquet | DataFormat::Csv) => Columns::split(path)?,
            Some(_) => (path, Columns::default()),
        };
        if path.is_empty() {
            return Err(Error::input(format!("data `{text}`: expected a path, found none")).hint(
                "write folder:DIR, wds:SHARDS, parquet:FILES, csv:FILE, idx:DIR, cifar10:DIR, \
                 cifar100:DIR, npz:FILE or fashion-mnist",
            ));
        }
        Ok(Self { format, path: PathBuf::from(path), columns })
    }
}

impl fmt::Display for DataSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.format == Some(DataFormat::FashionMnist) {
            return f.write_str("fashion-mnist");
        }
        let prefix =
            DataFormat::PREFIXES.iter().find(|p| Some(p.1) == self.format).map_or("", |p| p.0);
        write!(f, "{prefix}{}{}", self.path.display(), self.columns)
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
            "wds:a/x-{00..17}.tar",
            "parquet:a/data",
            "parquet:a.parquet#image=img,label=fine_label",
            "csv:a/x.csv#label=y",
            "x.csv#image=a b",
            "a#b/c",
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
        for (text, path, label) in [("csv:a#b#label=y", "a#b", Some("y")), ("csv:a#b", "a#b", None)]
        {
            let spec: DataSpec = text.parse().unwrap();
            assert_eq!((spec.path.to_str(), spec.columns.label.as_deref()), (Some(path), label));
        }
        for text in ["csv:a#label=", "parquet:a#label=b,label=c", "parquet:a#image=b,split=c"] {
            let error = text.parse::<DataSpec>().unwrap_err().to_string();
            assert!(error.contains("expected #image=COLUMN,label=COLUMN"), "{error}");
        }
        assert_eq!("cifar100:d".parse::<DataSpec>().unwrap().format, Some(DataFormat::Cifar100));
        assert_eq!("d".parse::<DataSpec>().unwrap().format, None);
        for text in ["", "idx:"] {
            assert!(text.parse::<DataSpec>().unwrap_err().to_string().contains("expected a path"));
        }
    }
}
