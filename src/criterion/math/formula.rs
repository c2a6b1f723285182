//! Building blocks that several formulas share, each differentiable under candle's autograd with a
//! gradient that is finite everywhere.

use super::elements::count;
use super::operator::{adaptive_pool, leaky_relu};
use super::squares::{Teacher, squares};
use crate::error::{Error, Result};
use crate::kernel::norm::NormShape;
use candle_core::{D, DType, Tensor};

/// The sum of all elements in double precision: rows in their own type, the row sums in f64.
pub(crate) fn total(x: &Tensor) -> Result<Tensor> {
    let rows = if x.rank() > 1 { x.sum(D::Minus1)? } else { x.clone() };
    Ok(rows.to_dtype(DType::F64)?.sum_all()?)
}

/// The mean of all elements in double precision.
pub(crate) fn mean(x: &Tensor) -> Result<Tensor> {
    Ok((total(x)? * (1.0 / count(x.elem_count())))?)
}

/// The mean of (x − teacher)², in double precision; no gradient for the teacher.
pub(crate) fn mean_square(x: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    Ok((squares(x, teacher, row_planes(x), Teacher)?.sum_all()? * (1.0 / count(x.elem_count())))?)
}

/// max(x, 0), gradient 0 at 0.
pub(crate) fn relu(x: &Tensor) -> Result<Tensor> {
    leaky_relu(x, 0.0)
}

/// |x|, gradient 0 at 0.
pub(crate) fn magnitude(x: &Tensor) -> Result<Tensor> {
    Ok((x * x.detach().sign()?)?)
}

/// 1/(1 + e^−x); the exponent is clamped so that it cannot overflow; beyond the clamp the value
/// is 0 or 1 to the last bit.
pub(crate) fn sigmoid(x: &Tensor) -> Result<Tensor> {
    Ok((x.clamp(-80.0, 80.0)?.neg()?.exp()? + 1.0)?.recip()?)
}

/// ln(1 + e^x), which equals x from 35 on.
pub(crate) fn softplus(x: &Tensor) -> Result<Tensor> {
    let large = x.detach().gt(35.0)?;
    let held = large.where_cond(&(x.ones_like()? * 35.0)?, x)?;
    Ok(large.where_cond(x, &(held.exp()? + 1.0)?.log()?)?)
}

/// x raised to an integer power.
///
/// # Errors
/// For power 0.
pub(crate) fn power(x: &Tensor, p: u32) -> Result<Tensor> {
    match p {
        0 => Err(Error::input("power: expected 1 or more, found 0")),
        1 => Ok(x.clone()),
        2 => Ok(x.sqr()?),
        _ => Ok((power(x, p - 1)? * x)?),
    }
}

/// Keeps the division by a norm finite.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Guard {
    /// x / max(‖x‖, ε).
    AtLeast(f64),
    /// x / (‖x‖ + ε).
    Plus(f64),
}

/// The Euclidean norm along the last axis, which is kept with length 1; the gradient is 0 at the
/// zero vector.
pub(crate) fn norm(x: &Tensor) -> Result<Tensor> {
    let squares = x.sqr()?.sum_keepdim(D::Minus1)?;
    let live = squares.detach().gt(0.0)?;
    Ok(live.where_cond(
        &live.where_cond(&squares, &squares.ones_like()?)?.sqrt()?,
        &squares.zeros_like()?,
    )?)
}

/// The rows (vectors along the last axis) divided by their norms. A zero row stays zero, with
/// gradient 0: PyTorch's slope of 1/ε there would drown every other gradient.
pub(crate) fn unit_rows(x: &Tensor, guard: Guard) -> Result<Tensor> {
    let norm = norm(x)?;
    let live = norm.detach().gt(0.0)?.broadcast_as(x.shape())?.contiguous()?;
    let x = live.where_cond(x, &x.zeros_like()?)?;
    let divisor = match guard {
        Guard::AtLeast(eps) => {
            norm.detach().gt(eps)?.where_cond(&norm, &(norm.ones_like()? * eps)?)?
        }
        Guard::Plus(eps) => (norm + eps)?,
    };
    Ok(x.broadcast_div(&divisor)?)
}

/// Each sample as one row, in double precision.
///
/// # Shapes
/// `x` `[batch, …]`; result `[batch, values per sample]`.
pub(crate) fn rows(x: &Tensor, who: &str) -> Result<Tensor> {
    if x.rank() < 2 || x.elem_count() == 0 {
        return Err(Error::input(format!("{who}: expected [batch, …], found {:?}", x.dims())));
    }
    Ok(x.flatten_from(1)?.to_dtype(DType::F64)?)
}

/// Batch, channels, height and width of maps.
pub(crate) fn map_dims(x: &Tensor, who: &str) -> Result<[usize; 4]> {
    match *x.dims() {
        [b, c, h, w] if x.elem_count() > 0 => Ok([b, c, h, w]),
        _ => Err(Error::input(format!(
            "{who}: expected maps [batch, channels, height, width], found {:?}",
            x.dims()
        ))),
    }
}

/// Samples as planes of one channel.
pub(crate) fn row_planes(x: &Tensor) -> NormShape {
    let rows = if x.rank() > 1 { x.dims()[0] } else { 1 };
    NormShape { outer: rows, channels: 1, inner: x.elem_count() / rows.max(1) }
}

/// The planes of maps `[batch, channels, …]`.
pub(crate) fn planes(x: &Tensor) -> Result<NormShape> {
    let (outer, channels) = (x.dim(0)?, x.dim(1)?);
    Ok(NormShape { outer, channels, inner: x.elem_count() / (outer * channels).max(1) })
}

/// A teacher's map, adaptively average-pooled in the given type; unchanged if it already has that
/// size.
pub(crate) fn pooled_teacher(t: &Tensor, size: [usize; 2], dtype: DType) -> Result<Tensor> {
    let [_, _, h, w] = map_dims(t, "pooling")?;
    if [h, w] == size { Ok(t.clone()) } else { adaptive_pool(&t.to_dtype(dtype)?, size) }
}

/// The student's and the teacher's map, adaptively average-pooled to the smaller size of each axis.
/// The teacher's may keep its own type.
///
/// # Errors
/// When they are not maps of the same batch.
pub(crate) fn common_size(a: &Tensor, b: &Tensor, who: &str) -> Result<(Tensor, Tensor)> {
    let ([batch, _, ha, wa], [other, _, hb, wb]) = (map_dims(a, who)?, map_dims(b, who)?);
    if batch != other {
        return Err(Error::input(format!(
            "{who}: expected maps of one batch, found {:?} and {:?}",
            a.dims(),
            b.dims()
        )));
    }
    let size = [ha.min(hb), wa.min(wb)];
    Ok((adaptive_pool(a, size)?, pooled_teacher(b, size, a.dtype())?))
}

/// Nearest-neighbor resampling: output i reads input floor(i · N/n), in single precision as
/// PyTorch computes it.
///
/// # Shapes
/// `x` `[batch, channels, height, width]`; result `[batch, channels, size[0], size[1]]`.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes of maps"
)]
pub(crate) fn nearest(x: &Tensor, size: [usize; 2]) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    let mut y = x.clone();
    for (axis, (from, to)) in [(h, size[0]), (w, size[1])].into_iter().enumerate() {
        if from != to {
            let scale = from as f32 / to as f32;
            let index: Vec<u32> =
                (0..to).map(|i| ((i as f32 * scale) as u32).min(from as u32 - 1)).collect();
            y = y.contiguous()?.index_select(&Tensor::new(index, x.device())?, axis + 2)?;
        }
    }
    Ok(y)
}

/// The batch size common to both.
///
/// # Errors
/// When the batches differ, or there are no values.
pub(crate) fn same_batch(a: &Tensor, b: &Tensor, who: &str) -> Result<usize> {
    match (a.dims(), b.dims()) {
        ([a_batch, _, ..], [b_batch, _, ..])
            if a_batch == b_batch && a.elem_count() > 0 && b.elem_count() > 0 =>
        {
            Ok(*a_batch)
        }
        (a, b) => Err(Error::input(format!(
            "{who}: expected [batch, …] of one batch, found {a:?} and {b:?}"
        ))),
    }
}

/// The sum of the layers' losses.
///
/// # Errors
/// When there are no layers, or one of them fails.
pub(crate) fn sum_layers(
    layers: impl IntoIterator<Item = Result<Tensor>>,
    who: &str,
) -> Result<Tensor> {
    let sum = layers.into_iter().try_fold(
        None,
        |sum: Option<Tensor>, layer| -> Result<Option<Tensor>> {
            Ok(Some(match sum {
                Some(before) => (before + layer?)?,
                None => layer?,
            }))
        },
    )?;
    sum.ok_or_else(|| Error::input(format!("{who}: expected one layer or more")))
}
