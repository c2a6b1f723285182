//! Neuron Selectivity Transfer (Huang & Wang 2017, arXiv:1707.01219): squared MMD between the channel maps of teacher and student.

use super::Loss;
use crate::error::Result;
use crate::recipe::Kernel;
use candle_core::Tensor;

/// L = mean_b [ mean k(t_i,t_j) + mean k(s_i,s_j) − 2 mean k(t_i,s_j) ] over L2-normalised channel maps; the larger map is first
/// adaptively average-pooled to the smaller, per axis. A channel of norm ≤ 1e-12 is the zero vector with zero gradient.
///
/// # Shapes
/// `student` `[batch, channels_s, height_s, width_s]`, `teacher` `[batch, channels_t, height_t, width_t]`.
///
/// # Errors
/// When batches disagree.
pub fn nst(_student: &Tensor, _teacher: &Tensor, _kernel: Kernel) -> Result<Loss> {
    todo!("helper: criterion")
}
