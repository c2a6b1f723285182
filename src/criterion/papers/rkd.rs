//! Relational knowledge distillation (Park et al. 2019, arXiv:1904.05068), in the form of
//! `RepDistiller`.
//!
//! The gradients are hand-written: autograd would keep a tensor `[batch, batch, width]` for every
//! step of the formula.

use crate::criterion::contract::{Comparison, Criterion, Setup, Spec};
use crate::criterion::math::elements::count;
use crate::criterion::math::evaluation::{Evaluation, Loss};
use crate::criterion::math::formula::same_batch;
use crate::criterion::math::tensor::{tensor_like, values};
use crate::criterion::settings::{NOT_NEGATIVE, settings};
use crate::error::Result;
use crate::kernel::{GemmShape, Matrix, batched_gemm};
use candle_core::Tensor;
use rayon::prelude::*;

settings! {
    /// Relational knowledge distillation.
    Rkd {
        /// Weight of the distances.
        distance: f64 = 25.0, NOT_NEGATIVE;
        /// Weight of the angles.
        angle: f64 = 50.0, NOT_NEGATIVE;
    }
}

impl Criterion for Rkd {
    type Memory = ();

    const SPEC: &'static Spec = &Spec {
        name: "rkd",
        title: "Relational knowledge distillation",
        paper: "Park et al. 2019, arXiv:1904.05068",
        note: "compares samples of a batch with each other",
        ..Spec::VECTORS
    };

    fn start(&self, _: &Setup<'_>) -> Result<()> {
        Ok(())
    }

    fn evaluate(&self, inputs: &Comparison<'_>, (): &mut ()) -> Result<Evaluation> {
        let (student, teacher) = inputs.pair()?;
        rkd(student, &teacher, self.distance, self.angle)
    }
}

/// The smallest squared distance between two samples; a closer pair has no gradient.
const LEAST_SQUARE: f64 = 1e-12;
/// The smallest length by which a direction is divided; coinciding samples have no direction and no
/// gradient.
const LEAST_LENGTH: f64 = 1e-12;
/// Anchors whose contributions are buffered at a time, before they are summed in order.
const ANCHORS: usize = 8;

/// `L = w_d · mean_ij h(D^s_ij − D^t_ij) + w_a · mean_ijk h(A^s_ijk − A^t_ijk)` with
/// `D_ij = d_ij / mean_{d>0} d`, `d_ij = √max(‖x_i − x_j‖², 1e-12)` off the diagonal,
/// `A_ijk = ⟨u_ij, u_ik⟩`, `u_ij = (x_j − x_i)/max(‖x_j − x_i‖, 1e-12)`, and h the
/// Huber function with threshold 1; the means are over all B² and B³ entries, including the zero
/// diagonals. Computed in double precision. For one sample the loss is 0.
///
/// # Shapes
/// `student` `[batch, …]`, `teacher` `[batch, …]`.
///
/// # Errors
/// When batches disagree.
pub fn rkd(student: &Tensor, teacher: &Tensor, distance: f64, angle: f64) -> Result<Evaluation> {
    let batch = same_batch(student, teacher, "rkd")?;
    let (s, t) = (Points::new(student, batch)?, Points::new(teacher, batch)?);
    let mut gradient = vec![0.0; batch * s.width];
    let mut value = 0.0;
    if batch > 1 {
        value += distance_loss(&s, &t, distance, &mut gradient);
        value += angle_loss(&s, &t, angle, &mut gradient);
    }
    Ok(Loss { value, gradient: tensor_like(gradient, student)? }.into())
}

/// The samples as rows.
struct Points {
    values: Vec<f64>,
    batch: usize,
    width: usize,
}

/// The Huber function with threshold 1, and its slope.
fn huber(x: f64) -> (f64, f64) {
    if x.abs() < 1.0 { (0.5 * x * x, x) } else { (x.abs() - 0.5, x.signum()) }
}

impl Points {
    fn new(x: &Tensor, batch: usize) -> Result<Self> {
        let values = values::<f64>(x)?;
        let width = values.len() / batch;
        Ok(Self { values, batch, width })
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.width..(i + 1) * self.width]
    }

    /// `d_ij`, `[batch, batch]`.
    fn distances(&self) -> Vec<f64> {
        let mut d = vec![0.0; self.batch * self.batch];
        d.par_chunks_mut(self.batch).enumerate().for_each(|(i, d)| {
            for (j, d) in d.iter_mut().enumerate().filter(|&(j, _)| j != i) {
                let square: f64 =
                    self.row(i).iter().zip(self.row(j)).map(|(a, b)| (a - b) * (a - b)).sum();
                *d = square.max(LEAST_SQUARE).sqrt();
            }
        });
        d
    }

    /// The directions `u_ij` from sample i, `[batch, width]`, and their lengths.
    fn directions(&self, i: usize) -> (Vec<f64>, Vec<f64>) {
        let mut u = vec![0.0; self.batch * self.width];
        let lengths = u
            .chunks_exact_mut(self.width)
            .enumerate()
            .map(|(j, u)| {
                for ((u, to), from) in u.iter_mut().zip(self.row(j)).zip(self.row(i)) {
                    *u = to - from;
                }
                let length = u.iter().map(|x| x * x).sum::<f64>().sqrt();
                let divisor = length.max(LEAST_LENGTH);
                for x in u {
                    *x /= divisor;
                }
                length
            })
            .collect();
        (u, lengths)
    }

    /// The angles `A_ijk` of directions from one sample, `[batch, batch]`.
    fn angles(&self, u: &[f64]) -> Vec<f64> {
        let mut a = vec![0.0; self.batch * self.batch];
        let shape = GemmShape { batch: 1, m: self.batch, n: self.batch, k: self.width };
        batched_gemm(shape, 1.0, Matrix::plain(u, 0), Matrix::transposed(u, 0), 0.0, &mut a);
        a
    }
}

fn distance_loss(s: &Points, t: &Points, weight: f64, gradient: &mut [f64]) -> f64 {
    let batch = s.batch;
    let pairs = count(batch * (batch - 1));
    let (ds, dt) = (s.distances(), t.distances());
    let (mean_s, mean_t) = (ds.iter().sum::<f64>() / pairs, dt.iter().sum::<f64>() / pairs);
    let share = weight / count(batch * batch);
    let mut value = 0.0;
    let mut slopes = vec![0.0; ds.len()];
    for ((slope, ds), dt) in slopes.iter_mut().zip(&ds).zip(&dt) {
        let (h, derivative) = huber(ds / mean_s - dt / mean_t);
        value += share * h;
        *slope = share * derivative;
    }
    // D = d/μ, and μ depends on every d
    let through_mean =
        slopes.iter().zip(&ds).map(|(g, d)| g * d).sum::<f64>() / (mean_s * mean_s * pairs);
    gradient.par_chunks_mut(s.width).enumerate().for_each(|(i, gradient)| {
        for j in (0..batch).filter(|&j| j != i) {
            let (ij, ji) = (i * batch + j, j * batch + i);
            let d = ds[ij];
            if d * d > LEAST_SQUARE {
                let pull = ((slopes[ij] + slopes[ji]) / mean_s - 2.0 * through_mean) / d;
                for ((g, a), b) in gradient.iter_mut().zip(s.row(i)).zip(s.row(j)) {
                    *g += pull * (a - b);
                }
            }
        }
    });
    value
}

fn angle_loss(s: &Points, t: &Points, weight: f64, gradient: &mut [f64]) -> f64 {
    let batch = s.batch;
    let share = weight / count(batch * batch * batch);
    let anchor = |i: usize| -> (f64, Vec<f64>) {
        let (u, lengths) = s.directions(i);
        let mut angles = s.angles(&u);
        let mut value = 0.0;
        for (a, target) in angles.iter_mut().zip(t.angles(&t.directions(i).0)) {
            let (h, derivative) = huber(*a - target);
            value += share * h;
            *a = share * derivative;
        }
        // A = U Uᵀ is symmetric and so is its gradient W: dU = 2 W U
        let mut du = vec![0.0; u.len()];
        let shape = GemmShape { batch: 1, m: batch, n: s.width, k: batch };
        batched_gemm(shape, 2.0, Matrix::plain(&angles, 0), Matrix::plain(&u, 0), 0.0, &mut du);
        for ((du, u), &length) in
            du.chunks_exact_mut(s.width).zip(u.chunks_exact(s.width)).zip(&lengths)
        {
            // below the smallest length the divisor is constant; coinciding samples have no
            // direction
            let along: f64 = if length > LEAST_LENGTH {
                du.iter().zip(u).map(|(d, u)| d * u).sum()
            } else {
                0.0
            };
            let factor = if length > 0.0 { 1.0 / length.max(LEAST_LENGTH) } else { 0.0 };
            for (d, u) in du.iter_mut().zip(u) {
                *d = factor * (*d - along * u);
            }
        }
        (value, du)
    };
    let mut value = 0.0;
    for first in (0..batch).step_by(ANCHORS) {
        let parts: Vec<(f64, Vec<f64>)> =
            (first..batch.min(first + ANCHORS)).into_par_iter().map(anchor).collect();
        for (i, (part, du)) in (first..).zip(parts) {
            value += part;
            for (j, du) in du.chunks_exact(s.width).enumerate() {
                for (k, d) in du.iter().enumerate() {
                    gradient[j * s.width + k] += d;
                    gradient[i * s.width + k] -= d;
                }
            }
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{
        assert_finite, assert_gradients, assert_zero, tensor,
    };
    use crate::criterion::math::module::Module;

    #[test]
    fn gradients_match_finite_differences() {
        for batch in [2, 5, 11] {
            let (s, t) = (tensor(&[batch, 3], 1), tensor(&[batch, 7], 2));
            for (distance, angle) in [(25.0, 0.0), (0.0, 50.0), (25.0, 50.0)] {
                assert_gradients(&[&s], &Module::default(), |x, _| rkd(x[0], &t, distance, angle));
            }
        }
    }

    #[test]
    fn coincident_dead_and_lone_samples_are_finite() {
        let t = tensor(&[3, 4], 1);
        let first = t.narrow(0, 0, 1).unwrap();
        let dead = first.zeros_like().unwrap();
        for rows in [[&first, &first, &dead], [&dead, &dead, &dead], [&first, &first, &first]] {
            let s = Tensor::cat(&rows, 0).unwrap();
            for factor in [1.0, 1e6] {
                assert_finite(&rkd(&(&s * factor).unwrap(), &t, 25.0, 50.0).unwrap());
                assert_finite(&rkd(&t, &(&s * factor).unwrap(), 25.0, 50.0).unwrap());
            }
        }
        assert_zero(&rkd(&first, &dead, 25.0, 50.0).unwrap(), 0.0);
        assert_zero(&rkd(&t, &t, 25.0, 50.0).unwrap(), 1e-12);
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (s, t) = (tensor(&[37, 20], 1), tensor(&[37, 30], 2));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| rkd(&s, &t, 25.0, 50.0).unwrap())
        };
        let (one, three) = (run(1), run(3));
        assert_eq!(one.value.to_bits(), three.value.to_bits());
        let bits = |e: &Evaluation| e.inputs[0].flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(bits(&one), bits(&three));
    }
}
