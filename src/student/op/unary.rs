//! Functions of one number beside the activations: logarithm, reciprocal, trigonometry, rounding.

use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::Float;
use crate::kernel::elementwise::{map, zip};
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug, Clone, Copy)]
pub(in crate::student) enum Unary {
    Log,
    Reciprocal,
    Sin,
    Cos,
    /// Steps: their gradient is 0 wherever it exists.
    Sign,
    Floor,
    Ceil,
    Round,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let function = match site.operator() {
        "Log" => Unary::Log,
        "Reciprocal" => Unary::Reciprocal,
        "Sin" => Unary::Sin,
        "Cos" => Unary::Cos,
        "Sign" => Unary::Sign,
        "Floor" => Unary::Floor,
        "Ceil" => Unary::Ceil,
        "Round" => Unary::Round,
        other => return Err(Error::internal(format!("function {other} is not known"))),
    };
    Ok(Built::new(function, [0], site.shape(0)?.to_vec()))
}

impl Unary {
    fn values<T: Float>(self, x: &[T]) -> Vec<T> {
        match self {
            Self::Log => map(x, T::ln),
            Self::Reciprocal => map(x, T::recip),
            Self::Sin => map(x, T::sin),
            Self::Cos => map(x, T::cos),
            Self::Sign => map(x, |x| if x == T::zero() { x } else { x.signum() }),
            Self::Floor => map(x, T::floor),
            Self::Ceil => map(x, T::ceil),
            Self::Round => map(x, |x| T::of(x.wide().round_ties_even())),
        }
    }

    fn gradient<T: Float>(self, x: &[T], dy: &[T]) -> Vec<T> {
        match self {
            Self::Log => zip(x, dy, |x, d| d / x),
            Self::Reciprocal => zip(x, dy, |x, d| -d / (x * x)),
            Self::Sin => zip(x, dy, |x, d| d * x.cos()),
            Self::Cos => zip(x, dy, |x, d| -d * x.sin()),
            Self::Sign | Self::Floor | Self::Ceil | Self::Round => vec![T::zero(); dy.len()],
        }
    }
}

impl Operator for Unary {
    type Kept = Tensor;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = inputs[0];
        let held = data(x)?;
        let y = typed!(x.dtype(), |T| tensor(self.values(held.of::<T>()?), x.dims()))?;
        Ok(OpOutput::one(y, x.clone()))
    }

    fn backward(
        &self,
        x: Tensor,
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let (held, held_dy) = (data(&x)?, data(&dy)?);
        typed!(dy.dtype(), |T| Ok(vec![Some(tensor(
            self.gradient(held.of::<T>()?, held_dy.of::<T>()?),
            dy.dims()
        )?)]))
    }
}
