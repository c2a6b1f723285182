//! Logarithm, reciprocal, trigonometry, steps; and `Cast`, which is one of these on data.

use super::super::{OpOutput, Operator, PassOptions, only};
use crate::error::Result;
use candle_core::Tensor;

#[derive(Debug, Clone, Copy)]
pub(in crate::student::op) enum Unary {
    Log,
    Reciprocal,
    Sin,
    Cos,
    Sign,
    Floor,
    Ceil,
    /// The value itself, and its gradient.
    Keep,
    /// 1 where a value is not 0.
    Truth,
    /// Without its fraction.
    Truncate,
}

impl Operator for Unary {
    type Kept = Tensor;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = inputs[0];
        let y = match self {
            Self::Log => x.log()?,
            Self::Reciprocal => x.recip()?,
            Self::Sin => x.sin()?,
            Self::Cos => x.cos()?,
            Self::Sign => x.sign()?,
            Self::Floor => x.floor()?,
            Self::Ceil => x.ceil()?,
            Self::Keep => x.clone(),
            Self::Truth => x.ne(&x.zeros_like()?)?.to_dtype(x.dtype())?,
            Self::Truncate => (x.abs()?.floor()? * x.sign()?)?,
        };
        Ok(OpOutput::one(y, x.clone()))
    }

    fn backward(
        &self,
        x: Tensor,
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        match self {
            // casts pass nothing at all
            Self::Truth | Self::Truncate => return Ok(vec![None]),
            Self::Sign | Self::Floor | Self::Ceil => return Ok(vec![Some(dy.zeros_like()?)]),
            _ => {}
        }
        Ok(vec![Some(match self {
            Self::Log => (dy / x)?,
            Self::Reciprocal => (dy / x.sqr()?)?.neg()?,
            Self::Sin => (dy * x.cos()?)?,
            Self::Cos => (dy * x.sin()?)?.neg()?,
            _ => dy,
        })])
    }
}
