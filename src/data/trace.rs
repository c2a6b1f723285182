//! What a sample was read from: its file's metadata and the hash of its bytes.

use super::{Dataset, Sample};
use crate::data::spec::DataFormat;
use crate::error::Result;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

/// File metadata that changes when the file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Size in bytes.
    pub size: u64,
    /// Time of the last write, in nanoseconds since 1970.
    pub modified: i64,
    /// Inode number.
    pub inode: u64,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let modified =
            metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        Self { size: metadata.len(), modified, inode: metadata.ino() }
    }
}

/// The first 128 bits of a SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentHash(pub [u8; 16]);

impl ContentHash {
    /// Hashes bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).first_chunk().copied().unwrap_or_default())
    }
}

/// What a sample was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// The file's stamp before it was read.
    pub stamp: Stamp,
    /// The hash of the bytes that the sample was decoded from.
    pub content: ContentHash,
}

/// A hash of each sample's name, in the data set's order; empty if the fingerprint covers
/// everything that can change. Where names don't tell labels, the hash covers the label too, so
/// that a sample with another label is another sample.
///
/// # Errors
/// If the first sample's file is missing.
pub fn hashed_names(dataset: &dyn Dataset) -> Result<Vec<u64>> {
    if dataset.is_empty() || dataset.stamp(0)?.is_none() {
        return Ok(Vec::new());
    }
    let labeled_by_names = dataset.fingerprint().format == DataFormat::Folder;
    let hash = |index| {
        let mut name = dataset.name(index);
        if !labeled_by_names {
            let label = dataset.label(index);
            let class = usize::try_from(label).ok().and_then(|label| dataset.classes().get(label));
            name = format!("{name}\0{label}\0{}", class.map_or("", String::as_str));
        }
        let ContentHash([a, b, c, d, e, f, g, h, ..]) = ContentHash::of(name.as_bytes());
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    };
    Ok((0..dataset.len()).map(hash).collect())
}

/// Records what samples are read from.
#[derive(Debug, Default)]
pub struct Witness {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    traces: BTreeMap<usize, Trace>,
    /// Samples whose readings differ.
    torn: BTreeSet<usize>,
}

impl Witness {
    /// Reads a sample and records what it was read from.
    ///
    /// # Errors
    /// See [`Dataset::sample`].
    pub fn sample(&self, dataset: &dyn Dataset, index: usize) -> Result<Sample> {
        // before the bytes: a file that is written in between then no longer has the recorded stamp
        let stamp = dataset.stamp(index)?;
        let (sample, content) = dataset.sample_and_content(index)?;
        if let (Some(stamp), Some(content)) = (stamp, content) {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let before = seen.traces.insert(index, Trace { stamp, content });
            if before.is_some_and(|before| before.content != content) {
                seen.torn.insert(index);
            }
        }
        Ok(sample)
    }

    /// The readings since the last call, and the samples whose readings differ.
    pub fn take(&self) -> (Vec<(usize, Trace)>, Vec<usize>) {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        (seen.traces.into_iter().collect(), seen.torn.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Silent;

    /// A folder of two images of one size.
    fn images() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        write(folder.path(), "a/0.bmp", 1);
        write(folder.path(), "a/1.bmp", 2);
        folder
    }

    fn write(folder: &std::path::Path, name: &str, value: u8) {
        ::image::GrayImage::from_pixel(4, 4, ::image::Luma([value]))
            .save(folder.join(name))
            .unwrap();
    }

    fn open(path: &std::path::Path) -> Box<dyn Dataset> {
        super::super::open(&path.display().to_string().parse().unwrap(), "train", &Silent).unwrap()
    }

    #[test]
    fn a_reading_leaves_its_trace_and_one_of_other_bytes_is_told() {
        let folder = images();
        let (dataset, witness) = (open(folder.path()), Witness::default());
        witness.sample(dataset.as_ref(), 1).unwrap();
        witness.sample(dataset.as_ref(), 1).unwrap();
        let (traces, torn) = witness.take();
        let bytes = std::fs::read(folder.path().join("a/1.bmp")).unwrap();
        assert_eq!((traces.len(), traces[0].0, torn.len()), (1, 1, 0));
        assert_eq!(traces[0].1.content, ContentHash::of(&bytes));
        assert_eq!(traces[0].1.content, dataset.content(1).unwrap().unwrap());
        assert_eq!(
            (Some(traces[0].1.stamp), traces[0].1.stamp.size),
            (dataset.stamp(1).unwrap(), bytes.len() as u64)
        );
        assert_eq!(witness.take(), (Vec::new(), Vec::new()));

        witness.sample(dataset.as_ref(), 0).unwrap();
        write(folder.path(), "a/0.bmp", 7);
        witness.sample(dataset.as_ref(), 0).unwrap();
        assert_eq!(witness.take().1, [0]);
    }

    #[test]
    fn an_archive_bears_one_stamp_and_its_entries_the_hashes_of_their_files() {
        let folder = images();
        let archive = folder.path().join("images.tar");
        let mut builder = ::tar::Builder::new(std::fs::File::create(&archive).unwrap());
        builder.append_dir_all("a", folder.path().join("a")).unwrap();
        builder.finish().unwrap();
        let (packed, plain) = (open(&archive), open(folder.path()));
        for index in 0..2 {
            assert_eq!(packed.content(index).unwrap(), plain.content(index).unwrap());
            assert_eq!(
                packed.stamp(index).unwrap().unwrap(),
                Stamp::of(&std::fs::metadata(&archive).unwrap())
            );
        }
        assert_eq!(hashed_names(packed.as_ref()).unwrap(), hashed_names(plain.as_ref()).unwrap());
        let held = super::super::open(&"fashion-mnist".parse().unwrap(), "test", &Silent).unwrap();
        assert!(hashed_names(held.as_ref()).unwrap().is_empty());
    }
}
