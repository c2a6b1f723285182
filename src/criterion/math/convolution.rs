//! Two-dimensional convolution and its transpose under candle's autograd, computed by our kernels.

use super::custom::{Computed, Differentiable, Stored, apply};
use super::tensor::{by_element, elements, stored};
use crate::error::{Error, Result};
use crate::kernel::blocked::{self, Precision, plain};
use crate::kernel::conv::{self, Conv};
use crate::kernel::window_count;
use crate::tensor::Element;
use candle_core::{Device, Shape, Tensor, WithDType as _, bail};

/// How a two-dimensional convolution moves over a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Whether the convolution is transposed, which enlarges the map.
    pub transposed: bool,
    /// Stride down and right.
    pub stride: [usize; 2],
    /// Padding of height and width, on both sides.
    pub padding: [usize; 2],
}

impl Geometry {
    /// Stride 1 with this padding.
    #[must_use]
    pub fn padded(padding: usize) -> Self {
        Self { transposed: false, stride: [1, 1], padding: [padding, padding] }
    }

    /// The transposed convolution of stride 1 with this padding.
    #[must_use]
    pub fn transposed(padding: usize) -> Self {
        Self { transposed: true, ..Self::padded(padding) }
    }
}

/// Convolves maps with a weight, without bias.
///
/// # Shapes
/// `x` `[batch, channels, height, width]`; `weight` `[filters, channels, kh, kw]`, or
/// `[channels, filters, kh, kw]` transposed.
///
/// # Errors
/// When the shapes do not fit.
pub fn convolution(x: &Tensor, weight: &Tensor, geometry: Geometry) -> Result<Tensor> {
    let (op, device) = (Convolution::of(x, weight, geometry)?, x.device());
    let operands = if geometry.transposed { [weight, x] } else { [x, weight] };
    Ok(apply(op, &operands)?.to_device(device)?)
}

/// The gradients with respect to the maps, if wanted, and to the weight, from the gradient of their
/// [`convolution`].
///
/// # Shapes
/// `x`, `weight` as in [`convolution`], in host memory; `dy` as its result.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn convolution_gradients(
    x: &Tensor,
    weight: &Tensor,
    geometry: Geometry,
    dy: &Tensor,
    of_x: bool,
) -> Result<(Option<Tensor>, Tensor)> {
    let op = Convolution::of(x, weight, geometry)?;
    let (a, b) = if geometry.transposed { (weight, x) } else { (x, weight) };
    let [of_a, of_b] = op.gradients(a, b, dy)?;
    let (by_x, by_weight) = if geometry.transposed { (of_b, of_a) } else { (of_a, of_b) };
    Ok((of_x.then(by_x).transpose()?, by_weight()?))
}

/// Which of the three tensors of `⟨output, conv(input, weight)⟩` is computed from the other
/// two. The product is linear in each, so the gradients of one are the others.
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

/// The result of a role, by the kernels that take both element types.
fn convolve<T: Element>(c: &Conv, role: Role, a: &[T], b: &[T]) -> Vec<T> {
    match role {
        Role::Output => conv::forward(c, a, b, None),
        Role::Input => conv::input_gradient(c, a, b),
        Role::Weight => conv::weight_gradient(c, a, b),
    }
}

/// An element type with its fastest convolution.
trait Convolve: Element {
    fn convolve(c: &Conv, role: Role, a: &[Self], b: &[Self]) -> Vec<Self>;
}

impl Convolve for f64 {
    fn convolve(c: &Conv, role: Role, a: &[f64], b: &[f64]) -> Vec<f64> {
        convolve(c, role, a, b)
    }
}

impl Convolve for f32 {
    fn convolve(c: &Conv, role: Role, a: &[f32], b: &[f32]) -> Vec<f32> {
        let Some(plan) = blocked::plan(c, Precision::Strict) else {
            return convolve(c, role, a, b);
        };
        match role {
            Role::Output => plain::forward(&plan, c, a, b),
            Role::Input => plain::input_gradient(&plan, c, a, b),
            Role::Weight => plain::weight_gradient(&plan, c, a, b),
        }
    }
}

impl Convolution {
    /// The convolution from `x` to the result of [`convolution`].
    fn of(x: &Tensor, weight: &Tensor, geometry: Geometry) -> Result<Self> {
        let misfit = || {
            Error::input(format!(
                "convolution of {:?} by {:?} ({geometry:?}): shapes do not fit",
                x.dims(),
                weight.dims()
            ))
        };
        let (&[images, channels, h, w], &[first, second, kh, kw]) = (x.dims(), weight.dims())
        else {
            return Err(misfit());
        };
        let Geometry { transposed, stride, padding } = geometry;
        let (taken, filters) = if transposed { (first, second) } else { (second, first) };
        if taken != channels
            || x.elem_count() == 0
            || weight.elem_count() == 0
            || stride.contains(&0)
        {
            return Err(misfit());
        }
        let kernel = [kh, kw];
        let mut size = [0; 2];
        for (axis, input) in [h, w].into_iter().enumerate() {
            let (stride, pad) = (stride[axis], padding[axis]);
            size[axis] = if transposed {
                ((input - 1) * stride + kernel[axis])
                    .checked_sub(2 * pad)
                    .filter(|&n| n > 0)
                    .ok_or_else(misfit)?
            } else {
                window_count(input, kernel[axis], stride, 1, [pad, pad], false)
                    .ok_or_else(misfit)?
            };
        }
        let conv = Conv {
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
        // a transposed convolution is the adjoint of the convolution in the other direction
        Ok(if transposed {
            Self {
                conv: Conv {
                    channels: filters,
                    filters: channels,
                    input: size,
                    output: [h, w],
                    ..conv
                },
                role: Role::Input,
            }
        } else {
            Self { conv, role: Role::Output }
        })
    }

    /// How to compute the gradients of both operands from the gradient of the result.
    fn gradients<'a>(
        &self,
        a: &'a Tensor,
        b: &'a Tensor,
        g: &'a Tensor,
    ) -> candle_core::Result<[impl Fn() -> candle_core::Result<Tensor> + 'a; 2]> {
        let conv = self.conv;
        let by = move |(role, a, b): (Role, &'a Tensor, &'a Tensor)| {
            move || Self { conv, role }.compute(a, b)
        };
        let of_both = match self.role {
            Role::Output => [(Role::Input, b, g), (Role::Weight, a, g)],
            Role::Input => [(Role::Weight, g, b), (Role::Output, g, a)],
            Role::Weight => bail!("convolution: its weight gradient has no gradient of its own"),
        };
        Ok(of_both.map(by))
    }

    /// Computes the result from dense operands in host memory, without a gradient.
    fn compute(&self, a: &Tensor, b: &Tensor) -> candle_core::Result<Tensor> {
        stored(a, |a, la| {
            stored(b, |b, lb| {
                by_element!(a, |T| {
                    let values = self.run(elements::<T>(a, la)?, elements::<T>(b, lb)?)?;
                    Tensor::from_vec(values, self.shape(), &Device::Cpu)
                })
            })
        })
    }

    fn run<T: Convolve>(&self, a: &[T], b: &[T]) -> candle_core::Result<Vec<T>> {
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
        Ok(T::convolve(c, self.role, a, b))
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

impl Differentiable for Convolution {
    fn forward(&self, inputs: &[Stored<'_>]) -> Computed {
        let &[(a, la), (b, lb)] = inputs else { bail!("convolution: expected 2 inputs") };
        by_element!(a, |T| Ok((
            T::to_cpu_storage_owned(self.run(elements::<T>(a, la)?, elements::<T>(b, lb)?)?),
            self.shape()
        )))
    }

    fn backward(
        &self,
        inputs: &[&Tensor],
        _: &Tensor,
        g: &Tensor,
    ) -> candle_core::Result<Vec<Option<Tensor>>> {
        let (a, b) = (inputs[0], inputs[1]);
        let [of_a, of_b] = self.gradients(a, b, g)?;
        Ok(vec![a.track_op().then(of_a).transpose()?, b.track_op().then(of_b).transpose()?])
    }
}

#[cfg(test)]
mod tests {
    use super::super::autograd::tests::tensor;
    use super::*;
    use candle_core::DType;

    /// Compares the blocked single-precision kernels with the plain double-precision ones, forward
    /// and both gradients.
    #[test]
    fn single_precision_agrees_with_double() {
        for (channels, filters, kernel, stride, padding, size, transposed) in [
            (3, 20, [3, 3], [1, 1], [1, 1], [9, 7], false),
            (20, 33, [1, 1], [1, 1], [0, 0], [5, 6], false),
            (16, 8, [3, 3], [2, 2], [1, 1], [8, 9], false),
            (17, 5, [5, 2], [1, 1], [0, 0], [7, 7], false),
            (1, 1, [3, 3], [1, 1], [1, 1], [4, 4], false),
            (6, 19, [4, 4], [2, 2], [1, 1], [4, 5], true),
            (18, 3, [3, 3], [1, 1], [1, 1], [6, 6], true),
        ] {
            let geometry = Geometry { transposed, stride, padding };
            let filter = if transposed {
                [channels, filters, kernel[0], kernel[1]]
            } else {
                [filters, channels, kernel[0], kernel[1]]
            };
            let (x, weight) = (tensor(&[3, channels, size[0], size[1]], 1), tensor(&filter, 2));
            let both = |dtype: DType| {
                let (x, weight) = (x.to_dtype(dtype).unwrap(), weight.to_dtype(dtype).unwrap());
                let y = convolution(&x, &weight, geometry).unwrap();
                let dy = tensor(y.dims(), 3).to_dtype(dtype).unwrap();
                let (dx, dw) = convolution_gradients(&x, &weight, geometry, &dy, true).unwrap();
                [y, dx.unwrap(), dw].map(|t| {
                    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap()
                })
            };
            for (single, double) in both(DType::F32).iter().zip(both(DType::F64)) {
                let largest = double.iter().fold(0f64, |m, v| m.max(v.abs()));
                let off = single.iter().zip(&double).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
                assert!(
                    single.len() == double.len() && off < 1e-5 * largest,
                    "{geometry:?} {channels} to {filters}: {off} of {largest}"
                );
            }
        }
    }
}
