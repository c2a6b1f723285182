//! Operators with gradients of our own under candle's autograd: convolution, batch normalisation, adaptive pooling.
//!
//! They run on the host, by our kernels; a tensor elsewhere is brought there and its gradient back.

use super::Element;
use super::pool::{pool, pool_adjoint};
use crate::error::{Error, Result};
use crate::kernel::conv::{self, Conv};
use crate::kernel::norm::{self, Planes};
use crate::kernel::{Float as _, window_count};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Device, Layout, Shape, Tensor, WithDType as _, bail};

/// What batch normalisation adds to the variance.
const BATCH_NORM_EPS: f64 = 1e-5;

type Computed = candle_core::Result<(CpuStorage, Shape)>;

/// The elements of a dense tensor.
fn dense<'a, T: Element>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [T]> {
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

/// A tensor as the kernels take it: dense, on the host.
fn host(x: &Tensor) -> candle_core::Result<Tensor> {
    x.to_device(&Device::Cpu)?.contiguous()
}

/// How a two-dimensional convolution moves over a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Whether it is the transposed convolution, which enlarges.
    pub transposed: bool,
    /// Steps down and right.
    pub stride: [usize; 2],
    /// Padding of height and width, on both sides.
    pub padding: [usize; 2],
}

impl Geometry {
    /// Stride 1, with this padding.
    #[must_use]
    pub fn padded(padding: usize) -> Self {
        Self { transposed: false, stride: [1, 1], padding: [padding, padding] }
    }

    /// The transposed convolution of stride 1, with this padding.
    #[must_use]
    pub fn transposed(padding: usize) -> Self {
        Self { transposed: true, ..Self::padded(padding) }
    }
}

/// The convolution of maps by a weight, without bias.
///
/// # Shapes
/// `x` `[batch, channels, height, width]`; `weight` `[filters, channels, kh, kw]`, or `[channels, filters, kh, kw]` transposed.
///
/// # Errors
/// When the shapes do not fit.
pub fn convolution(x: &Tensor, weight: &Tensor, geometry: Geometry) -> Result<Tensor> {
    let misfit = || Error::input(format!("convolution of {:?} by {:?} ({geometry:?}): shapes do not fit", x.dims(), weight.dims()));
    let (&[images, channels, h, w], &[first, second, kh, kw]) = (x.dims(), weight.dims()) else { return Err(misfit()) };
    let Geometry { transposed, stride, padding } = geometry;
    let (taken, filters) = if transposed { (first, second) } else { (second, first) };
    if taken != channels || x.elem_count() == 0 || weight.elem_count() == 0 || stride.contains(&0) {
        return Err(misfit());
    }
    let kernel = [kh, kw];
    let mut size = [0; 2];
    for (axis, input) in [h, w].into_iter().enumerate() {
        let (stride, pad) = (stride[axis], padding[axis]);
        size[axis] = if transposed {
            ((input - 1) * stride + kernel[axis]).checked_sub(2 * pad).filter(|&n| n > 0).ok_or_else(misfit)?
        } else {
            window_count(input, kernel[axis], stride, 1, [pad, pad], false).ok_or_else(misfit)?
        };
    }
    let whole = Conv {
        images,
        channels,
        filters,
        groups: 1,
        input: [h, w],
        output: size,
        kernel,
        stride,
        dilation: [1, 1],
        before: padding,
    };
    let (x, weight, device) = (host(x)?, host(weight)?, x.device());
    // the transposed convolution is the adjoint of the convolution that goes the other way
    let y = if transposed {
        let conv = Conv { channels: filters, filters: channels, input: size, output: [h, w], ..whole };
        weight.apply_op2(&x, Convolution { conv, role: Role::Input })?
    } else {
        x.apply_op2(&weight, Convolution { conv: whole, role: Role::Output })?
    };
    Ok(y.to_device(device)?)
}

/// Which of the three tensors of `⟨output, conv(input, weight)⟩` is computed from the other two. Each is linear in both, so the gradients of one
/// are the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// From input and weight.
    Output,
    /// From weight and output.
    Input,
    /// From input and output.
    Weight,
}

#[derive(Debug, Clone, Copy)]
struct Convolution {
    conv: Conv,
    role: Role,
}

impl Convolution {
    fn run<T: Element>(&self, a: &[T], b: &[T]) -> candle_core::Result<Vec<T>> {
        let c = &self.conv;
        let area = |size: [usize; 2]| size[0] * size[1];
        let lengths = [
            c.images * c.channels * area(c.input),
            c.filters * c.channels * area(c.kernel),
            c.images * c.filters * area(c.output),
        ];
        let expected = match self.role {
            Role::Output => [lengths[0], lengths[1]],
            Role::Input => [lengths[1], lengths[2]],
            Role::Weight => [lengths[0], lengths[2]],
        };
        if [a.len(), b.len()] != expected {
            bail!("convolution: expected {expected:?} values, found {} and {}", a.len(), b.len());
        }
        Ok(match self.role {
            Role::Output => conv::forward(c, a, b, None),
            Role::Input => conv::input_gradient(c, a, b),
            Role::Weight => conv::weight_gradient(c, a, b),
        })
    }

    fn shape(&self) -> Shape {
        let c = &self.conv;
        match self.role {
            Role::Output => (c.images, c.filters, c.output[0], c.output[1]).into(),
            Role::Input => (c.images, c.channels, c.input[0], c.input[1]).into(),
            Role::Weight => (c.filters, c.channels, c.kernel[0], c.kernel[1]).into(),
        }
    }
}

impl CustomOp2 for Convolution {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Computed {
        by_element!(a, T => Ok((T::to_cpu_storage_owned(self.run(dense::<T>(a, la)?, dense::<T>(b, lb)?)?), self.shape())))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, g: &Tensor) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let g = &g.contiguous()?;
        let by = |role, a: &Tensor, b: &Tensor| a.apply_op2_no_bwd(b, &Self { conv: self.conv, role });
        let (first, second) = match self.role {
            Role::Output => ((Role::Input, b, g), (Role::Weight, a, g)),
            Role::Input => ((Role::Weight, g, b), (Role::Output, g, a)),
            Role::Weight => bail!("convolution: its weight gradient has no gradient of its own"),
        };
        let wanted = |of: &Tensor, (role, a, b): (Role, &Tensor, &Tensor)| of.track_op().then(|| by(role, a, b)).transpose();
        Ok((wanted(a, first)?, wanted(b, second)?))
    }
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
        let to = if self.adjoint { self.large } else { self.small };
        let shape = Shape::from((dims[0], dims[1], to[0], to[1]));
        by_element!(x, T => {
            let x = dense::<T>(x, layout)?;
            let y = if self.adjoint { pool_adjoint(x, self.large, self.small) } else { pool(x, self.large, self.small) };
            Ok((T::to_cpu_storage_owned(y), shape))
        })
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let adjoint = Self { adjoint: true, ..*self };
        Ok(Some(dy.contiguous()?.apply_op1_no_bwd(&adjoint)?))
    }
}
