//! Data set → preprocess → teacher → statistic → shards, as an overlapped pipeline with bounded queues. Never names the student.

use crate::error::Result;
use crate::monitor::Monitor;
use crate::recipe::Extract;
use crate::runtime::{Runtime, SessionOptions};
use serde::Serialize;

/// What an extraction did.
#[derive(Debug, Clone, Serialize)]
pub struct ExtractReport {
    /// Rows of the cache.
    pub rows: usize,
    /// Rows that this run computed (the others were there).
    pub computed: usize,
    /// Bytes of all shards.
    pub bytes: u64,
    /// The same features and logits as raw f32, and inputs as bytes.
    pub raw_bytes: u64,
    /// Wall time of this run.
    pub seconds: f64,
    /// The teacher's top-1 in percent, where there are labels.
    pub teacher_top1: Option<f64>,
    /// Unreadable samples left out.
    pub skipped: usize,
}

/// Runs the recipe; resumes where an earlier run stopped.
///
/// # Errors
/// Everything in the issue of bad input: names file, tap, sample and what to do.
pub fn run(_recipe: &Extract, _runtime: &Runtime, _session: &SessionOptions, _monitor: &dyn Monitor) -> Result<ExtractReport> {
    todo!("helper: extract")
}
