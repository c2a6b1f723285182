//! Knowledge review (Chen et al. 2021, arXiv:2104.09044), in the form of mdistiller: the features
//! of every stage and the pooled vector, as one-pixel maps, with one fusion module (ABF) per stage.

use crate::criterion::contract::{Comparison, Criterion, Layers, Pairs, Setup, Shapes, Side, Spec};
use crate::criterion::math::autograd::differentiate;
use crate::criterion::math::convolution::Geometry;
use crate::criterion::math::elements::count;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::{map_dims, mean_square, nearest, sigmoid, sum_layers};
use crate::criterion::math::init::Init;
use crate::criterion::math::module::{Layer, Module};
use crate::criterion::math::operator::adaptive_pool;
use crate::criterion::math::tensor::same_shape;
use crate::criterion::settings::{POSITIVE, settings};
use crate::error::{Error, Result};
use candle_core::Tensor;

settings! {
    /// Knowledge review.
    Reviewkd {
        /// Channels within the fusion modules, at most those of the student's deepest stage.
        middle: usize = 512, POSITIVE;
    }
}

impl Criterion for Reviewkd {
    type Memory = Vec<Module>;

    const SPEC: &'static Spec = &Spec {
        name: "reviewkd",
        title: "Knowledge review",
        paper: "Chen et al. 2021, arXiv:2104.09044",
        source: "mdistiller",
        note: "the weight is 0.6 to 8 by network pair, after 20 epochs of warm-up; reads the \
               vector before the classifier too; middle is at most the channels of the deepest \
               stage",
        side: Side::BeforeIfStored,
        pairs: Pairs::AllAndVector,
        layers: Layers::Joined,
        learnable: Some("a fusion module a stage"),
        ..Spec::MAPS
    };

    fn start(&self, setup: &Setup<'_>) -> Result<Vec<Module>> {
        setup.module(|layers, seed| {
            let (students, teachers): (Vec<_>, Vec<_>) = layers
                .iter()
                .map(Shapes::channels)
                .map(|[student, teacher]| (student, teacher))
                .unzip();
            let deepest = students.last().copied().unwrap_or(1);
            module(&students, &teachers, self.middle.min(deepest), seed)
        })
    }

    /// Vectors are treated as one-pixel maps.
    fn evaluate(&self, inputs: &Comparison<'_>, modules: &mut Vec<Module>) -> Result<Evaluation> {
        let map = |x: &Tensor| -> Result<Tensor> {
            if x.rank() == 2 { Ok(x.unsqueeze(2)?.unsqueeze(3)?) } else { Ok(x.clone()) }
        };
        let (students, teachers) = inputs.layers()?;
        let s = students.iter().map(|s| map(s)).collect::<Result<Vec<_>>>()?;
        let t = teachers.iter().map(|t| map(t)).collect::<Result<Vec<_>>>()?;
        let (s, t): (Vec<&Tensor>, Vec<&Tensor>) = (s.iter().collect(), t.iter().collect());
        let mut found = reviewkd(&s, &t, inputs.of_layer(modules)?)?;
        for (gradient, student) in found.inputs.iter_mut().zip(students) {
            *gradient = gradient.reshape(student.shape())?;
        }
        Ok(found)
    }
}

/// `L = Σ_l HCL(r_l, t_l)`, the stages fused from the deepest up by the modules `abfs.0` (deepest)
/// …: `x = BN(W₁ s_l)`; if not the deepest, with y the x of the stage below it, upsampled to
/// the size of `s_l`: `(a, b) = σ(W_att [x; y] + b_att)` and `x = x·a + y·b`; x is resampled to
/// the size of `t_l` if that differs; `r_l = BN(W₂ x)`. All resampling is nearest-neighbor.
/// `HCL(r, t) = [mse(r, t) + Σ_k 2^-k mse(pool_p r, pool_p t)] / [1 + Σ_k 2^-k]`, where k counts
/// those p of (4, 2, 1) that are smaller than the height.
///
/// # Shapes
/// From shallow to deep, each student map `[batch, channels_s, height_s, width_s]`, each teacher
/// map `[batch, channels_t, height_t, width_t]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn reviewkd(students: &[&Tensor], teachers: &[&Tensor], module: &Module) -> Result<Evaluation> {
    if students.len() != teachers.len() {
        return Err(Error::input(format!(
            "reviewkd: expected as many stages of each, found {} and {}",
            students.len(),
            teachers.len()
        )));
    }
    differentiate(students, Some(module), |x| {
        let mut below: Option<Tensor> = None;
        let stages = x.iter().zip(teachers).rev().enumerate().map(|(depth, (s, t))| {
            let (regressed, fused) =
                fuse(&module.at(format!("abfs.{depth}")), s, below.as_ref(), t)?;
            below = Some(fused);
            hierarchical(&regressed, &t.to_dtype(regressed.dtype())?)
        });
        sum_layers(stages, "reviewkd")
    })
}

/// The map to compare with the teacher's, and the input of the next stage up.
fn fuse(
    layer: &Layer<'_>,
    s: &Tensor,
    below: Option<&Tensor>,
    t: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let ([_, _, h, w], [_, _, ht, wt]) = (map_dims(s, "reviewkd")?, map_dims(t, "reviewkd")?);
    let mut x =
        layer.at("conv1.1").normalize(&layer.at("conv1.0").convolve(s, Geometry::padded(0))?)?;
    if let Some(below) = below {
        let y = nearest(below, [h, w])?;
        let shares = sigmoid(
            &layer.at("att_conv.0").convolve(&Tensor::cat(&[&x, &y], 1)?, Geometry::padded(0))?,
        )?;
        x = (x.broadcast_mul(&shares.narrow(1, 0, 1)?)?
            + y.broadcast_mul(&shares.narrow(1, 1, 1)?)?)?;
    }
    let x = nearest(&x, [ht, wt])?;
    let regressed =
        layer.at("conv2.1").normalize(&layer.at("conv2.0").convolve(&x, Geometry::padded(1))?)?;
    same_shape(&regressed, t, "reviewkd")?;
    Ok((regressed, x))
}

fn hierarchical(r: &Tensor, t: &Tensor) -> Result<Tensor> {
    let height = r.dim(2)?;
    let (mut loss, mut share, mut shares) = (mean_square(r, t)?, 1.0, 1.0);
    for p in [4, 2, 1] {
        if p < height {
            share *= 0.5;
            shares += share;
            loss = (loss
                + (mean_square(&adaptive_pool(r, [p, p])?, &adaptive_pool(t, [p, p])?)? * share)?)?;
        }
    }
    Ok((loss / shares)?)
}

/// Untrained fusion modules of `middle` channels for stages from shallow to deep.
///
/// # Errors
/// When a tensor cannot be created.
pub fn module(students: &[usize], teachers: &[usize], middle: usize, seed: u64) -> Result<Module> {
    let mut init = Init::new(seed);
    for (depth, (&s, &t)) in students.iter().zip(teachers).rev().enumerate() {
        // He et al. 2015 with a = 1: uniform within ±√(3/fan_in)
        let bound = |fan_in: usize| (3.0 / count(fan_in)).sqrt();
        init.uniform(format!("abfs.{depth}.conv1.0.weight"), &[middle, s, 1, 1], bound(s))?;
        init.norm(&format!("abfs.{depth}.conv1.1"), middle)?;
        init.uniform(
            format!("abfs.{depth}.conv2.0.weight"),
            &[t, middle, 3, 3],
            bound(9 * middle),
        )?;
        init.norm(&format!("abfs.{depth}.conv2.1"), t)?;
        if depth > 0 {
            init.layer(&format!("abfs.{depth}.att_conv.0"), &[2, 2 * middle, 1, 1], Some(2))?;
        }
    }
    init.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{assert_finite, assert_gradients, tensor};

    #[test]
    fn gradients_match_finite_differences() {
        let s = [tensor(&[3, 2, 5, 5], 1), tensor(&[3, 3, 3, 2], 2), tensor(&[3, 3, 1, 1], 3)];
        let t = [tensor(&[3, 3, 7, 5], 4), tensor(&[3, 2, 3, 2], 5), tensor(&[3, 2, 1, 1], 6)];
        let t: Vec<&Tensor> = t.iter().collect();
        assert_gradients(
            &[&s[0], &s[1], &s[2]],
            &module(&[2, 3, 3], &[3, 2, 2], 3, 1).unwrap(),
            |x, m| reviewkd(x, &t, m),
        );
    }

    #[test]
    fn constant_and_large_maps_are_finite() {
        let s = tensor(&[1, 2, 4, 4], 1);
        for s in [s.zeros_like().unwrap(), (&s * 1e8).unwrap()] {
            let pooled = s.narrow(2, 0, 1).unwrap().narrow(3, 0, 1).unwrap();
            assert_finite(
                &reviewkd(&[&s, &pooled], &[&s, &pooled], &module(&[2, 2], &[2, 2], 3, 1).unwrap())
                    .unwrap(),
            );
        }
        assert!(reviewkd(&[&s], &[], &Module::default()).is_err());
    }
}
