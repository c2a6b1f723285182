//! `BatchNormalization`, in training (batch statistics) and inference form.

use super::{Built, MapLayer, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::norm::{self, NormShape, gradient_sums, input_gradient, normalize, statistics};
use crate::onnx::trains_as_written;
use crate::student::Mode;
use crate::tensor::{data, narrow, tensor, typed, wide};
use candle_core::{DType, Tensor};

/// Batch normalization of one input shape.
#[derive(Debug, Clone, Copy)]
pub(in crate::student) struct BatchNorm {
    pub(in crate::student) planes: NormShape,
    epsilon: f64,
    momentum: f64,
    training_mode: bool,
    is_frozen: bool,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let shape = site.shape(0)?;
    let &[outer, channels, ref rest @ ..] = shape else {
        return Err(Error::input(format!("input 0: expected [N, C, …], found shape {shape:?}")));
    };
    for input in 1..5 {
        if site.shape(input)? != [channels] {
            return Err(Error::input(format!(
                "input {input}: expected shape [{channels}], found {:?}",
                site.shape(input)?
            )));
        }
    }
    if site.int("spatial", 1) != 1 {
        return Err(Error::input("spatial 0 (statistics by position) is not supported"));
    }
    let operator = BatchNorm {
        planes: NormShape { outer, channels, inner: rest.iter().product() },
        epsilon: f64::from(site.float("epsilon", 1e-5)),
        momentum: f64::from(site.float("momentum", 0.9)),
        training_mode: trains_as_written(site.node, site.opset),
        is_frozen: site.is_frozen,
    };
    Ok(Built::new(operator, [0, 1, 2, 3, 4], shape.to_vec()))
}

/// How a batch is normalized: `y = (x − mean)·rstd·scale + bias`, by channel.
#[derive(Debug)]
pub(in crate::student) struct Normalizer {
    pub(in crate::student) means: Vec<f64>,
    pub(in crate::student) rstd: Vec<f64>,
    pub(in crate::student) scale: Vec<f64>,
    pub(in crate::student) bias: Vec<f64>,
    /// Whether mean and deviation are the batch's own.
    pub(in crate::student) training: bool,
    /// New values of the running statistics, as [`OpOutput::updates`].
    pub(in crate::student) updates: Vec<(usize, Tensor)>,
}

/// What the backward pass takes: input and scale, and how the batch was normalized.
#[derive(Debug)]
pub(in crate::student) struct BatchNormKept {
    x: Tensor,
    scale: Tensor,
    means: Vec<f64>,
    rstd: Vec<f64>,
    training: bool,
}

impl BatchNorm {
    /// Whether the batch is normalized by its own statistics, which takes two values a channel.
    pub(in crate::student) fn batch_statistics(&self, options: &PassOptions) -> Result<bool> {
        let training = match options.mode {
            Mode::Train => !options.freeze_batchnorm && !self.is_frozen,
            Mode::Eval => false,
            Mode::AsWritten => self.training_mode,
        };
        let count = self.planes.count();
        if training && count < 2.0 {
            return Err(Error::input(format!(
                "batch normalization: expected at least 2 values a channel, found {count}"
            ))
            .hint("take a larger batch, or drop the last incomplete one"));
        }
        Ok(training)
    }

    /// Values of a channel.
    pub(in crate::student) fn count(&self) -> f64 {
        self.planes.count()
    }

    pub(in crate::student) fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// The shares of the old and the new value in a running statistic.
    pub(in crate::student) fn blend(&self) -> (f64, f64) {
        (self.momentum, 1.0 - self.momentum)
    }

    /// Decides how the batch is normalized; `moments` gives its mean and variance by channel.
    /// `inputs`: scale, bias, running mean and variance.
    pub(in crate::student) fn normalizer(
        &self,
        options: &PassOptions,
        moments: impl FnOnce() -> Result<Vec<(f64, f64)>>,
        inputs: &[&Tensor],
    ) -> Result<Normalizer> {
        let &[scale, bias, running_mean, running_var] = inputs else {
            return Err(Error::internal("batch normalization: expected 5 inputs"));
        };
        let training = self.batch_statistics(options)?;
        let count = self.planes.count();
        let moments = if training {
            moments()?
        } else {
            wide(running_mean)?.into_iter().zip(wide(running_var)?).collect::<Vec<(f64, f64)>>()
        };
        let mut updates = Vec::new();
        if training && options.mode == Mode::Train {
            let blend = |old: Vec<f64>, new: &dyn Fn(usize) -> f64| -> Vec<f64> {
                old.iter()
                    .enumerate()
                    .map(|(c, old)| self.momentum * old + (1.0 - self.momentum) * new(c))
                    .collect()
            };
            let mean = blend(wide(running_mean)?, &|c| moments[c].0);
            // the unbiased estimate, as PyTorch; the ONNX operator's text takes the biased one
            let var = blend(wide(running_var)?, &|c| moments[c].1 * count / (count - 1.0));
            updates.push((3, narrow(&mean, running_mean.dims(), running_mean.dtype())?));
            updates.push((4, narrow(&var, running_var.dims(), running_var.dtype())?));
        }
        let rstd = moments.iter().map(|(_, var)| 1.0 / (var + self.epsilon).sqrt()).collect();
        let means = moments.into_iter().map(|(mean, _)| mean).collect();
        Ok(Normalizer { means, rstd, scale: wide(scale)?, bias: wide(bias)?, training, updates })
    }

    /// The terms of the input's gradient ([`norm::input_terms`]), from the sums over every channel
    /// of dy and dy·(x − mean).
    pub(in crate::student) fn input_terms(
        &self,
        of_channels: [&[f64]; 3],
        training: bool,
        sums: &[(f64, f64)],
    ) -> Vec<[f64; 4]> {
        norm::input_terms(of_channels, training.then(|| self.planes.count()), sums)
    }

    /// The gradients of scale and bias.
    pub(in crate::student) fn parameter_gradients(
        rstd: &[f64],
        sums: &[(f64, f64)],
        dtype: DType,
    ) -> Result<[Tensor; 2]> {
        let [scale, bias] = norm::parameter_gradients(rstd, sums);
        let channels = [rstd.len()];
        Ok([narrow(&scale, &channels, dtype)?, narrow(&bias, &channels, dtype)?])
    }
}

impl Operator for BatchNorm {
    type Kept = BatchNormKept;

    fn map_layer(&self) -> MapLayer<'_> {
        MapLayer::BatchNorm(self)
    }

    fn forward(&self, inputs: &[&Tensor], options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let [x, parameters @ ..] = inputs else {
            return Err(Error::internal("batch normalization: expected 5 inputs"));
        };
        let held = data(x)?;
        let n = self.normalizer(
            options,
            || typed!(x.dtype(), |T| Ok(statistics(held.of::<T>()?, self.planes))),
            parameters,
        )?;
        let affine: Vec<(f64, f64, f64)> = n
            .means
            .iter()
            .zip(&n.rstd)
            .zip(n.scale.iter().zip(&n.bias))
            .map(|((&m, r), (s, &b))| (m, s * r, b))
            .collect();
        let y = typed!(x.dtype(), |T| tensor(
            normalize(held.of::<T>()?, self.planes, &affine),
            x.dims()
        ))?;
        let kept = BatchNormKept {
            x: (*x).clone(),
            scale: parameters[0].clone(),
            means: n.means,
            rstd: n.rstd,
            training: n.training,
        };
        Ok(OpOutput { updates: n.updates, ..OpOutput::one(y, kept) })
    }

    fn backward(
        &self,
        kept: BatchNormKept,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let BatchNormKept { x, scale, means, rstd, training } = kept;
        let (scale, dy) = (wide(&scale)?, only(gradients)?);
        let (held, held_dy) = (data(&x)?, data(&dy)?);
        typed!(dy.dtype(), |T| {
            let (x, dy_values) = (held.of::<T>()?, held_dy.of::<T>()?);
            let sums = gradient_sums(x, dy_values, self.planes, &means);
            let dx = if wanted[0] {
                let terms = self.input_terms([&means, &rstd, &scale], training, &sums);
                Some(tensor(input_gradient(x, dy_values, self.planes, &terms), dy.dims())?)
            } else {
                None
            };
            let [dscale, dbias] = Self::parameter_gradients(&rstd, &sums, dy.dtype())?;
            Ok(vec![dx, Some(dscale), Some(dbias), None, None])
        })
    }
}
