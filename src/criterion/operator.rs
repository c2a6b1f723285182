//! Operators with gradients of our own under candle's autograd: batch normalisation and adaptive pooling, and what [`super::convolution`] shares with
//! them.
//!
//! They run on the host, by our kernels; a tensor elsewhere is brought there and its gradient back.

use super::Element;
use super::pool::{pool, pool_adjoint};
use crate::error::{Error, Result};
use crate::kernel::Float as _;
use crate::kernel::norm::{self, Planes};
use candle_core::{CpuStorage, CustomOp1, CustomOp3, Device, Layout, Shape, Tensor, WithDType as _, bail};
use num_traits::Zero;
use rayon::prelude::*;

/// What batch normalisation adds to the variance.
const BATCH_NORM_EPS: f64 = 1e-5;

pub(super) type Computed = candle_core::Result<(CpuStorage, Shape)>;

/// The elements of a dense tensor.
pub(super) fn dense<'a, T: Element>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [T]> {
    match layout.contiguous_offsets().and_then(|(start, end)| T::cpu_storage_as_slice(storage).ok()?.get(start..end)) {
        Some(values) => Ok(values),
        None => bail!("expected dense values of one floating-point type"),
    }
}

/// `$body` for the element type of a storage.
macro_rules! by_element {
    ($storage:expr, $t:ident => $body:expr) => {
        match $storage {
            CpuStorage::F32(_) => {
                type $t = f32;
                $body
            }
            CpuStorage::F64(_) => {
                type $t = f64;
                $body
            }
            _ => bail!("expected f32 or f64"),
        }
    };
}

pub(super) use by_element;

/// A tensor as the kernels take it: dense, on the host.
pub(super) fn host(x: &Tensor) -> candle_core::Result<Tensor> {
    x.to_device(&Device::Cpu)?.contiguous()
}

/// Batch normalisation with the batch's own (biased) statistics: `y = (x − mean)/√(var + 1e-5)·weight + bias`, by channel.
///
/// # Shapes
/// `x` `[batch, channels, …]`; `weight`, `bias` `[channels]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn batch_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let channels = x.dims().get(1).copied();
    if x.elem_count() == 0 || channels != Some(weight.elem_count()) || weight.dims() != bias.dims() {
        return Err(Error::input(format!("batch norm of {:?} by {:?} and {:?}: shapes do not fit", x.dims(), weight.dims(), bias.dims())));
    }
    Ok(host(x)?.apply_op3(&host(weight)?, &host(bias)?, BatchNorm)?.to_device(x.device())?)
}

struct BatchNorm;

impl BatchNorm {
    fn planes(shape: &Shape) -> Planes {
        let dims = shape.dims();
        Planes { outer: dims[0], channels: dims[1], inner: dims[2..].iter().product() }
    }

    /// Mean and reciprocal standard deviation of each channel.
    fn moments<T: Element>(x: &[T], planes: Planes) -> (Vec<f64>, Vec<f64>) {
        norm::statistics(x, planes).into_iter().map(|(mean, var)| (mean, 1.0 / (var + BATCH_NORM_EPS).sqrt())).unzip()
    }

    /// The gradients of input, weight and bias. With Σ over a channel's n values and r = 1/√(var + ε): dβ = Σdy, dγ = r·Σdy(x − μ) and
    /// dx = γr·(dy − Σdy/n − (x − μ)·r²·Σdy(x − μ)/n).
    fn gradients<T: Element>(x: &Tensor, weight: &Tensor, dy: &Tensor) -> Result<[Tensor; 3]> {
        let planes = Self::planes(x.shape());
        let (values, scale, dy) = (super::values::<T>(x)?, super::values::<f64>(weight)?, super::values::<T>(dy)?);
        let (means, rstd) = Self::moments(&values, planes);
        let sums = norm::gradient_sums(&values, &dy, planes, &means);
        let terms: Vec<[f64; 4]> = (0..means.len())
            .map(|c| {
                let (factor, r) = (scale[c] * rstd[c], rstd[c]);
                let share = factor / planes.count();
                [means[c], factor, -share * r * r * sums[c].1, -share * sums[c].0]
            })
            .collect();
        let dx = norm::input_gradient(&values, &dy, planes, &terms);
        let by_channel = |sums: Vec<f64>| super::tensor_like(sums, weight);
        Ok([
            Tensor::from_vec(dx, x.shape(), &Device::Cpu)?,
            by_channel(sums.iter().zip(&rstd).map(|(s, r)| s.1 * r).collect())?,
            by_channel(sums.iter().map(|s| s.0).collect())?,
        ])
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout, b: &CpuStorage, lb: &Layout) -> Computed {
        let planes = Self::planes(lx.shape());
        by_element!(x, T => {
            let (x, w, b) = (dense::<T>(x, lx)?, dense::<T>(w, lw)?, dense::<T>(b, lb)?);
            let (means, rstd) = Self::moments(x, planes);
            let centre: Vec<(f64, f64, f64)> =
                (0..means.len()).map(|c| (means[c], w[c].wide() * rstd[c], b[c].wide())).collect();
            Ok((T::to_cpu_storage_owned(norm::normalize(x, planes, &centre)), lx.shape().clone()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradients = match x.dtype() {
            candle_core::DType::F32 => Self::gradients::<f32>(x, weight, dy),
            _ => Self::gradients::<f64>(x, weight, dy),
        };
        let [dx, dw, db] = gradients.map_err(candle_core::Error::wrap)?;
        Ok((Some(dx), Some(dw), Some(db)))
    }
}

/// Adaptive average pooling: output bin o of n over N inputs averages the inputs floor(o·N/n) … ceil((o+1)·N/n)−1, per axis. Bins may overlap, and
/// `size` may be the larger one.
///
/// # Shapes
/// `x` `[batch, channels, height, width]`; result `[batch, channels, size[0], size[1]]`.
///
/// # Errors
/// When `x` is no map.
pub fn adaptive_pool(x: &Tensor, size: [usize; 2]) -> Result<Tensor> {
    let &[_, _, h, w] = x.dims() else { return Err(Error::input(format!("pooling: expected a map, found {:?}", x.dims()))) };
    if [h, w] == size {
        return Ok(x.clone());
    }
    if x.elem_count() == 0 || size.contains(&0) {
        return Err(Error::input(format!("pooling of {:?} to {size:?}: expected sizes from 1 on", x.dims())));
    }
    Ok(host(x)?.apply_op1(AdaptivePool { large: [h, w], small: size, adjoint: false })?.to_device(x.device())?)
}

struct AdaptivePool {
    large: [usize; 2],
    small: [usize; 2],
    adjoint: bool,
}

impl CustomOp1 for AdaptivePool {
    fn name(&self) -> &'static str {
        "adaptive-pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Computed {
        let dims = layout.shape().dims();
        let (from, to) = if self.adjoint { (self.small, self.large) } else { (self.large, self.small) };
        let shape = Shape::from((dims[0], dims[1], to[0], to[1]));
        by_element!(x, T => {
            let x = dense::<T>(x, layout)?;
            let mut y = vec![T::zero(); shape.elem_count()];
            y.par_chunks_mut(to[0] * to[1]).zip(x.par_chunks(from[0] * from[1])).for_each(|(y, x)| {
                if self.adjoint { pool_adjoint(x, self.large, self.small, y) } else { pool(x, self.large, self.small, y) }
            });
            Ok((T::to_cpu_storage_owned(y), shape))
        })
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let adjoint = Self { adjoint: true, ..*self };
        Ok(Some(dy.contiguous()?.apply_op1_no_bwd(&adjoint)?))
    }
}
