//! `Conv` over two spatial axes (one is taken as a height of 1): groups, strides, dilations, pads,
//! `auto_pad`.

use super::on_device::{self, Target};
use super::{Built, Forward, Kind, Operator, Run, Saved, Site, only, saved};
use crate::error::{Error, Result};
use crate::kernel::conv::{self, Conv};
use crate::kernel::elementwise::sum_per_channel;
use crate::kernel::window_count;
use crate::student::value::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
struct Convolution {
    conv: Conv,
    input: Vec<usize>,
    weight: Vec<usize>,
    output: Vec<usize>,
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
        4 => planned::<2>(site),
        3 => planned::<1>(site),
        rank => Err(Error::input(format!("input 0: expected 3 or 4 axes, found {rank}"))),
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
    // a single spatial axis is a map of height 1
    let lift = |a: [usize; N], fill: usize| if N == 2 { [a[0], a[N - 1]] } else { [fill, a[0]] };
    let conv = Conv {
        images: x[0],
        channels: x[1],
        filters: w[0],
        groups,
        input: lift(input, 1),
        output: lift(output, 1),
        kernel: lift(kernel, 1),
        stride: lift(stride, 1),
        dilation: lift(dilation, 1),
        before: lift(before, 0),
    };
    let shape: Vec<usize> = [x[0], w[0]].into_iter().chain(output).collect();
    let operator =
        Convolution { conv, input: x.to_vec(), weight: w.to_vec(), output: shape.clone() };
    let inputs: &[usize] = if site.has(2) { &[0, 1, 2] } else { &[0, 1] };
    Ok(Built::new(operator, inputs, shape))
}

impl Operator for Convolution {
    fn on_device(&self, target: &Target) -> Result<Option<Box<dyn Operator>>> {
        let shapes = [&self.input, &self.weight, &self.output].map(Vec::as_slice);
        let form = on_device::conv::Convolution::new(self.conv, false, shapes, target)?;
        Ok(form.map(|form| Box::new(form) as Box<dyn Operator>))
    }

    fn kind(&self) -> Kind<'_> {
        // an axis of length 1 stands in for the height of a sequence, which has no blocks
        if self.input.len() == 4 { Kind::Convolution(&self.conv) } else { Kind::Other }
    }

    fn forward(&self, inputs: &[&Tensor], _run: &Run) -> Result<Forward> {
        let (x, weight) = (data(inputs[0])?, data(inputs[1])?);
        let bias = inputs.get(2).map(|b| data(b)).transpose()?;
        let y = typed!(inputs[0].dtype(), |T| {
            let bias = bias.as_ref().map(|b| b.of::<T>()).transpose()?;
            tensor(conv::forward(&self.conv, x.of::<T>()?, weight.of::<T>()?, bias), &self.output)
        })?;
        Ok(Forward::one(y, vec![inputs[0].clone(), inputs[1].clone()]))
    }

    fn backward(
        &self,
        kept: Saved,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let (x, weight, held) = (data(saved(&kept, 0)?)?, data(saved(&kept, 1)?)?, data(&dy)?);
        typed!(dy.dtype(), |T| {
            let d = held.of::<T>()?;
            let mut result = vec![None; wanted.len()];
            if wanted[0] {
                result[0] = Some(tensor(
                    conv::input_gradient(&self.conv, weight.of::<T>()?, d),
                    &self.input,
                )?);
            }
            if wanted[1] {
                result[1] =
                    Some(tensor(conv::weight_gradient(&self.conv, x.of::<T>()?, d), &self.weight)?);
            }
            if wanted.get(2) == Some(&true) {
                let filters = self.conv.filters;
                let area = self.conv.output[0] * self.conv.output[1];
                result[2] = Some(tensor(sum_per_channel(d, filters, area), &[filters])?);
            }
            Ok(result)
        })
    }
}
