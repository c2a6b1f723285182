//! `BatchNormalization`: statistics and running statistics stay on the device.

use super::super::batch_norm::BatchNorm;
use super::super::{OpOutput, Operator, PassOptions, only};
use super::sum::channel_sum;
use crate::error::Result;
use crate::student::Mode;
use candle_core::Tensor;

/// Batch normalisation of `[outer, channels, inner]`.
#[derive(Debug)]
pub(in crate::student::op) struct Normalization {
    pub(in crate::student::op) norm: BatchNorm,
    pub(in crate::student::op) outer: usize,
    pub(in crate::student::op) channels: usize,
}

/// What the backward pass takes.
#[derive(Debug)]
pub(in crate::student::op) struct NormalizationKept {
    /// The input less its mean, `[outer, channels, inner]`.
    centred: Tensor,
    rstd: Tensor,
    scale: Tensor,
    training: bool,
}

impl Normalization {
    fn flat(&self, t: &Tensor) -> Result<Tensor> {
        Ok(t.reshape((self.outer, self.channels, ()))?)
    }

    /// One number a channel.
    fn by_channel(&self, t: &Tensor) -> Result<Tensor> {
        Ok(t.reshape((1, self.channels, 1))?)
    }
}

impl Operator for Normalization {
    type Kept = NormalizationKept;

    fn forward(&self, inputs: &[&Tensor], options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let &[x, scale, bias, running_mean, running_var] = inputs else {
            return Err(crate::error::Error::internal("expected 5 inputs"));
        };
        let (norm, flat) = (&self.norm, self.flat(x)?);
        let training = norm.batch_statistics(options)?;
        let count = norm.count();
        let mean = if training {
            channel_sum(&flat)?.affine(1.0 / count, 0.0)?
        } else {
            running_mean.clone()
        };
        // the subtraction comes first, so that a large mean does not cost digits
        let centred = flat.broadcast_sub(&self.by_channel(&mean)?)?;
        let var = if training {
            channel_sum(&centred.sqr()?)?.affine(1.0 / count, 0.0)?
        } else {
            running_var.clone()
        };
        let mut updates = Vec::new();
        if training && options.mode == Mode::Train {
            let (old, new) = norm.blend();
            let blend = |before: &Tensor, now: &Tensor, factor: f64| -> Result<Tensor> {
                Ok((before.affine(old, 0.0)? + now.affine(new * factor, 0.0)?)?)
            };
            updates.push((3, blend(running_mean, &mean, 1.0)?));
            updates.push((4, blend(running_var, &var, count / (count - 1.0))?));
        }
        let rstd = var.affine(1.0, norm.epsilon())?.sqrt()?.recip()?;
        let y = centred
            .broadcast_mul(&self.by_channel(&(&rstd * scale)?)?)?
            .broadcast_add(&self.by_channel(bias)?)?;
        let kept = NormalizationKept { centred, rstd, scale: (*scale).clone(), training };
        Ok(OpOutput { updates, ..OpOutput::one(y.reshape(x.dims())?, kept) })
    }

    /// The gradients as the host form has them: dβ = Σdy, dγ = r·Σdy(x − μ), dx = γr·(dy
    /// − Σdy/n − (x − μ)·r²·Σdy(x − μ)/n).
    fn backward(
        &self,
        kept: NormalizationKept,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let NormalizationKept { centred, rstd, scale, training } = kept;
        let dy = only(gradients)?;
        let flat = self.flat(&dy)?;
        let (total, weighted) = (channel_sum(&flat)?, channel_sum(&(&flat * &centred)?)?);
        let mut result = vec![None; 5];
        if wanted[0] {
            let share = -1.0 / self.norm.count();
            let dx = if training {
                let slope = (&weighted * rstd.sqr()?)?.affine(share, 0.0)?;
                let level = self.by_channel(&total.affine(share, 0.0)?)?;
                (flat + centred.broadcast_mul(&self.by_channel(&slope)?)?)?.broadcast_add(&level)?
            } else {
                flat
            };
            result[0] =
                Some(dx.broadcast_mul(&self.by_channel(&(&rstd * scale)?)?)?.reshape(dy.dims())?);
        }
        result[1] = Some((weighted * rstd)?);
        result[2] = Some(total);
        Ok(result)
    }
}
