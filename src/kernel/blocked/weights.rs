//! Conversion of weights between the order of the model and that of the kernels.

use super::simd::{Isa, Level, SimdKernel};
use super::sizes::{Chunk, Sizes};
use super::{LANES, Lanes};

/// Packs the weights of a chunk of output blocks.
///
/// # Shapes
/// `weight`: `[filters, channels / groups, taps]`; `to`: `[channel blocks of the group, taps.len(),
/// 16 channels, chunk]` of 16 filters.
pub(super) fn pack(
    level: Level,
    s: &Sizes,
    weight: &[f32],
    taps: &[usize],
    chunk: Chunk,
    to: &mut [Lanes],
) {
    let depth = s.depth();
    let rows = &weight[chunk.first * LANES * depth..];
    // block by block, since that much stays in the first-level cache
    for (block, to) in
        to.chunks_exact_mut(taps.len() * LANES * chunk.len).take(s.group_blocks_in()).enumerate()
    {
        for (j, rows) in rows.chunks(LANES * depth).take(chunk.len).enumerate() {
            let square = Square {
                rows,
                depth,
                first: block * LANES,
                taps,
                transposed: false,
                to,
                chunk: chunk.len,
                j,
            };
            square.copy(level, s.taps);
        }
    }
}

/// Packs the weights of the input gradient for a chunk of input blocks: as [`pack`] with filters
/// and channels exchanged.
///
/// # Shapes
/// `to`: `[filter blocks of the group, taps.len(), 16 filters, chunk]` of 16 channels.
pub(super) fn pack_transposed(
    level: Level,
    s: &Sizes,
    weight: &[f32],
    taps: &[usize],
    chunk: Chunk,
    to: &mut [Lanes],
) {
    // no tap reaches some inputs of a strided convolution
    if taps.is_empty() {
        return;
    }
    let (depth, filters) = (s.depth(), s.filters / s.groups);
    let group = chunk.first / s.group_blocks_in();
    let first = (chunk.first - group * s.group_blocks_in()) * LANES;
    let rows = weight[group * filters * depth..][..filters * depth].chunks(LANES * depth);
    for (rows, to) in rows.zip(to.chunks_exact_mut(taps.len() * LANES * chunk.len)) {
        for j in 0..chunk.len {
            let square = Square {
                rows,
                depth,
                first: first + j * LANES,
                taps,
                transposed: true,
                to,
                chunk: chunk.len,
                j,
            };
            square.copy(level, s.taps);
        }
    }
}

/// Sixteen filters by sixteen channels, fewer at the edges, to one block of packed weights.
struct Square<'a, 'b> {
    /// `[filters, depth]`.
    rows: &'a [f32],
    depth: usize,
    /// The first channel.
    first: usize,
    taps: &'a [usize],
    /// Lanes are channels, not filters.
    transposed: bool,
    /// `[taps.len(), 16, chunk]`, of which `j` is written.
    to: &'b mut [Lanes],
    chunk: usize,
    j: usize,
}

impl Square<'_, '_> {
    fn copy(self, level: Level, taps: usize) {
        match taps {
            1 => level.run(Fixed::<1>(self)),
            9 => level.run(Fixed::<9>(self)),
            _ => self.any(taps),
        }
    }

    /// Any number of taps, number by number.
    fn any(self, count: usize) {
        let Self { rows, depth, first, taps, transposed, to, chunk, j } = self;
        for to in to.chunks_exact_mut(chunk) {
            to[j] = Lanes::ZERO;
        }
        for (f, row) in rows.chunks_exact(depth).enumerate() {
            for (c, row) in row[first * count..].chunks_exact(count).take(LANES).enumerate() {
                let (k, lane) = if transposed { (f, c) } else { (c, f) };
                for (to, &tap) in to.chunks_exact_mut(LANES * chunk).zip(taps) {
                    to[k * chunk + j].0[lane] = row[tap];
                }
            }
        }
    }
}

/// `T` taps: with constant distances, gathering sixteen numbers into a vector is several times as
/// fast as scattering them one by one.
struct Fixed<'a, 'b, const T: usize>(Square<'a, 'b>);

impl<const T: usize> SimdKernel for Fixed<'_, '_, T> {
    #[inline(always)]
    fn run<I: Isa>(self, _isa: I) {
        let Square { rows, depth, first, taps, transposed, to, chunk, j } = self.0;
        let mut square = [[[0.0f32; T]; LANES]; LANES];
        for (square, row) in square.iter_mut().zip(rows.chunks_exact(depth)) {
            let (row, _) = row[first * T..].as_chunks::<T>();
            let channels = row.len().min(LANES);
            square[..channels].copy_from_slice(&row[..channels]);
        }
        for (to, &tap) in to.chunks_exact_mut(LANES * chunk).zip(taps) {
            let tap = tap.min(T - 1);
            for (k, to) in to.chunks_exact_mut(chunk).enumerate().take(LANES) {
                let mut lanes = Lanes::ZERO;
                for l in 0..LANES {
                    lanes.0[l] = if transposed { square[k][l][tap] } else { square[l][k][tap] };
                }
                to[j] = lanes;
            }
        }
    }
}

/// The inverse of [`pack`] with all taps: `to` are the rows of the chunk's filters.
pub(super) fn unpack(level: Level, s: &Sizes, packed: &[Lanes], chunk: Chunk, to: &mut [f32]) {
    match s.taps {
        9 => level.run(Unpack::<9> { packed, chunk: chunk.len, depth: s.depth(), to }),
        1 => level.run(Unpack::<1> { packed, chunk: chunk.len, depth: s.depth(), to }),
        _ => unpack_any(s, packed, chunk, to),
    }
}

/// Any number of taps.
fn unpack_any(s: &Sizes, packed: &[Lanes], chunk: Chunk, to: &mut [f32]) {
    for (block, packed) in packed.chunks_exact(s.taps * LANES * chunk.len).enumerate() {
        for (f, row) in to.chunks_exact_mut(s.depth()).enumerate() {
            let row = &mut row[block * LANES * s.taps..];
            for (k, row) in row.chunks_exact_mut(s.taps).take(LANES).enumerate() {
                for (to, from) in row
                    .iter_mut()
                    .zip(packed[k * chunk.len + f / LANES..].iter().step_by(LANES * chunk.len))
                {
                    *to = from.0[f % LANES];
                }
            }
        }
    }
}

/// `T` taps.
struct Unpack<'a, 'b, const T: usize> {
    packed: &'a [Lanes],
    chunk: usize,
    depth: usize,
    to: &'b mut [f32],
}

impl<const T: usize> SimdKernel for Unpack<'_, '_, T> {
    #[inline(always)]
    fn run<I: Isa>(self, _isa: I) {
        let Self { packed, chunk, depth, to } = self;
        for (block, packed) in packed.chunks_exact(T * LANES * chunk).enumerate() {
            for (j, rows) in to.chunks_mut(LANES * depth).enumerate() {
                // [channel][tap] of 16 filters
                let mut square = [[Lanes::ZERO; T]; LANES];
                for (t, packed) in packed.chunks_exact(LANES * chunk).enumerate().take(T) {
                    for (k, packed) in packed.chunks_exact(chunk).enumerate().take(LANES) {
                        square[k][t] = packed[j];
                    }
                }
                for (lane, row) in rows.chunks_exact_mut(depth).enumerate().take(LANES) {
                    let (row, _) = row[block * LANES * T..].as_chunks_mut::<T>();
                    for (row, square) in row.iter_mut().zip(&square) {
                        for t in 0..T {
                            row[t] = square[t].0[lane];
                        }
                    }
                }
            }
        }
    }
}

/// Packs the weights of a chunk row by row.
///
/// # Shapes
/// `weight`: `[filters, depth]`; `to`: `[depth, chunk]` of 16 filters.
pub(super) fn pack_rows(s: &Sizes, weight: &[f32], chunk: Chunk, to: &mut [Lanes]) {
    let depth = s.depth();
    let rows = weight[chunk.first * LANES * depth..].chunks_exact(depth).take(chunk.len * LANES);
    for (f, row) in rows.enumerate() {
        for (to, &w) in to.chunks_exact_mut(chunk.len).zip(row) {
            to[f / LANES].0[f % LANES] = w;
        }
    }
}

/// The inverse of [`pack_rows`]: `to` are the rows of the chunk's filters.
pub(super) fn unpack_rows(s: &Sizes, packed: &[Lanes], chunk: Chunk, to: &mut [f32]) {
    for (f, row) in to.chunks_exact_mut(s.depth()).enumerate() {
        for (w, from) in row.iter_mut().zip(packed.chunks_exact(chunk.len)) {
            *w = from[f / LANES].0[f % LANES];
        }
    }
}
