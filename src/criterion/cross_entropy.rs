//! Cross-entropy with label smoothing (Szegedy et al. 2016, arXiv:1512.00567), soft targets and mixed labels.

use super::Loss;
use crate::error::Result;
use candle_core::Tensor;

/// L = −mean_b Σ_k q_bk ln softmax(s_b)_k with q = (1−ε)·\[k = y\] + ε/K. Rows with label −1 are left out of the mean.
///
/// # Shapes
/// `logits` `[batch, classes]`, `labels` one a row.
///
/// # Errors
/// When a label is outside the classes, or shapes disagree.
pub fn cross_entropy(_logits: &Tensor, _labels: &[i64], _smoothing: f64) -> Result<Loss> {
    todo!("helper: criterion")
}

/// L = −mean_b Σ_k q_bk ln softmax(s_b)_k for given targets q (not renormalised).
///
/// # Shapes
/// `logits` and `targets` `[batch, classes]`.
///
/// # Errors
/// When shapes disagree.
pub fn soft_cross_entropy(_logits: &Tensor, _targets: &Tensor) -> Result<Loss> {
    todo!("helper: criterion")
}
