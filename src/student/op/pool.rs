//! `MaxPool`, `AveragePool` and `GlobalMaxPool` over one or two spatial axes. Of equal maxima the
//! first gets the gradient, as in `PyTorch`.

use super::on_device::{self, Target};
use super::{Built, Forward, Kind, Operator, Run, Saved, Site, only};
use crate::error::{Error, Result};
use crate::kernel::pool::{Window, average_backward, average_forward, max_backward, max_forward};
use crate::kernel::window_count;
use crate::student::value::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
struct Pool {
    maximum: bool,
    window: Window,
    input: Vec<usize>,
    output: Vec<usize>,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let rank = site.shape(0)?.len();
    match (site.operator(), rank) {
        ("GlobalMaxPool", 3..) => global(site),
        (_, 4) => planned::<2>(site),
        (_, 3) => planned::<1>(site),
        _ => Err(Error::input(format!("input 0: expected 3 or 4 axes, found {rank}"))),
    }
}

/// The whole plane, of any rank, as one window.
fn global(site: &Site<'_>) -> Result<Built> {
    let input = site.shape(0)?.to_vec();
    let area: usize = input[2..].iter().product();
    let output: Vec<usize> =
        input.iter().enumerate().map(|(i, &n)| if i < 2 { n } else { 1 }).collect();
    let window = Window {
        input: [1, area],
        output: [1, 1],
        kernel: [1, area],
        stride: [1, 1],
        dilation: [1, 1],
        before: [0, 0],
        after: [0, 0],
        count_padding: false,
    };
    checked(Pool { maximum: true, window, input, output: output.clone() }, output)
}

fn checked(pool: Pool, output: Vec<usize>) -> Result<Built> {
    let [h, w] = pool.window.input;
    if h == 0 || w == 0 || h.checked_mul(w).is_none_or(|area| u32::try_from(area).is_err()) {
        return Err(Error::input(format!(
            "input: expected a plane of 1 to 2^32 positions, found {h}x{w}"
        )));
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
    // a single spatial axis is a map of height 1
    let lift = |a: [usize; N], fill: usize| if N == 2 { [a[0], a[N - 1]] } else { [fill, a[0]] };
    let window = Window {
        input: lift(input, 1),
        output: lift(output, 1),
        kernel: lift(kernel, 1),
        stride: lift(stride, 1),
        dilation: lift(dilation, 1),
        before: lift(before, 0),
        after: lift(after, 0),
        count_padding: site.int("count_include_pad", 0) != 0,
    };
    let result: Vec<usize> = shape[..2].iter().copied().chain(output).collect();
    checked(
        Pool {
            maximum: site.operator() == "MaxPool",
            window,
            input: shape,
            output: result.clone(),
        },
        result,
    )
}

impl Operator for Pool {
    fn on_device(&self, target: &Target) -> Result<Option<Box<dyn Operator>>> {
        let form = on_device::pool::Pool::new(
            self.maximum,
            &self.window,
            [&self.input, &self.output],
            target,
        )?;
        Ok(form.map(|form| Box::new(form) as Box<dyn Operator>))
    }

    fn kind(&self) -> Kind<'_> {
        let w = &self.window;
        if w.output == [1, 1]
            && w.kernel == w.input
            && w.before == [0, 0]
            && w.after == [0, 0]
            && !self.maximum
        {
            return Kind::PlaneMean;
        }
        if self.maximum { Kind::MaxPool(w) } else { Kind::AveragePool(w) }
    }

    fn forward(&self, inputs: &[&Tensor], _run: &Run) -> Result<Forward> {
        let x = data(inputs[0])?;
        typed!(inputs[0].dtype(), |T| {
            let (values, places) = if self.maximum {
                max_forward(x.of::<T>()?, self.window)
            } else {
                (average_forward(x.of::<T>()?, self.window), Vec::new())
            };
            let mut forward = Forward::one(tensor(values, &self.output)?, Vec::new());
            forward.saved.places = places;
            Ok(forward)
        })
    }

    fn backward(
        &self,
        kept: Saved,
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let held = data(&dy)?;
        typed!(dy.dtype(), |T| {
            let d = held.of::<T>()?;
            let dx = if self.maximum {
                max_backward(d, &kept.places, self.window)
            } else {
                average_backward(d, self.window)
            };
            Ok(vec![Some(tensor(dx, &self.input)?)])
        })
    }
}
