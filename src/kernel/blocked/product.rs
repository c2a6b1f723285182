//! The two inner kernels of all convolutions here.
//!
//! [`Product`]: each output pixel's vectors of channels are sums of broadcast inputs times weight
//! vectors. [`Outer`]: each weight's vector is a sum over pixels of a broadcast input times an
//! output gradient. Direct convolutions run them on pixels, Winograd's on tiles.
//!
//! A register block of R rows by NB vectors needs R + NB loads for R * NB products; there must be
//! fewer loads than products, and at least 8 sums to hide the latency of an FMA.

use super::simd::{Isa, Level, SimdKernel};
use super::{LANES, Lanes};

/// The initial value of the sums.
#[derive(Clone, Copy)]
pub(super) enum Base<'a> {
    Zero,
    /// One vector per block of output channels.
    Bias(&'a [Lanes]),
    /// The content of the output.
    Output,
}

/// A rectangle of output positions and its place in the output planes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// The output element of position (0, 0).
    pub(super) first: usize,
    /// Output elements from row to row and from column to column.
    pub(super) step: [usize; 2],
}

/// `out[j][r, c] = base + Σ over blocks b, taps t, channels k of x[b * block + t + r * pitch +
/// c].k * weight[b][t][k][j]`.
///
/// # Shapes
/// `x`: planes of `block` elements, rows of `pitch`; `weight`: `[blocks, taps, 16, out]`; `out`:
/// `chunk` planes of `plane` elements, [`Level::chunk`] or fewer.
pub(super) struct Product<'a, 'b> {
    pub(super) x: &'a [Lanes],
    pub(super) block: usize,
    pub(super) blocks: usize,
    pub(super) pitch: usize,
    pub(super) taps: &'a [usize],
    pub(super) weight: &'a [Lanes],
    pub(super) base: Base<'a>,
    pub(super) area: Area,
    pub(super) out: &'b mut [Lanes],
    /// Elements from one output plane to the next.
    pub(super) plane: usize,
    /// How many output planes.
    pub(super) chunk: usize,
    /// Taps of sixteen channels that are added up before the sum goes to the output: rounding
    /// errors of a chain of additions grow with its length.
    pub(super) chain: usize,
}

impl Product<'_, '_> {
    /// Runs it.
    pub(super) fn go(self, level: Level) {
        level.run(self);
    }

    /// One row of positions, cut into nearly equal register blocks.
    #[inline(always)]
    fn row<I: Isa, const NB: usize>(&mut self, isa: I, row: usize) {
        let most = const { if I::ACCUMULATORS / NB > 14 { 16 / NB } else { I::ACCUMULATORS / NB } };
        let pieces = self.area.columns.div_ceil(most);
        let (size, longer) = (self.area.columns / pieces, self.area.columns % pieces);
        let mut column = 0;
        for piece in 0..pieces {
            let size = size + usize::from(piece < longer);
            self.block::<I, NB>(isa, row, column, size);
            column += size;
        }
    }

    #[inline(always)]
    fn block<I: Isa, const NB: usize>(&mut self, isa: I, row: usize, column: usize, size: usize) {
        /// Only sizes that fit the registers are compiled.
        macro_rules! sizes {
            ($($r:literal)*) => {
                match size {
                    $($r if $r * NB <= I::ACCUMULATORS => {
                        self.tile::<I, $r, NB>(isa, row, column);
                    })*
                    _ => unreachable!("pieces are within the register block"),
                }
            };
        }
        sizes!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
    }

    #[inline(always)]
    fn tile<I: Isa, const R: usize, const NB: usize>(&mut self, isa: I, row: usize, column: usize) {
        let at = row * self.pitch + column;
        let to = self.area.first + row * self.area.step[0] + column * self.area.step[1];
        let (x, taps, plane, step) = (self.x, self.taps, self.plane, self.area.step[1]);
        let (weight, _) = self.weight.as_chunks::<NB>();
        let (weight, _) = weight.as_chunks::<LANES>();
        let all = self.blocks * taps.len();
        let mut base = self.base;
        let (mut first, mut block, mut tap) = (0, 0, 0);
        loop {
            let end = (first + self.chain).min(all);
            let mut sums = [[isa.splat(0.0); NB]; R];
            for weight in &weight[first..end] {
                let x = &x[block * self.block + taps[tap] + at..][..R];
                tap += 1;
                if tap == taps.len() {
                    (block, tap) = (block + 1, 0);
                }
                for (k, weight) in weight.iter().enumerate() {
                    for r in 0..R {
                        let x = isa.splat(x[r].0[k]);
                        for j in 0..NB {
                            sums[r][j] = isa.fma(x, isa.load(&weight[j]), sums[r][j]);
                        }
                    }
                }
            }
            // The sums stay in registers only if every index to them is a constant, so loops over
            // them must be small enough to be unrolled.
            if matches!(base, Base::Zero) && step == 1 {
                for j in 0..NB {
                    let out = &mut self.out[j * plane + to..][..R];
                    for r in 0..R {
                        isa.store(&mut out[r], sums[r][j]);
                    }
                }
            } else {
                let mut done = [[Lanes::ZERO; R]; NB];
                for r in 0..R {
                    for j in 0..NB {
                        isa.store(&mut done[j][r], sums[r][j]);
                    }
                }
                for (j, done) in done.iter().enumerate() {
                    let bias = if let Base::Bias(bias) = base { bias[j] } else { Lanes::ZERO };
                    for (done, out) in
                        done.iter().zip(self.out[j * plane + to..].iter_mut().step_by(step))
                    {
                        let other = if matches!(base, Base::Output) {
                            isa.load(out)
                        } else {
                            isa.load(&bias)
                        };
                        isa.store(out, isa.add(other, isa.load(done)));
                    }
                }
            }
            if end == all {
                break;
            }
            base = Base::Output;
            first = end;
        }
    }
}

impl SimdKernel for Product<'_, '_> {
    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        if self.area.columns == 0 {
            return;
        }
        for row in 0..self.area.rows {
            if I::ACCUMULATORS >= 16 && self.chunk == 2 {
                self.row::<I, 2>(isa, row);
            } else {
                self.row::<I, 1>(isa, row);
            }
        }
    }
}

/// `sums[t][c][j] (+)= Σ over rows r, columns i of x[t + r * x_pitch + i].c * dz[j * plane + r *
/// dz_pitch + i]`.
///
/// # Shapes
/// `x`: one plane of sixteen input channels; `dz`: `chunk` planes of `plane` elements; `sums`:
/// `[taps, 16, chunk]`.
pub(super) struct Outer<'a, 'b> {
    pub(super) x: &'a [Lanes],
    pub(super) x_pitch: usize,
    pub(super) taps: &'a [usize],
    pub(super) dz: &'a [Lanes],
    pub(super) plane: usize,
    pub(super) dz_pitch: usize,
    pub(super) chunk: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Whether to add to the content of `sums`.
    pub(super) add: bool,
    pub(super) sums: &'b mut [Lanes],
}

impl Outer<'_, '_> {
    /// Runs it.
    pub(super) fn go(self, level: Level) {
        level.run(self);
    }

    /// Sixteen channels, R at a time.
    #[inline(always)]
    fn tap<I: Isa, const R: usize, const NB: usize>(&mut self, isa: I, index: usize) {
        let (groups, _) =
            self.sums[index * LANES * NB..(index + 1) * LANES * NB].as_chunks_mut::<NB>();
        for (group, out) in groups.chunks_exact_mut(R).enumerate() {
            let mut sums = [[isa.splat(0.0); NB]; R];
            for row in 0..self.rows {
                let from = self.taps[index] + row * self.x_pitch;
                let x = &self.x[from..from + self.columns];
                let dz: [&[Lanes]; NB] = std::array::from_fn(
                    #[inline(always)]
                    |j| &self.dz[j * self.plane + row * self.dz_pitch..][..self.columns],
                );
                for i in 0..self.columns {
                    for c in 0..R {
                        let x = isa.splat(x[i].0[group * R + c]);
                        for j in 0..NB {
                            sums[c][j] = isa.fma(x, isa.load(&dz[j][i]), sums[c][j]);
                        }
                    }
                }
            }
            for c in 0..R {
                for j in 0..NB {
                    let out = &mut out[c][j];
                    let sum =
                        if self.add { isa.add(isa.load(out), sums[c][j]) } else { sums[c][j] };
                    isa.store(out, sum);
                }
            }
        }
    }
}

impl SimdKernel for Outer<'_, '_> {
    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        for index in 0..self.taps.len() {
            if I::ACCUMULATORS >= 16 {
                if self.chunk == 2 {
                    self.tap::<I, 8, 2>(isa, index);
                } else {
                    self.tap::<I, 16, 1>(isa, index);
                }
            } else if I::ACCUMULATORS >= 4 {
                self.tap::<I, 4, 1>(isa, index);
            } else {
                self.tap::<I, 1, 1>(isa, index);
            }
        }
    }
}
