//! `BatchNormalization`, in training (batch statistics) and inference form.

use super::{Built, Forward, Operator, Run, Saved, Site, only, saved};
use crate::error::{Error, Result};
use crate::kernel::norm::{Planes, gradient_sums, input_gradient, normalize, statistics};
use crate::student::Mode;
use crate::student::value::{data, narrow, tensor, typed, wide};
use candle_core::Tensor;

#[derive(Debug)]
struct BatchNorm {
    planes: Planes,
    epsilon: f64,
    momentum: f64,
    training_mode: bool,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let shape = site.shape(0)?;
    let &[outer, channels, ref rest @ ..] = shape else {
        return Err(Error::input(format!("input 0: expected [N, C, …], found shape {shape:?}")));
    };
    for input in 1..5 {
        if site.shape(input)? != [channels] {
            return Err(Error::input(format!("input {input}: expected shape [{channels}], found {:?}", site.shape(input)?)));
        }
    }
    if site.int("spatial", 1) != 1 {
        return Err(Error::input("spatial 0 (statistics by position) is not supported"));
    }
    let operator = BatchNorm {
        planes: Planes { outer, channels, inner: rest.iter().product() },
        epsilon: f64::from(site.float("epsilon", 1e-5)),
        momentum: f64::from(site.float("momentum", 0.9)),
        training_mode: site.int("training_mode", 0) != 0,
    };
    Ok(Built::new(operator, [0, 1, 2, 3, 4], shape.to_vec()))
}

impl BatchNorm {
    fn batch_statistics(&self, run: &Run) -> bool {
        match run.mode {
            Mode::Train => !run.freeze_batchnorm,
            Mode::Eval => false,
            Mode::AsWritten => self.training_mode,
        }
    }
}

impl Operator for BatchNorm {
    fn forward(&self, inputs: &[&Tensor], run: &Run) -> Result<Forward> {
        let &[x, scale, bias, running_mean, running_var] = inputs else {
            return Err(Error::input("batch normalisation: expected 5 inputs"));
        };
        let training = self.batch_statistics(run);
        let count = self.planes.count();
        if training && count < 2.0 {
            return Err(Error::input(format!("batch normalisation: expected at least 2 values a channel, found {count}"))
                .hint("take a larger batch, or drop the last incomplete one"));
        }
        let held = data(x)?;
        let moments = if training {
            typed!(x.dtype(), T => Ok(statistics(held.of::<T>()?, self.planes)))?
        } else {
            wide(running_mean)?.into_iter().zip(wide(running_var)?).collect()
        };
        let rstd: Vec<f64> = moments.iter().map(|(_, var)| 1.0 / (var + self.epsilon).sqrt()).collect();
        let centre: Vec<(f64, f64, f64)> =
            moments.iter().zip(&rstd).zip(wide(scale)?.iter().zip(wide(bias)?)).map(|(((m, _), r), (s, b))| (*m, s * r, b)).collect();
        let y = typed!(x.dtype(), T => tensor(normalize(held.of::<T>()?, self.planes, &centre), x.dims()))?;
        let mut updates = Vec::new();
        if training && run.mode == Mode::Train {
            let blend = |old: Vec<f64>, new: &dyn Fn(usize) -> f64| -> Vec<f64> {
                old.iter().enumerate().map(|(c, old)| self.momentum * old + (1.0 - self.momentum) * new(c)).collect()
            };
            let mean = blend(wide(running_mean)?, &|c| moments[c].0);
            // the unbiased estimate, as PyTorch; the ONNX operator's text takes the biased one
            let var = blend(wide(running_var)?, &|c| moments[c].1 * count / (count - 1.0));
            updates.push((3, narrow(&mean, running_mean.dims(), x.dtype())?));
            updates.push((4, narrow(&var, running_var.dims(), x.dtype())?));
        }
        let numbers = moments.iter().map(|(mean, _)| *mean).chain(rstd).collect();
        let saved = Saved { tensors: vec![x.clone(), scale.clone()], numbers, training, ..Saved::default() };
        Ok(Forward { outputs: vec![y], saved, updates })
    }

    /// With Σ over a channel's n values and r = 1/√(var + ε): dβ = Σdy, dγ = r·Σdy(x − μ), and in training
    /// dx = γr·(dy − Σdy/n − (x − μ)·r²·Σdy(x − μ)/n).
    fn backward(&self, kept: Saved, gradients: Vec<Option<Tensor>>, wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let (x, scale, dy) = (saved(&kept, 0)?, wide(saved(&kept, 1)?)?, only(gradients)?);
        let (means, rstd) = kept.numbers.split_at(self.planes.channels);
        let (held, held_dy) = (data(x)?, data(&dy)?);
        let count = self.planes.count();
        typed!(dy.dtype(), T => {
            let (x, dy_values) = (held.of::<T>()?, held_dy.of::<T>()?);
            let sums = gradient_sums(x, dy_values, self.planes, means);
            let dx = if wanted[0] {
                let terms: Vec<[f64; 4]> = (0..self.planes.channels)
                    .map(|c| {
                        let (factor, r) = (scale[c] * rstd[c], rstd[c]);
                        let share = if kept.training { factor / count } else { 0.0 };
                        [means[c], factor, -share * r * r * sums[c].1, -share * sums[c].0]
                    })
                    .collect();
                Some(tensor(input_gradient(x, dy_values, self.planes, &terms), dy.dims())?)
            } else {
                None
            };
            let channels = [self.planes.channels];
            let dscale: Vec<f64> = sums.iter().zip(rstd).map(|(s, r)| s.1 * r).collect();
            let dbias: Vec<f64> = sums.iter().map(|s| s.0).collect();
            Ok(vec![dx, Some(narrow(&dscale, &channels, dy.dtype())?), Some(narrow(&dbias, &channels, dy.dtype())?), None, None])
        })
    }
}
