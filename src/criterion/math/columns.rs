//! Losses of vectors along one axis of two tensors, in one pass over both: distributions over
//! classes or positions, directions of features.

use super::elements::{Elements, count, round};
use super::evaluation::Evaluation;
use super::tensor::{by_element, check_dtype, dense, same_shape, stored};
use crate::error::{Error, Result};
use crate::kernel::norm::NormShape;
use crate::tensor::Element;
use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// Columns that a loss gets at a time, at most.
pub(crate) const COLUMNS: usize = 64;
/// Elements of a task, at least.
const GRAIN: usize = 4096;

/// Some columns of both tensors: matrices `[length, columns]`.
pub(crate) struct Tile<'a> {
    /// The student's; a loss leaves its gradient here.
    pub student: &'a mut [f64],
    /// The teacher's, which a loss may overwrite.
    pub teacher: &'a mut [f64],
    /// The number of columns, [`COLUMNS`] at most.
    pub columns: usize,
}

/// The mean over all columns of a loss, computed in double precision. `loss` gets some columns,
/// returns the sum of their losses, and leaves that sum's gradient in place of the student's
/// values.
///
/// # Shapes
/// `student`, f32 or f64, and `teacher`, of any floating-point type, of one shape, which is
/// `[outer, length, inner]` by `planes` (its channels are the length): `outer · inner` columns.
///
/// # Errors
/// When the shapes disagree, or there are no elements.
pub(crate) fn column_mean(
    student: &Tensor,
    teacher: &Tensor,
    planes: NormShape,
    who: &str,
    loss: impl Fn(Tile<'_>) -> f64 + Sync,
) -> Result<Evaluation> {
    check_dtype(student, who)?;
    same_shape(student, teacher, who)?;
    let NormShape { outer, channels: length, inner } = planes;
    if student.elem_count() == 0 || outer * length * inner != student.elem_count() {
        return Err(Error::input(format!("{who}: expected values, found {:?}", student.dims())));
    }
    let (s, t) = (dense(&student.detach())?, dense(&teacher.detach())?);
    let (share, image) = (1.0 / count(outer * inner), length * inner);
    let (value, gradient) = stored(&s, |storage, layout| {
        let s = Elements::of(storage, layout)?;
        stored(&t, |t, teacher_layout| {
            let t = Elements::of(t, teacher_layout)?;
            by_element!(storage, |T| {
                let mut out = vec![T::default(); s.len()];
                let images = out.par_chunks_mut(image).with_min_len(GRAIN.div_ceil(image));
                let of_image = |(own, other): &mut (Vec<f64>, Vec<f64>),
                                (index, out): (usize, &mut [T])| {
                    let mut sum = 0.0;
                    for first in (0..inner).step_by(COLUMNS) {
                        let columns = COLUMNS.min(inner - first);
                        let at = Place { start: index * image + first, length, inner, columns };
                        at.read(s, own);
                        at.read(t, other);
                        sum += loss(Tile { student: own, teacher: other, columns });
                        for g in own.iter_mut() {
                            *g *= share;
                        }
                        at.write(own, first, out);
                    }
                    sum
                };
                let sums: Vec<f64> =
                    images.enumerate().map_init(Default::default, of_image).collect();
                let gradient = Tensor::from_vec(out, layout.shape(), &Device::Cpu)?;
                Ok((share * sums.iter().sum::<f64>(), gradient))
            })
        })
    })?;
    Ok(Evaluation { value, inputs: vec![gradient], weights: Vec::new() })
}

/// Where some columns are.
struct Place {
    start: usize,
    length: usize,
    inner: usize,
    columns: usize,
}

impl Place {
    fn read(&self, x: Elements<'_>, to: &mut Vec<f64>) {
        to.resize(self.length * self.columns, 0.0);
        if self.columns == self.inner {
            return x.read(self.start, to);
        }
        for (row, to) in to.chunks_exact_mut(self.columns).enumerate() {
            x.read(self.start + row * self.inner, to);
        }
    }

    /// Writes to the columns from `first` on of an image.
    fn write<T: Element>(&self, values: &[f64], first: usize, image: &mut [T]) {
        let rows = image.chunks_exact_mut(self.inner).zip(values.chunks_exact(self.columns));
        rows.for_each(|(row, values)| round(values, &mut row[first..first + self.columns]));
    }
}
