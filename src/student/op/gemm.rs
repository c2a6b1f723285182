//! `Gemm`: `Y = α·A'B' + β·C`, where A' and B' may be transposes and C is repeated.

use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::elementwise::map;
use crate::kernel::strided::{broadcast_zip, reduce_sum};
use crate::kernel::{GemmShape, Matrix, batched_gemm};
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
#[allow(clippy::struct_field_names, reason = "the operator's own letters")]
pub(in crate::student) struct Gemm {
    pub(in crate::student) m: usize,
    pub(in crate::student) n: usize,
    pub(in crate::student) k: usize,
    pub(in crate::student) alpha: f64,
    pub(in crate::student) beta: f64,
    pub(in crate::student) transposed_a: bool,
    pub(in crate::student) transposed_b: bool,
    pub(in crate::student) c: Option<Vec<usize>>,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let (a, b) = (site.shape_of::<2>(0)?, site.shape_of::<2>(1)?);
    let (transposed_a, transposed_b) = (site.int("transA", 0) != 0, site.int("transB", 0) != 0);
    let [m, k] = if transposed_a { [a[1], a[0]] } else { a };
    let [rows, n] = if transposed_b { [b[1], b[0]] } else { b };
    if rows != k {
        return Err(Error::input(format!(
            "matrices {a:?} and {b:?} do not fit: expected {k} rows, found {rows}"
        )));
    }
    let c = if site.has(2) { Some(site.shape(2)?.to_vec()) } else { None };
    if let Some(c) = &c
        && super::binary::broadcast(c, &[m, n])? != [m, n]
    {
        return Err(Error::input(format!("bias: shape {c:?} does not repeat to {:?}", [m, n])));
    }
    let (alpha, beta) = (f64::from(site.float("alpha", 1.0)), f64::from(site.float("beta", 1.0)));
    let inputs: &[usize] = if c.is_some() { &[0, 1, 2] } else { &[0, 1] };
    Ok(Built::new(Gemm { m, n, k, alpha, beta, transposed_a, transposed_b, c }, inputs, vec![m, n]))
}

fn matrix<T>(data: &[T], transposed: bool) -> Matrix<'_, T> {
    Matrix { data, stride: 0, transposed }
}

impl Operator for Gemm {
    type Kept = [Tensor; 2];

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let (a, b) = (data(inputs[0])?, data(inputs[1])?);
        let c = inputs.get(2).map(|c| data(c)).transpose()?;
        let Self { m, n, k, .. } = *self;
        let y = typed!(inputs[0].dtype(), |T| {
            let mut y: Vec<T> = vec![0.0; m * n];
            let (a, b) =
                (matrix(a.of::<T>()?, self.transposed_a), matrix(b.of::<T>()?, self.transposed_b));
            batched_gemm(
                GemmShape { batch: 1, m, n, k },
                <T as crate::kernel::Float>::of(self.alpha),
                a,
                b,
                0.0,
                &mut y,
            );
            if let (Some(c), Some(shape)) = (&c, &self.c) {
                let beta = <T as crate::kernel::Float>::of(self.beta);
                y = broadcast_zip((&y, &[m, n]), (c.of::<T>()?, shape), &[m, n], |y, c| {
                    y + beta * c
                });
            }
            tensor(y, &[m, n])
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
        let (held_a, held_b, held) = (data(&a)?, data(&b)?, data(&dy)?);
        let Self { m, n, k, .. } = *self;
        typed!(dy.dtype(), |T| {
            let (a, b, d) = (held_a.of::<T>()?, held_b.of::<T>()?, held.of::<T>()?);
            let alpha = <T as crate::kernel::Float>::of(self.alpha);
            let product = |m, n, k, left, right| {
                let mut out: Vec<T> = vec![0.0; m * n];
                batched_gemm(GemmShape { batch: 1, m, n, k }, alpha, left, right, 0.0, &mut out);
                out
            };
            let mut result = vec![None; wanted.len()];
            if wanted[0] {
                result[0] = Some(if self.transposed_a {
                    tensor(
                        product(k, m, n, matrix(b, self.transposed_b), matrix(d, true)),
                        &[k, m],
                    )?
                } else {
                    tensor(
                        product(m, k, n, matrix(d, false), matrix(b, !self.transposed_b)),
                        &[m, k],
                    )?
                });
            }
            if wanted[1] {
                result[1] = Some(if self.transposed_b {
                    tensor(
                        product(n, k, m, matrix(d, true), matrix(a, self.transposed_a)),
                        &[n, k],
                    )?
                } else {
                    tensor(
                        product(k, n, m, matrix(a, !self.transposed_a), matrix(d, false)),
                        &[k, n],
                    )?
                });
            }
            if let (Some(shape), Some(true)) = (&self.c, wanted.get(2)) {
                let beta = <T as crate::kernel::Float>::of(self.beta);
                result[2] = Some(tensor(map(&reduce_sum(d, &[m, n], shape), |v| beta * v), shape)?);
            }
            Ok(result)
        })
    }
}
