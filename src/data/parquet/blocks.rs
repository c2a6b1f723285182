//! Blocks of a column's values in memory: each is decoded once for all threads that want it, and
//! the least recently used are dropped.

use crate::error::Result;
use parquet::data_type::ByteArray;
use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes of blocks that are kept.
const KEPT: usize = 256 << 20;

/// The values of consecutive rows; `None` where there is none.
pub(super) type Block = Arc<Vec<Option<ByteArray>>>;
/// A row group of the data set, and the block's number in it.
pub(super) type Key = (usize, usize);

/// A block, or what its readers wait for.
type Cell = Arc<Mutex<Option<Block>>>;

struct Slot {
    key: Key,
    /// When it was last asked for.
    used: u64,
    /// What it holds; 0 until it is decoded.
    bytes: usize,
    cell: Cell,
}

#[derive(Default)]
struct State {
    clock: u64,
    slots: Vec<Slot>,
}

/// The blocks in memory.
#[derive(Default)]
pub(super) struct Blocks(Mutex<State>);

impl Blocks {
    /// The block of a key, decoded if it is not there.
    ///
    /// # Errors
    /// Those of `decode`.
    pub(super) fn get(
        &self,
        key: Key,
        decode: impl FnOnce() -> Result<Vec<Option<ByteArray>>>,
    ) -> Result<Block> {
        let cell = self.cell(key);
        let mut content = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(block) = content.as_ref() {
            return Ok(Arc::clone(block));
        }
        let block = Arc::new(decode()?);
        *content = Some(Arc::clone(&block));
        drop(content);
        let bytes = block.iter().flatten().map(ByteArray::len).sum::<usize>()
            + block.len() * size_of::<Option<ByteArray>>();
        self.keep(key, bytes);
        Ok(block)
    }

    fn cell(&self, key: Key) -> Cell {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.clock += 1;
        let used = state.clock;
        if let Some(slot) = state.slots.iter_mut().find(|slot| slot.key == key) {
            slot.used = used;
            return Arc::clone(&slot.cell);
        }
        let cell = Cell::default();
        state.slots.push(Slot { key, used, bytes: 0, cell: Arc::clone(&cell) });
        cell
    }

    /// Records the size of a block and drops others until all fit.
    fn keep(&self, key: Key, bytes: usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = state.slots.iter_mut().find(|slot| slot.key == key) {
            slot.bytes = bytes;
        }
        let mut held: usize = state.slots.iter().map(|slot| slot.bytes).sum();
        while held > KEPT {
            let others =
                state.slots.iter().enumerate().filter(|(_, s)| s.key != key && s.bytes > 0);
            let Some((oldest, _)) = others.min_by_key(|(_, slot)| slot.used) else { return };
            held -= state.slots.swap_remove(oldest).bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn blocks_are_decoded_once_and_dropped_when_they_are_too_many() {
        let blocks = Blocks::default();
        let large = || Ok(vec![Some(ByteArray::from(vec![7; KEPT / 2])), None]);
        let unread = || Err(Error::input("decoded again"));
        assert_eq!(blocks.get((0, 0), large).unwrap().len(), 2);
        assert!(blocks.get((0, 0), unread).is_ok());
        blocks.get((0, 1), large).unwrap();
        assert!(blocks.get((0, 1), unread).is_ok() && blocks.get((0, 0), unread).is_err());
        // an error is not kept
        assert!(blocks.get((0, 0), large).is_ok());
        let counted = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    blocks.get((9, 9), || {
                        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        Ok(vec![None])
                    })
                });
            }
        });
        assert_eq!(counted.into_inner(), 1);
    }
}
