//! The result of a criterion: its value and its gradients.

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

/// A loss with the gradients of everything it was differentiated by.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The loss.
    pub value: f64,
    /// d value / d input, in the order of the inputs (the student's tensors first), each with the
    /// shape and type of its input.
    pub inputs: Vec<Tensor>,
    /// d value / d weight of the criterion's own module, by name; empty for a criterion without
    /// one.
    pub weights: Vec<(String, Tensor)>,
}

impl From<Loss> for Evaluation {
    fn from(loss: Loss) -> Self {
        Self { value: loss.value, inputs: vec![loss.gradient], weights: Vec::new() }
    }
}

impl Evaluation {
    /// Applies the chain rule through `back` to the single input's gradient. candle's autograd
    /// allocates two more maps for every operator in its backward pass (zeros, and their sum with
    /// the gradient), which dominates the time of cheap operators.
    pub(crate) fn through(mut self, back: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Self> {
        if let [gradient] = self.inputs.as_mut_slice() {
            *gradient = back(gradient)?;
        }
        Ok(self)
    }

    /// Adds the loss of further inputs, which follow these; both may share weights.
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

    /// The loss and its gradients, times a weight.
    ///
    /// # Errors
    /// When a tensor cannot be computed.
    pub fn scaled(self, weight: f64) -> Result<Self> {
        // the weight is mostly 1; nothing is copied then
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

/// A tensor times a number, multithreaded for a large tensor in host memory.
fn scale(x: &Tensor, factor: f64) -> Result<Tensor> {
    Ok(match x.dtype() {
        DType::F32 | DType::F64 if x.device().is_cpu() => {
            operator::scale(&x.contiguous()?, factor)?
        }
        _ => (x * factor)?,
    })
}
