//! Weights between the model's order and the kernels'.

use super::driver::{Chunk, Sizes};
use super::{LANES, Lanes};

/// Packs the weights of a chunk of output blocks.
///
/// # Shapes
/// `weight`: `[filters, channels / groups, taps]`; `to`: `[channel blocks of the group, taps.len(), 16 channels, chunk]` of 16 filters.
pub(super) fn pack(s: &Sizes, weight: &[f32], taps: &[usize], chunk: Chunk, to: &mut [Lanes]) {
    let (depth, size) = (s.depth(), taps.len() * LANES * chunk.len);
    let rows = &weight[chunk.first * LANES * depth..];
    // block by block, since that much stays in the first cache
    for (block, to) in to.chunks_exact_mut(size).take(s.group_blocks_in()).enumerate() {
        to.fill(Lanes::ZERO);
        for (f, row) in rows.chunks_exact(depth).take(chunk.len * LANES).enumerate() {
            let row = &row[block * LANES * s.taps..];
            for (k, row) in row.chunks_exact(s.taps).take(LANES).enumerate() {
                for (&tap, to) in taps.iter().zip(to[k * chunk.len + f / LANES..].iter_mut().step_by(LANES * chunk.len)) {
                    to.0[f % LANES] = row[tap];
                }
            }
        }
    }
}

/// Packs the weights of the input gradient for a chunk of input blocks: as [`pack`] with filters and channels in each other's place.
///
/// # Shapes
/// `to`: `[filter blocks of the group, taps.len(), 16 filters, chunk]` of 16 channels.
pub(super) fn pack_turned(s: &Sizes, weight: &[f32], taps: &[usize], chunk: Chunk, to: &mut [Lanes]) {
    let (depth, size) = (s.depth(), taps.len() * LANES * chunk.len);
    to[..s.group_blocks_out() * size].fill(Lanes::ZERO);
    let group = chunk.first / s.group_blocks_in();
    let filters = s.filters / s.groups;
    let first = (chunk.first - group * s.group_blocks_in()) * LANES;
    let rows = weight[group * filters * depth..][..filters * depth].chunks_exact(depth);
    for (f, row) in rows.enumerate() {
        let to = &mut to[f / LANES * size..][..size];
        let k = f % LANES;
        for (i, row) in row[first * s.taps..].chunks_exact(s.taps).take(chunk.len * LANES).enumerate() {
            for (t, &tap) in taps.iter().enumerate() {
                to[(t * LANES + k) * chunk.len + i / LANES].0[i % LANES] = row[tap];
            }
        }
    }
}

/// The inverse of [`pack`] with all taps: `to` are the rows of the chunk's filters.
pub(super) fn unpack(s: &Sizes, packed: &[Lanes], chunk: Chunk, to: &mut [f32]) {
    let depth = s.depth();
    for (block, packed) in packed.chunks_exact(s.taps * LANES * chunk.len).enumerate() {
        for (f, row) in to.chunks_exact_mut(depth).enumerate() {
            let row = &mut row[block * LANES * s.taps..];
            for (k, row) in row.chunks_exact_mut(s.taps).take(LANES).enumerate() {
                for (to, from) in row.iter_mut().zip(packed[k * chunk.len + f / LANES..].iter().step_by(LANES * chunk.len)) {
                    *to = from.0[f % LANES];
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
