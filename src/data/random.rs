//! The generator behind augmentation and shuffling: ChaCha8, keyed by the seed and by its use, so
//! that no two uses share a stream.

use crate::random;
pub(super) use crate::random::below;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;
use std::collections::HashMap;

/// The generator for one use.
pub(super) fn generator(seed: u64, usage: [u8; 8]) -> ChaCha8Rng {
    keyed(seed, usage, 0, 0)
}

/// The generator for one use, sample and view: its own stream, so that other draws do not affect
/// it.
pub(super) fn keyed(seed: u64, usage: [u8; 8], sample: u64, view: u64) -> ChaCha8Rng {
    random::keyed([seed, u64::from_le_bytes(usage), sample, view])
}

/// A number in (0, 1): the middle of one of 2⁵² equal parts, so neither end is ever drawn.
#[allow(clippy::cast_precision_loss, reason = "52 bits and a half are exact in f64")]
pub(super) fn unit(rng: &mut ChaCha8Rng) -> f64 {
    ((rng.next_u64() >> 12) as f64 + 0.5) / (1u64 << 52) as f64
}

/// A number in `low..high`.
pub(super) fn uniform(rng: &mut ChaCha8Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * unit(rng)
}

/// A number from Beta(α, α): algorithm BA of Cheng (1978, doi:10.1145/359460.359482), in
/// logarithms so that a small α does not overflow.
pub(super) fn beta(rng: &mut ChaCha8Rng, alpha: f64) -> f64 {
    let slope = if alpha <= 1.0 {
        alpha.recip()
    } else {
        ((2.0 * alpha - 2.0) / (2.0 * alpha * alpha - 2.0 * alpha)).sqrt()
    };
    let gamma = alpha + slope.recip();
    loop {
        let (u1, u2) = (unit(rng), unit(rng));
        let v = slope * (u1 / (1.0 - u1)).ln();
        // W = α·exp(V); the draw W / (α + W) is the logistic function of V
        let log_sum = alpha.ln() + v.max(0.0) + (-v.abs()).exp().ln_1p();
        let log_ratio = 2.0 * alpha * ((2.0 * alpha).ln() - log_sum) + gamma * v - 4f64.ln();
        if log_ratio >= 2.0 * u1.ln() + u2.ln() {
            return (1.0 + (-v).exp()).recip();
        }
    }
}

/// The element at `position` of a random order of `0..count`: the first steps of a Fisher–Yates
/// shuffle, storing only the elements that moved.
pub(super) fn permuted(rng: &mut ChaCha8Rng, count: u32, position: u32) -> u32 {
    let mut moved = HashMap::new();
    let mut taken = 0;
    for place in 0..=position.min(count.saturating_sub(1)) {
        let chosen = place + below(rng, count - place);
        let here = moved.get(&place).copied().unwrap_or(place);
        taken = moved.insert(chosen, here).unwrap_or(chosen);
    }
    taken
}

/// Shuffles the elements; the same seed gives the same order forever.
pub fn shuffle<T>(items: &mut [T], seed: u64) {
    random::shuffle(items, &mut generator(seed, *b"shuffle\0"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::cast_precision_loss, reason = "counts")]
    fn beta_has_the_moments_of_its_distribution() {
        const DRAWS: usize = 20_000;
        let mut rng = generator(1, *b"test\0\0\0\0");
        for alpha in [0.01, 0.2, 1.0, 4.0, 100.0] {
            let draws: Vec<f64> = (0..DRAWS).map(|_| beta(&mut rng, alpha)).collect();
            assert!(draws.iter().all(|x| (0.0..=1.0).contains(x)));
            let moment = |power: i32| {
                draws.iter().map(|x| (x - 0.5).powi(power)).sum::<f64>() / DRAWS as f64
            };
            // variance 1/(4(2α+1)), fourth central moment 3/(16(2α+1)(2α+3))
            let variance = 0.25 / (2.0 * alpha + 1.0);
            let fourth = 3.0 / (16.0 * (2.0 * alpha + 1.0) * (2.0 * alpha + 3.0));
            assert!(
                moment(1).abs() < 4.0 * (variance / DRAWS as f64).sqrt(),
                "{alpha}: mean {}",
                moment(1)
            );
            assert!((moment(2) / variance - 1.0).abs() < 0.05, "{alpha}: variance {}", moment(2));
            assert!(
                (moment(4) / fourth - 1.0).abs() < 0.12,
                "{alpha}: fourth moment {}",
                moment(4)
            );
        }
    }

    #[test]
    fn positions_of_one_order_are_all_there() {
        let at =
            |sample, position| permuted(&mut keyed(3, *b"test\0\0\0\0", sample, 0), 20, position);
        let order = |sample| (0..20).map(|p| at(sample, p)).collect::<Vec<_>>();
        let mut sorted = order(1);
        assert_ne!(sorted, order(2));
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
        assert_eq!(permuted(&mut generator(0, [0; 8]), 1, 0), 0);
    }
}
