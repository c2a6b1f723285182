//! Random numbers as pure functions of (pass, node, position): nothing is drawn from a stream, so a
//! mask is the same for any number of threads, and can be drawn again in the backward pass.

/// The finalizer of `SplitMix64` (Steele et al. 2014): a bijection whose outputs pass for
/// independent.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What the numbers of a node in a pass are drawn by.
pub(super) fn key(seed: u64, number: u64) -> u64 {
    mix(seed ^ mix(number))
}

/// The number at a position, evenly from 0 to 1 (left out).
#[allow(clippy::cast_precision_loss, reason = "53 random bits are exact in a double")]
pub(super) fn uniform(key: u64, position: u64) -> f64 {
    (mix(key ^ mix(position)) >> 11) as f64 / (1u64 << 53) as f64
}

/// The number at a position from the standard normal distribution, by two even ones (Box and Muller
/// 1958).
pub(super) fn normal(key: u64, position: u64) -> f64 {
    let (first, second) = (position.wrapping_mul(2), position.wrapping_mul(2).wrapping_add(1));
    let radius = (-2.0 * (1.0 - uniform(key, first)).ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform(key, second)).cos()
}
