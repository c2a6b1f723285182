//! Reading a cache: shards are memory-mapped, every index is checked at open, every chunk when it is decoded.

use super::{ArraySpec, Manifest};
use crate::error::Result;
use std::path::Path;

/// A cache open for reading, under a shared file lock. Share it between threads.
#[derive(Debug)]
pub struct Cache {
    _todo: (),
}

impl Cache {
    /// Opens a cache: manifest checksum, format version, every shard's length, index checksum, ranges and lengths.
    ///
    /// # Errors
    /// When it is no cache, incomplete (says how to complete it), damaged (names the file), of a newer format, or being written.
    pub fn open(_folder: &Path) -> Result<Self> {
        todo!("helper: cache")
    }

    /// What it is made of.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        todo!("helper: cache")
    }

    /// The index of each row's sample in the data set.
    #[must_use]
    pub fn sample_ids(&self) -> &[i64] {
        todo!("helper: cache")
    }

    /// The label of each row, −1 unlabelled.
    #[must_use]
    pub fn labels(&self) -> &[i64] {
        todo!("helper: cache")
    }

    /// A view array by path.
    ///
    /// # Errors
    /// When there is none (lists those there are).
    pub fn array(&self, _path: &str) -> Result<ArrayReader<'_>> {
        todo!("helper: cache")
    }
}

/// One array over `[view, row, …]`.
#[derive(Debug, Clone, Copy)]
pub struct ArrayReader<'a> {
    _todo: &'a (),
}

impl ArrayReader<'_> {
    /// Its specification.
    #[must_use]
    pub fn spec(&self) -> &ArraySpec {
        todo!("helper: cache")
    }

    /// Asks the kernel to read the pages that hold rows `first..first+rows` of a view ahead.
    pub fn prefetch(&self, _view: usize, _first: usize, _rows: usize) {
        todo!("helper: cache")
    }

    /// Decodes rows `first..first+rows` of a view into `out` (cleared first), little-endian bytes; `decoder` is reused by one thread.
    ///
    /// # Errors
    /// When the rows are outside the view, or a chunk is damaged (names file, rows).
    pub fn read(&self, _decoder: &mut Decoder, _view: usize, _first: usize, _rows: usize, _out: &mut Vec<u8>) -> Result<()> {
        todo!("helper: cache")
    }
}

/// Buffers and the zstd context of one reading thread.
#[derive(Debug, Default)]
pub struct Decoder {
    _todo: (),
}
