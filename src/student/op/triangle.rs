//! `Trilu`: the upper or lower triangle of matrices, the rest zero.

use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::tensor::{Element, data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
struct Triangle {
    rows: usize,
    columns: usize,
    upper: bool,
    /// The diagonal that the triangle begins with.
    diagonal: i64,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let shape = site.shape(0)?;
    let &[.., rows, columns] = shape else {
        return Err(Error::input(format!("input 0: expected matrices, found shape {shape:?}")));
    };
    let diagonal = site.known_ints(1)?.and_then(|k| k.first().copied()).unwrap_or(0);
    Ok(Built::new(
        Triangle { rows, columns, upper: site.int("upper", 1) != 0, diagonal },
        [0],
        shape.to_vec(),
    ))
}

impl Triangle {
    fn masked<T: Element>(&self, x: &[T]) -> Vec<T> {
        let mut out = x.to_vec();
        let signed = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        for matrix in out.chunks_exact_mut((self.rows * self.columns).max(1)) {
            for (i, row) in matrix.chunks_exact_mut(self.columns.max(1)).enumerate() {
                for (j, v) in row.iter_mut().enumerate() {
                    let above = signed(j) - signed(i);
                    if if self.upper { above < self.diagonal } else { above > self.diagonal } {
                        *v = T::zero();
                    }
                }
            }
        }
        out
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let held = data(x)?;
        typed!(x.dtype(), |T| tensor(self.masked(held.of::<T>()?), x.dims()))
    }
}

impl Operator for Triangle {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        Ok(OpOutput::one(self.apply(inputs[0])?, ()))
    }

    fn backward(
        &self,
        _kept: (),
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(self.apply(&only(gradients)?)?)])
    }
}
