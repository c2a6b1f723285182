//! Activation boundaries (Heo et al. 2019, arXiv:1811.03233), in the form of `RepDistiller`.
//!
//! It learns a connector (convolution and batch norm) at each layer whose shapes differ. In the
//! paper, this loss alone trains first, and the labels train afterwards.

use crate::criterion::contract::{Comparison, Criterion, Layers, Setup, Shapes, Side, Spec};
use crate::criterion::math::chain;
use crate::criterion::math::elements::count;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::{map_dims, planes};
use crate::criterion::math::init::Init;
use crate::criterion::math::module::{Module, join, regressor_between};
use crate::criterion::math::squares::{Aim, sum_of_squares};
use crate::criterion::math::tensor::same_shape;
use crate::criterion::settings::{NOT_NEGATIVE, settings};
use crate::error::{Error, Result};
use crate::kernel::Float;
use candle_core::Tensor;

settings! {
    /// Activation boundaries.
    Ab {
        /// The margin around 0.
        margin: f64 = 1.0, NOT_NEGATIVE;
    }
}

impl Criterion for Ab {
    type Memory = Vec<Module>;

    const SPEC: &'static Spec = &Spec {
        name: "ab",
        title: "Activation boundaries",
        paper: "Heo et al. 2019, arXiv:1811.03233",
        note: "a stage of its own, before the student is trained with labels; a sum over positions",
        side: Side::Before,
        layers: Layers::Joined,
        learnable: Some("a connector a layer, where shapes differ"),
        ..Spec::MAPS
    };

    fn start(&self, setup: &Setup<'_>) -> Result<Vec<Module>> {
        setup.module(|layers, seed| {
            let maps = layers.iter().map(Shapes::maps).collect::<Result<Vec<_>>>()?;
            let (students, teachers): (Vec<_>, Vec<_>) =
                maps.into_iter().map(|[student, teacher]| (student, teacher)).unzip();
            connectors(&students, &teachers, seed)
        })
    }

    fn evaluate(&self, inputs: &Comparison<'_>, modules: &mut Vec<Module>) -> Result<Evaluation> {
        let (students, teachers) = inputs.layers()?;
        let teachers: Vec<&Tensor> = teachers.iter().map(AsRef::as_ref).collect();
        ab(&students, &teachers, inputs.of_layer(modules)?, self.margin)
    }
}

/// `RepDistiller`'s factor for the sum over layers.
const SCALE: f64 = 3.0 / 1000.0;

/// `L = 0.003/B · Σ_l 2^(l−n+1) · Σ_{b,c,h,w} [(s+m)² [s > −m and t ≤ 0] + (s−m)²
/// [s ≤ m and t > 0]]`, `l = 0 … n−1`; where shapes differ, `BN(conv(s))` of the connector
/// `connectors.{l}` replaces s. This is a sum over positions, so it grows with the map's size.
///
/// # Shapes
/// Each student map `[batch, channels_s, height_s, width_s]`, each teacher map
/// `[batch, channels_t, height_t, width_t]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn ab(
    students: &[&Tensor],
    teachers: &[&Tensor],
    connectors: &Module,
    margin: f64,
) -> Result<Evaluation> {
    if students.is_empty() || students.len() != teachers.len() {
        return Err(Error::input(format!(
            "ab: expected one layer or more and as many of each, found {} and {}",
            students.len(),
            teachers.len()
        )));
    }
    let mut all = Evaluation { value: 0.0, inputs: Vec::new(), weights: Vec::new() };
    for (l, (s, t)) in students.iter().zip(teachers).enumerate() {
        let ([batch, _, h, w], [_, _, ht, wt]) = (map_dims(s, "ab")?, map_dims(t, "ab")?);
        let weight = SCALE / count(batch)
            * 0.5f64.powi(i32::try_from(students.len() - 1 - l).unwrap_or(i32::MAX));
        let name = format!("connectors.{l}");
        let loss = |s: &Tensor| {
            same_shape(s, t, "ab")?;
            sum_of_squares(s, t, planes(s)?, weight, Margin(margin))
        };
        let found = if connectors.at(join(&name, "conv")).has("weight") {
            let links = chain::regressor(&name, regressor_between([h, w], [ht, wt])?.1);
            chain::differentiate(connectors, &links, s, true, loss)?
        } else {
            loss(s)?
        };
        all.join(found)?;
    }
    Ok(all)
}

/// The distance of an activation from the margin on the teacher's side of the boundary; 0 beyond
/// the margin.
struct Margin(f64);

impl Aim for Margin {
    fn error<T: Float>(&self, _: usize, s: T, t: T) -> T {
        let aim = T::of(if t > T::zero() { self.0 } else { -self.0 });
        let counts = if t > T::zero() { s <= aim } else { s > aim };
        if counts { s - aim } else { T::zero() }
    }
}

/// Untrained connectors for the layers whose `[channels, height, width]` differ.
///
/// # Errors
/// When there is no connector between two sizes.
pub fn connectors(students: &[[usize; 3]], teachers: &[[usize; 3]], seed: u64) -> Result<Module> {
    let mut init = Init::new(seed);
    for (l, (s, t)) in students.iter().zip(teachers).enumerate().filter(|(_, (s, t))| s != t) {
        init.regressor(&format!("connectors.{l}"), *s, *t)?;
    }
    init.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{assert_finite, assert_gradients, tensor};
    use candle_core::{DType, Device};

    #[test]
    fn gradients_match_finite_differences() {
        let students = [[2, 4, 3], [3, 4, 4]];
        let teachers = [[2, 4, 3], [2, 2, 2]];
        let maps = |shapes: &[[usize; 3]], seed| -> Vec<Tensor> {
            shapes.iter().map(|s| (tensor(&[2, s[0], s[1], s[2]], seed) * 3.0).unwrap()).collect()
        };
        let (s, t) = (maps(&students, 1), maps(&teachers, 2));
        let (s, t): (Vec<&Tensor>, Vec<&Tensor>) = (s.iter().collect(), t.iter().collect());
        assert_gradients(&s, &connectors(&students, &teachers, 1).unwrap(), |x, m| {
            ab(x, &t, m, 1.0)?.scaled(10.0)
        });
    }

    #[test]
    fn beyond_the_margin_there_is_neither_loss_nor_gradient() {
        let map = |v: &[f32]| Tensor::from_slice(v, (1, 1, 1, v.len()), &Device::Cpu).unwrap();
        let (s, t) = (map(&[-1.0, 2.0, 0.5, -1e6]), map(&[-3.0, 1.0, 0.0, 5.0]));
        let found = ab(&[&s], &[&t], &Module::default(), 1.0).unwrap();
        assert_finite(&found);
        let gradient = found.inputs[0].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(gradient[..2], [0.0; 2]);
        assert!((f64::from(gradient[2]) - 2.0 * 1.5 * SCALE).abs() < 1e-9);
        assert!(ab(&[&s.to_dtype(DType::F64).unwrap()], &[], &Module::default(), 1.0).is_err());
    }
}
