//! `Gemm` and `MatMul`.

use super::super::{OpOutput, Operator, PassOptions, only};
use super::sum::summed_to;
use crate::error::Result;
use candle_core::Tensor;

/// `Y = α·A'B' + β·C`.
#[derive(Debug)]
pub(in crate::student::op) struct Gemm {
    pub(in crate::student::op) alpha: f64,
    pub(in crate::student::op) beta: f64,
    pub(in crate::student::op) transposed_a: bool,
    pub(in crate::student::op) transposed_b: bool,
    /// The shape of C.
    pub(in crate::student::op) c: Option<Vec<usize>>,
}

/// The transpose if asked for.
fn turned(t: &Tensor, turn: bool) -> Result<Tensor> {
    Ok(if turn { t.t()? } else { t.clone() })
}

/// The tensor times a factor that is nearly always 1.
fn scaled(t: Tensor, factor: f64) -> Result<Tensor> {
    Ok(if factor.to_bits() == 1f64.to_bits() { t } else { t.affine(factor, 0.0)? })
}

impl Operator for Gemm {
    type Kept = [Tensor; 2];

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let (a, b) = (inputs[0], inputs[1]);
        let mut y = scaled(
            turned(a, self.transposed_a)?.matmul(&turned(b, self.transposed_b)?)?,
            self.alpha,
        )?;
        if let Some(c) = inputs.get(2) {
            y = y.broadcast_add(&scaled((*c).clone(), self.beta)?)?;
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
        let (ta, tb) = (self.transposed_a, self.transposed_b);
        let mut result = vec![None; wanted.len()];
        if wanted[0] {
            // dA' = dY·B'ᵀ, and its transpose where A is one
            let da =
                if ta { turned(&b, tb)?.matmul(&dy.t()?)? } else { dy.matmul(&turned(&b, !tb)?)? };
            result[0] = Some(scaled(da, self.alpha)?);
        }
        if wanted[1] {
            let db = if tb {
                dy.t()?.matmul(&turned(&a, ta)?)?
            } else {
                turned(&a, !ta)?.matmul(&dy)?
            };
            result[1] = Some(scaled(db, self.alpha)?);
        }
        if let (Some(shape), Some(true)) = (&self.c, wanted.get(2)) {
            result[2] = Some(scaled(summed_to(&dy, shape)?, self.beta)?);
        }
        Ok(result)
    }
}

/// A batch of products with broadcasting.
#[derive(Debug)]
pub(in crate::student::op) struct MatMul {
    /// Operands with both matrix axes and the leading axes.
    pub(in crate::student::op) a: Vec<usize>,
    pub(in crate::student::op) b: Vec<usize>,
    /// The leading axes of the output.
    pub(in crate::student::op) lead: Vec<usize>,
    /// The operands' own shapes, and the output's.
    pub(in crate::student::op) shapes: [Vec<usize>; 3],
    /// The right operand is one matrix: the batch is more rows of one product.
    pub(in crate::student::op) shared_right: bool,
}

impl MatMul {
    fn matrix(shape: &[usize]) -> [usize; 2] {
        [shape[shape.len() - 2], shape[shape.len() - 1]]
    }

    /// An operand as `[batch, rows, columns]`, repeated along the leading axes.
    fn batch(&self, t: &Tensor, shape: &[usize]) -> Result<Tensor> {
        let [rows, columns] = Self::matrix(shape);
        if self.shared_right {
            return Ok(t.reshape(((), columns))?.unsqueeze(0)?);
        }
        let full = [self.lead.as_slice(), &[rows, columns]].concat();
        Ok(t.reshape(shape)?.broadcast_as(full)?.contiguous()?.reshape(((), rows, columns))?)
    }

    /// The adjoint of [`MatMul::batch`].
    fn own(&self, t: &Tensor, shape: &[usize], own: &[usize]) -> Result<Tensor> {
        if self.shared_right {
            return Ok(t.reshape(own)?);
        }
        let full = [self.lead.as_slice(), &Self::matrix(shape)].concat();
        Ok(summed_to(&t.reshape(full)?, shape)?.reshape(own)?)
    }
}

impl Operator for MatMul {
    type Kept = [Tensor; 2];

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let y = self.batch(inputs[0], &self.a)?.matmul(&self.batch(inputs[1], &self.b)?)?;
        Ok(OpOutput::one(
            y.reshape(self.shapes[2].as_slice())?,
            [inputs[0].clone(), inputs[1].clone()],
        ))
    }

    fn backward(
        &self,
        [a, b]: [Tensor; 2],
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let (a, b) = (self.batch(&a, &self.a)?, self.batch(&b, &self.b)?);
        let dy = only(gradients)?.reshape((a.dims()[0], a.dims()[1], b.dims()[2]))?;
        let mut result = vec![None, None];
        if wanted[0] {
            result[0] =
                Some(self.own(&dy.matmul(&b.transpose(1, 2)?)?, &self.a, &self.shapes[0])?);
        }
        if wanted[1] {
            result[1] =
                Some(self.own(&a.transpose(1, 2)?.matmul(&dy)?, &self.b, &self.shapes[1])?);
        }
        Ok(result)
    }
}
