//! Checks everything a cache promises: manifest and its checksum, every zarr.json against the manifest, every shard's checksum, index, chunks,
//! finite values, stray files.

use crate::error::Result;
use crate::monitor::Monitor;
use serde::Serialize;
use std::path::Path;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file, relative to the cache.
    pub file: String,
    /// Rows concerned, `first..end` within the view, if it is about rows.
    pub rows: Option<(usize, usize)>,
    /// What is wrong.
    pub problem: String,
}

/// What a verification saw.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// Files read.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks decoded.
    pub chunks: usize,
    /// Whether every segment is published.
    pub complete: bool,
    /// What is wrong; empty for a sound cache.
    pub findings: Vec<Finding>,
}

/// Reads and checks the whole cache on `threads` threads.
///
/// # Errors
/// When the folder is no cache or its manifest cannot be used at all; everything else is a [`Finding`].
pub fn verify(_folder: &Path, _threads: usize, _monitor: &dyn Monitor) -> Result<VerifyReport> {
    todo!("helper: cache")
}
