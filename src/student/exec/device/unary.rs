//! Logarithm, reciprocal, trigonometry, steps; and `Cast`, which is one of these on data.

use super::{Lower, Lowered, Target};
use crate::error::Result;
use crate::student::op::cast::Cast;
use crate::student::op::unary::Unary;
use crate::student::op::{OpOutput, Operator, PassOptions, any, only};
use candle_core::Tensor;
use std::sync::Arc;

#[derive(Debug, Clone, Copy)]
enum UnaryForm {
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

impl Lower for Cast {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        Ok(Some(any(match **operator {
            Self::Keep => UnaryForm::Keep,
            Self::Truncate => UnaryForm::Truncate,
            Self::Truth => UnaryForm::Truth,
        })))
    }
}

impl Lower for Unary {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        Ok(Some(any(match **operator {
            Self::Log => UnaryForm::Log,
            Self::Reciprocal => UnaryForm::Reciprocal,
            Self::Sin => UnaryForm::Sin,
            Self::Cos => UnaryForm::Cos,
            Self::Sign => UnaryForm::Sign,
            Self::Floor => UnaryForm::Floor,
            Self::Ceil => UnaryForm::Ceil,
            // candle rounds halves away from zero
            Self::Round => return Ok(None),
        })))
    }
}

impl Operator for UnaryForm {
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
