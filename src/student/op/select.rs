//! `Where`: one of two values by a condition, all three repeated to one shape.

use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::Result;
use crate::kernel::strided::{Strided, broadcast_zip, gather, reduce_sum};
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
pub(in crate::student) struct Where {
    /// Of the condition and the two branches.
    pub(in crate::student) inputs: [Vec<usize>; 3],
    pub(in crate::student) output: Vec<usize>,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let inputs = [site.shape(0)?.to_vec(), site.shape(1)?.to_vec(), site.shape(2)?.to_vec()];
    let output =
        super::binary::broadcast(&super::binary::broadcast(&inputs[0], &inputs[1])?, &inputs[2])?;
    Ok(Built::new(Where { inputs, output: output.clone() }, [0, 1, 2], output))
}

impl Operator for Where {
    type Kept = Tensor;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let held = [data(inputs[0])?, data(inputs[1])?, data(inputs[2])?];
        let y = typed!(inputs[0].dtype(), |T| {
            let full = |i: usize| {
                Ok::<_, crate::error::Error>(gather(
                    held[i].of::<T>()?,
                    &Strided::broadcast(&self.inputs[i], &self.output),
                ))
            };
            let (mut y, condition, other) = (full(1)?, full(0)?, full(2)?);
            // a choice and not a sum of products: the other branch may be infinite
            for ((y, &c), &b) in y.iter_mut().zip(&condition).zip(&other) {
                if c == 0.0 {
                    *y = b;
                }
            }
            tensor(y, &self.output)
        })?;
        Ok(OpOutput::one(y, inputs[0].clone()))
    }

    fn backward(
        &self,
        condition: Tensor,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let (condition, held) = (data(&condition)?, data(&dy)?);
        let out = self.output.as_slice();
        typed!(dy.dtype(), |T| {
            let (c, d) =
                ((condition.of::<T>()?, self.inputs[0].as_slice()), (held.of::<T>()?, out));
            let summed = |full: Vec<T>, to: &[usize]| {
                if to == out { tensor(full, to) } else { tensor(reduce_sum(&full, out, to), to) }
            };
            let mut result = vec![None; wanted.len()];
            if wanted[1] {
                result[1] = Some(summed(
                    broadcast_zip(c, d, out, |c, d| if c == 0.0 { 0.0 } else { d }),
                    &self.inputs[1],
                )?);
            }
            if wanted[2] {
                result[2] = Some(summed(
                    broadcast_zip(c, d, out, |c, d| if c == 0.0 { d } else { 0.0 }),
                    &self.inputs[2],
                )?);
            }
            Ok(result)
        })
    }
}
