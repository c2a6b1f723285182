//! `PRelu`: the slope of the negative side is learned, and repeated to the input's shape.

use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::strided::{broadcast_zip, reduce_sum};
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
pub(in crate::student) struct PRelu {
    input: Vec<usize>,
    pub(in crate::student) slope: Vec<usize>,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let (input, slope) = (site.shape(0)?.to_vec(), site.shape(1)?.to_vec());
    if super::binary::broadcast(&input, &slope)? != input {
        return Err(Error::input(format!("slope: shape {slope:?} does not repeat to {input:?}")));
    }
    Ok(Built::new(PRelu { input: input.clone(), slope }, [0, 1], input))
}

impl Operator for PRelu {
    type Kept = [Tensor; 2];

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let (x, slope) = (data(inputs[0])?, data(inputs[1])?);
        let y = typed!(inputs[0].dtype(), |T| {
            let f = |x: T, a: T| if x < 0.0 { a * x } else { x };
            tensor(
                broadcast_zip(
                    (x.of::<T>()?, &self.input),
                    (slope.of::<T>()?, &self.slope),
                    &self.input,
                    f,
                ),
                &self.input,
            )
        })?;
        Ok(OpOutput::one(y, [inputs[0].clone(), inputs[1].clone()]))
    }

    fn backward(
        &self,
        [x, slope]: [Tensor; 2],
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let (x, slope, held) = (data(&x)?, data(&slope)?, data(&dy)?);
        let shape = self.input.as_slice();
        typed!(dy.dtype(), |T| {
            let (x, d) = (x.of::<T>()?, held.of::<T>()?);
            let mut result = vec![None, None];
            if wanted[0] {
                let factor =
                    broadcast_zip((x, shape), (slope.of::<T>()?, &self.slope), shape, |x, a| {
                        if x > 0.0 { 1.0 } else { a }
                    });
                result[0] = Some(tensor(
                    broadcast_zip((&factor, shape), (d, shape), shape, |f, d| f * d),
                    shape,
                )?);
            }
            if wanted[1] {
                let full =
                    broadcast_zip(
                        (x, shape),
                        (d, shape),
                        shape,
                        |x, d| if x > 0.0 { 0.0 } else { x * d },
                    );
                result[1] = Some(tensor(reduce_sum(&full, shape, &self.slope), &self.slope)?);
            }
            Ok(result)
        })
    }
}
