//! Operators with gradients of our own under candle's autograd: batch normalisation, leaky ReLU,
//! bias and adaptive pooling, and what [`super::convolution`] shares with them.
//!
//! They run on the host, by our kernels; a tensor elsewhere is brought there and its gradient back.

use super::Element;
use super::pool::{pool, pool_adjoint};
use crate::error::{Error, Result};
use crate::kernel::Float as _;
use crate::kernel::elementwise;
use crate::kernel::norm::{self, NormShape};
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Device, Layout, Shape, Storage, Tensor,
    WithDType as _, bail,
};
use num_traits::Zero;
use rayon::prelude::*;

/// What batch normalisation adds to the variance.
const BATCH_NORM_EPS: f64 = 1e-5;

pub(super) type Computed = candle_core::Result<(CpuStorage, Shape)>;

/// The elements of a dense tensor.
pub(super) fn dense<'a, T: Element>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a [T]> {
    match layout
        .contiguous_offsets()
        .and_then(|(start, end)| T::cpu_storage_as_slice(storage).ok()?.get(start..end))
    {
        Some(values) => Ok(values),
        None => bail!("expected dense values of one floating-point type"),
    }
}

/// Reads a tensor in host memory where it lies.
pub(super) fn stored<R>(
    x: &Tensor,
    f: impl FnOnce(&CpuStorage, &Layout) -> candle_core::Result<R>,
) -> candle_core::Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(storage, layout),
        _ => bail!("expected values in host memory"),
    }
}

/// `$body` for the element type of a storage.
macro_rules! by_element {
    ($storage:expr, |$t:ident| $body:expr) => {
        match $storage {
            candle_core::CpuStorage::F32(_) => {
                type $t = f32;
                $body
            }
            candle_core::CpuStorage::F64(_) => {
                type $t = f64;
                $body
            }
            _ => candle_core::bail!("expected f32 or f64"),
        }
    };
}

pub(super) use by_element;

/// A tensor as the kernels take it: dense, on the host.
pub(super) fn host(x: &Tensor) -> candle_core::Result<Tensor> {
    x.to_device(&Device::Cpu)?.contiguous()
}

/// Batch normalisation with the batch's own (biased) statistics:
/// `y = (x − mean)/√(var + 1e-5)·weight + bias`, by channel.
///
/// # Shapes
/// `x` `[batch, channels, …]`; `weight`, `bias` `[channels]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn batch_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let channels = x.dims().get(1).copied();
    if x.elem_count() == 0 || channels != Some(weight.elem_count()) || weight.dims() != bias.dims()
    {
        return Err(Error::input(format!(
            "batch norm of {:?} by {:?} and {:?}: shapes do not fit",
            x.dims(),
            weight.dims(),
            bias.dims()
        )));
    }
    Ok(host(x)?.apply_op3(&host(weight)?, &host(bias)?, BatchNorm)?.to_device(x.device())?)
}

struct BatchNorm;

impl BatchNorm {
    fn planes(shape: &Shape) -> NormShape {
        let dims = shape.dims();
        NormShape { outer: dims[0], channels: dims[1], inner: dims[2..].iter().product() }
    }

    /// Mean and reciprocal standard deviation of each channel.
    fn moments<T: Element>(x: &[T], planes: NormShape) -> (Vec<f64>, Vec<f64>) {
        norm::statistics(x, planes)
            .into_iter()
            .map(|(mean, var)| (mean, 1.0 / (var + BATCH_NORM_EPS).sqrt()))
            .unzip()
    }

    fn gradients<T: Element>(
        x: &[T],
        dy: &[T],
        planes: NormShape,
        scale: &[f64],
    ) -> (Vec<T>, Vec<f64>, Vec<f64>) {
        let (means, rstd) = Self::moments(x, planes);
        let sums = norm::gradient_sums(x, dy, planes, &means);
        let terms: Vec<[f64; 4]> = (0..means.len())
            .map(|c| {
                let (factor, r) = (scale[c] * rstd[c], rstd[c]);
                let share = factor / planes.count();
                [means[c], factor, -share * r * r * sums[c].1, -share * sums[c].0]
            })
            .collect();
        let dx = norm::input_gradient(x, dy, planes, &terms);
        (
            dx,
            sums.iter().zip(&rstd).map(|(s, r)| s.1 * r).collect(),
            sums.iter().map(|s| s.0).collect(),
        )
    }
}

/// The gradients of input, weight and bias of [`batch_norm`]. With Σ over a channel's n values and
/// r = 1/√(var + ε): dβ = Σdy, dγ = r·Σdy(x − μ) and dx = γr·(dy − Σdy/n − (x −
/// μ)·r²·Σdy(x − μ)/n).
///
/// # Shapes
/// `x`, `weight` as in [`batch_norm`], in host memory; `dy` as its result.
///
/// # Errors
/// When the tensors are not dense, or of two types.
pub(super) fn batch_norm_gradients(
    x: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
) -> Result<[Tensor; 3]> {
    let (planes, scale) = (BatchNorm::planes(x.shape()), super::values::<f64>(weight)?);
    let (dx, dw, db) = stored(x, |x, lx| {
        stored(dy, |dy, ly| {
            by_element!(x, |T| {
                let (dx, dw, db) =
                    BatchNorm::gradients(dense::<T>(x, lx)?, dense::<T>(dy, ly)?, planes, &scale);
                Ok((Tensor::from_vec(dx, lx.shape(), &Device::Cpu)?, dw, db))
            })
        })
    })?;
    Ok([dx, super::tensor_like(dw, weight)?, super::tensor_like(db, weight)?])
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Computed {
        let planes = Self::planes(lx.shape());
        by_element!(x, |T| {
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
        let [dx, dw, db] =
            batch_norm_gradients(x, weight, &dy.contiguous()?).map_err(candle_core::Error::wrap)?;
        Ok((Some(dx), Some(dw), Some(db)))
    }
}

/// x above 0, `slope`·x elsewhere, 0 included.
///
/// # Errors
/// When `x` is neither f32 nor f64.
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    Ok(host(x)?.apply_op1(LeakyRelu(slope))?.to_device(x.device())?)
}

struct LeakyRelu(f64);

impl CustomOp1 for LeakyRelu {
    fn name(&self) -> &'static str {
        "leaky-relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Computed {
        by_element!(x, |T| {
            let slope = T::of(self.0);
            // ReLU is 0 below 0 even at -inf, where a product is not
            let below = |x: T| if slope.is_zero() { slope } else { x * slope };
            let y =
                elementwise::map(
                    dense::<T>(x, layout)?,
                    |x| if x > T::zero() { x } else { below(x) },
                );
            Ok((T::to_cpu_storage_owned(y), layout.shape().clone()))
        })
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(leaky_relu_gradient(y, self.0, dy)?))
    }
}

/// The gradient of the input of [`leaky_relu`] from its result, which is above 0 where the input
/// is.
pub(super) fn leaky_relu_gradient(
    y: &Tensor,
    slope: f64,
    dy: &Tensor,
) -> candle_core::Result<Tensor> {
    y.apply_op2_no_bwd(&dy.contiguous()?, &LeakyReluGradient(slope))
}

struct LeakyReluGradient(f64);

impl CustomOp2 for LeakyReluGradient {
    fn name(&self) -> &'static str {
        "leaky-relu-gradient"
    }

    fn cpu_fwd(&self, y: &CpuStorage, l: &Layout, dy: &CpuStorage, ly: &Layout) -> Computed {
        by_element!(y, |T| {
            let slope = T::of(self.0);
            let dx = elementwise::zip(dense::<T>(y, l)?, dense::<T>(dy, ly)?, |y, dy| {
                if y > T::zero() { dy } else { dy * slope }
            });
            Ok((T::to_cpu_storage_owned(dx), l.shape().clone()))
        })
    }
}

/// Adds `bias[c]` to channel c.
///
/// # Shapes
/// `x`, result `[batch, channels, …]`; `bias` `[channels]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if x.elem_count() == 0
        || x.dims().get(1) != Some(&bias.elem_count())
        || x.dtype() != bias.dtype()
    {
        return Err(Error::input(format!(
            "bias {:?} on {:?}: shapes do not fit",
            bias.dims(),
            x.dims()
        )));
    }
    Ok(host(x)?.apply_op2(&host(bias)?, AddBias)?.to_device(x.device())?)
}

struct AddBias;

impl CustomOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, bias: &CpuStorage, lb: &Layout) -> Computed {
        let inner = lx.shape().dims()[2..].iter().product();
        by_element!(x, |T| {
            let mut y = dense::<T>(x, lx)?.to_vec();
            elementwise::add_per_channel(&mut y, dense::<T>(bias, lb)?, inner);
            Ok((T::to_cpu_storage_owned(y), lx.shape().clone()))
        })
    }

    fn bwd(
        &self,
        _: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(dy.clone()), bias.track_op().then(|| bias_gradient(dy)).transpose()?))
    }
}

/// A product with a number, by all threads.
pub(super) struct Scale(pub(super) f64);

impl CustomOp1 for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Computed {
        by_element!(x, |T| {
            let factor = T::of(self.0);
            Ok((
                T::to_cpu_storage_owned(elementwise::map(dense::<T>(x, layout)?, |x| x * factor)),
                layout.shape().clone(),
            ))
        })
    }
}

/// The gradient of the bias of [`add_bias`].
pub(super) fn bias_gradient(dy: &Tensor) -> candle_core::Result<Tensor> {
    dy.contiguous()?.apply_op1_no_bwd(&ChannelSums)
}

struct ChannelSums;

impl CustomOp1 for ChannelSums {
    fn name(&self) -> &'static str {
        "channel-sums"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Computed {
        let dims = layout.shape().dims();
        by_element!(x, |T| {
            let sums = elementwise::sum_per_channel(
                dense::<T>(x, layout)?,
                dims[1],
                dims[2..].iter().product(),
            );
            Ok((T::to_cpu_storage_owned(sums), dims[1].into()))
        })
    }
}

/// Adaptive average pooling: output bin o of n over N inputs averages the inputs floor(o·N/n) …
/// ceil((o+1)·N/n)−1, per axis. Bins may overlap, and `size` may be the larger one.
///
/// # Shapes
/// `x` `[batch, channels, height, width]`; result `[batch, channels, size[0], size[1]]`.
///
/// # Errors
/// When `x` is no map.
pub fn adaptive_pool(x: &Tensor, size: [usize; 2]) -> Result<Tensor> {
    let &[_, _, h, w] = x.dims() else {
        return Err(Error::input(format!("pooling: expected a map, found {:?}", x.dims())));
    };
    if [h, w] == size {
        return Ok(x.clone());
    }
    if x.elem_count() == 0 || size.contains(&0) {
        return Err(Error::input(format!(
            "pooling of {:?} to {size:?}: expected sizes from 1 on",
            x.dims()
        )));
    }
    Ok(host(x)?
        .apply_op1(AdaptivePool { large: [h, w], small: size, adjoint: false })?
        .to_device(x.device())?)
}

/// The gradient of what was pooled from `size`.
pub(super) fn adaptive_pool_gradient(dy: &Tensor, size: [usize; 2]) -> candle_core::Result<Tensor> {
    let (_, _, h, w) = dy.dims4()?;
    if [h, w] == size {
        return Ok(dy.clone());
    }
    host(dy)?.apply_op1_no_bwd(&AdaptivePool { large: size, small: [h, w], adjoint: true })
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
        let (from, to) =
            if self.adjoint { (self.small, self.large) } else { (self.large, self.small) };
        let shape = Shape::from((dims[0], dims[1], to[0], to[1]));
        by_element!(x, |T| {
            let x = dense::<T>(x, layout)?;
            let mut y = vec![T::zero(); shape.elem_count()];
            y.par_chunks_mut(to[0] * to[1]).zip(x.par_chunks(from[0] * from[1])).for_each(
                |(y, x)| {
                    if self.adjoint {
                        pool_adjoint(x, self.large, self.small, y);
                    } else {
                        pool(x, self.large, self.small, y);
                    }
                },
            );
            Ok((T::to_cpu_storage_owned(y), shape))
        })
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(adaptive_pool_gradient(dy, self.large)?))
    }
}
