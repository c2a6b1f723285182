//! Gated recurrent units, with the gates in ONNX's order: update, reset, hidden.
//!
//! Source: <https://onnx.ai/onnx/operators/onnx__GRU.html>.

use super::{Curve, Sequence};
use crate::kernel::{Float, Matrix, serial_gemm};
use rayon::prelude::*;

/// The parameters of one direction.
#[derive(Debug, Clone, Copy)]
pub struct Gru<'a, T> {
    /// Its sizes.
    pub sequence: Sequence,
    /// The weights of the previous state: `[3·width, width]`.
    pub recurrent: &'a [T],
    /// The bias inside the reset gate, `[width]`: that gate scales `h₋ Rᵀ + bias` (as
    /// `PyTorch` has it). `None`: it scales `h₋`.
    pub inner_bias: Option<&'a [T]>,
    /// The activations of the gates and of the state's new part.
    pub curves: [Curve; 2],
}

impl<T: Float> Gru<'_, T> {
    /// With a the sum of the inputs' product and the bias: `z, r = σ(a + h₋ Rᵀ)`, `g = τ(a +
    /// q)`, `h = (1 − z) ⊙ g + z ⊙ h₋`; q is `r ⊙ (h₋ Rᵀ + bias)`, or `(r ⊙ h₋)
    /// Rᵀ`. Gives h, and of q what r scales in the one case and what R multiplies in the other.
    ///
    /// # Shapes
    /// `gates`: `[rows, 3·width]`, at first the inputs' product and the bias, then the gates;
    /// `initial`: `[batch, width]`; results: `[rows, width]`.
    #[must_use]
    pub fn forward(&self, gates: &mut [T], initial: &[T]) -> [Vec<T>; 2] {
        let (s, width) = (self.sequence, self.sequence.width);
        let mut hidden = vec![T::zero(); s.rows() * width];
        let mut inner = hidden.clone();
        gates
            .par_chunks_mut(s.group(3 * width))
            .zip(hidden.par_chunks_mut(s.group(width)))
            .zip(inner.par_chunks_mut(s.group(width)))
            .zip(initial.par_chunks(s.state()))
            .for_each(|(((gates, hidden), inner), initial)| {
                self.group(gates, hidden, inner, initial);
            });
        [hidden, inner]
    }

    fn group(&self, gates: &mut [T], hidden: &mut [T], inner: &mut [T], initial: &[T]) {
        let (width, state) = (self.sequence.width, initial.len());
        let rows = state / width;
        let [gate, part] = self.curves;
        let mut product = vec![T::zero(); 3 * state];
        let times = |x: &[T], weights: &[T], columns: usize, out: &mut [T]| {
            let (x, weights) = (Matrix::plain(x, 0), Matrix::transposed(weights, 0));
            serial_gemm([rows, columns, width], T::one(), x, weights, T::zero(), out);
        };
        // with the bias inside, one product yields all three gates
        let columns = if self.inner_bias.is_some() { 3 * width } else { 2 * width };
        for (step, (gates, inner)) in
            gates.chunks_exact_mut(3 * state).zip(inner.chunks_exact_mut(state)).enumerate()
        {
            let (before, now) = hidden.split_at_mut(step * state);
            let before = if step == 0 { initial } else { &before[(step - 1) * state..] };
            times(before, self.recurrent, columns, &mut product[..rows * columns]);
            for (row, gates) in gates.chunks_exact_mut(3 * width).enumerate() {
                let product = &product[row * columns..][..columns];
                let inner = &mut inner[row * width..][..width];
                let (zr, _) = gates.split_at_mut(2 * width);
                zr.iter_mut().zip(product).for_each(|(a, &p)| *a += p);
                gate.apply(zr);
                for (j, q) in inner.iter_mut().enumerate() {
                    *q = match self.inner_bias {
                        Some(bias) => product[2 * width + j] + bias[j],
                        None => zr[width + j] * before[row * width + j],
                    };
                }
            }
            if self.inner_bias.is_none() {
                times(inner, &self.recurrent[2 * width * width..], width, &mut product[..state]);
            }
            for (row, gates) in gates.chunks_exact_mut(3 * width).enumerate() {
                let (zr, g) = gates.split_at_mut(2 * width);
                let own = row * width..(row + 1) * width;
                for (j, g) in g.iter_mut().enumerate() {
                    *g += match self.inner_bias {
                        Some(_) => zr[width + j] * inner[own.start + j],
                        None => product[own.start + j],
                    };
                }
                part.apply(g);
                let before = &before[own.clone()];
                for (j, h) in now[own].iter_mut().enumerate() {
                    *h = (T::one() - zr[j]) * g[j] + zr[j] * before[j];
                }
            }
        }
    }

    /// The backward pass of [`Gru::forward`]: the gradient of the initial h.
    ///
    /// # Shapes
    /// `gates`: `[rows, 3·width]`, at first the gates, then the gradient of what they are computed
    /// from; `inner`: `[rows, width]`, what [`Gru::forward`] gave, then with the bias inside its
    /// gradient; `before` (h by a step), `dh`: `[rows, width]`; result: `[batch, width]`.
    #[must_use]
    pub fn backward(&self, gates: &mut [T], inner: &mut [T], before: &[T], dh: &[T]) -> Vec<T> {
        let (s, width) = (self.sequence, self.sequence.width);
        let mut back = vec![T::zero(); s.batch * width];
        gates
            .par_chunks_mut(s.group(3 * width))
            .zip(inner.par_chunks_mut(s.group(width)))
            .zip(before.par_chunks(s.group(width)).zip(dh.par_chunks(s.group(width))))
            .zip(back.par_chunks_mut(s.state()))
            .for_each(|(((gates, inner), (before, dh)), back)| {
                self.group_back(gates, inner, before, dh, back);
            });
        back
    }

    /// `back`: the gradient of the state after a step, then of the state before it.
    fn group_back(&self, gates: &mut [T], inner: &mut [T], before: &[T], dh: &[T], back: &mut [T]) {
        let (width, state) = (self.sequence.width, back.len());
        let rows = state / width;
        let [gate, part] = self.curves;
        let (mut product, mut scaled) = (vec![T::zero(); 3 * state], vec![T::zero(); state]);
        let times = |d: &[T], columns: usize, weights: &[T], beta: T, out: &mut [T]| {
            let (d, weights) = (Matrix::plain(d, 0), Matrix::plain(weights, 0));
            serial_gemm([rows, width, columns], T::one(), d, weights, beta, out);
        };
        for (step, (gates, inner)) in
            gates.chunks_exact_mut(3 * state).zip(inner.chunks_exact_mut(state)).enumerate().rev()
        {
            let (before, dh) = (&before[step * state..], &dh[step * state..]);
            // of z and g; what bypasses them stays in `back`
            for (row, gates) in gates.chunks_exact_mut(3 * width).enumerate() {
                for j in 0..width {
                    let at = row * width + j;
                    let (z, g, d) = (gates[j], gates[2 * width + j], back[at] + dh[at]);
                    gates[j] = d * (before[at] - g) * gate.slope(z);
                    gates[2 * width + j] = d * (T::one() - z) * part.slope(g);
                    scaled[at] = gates[2 * width + j];
                    back[at] = d * z;
                }
            }
            // of r, and of what it scales
            if self.inner_bias.is_none() {
                let weights = &self.recurrent[2 * width * width..];
                times(&scaled, width, weights, T::zero(), &mut product[..state]);
            }
            for (row, gates) in gates.chunks_exact_mut(3 * width).enumerate() {
                for j in 0..width {
                    let (at, r) = (row * width + j, gates[width + j]);
                    let d = if self.inner_bias.is_some() {
                        let d = scaled[at] * inner[at];
                        inner[at] = scaled[at] * r;
                        d
                    } else {
                        back[at] += product[at] * r;
                        product[at] * before[at]
                    };
                    gates[width + j] = d * gate.slope(r);
                }
            }
            let columns = if self.inner_bias.is_some() { 3 * width } else { 2 * width };
            for (row, gates) in gates.chunks_exact(3 * width).enumerate() {
                let d = &mut product[row * columns..][..columns];
                d[..2 * width].copy_from_slice(&gates[..2 * width]);
                d[2 * width..].copy_from_slice(&inner[row * width..][..columns - 2 * width]);
            }
            times(&product[..rows * columns], columns, self.recurrent, T::one(), back);
        }
    }
}
