//! The generator behind augmentation and shuffling: ChaCha8, keyed by the seed and by what it is used for, so that no two uses share a stream.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The generator of one use.
pub(super) fn generator(seed: u64, usage: [u8; 8]) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&usage);
    ChaCha8Rng::from_seed(key)
}

/// A whole number in `0..bound`, by the high half of a product: even to within 2⁻³² of the bound.
#[allow(clippy::cast_possible_truncation, reason = "a 32-bit value times a 32-bit bound, shifted by 32, fits 32 bits")]
pub(super) fn below(rng: &mut ChaCha8Rng, bound: u32) -> u32 {
    ((u64::from(rng.next_u32()) * u64::from(bound)) >> 32) as u32
}

/// Puts the elements in a random order (Fisher and Yates), the same for the same seed for ever.
#[allow(clippy::cast_possible_truncation, reason = "the product's high half is below the bound, which is a usize")]
pub fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut rng = generator(seed, *b"shuffle\0");
    for last in (1..items.len()).rev() {
        let chosen = (u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64;
        items.swap(last, chosen as usize);
    }
}
