//! Recurrent layers: one direction of one layer, after the product of its inputs with their
//! weights.
//!
//! Samples do not depend on each other. So they are split into groups of a fixed size, and one
//! thread runs a group through all steps; tensors over steps and samples have their rows in the
//! order of [`Sequence::order`], where the rows of a group are contiguous.

pub mod gru;
pub mod lstm;

use super::Float;
use rayon::prelude::*;

/// Samples per group: enough for an efficient product, few enough to occupy several threads.
const GROUP: usize = 32;

/// The sizes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// Steps of every sample.
    pub steps: usize,
    /// Samples.
    pub batch: usize,
    /// Elements of a hidden state.
    pub width: usize,
}

impl Sequence {
    /// The `(step, sample)` of each row: group by group, and step by step within a group.
    pub fn order(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.batch).step_by(GROUP).flat_map(move |first| {
            let last = self.batch.min(first + GROUP);
            (0..self.steps).flat_map(move |step| (first..last).map(move |sample| (step, sample)))
        })
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(self) -> usize {
        self.steps * self.batch
    }

    /// Elements of a group in a tensor over steps and samples, of `columns` elements a row.
    fn group(self, columns: usize) -> usize {
        (GROUP * self.steps * columns).max(1)
    }

    /// Elements of a group in a state.
    fn state(self) -> usize {
        (GROUP * self.width).max(1)
    }

    /// The value of the previous step for each row.
    ///
    /// # Shapes
    /// `values`: `[rows, width]`; `initial`: `[batch, width]`; result: `[rows, width]`.
    #[must_use]
    pub fn previous<T: Float>(self, values: &[T], initial: &[T]) -> Vec<T> {
        let mut out = Vec::with_capacity(values.len());
        let groups = values.chunks(self.group(self.width)).zip(initial.chunks(self.state()));
        for (values, initial) in groups {
            out.extend_from_slice(initial);
            out.extend_from_slice(&values[..values.len() - initial.len()]);
        }
        out
    }
}

/// The activation of a gate or of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// `1/(1 + exp(−x))`.
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// `max(x, 0)`.
    Relu,
}

impl Curve {
    /// Replaces numbers by their activations.
    fn apply<T: Float>(self, x: &mut [T]) {
        let (zero, one) = (T::zero(), T::one());
        let each = |x: &mut [T], f: fn(T) -> T| x.iter_mut().for_each(|x| *x = f(*x));
        match self {
            Self::Sigmoid => x.iter_mut().for_each(|x| *x = one / (one + (-*x).exp())),
            Self::Tanh => each(x, T::tanh),
            Self::Relu => x.iter_mut().for_each(|x| *x = if *x < zero { zero } else { *x }),
        }
    }

    /// The slope where the activation is `y`.
    fn slope<T: Float>(self, y: T) -> T {
        let (zero, one) = (T::zero(), T::one());
        match self {
            Self::Sigmoid => y * (one - y),
            Self::Tanh => one - y * y,
            Self::Relu => {
                if y > zero {
                    one
                } else {
                    zero
                }
            }
        }
    }
}

/// The rows of these numbers.
///
/// # Shapes
/// `data`: `[.., width]`; result: `[rows, width]`.
///
/// # Panics
/// When a number is past the last row.
#[must_use]
pub fn pick<T: Float>(data: &[T], width: usize, rows: &[usize]) -> Vec<T> {
    let mut out = vec![T::zero(); rows.len() * width];
    out.par_chunks_mut(width.max(1)).zip(rows).for_each(|(out, &row)| {
        out.copy_from_slice(&data[row * width..][..width]);
    });
    out
}

/// The adjoint of [`pick`]: adds to the rows of these numbers.
///
/// # Panics
/// As [`pick`].
pub fn add<T: Float>(values: &[T], width: usize, rows: &[usize], out: &mut [T]) {
    for (values, &row) in values.chunks_exact(width.max(1)).zip(rows) {
        out[row * width..][..width].iter_mut().zip(values).for_each(|(o, &v)| *o += v);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_row_finds_its_own_sample_a_step_before() {
        let sequence = Sequence { steps: 3, batch: 2 * GROUP + 5, width: 2 };
        let number = |(step, sample): (usize, usize)| u32::try_from(step * 1000 + sample);
        let row = |at| number(at).map(|n| [f64::from(n), -f64::from(n)]).unwrap();
        let values: Vec<f64> = sequence.order().flat_map(row).collect();
        let initial: Vec<f64> = (0..sequence.batch).flat_map(|n| row((9, n))).collect();
        let before: Vec<f64> = sequence
            .order()
            .flat_map(|(step, n)| row(if step == 0 { (9, n) } else { (step - 1, n) }))
            .collect();
        let same = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.5);
        let found = sequence.previous(&values, &initial);
        assert!(found.len() == before.len() && same(&found, &before));
        let all: HashSet<(usize, usize)> = sequence.order().collect();
        assert_eq!((all.len(), sequence.order().count()), (sequence.rows(), sequence.rows()));
    }
}
