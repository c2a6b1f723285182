//! Logits at positions: each position that counts is a sample of its own.

use crate::criterion::{Evaluation, Samples, Sparse, Target};
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};

/// The positions of a batch whose logits count.
pub(super) struct Positions {
    /// Their indices in `[batch · positions]`, ascending.
    kept: Vec<u32>,
    /// How many positions a sample has.
    positions: usize,
}

impl Positions {
    /// `mask`: whether each position counts, `[batch · positions]`; all do without one. `None` if
    /// the target has no positions.
    pub(super) fn of(target: &Target<'_>, mask: Option<&[bool]>) -> Result<Option<Self>> {
        let dims = match target {
            Target::Tensor(logits) => logits.dims(),
            Target::Sparse(Sparse { value, .. }) => value.dims(),
            Target::Statistics(_) => return Ok(None),
        };
        let &[batch, positions, _] = dims else { return Ok(None) };
        if mask.is_some_and(|mask| mask.len() != batch * positions) {
            return Err(Error::internal("logits: the mask has another number of positions"));
        }
        let counts =
            |&at: &u32| mask.is_none_or(|mask| mask.get(at as usize).copied().unwrap_or_default());
        Ok(Some(Self { kept: (0..).take(batch * positions).filter(counts).collect(), positions }))
    }

    /// A criterion of the positions that count, as samples without labels; 0 if there are none.
    ///
    /// # Shapes
    /// `student` `[batch, positions, classes]`; `criterion` gets `[positions that count, classes]`.
    ///
    /// # Errors
    /// When the student has no such positions.
    pub(super) fn evaluate(
        &self,
        student: &Tensor,
        target: Target<'_>,
        samples: Samples<'_>,
        criterion: impl FnOnce(&Tensor, Target<'_>, Samples<'_>) -> Result<Evaluation>,
    ) -> Result<Evaluation> {
        let &[batch, positions, classes] = student.dims() else {
            return Err(Error::input(format!(
                "logits: expected the student's at {} positions, found {:?}",
                self.positions,
                student.dims()
            )));
        };
        if self.kept.is_empty() {
            let inputs = vec![student.zeros_like()?];
            return Ok(Evaluation { value: 0.0, inputs, weights: Vec::new() });
        }
        let index = Tensor::new(self.kept.as_slice(), &Device::Cpu)?;
        let all = batch * positions;
        let take = |x: &Tensor| -> Result<Tensor> {
            let shape = [&[all], x.dims().get(2..).unwrap_or_default()].concat();
            let rows = x.contiguous()?.reshape(shape)?;
            if self.kept.len() == all { Ok(rows) } else { Ok(rows.index_select(&index, 0)?) }
        };
        let of = |at: &u32| *at as usize / self.positions;
        let rows: Vec<usize> =
            self.kept.iter().filter_map(|at| samples.rows.get(of(at)).copied()).collect();
        let labels = vec![-1; rows.len()];
        let samples = Samples { rows: &rows, labels: &labels, mixed: None, ..samples };
        let logits = take(student)?;
        let found = match target {
            Target::Tensor(teacher) => {
                criterion(&logits, Target::Tensor(&take(teacher)?), samples)?
            }
            Target::Sparse(Sparse { value, class, rest, classes }) => {
                let (value, class, rest) = (take(value)?, take(class)?, take(rest)?);
                let teacher = Sparse { value: &value, class: &class, rest: &rest, classes };
                criterion(&logits, Target::Sparse(teacher), samples)?
            }
            Target::Statistics(_) => {
                return Err(Error::internal("logits: expected logits, found statistics"));
            }
        };
        found.through(|gradient| {
            let whole = if self.kept.len() == all {
                gradient.clone()
            } else {
                let zeros = Tensor::zeros((all, classes), gradient.dtype(), gradient.device())?;
                zeros.index_add(&index, gradient, 0)?
            };
            Ok(whole.reshape((batch, positions, classes))?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::math::autograd::tests::tensor;
    use crate::criterion::papers::kd::kd;

    const SAMPLES: Samples<'_> =
        Samples { rows: &[5, 6], labels: &[0, 1], mixed: None, smoothing: 0.0, step: 0 };

    fn of(student: &Tensor, teacher: &Tensor, mask: Option<&[bool]>) -> Evaluation {
        let target = Target::Tensor(teacher);
        let positions = Positions::of(&target, mask).unwrap().unwrap();
        positions
            .evaluate(student, target, SAMPLES, |s, target, samples| {
                let Target::Tensor(t) = target else { panic!() };
                assert_eq!(samples.rows.len(), s.dims()[0]);
                assert!(samples.labels.iter().all(|&label| label == -1));
                kd(s, t, 2.0)
            })
            .unwrap()
    }

    #[test]
    fn padding_counts_for_nothing() {
        let (s, t) = (tensor(&[2, 3, 4], 1), tensor(&[2, 3, 4], 2));
        let whole = kd(&s, &t, 2.0).unwrap();
        assert!((of(&s, &t, None).value - whole.value).abs() < 1e-15);
        // the first two positions of the first sample, and nothing of the second
        let mask = [true, true, false, false, false, false];
        let found = of(&s, &t, Some(&mask));
        let two = |x: &Tensor| x.narrow(0, 0, 1).unwrap().narrow(1, 0, 2).unwrap();
        let expected = kd(&two(&s), &two(&t), 2.0).unwrap();
        assert!((found.value - expected.value).abs() < 1e-15);
        let (gradient, part) = (&found.inputs[0], &expected.inputs[0]);
        let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(gradient.dims(), [2, 3, 4]);
        assert_eq!(values(&two(gradient)), values(part));
        assert!(values(gradient)[8..].iter().all(|g| g.to_bits() == 0));
        // all of it is padding
        let nothing = of(&s, &t, Some(&[false; 6]));
        assert_eq!(nothing.value.to_bits(), 0);
        assert!(values(&nothing.inputs[0]).iter().all(|g| g.to_bits() == 0));
    }

    #[test]
    fn a_student_without_positions_is_refused() {
        let t = tensor(&[2, 3, 4], 2);
        let target = Target::Tensor(&t);
        let positions = Positions::of(&target, None).unwrap().unwrap();
        let refused = positions
            .evaluate(&tensor(&[2, 4], 1), target, SAMPLES, |_, _, _| panic!())
            .unwrap_err();
        assert!(refused.to_string().contains("at 3 positions"), "{refused}");
        assert!(Positions::of(&target, Some(&[true; 5])).is_err());
        let vector = tensor(&[2, 4], 1);
        assert!(Positions::of(&Target::Tensor(&vector), None).unwrap().is_none());
    }
}
