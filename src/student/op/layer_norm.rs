//! `LayerNormalization` from an axis to the last.

use super::{Built, Forward, Operator, Run, Saved, Site, only, saved};
use crate::error::{Error, Result};
use crate::kernel::norm::{layer_forward, layer_input_gradient, layer_parameter_gradients, row_statistics};
use crate::student::op::site::axis;
use crate::student::value::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
struct LayerNorm {
    /// The normalised axes.
    shape: Vec<usize>,
    epsilon: f64,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let input = site.shape(0)?;
    let shape = input[axis(site.int("axis", -1), input.len())?..].to_vec();
    for i in 1..3 {
        if site.has(i) && site.shape(i)?.iter().product::<usize>() != shape.iter().product::<usize>() {
            return Err(Error::input(format!("input {i}: expected shape {shape:?}, found {:?}", site.shape(i)?)));
        }
    }
    if shape.contains(&0) {
        return Err(Error::input("input 0 is empty"));
    }
    let operator = LayerNorm { shape, epsilon: f64::from(site.float("epsilon", 1e-5)) };
    let inputs: &[usize] = if site.has(2) { &[0, 1, 2] } else { &[0, 1] };
    Ok(Built::new(operator, inputs, input.to_vec()))
}

impl Operator for LayerNorm {
    fn forward(&self, inputs: &[&Tensor], _run: &Run) -> Result<Forward> {
        let (x, scale) = (data(inputs[0])?, data(inputs[1])?);
        let bias = inputs.get(2).map(|b| data(b)).transpose()?;
        let width: usize = self.shape.iter().product();
        typed!(inputs[0].dtype(), T => {
            let x = x.of::<T>()?;
            let statistics = row_statistics(x, width, self.epsilon);
            let bias = bias.as_ref().map(|b| b.of::<T>()).transpose()?;
            let y = tensor(layer_forward(x, &statistics, scale.of::<T>()?, bias), inputs[0].dims())?;
            let mut forward = Forward::one(y, vec![inputs[0].clone(), inputs[1].clone()]);
            forward.saved.numbers = statistics.into_iter().flat_map(|(mean, rstd)| [mean, rstd]).collect();
            Ok(forward)
        })
    }

    fn backward(&self, kept: Saved, gradients: Vec<Option<Tensor>>, wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let (x, scale, held) = (data(saved(&kept, 0)?)?, data(saved(&kept, 1)?)?, data(&dy)?);
        let statistics: Vec<(f64, f64)> = kept.numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        let width: usize = self.shape.iter().product();
        typed!(dy.dtype(), T => {
            let (x, d) = (x.of::<T>()?, held.of::<T>()?);
            let mut result = vec![None; wanted.len()];
            if wanted[0] {
                result[0] = Some(tensor(layer_input_gradient(x, d, &statistics, scale.of::<T>()?), dy.dims())?);
            }
            if wanted[1..].contains(&true) {
                let (dscale, dbias) = layer_parameter_gradients(x, d, &statistics, width);
                result[1] = Some(tensor(dscale, saved(&kept, 1)?.dims())?);
                if let Some(bias) = result.get_mut(2) {
                    *bias = Some(tensor(dbias, &self.shape)?);
                }
            }
            Ok(result)
        })
    }
}
