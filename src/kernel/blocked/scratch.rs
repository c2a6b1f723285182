//! Scratch memory that each thread keeps from call to call: page faults and clearing of fresh
//! memory took longer than the arithmetic of the 512-channel weight gradients.

use super::Lanes;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// What a buffer is for; a thread keeps one of each, so that their sizes converge.
#[derive(Clone, Copy)]
pub(super) enum Use {
    /// Packed or transformed input.
    Input,
    /// Packed or transformed gradient.
    Gradient,
    /// Products before their output transform.
    Product,
    /// Weights, packed or transformed.
    Weight,
    /// Sums of the weight gradient.
    Sums,
    /// One padded plane.
    Plane,
    /// Shared by all tasks of a call.
    Shared,
    /// Shared by all tasks of a call as well.
    SharedGradient,
    /// A plain map converted to blocks.
    PlainInput,
    /// A map to be converted to a plain one.
    PlainOutput,
}

const USES: usize = 10;
/// Larger buffers (64 MiB) are freed after the call.
const KEPT: usize = 1 << 20;

thread_local! {
    static KEEP: RefCell<[Vec<Lanes>; USES]> = const { RefCell::new([const { Vec::new() }; USES]) };
}

/// A buffer of this thread with arbitrary content, returned when dropped. If it is taken twice (a
/// thread that waits may run another task), the second one is fresh.
pub(super) struct Scratch {
    buffer: Vec<Lanes>,
    len: usize,
    which: usize,
}

impl Scratch {
    /// A buffer of `len` elements.
    pub(super) fn take(which: Use, len: usize) -> Self {
        let which = which as usize;
        let mut buffer = KEEP.with_borrow_mut(|keep| std::mem::take(&mut keep[which]));
        if buffer.len() < len {
            buffer = vec![Lanes::ZERO; len];
        }
        Self { buffer, len, which }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        if buffer.len() <= KEPT {
            // a thread that is ending has freed its buffers already
            let _ = KEEP.try_with(|keep| {
                let kept = &mut keep.borrow_mut()[self.which];
                if kept.len() < buffer.len() {
                    *kept = buffer;
                }
            });
        }
    }
}

impl Deref for Scratch {
    type Target = [Lanes];
    fn deref(&self) -> &[Lanes] {
        &self.buffer[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [Lanes] {
        &mut self.buffer[..self.len]
    }
}
