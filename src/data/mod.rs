//! Data sets: samples by index, labels, class names, a fingerprint; one file a format. Every byte read here is hostile.
//!
//! Image data sets stay on disk and are read sample by sample, so that memory does not grow with them; the small binary formats
//! (IDX, CIFAR) are held whole, after their sizes were checked.

pub mod augment;
pub mod preprocess;

mod cifar;
mod fashion_mnist;
mod fingerprint;
mod folder;
mod geometry;
mod idx;
mod image;
mod jpeg;
mod listing;
mod memory;
mod npy;
mod npz;
mod random;
mod resample;
mod spool;
mod subset;
mod tar;

pub use random::shuffle;
pub use subset::{Subset, subset, take};

use crate::array::Array;
use crate::error::{Context, Error, Result};
use crate::monitor::Monitor;
use crate::recipe::{DataFormat, DataSpec};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The [orientation](Image::orientation) of a picture that is not to be turned.
pub const UPRIGHT: u8 = 1;

/// A decoded image: 8-bit, rows of pixels of 1 (grey) or 3 (RGB) channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// 1 or 3.
    pub channels: usize,
    /// `[height, width, channels]`, row-major.
    pub pixels: Vec<u8>,
    /// How the file says that the picture is to be turned: EXIF 2.32's tag 0x0112, 1 to 8.
    pub orientation: u8,
}

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub enum Sample {
    /// An image, to be preprocessed.
    Image(Image),
    /// Arrays by input name, without the batch axis, fed as they are.
    Arrays(Vec<(String, Array)>),
}

/// What identifies a data set's content: a resume and a training run compare it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// The layout.
    pub format: DataFormat,
    /// Samples in the whole split (before any limit).
    pub samples: usize,
    /// SHA-256 over every file's path relative to the root and size, in canonical order (and over small index files' bytes).
    pub listing_sha256: String,
}

/// A data set open for reading; samples are numbered in a canonical order that depends on content alone (byte order of paths).
pub trait Dataset: Send + Sync {
    /// How many samples there are.
    fn len(&self) -> usize;
    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads and decodes one sample. Called from many threads at once.
    ///
    /// # Errors
    /// Names the file (or row) and what is wrong with it.
    fn sample(&self, index: usize) -> Result<Sample>;
    /// The label, −1 for an unlabelled sample.
    fn label(&self, index: usize) -> i64;
    /// The sample's name in messages: the path inside the data set, or `row 17`.
    fn name(&self, index: usize) -> String;
    /// Class names in label order; empty when there are none.
    fn classes(&self) -> &[String];
    /// What identifies the content.
    fn fingerprint(&self) -> &Fingerprint;
    /// Height and width of an image from its header alone; `None` for a sample that is no readable image.
    fn image_size(&self, index: usize) -> Option<[usize; 2]>;
}

/// Opens a split. A bare path is recognised by what is there.
///
/// - A folder, or a tar of one: its subfolder of the split's name if it is divided into splits (see [`DataFormat::Folder`]); a source
///   that is not divided is taken whole for `train`, `test` and `val` alike, since then the path itself says which part it is.
/// - npz: not divided either, taken whole.
/// - IDX and Fashion-MNIST: `train`, or `test` (the `t10k` files). CIFAR: `train` or `test`.
///
/// `monitor` sees a compressed archive being unpacked, and may stop that.
///
/// # Errors
/// When nothing is there, it is no known layout, it has no such split, it holds no sample, or a file is damaged.
pub fn open(spec: &DataSpec, split: &str, monitor: &dyn Monitor) -> Result<Box<dyn Dataset>> {
    let path = spec.path.as_path();
    let format = match spec.format {
        Some(format) => format,
        None => recognise(path)?,
    };
    let dataset: Box<dyn Dataset> = match format {
        DataFormat::Folder if exists(path)?.is_file() => Box::new(tar::open(path, split, monitor)?),
        DataFormat::Folder => Box::new(folder::open(path, split)?),
        DataFormat::Idx => Box::new(idx::open(path, split)?),
        DataFormat::Cifar10 => Box::new(cifar::open(cifar::Version::Cifar10, path, split)?),
        DataFormat::Cifar100 => Box::new(cifar::open(cifar::Version::Cifar100, path, split)?),
        DataFormat::Npz => Box::new(npz::open(path, split)?),
        DataFormat::FashionMnist => Box::new(fashion_mnist::open(split)?),
    };
    if dataset.is_empty() {
        return Err(Error::input(format!("data {spec}: expected at least one sample, found none")));
    }
    Ok(dataset)
}

/// The size that all images have, judged by the headers of up to 32 of them, spread over the data set; `None` where they differ or are no images.
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
        let error = Error::input(format!("data {}: cannot be read", path.display())).because(e);
        error.hint("a data set is folder:DIR, idx:DIR, cifar10:DIR, cifar100:DIR, npz:FILE, fashion-mnist or a path to one of them")
    })
}

/// The layout of what lies at a bare path.
fn recognise(path: &Path) -> Result<DataFormat> {
    if exists(path)?.is_dir() {
        let holds = |name: &str| path.join(name).exists();
        return Ok(if idx::is_there(path)? {
            DataFormat::Idx
        } else if holds("data_batch_1.bin") || holds("cifar-10-batches-bin") {
            DataFormat::Cifar10
        } else if (holds("train.bin") && holds("fine_label_names.txt")) || holds("cifar-100-binary") {
            DataFormat::Cifar100
        } else {
            DataFormat::Folder
        });
    }
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let ends = |suffixes: &[&str]| suffixes.iter().any(|s| name.ends_with(s));
    if ends(&[".npz"]) {
        Ok(DataFormat::Npz)
    } else if ends(&[".tar", ".tar.gz", ".tgz"]) {
        Ok(DataFormat::Folder)
    } else {
        Err(Error::input(format!("data {}: expected a folder, .tar, .tar.gz, .tgz or .npz, found another file", path.display())))
    }
}

/// The file's name, and its error when it cannot be opened.
fn open_file(path: &Path) -> Result<(std::fs::File, u64)> {
    let message = || format!("{}: cannot be read", path.display());
    let file = std::fs::File::open(path).context(message)?;
    let length = file.metadata().context(message)?.len();
    Ok((file, length))
}

/// The split of a format that has `train` and `test` alone: whether it is `test`.
fn is_test(what: &str, split: &str) -> Result<bool> {
    match split {
        "train" => Ok(false),
        "test" => Ok(true),
        other => Err(Error::input(format!("data {what}: expected split train or test, found `{other}`"))),
    }
}

#[cfg(test)]
mod tests;
