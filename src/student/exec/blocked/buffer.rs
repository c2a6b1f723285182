//! Memory of channel maps, reused from step to step: fresh pages would cost more than the
//! arithmetic on them.

use crate::kernel::blocked::Lanes;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// A buffer is reused for a map that fills at least one part in `SHARE` of it.
const SHARE: usize = 4;

/// Free buffers. A step takes and returns the same sizes as the one before, so their number
/// converges to the step's peak.
#[derive(Debug, Default)]
pub(in crate::student) struct Arena {
    free: Mutex<Vec<Vec<Lanes>>>,
}

impl Arena {
    /// A buffer of `len` elements with arbitrary content: the smallest free one that holds them.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |lanes: &Vec<Lanes>| lanes.len() >= len && lanes.len() / SHARE <= len;
        let best = free
            .iter()
            .enumerate()
            .filter(|(_, lanes)| fits(lanes))
            .min_by_key(|(_, lanes)| lanes.len())
            .map(|(i, _)| i);
        let lanes = if let Some(i) = best {
            free.swap_remove(i)
        } else {
            // the new buffer replaces one that is too small
            let small = free
                .iter()
                .enumerate()
                .filter(|(_, lanes)| lanes.len() < len)
                .max_by_key(|(_, lanes)| lanes.len())
                .map(|(i, _)| i);
            drop(small.map(|i| free.swap_remove(i)));
            vec![Lanes::ZERO; len]
        };
        Buffer { lanes, len, arena: self.clone() }
    }
}

/// A channel map's elements, returned to the arena when dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    lanes: Vec<Lanes>,
    len: usize,
    arena: Arc<Arena>,
}

impl Deref for Buffer {
    type Target = [Lanes];
    fn deref(&self) -> &[Lanes] {
        &self.lanes[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [Lanes] {
        &mut self.lanes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.arena
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(std::mem::take(&mut self.lanes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again() {
        let arena = Arc::new(Arena::default());
        let (a, b) = (arena.take(100), arena.take(10));
        let address = a.as_ptr();
        drop((a, b));
        let a = arena.take(80);
        assert_eq!((a.as_ptr(), a.len()), (address, 80));
        assert_ne!(arena.take(90).as_ptr(), address, "taken twice");
        assert!(arena.take(11).lanes.len() < 100, "a small map holds on to a large buffer");
    }
}
