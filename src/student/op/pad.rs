//! `Pad` with a constant.

use super::{Built, Forward, Operator, Run, Saved, Site, only};
use crate::error::{Error, Result};
use crate::kernel::Float;
use crate::kernel::strided::{Strided, dense_strides, gather, scatter};
use crate::student::op::site::axis;
use crate::student::value::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
struct Pad {
    /// Where the input lies in the output.
    view: Strided,
    output: Vec<usize>,
    value: f64,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let input = site.shape(0)?;
    if let Some(mode) = site.text("mode").filter(|m| m != "constant") {
        return Err(Error::input(format!("mode: expected constant, found {mode}")));
    }
    let pads = site.ints_at(1, "pads")?.ok_or_else(|| Error::input("pads are missing"))?;
    let value = site.known_number(2)?.unwrap_or_else(|| f64::from(site.float("value", 0.0)));
    let axes: Vec<usize> = match site.known_ints(3)? {
        Some(axes) => axes.iter().map(|&a| axis(a, input.len())).collect::<Result<_>>()?,
        None => (0..input.len()).collect(),
    };
    let sizes: Vec<usize> = pads.iter().filter_map(|&p| usize::try_from(p).ok().filter(|&p| p < 1 << 31)).collect();
    if sizes.len() != 2 * axes.len() {
        return Err(Error::input(format!("pads: expected {} sizes from 0 on, found {pads:?}", 2 * axes.len())));
    }
    let (mut output, mut before) = (input.to_vec(), vec![0; input.len()]);
    for (i, &axis) in axes.iter().enumerate() {
        before[axis] = sizes[i];
        output[axis] += sizes[i] + sizes[axes.len() + i];
    }
    let strides = dense_strides(&output);
    let offset = before.iter().zip(&strides).map(|(b, s)| b * s.cast_unsigned()).sum();
    let view = Strided { shape: input.to_vec(), strides, offset };
    Ok(Built::new(Pad { view, output: output.clone(), value }, [0], output))
}

impl Operator for Pad {
    fn forward(&self, inputs: &[&Tensor], _run: &Run) -> Result<Forward> {
        let x = data(inputs[0])?;
        typed!(inputs[0].dtype(), T => {
            let mut out: Vec<T> = vec![<T as Float>::of(self.value); self.output.iter().product()];
            scatter(x.of::<T>()?, &self.view, &mut out);
            Ok(Forward::one(tensor(out, &self.output)?, Vec::new()))
        })
    }

    fn backward(&self, _saved: Saved, gradients: Vec<Option<Tensor>>, _wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let held = data(&dy)?;
        typed!(dy.dtype(), T => Ok(vec![Some(tensor(gather(held.of::<T>()?, &self.view), &self.view.shape)?)]))
    }
}
