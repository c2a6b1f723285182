//! Flow of solution procedure (Yim et al. 2017, CVPR), in the form of `RepDistiller`: features of
//! two or more layers, at each of which teacher and student need the same number of channels.

use crate::criterion::contract::{Comparison, Criterion, Layers, Setup, Shapes, Spec};
use crate::criterion::math::autograd::differentiate;
use crate::criterion::math::elements::count;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::{common_size, map_dims, mean_square};
use crate::criterion::math::operator::adaptive_pool_gradient;
use crate::criterion::math::products::{channel_products, channel_products_gradients};
use crate::criterion::math::tensor::same_shape;
use crate::criterion::settings::settings;
use crate::error::{Error, Result};
use candle_core::Tensor;

settings! {
    /// Flow of solution procedure.
    Fsp {}
}

impl Criterion for Fsp {
    type Memory = ();

    const SPEC: &'static Spec = &Spec {
        name: "fsp",
        title: "Flow of solution procedure",
        paper: "Yim et al. 2017, CVPR",
        note: "a stage of its own, before the student is trained with labels; teacher and student \
               need the same channels",
        weight: 50.0,
        layers: Layers::Joined,
        ..Spec::MAPS
    };

    fn start(&self, setup: &Setup<'_>) -> Result<()> {
        let channels = setup.layers.iter().map(Shapes::channels);
        let (students, teachers): (Vec<_>, Vec<_>) =
            channels.map(|[student, teacher]| (student, teacher)).unzip();
        if students.len() < 2 || students != teachers {
            return Err((setup.refuse)(Error::input(format!(
                "fsp: expected two layers or more with the same channels, found teacher \
                 {teachers:?} and student {students:?}"
            ))));
        }
        Ok(())
    }

    fn evaluate(&self, inputs: &Comparison<'_>, (): &mut ()) -> Result<Evaluation> {
        let (students, teachers) = inputs.layers()?;
        let teachers: Vec<&Tensor> = teachers.iter().map(AsRef::as_ref).collect();
        fsp(&students, &teachers)
    }
}

/// `L = Σ_l mean_{b,i,j} (G^s − G^t)²`, `G_bij = 1/(HW) Σ_hw F^l_bi F^(l+1)_bj` between
/// neighboring layers, the larger of which is adaptively average-pooled, per axis.
///
/// # Shapes
/// Each student map `[batch, channels, height, width]`, each teacher map with the same batch and
/// channels.
///
/// # Errors
/// When there are fewer than two layers, or shapes do not fit.
pub fn fsp(students: &[&Tensor], teachers: &[&Tensor]) -> Result<Evaluation> {
    if students.len() != teachers.len() || students.len() < 2 {
        return Err(Error::input(format!(
            "fsp: expected two or more layers of each, found {} and {}",
            students.len(),
            teachers.len()
        )));
    }
    let mut gradients: Vec<Option<Tensor>> = vec![None; students.len()];
    let mut value = 0.0;
    for layer in 1..students.len() {
        let own = [&students[layer - 1].detach(), &students[layer].detach()];
        let (a, b) = common_size(own[0], own[1], "fsp")?;
        let (s, t) = (flow(&a, &b)?, teacher_flow(teachers[layer - 1], teachers[layer])?);
        same_shape(&s, &t, "fsp")?;
        let found = differentiate(&[&s], None, |x| mean_square(&x[0], &t))?;
        value += found.value;
        let by_products = (&found.inputs[0] * (1.0 / positions(&a)?))?;
        let both = channel_products_gradients(&a, &b, &by_products)?;
        for ((gradient, x), sum) in both.iter().zip(own).zip(&mut gradients[layer - 1..=layer]) {
            let [_, _, h, w] = map_dims(x, "fsp")?;
            let gradient = adaptive_pool_gradient(gradient, [h, w])?;
            *sum = Some(match sum.take() {
                Some(before) => (before + gradient)?,
                None => gradient,
            });
        }
    }
    Ok(Evaluation { value, inputs: gradients.into_iter().flatten().collect(), weights: Vec::new() })
}

fn positions(x: &Tensor) -> Result<f64> {
    Ok(count(x.dim(2)? * x.dim(3)?))
}

/// The flow matrix of two maps of the same size, in double precision: the loss is a difference of
/// nearly equal numbers.
///
/// # Shapes
/// `a` `[batch, channels_a, …]`, `b` `[batch, channels_b, …]`; result
/// `[batch, channels_a, channels_b]`.
fn flow(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok((channel_products(a, b)? * (1.0 / positions(a)?))?)
}

fn teacher_flow(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (a, b) = common_size(a, b, "fsp")?;
    flow(&a, &b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::{
        assert_finite, assert_gradients, assert_zero, tensor,
    };
    use crate::criterion::math::module::Module;

    #[test]
    fn gradients_match_finite_differences() {
        let shapes = [[2, 2, 5, 3], [2, 3, 3, 4], [2, 2, 2, 2]];
        let s: Vec<Tensor> = shapes.iter().map(|d| tensor(d, 1)).collect();
        let t: Vec<Tensor> = shapes.iter().map(|d| tensor(&[d[0], d[1], 4, 3], 2)).collect();
        let (s, t): (Vec<&Tensor>, Vec<&Tensor>) = (s.iter().collect(), t.iter().collect());
        assert_gradients(&s, &Module::default(), |x, _| fsp(x, &t)?.scaled(100.0));
        assert_zero(&fsp(&s, &s).unwrap(), 0.0);
        let large: Vec<Tensor> = s
            .iter()
            .map(|x| (x.to_dtype(candle_core::DType::F32).unwrap() * 1e6).unwrap())
            .collect();
        assert_finite(&fsp(&large.iter().collect::<Vec<_>>(), &t).unwrap());
        assert!(fsp(&s[..1], &t[..1]).is_err());
        assert!(fsp(&s, &[t[1], t[1], t[2]]).is_err());
    }
}
