//! What is stored of a tap and how it is computed: the features, or statistics that replace them,
//! one per file. Sums run in f64 in a fixed order and are rounded to f32 once. A sample is one
//! task, so no bit depends on the number of threads.

mod attention;
mod features;
mod form;
mod gram;
mod mean;
mod planes;
mod pool;
mod sign;
#[cfg(test)]
mod tests;
mod top;
mod vector;

pub use features::{F16_MAX, Loss, f16_loss, finite_range, to_f16};
pub use form::{LOGITS, MapShape, Statistic};
pub use gram::unpack;
pub use planes::Maps;
pub use pool::{adaptive_average_pool, pooling_weights};
pub use top::{TopPart, masses, top_classes};

use crate::array::Values;
use crate::error::{Error, Result};
use rayon::prelude::*;

/// Lower bound on the norm that a channel map is divided by: an all-zero map stays zero.
pub const DEAD_NORM: f64 = 1e-12;

/// The statistic of every sample, one after another: f32, or bytes for [`Statistic::Sign`].
///
/// # Shapes
/// `values` is `[samples, …]`, each as in `maps`. The result is `[samples, …]` with rows of
/// [`MapShape::row`](crate::statistic::form::MapShape::row).
///
/// # Errors
/// If `values` does not hold whole samples, sizes overflow, or the statistic is features, which
/// need no computation.
pub fn compute(statistic: Statistic, values: &[f32], maps: &Maps) -> Result<Values> {
    let row = maps.stored().row(statistic).map(|(shape, _)| shape.iter().product::<usize>());
    let sample = maps.activations().filter(|&n| n > 0 && values.len().is_multiple_of(n));
    let (Some(row), Some(sample)) = (row, sample) else {
        return Err(Error::input(format!(
            "{}: expected whole samples of {maps:?}, found {} values",
            statistic.name(),
            values.len()
        )));
    };
    let samples = values.len() / sample;
    let of_planes = |f: fn(&mut planes::Planes, &mut [f32])| {
        let mut out = vec![0f32; samples * row];
        let tasks = out.par_chunks_mut(row).zip(values.par_chunks(sample));
        tasks.for_each_init(planes::Planes::default, |planes, (out, values)| {
            planes.load(values, maps);
            f(planes, out);
        });
        Values::F32(out)
    };
    Ok(match statistic {
        Statistic::Gram => of_planes(gram::gram),
        Statistic::Mean => of_planes(mean::mean),
        Statistic::Attention => of_planes(attention::attention),
        Statistic::Vector => of_planes(vector::vector),
        Statistic::Sign => {
            let mut out = vec![0u8; samples * row];
            let tasks = out.par_chunks_mut(row).zip(values.par_chunks(sample));
            tasks.for_each_init(planes::Planes::default, |planes, (out, values)| {
                planes.load(values, maps);
                sign::sign(planes, maps.layout, out);
            });
            Values::U8(out)
        }
        Statistic::Features => return Err(Error::input("features: no statistic to compute")),
    })
}

#[allow(clippy::cast_precision_loss, reason = "a number of channels or positions")]
fn count(n: usize) -> f64 {
    n as f64
}

#[allow(clippy::cast_possible_truncation, reason = "the one rounding of a statistic")]
fn round(value: f64) -> f32 {
    value as f32
}
