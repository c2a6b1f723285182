//! Flow of solution procedure (Yim et al. 2017, CVPR), as `RepDistiller` has it.
//!
//! Stored: the teacher's features of two or more layers; teacher and student need equal channels. Default weight in `RepDistiller`: 50, in a stage of
//! its own before the student is trained with labels.

use super::autograd::{Evaluation, differentiate};
use super::formula::{common_size, mean_square, sum_layers};
use super::module::count;
use super::same_shape;
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};

/// `L = Σ_l mean_{b,i,j} (G^s − G^t)²`, `G_bij = 1/(HW) Σ_hw F^l_bi F^(l+1)_bj` between neighbouring layers, the larger of the two adaptively
/// average-pooled, per axis.
///
/// # Shapes
/// Each student map `[batch, channels, height, width]`, its teacher's of the same batch and channels.
///
/// # Errors
/// When there are fewer than two layers, or shapes do not fit.
pub fn fsp(students: &[&Tensor], teachers: &[&Tensor]) -> Result<Evaluation> {
    if students.len() != teachers.len() || students.len() < 2 {
        return Err(Error::input(format!("fsp: expected two or more layers of each, found {} and {}", students.len(), teachers.len())));
    }
    differentiate(students, None, |x| {
        sum_layers(
            (1..x.len()).map(|layer| {
                let (s, t) = (flow(&x[layer - 1], &x[layer])?, flow(teachers[layer - 1], teachers[layer])?);
                same_shape(&s, &t, "fsp")?;
                mean_square(&s, &t)
            }),
            "fsp",
        )
    })
}

/// The flow matrix, in double precision: the loss is a difference of near-equal numbers.
///
/// # Shapes
/// `a` `[batch, channels_a, …]`, `b` `[batch, channels_b, …]`; result `[batch, channels_a, channels_b]`.
fn flow(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (a, b) = common_size(a, b, "fsp")?;
    let positions = count(a.dim(2)? * a.dim(3)?);
    let lines = |x: &Tensor| -> Result<Tensor> { Ok(x.flatten_from(2)?.to_dtype(DType::F64)?) };
    Ok((lines(&a)?.matmul(&lines(&b)?.transpose(1, 2)?.contiguous()?)? * (1.0 / positions))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::autograd::tests::{assert_finite, assert_gradients, assert_zero, tensor};
    use crate::criterion::module::Module;

    #[test]
    fn gradients_match_finite_differences() {
        let shapes = [[2, 2, 5, 3], [2, 3, 3, 4], [2, 2, 2, 2]];
        let s: Vec<Tensor> = shapes.iter().map(|d| tensor(d, 1)).collect();
        let t: Vec<Tensor> = shapes.iter().map(|d| tensor(&[d[0], d[1], 4, 3], 2)).collect();
        let (s, t): (Vec<&Tensor>, Vec<&Tensor>) = (s.iter().collect(), t.iter().collect());
        assert_gradients(&s, &Module::default(), |x, _| fsp(x, &t)?.scaled(100.0));
        assert_zero(&fsp(&s, &s).unwrap(), 0.0);
        let large: Vec<Tensor> = s.iter().map(|x| (x.to_dtype(DType::F32).unwrap() * 1e6).unwrap()).collect();
        assert_finite(&fsp(&large.iter().collect::<Vec<_>>(), &t).unwrap());
        assert!(fsp(&s[..1], &t[..1]).is_err());
        assert!(fsp(&s, &[t[1], t[1], t[2]]).is_err());
    }
}
