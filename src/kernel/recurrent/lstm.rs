//! Long short-term memory, with the gates in ONNX's order: input, output, forget, cell.
//!
//! Source: <https://onnx.ai/onnx/operators/onnx__LSTM.html>.

use super::{Curve, Sequence};
use crate::kernel::{Float, Matrix, serial_gemm};
use rayon::prelude::*;

/// The parameters of one direction.
#[derive(Debug, Clone, Copy)]
pub struct Lstm<'a, T> {
    /// Its sizes.
    pub sequence: Sequence,
    /// The weights of the previous state: `[4·width, width]`.
    pub recurrent: &'a [T],
    /// The weights of the cell for the gates of input, output and forget: `[3·width]`.
    pub peephole: Option<&'a [T]>,
    /// The activations of the gates, of the cell's new part and of the cell.
    pub curves: [Curve; 3],
}

/// A sample's gates of one step.
fn split<T>(row: &mut [T], width: usize) -> [&mut [T]; 4] {
    let (i, rest) = row.split_at_mut(width);
    let (o, rest) = rest.split_at_mut(width);
    let (f, g) = rest.split_at_mut(width);
    [i, o, f, g]
}

/// `out += a ⊙ b`.
fn accumulate<T: Float>(out: &mut [T], a: &[T], b: &[T]) {
    for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *o += a * b;
    }
}

impl<T: Float> Lstm<'_, T> {
    /// With a the sum of the inputs' product, the bias and `h₋ Rᵀ`: `i, f = σ(a + p ⊙
    /// c₋)`, `g = τ(a)`, `c = f ⊙ c₋ + i ⊙ g`, `o = σ(a + p ⊙ c)`, `h = o ⊙ η(c)`.
    /// Gives h and c.
    ///
    /// # Shapes
    /// `gates`: `[rows, 4·width]`, at first the inputs' product and the bias, then the gates;
    /// `initial`: h and c, `[batch, width]`; results: `[rows, width]`.
    #[must_use]
    pub fn forward(&self, gates: &mut [T], initial: [&[T]; 2]) -> [Vec<T>; 2] {
        let (s, width) = (self.sequence, self.sequence.width);
        let mut hidden = vec![T::zero(); s.rows() * width];
        let mut cells = hidden.clone();
        gates
            .par_chunks_mut(s.group(4 * width))
            .zip(hidden.par_chunks_mut(s.group(width)))
            .zip(cells.par_chunks_mut(s.group(width)))
            .zip(initial[0].par_chunks(s.state()).zip(initial[1].par_chunks(s.state())))
            .for_each(|(((gates, hidden), cells), (h, c))| {
                self.group(gates, hidden, cells, [h, c]);
            });
        [hidden, cells]
    }

    fn group(&self, gates: &mut [T], hidden: &mut [T], cells: &mut [T], [h, c]: [&[T]; 2]) {
        let (width, state) = (self.sequence.width, h.len());
        for (step, gates) in gates.chunks_exact_mut(4 * state).enumerate() {
            let (h_before, h_now) = hidden.split_at_mut(step * state);
            let (c_before, c_now) = cells.split_at_mut(step * state);
            let h_before = if step == 0 { h } else { &h_before[(step - 1) * state..] };
            let c_before = if step == 0 { c } else { &c_before[(step - 1) * state..] };
            serial_gemm(
                [state / width, 4 * width, width],
                T::one(),
                Matrix::plain(h_before, 0),
                Matrix::transposed(self.recurrent, 0),
                T::one(),
                gates,
            );
            for (((gates, c_before), h), c) in gates
                .chunks_exact_mut(4 * width)
                .zip(c_before.chunks_exact(width))
                .zip(h_now.chunks_exact_mut(width))
                .zip(c_now.chunks_exact_mut(width))
            {
                self.sample(split(gates, width), c_before, h, c);
            }
        }
    }

    fn sample(&self, [i, o, f, g]: [&mut [T]; 4], before: &[T], h: &mut [T], c: &mut [T]) {
        let width = self.sequence.width;
        let [gate, part, state] = self.curves;
        if let Some(p) = self.peephole {
            accumulate(i, &p[..width], before);
            accumulate(f, &p[2 * width..], before);
        }
        gate.apply(i);
        gate.apply(f);
        part.apply(g);
        for (j, c) in c.iter_mut().enumerate() {
            *c = f[j] * before[j] + i[j] * g[j];
        }
        if let Some(p) = self.peephole {
            accumulate(o, &p[width..2 * width], c);
        }
        gate.apply(o);
        h.copy_from_slice(c);
        state.apply(h);
        h.iter_mut().zip(&*o).for_each(|(h, &o)| *h *= o);
    }

    /// The backward pass of [`Lstm::forward`]: the gradients of the initial h and c.
    ///
    /// # Shapes
    /// `gates`: `[rows, 4·width]`, at first the gates, then the gradient of what they are computed
    /// from; `cells`, `dh`: `[rows, width]`; `initial` (of c) and `dc` (of the last one): `[batch,
    /// width]`; results: `[batch, width]`.
    #[must_use]
    pub fn backward(
        &self,
        gates: &mut [T],
        cells: &[T],
        initial: &[T],
        dh: &[T],
        dc: Vec<T>,
    ) -> [Vec<T>; 2] {
        let (s, width) = (self.sequence, self.sequence.width);
        let mut dc = dc;
        let mut back = vec![T::zero(); dc.len()];
        gates
            .par_chunks_mut(s.group(4 * width))
            .zip(cells.par_chunks(s.group(width)).zip(dh.par_chunks(s.group(width))))
            .zip(initial.par_chunks(s.state()))
            .zip(back.par_chunks_mut(s.state()).zip(dc.par_chunks_mut(s.state())))
            .for_each(|(((gates, (cells, dh)), initial), (back, dc))| {
                self.group_back(gates, [cells, initial, dh], back, dc);
            });
        [back, dc]
    }

    /// `back`, `dc`: the gradients of the state after a step, then of the state before it.
    fn group_back(
        &self,
        gates: &mut [T],
        [cells, initial, dh]: [&[T]; 3],
        back: &mut [T],
        dc: &mut [T],
    ) {
        let (width, state) = (self.sequence.width, initial.len());
        let mut active = vec![T::zero(); state];
        for (step, gates) in gates.chunks_exact_mut(4 * state).enumerate().rev() {
            let at = step * state;
            active.copy_from_slice(&cells[at..at + state]);
            self.curves[2].apply(&mut active);
            let before = if step == 0 { initial } else { &cells[at - state..at] };
            back.iter_mut().zip(&dh[at..]).for_each(|(b, &d)| *b += d);
            for (row, gates) in gates.chunks_exact_mut(4 * width).enumerate() {
                let own = row * width..(row + 1) * width;
                self.sample_back(
                    split(gates, width),
                    [&active[own.clone()], &before[own.clone()], &back[own.clone()]],
                    &mut dc[own],
                );
            }
            serial_gemm(
                [state / width, width, 4 * width],
                T::one(),
                Matrix::plain(gates, 0),
                Matrix::plain(self.recurrent, 0),
                T::zero(),
                back,
            );
        }
    }

    /// `active`: the activation of the cell; `before`: the cell before it.
    fn sample_back(
        &self,
        [i, o, f, g]: [&mut [T]; 4],
        [active, before, dh]: [&[T]; 3],
        dc: &mut [T],
    ) {
        let width = self.sequence.width;
        let [gate, part, state] = self.curves;
        for j in 0..width {
            let p = |k: usize| self.peephole.map_or(T::zero(), |p| p[k * width + j]);
            let d_o = dh[j] * active[j] * gate.slope(o[j]);
            let d_c = dc[j] + dh[j] * o[j] * state.slope(active[j]) + p(1) * d_o;
            let d_i = d_c * g[j] * gate.slope(i[j]);
            let d_f = d_c * before[j] * gate.slope(f[j]);
            dc[j] = d_c * f[j] + p(0) * d_i + p(2) * d_f;
            g[j] = d_c * i[j] * part.slope(g[j]);
            (i[j], o[j], f[j]) = (d_i, d_o, d_f);
        }
    }

    /// The gradient of the peepholes: `[3·width]`.
    ///
    /// # Shapes
    /// `dgates`: what [`Lstm::backward`] leaves; `cells`, `before` (by a step): `[rows, width]`.
    #[must_use]
    pub fn peephole_gradient(&self, dgates: &[T], cells: &[T], before: &[T]) -> Vec<T> {
        let width = self.sequence.width;
        let mut sums = vec![0f64; 3 * width];
        for ((d, c), before) in dgates
            .chunks_exact(4 * width)
            .zip(cells.chunks_exact(width))
            .zip(before.chunks_exact(width))
        {
            for j in 0..width {
                sums[j] += d[j].wide() * before[j].wide();
                sums[width + j] += d[width + j].wide() * c[j].wide();
                sums[2 * width + j] += d[2 * width + j].wide() * before[j].wide();
            }
        }
        sums.into_iter().map(T::of).collect()
    }
}
