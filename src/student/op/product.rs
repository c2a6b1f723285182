//! `ReduceProd`. The gradient of a factor is the product of the others, also where that of all is
//! 0.

use super::reduce::{Shapes, shapes};
use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::Result;
use crate::kernel::elementwise::{map, zip};
use crate::kernel::strided::{broadcast_zip, reduce_fold, reduce_sum};
use crate::tensor::{Element, data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
struct Product(Shapes);

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let shapes = shapes(site, true)?;
    let output = shapes.output.clone();
    Ok(Built::new(Product(shapes), [0], output))
}

impl Product {
    fn gradient<T: Element>(&self, x: &[T], d: &[T]) -> Vec<T> {
        let Shapes { input, kept, .. } = &self.0;
        let (zero, one) = (T::zero(), T::one());
        let zeros = reduce_sum(&map(x, |x| if x == zero { one } else { zero }), input, kept);
        let others = reduce_fold(x, input, kept, one, |p, x| if x == zero { p } else { p * x });
        // what remains for a factor that is not 0, and for the only one that is
        let whole = zip(&others, &zeros, |p, n| if n == zero { p } else { zero });
        let single = zip(&others, &zeros, |p, n| if n == one { p } else { zero });
        let beside =
            broadcast_zip(
                (x, input),
                (&whole, kept),
                input,
                |x, p| {
                    if x == zero { zero } else { p / x }
                },
            );
        let alone =
            broadcast_zip(
                (x, input),
                (&single, kept),
                input,
                |x, p| {
                    if x == zero { p } else { zero }
                },
            );
        let slope = zip(&beside, &alone, |a, b| a + b);
        broadcast_zip((&slope, input), (d, kept), input, |s, d| s * d)
    }
}

impl Operator for Product {
    type Kept = Tensor;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let Shapes { input, kept, output } = &self.0;
        let x = data(inputs[0])?;
        let y = typed!(inputs[0].dtype(), |T| tensor(
            reduce_fold(x.of::<T>()?, input, kept, 1.0, |p, x| p * x),
            output
        ))?;
        Ok(OpOutput::one(y, inputs[0].clone()))
    }

    fn backward(
        &self,
        x: Tensor,
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let (held, d) = (data(&x)?, data(&dy)?);
        typed!(dy.dtype(), |T| Ok(vec![Some(tensor(
            self.gradient(held.of::<T>()?, d.of::<T>()?),
            &self.0.input
        )?)]))
    }
}
