//! Batch norm: recorded as the affine of the map, and applied by the operator that reads it.

use super::gradients::{Gradients, TensorGradient};
use super::map::{self, Affine, Back, Lazy, MapGradient};
use super::operator::{Blocked, trained};
use super::values::SlotValues;
use crate::error::Result;
use crate::kernel::blocked::{MapView, sums};
use crate::student::op::{self, PassOptions};
use crate::student::plan::GraphStep;
use candle_core::{DType, Tensor};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct MapBatchNorm(pub(super) op::BatchNorm);

/// How a batch was normalized.
#[derive(Debug)]
pub(super) struct Normalized {
    z: Lazy,
    affine: Affine,
    means: Vec<f64>,
    rstd: Vec<f64>,
    scale: Vec<f64>,
    training: bool,
}

impl Blocked for MapBatchNorm {
    type Kept = Normalized;

    fn name(&self) -> &'static str {
        "batch norm"
    }

    fn takes(&self, _in_blocks: bool) -> bool {
        true
    }

    fn forward(
        &self,
        values: &mut SlotValues<'_>,
        step: &GraphStep,
        run: &PassOptions,
    ) -> Result<Normalized> {
        let z = values.written(step.inputs[0])?;
        let parameters: Vec<Tensor> =
            step.inputs[1..].iter().map(|&id| values.dense(id)).collect::<Result<_>>()?;
        let parameters: Vec<&Tensor> = parameters.iter().collect();
        let moments = || {
            Ok(z.moments
                .as_ref()
                .map_or_else(|| sums::moments(&z.map, &z.data), |known| known.to_vec()))
        };
        let n = self.0.normalizer(run, moments, &parameters)?;
        let factors = n.scale.iter().zip(&n.rstd).map(|(s, r)| s * r);
        let affine = map::affine(
            factors
                .zip(n.means.iter().zip(&n.bias))
                .map(|(factor, (mean, bias))| [factor, bias - mean * factor]),
        );
        values.updates = n.updates;
        values.store(step, Lazy { affine: Some(affine.clone()), ..z.clone() });
        let (means, rstd, scale, training) = (n.means, n.rstd, n.scale, n.training);
        Ok(Normalized { z, affine, means, rstd, scale, training })
    }

    fn backward(
        &self,
        kept: Normalized,
        dy: Vec<Option<TensorGradient>>,
        gradients: &mut Gradients<'_>,
        step: &GraphStep,
    ) -> Result<()> {
        let Normalized { z, affine, means, rstd, scale, training } = kept;
        let mut dy = gradients.map(dy)?;
        // the mask of the activation that read this very map is applied while summing
        let is_own_mask = |back: &Back| {
            Arc::ptr_eq(&back.z, &z.data)
                && Arc::ptr_eq(&back.affine, &affine)
                && back.terms.is_none()
        };
        let clamp = match &dy.back {
            Some(back) if is_own_mask(back) => back.clamp,
            _ => {
                dy = dy.resolved(gradients.arena);
                None
            }
        };
        let view = MapView { data: &z.data, affine: Some(&affine), clamp };
        let sums = sums::gradient_sums(&z.map, &dy.dy, view, &means);
        let [dscale, dbias] = op::BatchNorm::parameter_gradients(&rstd, &sums, DType::F32)?;
        gradients.give(step, 1, TensorGradient::Dense(dscale))?;
        gradients.give(step, 2, TensorGradient::Dense(dbias))?;
        let terms: Vec<[f64; 3]> = self
            .0
            .input_terms([&means, &rstd, &scale], training, &sums)
            .into_iter()
            .map(|[mean, scale, slope, offset]| [scale, slope, offset - mean * slope])
            .collect();
        let back = Back { z: z.data, affine, clamp, terms: Some(map::terms(&terms)) };
        let dx = MapGradient { map: z.map, dy: dy.dy, back: Some(back) };
        gradients.give(step, 0, TensorGradient::Map(dx))
    }

    fn moved(&self, step: &GraphStep, _x: usize, y: usize) -> usize {
        // the sums of the backward pass
        2 * y * trained(step)
    }
}
