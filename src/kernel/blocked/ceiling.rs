//! The peak rates of the processor, for judging a measured step: multiply-adds from registers, and
//! bytes through memory.

use super::Lanes;
use super::simd::{Isa, Level, SimdKernel};
use rayon::prelude::*;
use std::time::{Duration, Instant};

/// Rates of all threads of the current pool together, each the best of several short runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceiling {
    /// Floating-point operations in units of 1e9 a second, in single precision; a multiply-add
    /// counts as two.
    pub gflop_s: f64,
    /// Bytes read and written in units of 1e9 a second, by sums of arrays far larger than the
    /// caches.
    pub gb_s: f64,
}

const RUNS: usize = 7;
/// Multiply-adds of an accumulator in a run; about 10 ms in all.
const ROUNDS: usize = 1 << 21;
/// Elements of each of three arrays: 64 MiB.
const ARRAY: usize = 1 << 20;

/// Measures; takes about half a second.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "counts of operations and bytes")]
pub fn measure() -> Ceiling {
    let level = Level::best();
    let arithmetic = || {
        let all = rayon::broadcast(|_| {
            let (mut operations, start) = (0, Instant::now());
            level.run(Peak { operations: &mut operations });
            operations as f64 / seconds(start.elapsed())
        });
        all.into_iter().sum::<f64>()
    };
    let (a, b, mut sum) =
        (vec![Lanes([1.0; 16]); ARRAY], vec![Lanes([2.0; 16]); ARRAY], vec![Lanes::ZERO; ARRAY]);
    let mut memory = || {
        let start = Instant::now();
        let parts =
            sum.par_chunks_mut(1 << 12).zip(a.par_chunks(1 << 12)).zip(b.par_chunks(1 << 12));
        parts.for_each(|((sum, a), b)| level.run(Triad { a, b, sum }));
        (3 * size_of::<Lanes>() * ARRAY) as f64 / seconds(start.elapsed())
    };
    let gb_s = best(&mut memory) / 1e9;
    Ceiling { gflop_s: best(arithmetic) / 1e9, gb_s }
}

fn best(f: impl FnMut() -> f64) -> f64 {
    std::iter::repeat_with(f).take(RUNS).fold(0.0, f64::max)
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64().max(1e-9)
}

struct Peak<'a> {
    operations: &'a mut usize,
}

impl SimdKernel for Peak<'_> {
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        // enough to hide the latency of a multiply-add, and few enough to stay in registers
        *self.operations = match I::ACCUMULATORS {
            12.. => chains::<I, 12>(isa),
            6..12 => chains::<I, 6>(isa),
            _ => chains::<I, 2>(isa),
        };
    }
}

/// Runs `N` chains side by side; gives the number of operations.
#[inline(always)]
fn chains<I: Isa, const N: usize>(isa: I) -> usize {
    let (factor, shift) =
        (isa.splat(std::hint::black_box(0.999)), isa.splat(std::hint::black_box(0.001)));
    let mut sums = [isa.splat(0.0); N];
    for _ in 0..ROUNDS {
        for i in 0..N {
            sums[i] = isa.fma(sums[i], factor, shift);
        }
    }
    for sum in sums {
        let mut lanes = Lanes::ZERO;
        isa.store(&mut lanes, sum);
        std::hint::black_box(lanes);
    }
    2 * super::LANES * N * ROUNDS
}

struct Triad<'a, 'b> {
    a: &'a [Lanes],
    b: &'a [Lanes],
    sum: &'b mut [Lanes],
}

impl SimdKernel for Triad<'_, '_> {
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for ((a, b), sum) in self.a.iter().zip(self.b).zip(self.sum) {
            isa.store(sum, isa.add(isa.load(a), isa.load(b)));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn rates_are_finite_and_positive() {
        let ceiling = super::measure();
        assert!(ceiling.gflop_s.is_finite() && ceiling.gflop_s > 0.1, "{ceiling:?}");
        assert!(ceiling.gb_s.is_finite() && ceiling.gb_s > 0.01, "{ceiling:?}");
    }
}
