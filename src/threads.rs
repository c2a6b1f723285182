//! Threads, which the system may refuse: because of a process limit, or for lack of memory.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// Most threads that wait for a disk at once.
const MOST: usize = 16;

/// Starts a thread within `scope`.
///
/// # Errors
/// If the system refuses it.
pub fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    body: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().spawn_scoped(scope, body).map_err(refused)
}

/// The error for a thread that the system refuses.
pub fn refused(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::input("the system refuses another thread").because(error).hint(
        "raise the limit on processes (ulimit -u, or a container's pids limit), or use fewer \
         --threads",
    )
}

/// Checks that the system grants `count` threads at once, before calling a library that waits
/// forever if it gets fewer.
///
/// # Errors
/// If the system refuses one.
/// When the system refuses one.
pub fn afford(count: usize) -> Result<()> {
    let (release, wait) = crossbeam_channel::bounded::<()>(0);
    std::thread::scope(|scope| {
        // dropped on every way out, which ends all of the threads
        let _release = release;
        for _ in 0..count {
            let wait = wait.clone();
            start(scope, move || wait.recv().unwrap_or_default())?;
        }
        Ok(())
    })
}

/// Calls `body` on up to `count` threads at once, including this one; on this one alone if the
/// system refuses more.
pub fn share(count: usize, body: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 1..count {
            // this thread does what is left
            if Builder::new().spawn_scoped(scope, &body).is_err() {
                break;
            }
        }
        body();
    });
}

/// Calls `action` for all items, on up to 16 threads at once: they wait for the disk, which flushes
/// concurrent syncs together (in a tenth of the time that they take one after another). The first
/// item's error wins.
///
/// # Errors
/// Those of `action`.
pub fn at_once<T: Sync>(items: &[T], action: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failed = std::sync::Mutex::new(Vec::new());
    share(items.len().min(MOST), || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { break };
            if let Err(error) = action(item) {
                failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((at, error));
            }
        }
    });
    let failed = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    failed.into_iter().min_by_key(|(at, _)| *at).map_or(Ok(()), |(_, error)| Err(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_taken_and_the_first_error_wins() {
        let items: Vec<usize> = (0..100).collect();
        let seen = AtomicUsize::new(0);
        let result = at_once(&items, |&item| {
            seen.fetch_add(1, Ordering::Relaxed);
            if item % 30 == 7 { Err(Error::input(item.to_string())) } else { Ok(()) }
        });
        assert_eq!(result.unwrap_err().to_string(), "7");
        assert_eq!(seen.into_inner(), 100);
        at_once(&[] as &[usize], |_| Ok(())).unwrap();
    }
}
