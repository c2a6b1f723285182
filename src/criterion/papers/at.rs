//! Attention transfer (Zagoruyko & Komodakis 2017, arXiv:1612.03928), in the form of
//! `RepDistiller`.
//!
//! An attention map is `height · width` numbers per sample, stored before normalization; if sizes
//! differ, it is computed from features pooled to the common size.

use crate::criterion::contract::{Comparison, Criterion, Setup, Spec, Target};
use crate::criterion::math::attention::{attention, attention_gradient};
use crate::criterion::math::autograd::differentiate;
use crate::criterion::math::evaluation::Evaluation;
use crate::criterion::math::formula::{Guard, common_size, map_dims, mean_square, unit_rows};
use crate::criterion::math::operator::{adaptive_pool, adaptive_pool_gradient};
use crate::criterion::settings::{DEGREE, settings};
use crate::error::{Error, Result};
use crate::statistic::Statistic;
use candle_core::{DType, Tensor};

settings! {
    /// Attention transfer.
    At {
        /// The power p of the activations.
        p: u32 = 2, DEGREE;
    }
}

impl Criterion for At {
    type Memory = ();

    const SPEC: &'static Spec = &Spec {
        name: "at",
        title: "Attention transfer",
        paper: "Zagoruyko & Komodakis 2017, arXiv:1612.03928",
        note: "the attention map suffices if it is taken at the common size",
        weight: 1000.0,
        statistics: &[Statistic::Attention, Statistic::Features],
        ..Spec::MAPS
    };

    fn ways(&self) -> Vec<Vec<Statistic>> {
        let features = vec![Statistic::Features];
        if self.p == 2 { vec![vec![Statistic::Attention], features] } else { vec![features] }
    }

    fn start(&self, _: &Setup<'_>) -> Result<()> {
        Ok(())
    }

    fn evaluate(&self, inputs: &Comparison<'_>, (): &mut ()) -> Result<Evaluation> {
        if let Target::Statistics(statistics) = inputs.target()? {
            let attention = statistics.attention;
            let attention =
                attention.ok_or_else(|| Error::input("criterion at: needs the teacher's maps"))?;
            return at_from(inputs.student()?, attention);
        }
        let (student, teacher) = inputs.pair()?;
        at(student, &teacher, self.p)
    }
}

/// The smallest divisor for normalizing an attention map.
pub(super) const EPS: f64 = 1e-12;

/// `L = mean_{b,hw} (a(s)_b − a(t)_b)²` with `a(X)_b = v_b / max(‖v_b‖, 1e-12)`,
/// `v_b = mean_c X_bc^p`; the larger map is first adaptively average-pooled, per axis. An all-zero
/// attention map has no gradient.
///
/// # Shapes
/// `student` `[batch, channels_s, height_s, width_s]`, `teacher`
/// `[batch, channels_t, height_t, width_t]`.
///
/// # Errors
/// When batches disagree, or `p` is 0.
pub fn at(student: &Tensor, teacher: &Tensor, p: u32) -> Result<Evaluation> {
    let (s, t) = common_size(&student.detach(), teacher, "at")?;
    compare(student, &s, p, &attention(&t, p)?)
}

/// The loss of attention maps with the gradient of `student`, which was pooled to `pooled`.
fn compare(student: &Tensor, pooled: &Tensor, p: u32, teacher: &Tensor) -> Result<Evaluation> {
    let [_, _, h, w] = map_dims(student, "at")?;
    let unit = |x: &Tensor| unit_rows(x, Guard::AtLeast(EPS));
    let (s, t) = (attention(pooled, p)?, unit(teacher)?);
    differentiate(&[&s], None, |x| mean_square(&unit(&x[0])?, &t))?
        .through(|g| Ok(adaptive_pool_gradient(&attention_gradient(pooled, p, g)?, [h, w])?))
}

/// [`at`] with p = 2, from the teacher's attention maps before normalization. The student's maps
/// are pooled to their size.
///
/// # Shapes
/// `student` `[batch, channels, height_s, width_s]`, `teacher` `[batch, height, width]`.
///
/// # Errors
/// When batches disagree, or the student's maps are smaller: pooling comes before the square.
pub fn at_from(student: &Tensor, teacher: &Tensor) -> Result<Evaluation> {
    let ([batch, _, hs, ws], &[other, h, w]) = (map_dims(student, "at")?, teacher.dims()) else {
        return Err(Error::input(format!(
            "at: expected attention maps [batch, height, width], found {:?}",
            teacher.dims()
        )));
    };
    if batch != other || teacher.elem_count() == 0 || hs < h || ws < w {
        return Err(Error::input(format!(
            "at: expected maps of {other} samples of at least {h}x{w}, found {batch} of {hs}x{ws}"
        )));
    }
    compare(
        student,
        &adaptive_pool(&student.detach(), [h, w])?,
        2,
        &teacher.flatten_from(1)?.to_dtype(DType::F64)?,
    )
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
        // one side is larger in height, the other in width; bins overlap
        let (s, t) = (tensor(&[2, 3, 5, 3], 1), tensor(&[2, 4, 3, 4], 2));
        for p in [2, 1, 3] {
            assert_gradients(&[&s], &Module::default(), |x, _| at(x[0], &t, p));
        }
    }

    #[test]
    fn dead_and_large_maps_are_finite() {
        let s = tensor(&[1, 3, 4, 4], 1).to_dtype(DType::F32).unwrap();
        for factor in [0.0, 1e-25, 1e-8, 1e8] {
            let scaled = (&s * factor).unwrap();
            assert_finite(&at(&scaled, &s, 2).unwrap());
            assert_finite(&at(&s, &scaled, 2).unwrap());
        }
        assert_zero(&at(&s, &s, 2).unwrap(), 0.0);
        assert!(at(&s, &tensor(&[2, 3, 4, 4], 1), 2).is_err());
        assert!(at(&s, &s, 0).is_err());
    }

    #[test]
    fn attention_maps_give_the_loss_of_the_maps() {
        for (student, teacher) in [
            ([2, 3, 5, 4], [2, 6, 5, 4]),
            ([2, 3, 5, 4], [2, 6, 3, 4]),
            ([2, 3, 5, 4], [2, 6, 8, 4]),
        ] {
            let (s, t) = (tensor(&student, 1), tensor(&teacher, 2));
            let size = [student[2].min(teacher[2]), student[3].min(teacher[3])];
            let v = attention(&adaptive_pool(&t, size).unwrap(), 2)
                .unwrap()
                .reshape((2, size[0], size[1]))
                .unwrap();
            let v = v.to_dtype(DType::F32).unwrap();
            let (exact, found) = (at(&s, &t, 2).unwrap(), at_from(&s, &v).unwrap());
            assert!(
                (found.value - exact.value).abs() <= 1e-6 * exact.value,
                "{} for {}",
                found.value,
                exact.value
            );
            assert_gradients(&[&s], &Module::default(), |x, _| at_from(x[0], &v));
            assert!(
                at_from(&tensor(&[2, 3, 5, size[1] - 1], 1), &v)
                    .unwrap_err()
                    .to_string()
                    .contains("at least")
            );
        }
    }
}
