//! Hints, or `FitNets` (Romero et al. 2015, arXiv:1412.6550), with `RepDistiller`'s regressor:
//! `conv`, `bn`.

use crate::criterion::contract::{Comparison, Criterion, Pairs, Setup, Spec};
use crate::criterion::math::chain::{self, Link};
use crate::criterion::math::convolution::Geometry;
use crate::criterion::math::elements::count;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::row_planes;
use crate::criterion::math::init::Init;
use crate::criterion::math::module::{Module, regressor_between};
use crate::criterion::math::squares::{Teacher, sum_of_squares};
use crate::criterion::math::tensor::same_shape;
use crate::criterion::settings::settings;
use crate::error::Result;
use candle_core::Tensor;

settings! {
    /// Hints.
    Fitnet {}
}

impl Criterion for Fitnet {
    type Memory = Vec<Module>;

    const SPEC: &'static Spec = &Spec {
        name: "fitnet",
        title: "FitNets: hints",
        paper: "Romero et al. 2015, arXiv:1412.6550",
        weight: 100.0,
        pairs: Pairs::Middle,
        learnable: Some("regressor"),
        ..Spec::MAPS
    };

    fn start(&self, setup: &Setup<'_>) -> Result<Vec<Module>> {
        setup.modules(|shapes, seed| {
            let [student, teacher] = shapes.maps()?;
            Ok(regressor(student, teacher, seed)?.0)
        })
    }

    fn evaluate(
        &self,
        inputs: &Comparison<'_>,
        regressors: &mut Vec<Module>,
    ) -> Result<Evaluation> {
        let (student, teacher) = inputs.pair()?;
        let size = |x: &Tensor| -> Result<[usize; 2]> { Ok([x.dim(2)?, x.dim(3)?]) };
        let (_, geometry) = regressor_between(size(student)?, size(&teacher)?)?;
        fitnet(student, &teacher, inputs.of_layer(regressors)?, geometry)
    }
}

/// `L = mean (s − t)²`.
///
/// # Shapes
/// `student` and `teacher` of the same shape.
///
/// # Errors
/// When the shapes disagree.
pub fn hint(student: &Tensor, teacher: &Tensor) -> Result<Evaluation> {
    same_shape(student, teacher, "fitnet")?;
    sum_of_squares(
        student,
        teacher,
        row_planes(student),
        1.0 / count(student.elem_count()),
        Teacher,
    )
}

/// `L = mean (r − t)²` with `r = ReLU(BN(conv(s)))`, which has the teacher's shape.
///
/// # Shapes
/// `student` `[batch, channels_s, height_s, width_s]`, `teacher`
/// `[batch, channels_t, height_t, width_t]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn fitnet(
    student: &Tensor,
    teacher: &Tensor,
    regressor: &Module,
    geometry: Geometry,
) -> Result<Evaluation> {
    chain::differentiate(regressor, &links(geometry), student, true, |regressed| {
        hint(regressed, teacher)
    })
}

/// Applies the regressor to the student's map.
///
/// # Shapes
/// As [`fitnet`]; the result has the teacher's shape.
///
/// # Errors
/// When the shapes do not fit.
pub fn regress(student: &Tensor, regressor: &Module, geometry: Geometry) -> Result<Tensor> {
    chain::run(regressor, &links(geometry), student)
}

fn links(geometry: Geometry) -> [Link; 3] {
    let [conv, bn] = chain::regressor("", geometry);
    [conv, bn, Link::LeakyRelu(0.0)]
}

/// An untrained regressor between `[channels, height, width]`, and its geometry.
///
/// # Errors
/// When there is no regressor between these sizes.
pub fn regressor(
    student: [usize; 3],
    teacher: [usize; 3],
    seed: u64,
) -> Result<(Module, Geometry)> {
    let mut init = Init::new(seed);
    init.regressor("", student, teacher)?;
    let (_, geometry) = regressor_between([student[1], student[2]], [teacher[1], teacher[2]])?;
    Ok((init.finish()?, geometry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{
        assert_finite, assert_gradients, assert_zero, tensor,
    };
    use candle_core::{DType, Device};

    #[test]
    fn gradients_match_finite_differences_for_every_form_of_regressor() {
        for (student, teacher) in [
            ([2, 3, 5], [3, 3, 5]),
            ([2, 4, 6], [3, 2, 3]),
            ([2, 5, 4], [3, 3, 4]),
            ([2, 2, 3], [2, 4, 6]),
            ([2, 2, 3], [2, 5, 3]),
            ([1, 6, 5], [2, 3, 4]),
        ] {
            let (module, geometry) = regressor(student, teacher, 7).unwrap();
            let s = tensor(&[3, student[0], student[1], student[2]], 1);
            let t = tensor(&[3, teacher[0], teacher[1], teacher[2]], 2);
            assert_gradients(&[&s], &module, |x, m| fitnet(x[0], &t, m, geometry));
        }
        let (s, t) = (tensor(&[2, 3, 2], 3), tensor(&[2, 3, 2], 4));
        assert_gradients(&[&s], &Module::default(), |x, _| hint(x[0], &t));
        assert_zero(&hint(&s, &s).unwrap(), 0.0);
    }

    #[test]
    fn constant_channels_are_finite() {
        let (module, geometry) = regressor([2, 1, 1], [2, 1, 1], 7).unwrap();
        let zero = Tensor::zeros((1, 2, 1, 1), DType::F32, &Device::Cpu).unwrap();
        assert_finite(&fitnet(&zero, &zero, &module, geometry).unwrap());
        assert_finite(
            &fitnet(&(zero.ones_like().unwrap() * 1e6).unwrap(), &zero, &module, geometry).unwrap(),
        );
    }
}
