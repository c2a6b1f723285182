//! `Conv` and `ConvTranspose`: one gather of the windows, one batch of matrix products, and their
//! adjoints.

use super::sum::{channel_sum, middle_sum};
use super::table::{Adjoint, IndexTable, in_parts, joined_parts};
use super::{Lower, Lowered, Target};
use crate::error::{Error, Result};
use crate::kernel::conv::Conv;
use crate::student::op::conv::Convolution as HostConvolution;
use crate::student::op::conv_transpose::ConvTranspose;
use crate::student::op::{OpOutput, Operator, PassOptions, any, only};
use candle_core::Tensor;
use std::sync::Arc;

/// Input positions that each tap of a window reads at each output position, `[taps, output area]`;
/// `None` in the padding.
pub(super) fn windows(
    [input, output, kernel]: [[usize; 2]; 3],
    stride: [usize; 2],
    dilation: [usize; 2],
    before: [usize; 2],
) -> Vec<Option<usize>> {
    let at = |axis: usize, tap: usize, o: usize| {
        (o * stride[axis] + tap * dilation[axis])
            .checked_sub(before[axis])
            .filter(|&i| i < input[axis])
    };
    let mut places = Vec::with_capacity(kernel.iter().chain(&output).product());
    for kh in 0..kernel[0] {
        for kw in 0..kernel[1] {
            for oh in 0..output[0] {
                let row = at(0, kh, oh);
                places.extend((0..output[1]).map(|ow| Some(row? * input[1] + at(1, kw, ow)?)));
            }
        }
    }
    places
}

/// A convolution's three products.
#[derive(Debug)]
struct Products {
    conv: Conv,
    /// The windows and their adjoint; `None` where the column matrix is the input itself.
    tables: Option<(IndexTable, Adjoint)>,
    area: [usize; 2],
    taps: usize,
}

impl Products {
    fn new(conv: Conv, target: &Target) -> Result<Self> {
        let area = [conv.input[0] * conv.input[1], conv.output[0] * conv.output[1]];
        let taps = conv.kernel[0] * conv.kernel[1];
        let itself = conv.kernel == [1, 1]
            && conv.stride == [1, 1]
            && conv.before == [0, 0]
            && conv.input == conv.output;
        let tables = if itself {
            None
        } else {
            let places = windows(
                [conv.input, conv.output, conv.kernel],
                conv.stride,
                conv.dilation,
                conv.before,
            );
            let back = Adjoint::new(&places, area[0], &target.device)?;
            Some((IndexTable::new(places, &target.device)?, back))
        };
        Ok(Self { conv, tables, area, taps })
    }

    /// Rows of a group's column matrix.
    fn depth(&self) -> usize {
        self.conv.channels / self.conv.groups * self.taps
    }

    /// Elements that an image's windows take, there and back.
    fn size(&self) -> usize {
        let back = self.tables.as_ref().map_or(1, |(_, back)| back.count);
        self.conv.channels * (self.taps * self.area[1]).max(back * self.area[0])
    }

    /// `[images, channels, …]` → `[images·groups, depth, output area]`.
    fn columns(&self, x: &Tensor, first: usize, images: usize) -> Result<Tensor> {
        let x = x.narrow(0, first, images)?;
        let columns = match &self.tables {
            Some((table, _)) => {
                table.gather(&x.reshape((images * self.conv.channels, self.area[0]))?)?
            }
            None => x,
        };
        Ok(columns.reshape((images * self.conv.groups, self.depth(), self.area[1]))?)
    }

    /// `[images, filters, …]` → `[images·groups, filters of a group, output area]`.
    fn maps(&self, y: &Tensor, first: usize, images: usize) -> Result<Tensor> {
        let Conv { filters, groups, .. } = self.conv;
        Ok(y.narrow(0, first, images)?.reshape((
            images * groups,
            filters / groups,
            self.area[1],
        ))?)
    }

    /// The weight for every image and group, `[images·groups, filters of a group, depth]`.
    fn weights(&self, weight: &Tensor, images: usize) -> Result<Tensor> {
        let Conv { filters, groups, .. } = self.conv;
        let shape = (images, groups, filters / groups, self.depth());
        let all =
            weight.reshape((1, groups, filters / groups, self.depth()))?.broadcast_as(shape)?;
        if groups == 1 {
            // a stride of 0 is a batch of one and the same matrix
            return Ok(all.squeeze(1)?);
        }
        Ok(all.contiguous()?.reshape((images * groups, filters / groups, self.depth()))?)
    }

    fn forward(&self, x: &Tensor, weight: &Tensor, output: &[usize]) -> Result<Tensor> {
        let all = joined_parts(self.conv.images, self.size(), |first, images| {
            Ok(self.weights(weight, images)?.matmul(&self.columns(x, first, images)?)?)
        })?;
        Ok(all.reshape(output)?)
    }

    fn input_gradient(&self, weight: &Tensor, dy: &Tensor, input: &[usize]) -> Result<Tensor> {
        let all = joined_parts(self.conv.images, self.size(), |first, images| {
            let columns = self
                .weights(weight, images)?
                .transpose(1, 2)?
                .matmul(&self.maps(dy, first, images)?)?;
            let planes = images * self.conv.channels;
            match &self.tables {
                Some((_, back)) => {
                    back.apply(&columns.reshape((planes, self.taps * self.area[1]))?)
                }
                None => Ok(columns.reshape((planes, self.area[0]))?),
            }
        })?;
        Ok(all.reshape(input)?)
    }

    fn weight_gradient(&self, x: &Tensor, dy: &Tensor, weight: &[usize]) -> Result<Tensor> {
        let Conv { filters, groups, .. } = self.conv;
        let (depth, area) = (self.depth(), self.area[1]);
        let parts =
            in_parts(self.conv.images, self.size().max(filters * depth), |first, images| {
                let (columns, dy) =
                    (self.columns(x, first, images)?, self.maps(dy, first, images)?);
                if groups == 1 && filters > area {
                    // one long product instead of a large matrix an image
                    let long = |t: &Tensor, rows: usize| -> Result<Tensor> {
                        Ok(t.transpose(0, 1)?.contiguous()?.reshape((rows, images * area))?)
                    };
                    return Ok(long(&dy, filters)?.matmul(&long(&columns, depth)?.t()?)?);
                }
                let each = dy.matmul(&columns.transpose(1, 2)?)?;
                middle_sum(&each.reshape((1, images, filters * depth))?)
            })?;
        let mut parts = parts.into_iter();
        let mut total = parts
            .next()
            .ok_or_else(|| Error::internal("convolution: expected images, found none"))?
            .flatten_all()?;
        for part in parts {
            total = (total + part.flatten_all()?)?;
        }
        Ok(total.reshape(weight)?)
    }
}

/// A convolution, or the adjoint of one.
#[derive(Debug)]
struct Convolution {
    products: Products,
    transposed: bool,
    /// Of input, weight and output.
    shapes: [Vec<usize>; 3],
}

impl Convolution {
    /// `conv` runs from the input to the output, or the other way if `transposed`. `None` for empty
    /// tensors.
    fn new(
        conv: Conv,
        transposed: bool,
        shapes: [&[usize]; 3],
        target: &Target,
    ) -> Result<Option<Self>> {
        if shapes.iter().any(|shape| shape.contains(&0)) {
            return Ok(None);
        }
        Ok(Some(Self {
            products: Products::new(conv, target)?,
            transposed,
            shapes: shapes.map(<[usize]>::to_vec),
        }))
    }

    /// A tensor with three axes: images, channels, positions.
    fn flat(t: &Tensor) -> Result<Tensor> {
        Ok(t.flatten_from(2)?)
    }
}

impl Lower for ConvTranspose {
    fn lower(operator: &Arc<Self>, target: &Target) -> Lowered {
        let shapes = [&operator.input, &operator.weight, &operator.output].map(Vec::as_slice);
        Ok(Convolution::new(operator.conv, true, shapes, target)?.map(any))
    }
}

impl Lower for HostConvolution {
    fn lower(operator: &Arc<Self>, target: &Target) -> Lowered {
        let shapes = [&operator.input, &operator.weight, &operator.output].map(Vec::as_slice);
        if operator.frames.is_some() {
            return Ok(None);
        }
        Ok(Convolution::new(operator.conv, false, shapes, target)?.map(any))
    }
}

impl Operator for Convolution {
    type Kept = [Tensor; 2];

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let [_, _, output] = &self.shapes;
        let (x, weight) = (inputs[0], inputs[1]);
        let mut y = if self.transposed {
            self.products.input_gradient(weight, x, output)?
        } else {
            self.products.forward(x, weight, output)?
        };
        if let Some(bias) = inputs.get(2) {
            y = Self::flat(&y)?
                .broadcast_add(&bias.reshape((1, output[1], 1))?)?
                .reshape(output.as_slice())?;
        }
        Ok(OpOutput::one(y, [x.clone(), weight.clone()]))
    }

    fn backward(
        &self,
        [x, weight]: [Tensor; 2],
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let [input, shape, _] = &self.shapes;
        let mut result = vec![None; wanted.len()];
        if wanted[0] {
            let p = &self.products;
            result[0] = Some(if self.transposed {
                p.forward(&dy, &weight, input)?
            } else {
                p.input_gradient(&weight, &dy, input)?
            });
        }
        if wanted[1] {
            let (from, to) = if self.transposed { (&dy, &x) } else { (&x, &dy) };
            result[1] = Some(self.products.weight_gradient(from, to, shape)?);
        }
        if wanted.get(2) == Some(&true) {
            result[2] = Some(channel_sum(&Self::flat(&dy)?)?);
        }
        Ok(result)
    }
}
