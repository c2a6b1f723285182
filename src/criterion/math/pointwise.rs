//! Losses of one element of the student and one of the teacher, in one pass over both tensors.

use super::elements::{Elements, PIECE, count, round};
use super::evaluation::Evaluation;
use super::tensor::{by_element, check_dtype, dense, same_shape, stored};
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// Elements of a task.
const BLOCK: usize = 16 * PIECE;

/// The mean over all elements of `loss(s, t)`, which returns its value and its derivative with
/// respect to s; computed in double precision.
///
/// # Shapes
/// `student`, f32 or f64, and `teacher`, of any floating-point type, of one shape.
///
/// # Errors
/// When the shapes disagree, or there are no elements.
pub(crate) fn pointwise(
    student: &Tensor,
    teacher: &Tensor,
    who: &str,
    loss: impl Fn(f64, f64) -> (f64, f64) + Sync,
) -> Result<Evaluation> {
    check_dtype(student, who)?;
    same_shape(student, teacher, who)?;
    if student.elem_count() == 0 {
        return Err(Error::input(format!("{who}: expected values, found {:?}", student.dims())));
    }
    let (s, t) = (dense(&student.detach())?, dense(&teacher.detach())?);
    let share = 1.0 / count(s.elem_count());
    let (value, gradient) = stored(&s, |storage, layout| {
        let s = Elements::of(storage, layout)?;
        stored(&t, |t, teacher_layout| {
            let t = Elements::of(t, teacher_layout)?;
            by_element!(storage, |T| {
                let mut out = vec![T::default(); s.len()];
                let of_block = |(block, out): (usize, &mut [T])| {
                    let (mut own, mut other, mut sum) = ([0.0; PIECE], [0.0; PIECE], 0.0);
                    for (piece, out) in out.chunks_mut(PIECE).enumerate() {
                        let (own, other) = (&mut own[..out.len()], &mut other[..out.len()]);
                        s.read(block * BLOCK + piece * PIECE, own);
                        t.read(block * BLOCK + piece * PIECE, other);
                        for (s, &t) in own.iter_mut().zip(other.iter()) {
                            let (value, slope) = loss(*s, t);
                            sum += value;
                            *s = share * slope;
                        }
                        round(own, out);
                    }
                    sum
                };
                let sums: Vec<f64> = out.par_chunks_mut(BLOCK).enumerate().map(of_block).collect();
                let gradient = Tensor::from_vec(out, layout.shape(), &Device::Cpu)?;
                Ok((share * sums.iter().sum::<f64>(), gradient))
            })
        })
    })?;
    Ok(Evaluation { value, inputs: vec![gradient], weights: Vec::new() })
}
