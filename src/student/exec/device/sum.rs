//! Sums on a device.

use crate::error::Result;
use candle_core::Tensor;

/// Sums over what `to` is repeated along to `t`'s shape: the adjoint of broadcasting. One axis at a
/// time, the last first: short chains of additions round less.
pub(super) fn summed_to(t: &Tensor, to: &[usize]) -> Result<Tensor> {
    if t.dims() == to {
        return Ok(t.clone());
    }
    let lead = t.rank() - to.len();
    let mut sum = t.clone();
    for axis in (0..t.rank()).rev() {
        let target = axis.checked_sub(lead).map_or(1, |i| to[i]);
        if target == 1 && t.dims()[axis] != 1 {
            sum = sum.sum_keepdim(axis)?;
        }
    }
    Ok(sum.reshape(to)?)
}

/// Up to this many numbers candle's CUDA backend sums with one thread an output; above it takes a
/// block of threads an output, which reads memory across.
const FEW: usize = 32;

/// Sums the middle axis of `[outer, count, inner]`: a few numbers directly, many as a product with
/// ones.
pub(super) fn middle_sum(t: &Tensor) -> Result<Tensor> {
    let (outer, count, inner) = t.dims3()?;
    if count == 1 {
        return Ok(t.reshape((outer, inner))?);
    }
    if count <= FEW {
        return Ok(t.sum(1)?);
    }
    let ones =
        Tensor::ones((1, 1, count), t.dtype(), t.device())?.broadcast_as((outer, 1, count))?;
    Ok(ones.matmul(&t.contiguous()?)?.reshape((outer, inner))?)
}

/// Sums `[outer, channels, inner]` over everything but the channels.
pub(super) fn channel_sum(t: &Tensor) -> Result<Tensor> {
    Ok(t.sum(2)?.sum(0)?)
}
