//! `RandomUniform`, `RandomNormal`, both as `…Like`, and `Bernoulli`: drawn anew in each pass, by
//! (pass, node, position). The attribute `seed` is not taken: the pass has one.
//!
//! What is computed from draws and constants alone has its mean in place of its value when nothing
//! trains ([`Expected`]); `student/chance.rs` says what that is.

use super::{AnyOperator, Built, Mode, OpOutput, Operator, PassOptions, Site, draw};
use crate::error::{Error, Result};
use crate::kernel::Float;
use crate::kernel::elementwise::map_indexed;
use crate::tensor::{Element, data, tensor, typed};
use candle_core::{DType, Device, Tensor};

#[derive(Debug, Clone, Copy)]
enum Distribution {
    /// Evenly from the first to the second, which is left out.
    Uniform(f64, f64),
    /// By mean and standard deviation.
    Normal(f64, f64),
    /// 1 with the probability that the input has at its position, else 0.
    Bernoulli,
}

#[derive(Debug)]
struct Random {
    distribution: Distribution,
    number: u64,
    output: Vec<usize>,
    dtype: DType,
}

/// The bounds of a uniform draw.
pub(in crate::student) fn bounds(low: f32, high: f32) -> Result<[f64; 2]> {
    if !(low < high && low.is_finite() && high.is_finite()) {
        return Err(Error::input(format!(
            "low, high: expected two bounds, found {low} and {high}"
        )));
    }
    Ok([low.into(), high.into()])
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let distribution = match site.operator() {
        "RandomUniform" | "RandomUniformLike" => {
            let [low, high] = bounds(site.float("low", 0.0), site.float("high", 1.0))?;
            Distribution::Uniform(low, high)
        }
        "Bernoulli" => Distribution::Bernoulli,
        _ => Distribution::Normal(site.float("mean", 0.0).into(), site.float("scale", 1.0).into()),
    };
    let output = if matches!(site.operator(), "RandomUniform" | "RandomNormal") {
        let sizes = site.ints("shape").unwrap_or_default();
        sizes
            .iter()
            .map(|&n| usize::try_from(n))
            .collect::<Result<_, _>>()
            .map_err(|_| Error::input(format!("shape: expected sizes, found {sizes:?}")))?
    } else {
        site.shape(0)?.to_vec()
    };
    let inputs: &[usize] = if matches!(distribution, Distribution::Bernoulli) { &[0] } else { &[] };
    let (number, dtype) = (site.number as u64, site.dtype);
    Ok(Built::new(Random { distribution, number, output: output.clone(), dtype }, inputs, output))
}

impl Random {
    fn values<T: Element>(&self, x: Option<&[T]>, key: u64) -> Vec<T> {
        match (self.distribution, x) {
            (Distribution::Bernoulli, Some(x)) => {
                map_indexed(
                    x,
                    |i, p| {
                        if draw::uniform(key, i) < p.wide() { T::one() } else { T::zero() }
                    },
                )
            }
            (distribution, _) => {
                let zeros = vec![T::zero(); self.output.iter().product()];
                map_indexed(&zeros, |i, _| match distribution {
                    Distribution::Uniform(low, high) => {
                        <T as Float>::of(low + (high - low) * draw::uniform(key, i))
                    }
                    Distribution::Normal(mean, scale) => {
                        <T as Float>::of(mean + scale * draw::normal(key, i))
                    }
                    Distribution::Bernoulli => T::zero(),
                })
            }
        }
    }
}

impl Operator for Random {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let key = draw::key(options.seed, self.number);
        let held = inputs.first().map(|x| data(x)).transpose()?;
        let y = typed!(self.dtype, |T| {
            let x = held.as_ref().map(|x| x.of::<T>()).transpose()?;
            tensor(self.values(x, key), &self.output)
        })?;
        Ok(OpOutput::one(y, ()))
    }

    fn backward(
        &self,
        _kept: (),
        _gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![None; wanted.len()])
    }
}

/// An operator on draws and constants alone, and what it gives where nothing is drawn.
#[derive(Debug)]
pub(in crate::student) struct Expected {
    pub(in crate::student) operator: Box<dyn AnyOperator>,
    pub(in crate::student) mean: f64,
    pub(in crate::student) output: Vec<usize>,
    pub(in crate::student) dtype: DType,
    pub(in crate::student) device: Device,
}

impl Operator for Expected {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        if options.mode != Mode::Eval {
            let OpOutput { outputs, updates, .. } = self.operator.forward(inputs, options)?;
            return Ok(OpOutput { outputs, kept: (), updates });
        }
        let mean = Tensor::full(self.mean, self.output.as_slice(), &Device::Cpu)?;
        Ok(OpOutput::one(mean.to_dtype(self.dtype)?.to_device(&self.device)?, ()))
    }

    fn backward(
        &self,
        _kept: (),
        _gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![None; wanted.len()])
    }
}
