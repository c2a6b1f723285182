//! `BatchNormalization`: statistics and running statistics stay on the device.

use super::sum::channel_sum;
use super::{Lower, Lowered, OnDevice, Target};
use crate::error::Result;
use crate::kernel::norm::NormShape;
use crate::student::Mode;
use crate::student::op::batch_norm::BatchNorm;
use crate::student::op::{OpOutput, Operator, PassOptions, only};
use candle_core::Tensor;
use std::sync::Arc;

/// What the backward pass takes.
#[derive(Debug)]
pub(super) struct NormalizedMaps {
    /// The input less its mean, `[outer, channels, inner]`.
    centered: Tensor,
    rstd: Tensor,
    scale: Tensor,
    training: bool,
}

impl OnDevice<BatchNorm> {
    fn flat(&self, t: &Tensor) -> Result<Tensor> {
        Ok(t.reshape((self.0.planes.outer, self.0.planes.channels, ()))?)
    }

    /// One number a channel.
    fn by_channel(&self, t: &Tensor) -> Result<Tensor> {
        Ok(t.reshape((1, self.0.planes.channels, 1))?)
    }
}

impl Lower for BatchNorm {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        let NormShape { outer, channels, inner } = operator.planes;
        if outer * channels * inner == 0 {
            return Ok(None);
        }
        Ok(Some(OnDevice::of(operator)))
    }
}

impl Operator for OnDevice<BatchNorm> {
    type Kept = NormalizedMaps;

    fn forward(&self, inputs: &[&Tensor], options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let &[x, scale, bias, running_mean, running_var] = inputs else {
            return Err(crate::error::Error::internal("expected 5 inputs"));
        };
        let (norm, flat) = (&self.0, self.flat(x)?);
        let training = norm.batch_statistics(options)?;
        let count = norm.count();
        let mean = if training {
            channel_sum(&flat)?.affine(1.0 / count, 0.0)?
        } else {
            running_mean.clone()
        };
        // the subtraction comes first, so that a large mean does not cost digits
        let centered = flat.broadcast_sub(&self.by_channel(&mean)?)?;
        let var = if training {
            channel_sum(&centered.sqr()?)?.affine(1.0 / count, 0.0)?
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
        let y = centered
            .broadcast_mul(&self.by_channel(&(&rstd * scale)?)?)?
            .broadcast_add(&self.by_channel(bias)?)?;
        let kept = NormalizedMaps { centered, rstd, scale: (*scale).clone(), training };
        Ok(OpOutput { updates, ..OpOutput::one(y.reshape(x.dims())?, kept) })
    }

    /// The gradients as the host form has them: dβ = Σdy, dγ = r·Σdy(x − μ), dx = γr·(dy
    /// − Σdy/n − (x − μ)·r²·Σdy(x − μ)/n).
    fn backward(
        &self,
        kept: NormalizedMaps,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let NormalizedMaps { centered, rstd, scale, training } = kept;
        let dy = only(gradients)?;
        let flat = self.flat(&dy)?;
        let (total, weighted) = (channel_sum(&flat)?, channel_sum(&(&flat * &centered)?)?);
        let mut result = vec![None; 5];
        if wanted[0] {
            let share = -1.0 / self.0.count();
            let dx = if training {
                let slope = (&weighted * rstd.sqr()?)?.affine(share, 0.0)?;
                let level = self.by_channel(&total.affine(share, 0.0)?)?;
                (flat + centered.broadcast_mul(&self.by_channel(&slope)?)?)?
                    .broadcast_add(&level)?
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
