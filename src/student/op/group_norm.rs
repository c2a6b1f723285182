//! `GroupNormalization` and `InstanceNormalization` (groups of one channel): statistics by image
//! and group.

use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::norm::{NormShape, gradient_sums, input_gradient, normalize, row_statistics};
use crate::tensor::{data, narrow, tensor, typed, wide};
use candle_core::Tensor;

#[derive(Debug)]
pub(in crate::student) struct GroupNorm {
    pub(in crate::student) images: usize,
    pub(in crate::student) channels: usize,
    pub(in crate::student) groups: usize,
    inner: usize,
    pub(in crate::student) epsilon: f64,
    /// Channels that share one scale and bias: 1, or a whole group (`GroupNormalization` before
    /// opset 21).
    pub(in crate::student) shared: usize,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let shape = site.shape(0)?;
    let &[images, channels, ref rest @ ..] = shape else {
        return Err(Error::input(format!("input 0: expected [N, C, …], found shape {shape:?}")));
    };
    let instance = site.operator() == "InstanceNormalization";
    let groups =
        if instance { channels } else { usize::try_from(site.int("num_groups", 0)).unwrap_or(0) };
    if groups == 0 || !channels.is_multiple_of(groups) || shape.contains(&0) {
        return Err(Error::input(format!(
            "num_groups: {groups} groups do not divide input {shape:?}"
        )));
    }
    let shared = if instance || site.opset >= 21 { 1 } else { channels / groups };
    for input in 1..3 {
        if site.shape(input)? != [channels / shared] {
            return Err(Error::input(format!(
                "input {input}: expected shape [{}], found {:?}",
                channels / shared,
                site.shape(input)?
            )));
        }
    }
    let epsilon = f64::from(site.float("epsilon", 1e-5));
    let operator =
        GroupNorm { images, channels, groups, inner: rest.iter().product(), epsilon, shared };
    Ok(Built::new(operator, [0, 1, 2], shape.to_vec()))
}

/// What the backward pass takes: input and scale, mean and 1/deviation by image and group.
#[derive(Debug)]
pub(in crate::student) struct GroupNormKept {
    x: Tensor,
    scale: Tensor,
    statistics: Vec<(f64, f64)>,
}

impl GroupNorm {
    /// Each channel of each image as a plane of its own.
    fn planes(&self) -> NormShape {
        NormShape { outer: 1, channels: self.images * self.channels, inner: self.inner }
    }

    /// The row of statistics and the scale that a plane uses.
    fn of_plane(&self, plane: usize) -> (usize, usize) {
        let per_group = self.channels / self.groups;
        (plane / per_group, plane % self.channels / self.shared)
    }
}

impl Operator for GroupNorm {
    type Kept = GroupNormKept;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let held = data(inputs[0])?;
        let (scale, bias) = (wide(inputs[1])?, wide(inputs[2])?);
        let width = self.channels / self.groups * self.inner;
        typed!(inputs[0].dtype(), |T| {
            let x = held.of::<T>()?;
            let statistics = row_statistics(x, width, self.epsilon);
            let affine: Vec<(f64, f64, f64)> = (0..self.planes().channels)
                .map(|plane| {
                    let (row, slot) = self.of_plane(plane);
                    let (mean, rstd) = statistics[row];
                    (mean, scale[slot] * rstd, bias[slot])
                })
                .collect();
            let y = tensor(normalize(x, self.planes(), &affine), inputs[0].dims())?;
            let (x, scale) = (inputs[0].clone(), inputs[1].clone());
            Ok(OpOutput::one(y, GroupNormKept { x, scale, statistics }))
        })
    }

    /// With g = dy·scale, n values a group and sums over it: dx = r·(g − Σg/n − (x −
    /// μ)·r²·Σg(x − μ)/n); dscale = Σ r·dy·(x − μ), dbias = Σ dy over what shares
    /// them.
    #[allow(clippy::cast_precision_loss, reason = "a count of elements in memory")]
    fn backward(
        &self,
        kept: GroupNormKept,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let (scale, dy) = (wide(&kept.scale)?, only(gradients)?);
        let (held, held_dy) = (data(&kept.x)?, data(&dy)?);
        let count = (self.channels / self.groups * self.inner) as f64;
        let planes = self.planes();
        let statistic = |plane: usize| {
            let (row, slot) = self.of_plane(plane);
            let (mean, rstd) = kept.statistics[row];
            (row, slot, mean, rstd)
        };
        let means: Vec<f64> = (0..planes.channels).map(|plane| statistic(plane).2).collect();
        typed!(dy.dtype(), |T| {
            let (x, d) = (held.of::<T>()?, held_dy.of::<T>()?);
            let sums = gradient_sums(x, d, planes, &means);
            let (mut dscale, mut dbias) = (vec![0f64; scale.len()], vec![0f64; scale.len()]);
            let mut groups = vec![(0f64, 0f64); self.images * self.groups];
            for (plane, &(total, weighted)) in sums.iter().enumerate() {
                let (row, slot, _, rstd) = statistic(plane);
                dscale[slot] += weighted * rstd;
                dbias[slot] += total;
                groups[row].0 += scale[slot] * total;
                groups[row].1 += scale[slot] * weighted;
            }
            let dx = if wanted[0] {
                let terms: Vec<[f64; 4]> = (0..planes.channels)
                    .map(|plane| {
                        let (row, slot, mean, r) = statistic(plane);
                        let (total, weighted) = groups[row];
                        [mean, r * scale[slot], -r * r * r * weighted / count, -r * total / count]
                    })
                    .collect();
                Some(tensor(input_gradient(x, d, planes, &terms), dy.dims())?)
            } else {
                None
            };
            let slots = [scale.len()];
            Ok(vec![
                dx,
                Some(narrow(&dscale, &slots, dy.dtype())?),
                Some(narrow(&dbias, &slots, dy.dtype())?),
            ])
        })
    }
}
