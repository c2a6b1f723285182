//! Functions with custom gradients under candle's autograd. They run on the host, by our kernels;
//! tensors of another device are copied there, and the gradient back.

use super::tensor::dense;
use crate::error::{Error, Result};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Shape, Tensor, bail};

/// The elements and shape of a result.
pub(crate) type Computed = candle_core::Result<(CpuStorage, Shape)>;

/// A dense tensor in host memory, as a kernel reads it.
pub(crate) type Stored<'a> = (&'a CpuStorage, &'a Layout);

/// A function of one to three tensors.
pub(crate) trait Differentiable: Send + Sync {
    /// The result, from dense inputs in host memory.
    fn forward(&self, inputs: &[Stored<'_>]) -> Computed;

    /// The gradient of each input from the gradient of the result; `None` for an input without one.
    fn backward(
        &self,
        inputs: &[&Tensor],
        result: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<Vec<Option<Tensor>>>;
}

/// Applies a function under autograd, on the first input's device.
pub(crate) fn apply<F: Differentiable + 'static>(
    function: F,
    inputs: &[&Tensor],
) -> Result<Tensor> {
    let op = Op(function);
    let result = match inputs {
        [a] => dense(a)?.apply_op1(op)?,
        [a, b] => dense(a)?.apply_op2(&dense(b)?, op)?,
        [a, b, c] => dense(a)?.apply_op3(&dense(b)?, &dense(c)?, op)?,
        _ => return Err(Error::input("criterion: expected a function of one to three tensors")),
    };
    Ok(result.to_device(inputs[0].device())?)
}

struct Op<F>(F);

impl<F: Differentiable> Op<F> {
    fn gradients<const N: usize>(
        &self,
        inputs: [&Tensor; N],
        result: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<[Option<Tensor>; N]> {
        let found = self.0.backward(&inputs, result, &gradient.contiguous()?)?;
        match found.try_into() {
            Ok(gradients) => Ok(gradients),
            Err(_) => bail!("expected a gradient for each of {N} inputs"),
        }
    }
}

impl<F: Differentiable> CustomOp1 for Op<F> {
    fn name(&self) -> &'static str {
        std::any::type_name::<F>()
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout) -> Computed {
        self.0.forward(&[(a, la)])
    }

    fn bwd(&self, a: &Tensor, y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let [a] = self.gradients([a], y, dy)?;
        Ok(a)
    }
}

impl<F: Differentiable> CustomOp2 for Op<F> {
    fn name(&self) -> &'static str {
        std::any::type_name::<F>()
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Computed {
        self.0.forward(&[(a, la), (b, lb)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = self.gradients([a, b], y, dy)?;
        Ok((a, b))
    }
}

impl<F: Differentiable> CustomOp3 for Op<F> {
    fn name(&self) -> &'static str {
        std::any::type_name::<F>()
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
        c: &CpuStorage,
        lc: &Layout,
    ) -> Computed {
        self.0.forward(&[(a, la), (b, lb), (c, lc)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [a, b, c] = self.gradients([a, b, c], y, dy)?;
        Ok((a, b, c))
    }
}
