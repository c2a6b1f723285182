//! `Conv` over two spatial axes (one is taken as a height of 1, of three the first is taken as
//! frames): groups, strides, dilations, pads, `auto_pad`.

use super::view::transposed;
use super::{Built, MapLayer, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::conv::{self, Conv};
use crate::kernel::elementwise::sum_per_channel;
use crate::kernel::frames::Frames;
use crate::kernel::strided::gather;
use crate::kernel::{Float, window_count};
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;
use std::borrow::Cow;

#[derive(Debug)]
pub(in crate::student) struct Convolution {
    pub(in crate::student) conv: Conv,
    /// How the first of three spatial axes is read.
    pub(in crate::student) frames: Option<Frames>,
    pub(in crate::student) input: Vec<usize>,
    pub(in crate::student) weight: Vec<usize>,
    pub(in crate::student) output: Vec<usize>,
}

/// Padding before and after each spatial axis, as `pads` or `auto_pad` say.
pub(super) fn padding<const N: usize>(
    site: &Site<'_>,
    input: [usize; N],
    kernel: [usize; N],
    stride: [usize; N],
    dilation: [usize; N],
) -> Result<([usize; N], [usize; N])> {
    let (mut before, mut after) = ([0; N], [0; N]);
    match site.text("auto_pad").as_deref() {
        None | Some("" | "NOTSET") => {
            if let Some(pads) = site.ints("pads").filter(|p| !p.is_empty()) {
                let sizes: Vec<usize> = pads
                    .iter()
                    .filter_map(|&p| usize::try_from(p).ok().filter(|&p| p < 1 << 31))
                    .collect();
                if sizes.len() != 2 * N {
                    return Err(Error::input(format!(
                        "pads: expected {} sizes, found {pads:?}",
                        2 * N
                    )));
                }
                before.copy_from_slice(&sizes[..N]);
                after.copy_from_slice(&sizes[N..]);
            }
        }
        Some("VALID") => {}
        Some(mode @ ("SAME_UPPER" | "SAME_LOWER")) => {
            for i in 0..N {
                let extent = (kernel[i].max(1) - 1) * dilation[i] + 1;
                let total = (input[i].div_ceil(stride[i].max(1)).max(1) - 1)
                    .saturating_mul(stride[i])
                    .saturating_add(extent)
                    .saturating_sub(input[i]);
                let small = total / 2;
                (before[i], after[i]) = if mode == "SAME_UPPER" {
                    (small, total - small)
                } else {
                    (total - small, small)
                };
            }
        }
        Some(other) => {
            return Err(Error::input(format!(
                "auto_pad: expected NOTSET, VALID, SAME_UPPER or SAME_LOWER, found {other}"
            )));
        }
    }
    Ok((before, after))
}

/// Sizes along the last two spatial axes: a single axis is a map of height 1, which has `fill`.
pub(super) fn plane<const N: usize>(sizes: [usize; N], fill: usize) -> [usize; 2] {
    match sizes[..] {
        [.., h, w] => [h, w],
        [w] => [fill, w],
        [] => [fill; 2],
    }
}

/// The attribute `kernel_shape` may repeat the weight's sizes, and nothing else.
pub(super) fn check_kernel<const N: usize>(site: &Site<'_>, kernel: [usize; N]) -> Result<()> {
    match site.ints("kernel_shape").filter(|k| !k.is_empty()) {
        Some(_) if site.sizes::<N>("kernel_shape", 0)? != kernel => Err(Error::input(format!(
            "kernel_shape: expected {kernel:?} as the weight, found {:?}",
            site.ints("kernel_shape").unwrap_or_default()
        ))),
        _ => Ok(()),
    }
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    match site.shape(0)?.len() {
        5 => planned::<3>(site),
        4 => planned::<2>(site),
        3 => planned::<1>(site),
        rank => Err(Error::input(format!("input 0: expected 3 to 5 axes, found {rank}"))),
    }
}

fn planned<const N: usize>(site: &Site<'_>) -> Result<Built> {
    let (x, w) = (site.shape(0)?, site.shape(1)?);
    let groups = usize::try_from(site.int("group", 1)).unwrap_or(0);
    if w.len() != N + 2
        || groups == 0
        || x[1] != w[1].saturating_mul(groups)
        || !w[0].is_multiple_of(groups)
        || w.contains(&0)
    {
        return Err(Error::input(format!(
            "weight: shape {w:?} in {groups} groups does not fit input {x:?}"
        )));
    }
    if site.has(2) && site.shape(2)? != [w[0]] {
        return Err(Error::input(format!(
            "bias: expected shape [{}], found {:?}",
            w[0],
            site.shape(2)?
        )));
    }
    let (mut input, mut kernel) = ([0; N], [0; N]);
    input.copy_from_slice(&x[2..]);
    kernel.copy_from_slice(&w[2..]);
    check_kernel(site, kernel)?;
    let (stride, dilation) = (site.sizes::<N>("strides", 1)?, site.sizes::<N>("dilations", 1)?);
    let (before, after) = padding(site, input, kernel, stride, dilation)?;
    let mut output = [0; N];
    for i in 0..N {
        output[i] =
            window_count(input[i], kernel[i], stride[i], dilation[i], [before[i], after[i]], false)
                .ok_or_else(|| {
                    Error::input(format!(
                        "filter of {kernel:?} with stride {stride:?} does not fit input of \
                         {input:?} padded by {before:?} and {after:?}"
                    ))
                })?;
    }
    let frames = (N == 3).then(|| Frames {
        volumes: x[0],
        channels: x[1],
        input: input[0],
        output: output[0],
        kernel: kernel[0],
        stride: stride[0],
        dilation: dilation[0],
        before: before[0],
    });
    let images = x[0].checked_mul(frames.map_or(1, |frames| frames.output));
    let images =
        images.ok_or_else(|| Error::input(format!("input 0: shape {x:?} is too large")))?;
    let conv = Conv {
        images,
        channels: x[1] * frames.map_or(1, |frames| frames.kernel),
        filters: w[0],
        groups,
        input: plane(input, 1),
        output: plane(output, 1),
        kernel: plane(kernel, 1),
        stride: plane(stride, 1),
        dilation: plane(dilation, 1),
        before: plane(before, 0),
    };
    let shape: Vec<usize> = [x[0], w[0]].into_iter().chain(output).collect();
    let operator =
        Convolution { conv, frames, input: x.to_vec(), weight: w.to_vec(), output: shape.clone() };
    let inputs: &[usize] = if site.has(2) { &[0, 1, 2] } else { &[0, 1] };
    Ok(Built::new(operator, inputs, shape))
}

impl Convolution {
    /// The input as images.
    fn images<'a, T: Float>(&self, x: &'a [T]) -> Cow<'a, [T]> {
        let area = self.conv.input[0] * self.conv.input[1];
        self.frames.map_or(Cow::Borrowed(x), |frames| Cow::Owned(frames.unfold(x, area)))
    }

    /// Images of results as volumes: `[volumes, depth, filters, …]` to `[volumes, filters, depth,
    /// …]`.
    fn volumes<T: Float>(&self, y: Vec<T>) -> Vec<T> {
        let Some(frames) = self.frames else { return y };
        turned(&y, [frames.volumes, frames.output, self.conv.filters, self.area()])
    }

    /// The inverse of [`Convolution::volumes`].
    fn results<'a, T: Float>(&self, dy: &'a [T]) -> Cow<'a, [T]> {
        let Some(frames) = self.frames else { return Cow::Borrowed(dy) };
        Cow::Owned(turned(dy, [frames.volumes, self.conv.filters, frames.output, self.area()]))
    }

    /// Positions of an image of results.
    fn area(&self) -> usize {
        self.conv.output[0] * self.conv.output[1]
    }
}

/// The two middle axes in the other order.
fn turned<T: Float>(x: &[T], shape: [usize; 4]) -> Vec<T> {
    let view = transposed(&shape, &[0, 2, 1, 3]);
    gather(x, &view)
}

impl Operator for Convolution {
    type Kept = [Tensor; 2];

    fn map_layer(&self) -> MapLayer<'_> {
        // an axis of length 1 stands in for the height of a sequence, which has no blocks
        if self.input.len() == 4 { MapLayer::Convolution(&self.conv) } else { MapLayer::Other }
    }

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let (x, weight) = (data(inputs[0])?, data(inputs[1])?);
        let bias = inputs.get(2).map(|b| data(b)).transpose()?;
        let y = typed!(inputs[0].dtype(), |T| {
            let bias = bias.as_ref().map(|b| b.of::<T>()).transpose()?;
            let y = conv::forward(&self.conv, &self.images(x.of::<T>()?), weight.of::<T>()?, bias);
            tensor(self.volumes(y), &self.output)
        })?;
        Ok(OpOutput::one(y, [inputs[0].clone(), inputs[1].clone()]))
    }

    fn backward(
        &self,
        [x, weight]: [Tensor; 2],
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let (x, weight, held) = (data(&x)?, data(&weight)?, data(&dy)?);
        typed!(dy.dtype(), |T| {
            let d = &self.results(held.of::<T>()?);
            let mut result = vec![None; wanted.len()];
            if wanted[0] {
                let dx = conv::input_gradient(&self.conv, weight.of::<T>()?, d);
                let area = self.conv.input[0] * self.conv.input[1];
                let dx = match self.frames {
                    Some(frames) => frames.fold(&dx, area),
                    None => dx,
                };
                result[0] = Some(tensor(dx, &self.input)?);
            }
            if wanted[1] {
                let dw = conv::weight_gradient(&self.conv, &self.images(x.of::<T>()?), d);
                result[1] = Some(tensor(dw, &self.weight)?);
            }
            if wanted.get(2) == Some(&true) {
                let filters = self.conv.filters;
                result[2] = Some(tensor(sum_per_channel(d, filters, self.area()), &[filters])?);
            }
            Ok(result)
        })
    }
}
