//! `G = Σ_c f̂_c f̂_cᵀ / C` over positions: needed by the polynomial kernel of degree 2 of NST
//! (Huang & Wang 2017, arXiv:1707.01219), `MMD² = ‖G_t − G_s‖_F²` at constant 0.

use super::planes::Planes;
use super::{count, round};
use crate::kernel::{Float, Matrix, serial_gemm};

/// Rows of G computed at once, so that scratch memory does not grow with the square of the
/// positions.
const ROWS: usize = 64;

/// Packs the lower triangle row by row: entry (i, j), j ≤ i, is at i(i+1)/2 + j.
///
/// # Shapes
/// `out`: `[positions · (positions + 1) / 2]`.
pub(super) fn gram(planes: &mut Planes, out: &mut [f32]) {
    planes.normalize();
    let (channels, positions) = (planes.channels, planes.positions);
    let Planes { values, turned, products, .. } = planes;
    // [positions, channels], so that a block of rows is contiguous
    turned.clear();
    turned.extend((0..positions).flat_map(|p| values.iter().skip(p).step_by(positions)));
    let scale = 1.0 / count(channels);
    let mut packed = out;
    for first in (0..positions).step_by(ROWS) {
        let rows = ROWS.min(positions - first);
        let columns = first + rows;
        products.resize(rows * columns, 0.0);
        let left = Matrix::plain(&turned[first * channels..], 0);
        serial_gemm(
            [rows, columns, channels],
            scale,
            left,
            Matrix::transposed(turned, 0),
            0.0,
            products,
        );
        for (row, products) in products.chunks_exact(columns).enumerate() {
            let (line, rest) = packed.split_at_mut(first + row + 1);
            line.iter_mut().zip(products).for_each(|(out, &product)| *out = round(product));
            packed = rest;
        }
    }
}

/// Writes a packed triangle times `factor` to the lower triangle of a matrix; entries above the
/// diagonal stay.
///
/// # Shapes
/// `packed`: `[n · (n + 1) / 2]`; `matrix`: `[n, n]`.
pub fn unpack<T: Float>(packed: &[T], n: usize, factor: T, matrix: &mut [T]) {
    let mut rest = packed;
    for (row, line) in matrix.chunks_exact_mut(n.max(1)).enumerate() {
        let (values, after) = rest.split_at(row + 1);
        line.iter_mut().zip(values).for_each(|(entry, &value)| *entry = factor * value);
        rest = after;
    }
}
