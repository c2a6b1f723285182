//! What a long run reports to its observer, and how it is asked to stop. The command line draws
//! progress bars; tests listen or stay silent.

/// The observer of a long run.
pub trait Monitor: Sync {
    /// A stage begins: of `total` units, an earlier run has completed `done`.
    fn begin(&self, stage: &str, unit: &'static str, total: u64, done: u64);
    /// `units` more are done, for which `bytes` more were written or read.
    fn advance(&self, units: u64, bytes: u64);
    /// Sets a short text beside the progress bar (the current loss, the bytes on disk).
    fn status(&self, text: &str);
    /// The stage ends.
    fn end(&self);
    /// Shows a line that the user should read.
    fn note(&self, text: &str);
    /// Shows a line that the user should act on.
    fn warn(&self, text: &str);
    /// Whether the user asked to stop: finish the current unit of commit, save, and return
    /// [`Error::interrupted`](crate::error::Error::interrupted).
    fn stop_requested(&self) -> bool;
}

/// A monitor that shows nothing and never stops a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn begin(&self, _: &str, _: &'static str, _: u64, _: u64) {}
    fn advance(&self, _: u64, _: u64) {}
    fn status(&self, _: &str) {}
    fn end(&self) {}
    fn note(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn stop_requested(&self) -> bool {
        false
    }
}

/// `1234567` → `1,234,567`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
