//! Kernels of scalar products, by channels: with the unit maps of both sides as rows of Y, one
//! product `S Yᵀ` holds the kernel's arguments; the kernel turns them into `W`, and the gradient
//! is one product `W Y`.

use super::count;
use super::kernel::Kernel;
use super::scratch::{SamplePair, variance};
use crate::kernel::{Float, Matrix, serial_gemm};
use crate::tensor::Element;

/// Rows of the teacher's products in memory at a time.
const ROWS: usize = 64;

/// A kernel as a function of the scalar product p of two maps.
pub(super) struct Scalar {
    kernel: Kernel,
    /// σ².
    variance: f64,
    /// ‖y‖² of every map, if the kernel needs distances.
    squares: Vec<f64>,
}

impl Scalar {
    /// `batch`: σ² if it is computed over the whole batch.
    pub(super) fn new<T: Element>(
        kernel: Kernel,
        pair: &SamplePair<'_, T>,
        batch: Option<f64>,
    ) -> Self {
        let squares =
            if matches!(kernel, Kernel::Gauss { .. }) { pair.squares() } else { Vec::new() };
        Self { kernel, variance: variance(kernel, pair, batch), squares }
    }

    /// Sums k over a row of products, those of map `row` with maps `first..`, and replaces each
    /// product with `scale`·k′ (for the Gaussian, `scale`·k/σ²).
    fn apply<T: Float>(&self, products: &mut [T], row: usize, first: usize, scale: f64) -> f64 {
        match self.kernel {
            // the linear kernel has its own, cheaper path; included for completeness: k = p,
            // k′ = 1
            Kernel::Linear => replace(products, |p| (p, T::of(scale))),
            Kernel::Poly { degree: 2, constant } => {
                let (c, twice) = (T::of(constant), T::of(2.0 * scale));
                replace(products, |p| ((p + c) * (p + c), twice * (p + c)))
            }
            Kernel::Poly { degree, constant } => {
                let (c, factor) = (T::of(constant), T::of(f64::from(degree) * scale));
                let less = i32::try_from(degree).unwrap_or(i32::MAX) - 1;
                replace(products, |p| {
                    let power = (p + c).powi(less);
                    (power * (p + c), factor * power)
                })
            }
            // every pair coincides: the distributions are equal, and the gradient is 0
            Kernel::Gauss { .. } if self.variance <= 0.0 => {
                products.fill(T::zero());
                count(products.len())
            }
            Kernel::Gauss { .. } => {
                let (exponent, factor, two) =
                    (T::of(-0.5 / self.variance), T::of(scale / self.variance), T::of(2.0));
                let mut sum = 0.0;
                for (p, &other) in products.iter_mut().zip(&self.squares[first..]) {
                    let distance = (T::of(self.squares[row] + other) - two * *p).max(T::zero());
                    let k = (exponent * distance).exp();
                    sum += k.wide();
                    *p = factor * k;
                }
                sum
            }
        }
    }
}

/// `f` maps each value to two: sums the first ones, and stores the second ones in place.
fn replace<T: Float>(values: &mut [T], f: impl Fn(T) -> (T, T)) -> f64 {
    let mut sum = 0.0;
    for value in values {
        let (k, weight) = f(*value);
        sum += k.wide();
        *value = weight;
    }
    sum
}

/// One sample's loss; `scale` times its gradient is written to `pair.gradient`.
#[allow(clippy::needless_pass_by_value, reason = "a kernel belongs to its sample")]
pub(super) fn sample<T: Element>(
    pair: &mut SamplePair<'_, T>,
    kernel: Scalar,
    teacher_term: bool,
    scale: f64,
) -> f64 {
    let [m, n] = pair.channels;
    let (all, positions) = (m + n, pair.positions);
    let (student, teacher) = pair.unit.split_at(m * positions);
    let products = &mut *pair.products;
    products.resize((m * all).max(ROWS * n), T::zero());

    let mut of_teacher = 0.0;
    if teacher_term {
        for first in (0..n).step_by(ROWS) {
            // the products with maps up to this block; those before it also count for their mirror
            // images
            let (rows, columns) = (ROWS.min(n - first), first + ROWS.min(n - first));
            let products = &mut products[..rows * columns];
            let left = Matrix::plain(&teacher[first * positions..], 0);
            serial_gemm(
                [rows, columns, positions],
                T::one(),
                left,
                Matrix::transposed(teacher, 0),
                T::zero(),
                products,
            );
            for (row, products) in products.chunks_exact_mut(columns).enumerate() {
                let (before, within) = products.split_at_mut(first);
                let row = m + first + row;
                of_teacher += 2.0 * kernel.apply(before, row, m, 0.0)
                    + kernel.apply(within, row, m + first, 0.0);
            }
        }
    }

    let weights = &mut products[..m * all];
    serial_gemm(
        [m, all, positions],
        T::one(),
        Matrix::plain(student, 0),
        Matrix::transposed(pair.unit, 0),
        T::zero(),
        weights,
    );
    let (mut own, mut cross) = (0.0, 0.0);
    for (row, weights) in weights.chunks_exact_mut(all).enumerate() {
        let (with_own, with_teacher) = weights.split_at_mut(m);
        own += kernel.apply(with_own, row, 0, 2.0 * scale / count(m * m));
        cross += kernel.apply(with_teacher, row, m, -2.0 * scale / count(m * n));
        if matches!(kernel.kernel, Kernel::Gauss { .. }) {
            // d k(x, y)/dx = k·(y − x)/σ²: the −x part is a diagonal
            let sum: f64 = weights.iter().map(|w| w.wide()).sum();
            weights[row] -= T::of(sum);
        }
    }
    serial_gemm(
        [m, positions, all],
        T::one(),
        Matrix::plain(weights, 0),
        Matrix::plain(pair.unit, 0),
        T::zero(),
        pair.gradient,
    );
    own / count(m * m) - 2.0 * cross / count(m * n) + of_teacher / count(n * n)
}
