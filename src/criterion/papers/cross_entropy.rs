//! Cross-entropy with label smoothing (Szegedy et al. 2016, arXiv:1512.00567), soft targets and
//! mixed labels.

use crate::criterion::contract::{Comparison, Criterion, Setup, Spec};
use crate::criterion::math::evaluation::{Evaluation, Loss};
use crate::criterion::math::tensor::{
    check_dtype, log_softmax, rows_and_classes, same_shape, tensor_like, values,
};
use crate::criterion::settings::settings;
use crate::error::{Error, Result};
use candle_core::Tensor;

settings! {
    /// Cross-entropy with the labels.
    Ce {}
}

impl Criterion for Ce {
    type Memory = ();

    const SPEC: &'static Spec = &Spec {
        name: "ce",
        title: "Cross-entropy with the labels",
        paper: "label smoothing: Szegedy et al. 2016, arXiv:1512.00567; mixup: Zhang et al. 2018, \
                arXiv:1710.09412",
        source: "PyTorch",
        ..Spec::LABELS
    };

    fn start(&self, _: &Setup<'_>) -> Result<()> {
        Ok(())
    }

    fn evaluate(&self, inputs: &Comparison<'_>, (): &mut ()) -> Result<Evaluation> {
        let (logits, samples) = (inputs.student()?, &inputs.samples);
        let loss = match &samples.mixed {
            Some(mixed) => mixed_cross_entropy(
                logits,
                mixed.first,
                mixed.second,
                mixed.share,
                samples.smoothing,
            )?,
            None => cross_entropy(logits, samples.labels, samples.smoothing)?,
        };
        Ok(loss.into())
    }
}

/// `L = −mean_b Σ_k q_bk ln softmax(s_b)_k` with `q = (1−ε)·[k = y] + ε/K`. The mean
/// excludes rows with label −1.
///
/// # Shapes
/// `logits` `[batch, classes]`, `labels` one per row.
///
/// # Errors
/// When a label is outside the classes, or shapes disagree.
pub fn cross_entropy(logits: &Tensor, labels: &[i64], smoothing: f64) -> Result<Loss> {
    labeled(logits, &[(labels, &vec![1.0; labels.len()])], smoothing)
}

/// `L = mean_b λ_b·CE(s_b, a_b) + (1−λ_b)·CE(s_b, b_b)`: the loss of mixed samples (mixup,
/// Zhang et al. 2018, arXiv:1710.09412; `CutMix`, Yun et al. 2019, arXiv:1905.04899). The mean
/// excludes a row if either of its labels is −1.
///
/// # Shapes
/// `logits` `[batch, classes]`; `a` and `b` one label per row, `lambda` the share of `a` in each
/// row.
///
/// # Errors
/// As [`cross_entropy`].
pub fn mixed_cross_entropy(
    logits: &Tensor,
    a: &[i64],
    b: &[i64],
    lambda: &[f64],
    smoothing: f64,
) -> Result<Loss> {
    let rest: Vec<f64> = lambda.iter().map(|share| 1.0 - share).collect();
    labeled(logits, &[(a, lambda), (b, &rest)], smoothing)
}

/// `L = −mean_b Σ_k q_bk ln softmax(s_b)_k` for given targets q (not renormalized).
///
/// # Shapes
/// `logits` and `targets` `[batch, classes]`.
///
/// # Errors
/// When shapes disagree.
pub fn soft_cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Loss> {
    let (rows, _) = rows_and_classes(logits, "cross-entropy")?;
    same_shape(logits, targets, "cross-entropy")?;
    with_targets(logits, &values::<f64>(targets)?, rows)
}

/// Cross-entropy against weighted sums of labels: each part has a label and a share for each row.
fn labeled(logits: &Tensor, parts: &[(&[i64], &[f64])], smoothing: f64) -> Result<Loss> {
    let (rows, classes) = rows_and_classes(logits, "cross-entropy")?;
    let mut targets = vec![0.0; rows * classes];
    let mut counted = 0;
    if let Some((labels, shares)) =
        parts.iter().find(|(labels, shares)| labels.len() != rows || shares.len() != rows)
    {
        return Err(Error::input(format!(
            "cross-entropy: expected {rows} labels and shares, found {} and {}",
            labels.len(),
            shares.len()
        )));
    }
    for (row, target) in targets.chunks_exact_mut(classes).enumerate() {
        if parts.iter().any(|(labels, _)| labels[row] == -1) {
            continue;
        }
        counted += 1;
        #[allow(clippy::cast_precision_loss, reason = "a number of classes")]
        target.fill(smoothing / classes as f64);
        for (labels, shares) in parts {
            let (label, share) = (labels[row], shares[row]);
            let slot = usize::try_from(label).ok().and_then(|k| target.get_mut(k));
            *slot.ok_or_else(|| {
                Error::input(format!("label {label}: expected 0 to {}", classes - 1))
            })? += share * (1.0 - smoothing);
        }
    }
    with_targets(logits, &targets, counted)
}

/// The loss against `targets`, with the mean over `counted` rows; a row without a target
/// contributes nothing.
fn with_targets(logits: &Tensor, targets: &[f64], counted: usize) -> Result<Loss> {
    check_dtype(logits, "cross-entropy")?;
    let (_, classes) = rows_and_classes(logits, "cross-entropy")?;
    let scores = values::<f64>(logits)?;
    #[allow(clippy::cast_precision_loss, reason = "a number of rows")]
    let scale = if counted == 0 { 0.0 } else { 1.0 / counted as f64 };
    let mut gradient = vec![0.0; scores.len()];
    let mut log_q = vec![0.0; classes];
    let mut value = 0.0;
    for ((row, target), gradient) in scores
        .chunks_exact(classes)
        .zip(targets.chunks_exact(classes))
        .zip(gradient.chunks_exact_mut(classes))
    {
        log_softmax(row, 1.0, &mut log_q);
        let mass: f64 = target.iter().sum();
        for ((g, &q), &log) in gradient.iter_mut().zip(target).zip(&log_q) {
            // a class without a target contributes nothing, even if its logit is so low that the
            // logarithm is −∞
            if q != 0.0 {
                value -= scale * q * log;
            }
            *g = scale * (mass * log.exp() - q);
        }
    }
    Ok(Loss { value, gradient: tensor_like(gradient, logits)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::papers::nst::tests::assert_gradient;
    use candle_core::Device;

    fn logits() -> Tensor {
        Tensor::from_vec(vec![1.0, -2.0, 0.5, 3.0, 0.1, -0.7], (2, 3), &Device::Cpu).unwrap()
    }

    #[test]
    fn one_row_by_hand() {
        let logits = Tensor::from_vec(vec![0.0f32, 0.0], (1, 2), &Device::Cpu).unwrap();
        let loss = cross_entropy(&logits, &[1], 0.0).unwrap();
        assert!((loss.value - 2f64.ln()).abs() < 1e-12);
        assert_eq!(loss.gradient.to_vec2::<f32>().unwrap(), vec![vec![0.5, -0.5]]);
    }

    #[test]
    fn gradients_match_finite_differences() {
        assert_gradient(&logits(), 1e-7, |s| cross_entropy(s, &[2, 0], 0.1).unwrap());
        assert_gradient(&logits(), 1e-7, |s| {
            mixed_cross_entropy(s, &[2, 0], &[1, 0], &[0.3, 0.8], 0.1).unwrap()
        });
        let targets =
            Tensor::from_vec(vec![0.2, 0.5, 0.2, 1.0, 0.0, 0.1], (2, 3), &Device::Cpu).unwrap();
        assert_gradient(&logits(), 1e-7, |s| soft_cross_entropy(s, &targets).unwrap());
    }

    #[test]
    fn a_mixed_row_is_the_mean_of_its_two_labels_by_its_own_share() {
        let row = |at: usize, label: i64| {
            cross_entropy(&logits().narrow(0, at, 1).unwrap(), &[label], 0.1).unwrap()
        };
        let mixed = mixed_cross_entropy(&logits(), &[2, 0], &[1, 2], &[0.3, 0.8], 0.1).unwrap();
        let expected = (0.3 * row(0, 2).value
            + 0.7 * row(0, 1).value
            + 0.8 * row(1, 0).value
            + 0.2 * row(1, 2).value)
            / 2.0;
        assert!((mixed.value - expected).abs() < 1e-12);
        // with all the weight on one label, the loss is that label's, whatever the other is
        let whole = mixed_cross_entropy(&logits(), &[2, 0], &[0, 1], &[1.0, 1.0], 0.1).unwrap();
        assert!(
            (whole.value - cross_entropy(&logits(), &[2, 0], 0.1).unwrap().value).abs() < 1e-12
        );
        // a row whose partner has no label is excluded
        let left = mixed_cross_entropy(&logits(), &[2, 0], &[-1, 0], &[0.3, 0.8], 0.0).unwrap();
        assert!(
            (left.value
                - cross_entropy(&logits().narrow(0, 1, 1).unwrap(), &[0], 0.0).unwrap().value)
                .abs()
                < 1e-12
        );
        assert!(mixed_cross_entropy(&logits(), &[2, 0], &[1, 0], &[0.3], 0.0).is_err());
    }

    #[test]
    fn unlabeled_rows_are_left_out() {
        let both = cross_entropy(&logits(), &[2, -1], 0.0).unwrap();
        let first = cross_entropy(&logits().narrow(0, 0, 1).unwrap(), &[2], 0.0).unwrap();
        assert!((both.value - first.value).abs() < 1e-15);
        assert_eq!(both.gradient.to_vec2::<f64>().unwrap()[1], vec![0.0; 3]);
        assert!(cross_entropy(&logits(), &[-1, -1], 0.0).unwrap().value.abs() < f64::EPSILON);
    }

    #[test]
    fn a_label_outside_the_classes_is_refused() {
        assert!(
            cross_entropy(&logits(), &[0, 3], 0.0)
                .unwrap_err()
                .to_string()
                .contains("expected 0 to 2")
        );
        assert!(cross_entropy(&logits(), &[0, -2], 0.0).is_err());
    }
}
