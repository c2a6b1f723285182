//! How many rows, bytes and seconds a run takes, estimated before it starts; refused when the disk
//! cannot hold it.

use crate::error::{Error, Result};
use crate::machine::free_disk;
use std::path::Path;

/// The expected size of the whole cache.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Estimate {
    rows: usize,
    /// Bytes on disk.
    bytes: u64,
    /// Features and logits as raw f32, inputs as they are.
    pub(super) raw_bytes: u64,
    /// Rows and time of the first batch.
    measured: (usize, f64),
}

impl Estimate {
    /// From the first batch's inference time and rows.
    pub(super) fn new(seconds: f64, rows: usize) -> Self {
        Self { rows, bytes: 0, raw_bytes: 0, measured: (rows, seconds) }
    }

    /// Adds an array's share of the first batch: bytes on disk and raw.
    pub(super) fn add_array(&mut self, encoded: usize, raw: usize) {
        self.bytes += encoded as u64;
        self.raw_bytes += raw as u64;
    }

    /// Scales from the first batch to the rows of all views.
    pub(super) fn scale_to(&mut self, rows: usize) {
        let scale = |bytes: u64| {
            let scaled = u128::from(bytes) * rows as u128 / self.measured.0.max(1) as u128;
            u64::try_from(scaled).unwrap_or(u64::MAX)
        };
        (self.bytes, self.raw_bytes) = (scale(self.bytes), scale(self.raw_bytes));
        self.rows = rows;
    }

    /// One line for the user about the `rows` rows still to compute.
    #[allow(clippy::cast_precision_loss, reason = "an estimate for people")]
    pub(super) fn describe(&self, rows: usize) -> String {
        let share = rows as f64 / self.rows.max(1) as f64;
        let seconds = self.measured.1 / self.measured.0.max(1) as f64 * rows as f64;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive share of a u64"
        )]
        let bytes = (self.bytes as f64 * share) as u64;
        format!(
            "{rows} rows to compute: about {} on disk, {}",
            human_bytes(bytes),
            human_time(seconds)
        )
    }

    /// # Errors
    /// When the folder's file system has less room than the missing rows take.
    pub(super) fn refuse_what_cannot_fit(&self, folder: &Path) -> Result<()> {
        let Some(free) = free_disk(folder) else { return Ok(()) };
        let missing = self.bytes.saturating_sub(folder_bytes(folder));
        if missing > free {
            return Err(Error::input(format!(
                "{}: expected about {} of free disk for {} rows, found {}",
                folder.display(),
                human_bytes(missing),
                self.rows,
                human_bytes(free)
            ))
            .hint(
                "keep fewer taps (--tap), pool them (--tap TENSOR@HxW), take fewer samples \
                 (--limit), or write elsewhere (-o)",
            ));
        }
        Ok(())
    }
}

/// Bytes of the files under `folder`; what cannot be read counts as 0.
fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// `12.3 MB`, in decimal units.
#[allow(clippy::cast_precision_loss, reason = "three digits for people")]
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 99.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// `40 s`, `12 min`, `3.5 h`.
fn human_time(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{} s", s.ceil()),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(999), "999 B");
        assert_eq!(human_bytes(1000), "1.0 kB");
        assert_eq!(human_bytes(12_345_678), "12.3 MB");
        assert_eq!(human_bytes(999_999), "1.0 MB");
        assert_eq!(human_bytes(u64::MAX), "18447 PB");
        assert_eq!(human_time(0.2), "1 s");
        assert_eq!(human_time(600.0), "10 min");
    }

    #[test]
    fn what_cannot_fit_is_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a/b");
        let mut estimate = Estimate::new(1.0, 10);
        estimate.add_array(500, 2000);
        estimate.scale_to(100);
        assert_eq!((estimate.bytes, estimate.raw_bytes), (5000, 20_000));
        estimate.refuse_what_cannot_fit(&target).unwrap();
        estimate.bytes = u64::MAX;
        let error = estimate.refuse_what_cannot_fit(&target).unwrap_err();
        assert!(error.to_string().contains("free disk for 100 rows"), "{error}");
        assert!(error.find_hint().is_some_and(|h| h.contains("--limit")));
        assert!(!target.exists());
    }
}
