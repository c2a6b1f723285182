//! `LayerNormalization` and `RMSNormalization` from an axis to the last.

use super::{Built, OpOutput, Operator, PassOptions, Site};
use crate::error::{Error, Result};
use crate::kernel::norm::{
    layer_forward, layer_input_gradient, layer_parameter_gradients, row_scales, row_statistics,
};
use crate::kernel::strided::{Strided, gather, reduce_sum};
use crate::student::op::site::axis;
use crate::tensor::{Element, data, narrow, tensor, typed, wide};
use candle_core::{DType, Tensor};

#[derive(Debug)]
pub(in crate::student) struct LayerNorm {
    pub(in crate::student) input: Vec<usize>,
    /// The normalized axes.
    pub(in crate::student) shape: Vec<usize>,
    /// Their number of elements.
    pub(in crate::student) width: usize,
    /// The shapes of scale and bias, which repeat to the normalized axes.
    pub(in crate::student) parameters: Vec<Vec<usize>>,
    /// The shape of the statistics as outputs.
    pub(in crate::student) statistics: Vec<usize>,
    pub(in crate::student) epsilon: f64,
    /// Whether the mean is subtracted.
    pub(in crate::student) centered: bool,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let input = site.shape(0)?.to_vec();
    let axis = axis(site.int("axis", -1), input.len())?;
    let shape = input[axis..].to_vec();
    if input.contains(&0) {
        return Err(Error::input("input 0 is empty"));
    }
    let centered = site.operator() == "LayerNormalization";
    let inputs: &[usize] = if centered && site.has(2) { &[0, 1, 2] } else { &[0, 1] };
    let mut parameters = Vec::new();
    for &i in &inputs[1..] {
        let own = site.shape(i)?.to_vec();
        if super::binary::broadcast(&own, &shape)? != shape {
            return Err(Error::input(format!(
                "input {i}: shape {own:?} does not repeat to {shape:?}"
            )));
        }
        parameters.push(own);
    }
    let statistics: Vec<usize> =
        input.iter().enumerate().map(|(i, &n)| if i < axis { n } else { 1 }).collect();
    let epsilon = f64::from(site.float("epsilon", 1e-5));
    let outputs = if centered {
        vec![input.clone(), statistics.clone(), statistics.clone()]
    } else {
        vec![input.clone()]
    };
    let operator = LayerNorm {
        input,
        width: shape.iter().product(),
        shape,
        parameters,
        statistics,
        epsilon,
        centered,
    };
    Ok(Built::with_outputs(operator, inputs, outputs))
}

/// What the backward pass takes: input and scale, mean and 1/deviation of every row.
#[derive(Debug)]
pub(in crate::student) struct LayerNormKept {
    x: Tensor,
    scale: Tensor,
    statistics: Vec<(f64, f64)>,
}

impl LayerNorm {
    /// Scale or bias for every normalized element.
    fn repeated<T: Element>(&self, values: &[T], own: &[usize]) -> Vec<T> {
        if values.len() == self.width {
            values.to_vec()
        } else {
            gather(values, &Strided::broadcast(own, &self.shape))
        }
    }

    /// The gradient of scale or bias in its own shape.
    fn summed<T: Element>(&self, full: Vec<T>, own: &[usize]) -> Result<Tensor> {
        if full.len() == own.iter().product::<usize>() {
            tensor(full, own)
        } else {
            tensor(reduce_sum(&full, &self.shape, own), own)
        }
    }

    /// What the gradients of the statistics as outputs add to the input's:
    /// `dμ/n − dr·r³·(x − μ)/n` by row.
    #[allow(clippy::cast_precision_loss, reason = "a count of elements in memory")]
    fn add_statistics<T: Element>(
        &self,
        dx: &mut [T],
        x: &[T],
        statistics: &[(f64, f64)],
        dmean: &[f64],
        drstd: &[f64],
    ) {
        let n = self.width as f64;
        for (row, (dx, x)) in
            dx.chunks_exact_mut(self.width).zip(x.chunks_exact(self.width)).enumerate()
        {
            let (mean, rstd) = statistics[row];
            let (flat, slope) = (
                dmean.get(row).map_or(0.0, |d| d / n),
                drstd.get(row).map_or(0.0, |d| d * rstd.powi(3) / n),
            );
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx += <T as crate::kernel::Float>::of(flat - slope * (x.wide() - mean));
            }
        }
    }
}

impl Operator for LayerNorm {
    type Kept = LayerNormKept;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let (x, scale) = (data(inputs[0])?, data(inputs[1])?);
        let bias = inputs.get(2).map(|b| data(b)).transpose()?;
        let dtype = inputs[0].dtype();
        typed!(dtype, |T| {
            let x = x.of::<T>()?;
            let statistics = if self.centered {
                row_statistics(x, self.width, self.epsilon)
            } else {
                row_scales(x, self.width, self.epsilon)
            };
            let scale = self.repeated(scale.of::<T>()?, inputs[1].dims());
            let bias = match &bias {
                Some(bias) => Some(self.repeated(bias.of::<T>()?, inputs[2].dims())),
                None => None,
            };
            let mut outputs =
                vec![tensor(layer_forward(x, &statistics, &scale, bias.as_deref()), &self.input)?];
            if self.centered {
                let (means, scales): (Vec<f64>, Vec<f64>) = statistics.iter().copied().unzip();
                outputs.push(narrow(&means, &self.statistics, dtype)?);
                outputs.push(narrow(&scales, &self.statistics, dtype)?);
            }
            let (x, scale) = (inputs[0].clone(), inputs[1].clone());
            Ok(OpOutput::several(outputs, LayerNormKept { x, scale, statistics }))
        })
    }

    fn backward(
        &self,
        kept: LayerNormKept,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dtype = gradients.iter().flatten().map(Tensor::dtype).next().unwrap_or(DType::F32);
        let mut gradients = gradients.into_iter();
        let mut next = || gradients.next().flatten();
        let (dy, dmean, drstd) = (next(), next(), next());
        let dy = dy.map_or_else(
            || Tensor::zeros(self.input.as_slice(), dtype, &candle_core::Device::Cpu),
            Ok,
        )?;
        let LayerNormKept { x, scale, statistics } = kept;
        let (x, scale, held) = (data(&x)?, data(&scale)?, data(&dy)?);
        typed!(dtype, |T| {
            let (x, d) = (x.of::<T>()?, held.of::<T>()?);
            let mut result = vec![None; wanted.len()];
            if wanted[0] {
                let scale = self.repeated(scale.of::<T>()?, &self.parameters[0]);
                let mut dx = layer_input_gradient(x, d, &statistics, &scale, self.centered);
                if dmean.is_some() || drstd.is_some() {
                    let values = |t: Option<Tensor>| t.map_or(Ok(Vec::new()), |t| wide(&t));
                    self.add_statistics(&mut dx, x, &statistics, &values(dmean)?, &values(drstd)?);
                }
                result[0] = Some(tensor(dx, &self.input)?);
            }
            if wanted[1..].contains(&true) {
                let (dscale, dbias) = layer_parameter_gradients(x, d, &statistics, self.width);
                result[1] = Some(self.summed(dscale, &self.parameters[0])?);
                if let (Some(bias), Some(own)) = (result.get_mut(2), self.parameters.get(1)) {
                    *bias = Some(self.summed(dbias, own)?);
                }
            }
            Ok(result)
        })
    }
}
