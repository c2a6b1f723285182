//! The linear kernel: `L_b = ‖m_t − m_s‖²`, where m is the mean unit map.

use super::count;
use super::scratch::{STUDENT, SamplePair};
use crate::tensor::Element;

/// One sample's loss; `scale` times its gradient is written to `pair.gradient`. `mean_t`: the
/// teacher's mean unit map. Without the teacher's term, `‖m_t‖²` is left out.
pub(super) fn sample<T: Element>(
    pair: &mut SamplePair<'_, T>,
    mean_t: &[f64],
    teacher_term: bool,
    scale: f64,
) -> f64 {
    let mean_s = pair.mean(STUDENT);
    let slope: Vec<T> = slope(&mean_s, mean_t, 2.0 * scale / count(pair.channels[0]));
    for gradient in pair.gradient.chunks_exact_mut(pair.positions) {
        gradient.copy_from_slice(&slope);
    }
    distance(&mean_s, mean_t, teacher_term)
}

/// `‖m_s − m_t‖²`, minus `‖m_t‖²` unless `teacher_term`.
pub(super) fn distance(mean_s: &[f64], mean_t: &[f64], teacher_term: bool) -> f64 {
    let distance: f64 = mean_s.iter().zip(mean_t).map(|(a, b)| (a - b) * (a - b)).sum();
    if teacher_term { distance } else { distance - mean_t.iter().map(|b| b * b).sum::<f64>() }
}

/// `factor · (m_s − m_t)`.
pub(super) fn slope<T: Element>(mean_s: &[f64], mean_t: &[f64], factor: f64) -> Vec<T> {
    mean_s.iter().zip(mean_t).map(|(a, b)| T::of(factor * (a - b))).collect()
}
