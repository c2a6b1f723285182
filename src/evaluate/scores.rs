//! Scores of logits: the rank of each label, and cross-entropy.

use crate::array::Array;
use crate::error::{Error, Result};
use serde::Serialize;

/// The scores of a classifier.
#[derive(Debug, Serialize)]
pub struct Scores {
    /// Percentage of samples whose label has the largest logit.
    pub top1: f64,
    /// Percentage of samples whose label is among the five largest logits.
    pub top5: f64,
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Decoding included.
    pub images_per_s: f64,
    /// How many were measured.
    pub samples: usize,
    /// The execution provider that ran the model.
    pub provider: String,
}

/// Running totals.
#[derive(Default)]
pub(super) struct RunningScores {
    pub(super) samples: usize,
    top1: usize,
    top5: usize,
    loss: f64,
}

impl RunningScores {
    /// Counts a batch; rows of `logits` beyond the labels are padding.
    pub(super) fn add(
        &mut self,
        logits: &Array,
        labels: &[i64],
        classes: Option<&[usize]>,
    ) -> Result<()> {
        let &[rows, width] = logits.shape() else {
            return Err(Error::input(format!(
                "logits: expected [batch, classes], found shape {:?}",
                logits.shape()
            )));
        };
        if rows < labels.len() || width == 0 {
            return Err(Error::input(format!(
                "logits: expected {} rows, found shape {:?}",
                labels.len(),
                logits.shape()
            )));
        }
        for (row, &label) in logits.to_f32().chunks_exact(width).zip(labels) {
            let index = usize::try_from(label).ok();
            let class = match classes {
                Some(classes) => index.and_then(|i| classes.get(i).copied()),
                None => index,
            };
            let class = class.filter(|&c| c < width);
            let class = class.ok_or_else(|| {
                Error::input(format!(
                    "label {label}: expected 0 to {}, the model's classes",
                    width - 1
                ))
            })?;
            let (rank, loss) = judge(row, class).ok_or_else(|| {
                Error::input("logits: expected finite values, found NaN or infinity")
            })?;
            self.samples += 1;
            self.top1 += usize::from(rank == 0);
            self.top5 += usize::from(rank < 5);
            self.loss += loss;
        }
        Ok(())
    }

    #[allow(clippy::cast_precision_loss, reason = "counts far below 2⁵²")]
    pub(super) fn scores(&self, seconds: f64, provider: &str) -> Scores {
        let samples = self.samples as f64;
        Scores {
            top1: 100.0 * self.top1 as f64 / samples,
            top5: 100.0 * self.top5 as f64 / samples,
            loss: self.loss / samples,
            images_per_s: samples / seconds,
            samples: self.samples,
            provider: provider.to_owned(),
        }
    }
}

/// How many classes rank before `class` (equal logits in class order), and its cross-entropy;
/// `None` if the logits are not finite.
fn judge(logits: &[f32], class: usize) -> Option<(usize, f64)> {
    let of_class = *logits.get(class)?;
    if !logits.iter().all(|x| x.is_finite()) {
        return None;
    }
    let ranks_before = |(index, &x): (usize, &f32)| {
        x > of_class || (x.total_cmp(&of_class).is_eq() && index < class)
    };
    let rank = logits.iter().enumerate().filter(|&pair| ranks_before(pair)).count();
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&x| (f64::from(x) - f64::from(largest)).exp()).sum();
    Some((rank, total.ln() + f64::from(largest) - f64::from(of_class)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Values;

    #[test]
    fn ranks_and_losses() {
        let (rank, loss) = judge(&[1.0, 3.0, 2.0], 2).unwrap();
        assert_eq!(rank, 1);
        assert!((loss - 1.407_605_964).abs() < 1e-9, "{loss}");
        assert_eq!(judge(&[5.0; 4], 0).unwrap().0, 0);
        assert_eq!(judge(&[5.0; 4], 3).unwrap().0, 3);
        assert!(judge(&[1e4, -1e4], 1).unwrap().1.is_finite());
        assert!(judge(&[f32::NAN, 1.0], 1).is_none());
        assert!(judge(&[1.0], 1).is_none());
    }

    #[test]
    fn padding_is_not_counted_and_labels_are_checked() {
        let logits =
            Array::new(vec![3, 2], Values::F32(vec![1.0, 0.0, 1.0, 0.0, 9.0, 9.0])).unwrap();
        let mut sums = RunningScores::default();
        sums.add(&logits, &[0, 1], None).unwrap();
        let scores = sums.scores(2.0, "cpu");
        assert_eq!(
            (scores.samples, scores.top1, scores.top5, scores.images_per_s),
            (2, 50.0, 100.0, 1.0)
        );
        assert!(
            sums.add(&logits, &[2], None)
                .unwrap_err()
                .to_string()
                .contains("label 2: expected 0 to 1")
        );
        assert!(sums.add(&logits, &[-1], None).is_err());
        assert!(sums.add(&logits, &[0; 4], None).is_err());
    }
}
