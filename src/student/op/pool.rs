//! `MaxPool` and `AveragePool` over two spatial axes.

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
    let [n, c, h, w] = site.shape_of::<4>(0)?;
    let input = [h, w];
    let kernel = site.sizes::<2>("kernel_shape", 0)?;
    let (stride, dilation) = (site.sizes::<2>("strides", 1)?, site.sizes::<2>("dilations", 1)?);
    let (before, after) = super::conv::padding(site, input, kernel, stride, dilation)?;
    let ceil = site.int("ceil_mode", 0) != 0;
    let mut output = [0; 2];
    for i in 0..2 {
        output[i] = window_count(input[i], kernel[i], stride[i], dilation[i], [before[i], after[i]], ceil).ok_or_else(|| {
            Error::input(format!(
                "window of {kernel:?} with stride {stride:?} does not fit input of {input:?} padded by {before:?} and {after:?}"
            ))
        })?;
    }
    if h.checked_mul(w).is_none_or(|area| u32::try_from(area).is_err()) {
        return Err(Error::input(format!("input: expected a plane under 2^32 positions, found {h}x{w}")));
    }
    if site.int("storage_order", 0) != 0 || site.node.output.get(1).is_some_and(|o| !o.is_empty()) {
        return Err(Error::input("the places of the maxima as an output are not supported"));
    }
    let count_padding = site.int("count_include_pad", 0) != 0;
    let window = Window { input, output, kernel, stride, dilation, before, after, count_padding };
    let shape = vec![n, c, output[0], output[1]];
    let operator = Pool { maximum: site.operator() == "MaxPool", window, input: vec![n, c, h, w], output: shape.clone() };
    Ok(Built::new(operator, [0], shape))
}

impl Operator for Pool {
    fn kind(&self) -> Kind<'_> {
        let w = &self.window;
        if w.output == [1, 1] && w.kernel == w.input && w.before == [0, 0] && w.after == [0, 0] && !self.maximum {
            return Kind::PlaneMean;
        }
        if self.maximum { Kind::MaxPool(w) } else { Kind::AveragePool(w) }
    }

    fn forward(&self, inputs: &[&Tensor], _run: &Run) -> Result<Forward> {
        let x = data(inputs[0])?;
        typed!(inputs[0].dtype(), T => {
            let (values, places) =
                if self.maximum { max_forward(x.of::<T>()?, self.window) } else { (average_forward(x.of::<T>()?, self.window), Vec::new()) };
            let mut forward = Forward::one(tensor(values, &self.output)?, Vec::new());
            forward.saved.places = places;
            Ok(forward)
        })
    }

    fn backward(&self, kept: Saved, gradients: Vec<Option<Tensor>>, _wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let held = data(&dy)?;
        typed!(dy.dtype(), T => {
            let d = held.of::<T>()?;
            let dx = if self.maximum { max_backward(d, &kept.places, self.window) } else { average_backward(d, self.window) };
            Ok(vec![Some(tensor(dx, &self.input)?)])
        })
    }
}
