//! A criterion written as one formula in tensors: its value and its gradients by candle's autograd, where that is right.
//!
//! candle's gradients of pooling, up-sampling, convolution, softmax and layer normalisation are wrong or slow, those of relu and abs are 1 at 0,
//! and so no formula here uses them: `formula`, `convolution` and `operator` hold what takes their place.

use super::module::Module;
use super::operator::Scale;
use crate::error::Result;
use candle_core::{DType, Tensor, Var};

/// A loss with the gradients of all that it was differentiated by.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The loss.
    pub value: f64,
    /// d value / d input, in the order of the inputs (the student's tensors first), each of its input's shape and type.
    pub inputs: Vec<Tensor>,
    /// d value / d weight of the criterion's own module, by name; empty for a criterion without.
    pub weights: Vec<(String, Tensor)>,
}

impl From<super::Loss> for Evaluation {
    fn from(loss: super::Loss) -> Self {
        Self { value: loss.value, inputs: vec![loss.gradient], weights: Vec::new() }
    }
}

impl Evaluation {
    /// The same by what the one input was computed from: `back` makes its gradient of the input's. Candle's own way back goes through two more
    /// maps for every operator (zeros, and their sum with the gradient), which is most of the time where the operators are cheap.
    pub(super) fn through(mut self, back: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Self> {
        if let [gradient] = self.inputs.as_mut_slice() {
            *gradient = back(gradient)?;
        }
        Ok(self)
    }

    /// Adds the loss of further inputs, which follow these; the weights may be the same ones.
    pub(super) fn join(&mut self, other: Self) -> Result<()> {
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
        let weights = self.weights.into_iter().map(|(name, g)| Ok((name, scale(&g, weight)?))).collect::<Result<_>>()?;
        Ok(Self { value: self.value * weight, inputs, weights })
    }
}

/// A tensor times a number, by all threads where it is a large one in host memory.
fn scale(x: &Tensor, factor: f64) -> Result<Tensor> {
    Ok(match x.dtype() {
        DType::F32 | DType::F64 if x.device().is_cpu() => x.contiguous()?.apply_op1_no_bwd(&Scale(factor))?,
        _ => (x * factor)?,
    })
}

/// Evaluates `formula`, which makes a scalar of the inputs and of the module's weights, and differentiates it by all of them.
///
/// # Errors
/// When the formula cannot be computed.
pub(super) fn differentiate(
    inputs: &[&Tensor],
    module: Option<&Module>,
    formula: impl FnOnce(&[Tensor]) -> Result<Tensor>,
) -> Result<Evaluation> {
    let leaves: Vec<Var> = inputs.iter().map(|x| Ok(Var::from_tensor(&x.detach())?)).collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = leaves.iter().map(|v| v.as_tensor().clone()).collect();
    let loss = formula(&tensors)?;
    let gradients = loss.backward()?;
    // what the loss does not depend on has no entry
    let of = |x: &Tensor| -> Result<Tensor> {
        match gradients.get(x) {
            Some(gradient) => Ok(gradient.contiguous()?),
            None => Ok(x.zeros_like()?),
        }
    };
    let inputs = tensors.iter().map(of).collect::<Result<_>>()?;
    let weights = module.into_iter().flat_map(Module::weights).map(|(name, w)| Ok((name.to_owned(), of(w)?))).collect::<Result<_>>()?;
    Ok(Evaluation { value: loss.to_dtype(DType::F64)?.to_scalar()?, inputs, weights })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use candle_core::Device;

    /// Values in −0.5 … 0.5, of no pattern, the same for the same seed.
    pub fn tensor(shape: &[usize], seed: u32) -> Tensor {
        let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
        let values: Vec<f64> = (0..shape.iter().product())
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f64::from(state >> 8) / f64::from(1 << 24) - 0.5
            })
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn list(tensor: &Tensor) -> Vec<f64> {
        tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Compares every gradient of an evaluation, those of the module's weights too, with central differences in f64.
    pub fn assert_gradients(inputs: &[&Tensor], module: &Module, loss: impl Fn(&[&Tensor], &Module) -> Result<Evaluation>) {
        const STEP: f64 = 1e-5;
        let module = module.to_dtype(DType::F64).unwrap();
        let found = loss(inputs, &module).unwrap();
        assert_eq!(found.inputs.len(), inputs.len());
        let compare = |what: &str, gradient: &Tensor, at: &Tensor, moved: &dyn Fn(Tensor) -> f64| {
            assert_eq!(gradient.dims(), at.dims(), "{what}");
            let (gradient, at_values) = (list(gradient), list(at));
            let largest = gradient.iter().fold(0f64, |m, g| m.max(g.abs()));
            for i in 0..at_values.len() {
                let shifted = |by: f64| {
                    let mut values = at_values.clone();
                    values[i] += by;
                    moved(Tensor::from_vec(values, at.shape(), &Device::Cpu).unwrap())
                };
                let slope = (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP);
                assert!((slope - gradient[i]).abs() < 1e-6 * largest.max(1e-2), "{what}[{i}]: slope {slope}, gradient {}", gradient[i]);
            }
        };
        for (i, input) in inputs.iter().enumerate() {
            compare(&format!("input {i}"), &found.inputs[i], input, &|x| {
                let mut inputs = inputs.to_vec();
                inputs[i] = &x;
                loss(&inputs, &module).unwrap().value
            });
        }
        assert_eq!(found.weights.len(), module.weights().count());
        for (name, gradient) in &found.weights {
            let at = module.get(name).unwrap();
            compare(name, gradient, at, &|w| {
                let weights = module.weights().map(|(n, v)| (n.to_owned(), if n == name { w.clone() } else { v.clone() }));
                loss(inputs, &Module::new(weights).unwrap()).unwrap().value
            });
        }
    }

    /// Neither the value nor a gradient is NaN or infinite.
    pub fn assert_finite(evaluation: &Evaluation) {
        assert!(evaluation.value.is_finite(), "{}", evaluation.value);
        for gradient in evaluation.inputs.iter().chain(evaluation.weights.iter().map(|(_, g)| g)) {
            assert!(list(gradient).iter().all(|g| g.is_finite()), "{gradient}");
        }
    }

    /// The value and every gradient are zero (to `tolerance`).
    pub fn assert_zero(evaluation: &Evaluation, tolerance: f64) {
        assert!(evaluation.value.abs() <= tolerance, "{}", evaluation.value);
        for gradient in &evaluation.inputs {
            assert!(list(gradient).iter().all(|g| g.abs() <= tolerance), "{gradient}");
        }
    }

    #[test]
    fn what_the_loss_does_not_depend_on_has_no_gradient() {
        let (a, b) = (tensor(&[2, 3], 1), tensor(&[4], 2));
        let found = differentiate(&[&a, &b], None, |x| Ok((x[0].sqr()?.sum_all()? * 0.5)?)).unwrap();
        assert_eq!(list(&found.inputs[0]), list(&a));
        assert_eq!(list(&found.inputs[1]), [0.0; 4]);
    }
}
