//! Criteria, one paper a file: each gives its loss and the gradients for the student's tensors, in f32 or f64.

pub mod cross_entropy;
pub mod kd;
pub mod nst;

use candle_core::Tensor;

/// A loss and its gradient with respect to the student's tensor (same shape and type).
#[derive(Debug, Clone)]
pub struct Loss {
    /// The mean over the batch.
    pub value: f64,
    /// d value / d student.
    pub gradient: Tensor,
}
