//! Neuron Selectivity Transfer (Huang & Wang 2017, arXiv:1707.01219): squared MMD between the channel maps of teacher and student.
//!
//! With the unit maps of one image as rows of Y, `P = Y Yᵀ` holds every scalar product, so the three terms cost three batched products of `[C, C']` and the
//! gradient two more; no tensor of `[batch, C, C', H·W]` is ever made.

use super::pool::{pool, pool_adjoint};
use super::{Element, Loss, values};
use crate::error::{Error, Result};
use crate::kernel::{Float, GemmShape, Matrix, batched_gemm};
use crate::recipe::{Kernel, Normalization, Sigma};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

/// The norm at or under which a channel counts as dead: it keeps its (near-zero) value and has no gradient.
const DEAD_NORM: f64 = 1e-12;
/// What `x / √(Σx² + ε)` adds under the root.
const RSQRT_EPS: f64 = 1e-10;

/// Which form of the criterion is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NstOptions {
    /// The kernel.
    pub kernel: Kernel,
    /// How a channel map becomes a unit vector.
    pub normalization: Normalization,
    /// Whether the value includes the teacher–teacher term, which has no gradient (the paper's code drops it).
    pub teacher_term: bool,
}

impl From<Kernel> for NstOptions {
    fn from(kernel: Kernel) -> Self {
        Self { kernel, normalization: Normalization::default(), teacher_term: true }
    }
}

/// `L = mean_b [ mean k(t_i,t_j) + mean k(s_i,s_j) − 2 mean k(t_i,s_j) ]` over L2-normalised channel maps; the larger map is first
/// adaptively average-pooled to the smaller, per axis. A channel of norm ≤ 1e-12 is the zero vector with zero gradient.
///
/// # Shapes
/// `student` `[batch, channels_s, height_s, width_s]`, `teacher` `[batch, channels_t, height_t, width_t]`.
///
/// # Errors
/// When batches disagree.
pub fn nst(student: &Tensor, teacher: &Tensor, kernel: Kernel) -> Result<Loss> {
    nst_with(student, teacher, &kernel.into())
}

/// [`nst`] in the form that `options` choose.
///
/// # Shapes
/// As [`nst`].
///
/// # Errors
/// As [`nst`].
pub fn nst_with(student: &Tensor, teacher: &Tensor, options: &NstOptions) -> Result<Loss> {
    match student.dtype() {
        DType::F32 => compute::<f32>(student, teacher, options),
        DType::F64 => compute::<f64>(student, teacher, options),
        other => Err(Error::input(format!("nst: expected f32 or f64, found {other:?}"))),
    }
}

fn compute<T: Element>(student: &Tensor, teacher: &Tensor, options: &NstOptions) -> Result<Loss> {
    let (&[batch, channels_s, hs, ws], &[batch_t, channels_t, ht, wt]) = (student.dims(), teacher.dims()) else {
        return Err(Error::input(format!(
            "nst: expected maps [batch, channels, height, width], found {:?} and {:?}",
            student.dims(),
            teacher.dims()
        )));
    };
    if batch != batch_t || student.elem_count() == 0 || teacher.elem_count() == 0 {
        return Err(Error::input(format!("nst: expected maps of one batch, found {:?} and {:?}", student.dims(), teacher.dims())));
    }
    let size = [hs.min(ht), ws.min(wt)];
    let s = Maps::<T>::new(student, size, options.normalization)?;
    let t = Maps::<T>::new(teacher, size, options.normalization)?;
    debug_assert_eq!((s.channels, t.channels), (channels_s, channels_t));

    let (per_sample, mut gradient) = match options.kernel {
        Kernel::Linear => linear(&s, &t, options.teacher_term),
        kernel => products(&s, &t, kernel, options.teacher_term),
    };
    s.through_normalization(&mut gradient);
    let gradient = if [hs, ws] == size { gradient } else { pool_adjoint(&gradient, [hs, ws], size) };
    Ok(Loss { value: per_sample.iter().sum::<f64>() / count(batch), gradient: Tensor::from_vec(gradient, student.shape(), &Device::Cpu)? })
}

#[allow(clippy::cast_precision_loss, reason = "a number of samples or channels")]
fn count(n: usize) -> f64 {
    n as f64
}

/// The normalised channel maps of a batch.
struct Maps<T> {
    batch: usize,
    channels: usize,
    /// Positions of a map.
    positions: usize,
    /// The unit maps, `[batch, channels, positions]`.
    unit: Vec<T>,
    /// What each map was multiplied by, `[batch, channels]`; 0 where no gradient passes.
    factor: Vec<T>,
}

impl<T: Element> Maps<T> {
    fn new(maps: &Tensor, size: [usize; 2], normalization: Normalization) -> Result<Self> {
        let (batch, channels, height, width) = maps.dims4()?;
        let mut unit = values::<T>(maps)?;
        if [height, width] != size {
            unit = pool(&unit, [height, width], size);
        }
        let positions = size[0] * size[1];
        let mut factor = vec![T::zero(); batch * channels];
        unit.par_chunks_mut(positions).zip(&mut factor).for_each(|(map, factor)| {
            let squares = map.iter().map(|v| v.wide() * v.wide()).sum::<f64>();
            let (scale, live) = match normalization {
                Normalization::Clamped => (1.0 / squares.sqrt().max(DEAD_NORM), squares.sqrt() > DEAD_NORM),
                Normalization::Rsqrt => (1.0 / (squares + RSQRT_EPS).sqrt(), true),
            };
            for value in map.iter_mut() {
                *value = T::of(value.wide() * scale);
            }
            *factor = if live { T::of(scale) } else { T::zero() };
        });
        Ok(Self { batch, channels, positions, unit, factor })
    }

    /// Elements of one sample.
    fn sample_len(&self) -> usize {
        self.channels * self.positions
    }

    fn matrix(&self) -> Matrix<'_, T> {
        Matrix::plain(&self.unit, self.sample_len())
    }

    /// Y Y'ᵀ of every sample: `[batch, channels, other.channels]`.
    fn times(&self, other: &Self) -> Vec<T> {
        let mut out = vec![T::zero(); self.batch * self.channels * other.channels];
        let shape = GemmShape { batch: self.batch, m: self.channels, n: other.channels, k: self.positions };
        batched_gemm(shape, T::one(), self.matrix(), Matrix::transposed(&other.unit, other.sample_len()), T::zero(), &mut out);
        out
    }

    /// The mean map of each sample in f64, `[batch, positions]`.
    fn means(&self) -> Vec<f64> {
        let mut out = vec![0.0; self.batch * self.positions];
        out.par_chunks_mut(self.positions).zip(self.unit.par_chunks(self.sample_len())).for_each(|(mean, sample)| {
            for map in sample.chunks_exact(self.positions) {
                for (m, v) in mean.iter_mut().zip(map) {
                    *m += v.wide();
                }
            }
            for m in mean {
                *m /= count(self.channels);
            }
        });
        out
    }

    /// ‖y‖² of each map, `[batch, channels]`: 1, or less for a dead one.
    fn squares(&self) -> Vec<f64> {
        self.unit.par_chunks(self.positions).map(|map| map.iter().map(|v| v.wide() * v.wide()).sum()).collect()
    }

    /// Turns gradients with respect to the unit maps into those with respect to the maps: g ← (g − y (y·g)) · factor, which is the
    /// derivative of x/‖x‖ and of x/√(‖x‖² + ε) alike.
    fn through_normalization(&self, gradient: &mut [T]) {
        gradient.par_chunks_mut(self.positions).zip(self.unit.par_chunks(self.positions)).zip(&self.factor).for_each(
            |((g, y), &factor)| {
                let along = T::of(g.iter().zip(y).map(|(g, y)| g.wide() * y.wide()).sum::<f64>());
                for (g, &y) in g.iter_mut().zip(y) {
                    *g = if factor == T::zero() { T::zero() } else { (*g - y * along) * factor };
                }
            },
        );
    }
}

/// The linear kernel: `L_b = ‖m_t − m_s‖²`, m the mean map. Without the teacher's term `‖m_t‖²` is missing.
fn linear<T: Element>(s: &Maps<T>, t: &Maps<T>, teacher_term: bool) -> (Vec<f64>, Vec<T>) {
    let (mean_s, mean_t) = (s.means(), t.means());
    let mut gradient = vec![T::zero(); s.unit.len()];
    let scale = 2.0 / (count(s.channels) * count(s.batch));
    let per_sample = gradient
        .par_chunks_mut(s.sample_len())
        .zip(mean_s.par_chunks(s.positions).zip(mean_t.par_chunks(t.positions)))
        .map(|(gradient, (m_s, m_t))| {
            for map in gradient.chunks_exact_mut(s.positions) {
                for (g, (a, b)) in map.iter_mut().zip(m_s.iter().zip(m_t)) {
                    *g = T::of(scale * (a - b));
                }
            }
            let distance: f64 = m_s.iter().zip(m_t).map(|(a, b)| (a - b) * (a - b)).sum();
            if teacher_term { distance } else { distance - m_t.iter().map(|b| b * b).sum::<f64>() }
        })
        .collect();
    (per_sample, gradient)
}

/// The kernels of scalar products. Each kernel matrix is turned in place into the weights W of the gradient `Σ_j W_ij y_j`.
fn products<T: Element>(s: &Maps<T>, t: &Maps<T>, kernel: Kernel, teacher_term: bool) -> (Vec<f64>, Vec<T>) {
    let (batch, m, n) = (s.batch, s.channels, t.channels);
    let mut own = s.times(s);
    let mut cross = s.times(t);
    let mut teacher = if teacher_term { t.times(t) } else { Vec::new() };
    let widths = Widths::new(kernel, s, t);

    let mut per_sample: Vec<f64> = own
        .par_chunks_mut(m * m)
        .zip(cross.par_chunks_mut(m * n))
        .enumerate()
        .map(|(b, (own, cross))| {
            let (squares_s, squares_t) = widths.squares(b, m, n);
            let k_own = apply(kernel, widths.of(b), own, squares_s, squares_s, 2.0 / (count(m * m) * count(batch)));
            let k_cross = apply(kernel, widths.of(b), cross, squares_s, squares_t, -2.0 / (count(m * n) * count(batch)));
            if matches!(kernel, Kernel::Gauss { .. }) {
                // d k(x, y)/dx = k·(y − x)/σ²: the part of −x is a diagonal
                for (i, (own, cross)) in own.chunks_exact_mut(m).zip(cross.chunks_exact(n)).enumerate() {
                    let sum: f64 = own.iter().chain(cross).map(|w| w.wide()).sum();
                    own[i] -= T::of(sum);
                }
            }
            k_own / count(m * m) - 2.0 * k_cross / count(m * n)
        })
        .collect();
    if teacher_term {
        per_sample.par_iter_mut().zip(teacher.par_chunks_mut(n * n)).enumerate().for_each(|(b, (value, products))| {
            let (_, squares_t) = widths.squares(b, m, n);
            *value += apply(kernel, widths.of(b), products, squares_t, squares_t, 0.0) / count(n * n);
        });
    }

    let mut gradient = vec![T::zero(); s.unit.len()];
    let shape = |k| GemmShape { batch, m, n: s.positions, k };
    batched_gemm(shape(m), T::one(), Matrix::plain(&own, m * m), s.matrix(), T::zero(), &mut gradient);
    batched_gemm(shape(n), T::one(), Matrix::plain(&cross, m * n), t.matrix(), T::one(), &mut gradient);
    (per_sample, gradient)
}

/// σ² of each sample and the squared norms that a distance needs; empty for kernels of the scalar product alone.
struct Widths {
    variance: Vec<f64>,
    student: Vec<f64>,
    teacher: Vec<f64>,
}

impl Widths {
    fn new<T: Element>(kernel: Kernel, s: &Maps<T>, t: &Maps<T>) -> Self {
        let Kernel::Gauss { sigma } = kernel else { return Self { variance: Vec::new(), student: Vec::new(), teacher: Vec::new() } };
        let (student, teacher) = (s.squares(), t.squares());
        let variance = match sigma {
            Sigma::Fixed(sigma) => vec![sigma * sigma; s.batch],
            Sigma::AutoSample | Sigma::AutoBatch => {
                // mean_ij ‖t_i − s_j‖² = mean ‖t_i‖² + mean ‖s_j‖² − 2 m_t·m_s
                let (mean_s, mean_t) = (s.means(), t.means());
                let each: Vec<f64> = (0..s.batch)
                    .map(|b| {
                        let mean = |squares: &[f64], n: usize| squares[b * n..][..n].iter().sum::<f64>() / count(n);
                        let row = b * s.positions..(b + 1) * s.positions;
                        let dot: f64 = mean_s[row.clone()].iter().zip(&mean_t[row]).map(|(a, b)| a * b).sum();
                        (mean(&student, s.channels) + mean(&teacher, t.channels) - 2.0 * dot).max(0.0)
                    })
                    .collect();
                if sigma == Sigma::AutoBatch { vec![each.iter().sum::<f64>() / count(s.batch); s.batch] } else { each }
            }
        };
        Self { variance, student, teacher }
    }

    fn of(&self, sample: usize) -> f64 {
        self.variance.get(sample).copied().unwrap_or(1.0)
    }

    fn squares(&self, sample: usize, m: usize, n: usize) -> (&[f64], &[f64]) {
        let part = |all: &'_ [f64], len: usize| if all.is_empty() { 0..0 } else { sample * len..(sample + 1) * len };
        (&self.student[part(&self.student, m)], &self.teacher[part(&self.teacher, n)])
    }
}

/// Sums k over the scalar products of one sample, and replaces each product by `scale`·k′ (for the Gaussian `scale`·k/σ²).
fn apply<T: Float>(kernel: Kernel, variance: f64, products: &mut [T], rows: &[f64], columns: &[f64], scale: f64) -> f64 {
    match kernel {
        // the linear kernel has its own, cheaper path; here for completeness: k = p, k′ = 1
        Kernel::Linear => replace(products, |p| (p, T::of(scale))),
        Kernel::Poly { degree: 2, constant } => {
            let (c, twice) = (T::of(constant), T::of(2.0 * scale));
            replace(products, |p| ((p + c) * (p + c), twice * (p + c)))
        }
        Kernel::Poly { degree, constant } => {
            let (c, factor, less) = (T::of(constant), T::of(f64::from(degree) * scale), i32::try_from(degree).unwrap_or(i32::MAX) - 1);
            replace(products, |p| {
                let power = (p + c).powi(less);
                (power * (p + c), factor * power)
            })
        }
        // every pair coincides: the distributions are one, and nothing pulls
        Kernel::Gauss { .. } if variance <= 0.0 => {
            let pairs = count(products.len());
            products.fill(T::zero());
            pairs
        }
        Kernel::Gauss { .. } => {
            let (exponent, factor) = (T::of(-0.5 / variance), T::of(scale / variance));
            let two = T::of(2.0);
            let mut sum = 0.0;
            for (row, &square) in products.chunks_exact_mut(columns.len()).zip(rows) {
                for (p, &other) in row.iter_mut().zip(columns) {
                    let distance = (T::of(square + other) - two * *p).max(T::zero());
                    let k = (exponent * distance).exp();
                    sum += k.wide();
                    *p = factor * k;
                }
            }
            sum
        }
    }
}

/// Sums the first of what `f` makes of each value, and puts the second in its place.
fn replace<T: Float>(values: &mut [T], f: impl Fn(T) -> (T, T)) -> f64 {
    let mut sum = 0.0;
    for value in values {
        let (k, weight) = f(*value);
        sum += k.wide();
        *value = weight;
    }
    sum
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Compares a gradient with central differences of the loss, entry by entry, in f64.
    pub fn assert_gradient(student: &Tensor, tolerance: f64, loss: impl Fn(&Tensor) -> Loss) {
        let student = student.to_dtype(DType::F64).unwrap();
        let at = student.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let gradient = loss(&student).gradient.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let step = 1e-5;
        for i in 0..at.len() {
            let moved = |by: f64| {
                let mut values = at.clone();
                values[i] += by;
                loss(&Tensor::from_vec(values, student.shape(), &Device::Cpu).unwrap()).value
            };
            let slope = (moved(step) - moved(-step)) / (2.0 * step);
            assert!((slope - gradient[i]).abs() < tolerance, "entry {i}: slope {slope}, gradient {}", gradient[i]);
        }
    }

    fn maps(shape: [usize; 4], seed: u32) -> Tensor {
        let mut state = seed;
        let values: Vec<f64> = (0..shape.iter().product())
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f64::from(state >> 8) / f64::from(1 << 24) - 0.4
            })
            .collect();
        Tensor::from_vec(values, &shape, &Device::Cpu).unwrap()
    }

    const KERNELS: [Kernel; 5] = [
        Kernel::Linear,
        Kernel::Poly { degree: 2, constant: 0.0 },
        Kernel::Poly { degree: 3, constant: 0.5 },
        Kernel::Gauss { sigma: Sigma::Fixed(0.8) },
        Kernel::Poly { degree: 1, constant: 1.0 },
    ];

    #[test]
    fn gradients_match_finite_differences() {
        // one side larger in height, the other in width
        let (student, teacher) = (maps([2, 3, 5, 3], 1), maps([2, 4, 3, 4], 2));
        for kernel in KERNELS {
            assert_gradient(&student, 1e-7, |s| nst(s, &teacher, kernel).unwrap());
            for normalization in [Normalization::Clamped, Normalization::Rsqrt] {
                let options = NstOptions { kernel, normalization, teacher_term: false };
                assert_gradient(&student, 1e-7, |s| nst_with(s, &teacher, &options).unwrap());
            }
        }
    }

    #[test]
    fn automatic_widths_are_detached() {
        let (student, teacher) = (maps([2, 3, 4, 4], 1), maps([2, 4, 4, 4], 2));
        let s = Maps::<f64>::new(&student, [4, 4], Normalization::Clamped).unwrap();
        let t = Maps::<f64>::new(&teacher, [4, 4], Normalization::Clamped).unwrap();
        for sigma in [Sigma::AutoSample, Sigma::AutoBatch] {
            let widths = Widths::new(Kernel::Gauss { sigma }, &s, &t);
            let one = |b: usize, sigma: f64| {
                let at = |x: &Tensor| x.narrow(0, b, 1).unwrap();
                nst(&at(&student), &at(&teacher), Kernel::Gauss { sigma: Sigma::Fixed(sigma) }).unwrap()
            };
            let whole = nst(&student, &teacher, Kernel::Gauss { sigma }).unwrap();
            let parts: Vec<Loss> = (0..2).map(|b| one(b, widths.of(b).sqrt())).collect();
            assert!((whole.value - f64::midpoint(parts[0].value, parts[1].value)).abs() < 1e-12);
            let expected = (Tensor::cat(&[&parts[0].gradient, &parts[1].gradient], 0).unwrap() * 0.5).unwrap();
            let off = (whole.gradient - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(off < 1e-12, "{off}");
        }
    }

    #[test]
    fn a_dead_channel_has_no_gradient() {
        let mut values = maps([1, 2, 2, 2], 5).flatten_all().unwrap().to_vec1::<f64>().unwrap();
        values[..4].fill(0.0);
        let student = Tensor::from_vec(values, (1, 2, 2, 2), &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
        for kernel in KERNELS.into_iter().chain([Kernel::Gauss { sigma: Sigma::AutoSample }]) {
            let loss = nst(&student, &maps([1, 3, 2, 2], 6), kernel).unwrap();
            let gradient = loss.gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(gradient[..4], [0.0; 4], "{kernel:?}");
            assert!(loss.value.is_finite() && gradient.iter().all(|g| g.is_finite()), "{kernel:?}");
        }
    }

    #[test]
    fn coincident_maps_have_neither_loss_nor_gradient() {
        let map = Tensor::ones((1, 1, 2, 2), DType::F32, &Device::Cpu).unwrap();
        for sigma in [Sigma::AutoSample, Sigma::AutoBatch] {
            let loss = nst(&map, &map, Kernel::Gauss { sigma }).unwrap();
            assert!(loss.value.abs() < 1e-12);
            assert!(loss.gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|g| *g == 0.0));
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (student, teacher) = (maps([5, 7, 6, 6], 1), maps([5, 9, 8, 8], 2));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| nst(&student.to_dtype(DType::F32).unwrap(), &teacher, Kernel::Gauss { sigma: Sigma::AutoBatch }).unwrap())
        };
        let (one, three) = (run(1), run(3));
        assert_eq!(one.value.to_bits(), three.value.to_bits());
        let bits = |loss: &Loss| loss.gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(bits(&one), bits(&three));
    }

    #[test]
    fn shapes_that_disagree_are_refused() {
        assert!(nst(&maps([2, 3, 2, 2], 1), &maps([3, 3, 2, 2], 1), Kernel::Linear).is_err());
        let flat = maps([2, 3, 2, 2], 1).flatten_from(1).unwrap();
        assert!(nst(&flat, &flat, Kernel::Linear).unwrap_err().to_string().contains("[batch, channels, height, width]"));
    }
}
