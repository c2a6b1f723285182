//! `MaxPool`, `AveragePool` and `GlobalMaxPool` over one to three spatial axes. Of equal maxima the
//! first gets the gradient, as in `PyTorch`.

use super::conv::plane;
use super::{Built, MapLayer, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::pool::{
    PoolWindow, average_backward, average_forward, max_backward, max_forward,
};
use crate::kernel::window_count;
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
pub(in crate::student) struct Pool {
    pub(in crate::student) maximum: bool,
    pub(in crate::student) window: PoolWindow,
    /// Of three spatial axes the first: it is pooled after the planes of the other two.
    pub(in crate::student) depth: Option<PoolWindow>,
    pub(in crate::student) input: Vec<usize>,
    pub(in crate::student) output: Vec<usize>,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let rank = site.shape(0)?.len();
    match (site.operator(), rank) {
        ("GlobalMaxPool", 3..) => global(site),
        (_, 5) => planned::<3>(site),
        (_, 4) => planned::<2>(site),
        (_, 3) => planned::<1>(site),
        _ => Err(Error::input(format!("input 0: expected 3 to 5 axes, found {rank}"))),
    }
}

/// The whole plane, of any rank, as one window.
fn global(site: &Site<'_>) -> Result<Built> {
    let input = site.shape(0)?.to_vec();
    let area: usize = input[2..].iter().product();
    let output: Vec<usize> =
        input.iter().enumerate().map(|(i, &n)| if i < 2 { n } else { 1 }).collect();
    let window = PoolWindow {
        input: [1, area],
        output: [1, 1],
        kernel: [1, area],
        stride: [1, 1],
        dilation: [1, 1],
        before: [0, 0],
        after: [0, 0],
        count_padding: false,
    };
    checked(Pool { maximum: true, window, depth: None, input, output: output.clone() }, output)
}

fn checked(pool: Pool, output: Vec<usize>) -> Result<Built> {
    for PoolWindow { input: [h, w], .. } in [&pool.window].into_iter().chain(&pool.depth) {
        let area = h.checked_mul(*w).filter(|&area| area > 0);
        if area.is_none_or(|area| u32::try_from(area).is_err()) {
            return Err(Error::input(format!(
                "input: expected a plane of 1 to 2^32 positions, found {h}x{w}"
            )));
        }
    }
    Ok(Built::new(pool, [0], output))
}

fn planned<const N: usize>(site: &Site<'_>) -> Result<Built> {
    let shape = site.shape(0)?.to_vec();
    let mut input = [0; N];
    input.copy_from_slice(&shape[2..]);
    let kernel = site.sizes::<N>("kernel_shape", 0)?;
    let (stride, dilation) = (site.sizes::<N>("strides", 1)?, site.sizes::<N>("dilations", 1)?);
    let (before, after) = super::conv::padding(site, input, kernel, stride, dilation)?;
    let ceil = site.int("ceil_mode", 0) != 0;
    let mut output = [0; N];
    for i in 0..N {
        output[i] =
            window_count(input[i], kernel[i], stride[i], dilation[i], [before[i], after[i]], ceil)
                .ok_or_else(|| {
                    Error::input(format!(
                        "window of {kernel:?} with stride {stride:?} does not fit input of \
                         {input:?} padded by {before:?} and {after:?}"
                    ))
                })?;
    }
    let count_padding = site.int("count_include_pad", 0) != 0;
    let window = PoolWindow {
        input: plane(input, 1),
        output: plane(output, 1),
        kernel: plane(kernel, 1),
        stride: plane(stride, 1),
        dilation: plane(dilation, 1),
        before: plane(before, 0),
        after: plane(after, 0),
        count_padding,
    };
    let depth = match output[..] {
        [depth, .., h, w] if N == 3 => {
            let across = h.checked_mul(w);
            let across = across.ok_or_else(|| Error::input("output is too large"))?;
            Some(PoolWindow {
                input: [input[0], across],
                output: [depth, across],
                kernel: [kernel[0], 1],
                stride: [stride[0], 1],
                dilation: [dilation[0], 1],
                before: [before[0], 0],
                after: [after[0], 0],
                count_padding,
            })
        }
        _ => None,
    };
    let result: Vec<usize> = shape[..2].iter().copied().chain(output).collect();
    checked(
        Pool {
            maximum: site.operator() == "MaxPool",
            window,
            depth,
            input: shape,
            output: result.clone(),
        },
        result,
    )
}

impl Operator for Pool {
    /// The places of the maxima in the planes, and of those along the first of three axes; of
    /// averages none.
    type Kept = [Vec<u32>; 2];

    fn map_layer(&self) -> MapLayer<'_> {
        let w = &self.window;
        if self.depth.is_some() {
            return MapLayer::Other;
        }
        if w.output == [1, 1]
            && w.kernel == w.input
            && w.before == [0, 0]
            && w.after == [0, 0]
            && !self.maximum
        {
            return MapLayer::PlaneMean;
        }
        if self.maximum { MapLayer::MaxPool(w) } else { MapLayer::AveragePool(w) }
    }

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = data(inputs[0])?;
        typed!(inputs[0].dtype(), |T| {
            let pooled = |x: &[T], window| {
                if self.maximum {
                    max_forward(x, window)
                } else {
                    (average_forward(x, window), Vec::new())
                }
            };
            let (planes, places) = pooled(x.of::<T>()?, self.window);
            let (values, behind) = match self.depth {
                Some(depth) => pooled(&planes, depth),
                None => (planes, Vec::new()),
            };
            Ok(OpOutput::one(tensor(values, &self.output)?, [places, behind]))
        })
    }

    fn backward(
        &self,
        [places, behind]: [Vec<u32>; 2],
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let held = data(&dy)?;
        typed!(dy.dtype(), |T| {
            let d = held.of::<T>()?;
            let spread = |d: &[T], places: &[u32], window| {
                if self.maximum {
                    max_backward(d, places, window)
                } else {
                    average_backward(d, window)
                }
            };
            let dx = match self.depth {
                Some(depth) => spread(&spread(d, &behind, depth), &places, self.window),
                None => spread(d, &places, self.window),
            };
            Ok(vec![Some(tensor(dx, &self.input)?)])
        })
    }
}
