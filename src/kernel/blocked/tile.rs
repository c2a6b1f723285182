//! The transforms of Winograd's minimal filtering (Lavin and Gray, "Fast Algorithms for
//! Convolutional Neural Networks", CVPR 2016).
//!
//! `F(MxM)` yields M x M outputs of a 3x3 filter from N x N inputs, N = M + 2, as
//! `Y = Aᵀ[(G g Gᵀ) ∘ (Bᵀ d B)]A`: N² products where the definition needs 9 M². Its
//! adjoint with respect to the filter is `dg = Gᵀ[(A dY Aᵀ) ∘ (Bᵀ d B)]G`: the weight
//! gradient takes the same points and one more transform. Each function here is one side of a
//! transform; [`both_ways`] applies it to columns, then rows.

use super::Lanes;
use super::simd::Isa;

/// The largest N.
pub(super) const MOST: usize = 6;

/// A line of a tile; entries past the transform's size are arbitrary.
pub(super) type Line<V> = [V; MOST];

/// One-dimensional transforms for M outputs.
pub(super) trait Tile: Copy + Send + Sync + std::fmt::Debug {
    /// Outputs each way.
    const M: usize;
    /// Inputs, and products, each way.
    const N: usize;
    const NAME: &'static str;
    /// `Bᵀ d`: N to N.
    fn input<I: Isa>(isa: I, d: &Line<I::V>) -> Line<I::V>;
    /// `Aᵀ m`: N to M.
    fn output<I: Isa>(isa: I, m: &Line<I::V>) -> Line<I::V>;
    /// `A y`, its adjoint: M to N.
    fn gradient<I: Isa>(isa: I, y: &Line<I::V>) -> Line<I::V>;
    /// `G g`: 3 to N.
    fn filter<I: Isa>(isa: I, g: &Line<I::V>) -> Line<I::V>;
    /// `Gᵀ d`, its adjoint: N to 3.
    fn filter_gradient<I: Isa>(isa: I, d: &Line<I::V>) -> Line<I::V>;
}

/// F(2x2), from the points 0, 1, -1 and infinity: exact except for the halves.
#[derive(Debug, Clone, Copy)]
pub(super) struct F2;

/// F(4x4), with the points 2 and -2 as well: fewer products, but larger constants and so more
/// rounding.
#[derive(Debug, Clone, Copy)]
pub(super) struct F4;

impl Tile for F2 {
    const M: usize = 2;
    const N: usize = 4;
    const NAME: &'static str = "F(2x2)";

    #[inline(always)]
    fn input<I: Isa>(isa: I, d: &Line<I::V>) -> Line<I::V> {
        [
            isa.sub(d[0], d[2]),
            isa.add(d[1], d[2]),
            isa.sub(d[2], d[1]),
            isa.sub(d[1], d[3]),
            d[0],
            d[0],
        ]
    }

    #[inline(always)]
    fn output<I: Isa>(isa: I, m: &Line<I::V>) -> Line<I::V> {
        let y0 = isa.add(m[0], isa.add(m[1], m[2]));
        let y1 = isa.sub(isa.sub(m[1], m[2]), m[3]);
        [y0, y1, m[0], m[0], m[0], m[0]]
    }

    #[inline(always)]
    fn gradient<I: Isa>(isa: I, y: &Line<I::V>) -> Line<I::V> {
        [y[0], isa.add(y[0], y[1]), isa.sub(y[0], y[1]), isa.sub(isa.splat(0.0), y[1]), y[0], y[0]]
    }

    #[inline(always)]
    fn filter<I: Isa>(isa: I, g: &Line<I::V>) -> Line<I::V> {
        let half = isa.splat(0.5);
        let (ends, middle) = (isa.mul(half, isa.add(g[0], g[2])), isa.mul(half, g[1]));
        [g[0], isa.add(ends, middle), isa.sub(ends, middle), g[2], g[0], g[0]]
    }

    #[inline(always)]
    fn filter_gradient<I: Isa>(isa: I, d: &Line<I::V>) -> Line<I::V> {
        let half = isa.splat(0.5);
        let (even, odd) = (isa.add(d[1], d[2]), isa.sub(d[1], d[2]));
        [isa.fma(half, even, d[0]), isa.mul(half, odd), isa.fma(half, even, d[3]), d[0], d[0], d[0]]
    }
}

impl Tile for F4 {
    const M: usize = 4;
    const N: usize = 6;
    const NAME: &'static str = "F(4x4)";

    #[inline(always)]
    fn input<I: Isa>(isa: I, d: &Line<I::V>) -> Line<I::V> {
        // the points ±1 share the sums of even and of odd positions, as do ±2
        let (even1, odd1) = (isa.scaled(-4.0, d[2], d[4]), isa.scaled(-4.0, d[1], d[3]));
        let (even2, odd2) = (isa.sub(d[4], d[2]), isa.sub(d[3], d[1]));
        [
            isa.scaled(4.0, d[0], isa.scaled(-5.0, d[2], d[4])),
            isa.add(even1, odd1),
            isa.sub(even1, odd1),
            isa.scaled(2.0, odd2, even2),
            isa.scaled(-2.0, odd2, even2),
            isa.scaled(4.0, d[1], isa.scaled(-5.0, d[3], d[5])),
        ]
    }

    #[inline(always)]
    fn output<I: Isa>(isa: I, m: &Line<I::V>) -> Line<I::V> {
        let (even1, odd1) = (isa.add(m[1], m[2]), isa.sub(m[1], m[2]));
        let (even2, odd2) = (isa.add(m[3], m[4]), isa.sub(m[3], m[4]));
        [
            isa.add(m[0], isa.add(even1, even2)),
            isa.scaled(2.0, odd2, odd1),
            isa.scaled(4.0, even2, even1),
            isa.add(m[5], isa.scaled(8.0, odd2, odd1)),
            m[0],
            m[0],
        ]
    }

    #[inline(always)]
    fn gradient<I: Isa>(isa: I, y: &Line<I::V>) -> Line<I::V> {
        let (even1, odd1) = (isa.add(y[0], y[2]), isa.add(y[1], y[3]));
        let (even2, odd2) = (isa.scaled(4.0, y[2], y[0]), isa.scaled(4.0, y[3], y[1]));
        [
            y[0],
            isa.add(even1, odd1),
            isa.sub(even1, odd1),
            isa.scaled(2.0, odd2, even2),
            isa.scaled(-2.0, odd2, even2),
            y[3],
        ]
    }

    #[inline(always)]
    fn filter<I: Isa>(isa: I, g: &Line<I::V>) -> Line<I::V> {
        let (sixth, quarter) = (isa.splat(-1.0 / 6.0), isa.splat(0.25));
        let (even1, odd1) = (isa.mul(sixth, isa.add(g[0], g[2])), isa.mul(sixth, g[1]));
        let even2 = isa.mul(isa.splat(1.0 / 6.0), isa.fma(quarter, g[0], g[2]));
        let odd2 = isa.mul(isa.splat(1.0 / 12.0), g[1]);
        [
            isa.mul(quarter, g[0]),
            isa.add(even1, odd1),
            isa.sub(even1, odd1),
            isa.add(even2, odd2),
            isa.sub(even2, odd2),
            g[2],
        ]
    }

    #[inline(always)]
    fn filter_gradient<I: Isa>(isa: I, d: &Line<I::V>) -> Line<I::V> {
        let (even1, odd1) = (isa.add(d[1], d[2]), isa.sub(d[1], d[2]));
        let (even2, odd2) = (isa.add(d[3], d[4]), isa.sub(d[3], d[4]));
        let (sixth, twelfth) = (isa.splat(-1.0 / 6.0), isa.splat(1.0 / 12.0));
        [
            isa.fma(
                isa.splat(0.25),
                d[0],
                isa.fma(sixth, even1, isa.mul(isa.splat(1.0 / 24.0), even2)),
            ),
            isa.fma(sixth, odd1, isa.mul(twelfth, odd2)),
            isa.fma(sixth, even1, isa.scaled(1.0 / 6.0, even2, d[5])),
            d[0],
            d[0],
            d[0],
        ]
    }
}

/// A transform of a tile: `sizes[0]` lines each way become `sizes[1]`. Element (r, c) is
/// `from[r * steps[0] + c * steps[1]]`.
#[inline(always)]
pub(super) fn both_ways<I: Isa>(
    isa: I,
    [before, after]: [usize; 2],
    from: &[Lanes],
    steps: [usize; 2],
    transform: impl Fn(&Line<I::V>) -> Line<I::V>,
    mut store: impl FnMut(usize, usize, I::V),
) {
    let mut half = [[isa.splat(0.0); MOST]; MOST];
    for c in 0..before {
        let mut line = [isa.splat(0.0); MOST];
        for r in 0..before {
            line[r] = isa.load(&from[r * steps[0] + c * steps[1]]);
        }
        let line = transform(&line);
        for r in 0..after {
            half[r][c] = line[r];
        }
    }
    for r in 0..after {
        let line = transform(&half[r]);
        for c in 0..after {
            store(r, c, line[c]);
        }
    }
}
