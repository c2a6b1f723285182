//! Operators with custom gradients under candle's autograd: batch normalization, leaky ReLU, bias
//! and adaptive pooling; and masks.

use super::custom::{Computed, Differentiable, Stored, apply};
use super::pool::{pool, pool_adjoint};
use super::tensor::{by_element, elements, stored, tensor_like, values};
use crate::error::{Error, Result};
use crate::kernel::Float as _;
use crate::kernel::elementwise;
use crate::kernel::norm::{self, NormShape};
use crate::tensor::Element;
use candle_core::{Device, Shape, Tensor, WithDType as _, bail};
use num_traits::Zero;
use rayon::prelude::*;

/// The ε that batch normalization adds to the variance.
const BATCH_NORM_EPS: f64 = 1e-5;

/// Batch normalization with the batch's own (biased) statistics:
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
    apply(BatchNorm, &[x, weight, bias])
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
        let terms = norm::input_terms([&means, &rstd, scale], Some(planes.count()), &sums);
        let dx = norm::input_gradient(x, dy, planes, &terms);
        let [dw, db] = norm::parameter_gradients(&rstd, &sums);
        (dx, dw, db)
    }
}

/// The gradients of [`batch_norm`] with respect to input, weight and bias ([`norm::input_terms`]).
///
/// # Shapes
/// `x`, `weight` as in [`batch_norm`], in host memory; `dy` as its result.
///
/// # Errors
/// When the tensors are not dense, or differ in type.
pub(crate) fn batch_norm_gradients(
    x: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
) -> Result<[Tensor; 3]> {
    let (planes, scale) = (BatchNorm::planes(x.shape()), values::<f64>(weight)?);
    let (dx, dw, db) = stored(x, |x, lx| {
        stored(dy, |dy, ly| {
            by_element!(x, |T| {
                let (dx, dw, db) = BatchNorm::gradients(
                    elements::<T>(x, lx)?,
                    elements::<T>(dy, ly)?,
                    planes,
                    &scale,
                );
                Ok((Tensor::from_vec(dx, lx.shape(), &Device::Cpu)?, dw, db))
            })
        })
    })?;
    Ok([dx, tensor_like(dw, weight)?, tensor_like(db, weight)?])
}

impl Differentiable for BatchNorm {
    fn forward(&self, inputs: &[Stored<'_>]) -> Computed {
        let &[(x, lx), (w, lw), (b, lb)] = inputs else { bail!("batch norm: expected 3 inputs") };
        let planes = Self::planes(lx.shape());
        by_element!(x, |T| {
            let x = elements::<T>(x, lx)?;
            let (w, b) = (elements::<T>(w, lw)?, elements::<T>(b, lb)?);
            let (means, rstd) = Self::moments(x, planes);
            let center: Vec<(f64, f64, f64)> =
                (0..means.len()).map(|c| (means[c], w[c].wide() * rstd[c], b[c].wide())).collect();
            Ok((T::to_cpu_storage_owned(norm::normalize(x, planes, &center)), lx.shape().clone()))
        })
    }

    fn backward(
        &self,
        inputs: &[&Tensor],
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<Vec<Option<Tensor>>> {
        let gradients = batch_norm_gradients(inputs[0], inputs[1], dy);
        Ok(gradients.map_err(candle_core::Error::wrap)?.map(Some).into())
    }
}

/// x above 0, `slope`·x elsewhere, including 0.
///
/// # Errors
/// When `x` is neither f32 nor f64.
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    apply(LeakyRelu(slope), &[x])
}

struct LeakyRelu(f64);

impl Differentiable for LeakyRelu {
    fn forward(&self, inputs: &[Stored<'_>]) -> Computed {
        let &[(x, layout)] = inputs else { bail!("leaky ReLU: expected 1 input") };
        by_element!(x, |T| {
            let slope = T::of(self.0);
            // ReLU is 0 below 0 even at -inf, where the product is NaN
            let below = |x: T| if slope.is_zero() { slope } else { x * slope };
            let x = elements::<T>(x, layout)?;
            let y = elementwise::map(x, |x| if x > T::zero() { x } else { below(x) });
            Ok((T::to_cpu_storage_owned(y), layout.shape().clone()))
        })
    }

    fn backward(
        &self,
        _: &[&Tensor],
        y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(leaky_relu_gradient(y, self.0, dy)?)])
    }
}

/// The gradient with respect to the input of [`leaky_relu`], from its result, which is above 0
/// exactly where the input is.
pub(crate) fn leaky_relu_gradient(
    y: &Tensor,
    slope: f64,
    dy: &Tensor,
) -> candle_core::Result<Tensor> {
    stored(y, |y, layout| {
        stored(&dy.contiguous()?, |dy, ly| {
            by_element!(y, |T| {
                let slope = T::of(slope);
                let (y, dy) = (elements::<T>(y, layout)?, elements::<T>(dy, ly)?);
                let dx =
                    elementwise::zip(y, dy, |y, dy| if y > T::zero() { dy } else { dy * slope });
                Tensor::from_vec(dx, layout.shape(), &Device::Cpu)
            })
        })
    })
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
    apply(AddBias, &[x, bias])
}

struct AddBias;

impl Differentiable for AddBias {
    fn forward(&self, inputs: &[Stored<'_>]) -> Computed {
        let &[(x, lx), (bias, lb)] = inputs else { bail!("bias: expected 2 inputs") };
        let inner = lx.shape().dims()[2..].iter().product();
        by_element!(x, |T| {
            let mut y = elements::<T>(x, lx)?.to_vec();
            elementwise::add_per_channel(&mut y, elements::<T>(bias, lb)?, inner);
            Ok((T::to_cpu_storage_owned(y), lx.shape().clone()))
        })
    }

    fn backward(
        &self,
        inputs: &[&Tensor],
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<Vec<Option<Tensor>>> {
        let of_bias = inputs[1].track_op().then(|| bias_gradient(dy)).transpose()?;
        Ok(vec![Some(dy.clone()), of_bias])
    }
}

/// Maps times a mask, which is its own adjoint.
///
/// # Shapes
/// `x`, result `[batch, channels, height, width]`, dense; `mask` `[batch, 1, height, width]` or
/// `[batch, channels, 1, 1]`.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn masked(x: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let (&[batch, channels, h, w], mask_dims) = (x.dims(), mask.dims()) else {
        return Err(Error::input(format!("mask: expected maps, found {:?}", x.dims())));
    };
    let of_channels = mask_dims == [batch, channels, 1, 1];
    if x.elem_count() == 0 || !(of_channels || mask_dims == [batch, 1, h, w]) {
        return Err(Error::input(format!(
            "mask {mask_dims:?} of {:?}: shapes do not fit",
            x.dims()
        )));
    }
    let (mask, area) = (values::<f64>(mask)?, h * w);
    Ok(stored(x, |x, layout| {
        by_element!(x, |T| {
            let mut out = elements::<T>(x, layout)?.to_vec();
            out.par_chunks_mut(area).enumerate().for_each(|(plane, out)| {
                if of_channels {
                    let factor = T::of(mask[plane]);
                    for x in out {
                        *x *= factor;
                    }
                } else {
                    let factors = &mask[plane / channels * area..][..area];
                    out.iter_mut().zip(factors).for_each(|(x, &factor)| *x *= T::of(factor));
                }
            });
            Tensor::from_vec(out, layout.shape(), &Device::Cpu)
        })
    })?)
}

/// A dense tensor in host memory times a number, multithreaded.
pub(crate) fn scale(x: &Tensor, factor: f64) -> candle_core::Result<Tensor> {
    stored(x, |x, layout| {
        by_element!(x, |T| {
            let factor = T::of(factor);
            let scaled = elementwise::map(elements::<T>(x, layout)?, |x| x * factor);
            Tensor::from_vec(scaled, layout.shape(), &Device::Cpu)
        })
    })
}

/// The gradient with respect to the bias of [`add_bias`].
pub(crate) fn bias_gradient(dy: &Tensor) -> candle_core::Result<Tensor> {
    stored(&dy.contiguous()?, |dy, layout| {
        let dims = layout.shape().dims();
        by_element!(dy, |T| {
            let inner = dims[2..].iter().product();
            let sums = elementwise::sum_per_channel(elements::<T>(dy, layout)?, dims[1], inner);
            Tensor::from_vec(sums, dims[1], &Device::Cpu)
        })
    })
}

/// Adaptive average pooling: output bin o of n over N inputs averages the inputs
/// floor(o·N/n) … ceil((o+1)·N/n)−1, per axis. Bins may overlap, and `size` may exceed the
/// input's size.
///
/// # Shapes
/// `x` `[batch, channels, height, width]`; result `[batch, channels, size[0], size[1]]`.
///
/// # Errors
/// When `x` is not a map.
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
    apply(AdaptivePool { large: [h, w], small: size }, &[x])
}

/// The gradient at `size`, the size before pooling.
pub(crate) fn adaptive_pool_gradient(dy: &Tensor, size: [usize; 2]) -> candle_core::Result<Tensor> {
    let (_, _, h, w) = dy.dims4()?;
    if [h, w] == size {
        return Ok(dy.clone());
    }
    let x = dy.to_device(&Device::Cpu)?.contiguous()?;
    stored(&x, |dy, layout| {
        by_element!(dy, |T| {
            let dims = layout.shape().dims();
            let shape = (dims[0], dims[1], size[0], size[1]);
            let mut dx = vec![T::zero(); dims[0] * dims[1] * size[0] * size[1]];
            let planes = dx.par_chunks_mut(size[0] * size[1]);
            planes
                .zip(elements::<T>(dy, layout)?.par_chunks(h * w))
                .for_each(|(dx, dy)| pool_adjoint(dy, size, [h, w], dx));
            Tensor::from_vec(dx, shape, &Device::Cpu)
        })
    })
}

struct AdaptivePool {
    large: [usize; 2],
    small: [usize; 2],
}

impl Differentiable for AdaptivePool {
    fn forward(&self, inputs: &[Stored<'_>]) -> Computed {
        let &[(x, layout)] = inputs else { bail!("pooling: expected 1 input") };
        let (dims, &Self { large, small }) = (layout.shape().dims(), self);
        let shape = Shape::from((dims[0], dims[1], small[0], small[1]));
        by_element!(x, |T| {
            let mut y = vec![T::zero(); shape.elem_count()];
            y.par_chunks_mut(small[0] * small[1])
                .zip(elements::<T>(x, layout)?.par_chunks(large[0] * large[1]))
                .for_each(|(y, x)| pool(x, large, small, y));
            Ok((T::to_cpu_storage_owned(y), shape))
        })
    }

    fn backward(
        &self,
        _: &[&Tensor],
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(adaptive_pool_gradient(dy, self.large)?)])
    }
}
