//! What a long run tells whoever watches it, and how it is asked to stop. The command line draws
//! bars; tests listen or stay silent.

/// The watcher of a long run.
pub trait Monitor: Sync {
    /// A stage begins: `total` units are to be done, `done` of them were done by an earlier run.
    fn begin(&self, stage: &str, unit: &'static str, total: u64, done: u64);
    /// `units` more are done, and `bytes` more were written or read for them.
    fn advance(&self, units: u64, bytes: u64);
    /// A short text beside the bar (the current loss, the bytes on disk).
    fn status(&self, text: &str);
    /// The stage is over.
    fn end(&self);
    /// A line that the user should read.
    fn note(&self, text: &str);
    /// A line that the user should act on.
    fn warn(&self, text: &str);
    /// Whether the user asked to stop: finish the unit of commit at hand, save, and return
    /// [`Error::interrupted`](crate::error::Error::interrupted).
    fn stop_requested(&self) -> bool;
}

/// A watcher that says nothing and never stops.
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
