//! `LRN`: local response normalization across channels.

use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::lrn::{Response, backward, forward};
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
struct Lrn {
    response: Response,
    images: usize,
    channels: usize,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let shape = site.shape(0)?;
    let &[images, channels, ..] = shape else {
        return Err(Error::input(format!("input 0: expected [N, C, …], found shape {shape:?}")));
    };
    let number = |name, default| f64::from(site.float(name, default));
    let size = usize::try_from(site.int("size", 0)).ok().filter(|&n| n > 0 && n < 1 << 31);
    let size = size.ok_or_else(|| {
        Error::input(format!("size: expected a number from 1 on, found {}", site.int("size", 0)))
    })?;
    let response = Response {
        size,
        alpha: number("alpha", 1e-4),
        beta: number("beta", 0.75),
        bias: number("bias", 1.0),
    };
    Ok(Built::new(Lrn { response, images, channels }, [0], shape.to_vec()))
}

impl Operator for Lrn {
    type Kept = Tensor;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = data(inputs[0])?;
        let y = typed!(inputs[0].dtype(), |T| {
            tensor(
                forward(&self.response, x.of::<T>()?, self.images, self.channels),
                inputs[0].dims(),
            )
        })?;
        Ok(OpOutput::one(y, inputs[0].clone()))
    }

    fn backward(
        &self,
        x: Tensor,
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let (x, held) = (data(&x)?, data(&dy)?);
        typed!(dy.dtype(), |T| {
            let dx =
                backward(&self.response, x.of::<T>()?, held.of::<T>()?, self.images, self.channels);
            Ok(vec![Some(tensor(dx, dy.dims())?)])
        })
    }
}
