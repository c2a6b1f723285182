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

/// Columns read at a time, at most.
const COLUMNS: usize = 16;
/// Elements of a task, at least.
const GRAIN: usize = 4096;

/// The mean over all columns of a loss, computed in double precision. `loss` gets a column of the
/// student and of the teacher, returns its value, and leaves its gradient in place of the student's
/// values; the teacher's are its own to overwrite.
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
    loss: impl Fn(&mut [f64], &mut [f64]) -> f64 + Sync,
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
                        let pairs =
                            own.chunks_exact_mut(length).zip(other.chunks_exact_mut(length));
                        sum += pairs.map(|(own, other)| loss(own, other)).sum::<f64>();
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

/// Some neighboring columns of an image `[length, inner]`.
struct Place {
    start: usize,
    length: usize,
    inner: usize,
    columns: usize,
}

impl Place {
    /// Reads them one after the other.
    fn read(&self, x: Elements<'_>, to: &mut Vec<f64>) {
        to.resize(self.columns * self.length, 0.0);
        if self.inner == 1 {
            return x.read(self.start, to);
        }
        let mut row = [0.0; COLUMNS];
        let row = &mut row[..self.columns];
        for place in 0..self.length {
            x.read(self.start + place * self.inner, row);
            for (column, &value) in to.chunks_exact_mut(self.length).zip(row.iter()) {
                column[place] = value;
            }
        }
    }

    /// Writes them to the columns from `first` on of an image.
    fn write<T: Element>(&self, values: &[f64], first: usize, image: &mut [T]) {
        if self.inner == 1 {
            return round(values, image);
        }
        for (place, row) in image.chunks_exact_mut(self.inner).enumerate() {
            let columns = values.chunks_exact(self.length);
            for (out, column) in row[first..].iter_mut().zip(columns) {
                *out = T::of(column[place]);
            }
        }
    }
}
