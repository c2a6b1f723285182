//! Neuron Selectivity Transfer (Huang & Wang 2017, arXiv:1707.01219): squared MMD between the
//! channel maps of teacher and student.
//!
//! `L = mean_b [ mean k(t_i,t_j) + mean k(s_i,s_j) − 2 mean k(t_i,s_j) ]` over L2-normalized
//! channel maps. Each sample is one task, in the form that is cheapest for its kernel and sizes;
//! none of the forms creates the `[batch, channels, channels', positions]` tensor of the
//! definition:
//!
//! - `linear`: the distance between two mean maps;
//! - `position`: the polynomial kernel of degree 2 as the distance between two Gram matrices over
//!   positions;
//! - `channel`: any kernel of scalar products, from the products of channels.
//!
//! The first two need only the mean map and the Gram matrix of the teacher, which a cache can hold
//! in place of the maps (`statistics`).

mod channel;
mod kernel;
mod linear;
mod maps;
mod position;
mod scratch;
mod settings;
mod statistics;
#[cfg(test)]
pub(crate) mod tests;

use crate::criterion::math::evaluation::Loss;
use crate::criterion::math::tensor::dense;
use crate::error::{Error, Result};
use crate::statistic::Statistic;
use crate::tensor::{Element, data};
use candle_core::{DType, Device, Tensor};
use half::f16;
pub use kernel::{Kernel, Normalization, Sigma};
use maps::{Maps, Values};
use rayon::prelude::*;
use scratch::{SamplePair, Scratch, Spare, TEACHER};
pub use settings::{NstGauss, NstLinear, NstPoly};
pub use statistics::nst_from;

/// The variant of the criterion to compute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NstOptions {
    /// The kernel.
    pub kernel: Kernel,
    /// How a channel map is normalized to a unit vector.
    pub normalization: Normalization,
    /// Whether the value includes the teacher–teacher term, which has no gradient (the paper's
    /// code drops it).
    pub teacher_term: bool,
}

impl From<Kernel> for NstOptions {
    fn from(kernel: Kernel) -> Self {
        Self { kernel, normalization: Normalization::default(), teacher_term: true }
    }
}

impl NstOptions {
    /// The sets of the teacher's statistics, any one of which suffices; the features come last.
    pub(crate) fn ways(&self) -> Vec<Vec<Statistic>> {
        let features = vec![Statistic::Features];
        match statistics::needs(self) {
            Some((_, gram, mean)) => {
                let sums = [(gram, Statistic::Gram), (mean, Statistic::Mean)];
                let sums = sums.into_iter().filter_map(|(is_read, s)| is_read.then_some(s));
                vec![sums.collect(), features]
            }
            None => vec![features],
        }
    }
}

/// The squared MMD between channel maps; the larger map is first adaptively average-pooled to the
/// smaller, per axis. A channel of norm ≤ 1e-12 is the zero vector with zero gradient.
///
/// # Shapes
/// `student` `[batch, channels_s, height_s, width_s]` in f32 or f64, `teacher`
/// `[batch, channels_t, height_t, width_t]` in that type or f16.
///
/// # Errors
/// When batches disagree.
pub fn nst(student: &Tensor, teacher: &Tensor, kernel: Kernel) -> Result<Loss> {
    nst_with(student, teacher, &kernel.into())
}

/// [`nst`] in the variant that `options` selects.
///
/// # Shapes
/// As [`nst`].
///
/// # Errors
/// As [`nst`].
pub fn nst_with(student: &Tensor, teacher: &Tensor, options: &NstOptions) -> Result<Loss> {
    nst_weighted(student, teacher, options, 1.0)
}

/// [`nst_with`] with the gradient of `weight` times the loss, which is free here but takes another
/// pass over the map elsewhere. The value is unweighted.
///
/// # Shapes
/// As [`nst`].
///
/// # Errors
/// As [`nst`].
pub fn nst_weighted(
    student: &Tensor,
    teacher: &Tensor,
    options: &NstOptions,
    weight: f64,
) -> Result<Loss> {
    match student.dtype() {
        DType::F32 => on_host::<f32>(student, teacher, options, weight),
        DType::F64 => on_host::<f64>(student, teacher, options, weight),
        other => Err(Error::input(format!("nst: expected f32 or f64, found {other:?}"))),
    }
}

fn on_host<T: Element>(
    student: &Tensor,
    teacher: &Tensor,
    options: &NstOptions,
    weight: f64,
) -> Result<Loss> {
    let (&[batch, channels_s, hs, ws], &[batch_t, channels_t, ht, wt]) =
        (student.dims(), teacher.dims())
    else {
        return Err(Error::input(format!(
            "nst: expected maps [batch, channels, height, width], found {:?} and {:?}",
            student.dims(),
            teacher.dims()
        )));
    };
    if batch != batch_t || student.elem_count() == 0 || teacher.elem_count() == 0 {
        return Err(Error::input(format!(
            "nst: expected maps of one batch, found {:?} and {:?}",
            student.dims(),
            teacher.dims()
        )));
    }
    let size = [hs.min(ht), ws.min(wt)];
    let (student_size, teacher_size) = ([channels_s, hs, ws], [channels_t, ht, wt]);
    let half = teacher.dtype() == DType::F16;
    let (student_values, teacher_values) = (
        dense(student)?,
        dense(&if half { teacher.clone() } else { teacher.to_dtype(T::DTYPE)? })?,
    );
    let (held, other) = (data(&student_values)?, data(&teacher_values)?);
    let s = Maps::new(Values::Own(held.of::<T>()?), student_size, size);
    let t = if half { Values::Half(other.of::<f16>()?) } else { Values::Own(other.of::<T>()?) };
    let (value, gradient) = compute(s, Maps::new(t, teacher_size, size), batch, options, weight);
    let gradient =
        Tensor::from_vec(gradient, student.shape(), &Device::Cpu)?.to_device(student.device())?;
    Ok(Loss { value, gradient })
}

/// How a sample is computed.
#[derive(Debug, Clone, Copy)]
enum Form {
    Linear,
    Position { constant: f64 },
    Channel,
}

impl Form {
    /// The cheapest form. The squares of all products of n = `channels` vectors of
    /// P = `positions` numbers are those of the P×P products of positions: n·P·(n/2 + m)
    /// multiplications by channels and P·P·(n/2 + m) by positions, where m of the channels are
    /// the student's.
    fn choose(kernel: Kernel, channels: usize, positions: usize) -> Self {
        match kernel {
            Kernel::Linear => Self::Linear,
            Kernel::Poly { degree: 2, constant } if positions < channels => {
                Self::Position { constant }
            }
            Kernel::Poly { .. } | Kernel::Gauss { .. } => Self::Channel,
        }
    }
}

/// The loss, and the gradient of `weight` times the loss.
fn compute<T: Element>(
    s: Maps<'_, T>,
    t: Maps<'_, T>,
    batch: usize,
    options: &NstOptions,
    weight: f64,
) -> (f64, Vec<T>) {
    let form = Form::choose(options.kernel, s.channels + t.channels, s.positions());
    let shared = if options.kernel == (Kernel::Gauss { sigma: Sigma::AutoBatch }) {
        let spare = Spare::default();
        let variance = |b| spare.with(|room| room.load(&s, Some(&t), b, options).variance());
        let variances: Vec<f64> = (0..batch).into_par_iter().map(variance).collect();
        Some(variances.iter().sum::<f64>() / count(batch))
    } else {
        None
    };
    // scales the gradient; the value is averaged over the batch at the end
    let scale = weight / count(batch);
    over_samples(&s, Some(&t), batch, options, |_, pair| match form {
        Form::Linear => {
            let mean = pair.mean(TEACHER);
            linear::sample(pair, &mean, options.teacher_term, scale)
        }
        Form::Position { constant } => {
            let mean = if constant == 0.0 { Vec::new() } else { pair.mean(TEACHER) };
            position::sample(
                pair,
                &position::Teacher { gram: None, mean: &mean },
                constant,
                options.teacher_term,
                scale,
            )
        }
        Form::Channel => {
            let kernel = channel::Scalar::new(options.kernel, pair, shared);
            channel::sample(pair, kernel, options.teacher_term, scale)
        }
    })
}

/// The mean over the batch of `sample`'s loss for each sample; also takes the gradients that
/// `sample` leaves for the unit maps to the maps.
fn over_samples<T: Element>(
    s: &Maps<'_, T>,
    t: Option<&Maps<'_, T>>,
    batch: usize,
    options: &NstOptions,
    sample: impl Fn(usize, &mut SamplePair<'_, T>) -> f64 + Sync,
) -> (f64, Vec<T>) {
    let spare = Spare::default();
    let values = s.channels * s.from[0] * s.from[1];
    let mut gradient = vec![T::zero(); batch * values];
    let one = |(b, out): (usize, &mut [T])| {
        spare.with(|room: &mut Scratch<T>| {
            let mut pair = room.load(s, t, b, options);
            let value = sample(b, &mut pair);
            pair.through_normalization();
            s.spread(pair.gradient, out);
            value
        })
    };
    let losses: Vec<f64> = gradient.par_chunks_mut(values).enumerate().map(one).collect();
    (losses.iter().sum::<f64>() / count(batch), gradient)
}

#[allow(clippy::cast_precision_loss, reason = "a number of samples or channels")]
fn count(n: usize) -> f64 {
    n as f64
}
