//! `Gemm` and `MatMul`.

use super::sum::summed_to;
use super::{Lower, Lowered, OnDevice, Target};
use crate::error::Result;
use crate::kernel::GemmShape;
use crate::student::op::gemm::Gemm;
use crate::student::op::matmul::MatMul;
use crate::student::op::{OpOutput, Operator, PassOptions, only};
use candle_core::Tensor;
use std::sync::Arc;

/// The transpose if asked for.
fn turned(t: &Tensor, turn: bool) -> Result<Tensor> {
    Ok(if turn { t.t()? } else { t.clone() })
}

/// The tensor times a factor that is nearly always 1.
fn scaled(t: Tensor, factor: f64) -> Result<Tensor> {
    Ok(if factor.to_bits() == 1f64.to_bits() { t } else { t.affine(factor, 0.0)? })
}

impl Lower for MatMul {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        let GemmShape { batch, m, n, k } = operator.gemm;
        if batch * m * n * k == 0 {
            return Ok(None);
        }
        Ok(Some(OnDevice::of(operator)))
    }
}

impl Lower for Gemm {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        if operator.m * operator.n * operator.k == 0 {
            return Ok(None);
        }
        Ok(Some(OnDevice::of(operator)))
    }
}

impl Operator for OnDevice<Gemm> {
    type Kept = [Tensor; 2];

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let (a, b) = (inputs[0], inputs[1]);
        let mut y = scaled(
            turned(a, self.0.transposed_a)?.matmul(&turned(b, self.0.transposed_b)?)?,
            self.0.alpha,
        )?;
        if let Some(c) = inputs.get(2) {
            y = y.broadcast_add(&scaled((*c).clone(), self.0.beta)?)?;
        }
        Ok(OpOutput::one(y, [a.clone(), b.clone()]))
    }

    fn backward(
        &self,
        [a, b]: [Tensor; 2],
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let (ta, tb) = (self.0.transposed_a, self.0.transposed_b);
        let mut result = vec![None; wanted.len()];
        if wanted[0] {
            // dA' = dY·B'ᵀ, and its transpose where A is one
            let da =
                if ta { turned(&b, tb)?.matmul(&dy.t()?)? } else { dy.matmul(&turned(&b, !tb)?)? };
            result[0] = Some(scaled(da, self.0.alpha)?);
        }
        if wanted[1] {
            let db = if tb {
                dy.t()?.matmul(&turned(&a, ta)?)?
            } else {
                turned(&a, !ta)?.matmul(&dy)?
            };
            result[1] = Some(scaled(db, self.0.alpha)?);
        }
        if let (Some(shape), Some(true)) = (&self.0.c, wanted.get(2)) {
            result[2] = Some(scaled(summed_to(&dy, shape)?, self.0.beta)?);
        }
        Ok(result)
    }
}

/// Rows and columns.
fn matrix(shape: &[usize]) -> [usize; 2] {
    [shape[shape.len() - 2], shape[shape.len() - 1]]
}

impl OnDevice<MatMul> {
    /// An operand as `[batch, rows, columns]`, repeated along the leading axes.
    fn batch(&self, t: &Tensor, shape: &[usize]) -> Result<Tensor> {
        let [rows, columns] = matrix(shape);
        if self.0.shared_right() {
            return Ok(t.reshape(((), columns))?.unsqueeze(0)?);
        }
        let full = [self.0.lead.as_slice(), &[rows, columns]].concat();
        Ok(t.reshape(shape)?.broadcast_as(full)?.contiguous()?.reshape(((), rows, columns))?)
    }

    /// The adjoint of `batch`.
    fn own(&self, t: &Tensor, shape: &[usize], own: &[usize]) -> Result<Tensor> {
        if self.0.shared_right() {
            return Ok(t.reshape(own)?);
        }
        let full = [self.0.lead.as_slice(), &matrix(shape)].concat();
        Ok(summed_to(&t.reshape(full)?, shape)?.reshape(own)?)
    }
}

impl Operator for OnDevice<MatMul> {
    type Kept = [Tensor; 2];

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let y = self.batch(inputs[0], &self.0.a)?.matmul(&self.batch(inputs[1], &self.0.b)?)?;
        Ok(OpOutput::one(
            y.reshape(self.0.shapes[2].as_slice())?,
            [inputs[0].clone(), inputs[1].clone()],
        ))
    }

    fn backward(
        &self,
        [a, b]: [Tensor; 2],
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let (a, b) = (self.batch(&a, &self.0.a)?, self.batch(&b, &self.0.b)?);
        let dy = only(gradients)?.reshape((a.dims()[0], a.dims()[1], b.dims()[2]))?;
        let mut result = vec![None, None];
        if wanted[0] {
            result[0] =
                Some(self.own(&dy.matmul(&b.transpose(1, 2)?)?, &self.0.a, &self.0.shapes[0])?);
        }
        if wanted[1] {
            result[1] =
                Some(self.own(&a.transpose(1, 2)?.matmul(&dy)?, &self.0.b, &self.0.shapes[1])?);
        }
        Ok(result)
    }
}
