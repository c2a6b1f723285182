//! Sums of squared errors over maps, one pass forward and one backward, for four criteria that
//! differ only in the error.

use super::custom::{Computed, Differentiable, Stored, apply};
use super::elements::{Elements, PIECE};
use super::evaluation::Evaluation;
use super::tensor::{by_element, dense, stored, values};
use crate::error::{Error, Result};
use crate::kernel::Float;
use crate::kernel::elementwise::dot;
use crate::kernel::norm::NormShape;
use crate::tensor::Element;
use candle_core::{CpuStorage, DType, Device, Tensor, bail};
use rayon::prelude::*;

/// The target that a student's values are drawn to.
pub(crate) trait Aim: Send + Sync + 'static {
    /// x minus its target, or 0 for an element that does not count. The target does not change with
    /// x, so the square's gradient is twice the error.
    fn error<T: Float>(&self, channel: usize, x: T, teacher: T) -> T;
}

/// The teacher's value.
pub(crate) struct Teacher;

impl Aim for Teacher {
    fn error<T: Float>(&self, _: usize, x: T, teacher: T) -> T {
        x - teacher
    }
}

/// `Σ e²` of each channel over batch and positions, in double precision, under candle's autograd.
/// The teacher has no gradient.
///
/// # Shapes
/// `x` and `teacher` of one shape, which is `[outer, channels, inner]` by `planes`; result
/// `[channels]`.
///
/// # Errors
/// When the shapes disagree.
pub(crate) fn squares(
    x: &Tensor,
    teacher: &Tensor,
    planes: NormShape,
    aim: impl Aim,
) -> Result<Tensor> {
    apply(Squares::new(x, teacher, planes, aim)?, &[x])
}

/// The gradient with respect to `x`, from the gradient of its [`squares`].
///
/// # Shapes
/// As [`squares`]; `g` as its result.
///
/// # Errors
/// When the shapes disagree.
pub(crate) fn squares_gradient(
    x: &Tensor,
    teacher: &Tensor,
    planes: NormShape,
    g: &Tensor,
    aim: impl Aim,
) -> Result<Tensor> {
    Ok(Squares::new(x, teacher, planes, aim)?.gradient(&dense(&x.detach())?, &values::<f64>(g)?)?)
}

/// `weight · Σ e²` over all elements with its gradient.
///
/// # Shapes
/// As [`squares`].
///
/// # Errors
/// When the shapes disagree.
pub(crate) fn sum_of_squares(
    x: &Tensor,
    teacher: &Tensor,
    planes: NormShape,
    weight: f64,
    aim: impl Aim,
) -> Result<Evaluation> {
    let (x, op) = (dense(&x.detach())?, Squares::new(x, teacher, planes, aim)?);
    let sums: Vec<f64> = stored(&x, |x, layout| op.sums(Elements::of(x, layout)?))?;
    let gradient = op.gradient(&x, &vec![weight; planes.channels])?;
    Ok(Evaluation {
        value: weight * sums.iter().sum::<f64>(),
        inputs: vec![gradient],
        weights: Vec::new(),
    })
}

struct Squares<A> {
    teacher: Tensor,
    planes: NormShape,
    aim: A,
}

impl<A: Aim> Squares<A> {
    fn new(x: &Tensor, teacher: &Tensor, planes: NormShape, aim: A) -> Result<Self> {
        if x.dims() != teacher.dims()
            || planes.outer * planes.channels * planes.inner != x.elem_count()
        {
            return Err(Error::input(format!(
                "squared errors: {:?} and {:?} by {planes:?}: shapes do not fit",
                x.dims(),
                teacher.dims()
            )));
        }
        Ok(Self { teacher: dense(&teacher.detach())?, planes, aim })
    }

    /// Calls `f(index of the piece's first element, its errors)` for every piece of a plane.
    fn errors<T: Element>(
        &self,
        x: Elements<'_>,
        t: Elements<'_>,
        plane: usize,
        mut f: impl FnMut(usize, &[T]),
    ) {
        let (channel, inner) = (plane % self.planes.channels, self.planes.inner);
        let (mut own, mut other) = ([T::default(); PIECE], [T::default(); PIECE]);
        for first in (0..inner).step_by(PIECE) {
            let len = PIECE.min(inner - first);
            let (own, other) = (&mut own[..len], &mut other[..len]);
            x.read(plane * inner + first, own);
            t.read(plane * inner + first, other);
            for (x, &t) in own.iter_mut().zip(other.iter()) {
                *x = self.aim.error(channel, *x, t);
            }
            f(first, own);
        }
    }

    /// `Σ e²` per channel.
    fn sums(&self, x: Elements<'_>) -> candle_core::Result<Vec<f64>> {
        fn of_plane<A: Aim, T: Element>(
            op: &Squares<A>,
            x: Elements<'_>,
            t: Elements<'_>,
            plane: usize,
        ) -> f64 {
            let mut sum = 0.0;
            op.errors::<T>(x, t, plane, |_, e| sum += dot(e, e));
            sum
        }
        let planes = self.planes;
        let of_plane = if x.is_single() { of_plane::<A, f32> } else { of_plane::<A, f64> };
        let sums: Vec<f64> = stored(&self.teacher, |t, layout| {
            let t = Elements::of(t, layout)?;
            Ok((0..planes.outer * planes.channels)
                .into_par_iter()
                .map(|plane| of_plane(self, x, t, plane))
                .collect())
        })?;
        Ok((0..planes.channels)
            .map(|c| sums.iter().skip(c).step_by(planes.channels).sum())
            .collect())
    }

    /// The gradient of `Σ_c factors[c] · Σ e²`.
    fn gradient(&self, x: &Tensor, factors: &[f64]) -> candle_core::Result<Tensor> {
        let inner = self.planes.inner;
        stored(&self.teacher, |t, layout| {
            let t = Elements::of(t, layout)?;
            stored(x, |storage, layout| {
                let values = Elements::of(storage, layout)?;
                by_element!(storage, |T| {
                    let mut out = vec![T::default(); values.len()];
                    out.par_chunks_mut(inner.max(1)).enumerate().for_each(|(plane, out)| {
                        let factor = <T as Float>::of(2.0 * factors[plane % self.planes.channels]);
                        self.errors::<T>(values, t, plane, |first, errors| {
                            for (out, &e) in out[first..].iter_mut().zip(errors) {
                                *out = factor * e;
                            }
                        });
                    });
                    Tensor::from_vec(out, layout.shape(), &Device::Cpu)
                })
            })
        })
    }
}

impl<A: Aim> Differentiable for Squares<A> {
    fn forward(&self, inputs: &[Stored<'_>]) -> Computed {
        let &[(x, layout)] = inputs else { bail!("squared errors: expected 1 input") };
        Ok((CpuStorage::F64(self.sums(Elements::of(x, layout)?)?), self.planes.channels.into()))
    }

    fn backward(
        &self,
        inputs: &[&Tensor],
        _: &Tensor,
        g: &Tensor,
    ) -> candle_core::Result<Vec<Option<Tensor>>> {
        let factors = g.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        Ok(vec![Some(self.gradient(inputs[0], &factors)?)])
    }
}
