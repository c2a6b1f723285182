//! Matrix products on slices.

use super::Float;
use rayon::prelude::*;

/// The sizes of a batch of products `out[b] = A[b] B[b]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GemmShape {
    /// How many products.
    pub batch: usize,
    /// Rows of A and of the output.
    pub m: usize,
    /// Columns of B and of the output.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
}

/// A batch of dense row-major matrices in a slice.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a, T> {
    /// The elements.
    pub data: &'a [T],
    /// Elements from one matrix of the batch to the next; 0: every product reads the same matrix.
    pub stride: usize,
    /// Whether the stored matrix is the transpose of the operand: A stored as `[k, m]`, B as
    /// `[n, k]`.
    pub transposed: bool,
}

impl<'a, T> Matrix<'a, T> {
    /// Matrices stored as the operand itself: A as `[m, k]`, B as `[k, n]`.
    #[must_use]
    pub fn plain(data: &'a [T], stride: usize) -> Self {
        Self { data, stride, transposed: false }
    }

    /// Matrices stored as the operand's transpose: A as `[k, m]`, B as `[n, k]`.
    #[must_use]
    pub fn transposed(data: &'a [T], stride: usize) -> Self {
        Self { data, stride, transposed: true }
    }

    /// The length that `batch` matrices of `size` elements need.
    fn reach(&self, batch: usize, size: usize) -> usize {
        batch.saturating_sub(1) * self.stride + size
    }
}

/// A product of fewer multiplications than this is not split further.
const GRAIN: usize = 1 << 19;

/// `out[b] = alpha · A[b] B[b] + beta · out[b]`, row-major; with `beta` 0 the old content of
/// `out` is not read.
///
/// Parallel over the batch, and over fixed blocks of rows (or columns) of large products, in the
/// caller's rayon pool; the same bits for any number of threads.
///
/// # Shapes
/// `a`: `[batch, m, k]`, or `[batch, k, m]` if transposed; `b`: `[batch, k, n]`, or `[batch, n, k]`
/// if transposed; `out`: `[batch, m, n]`, dense.
///
/// # Panics
/// When a slice is shorter than its shape.
pub fn batched_gemm<T: Float>(
    shape: GemmShape,
    alpha: T,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    beta: T,
    out: &mut [T],
) {
    let GemmShape { batch, m, n, k } = shape;
    assert_eq!(out.len(), batch * m * n, "output of {shape:?}");
    assert!(
        k == 0 || batch == 0 || a.data.len() >= a.reach(batch, m * k),
        "left operand of {shape:?}"
    );
    assert!(
        k == 0 || batch == 0 || b.data.len() >= b.reach(batch, k * n),
        "right operand of {shape:?}"
    );
    if out.is_empty() {
        return;
    }
    let work = m * n * k;
    if work <= GRAIN {
        // several small products per task: the split depends on the shape alone, and no two tasks
        // share rows
        let group = (GRAIN / work.max(1)).clamp(1, batch);
        out.par_chunks_mut(group * m * n).enumerate().for_each(|(g, out)| {
            for (i, out) in out.chunks_mut(m * n).enumerate() {
                product(shape, alpha, a, b, beta, g * group + i, 0, out);
            }
        });
    } else if batch >= 16 || m < 32 {
        out.par_chunks_mut(m * n)
            .enumerate()
            .for_each(|(i, out)| product(shape, alpha, a, b, beta, i, 0, out));
    } else {
        let rows = (GRAIN / (n * k).max(1)).max(m.div_ceil(16)).next_multiple_of(16);
        for (i, out) in out.chunks_mut(m * n).enumerate() {
            out.par_chunks_mut(rows * n)
                .enumerate()
                .for_each(|(r, out)| product(shape, alpha, a, b, beta, i, r * rows, out));
        }
    }
}

/// Rows `first..` of product `index`, as many as fit `out`.
#[allow(clippy::too_many_arguments, reason = "the product's own arguments and which part of it")]
fn product<T: Float>(
    shape: GemmShape,
    alpha: T,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    beta: T,
    index: usize,
    first: usize,
    out: &mut [T],
) {
    let GemmShape { m, n, k, .. } = shape;
    let rows = out.len() / n;
    if k == 0 {
        for o in out.iter_mut() {
            *o = if beta == T::zero() { T::zero() } else { beta * *o };
        }
        return;
    }
    let (a_row, a_column) = if a.transposed { (1, m) } else { (k, 1) };
    let (b_row, b_column) = if b.transposed { (1, k) } else { (n, 1) };
    let a = &a.data[index * a.stride + first * a_row..];
    let b = &b.data[index * b.stride..];
    multiply(rows, n, k, alpha, (a, a_row, a_column), (b, b_row, b_column), beta, (out, n));
}

/// `out = alpha · A B + beta · out` on this thread, for callers that run many at once; with
/// `beta` 0 the old content of `out` is not read.
///
/// # Shapes
/// `[m, n, k]` as in [`GemmShape`]; `a`: `[m, k]`, or `[k, m]` if transposed; `b`: `[k, n]`, or
/// `[n, k]` if transposed; `out`: `[m, n]`. The operands may be longer; their strides are not read.
///
/// # Panics
/// When a slice is shorter than its shape.
pub fn serial_gemm<T: Float>(
    [m, n, k]: [usize; 3],
    alpha: T,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    beta: T,
    out: &mut [T],
) {
    let a_strides = if a.transposed { (1, m) } else { (k, 1) };
    let b_strides = if b.transposed { (1, k) } else { (n, 1) };
    chained(
        LONG_CHAIN,
        [m, n, k],
        alpha,
        (a.data, a_strides.0, a_strides.1),
        (b.data, b_strides.0, b_strides.1),
        beta,
        (out, n),
    );
}

/// The lower triangle of `out = alpha · A Aᵀ + beta · out`, on this thread; the upper triangle
/// is left partly computed.
///
/// # Shapes
/// `a`: `[n, k]`, or `[k, n]` if transposed; `out`: `[n, n]`.
///
/// # Panics
/// When a slice is shorter than its shape.
pub fn serial_gram<T: Float>(
    n: usize,
    k: usize,
    alpha: T,
    a: Matrix<'_, T>,
    beta: T,
    out: &mut [T],
) {
    // blocks of rows are computed up to their last column: the larger a block, the more of the
    // upper triangle is computed for nothing
    const ROWS: usize = 64;
    let (row, column) = if a.transposed { (1, n) } else { (k, 1) };
    for first in (0..n).step_by(ROWS) {
        let rows = ROWS.min(n - first);
        let left = (&a.data[first * row..], row, column);
        chained(
            LONG_CHAIN,
            [rows, first + rows, k],
            alpha,
            left,
            (a.data, column, row),
            beta,
            (&mut out[first * n..], n),
        );
    }
}

/// Copies the lower triangle of `matrix` to the upper one.
///
/// # Shapes
/// `matrix`: `[n, n]`.
pub fn mirror_lower<T: Float>(n: usize, matrix: &mut [T]) {
    for row in 1..n {
        for column in 0..row {
            matrix[column * n + row] = matrix[row * n + column];
        }
    }
}

/// How many products [`serial_gemm`] adds up in one chain at most. Sums of sums of about equal
/// length lose least.
const LONG_CHAIN: usize = 128;

/// How many products are added up in one chain at most. Rounding grows with the length of a chain:
/// sums of short chains keep the sign that a ReLU decides by, where a plain f32 sum of a thousand
/// terms does not.
const CHAIN: usize = 32;

/// One product on strided slices, on this thread:
/// `out[i, j] = alpha Σ_l a[i, l] b[l, j] + beta out[i, j]`. `a`, `b`: slice, row stride, column
/// stride; `out`: slice and row stride.
#[allow(clippy::too_many_arguments, reason = "the arguments of a matrix product")]
pub(super) fn multiply<T: Float>(
    m: usize,
    n: usize,
    k: usize,
    alpha: T,
    (a, a_row, a_column): (&[T], usize, usize),
    (b, b_row, b_column): (&[T], usize, usize),
    beta: T,
    out: (&mut [T], usize),
) {
    chained(CHAIN, [m, n, k], alpha, (a, a_row, a_column), (b, b_row, b_column), beta, out);
}

/// The same with chains of at most `chain` products.
fn chained<T: Float>(
    chain: usize,
    [m, n, k]: [usize; 3],
    alpha: T,
    (a, a_row, a_column): (&[T], usize, usize),
    (b, b_row, b_column): (&[T], usize, usize),
    beta: T,
    (out, out_row): (&mut [T], usize),
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(out.len() > (m - 1) * out_row + (n - 1), "output of {m}x{n}x{k}");
    assert!(
        k == 0 || a.len() > (m - 1) * a_row + (k - 1) * a_column,
        "left operand of {m}x{n}x{k}"
    );
    assert!(
        k == 0 || b.len() > (k - 1) * b_row + (n - 1) * b_column,
        "right operand of {m}x{n}x{k}"
    );
    for first in (0..k.max(1)).step_by(chain) {
        let beta = if first == 0 { beta } else { T::one() };
        // SAFETY: the assertions above keep every element that the strides reach inside its slice;
        // T is f32 or f64, which `gemm` takes. `gemm` calls the factor of the old output alpha and
        // that of the product beta.
        unsafe {
            gemm::gemm(
                m,
                n,
                chain.min(k - first),
                out.as_mut_ptr(),
                1,
                out_row.cast_signed(),
                beta != T::zero(),
                a.as_ptr().wrapping_add(first * a_column),
                a_column.cast_signed(),
                a_row.cast_signed(),
                b.as_ptr().wrapping_add(first * b_row),
                b_column.cast_signed(),
                b_row.cast_signed(),
                beta,
                alpha,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "small whole numbers"
)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u64) -> Vec<f64> {
        (0..n as u64)
            .map(|i| (((i * 2_654_435_761 + seed * 97) % 1009) as f64 - 504.0) / 250.0)
            .collect()
    }

    fn naive(s: GemmShape, a: Matrix<'_, f64>, b: Matrix<'_, f64>) -> Vec<f64> {
        let mut out = Vec::new();
        for p in 0..s.batch {
            for i in 0..s.m {
                for j in 0..s.n {
                    let at = |l: usize| {
                        a.data[p * a.stride + if a.transposed { l * s.m + i } else { i * s.k + l }]
                    };
                    let bt = |l: usize| {
                        b.data[p * b.stride + if b.transposed { j * s.k + l } else { l * s.n + j }]
                    };
                    out.push((0..s.k).map(|l| at(l) * bt(l)).sum());
                }
            }
        }
        out
    }

    #[test]
    fn products_equal_the_definition() {
        for (batch, m, n, k) in [
            (1, 1, 1, 1),
            (3, 5, 7, 4),
            (2, 100, 90, 80),
            (20, 90, 80, 90),
            (1, 3, 2, 0),
            (5, 1, 9, 3),
        ] {
            let s = GemmShape { batch, m, n, k };
            let (a, b) = (numbers(batch * m * k, 1), numbers(batch * k * n, 2));
            for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
                let a = Matrix { data: &a, stride: m * k, transposed: ta };
                let b =
                    Matrix { data: &b, stride: if batch == 5 { 0 } else { k * n }, transposed: tb };
                let expected = naive(s, a, b);
                let mut out = vec![1.0; batch * m * n];
                batched_gemm(s, 2.0, a, b, 3.0, &mut out);
                for (o, e) in out.iter().zip(&expected) {
                    assert!(
                        (o - (2.0 * e + 3.0)).abs() < 1e-9,
                        "{s:?} {ta} {tb}: {o} for {}",
                        2.0 * e + 3.0
                    );
                }
                out.fill(f64::NAN);
                batched_gemm(s, 1.0, a, b, 0.0, &mut out);
                assert!(
                    out.iter().zip(&expected).all(|(o, e)| (o - e).abs() < 1e-9),
                    "{s:?}: beta 0 reads the output"
                );
            }
        }
    }

    #[test]
    fn serial_products_equal_the_definition() {
        for (m, n, k) in [(1, 1, 1), (5, 7, 4), (70, 90, 300), (3, 2, 0)] {
            let s = GemmShape { batch: 1, m, n, k };
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
                let (a, b) = (
                    Matrix { data: &a, stride: 0, transposed: ta },
                    Matrix { data: &b, stride: 0, transposed: tb },
                );
                let mut out = vec![f64::NAN; m * n];
                serial_gemm([m, n, k], 2.0, a, b, 0.0, &mut out);
                assert!(
                    out.iter().zip(naive(s, a, b)).all(|(o, e)| (o - 2.0 * e).abs() < 1e-9),
                    "{s:?} {ta} {tb}"
                );
            }
        }
    }

    #[test]
    fn gram_matrices_are_symmetric_products() {
        for (n, k) in [(1, 3), (7, 5), (150, 40)] {
            let (a, more) = (numbers(n * k, 3), numbers(n * k, 4));
            for transposed in [false, true] {
                let of = |data| Matrix { data, stride: 0, transposed };
                let mut out = vec![f64::NAN; n * n];
                serial_gram(n, k, 0.5, of(&a), 0.0, &mut out);
                serial_gram(n, k, -2.0, of(&more), 1.0, &mut out);
                mirror_lower(n, &mut out);
                let full = |data| {
                    naive(
                        GemmShape { batch: 1, m: n, n, k },
                        of(data),
                        Matrix { data, stride: 0, transposed: !transposed },
                    )
                };
                for ((o, x), y) in out.iter().zip(full(&a)).zip(full(&more)) {
                    assert!((o - (0.5 * x - 2.0 * y)).abs() < 1e-9, "{n} {k} {transposed}");
                }
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let s = GemmShape { batch: 2, m: 300, n: 70, k: 150 };
        let a: Vec<f32> = numbers(2 * 300 * 150, 3).iter().map(|&x| x as f32).collect();
        let b: Vec<f32> = numbers(2 * 150 * 70, 4).iter().map(|&x| x as f32).collect();
        let run = |threads| {
            let mut out = vec![0f32; 2 * 300 * 70];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                batched_gemm(
                    s,
                    1.0,
                    Matrix::plain(&a, 300 * 150),
                    Matrix::plain(&b, 150 * 70),
                    0.0,
                    &mut out,
                );
            });
            out
        };
        assert_eq!(run(1), run(3));
    }
}
