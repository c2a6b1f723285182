//! Blocks of samples that are read ahead while a model runs.

use crate::error::{Context as _, Error, Result};
use crate::monitor::Monitor;
use crate::runtime::SessionOptions;
use crate::threads;
use std::ops::Range;

/// Most blocks that wait for the model.
const QUEUE: usize = 2;

/// The threads that decode, a quarter of all, and what is left for the models; with fewer than
/// four, decoding shares the models' cores.
///
/// # Errors
/// If the system refuses the threads.
pub(super) fn split(options: &SessionOptions) -> Result<(rayon::ThreadPool, SessionOptions)> {
    let decoders = options.threads / 4;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(decoders.max(1))
        .build()
        .context(|| "decoding threads cannot be started".to_owned())?;
    let threads = options.threads - decoders;
    Ok((pool, SessionOptions { device: options.device, threads }))
}

/// Reads `total` samples in blocks, on `pool` and ahead, and hands each block to `take`.
///
/// # Errors
/// When a block cannot be read or taken, or the user asks to stop.
pub(super) fn pump<B: Send>(
    (stage, total, block): (&str, usize, usize),
    pool: &rayon::ThreadPool,
    monitor: &dyn Monitor,
    read: impl Fn(Range<usize>) -> Result<B> + Sync,
    mut take: impl FnMut(B) -> Result<()>,
) -> Result<()> {
    monitor.begin(stage, "images", total as u64, 0);
    let (sender, receiver) = crossbeam_channel::bounded(QUEUE);
    std::thread::scope(|scope| {
        let read = &read;
        threads::start(scope, move || {
            for start in (0..total).step_by(block.max(1)) {
                let rows = start..total.min(start + block);
                let count = rows.len();
                let read = pool.install(|| read(rows));
                let is_last = read.is_err();
                // the receiver is dropped when inference fails
                if sender.send(read.map(|read| (count, read))).is_err() || is_last {
                    return;
                }
            }
        })?;
        // moved in, so that an early return drops it and the reader stops
        for read in receiver {
            if monitor.stop_requested() {
                return Err(Error::interrupted("stopped before the end; nothing was measured"));
            }
            let (count, read) = read?;
            take(read)?;
            monitor.advance(count as u64, 0);
        }
        Ok(())
    })?;
    monitor.end();
    Ok(())
}
