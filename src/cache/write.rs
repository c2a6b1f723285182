//! Writing a cache: lock, resume check, segments streamed into temporary shards, published by rename, committed by the manifest.

use super::Manifest;
use crate::error::Result;
use std::path::Path;

/// What a cache is to become: a manifest without segments, and the row arrays' values.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Everything but `segments` (empty).
    pub manifest: Manifest,
    /// `sample_id`: index in the data set, in row order.
    pub sample_ids: Vec<i64>,
    /// `label`, −1 unlabelled, in row order.
    pub labels: Vec<i64>,
}

/// A cache open for writing, under an exclusive file lock.
#[derive(Debug)]
pub struct Writer {
    _todo: (),
}

impl Writer {
    /// Creates the cache, or resumes one whose manifest (but for segments and the teacher's top-1) is the same; sweeps temporary files of an
    /// interrupted run.
    ///
    /// # Errors
    /// When the folder holds a cache of other settings (names the first difference), another writer holds the lock, the folder holds something else,
    /// or nothing can be written.
    pub fn open(_folder: &Path, _plan: &Plan) -> Result<Self> {
        todo!("helper: cache")
    }

    /// The manifest as committed.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        todo!("helper: cache")
    }

    /// Whether a segment is published.
    #[must_use]
    pub fn has(&self, _view: usize, _segment: usize) -> bool {
        todo!("helper: cache")
    }

    /// Starts a segment: one temporary shard an array.
    ///
    /// # Errors
    /// When the files cannot be made.
    pub fn segment(&self, _view: usize, _segment: usize) -> Result<SegmentWriter> {
        todo!("helper: cache")
    }

    /// Publishes a finished segment: syncs and renames its shards, then commits the manifest that lists them.
    ///
    /// # Errors
    /// When rows are missing, or the disk refuses.
    pub fn publish(&mut self, _segment: SegmentWriter) -> Result<()> {
        todo!("helper: cache")
    }

    /// Records the teacher's accuracy over all rows (basis points) and commits.
    ///
    /// # Errors
    /// When the manifest cannot be written.
    pub fn finish(&mut self, _top1_basis_points: Option<u32>) -> Result<()> {
        todo!("helper: cache")
    }
}

/// A segment being written. Send: it may be filled on another thread.
#[derive(Debug)]
pub struct SegmentWriter {
    _todo: (),
}

impl SegmentWriter {
    /// Appends rows to one view array (index into `manifest.view_arrays`): `bytes` holds whole rows, little-endian. Chunks are compressed and
    /// written as they fill. Returns the bytes written to disk by this call.
    ///
    /// # Errors
    /// When `bytes` is not whole rows, the segment overflows, or the disk refuses.
    pub fn append(&mut self, _array: usize, _bytes: &[u8]) -> Result<u64> {
        todo!("helper: cache")
    }
}
