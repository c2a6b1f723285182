//! What a criterion comes to: its value and its gradients.

use super::operator;
use crate::error::Result;
use candle_core::{DType, Tensor};

/// A loss and its gradient with respect to the student's tensor (same shape and type, in host
/// memory).
#[derive(Debug, Clone)]
pub struct Loss {
    /// The mean over the batch.
    pub value: f64,
    /// d value / d student.
    pub gradient: Tensor,
}

/// A loss with the gradients of all that it was differentiated by.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The loss.
    pub value: f64,
    /// d value / d input, in the order of the inputs (the student's tensors first), each of its
    /// input's shape and type.
    pub inputs: Vec<Tensor>,
    /// d value / d weight of the criterion's own module, by name; empty for a criterion without.
    pub weights: Vec<(String, Tensor)>,
}

impl From<Loss> for Evaluation {
    fn from(loss: Loss) -> Self {
        Self { value: loss.value, inputs: vec![loss.gradient], weights: Vec::new() }
    }
}

impl Evaluation {
    /// The same by what the one input was computed from: `back` makes its gradient of the input's.
    /// Candle's own way back goes through two more maps for every operator (zeros, and their sum
    /// with the gradient), which is most of the time where the operators are cheap.
    pub(crate) fn through(mut self, back: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Self> {
        if let [gradient] = self.inputs.as_mut_slice() {
            *gradient = back(gradient)?;
        }
        Ok(self)
    }

    /// Adds the loss of further inputs, which follow these; the weights may be the same ones.
    pub(crate) fn join(&mut self, other: Self) -> Result<()> {
        self.value += other.value;
        self.inputs.extend(other.inputs);
        for (name, gradient) in other.weights {
            match self.weights.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum = (&*sum + gradient)?,
                None => self.weights.push((name, gradient)),
            }
        }
        Ok(())
    }

    /// The same, times a weight.
    ///
    /// # Errors
    /// When a tensor cannot be computed.
    pub fn scaled(self, weight: f64) -> Result<Self> {
        // nothing is copied where the weight is 1, as it mostly is
        if weight.to_bits() == 1f64.to_bits() {
            return Ok(self);
        }
        let inputs = self.inputs.into_iter().map(|g| scale(&g, weight)).collect::<Result<_>>()?;
        let weights = self
            .weights
            .into_iter()
            .map(|(name, g)| Ok((name, scale(&g, weight)?)))
            .collect::<Result<_>>()?;
        Ok(Self { value: self.value * weight, inputs, weights })
    }
}

/// A tensor times a number, by all threads where it is a large one in host memory.
fn scale(x: &Tensor, factor: f64) -> Result<Tensor> {
    Ok(match x.dtype() {
        DType::F32 | DType::F64 if x.device().is_cpu() => {
            operator::scale(&x.contiguous()?, factor)?
        }
        _ => (x * factor)?,
    })
}
