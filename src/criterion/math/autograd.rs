//! A criterion as one formula in tensors: its value and its gradients by candle's autograd, where
//! that is correct.
//!
//! candle's gradients of pooling, upsampling, convolution, softmax and layer normalization are
//! wrong or slow, and those of relu and abs are 1 at 0, so no formula uses them: `formula`,
//! `convolution` and `operator` provide replacements.

pub use super::evaluation::Evaluation;
use super::module::Module;
use crate::error::Result;
use candle_core::{DType, Tensor, Var};

/// Evaluates `formula`, a scalar function of the inputs and the module's weights, and
/// differentiates it with respect to all of them.
///
/// # Errors
/// When the formula cannot be computed.
pub(crate) fn differentiate(
    inputs: &[&Tensor],
    module: Option<&Module>,
    formula: impl FnOnce(&[Tensor]) -> Result<Tensor>,
) -> Result<Evaluation> {
    let leaves: Vec<Var> =
        inputs.iter().map(|x| Ok(Var::from_tensor(&x.detach())?)).collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = leaves.iter().map(|v| v.as_tensor().clone()).collect();
    let loss = formula(&tensors)?;
    let gradients = loss.backward()?;
    // tensors that the loss does not depend on have no entry
    let of = |x: &Tensor| -> Result<Tensor> {
        match gradients.get(x) {
            Some(gradient) => Ok(gradient.contiguous()?),
            None => Ok(x.zeros_like()?),
        }
    };
    let inputs = tensors.iter().map(of).collect::<Result<_>>()?;
    let weights = module
        .into_iter()
        .flat_map(Module::weights)
        .map(|(name, w)| Ok((name.to_owned(), of(&w)?)))
        .collect::<Result<_>>()?;
    Ok(Evaluation { value: loss.to_dtype(DType::F64)?.to_scalar()?, inputs, weights })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use candle_core::Device;

    /// Pseudorandom values in −0.5 … 0.5, the same for the same seed.
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

    /// Compares every gradient of an evaluation, including those of the module's weights, with
    /// central differences in f64.
    pub fn assert_gradients(
        inputs: &[&Tensor],
        module: &Module,
        loss: impl Fn(&[&Tensor], &Module) -> Result<Evaluation>,
    ) {
        const STEP: f64 = 1e-5;
        let module = module.to_dtype(DType::F64).unwrap();
        let found = loss(inputs, &module).unwrap();
        assert_eq!(found.inputs.len(), inputs.len());
        let compare =
            |what: &str, gradient: &Tensor, at: &Tensor, moved: &dyn Fn(Tensor) -> f64| {
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
                    assert!(
                        (slope - gradient[i]).abs() < 1e-6 * largest.max(1e-2),
                        "{what}[{i}]: slope {slope}, gradient {}",
                        gradient[i]
                    );
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
            compare(name, gradient, &at, &|w| {
                let weights = module
                    .weights()
                    .map(|(n, v)| (n.to_owned(), if n == name { w.clone() } else { v.clone() }));
                loss(inputs, &Module::new(weights).unwrap()).unwrap().value
            });
        }
    }

    /// Asserts that neither the value nor any gradient is NaN or infinite.
    pub fn assert_finite(evaluation: &Evaluation) {
        assert!(evaluation.value.is_finite(), "{}", evaluation.value);
        for gradient in evaluation.inputs.iter().chain(evaluation.weights.iter().map(|(_, g)| g)) {
            assert!(list(gradient).iter().all(|g| g.is_finite()), "{gradient}");
        }
    }

    /// Asserts that two evaluations are the same up to a relative 1e-6.
    pub fn assert_equal(found: &Evaluation, expected: &Evaluation) {
        let close = |a: f64, b: f64, size: f64| (a - b).abs() <= 1e-6 * size;
        let (a, b) = (found.value, expected.value);
        assert!(close(a, b, b.abs()), "{a} {b}");
        for (a, b) in found.inputs.iter().zip(&expected.inputs) {
            let (a, b) = (list(a), list(b));
            let size = b.iter().fold(0f64, |size, g| size.max(g.abs()));
            assert!(a.iter().zip(&b).all(|(&a, &b)| close(a, b, size)), "{a:?} {b:?}");
        }
    }

    /// Asserts that the value and every gradient are zero within `tolerance`.
    pub fn assert_zero(evaluation: &Evaluation, tolerance: f64) {
        assert!(evaluation.value.abs() <= tolerance, "{}", evaluation.value);
        for gradient in &evaluation.inputs {
            assert!(list(gradient).iter().all(|g| g.abs() <= tolerance), "{gradient}");
        }
    }

    #[test]
    fn what_the_loss_does_not_depend_on_has_no_gradient() {
        let (a, b) = (tensor(&[2, 3], 1), tensor(&[4], 2));
        let found =
            differentiate(&[&a, &b], None, |x| Ok((x[0].sqr()?.sum_all()? * 0.5)?)).unwrap();
        assert_eq!(list(&found.inputs[0]), list(&a));
        assert_eq!(list(&found.inputs[1]), [0.0; 4]);
    }
}
