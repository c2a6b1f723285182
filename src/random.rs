//! Random numbers that follow from a key alone: no two uses share a stream, so that nothing drawn
//! elsewhere, or before a resume, moves them.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The generator of a key: the seed, and what the numbers are drawn for.
pub(crate) fn keyed(key: [u64; 4]) -> ChaCha8Rng {
    let mut bytes = [0; 32];
    for (slot, word) in bytes.chunks_exact_mut(8).zip(key) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(bytes)
}

/// A whole number in `0..bound`, by the high half of a product: even to within 2⁻³² of the
/// bound.
#[allow(
    clippy::cast_possible_truncation,
    reason = "a 32-bit value times a 32-bit bound, shifted by 32, fits 32 bits"
)]
pub(crate) fn below(random: &mut ChaCha8Rng, bound: u32) -> u32 {
    ((u64::from(random.next_u32()) * u64::from(bound)) >> 32) as u32
}

/// Puts the items in a random order (Fisher and Yates); our own, so that no library's next version
/// changes the order of a run.
pub(crate) fn shuffle<T>(items: &mut [T], random: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        // the high half of a 64×64-bit product is uniform in 0..=last but for a bias of
        // 2⁻⁶⁴·last
        #[allow(clippy::cast_possible_truncation, reason = "the high half is at most `last`")]
        let chosen = ((u128::from(random.next_u64()) * (last as u128 + 1)) >> 64) as usize;
        items.swap(last, chosen);
    }
}

/// FNV-1a of some bytes: a stream's number from its name.
pub(crate) fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_a_key_counts() {
        let first = |key| keyed(key).next_u64();
        let keys = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0; 4]];
        let drawn: std::collections::BTreeSet<u64> = keys.into_iter().map(first).collect();
        assert_eq!(drawn.len(), keys.len());
        assert_eq!(first([7; 4]), first([7; 4]));
    }

    #[test]
    fn names_hash_as_published() {
        // draft-eastlake-fnv, test vectors
        assert_eq!(fnv1a(*b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(*b"foobar"), 0x8594_4171_f739_67e8);
    }
}
