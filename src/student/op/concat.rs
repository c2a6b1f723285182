//! `Concat` along an axis.

use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::strided::{Strided, dense_strides, gather, scatter};
use crate::student::op::site::axis;
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
pub(in crate::student) struct Concat {
    pub(in crate::student) axis: usize,
    /// Where each input lies in the output.
    pub(in crate::student) views: Vec<Strided>,
    output: Vec<usize>,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let mut output = site.shape(0)?.to_vec();
    let axis = axis(site.int("axis", 1), output.len())?;
    output[axis] = 0;
    let mut starts = Vec::new();
    for input in 0..site.shapes.len() {
        let shape = site.shape(input)?;
        let fits = shape.len() == output.len()
            && shape.iter().zip(&output).enumerate().all(|(i, (a, b))| i == axis || a == b);
        if !fits {
            return Err(Error::input(format!(
                "input {input}: shape {shape:?} does not join {:?} along axis {axis}",
                site.shape(0)?
            )));
        }
        starts.push(output[axis]);
        output[axis] += shape[axis];
    }
    let strides = dense_strides(&output);
    let views = starts
        .iter()
        .enumerate()
        .map(|(input, &start)| {
            let offset = start * strides[axis].cast_unsigned();
            Ok(Strided { shape: site.shape(input)?.to_vec(), strides: strides.clone(), offset })
        })
        .collect::<Result<Vec<_>>>()?;
    let inputs: Vec<usize> = (0..views.len()).collect();
    Ok(Built::new(Concat { axis, views, output: output.clone() }, inputs, output))
}

impl Operator for Concat {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        typed!(inputs[0].dtype(), |T| {
            let mut out: Vec<T> = vec![0.0; self.output.iter().product()];
            for (x, view) in inputs.iter().zip(&self.views) {
                scatter(data(x)?.of::<T>()?, view, &mut out);
            }
            Ok(OpOutput::one(tensor(out, &self.output)?, ()))
        })
    }

    fn backward(
        &self,
        _kept: (),
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let held = data(&dy)?;
        typed!(dy.dtype(), |T| {
            let d = held.of::<T>()?;
            self.views
                .iter()
                .zip(wanted)
                .map(
                    |(view, &wanted)| {
                        if wanted {
                            tensor(gather(d, view), &view.shape).map(Some)
                        } else {
                            Ok(None)
                        }
                    },
                )
                .collect()
        })
    }
}
