//! Attention transfer (Zagoruyko & Komodakis 2017, arXiv:1612.03928), as `RepDistiller` has it.
//!
//! Stored: the attention map (height · width numbers a row, before it is normalised; if sizes differ, of the features pooled to the common size),
//! or the features. Default weight in `RepDistiller`: 1000; p = 2.

use super::autograd::{Evaluation, differentiate};
use super::formula::{Guard, attention, common_size, mean_square, unit_rows};
use crate::error::Result;
use candle_core::Tensor;

/// The norm under which a map is divided by this instead.
pub(super) const EPS: f64 = 1e-12;

/// `L = mean_{b,hw} (a(s)_b − a(t)_b)²` with `a(X)_b = v_b / max(‖v_b‖, 1e-12)`, `v_b = mean_c X_bc^p`; the larger map is first adaptively
/// average-pooled, per axis. An attention map that is all zero has no gradient.
///
/// # Shapes
/// `student` `[batch, channels_s, height_s, width_s]`, `teacher` `[batch, channels_t, height_t, width_t]`.
///
/// # Errors
/// When batches disagree, or `p` is 0.
pub fn at(student: &Tensor, teacher: &Tensor, p: u32) -> Result<Evaluation> {
    differentiate(&[student], None, |x| {
        let (s, t) = common_size(&x[0], teacher, "at")?;
        let unit = |x: &Tensor| unit_rows(&attention(x, p)?, Guard::AtLeast(EPS));
        mean_square(&unit(&s)?, &unit(&t)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::autograd::tests::{assert_finite, assert_gradients, assert_zero, tensor};
    use crate::criterion::module::Module;
    use candle_core::DType;

    #[test]
    fn gradients_match_finite_differences() {
        // one side larger in height, the other in width; overlapping bins
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
}
