//! `ConvTranspose` over one or two spatial axes: the adjoint of the convolution that has its
//! weight.

use super::conv::plane;
use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::conv::{self, Conv};
use crate::kernel::elementwise::{add_per_channel, sum_per_channel};
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
pub(in crate::student) struct ConvTranspose {
    /// The convolution from the output to the input.
    pub(in crate::student) conv: Conv,
    pub(in crate::student) input: Vec<usize>,
    pub(in crate::student) weight: Vec<usize>,
    pub(in crate::student) output: Vec<usize>,
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
        || x[1] != w[0]
        || !w[0].is_multiple_of(groups)
        || w.contains(&0)
    {
        return Err(Error::input(format!(
            "weight: shape {w:?} in {groups} groups does not fit input {x:?}"
        )));
    }
    let channels = w[1]
        .checked_mul(groups)
        .ok_or_else(|| Error::input(format!("weight: shape {w:?} is too large")))?;
    if site.has(2) && site.shape(2)? != [channels] {
        return Err(Error::input(format!(
            "bias: expected shape [{channels}], found {:?}",
            site.shape(2)?
        )));
    }
    let (mut input, mut kernel) = ([0; N], [0; N]);
    input.copy_from_slice(&x[2..]);
    kernel.copy_from_slice(&w[2..]);
    super::conv::check_kernel(site, kernel)?;
    let (stride, dilation) = (site.sizes::<N>("strides", 1)?, site.sizes::<N>("dilations", 1)?);
    let (before, output) = extents(site, input, kernel, stride, dilation)?;
    if stride.contains(&0) || dilation.contains(&0) || output.contains(&0) {
        return Err(Error::input(format!(
            "output of {output:?} with stride {stride:?} and dilation {dilation:?}: expected \
             sizes from 1 on"
        )));
    }
    let conv = Conv {
        images: x[0],
        channels,
        filters: w[0],
        groups,
        input: plane(output, 1),
        output: plane(input, 1),
        kernel: plane(kernel, 1),
        stride: plane(stride, 1),
        dilation: plane(dilation, 1),
        before: plane(before, 0),
    };
    let shape: Vec<usize> = [x[0], channels].into_iter().chain(output).collect();
    let operator =
        ConvTranspose { conv, input: x.to_vec(), weight: w.to_vec(), output: shape.clone() };
    let inputs: &[usize] = if site.has(2) { &[0, 1, 2] } else { &[0, 1] };
    Ok(Built::new(operator, inputs, shape))
}

/// Padding before each spatial axis and the output's sizes: `stride·(input − 1) +
/// output_padding + (kernel − 1)·dilation + 1 − pads`, where `output_shape` or `auto_pad`
/// decide the pads instead.
fn extents<const N: usize>(
    site: &Site<'_>,
    input: [usize; N],
    kernel: [usize; N],
    stride: [usize; N],
    dilation: [usize; N],
) -> Result<([usize; N], [usize; N])> {
    let extra = site.sizes::<N>("output_padding", 0)?;
    let mut full = [0; N];
    for i in 0..N {
        full[i] = input[i]
            .checked_sub(1)
            .and_then(|n| n.checked_mul(stride[i]))
            .and_then(|n| n.checked_add(extra[i]))
            .and_then(|n| n.checked_add((kernel[i] - 1).checked_mul(dilation[i])?))
            .and_then(|n| n.checked_add(1))
            .ok_or_else(|| {
                Error::input(format!(
                    "output of input {input:?} with stride {stride:?} is empty or too large"
                ))
            })?;
    }
    let mode = site.text("auto_pad").unwrap_or_default();
    let same = matches!(mode.as_str(), "SAME_UPPER" | "SAME_LOWER");
    let asked = match site.ints("output_shape").filter(|s| !s.is_empty()) {
        // some exporters write the batch and the channels too
        Some(shape) if shape.len() == N + 2 || shape.len() == N => {
            let mut sizes = [0; N];
            for (size, &n) in sizes.iter_mut().zip(&shape[shape.len() - N..]) {
                *size = usize::try_from(n).map_err(|_| {
                    Error::input(format!("output_shape: expected sizes, found {shape:?}"))
                })?;
            }
            Some(sizes)
        }
        Some(shape) => {
            return Err(Error::input(format!("output_shape: expected {N} sizes, found {shape:?}")));
        }
        None if same => Some(std::array::from_fn(|i| input[i].saturating_mul(stride[i]))),
        None => None,
    };
    let Some(output) = asked else {
        let (before, after) = super::conv::padding(site, input, kernel, stride, dilation)?;
        let mut output = [0; N];
        for i in 0..N {
            output[i] =
                full[i].checked_sub(before[i] + after[i]).filter(|&n| n > 0).ok_or_else(|| {
                    Error::input(format!(
                        "pads: expected less than the output's {full:?}, found {before:?} and \
                         {after:?}"
                    ))
                })?;
        }
        return Ok((before, output));
    };
    let before = std::array::from_fn(|i| {
        let total = full[i].saturating_sub(output[i]);
        if mode == "SAME_UPPER" { total / 2 } else { total - total / 2 }
    });
    Ok((before, output))
}

impl Operator for ConvTranspose {
    type Kept = [Tensor; 2];

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let (x, weight) = (data(inputs[0])?, data(inputs[1])?);
        let bias = inputs.get(2).map(|b| data(b)).transpose()?;
        let y = typed!(inputs[0].dtype(), |T| {
            let mut y = conv::input_gradient(&self.conv, weight.of::<T>()?, x.of::<T>()?);
            if let Some(bias) = &bias {
                add_per_channel(&mut y, bias.of::<T>()?, self.conv.input[0] * self.conv.input[1]);
            }
            tensor(y, &self.output)
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
            let d = held.of::<T>()?;
            let mut result = vec![None; wanted.len()];
            if wanted[0] {
                result[0] = Some(tensor(
                    conv::forward(&self.conv, d, weight.of::<T>()?, None),
                    &self.input,
                )?);
            }
            if wanted[1] {
                result[1] =
                    Some(tensor(conv::weight_gradient(&self.conv, d, x.of::<T>()?), &self.weight)?);
            }
            if wanted.get(2) == Some(&true) {
                let channels = self.conv.channels;
                result[2] = Some(tensor(
                    sum_per_channel(d, channels, self.conv.input[0] * self.conv.input[1]),
                    &[channels],
                )?);
            }
            Ok(result)
        })
    }
}
