//! `LayerNormalization`, `RMSNormalization`, `GroupNormalization` and `InstanceNormalization`: rows
//! normalized by their own statistics.

use super::sum::{channel_sum, summed_to};
use super::{Lower, Lowered, OnDevice, Target};
use crate::error::Result;
use crate::student::op::group_norm::GroupNorm;
use crate::student::op::layer_norm::LayerNorm;
use crate::student::op::{OpOutput, Operator, PassOptions, only};
use candle_core::{D, Tensor};
use std::sync::Arc;

/// The mean of every row, kept as an axis of 1.
fn row_mean(t: &Tensor) -> Result<Tensor> {
    Ok(t.mean_keepdim(D::Minus1)?)
}

/// Rows `[rows, width]` normalized: (the result, mean, 1 / deviation).
fn normalized(rows: &Tensor, epsilon: f64, centered: bool) -> Result<[Tensor; 3]> {
    let mean = row_mean(rows)?;
    let own = if centered { rows.broadcast_sub(&mean)? } else { rows.clone() };
    let rstd = row_mean(&own.sqr()?)?.affine(1.0, epsilon)?.sqrt()?.recip()?;
    Ok([own.broadcast_mul(&rstd)?, mean, rstd])
}

/// The gradient of the rows from that of the result: r·(g − mean g − x̂·mean(g·x̂));
/// without `centered` no mean is subtracted.
fn row_gradient(g: &Tensor, normal: &Tensor, rstd: &Tensor, centered: bool) -> Result<Tensor> {
    let along = normal.broadcast_mul(&row_mean(&(g * normal)?)?)?;
    let rest = if centered { g.broadcast_sub(&row_mean(g)?)? } else { g.clone() };
    Ok((rest - along)?.broadcast_mul(rstd)?)
}

/// What the backward pass takes: the rows normalized, 1/deviation, the scale repeated.
#[derive(Debug)]
pub(super) struct Normalized {
    normal: Tensor,
    rstd: Tensor,
    scale: Tensor,
}

impl OnDevice<LayerNorm> {
    fn rows(&self, t: &Tensor) -> Result<Tensor> {
        Ok(t.reshape(((), self.0.width))?)
    }

    /// Scale or bias for every normalized element, as a row.
    fn repeated(&self, t: &Tensor) -> Result<Tensor> {
        Ok(t.broadcast_as(self.0.shape.as_slice())?.contiguous()?.reshape((1, self.0.width))?)
    }

    /// The gradient of scale or bias in its own shape, from that by row.
    fn summed(&self, rows: &Tensor, own: &[usize]) -> Result<Tensor> {
        summed_to(&rows.sum(0)?.reshape(self.0.shape.as_slice())?, own)
    }
}

impl Lower for GroupNorm {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        Ok(Some(OnDevice::of(operator)))
    }
}

impl Lower for LayerNorm {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        Ok(Some(OnDevice::of(operator)))
    }
}

impl Operator for OnDevice<LayerNorm> {
    type Kept = Normalized;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let [normal, mean, rstd] =
            normalized(&self.rows(inputs[0])?, self.0.epsilon, self.0.centered)?;
        let scale = self.repeated(inputs[1])?;
        let mut y = normal.broadcast_mul(&scale)?;
        if let Some(bias) = inputs.get(2) {
            y = y.broadcast_add(&self.repeated(bias)?)?;
        }
        let mut outputs = vec![y.reshape(self.0.input.as_slice())?];
        if self.0.centered {
            outputs.push(mean.reshape(self.0.statistics.as_slice())?);
            outputs.push(rstd.reshape(self.0.statistics.as_slice())?);
        }
        Ok(OpOutput::several(outputs, Normalized { normal, rstd, scale }))
    }

    #[allow(clippy::cast_precision_loss, reason = "a count of elements in memory")]
    fn backward(
        &self,
        kept: Normalized,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let Normalized { normal, rstd, scale } = kept;
        let mut gradients = gradients.into_iter();
        let mut next =
            |width: usize| gradients.next().flatten().map(|g| g.reshape(((), width))).transpose();
        let (dy, dmean, drstd) = (next(self.0.width)?, next(1)?, next(1)?);
        let dy = dy.map_or_else(|| normal.zeros_like(), Ok)?;
        let mut result = vec![None; wanted.len()];
        if wanted[0] {
            let mut dx = row_gradient(&dy.broadcast_mul(&scale)?, &normal, &rstd, self.0.centered)?;
            let share = 1.0 / self.0.width as f64;
            if let Some(dmean) = dmean {
                dx = dx.broadcast_add(&dmean.affine(share, 0.0)?)?;
            }
            if let Some(drstd) = drstd {
                // dr·(−r³)(x − μ)/n, and x̂ = r(x − μ)
                dx = (dx + normal.broadcast_mul(&(drstd * rstd.sqr()?)?.affine(-share, 0.0)?)?)?;
            }
            result[0] = Some(dx.reshape(self.0.input.as_slice())?);
        }
        if wanted[1] {
            result[1] = Some(self.summed(&(&dy * &normal)?, &self.0.parameters[0])?);
        }
        if let (Some(true), Some(own)) = (wanted.get(2), self.0.parameters.get(1)) {
            result[2] = Some(self.summed(&dy, own)?);
        }
        Ok(result)
    }
}

impl OnDevice<GroupNorm> {
    fn rows(&self, t: &Tensor) -> Result<Tensor> {
        Ok(t.reshape((self.0.images * self.0.groups, ()))?)
    }

    fn maps(&self, t: &Tensor) -> Result<Tensor> {
        Ok(t.reshape((self.0.images, self.0.channels, ()))?)
    }

    /// Scale or bias of every channel.
    fn repeated(&self, t: &Tensor) -> Result<Tensor> {
        let slots = self.0.channels / self.0.shared;
        Ok(t.reshape((slots, 1))?.broadcast_as((slots, self.0.shared))?.contiguous()?.reshape((
            1,
            self.0.channels,
            1,
        ))?)
    }

    fn summed(&self, t: &Tensor) -> Result<Tensor> {
        Ok(channel_sum(t)?.reshape(((), self.0.shared))?.sum(1)?)
    }
}

impl Operator for OnDevice<GroupNorm> {
    type Kept = Normalized;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let [normal, _, rstd] = normalized(&self.rows(inputs[0])?, self.0.epsilon, true)?;
        let scale = self.repeated(inputs[1])?;
        let y =
            self.maps(&normal)?.broadcast_mul(&scale)?.broadcast_add(&self.repeated(inputs[2])?)?;
        Ok(OpOutput::one(y.reshape(inputs[0].dims())?, Normalized { normal, rstd, scale }))
    }

    fn backward(
        &self,
        kept: Normalized,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let (Normalized { normal, rstd, scale }, dy) = (kept, only(gradients)?);
        let maps = self.maps(&dy)?;
        let mut result = vec![None; wanted.len()];
        if wanted[0] {
            let g = self.rows(&maps.broadcast_mul(&scale)?)?;
            result[0] = Some(row_gradient(&g, &normal, &rstd, true)?.reshape(dy.dims())?);
        }
        result[1] = Some(self.summed(&(&maps * self.maps(&normal)?)?)?);
        result[2] = Some(self.summed(&maps)?);
        Ok(result)
    }
}
