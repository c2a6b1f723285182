//! A watcher that ends a run.

use nst_cache::monitor::Monitor;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Asks to stop once so many samples are done.
pub struct StopAfter {
    limit: usize,
    done: AtomicUsize,
}

impl StopAfter {
    pub fn new(limit: usize) -> Self {
        Self { limit, done: AtomicUsize::new(0) }
    }
}

impl Monitor for StopAfter {
    fn begin(&self, _: &str, _: &'static str, _: u64, _: u64) {}
    fn advance(&self, units: u64, _: u64) {
        self.done.fetch_add(usize::try_from(units).unwrap(), Ordering::SeqCst);
    }
    fn status(&self, _: &str) {}
    fn end(&self) {}
    fn note(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn stop_requested(&self) -> bool {
        self.done.load(Ordering::SeqCst) >= self.limit
    }
}
