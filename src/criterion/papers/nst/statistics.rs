//! NST from what a cache holds in place of the teacher's maps: `‖m_s − m_t‖²`, and
//! `‖G_s − G_t‖² + 2c ‖m_s − m_t‖²` (see [`super::linear`] and [`super::position`]),
//! over maps normalized by their clamped norm.

use super::kernel::{Kernel, Normalization};
use super::maps::{Maps, Values};
use super::{NstOptions, count, linear, over_samples, position};
use crate::criterion::contract::Statistics;
use crate::criterion::math::evaluation::Loss;
use crate::criterion::math::tensor::{dense, values};
use crate::error::{Error, Result};
use crate::tensor::{Element, data};
use candle_core::{DType, Device, Tensor};

/// [`nst_weighted`](super::nst_weighted) from the statistics of the teacher's maps. The student's
/// maps are adaptively average-pooled to their size.
///
/// # Shapes
/// `student` `[batch, channels, height, width]` in f32 or f64.
///
/// # Errors
/// When the kernel or the normalization needs the maps, a statistic is missing or has another
/// shape, or the student's maps are smaller: pooling comes before normalization.
pub fn nst_from(
    student: &Tensor,
    teacher: &Statistics<'_>,
    options: &NstOptions,
    weight: f64,
) -> Result<Loss> {
    match student.dtype() {
        DType::F32 => on_host::<f32>(student, teacher, options, weight),
        DType::F64 => on_host::<f64>(student, teacher, options, weight),
        other => Err(Error::input(format!("nst: expected f32 or f64, found {other:?}"))),
    }
}

/// The kernel's constant, and whether the Gram matrix and the mean are read.
pub(super) fn needs(options: &NstOptions) -> Option<(f64, bool, bool)> {
    match (options.kernel, options.normalization) {
        (Kernel::Linear, Normalization::Clamped) => Some((0.0, false, true)),
        (Kernel::Poly { degree: 2, constant }, Normalization::Clamped) => {
            Some((constant, true, constant != 0.0))
        }
        _ => None,
    }
}

fn on_host<T: Element>(
    student: &Tensor,
    teacher: &Statistics<'_>,
    options: &NstOptions,
    weight: f64,
) -> Result<Loss> {
    let Some((constant, reads_gram, reads_mean)) = needs(options) else {
        return Err(Error::input(format!(
            "nst: {:?} needs the maps, not their statistics",
            options.kernel
        )));
    };
    let &[batch, channels, height, width] = student.dims() else {
        return Err(Error::input(format!(
            "nst: expected maps [batch, channels, height, width], found {:?}",
            student.dims()
        )));
    };
    let [h, w] = teacher.size;
    if height < h || width < w || student.elem_count() == 0 || h * w == 0 {
        return Err(Error::input(format!(
            "nst: expected maps of at least {h}x{w}, found {height}x{width}"
        )));
    }
    let positions = h * w;
    let gram = read::<T>(
        teacher.gram.filter(|_| reads_gram),
        "the Gram matrix",
        reads_gram,
        &[batch, positions * (positions + 1) / 2],
    )?;
    let mean =
        read::<T>(teacher.mean.filter(|_| reads_mean), "the mean", reads_mean, &[batch, h, w])?;
    let scale = weight / count(batch);
    let values = dense(student)?;
    let held = data(&values)?;
    let s = Maps::new(Values::Own(held.of::<T>()?), [channels, height, width], [h, w]);
    let (value, gradient) = over_samples(&s, None, batch, options, |b, pair| {
        let mean: Vec<f64> =
            mean.iter().skip(b * positions).take(positions).map(|m| m.wide()).collect();
        if reads_gram {
            let row = positions * (positions + 1) / 2;
            let known = position::Teacher { gram: gram.get(b * row..(b + 1) * row), mean: &mean };
            position::sample(pair, &known, constant, options.teacher_term, scale)
        } else {
            linear::sample(pair, &mean, options.teacher_term, scale)
        }
    });
    let gradient =
        Tensor::from_vec(gradient, student.shape(), &Device::Cpu)?.to_device(student.device())?;
    Ok(Loss { value, gradient })
}

/// A statistic's values; empty if it is not needed.
fn read<T: Element>(
    tensor: Option<&Tensor>,
    what: &str,
    is_needed: bool,
    shape: &[usize],
) -> Result<Vec<T>> {
    match tensor {
        None if is_needed => {
            Err(Error::input(format!("nst: expected {what} of the teacher's maps, found none")))
        }
        None => Ok(Vec::new()),
        Some(tensor) if tensor.dims() != shape => {
            let hint = if tensor.dims().first() == shape.first() { "" } else { " of one batch" };
            Err(Error::input(format!(
                "nst: expected {what}{hint} as {shape:?}, found {:?}",
                tensor.dims()
            )))
        }
        Some(tensor) => values(tensor),
    }
}
