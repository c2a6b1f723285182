//! Data sets: samples by index, labels, class names, and a fingerprint; one file per format. Every
//! byte read here is hostile.
//!
//! Image data sets stay on disk and are read sample by sample, so memory use does not grow with
//! them. The small binary formats (IDX, CIFAR) are held in memory whole, once their sizes are
//! checked.

pub mod augment;
pub mod preprocess;

mod archive;
mod augmentation;
mod braces;
mod cifar;
mod content;
mod csv;
mod describe;
mod fashion_mnist;
mod fingerprint;
mod folder;
mod geometry;
mod idx;
mod image;
mod jpeg;
mod labels;
mod layout;
mod left_out;
mod listing;
mod memory;
mod names;
mod npy;
mod npz;
mod parquet;
mod pickle;
mod preprocessing;
mod random;
mod relabeled;
mod resample;
mod section;
mod shards;
mod spec;
mod split;
mod spool;
mod subset;
mod tar;
mod trace;
mod tree;
mod wds;
mod zip;

pub use augmentation::{Augment, Augmentation, ColorJitter, ViewCount};
pub use describe::{describe, describe_labels};
pub use preprocessing::{Channels, Interpolation, Preprocess, PreprocessOptions, preset};
pub use random::shuffle;
pub use relabeled::{are_names, places, relabeled};
pub use spec::{Columns, DataFormat, DataSpec, Take};
pub use subset::{Subset, subset, take};
pub use trace::{ContentHash, Stamp, Trace, Witness, hashed_names};

use crate::array::Array;
use crate::error::{Context, Error, Result};
use crate::monitor::Monitor;
use crate::onnx::Value;
use content::Content;
use serde::{Deserialize, Serialize};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The [orientation](Image::orientation) of a picture that needs no turning.
pub const UPRIGHT: u8 = 1;

/// A decoded image: 8-bit, rows of pixels with 1 (gray) or 3 (RGB) channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// 1 (gray) or 3 (RGB).
    pub channels: usize,
    /// `[height, width, channels]`, row-major.
    pub pixels: Vec<u8>,
    /// EXIF orientation (EXIF 2.32, tag 0x0112), 1 to 8.
    pub orientation: u8,
}

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub enum Sample {
    /// An image that is still to be preprocessed.
    Image(Image),
    /// Arrays by input name, without the batch axis, fed unchanged.
    Arrays(Vec<(String, Array)>),
}

/// Identifies a data set's content; resumes and training runs compare it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// How the data set is laid out.
    pub format: DataFormat,
    /// Samples in the whole split, before any limit.
    pub samples: usize,
    /// SHA-256 over each file's size and path relative to the root, in canonical order, and over
    /// the bytes of small index files.
    pub listing_sha256: String,
}

/// An open data set. Samples are numbered in a canonical order that depends on content alone (byte
/// order of paths).
pub trait Dataset: Send + Sync {
    /// The number of samples.
    fn len(&self) -> usize;
    /// Whether there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads and decodes one sample. Called from many threads at once.
    ///
    /// # Errors
    /// Names the file (or row) and what is wrong with it.
    fn sample(&self, index: usize) -> Result<Sample>;
    /// The label, or −1 if the sample is unlabeled.
    fn label(&self, index: usize) -> i64;
    /// The sample's name in messages: its path inside the data set, or `row 17`.
    fn name(&self, index: usize) -> String;
    /// Class names in label order; empty if unknown.
    fn classes(&self) -> &[String];
    /// Identifies the content.
    fn fingerprint(&self) -> &Fingerprint;
    /// Height and width of an image, from its header alone; `None` if the sample is not a readable
    /// image.
    fn image_size(&self, index: usize) -> Option<[usize; 2]>;
    /// File metadata of a sample, for formats whose content can change under an unchanged
    /// fingerprint; otherwise `None`.
    ///
    /// # Errors
    /// If the file is missing.
    fn stamp(&self, _index: usize) -> Result<Option<Stamp>> {
        Ok(None)
    }
    /// The hash of the bytes that a sample is decoded from, if it has a stamp.
    ///
    /// # Errors
    /// If the bytes cannot be read.
    fn content(&self, _index: usize) -> Result<Option<ContentHash>> {
        Ok(None)
    }
    /// A sample and the hash of the very bytes it was decoded from.
    ///
    /// # Errors
    /// See [`Dataset::sample`].
    fn sample_and_content(&self, index: usize) -> Result<(Sample, Option<ContentHash>)> {
        Ok((self.sample(index)?, None))
    }
}

/// Opens a split. The format of a bare path is recognized by its content.
///
/// - A folder, or an archive of one: the subfolder named after the split if there are splits (see
///   [`DataFormat::Folder`]). Without splits the whole source serves as `train`, `test` or `val`,
///   since the path itself then names the part.
/// - npz: the split's arrays if their names tell (`x_train`, `test_images`), else all arrays; a
///   `.npy` file is one array.
/// - `WebDataset` and Parquet: all files that are named; of a folder, those with the split's word
///   in their names, if they have such words.
/// - Tables (`.csv`): the rows of the split, if there is a column `split`.
/// - IDX and Fashion-MNIST: `train` or `test` (the `t10k` files). CIFAR: `train` or `test`.
///
/// `monitor` sees the progress of unpacking a compressed archive and may stop it; it is told what
/// was guessed about a folder and what is left out.
///
/// # Errors
/// If nothing is found, the layout is unknown, the split is missing or empty, or a file is damaged.
pub fn open(spec: &DataSpec, split: &str, monitor: &dyn Monitor) -> Result<Box<dyn Dataset>> {
    open_as(spec, split, None, monitor)
}

/// Like [`open`], for a model. `inputs` are the model inputs that the data feeds: they decide which
/// arrays of an npz file are read, and whether bytes are images.
///
/// # Errors
/// See [`open`]; also if no array feeds an input.
pub fn open_for(
    spec: &DataSpec,
    split: &str,
    inputs: &[Value],
    monitor: &dyn Monitor,
) -> Result<Box<dyn Dataset>> {
    open_as(spec, split, Some(inputs), monitor)
}

fn open_as(
    spec: &DataSpec,
    split: &str,
    inputs: Option<&[Value]>,
    monitor: &dyn Monitor,
) -> Result<Box<dyn Dataset>> {
    let path = spec.path.as_path();
    let format = match spec.format {
        Some(format) => format,
        None => recognize(path, monitor)?,
    };
    if spec.columns != Columns::default()
        && !matches!(format, DataFormat::Parquet | DataFormat::Csv)
    {
        return Err(Error::input(format!(
            "data {spec}: expected columns of parquet: or csv:, found another format"
        )));
    }
    let dataset: Box<dyn Dataset> = match format {
        DataFormat::Folder if exists(path)?.is_file() => match content::of(path)? {
            Content::Tar => Box::new(tar::open(path, split, false, monitor)?),
            Content::Gzip => Box::new(tar::open(path, split, true, monitor)?),
            Content::Zip => Box::new(zip::open(path, split, monitor)?),
            other => return Err(content::refusal(path, other)),
        },
        DataFormat::Folder => {
            cifar::refuse_other_versions(path)?;
            Box::new(folder::open(path, split, monitor)?)
        }
        DataFormat::Idx => Box::new(idx::open(path, split)?),
        DataFormat::Cifar10 => Box::new(cifar::open(cifar::Version::Cifar10, path, split)?),
        DataFormat::Cifar100 => Box::new(cifar::open(cifar::Version::Cifar100, path, split)?),
        DataFormat::Npz => Box::new(npz::open(path, split, inputs, monitor)?),
        DataFormat::Wds => wds::open(path, split, monitor)?,
        DataFormat::Parquet => parquet::open(path, split, &spec.columns, monitor)?,
        DataFormat::Csv => Box::new(csv::open(path, split, &spec.columns, monitor)?),
        DataFormat::FashionMnist => Box::new(fashion_mnist::open(split)?),
    };
    if dataset.is_empty() {
        return Err(Error::input(format!("data {spec}: expected at least one sample, found none")));
    }
    Ok(dataset)
}

/// Reads a small `.npy` file: its shape and its elements as numbers.
///
/// # Errors
/// If it is not a `.npy` file, its elements are not numbers, or there are more than 65,536.
pub fn numbers(path: &Path) -> Result<(Vec<usize>, Vec<f64>)> {
    npy::numbers(path, 1 << 16)
}

/// The size that all images share, judged by the headers of up to 32 of them spread over the data
/// set; `None` if they differ or are not images.
#[must_use]
pub fn common_size(dataset: &dyn Dataset) -> Option<[usize; 2]> {
    const LOOKED_AT: usize = 32;
    let stride = dataset.len().div_ceil(LOOKED_AT).max(1);
    let mut sizes = (0..dataset.len()).step_by(stride).filter_map(|i| dataset.image_size(i));
    let first = sizes.next()?;
    sizes.all(|size| size == first).then_some(first)
}

fn exists(path: &Path) -> Result<std::fs::Metadata> {
    std::fs::metadata(path).map_err(|e| {
        let error =
            Error::input(format!("data {}: cannot be read", folder::shown_path(path))).because(e);
        error.hint(
            "a data set is folder:DIR, wds:SHARDS, parquet:FILES, csv:FILE, idx:DIR, cifar10:DIR, \
             cifar100:DIR, npz:FILE, fashion-mnist or a path to one of them",
        )
    })
}

/// The format of the data at a bare path; a format that is told by more than the kind of file is
/// said.
fn recognize(path: &Path, monitor: &dyn Monitor) -> Result<DataFormat> {
    if idx::is_named(path) {
        return Ok(DataFormat::Idx);
    }
    let say = |prefix: &str| {
        let name = folder::shown_path(path);
        monitor.note(&format!("data {name}: read as {prefix}:{name}"));
    };
    let braces = path.to_str().is_some_and(|text| !path.exists() && text.contains('{'));
    if braces {
        // which files it names tells the format
        let parquet = parquet::ENDINGS
            .iter()
            .any(|end| path.as_os_str().as_encoded_bytes().ends_with(end.as_bytes()));
        return Ok(if parquet { DataFormat::Parquet } else { DataFormat::Wds });
    }
    if exists(path)?.is_dir() {
        let format = recognize_folder(path)?;
        match format {
            DataFormat::Wds => say("wds"),
            DataFormat::Parquet => say("parquet"),
            _ => {}
        }
        return Ok(format);
    }
    let ends = |end: &str| {
        path.file_name().is_some_and(|name| name.to_string_lossy().to_lowercase().ends_with(end))
    };
    match content::of(path)? {
        _ if ends(".npy") => Ok(DataFormat::Npz),
        Content::Zip if ends(".npz") || zip::holds_arrays(path) => Ok(DataFormat::Npz),
        Content::Tar | Content::Gzip if wds::is_shard(path) => {
            say("wds");
            Ok(DataFormat::Wds)
        }
        Content::Tar | Content::Gzip | Content::Zip => Ok(DataFormat::Folder),
        Content::Parquet => Ok(DataFormat::Parquet),
        _ if csv::is_named(path) => Ok(DataFormat::Csv),
        // opening it reports what is wrong
        _ if ends(".npz") => Ok(DataFormat::Npz),
        other => Err(content::refusal(path, other)),
    }
}

/// The format of a folder, if exactly one fits.
fn recognize_folder(path: &Path) -> Result<DataFormat> {
    let mut found: Vec<(DataFormat, String)> = Vec::new();
    for sets in idx::sets(path)? {
        found.push((DataFormat::Idx, format!("idx:{sets}")));
    }
    for (version, prefix) in
        [(cifar::Version::Cifar10, "cifar10"), (cifar::Version::Cifar100, "cifar100")]
    {
        if version.is_there(path) || version.python(path).is_some() {
            found.push((version.format(), format!("{prefix}:{}", folder::shown_path(path))));
        }
    }
    if found.is_empty() {
        return recognize_files(path);
    }
    if folder::has_images(path)? {
        found.push((DataFormat::Folder, format!("folder:{}", folder::shown_path(path))));
    }
    if let [(format, _)] = found.as_slice() {
        return Ok(*format);
    }
    let names: Vec<_> = found.into_iter().map(|(_, name)| name).collect();
    Err(Error::input(format!(
        "data {}: expected one data set, found {}",
        folder::shown_path(path),
        names.join(", ")
    ))
    .hint("name the one you mean"))
}

/// The format of a folder by the files in it that are no images.
fn recognize_files(path: &Path) -> Result<DataFormat> {
    if folder::has_images(path)? {
        return Ok(DataFormat::Folder);
    }
    let parquet = shards::in_folder(path, &parquet::ENDINGS)?;
    let tars = shards::in_folder(path, &wds::ENDINGS)?;
    let first = tars.first().map(|first| path.join(std::ffi::OsStr::from_bytes(first)));
    let are_shards = first.is_some_and(|first| wds::is_shard(&first));
    match (parquet.is_empty(), are_shards) {
        (true, false) => Ok(DataFormat::Folder),
        (false, false) => Ok(DataFormat::Parquet),
        (true, true) => Ok(DataFormat::Wds),
        (false, true) => {
            let name = folder::shown_path(path);
            Err(Error::input(format!(
                "data {name}: expected one data set, found wds:{name}, parquet:{name}"
            ))
            .hint("name the one you mean"))
        }
    }
}

/// Opens a file; returns its length in bytes too.
fn open_file(path: &Path) -> Result<(std::fs::File, u64)> {
    let message = || format!("{}: cannot be read", path.display());
    let file = crate::storage::open(path).context(message)?;
    let length = file.metadata().context(message)?.len();
    Ok((file, length))
}

/// Whether the split is `test`, for formats that have only `train` and `test`.
fn is_test(what: &str, split: &str) -> Result<bool> {
    match split {
        "train" => Ok(false),
        "test" => Ok(true),
        other => {
            Err(Error::input(format!("data {what}: expected split train or test, found `{other}`")))
        }
    }
}

#[cfg(test)]
mod tests;
