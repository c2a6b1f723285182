//! `MatMul` with NumPy's rules: leading axes are a batch and broadcast, a vector is a row on the
//! left and a column on the right.

use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::strided::{Strided, gather, reduce_sum};
use crate::kernel::{GemmShape, Matrix, batched_gemm};
use crate::tensor::{Element, data, tensor, typed};
use candle_core::Tensor;
use std::borrow::Cow;

#[derive(Debug)]
pub(in crate::student) struct MatMul {
    /// Sizes of one product; `batch` counts the products after broadcasting.
    pub(in crate::student) gemm: GemmShape,
    /// Operands with both matrix axes and the leading axes.
    pub(in crate::student) a: Vec<usize>,
    pub(in crate::student) b: Vec<usize>,
    /// The leading axes of the output.
    pub(in crate::student) lead: Vec<usize>,
    /// The operands' own shapes, and the output's.
    pub(in crate::student) shapes: [Vec<usize>; 3],
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let (own_a, own_b) = (site.shape(0)?.to_vec(), site.shape(1)?.to_vec());
    let (mut a, mut b) = (own_a.clone(), own_b.clone());
    if a.is_empty() || b.is_empty() {
        return Err(Error::input("operands: expected at least one axis, found a scalar"));
    }
    if a.len() == 1 {
        a.insert(0, 1);
    }
    if b.len() == 1 {
        b.push(1);
    }
    let (lead_a, &[m, k]) = split(&a)?;
    let (lead_b, &[rows, n]) = split(&b)?;
    if rows != k {
        return Err(Error::input(format!(
            "matrices {own_a:?} and {own_b:?} do not fit: expected {k} rows, found {rows}"
        )));
    }
    let lead = super::binary::broadcast(lead_a, lead_b)?;
    let mut out = lead.clone();
    if own_a.len() > 1 {
        out.push(m);
    }
    if own_b.len() > 1 {
        out.push(n);
    }
    let gemm = GemmShape { batch: lead.iter().product(), m, n, k };
    let operator = MatMul { gemm, lead, a, b, shapes: [own_a, own_b, out.clone()] };
    Ok(Built::new(operator, [0, 1], out))
}

fn split(shape: &[usize]) -> Result<(&[usize], &[usize; 2])> {
    shape.split_last_chunk().ok_or_else(|| Error::internal("matrix: expected two axes"))
}

impl MatMul {
    /// A matrix of weights on the right: the batch is more rows of one product.
    pub(in crate::student) fn shared_right(&self) -> bool {
        self.b.len() == 2
            || self.b[..self.b.len() - 2].iter().all(|&n| n == 1)
                && self.a[..self.a.len() - 2] == self.lead
    }

    fn rows(&self) -> GemmShape {
        GemmShape { batch: 1, m: self.gemm.batch * self.gemm.m, ..self.gemm }
    }

    /// An operand repeated to the output's leading axes.
    fn repeated<'a, T: Element>(&self, values: &'a [T], shape: &[usize]) -> Cow<'a, [T]> {
        let (lead, matrix) = shape.split_at(shape.len() - 2);
        if lead == self.lead {
            return Cow::Borrowed(values);
        }
        Cow::Owned(gather(values, &Strided::broadcast(shape, &[&self.lead, matrix].concat())))
    }

    /// The adjoint of [`MatMul::repeated`].
    fn summed<T: Element>(&self, values: Vec<T>, shape: &[usize], own: &[usize]) -> Result<Tensor> {
        let (lead, matrix) = shape.split_at(shape.len() - 2);
        if lead == self.lead {
            return tensor(values, own);
        }
        tensor(reduce_sum(&values, &[&self.lead, matrix].concat(), shape), own)
    }

    fn gradients<T: Element>(
        &self,
        a: &[T],
        b: &[T],
        d: &[T],
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let GemmShape { batch, m, n, k } =
            if self.shared_right() { self.rows() } else { self.gemm };
        let product = |m, n, k, left, right| {
            let mut out = vec![T::zero(); batch * m * n];
            batched_gemm(GemmShape { batch, m, n, k }, T::one(), left, right, T::zero(), &mut out);
            out
        };
        let (a, b) = if self.shared_right() {
            (Cow::Borrowed(a), Cow::Borrowed(b))
        } else {
            (self.repeated(a, &self.a), self.repeated(b, &self.b))
        };
        let mut result = vec![None, None];
        if wanted[0] {
            let da = product(m, k, n, Matrix::plain(d, m * n), Matrix::transposed(&b, k * n));
            result[0] = Some(if self.shared_right() {
                tensor(da, &self.shapes[0])?
            } else {
                self.summed(da, &self.a, &self.shapes[0])?
            });
        }
        if wanted[1] {
            let db = product(k, n, m, Matrix::transposed(&a, m * k), Matrix::plain(d, m * n));
            result[1] = Some(if self.shared_right() {
                tensor(db, &self.shapes[1])?
            } else {
                self.summed(db, &self.b, &self.shapes[1])?
            });
        }
        Ok(result)
    }
}

impl Operator for MatMul {
    type Kept = [Tensor; 2];

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let (a, b) = (data(inputs[0])?, data(inputs[1])?);
        let y = typed!(inputs[0].dtype(), |T| {
            let (a, b) = (a.of::<T>()?, b.of::<T>()?);
            let GemmShape { batch, m, n, k } = self.gemm;
            let mut y: Vec<T> = vec![0.0; batch * m * n];
            if self.shared_right() {
                batched_gemm(
                    self.rows(),
                    1.0,
                    Matrix::plain(a, 0),
                    Matrix::plain(b, 0),
                    0.0,
                    &mut y,
                );
            } else {
                let (a, b) = (self.repeated(a, &self.a), self.repeated(b, &self.b));
                batched_gemm(
                    self.gemm,
                    1.0,
                    Matrix::plain(&a, m * k),
                    Matrix::plain(&b, k * n),
                    0.0,
                    &mut y,
                );
            }
            tensor(y, &self.shapes[2])
        })?;
        Ok(OpOutput::one(y, [inputs[0].clone(), inputs[1].clone()]))
    }

    fn backward(
        &self,
        [a, b]: [Tensor; 2],
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let (a, b, held) = (data(&a)?, data(&b)?, data(&dy)?);
        typed!(dy.dtype(), |T| self.gradients::<T>(
            a.of::<T>()?,
            b.of::<T>()?,
            held.of::<T>()?,
            wanted
        ))
    }
}
