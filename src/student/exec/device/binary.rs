//! `Add`, `Sub`, `Mul`, `Div`, `Where` and `PRelu` with broadcasting.

use super::sum::summed_to;
use super::{Lower, Lowered, OnDevice, Target, positive, rectified};
use crate::error::Result;
use crate::student::op::binary::{Curved, CurvedBinary, Linear, LinearBinary};
use crate::student::op::prelu::PRelu;
use crate::student::op::select::Where;
use crate::student::op::{OpOutput, Operator, PassOptions, any, only};
use candle_core::Tensor;
use std::sync::Arc;

/// The sum or the difference.
#[derive(Debug)]
struct BroadcastSum {
    negative: bool,
    a: Vec<usize>,
    b: Vec<usize>,
}

/// The product or the quotient.
#[derive(Debug)]
struct BroadcastProduct {
    divided: bool,
    a: Vec<usize>,
    b: Vec<usize>,
}

/// A gradient if it is wanted.
fn when(wanted: bool, f: impl FnOnce() -> Result<Tensor>) -> Result<Option<Tensor>> {
    if wanted { f().map(Some) } else { Ok(None) }
}

impl Lower for PRelu {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        Ok(Some(OnDevice::of(operator)))
    }
}

impl Lower for Where {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        Ok(Some(OnDevice::of(operator)))
    }
}

impl Lower for CurvedBinary {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        let divided = match operator.function {
            Curved::Mul => false,
            Curved::Div => true,
            // candle's power is exp(b·ln a), which has no negative base
            Curved::Pow | Curved::Remainder | Curved::Modulo => return Ok(None),
        };
        let (a, b) = (operator.shapes.a.clone(), operator.shapes.b.clone());
        Ok(Some(any(BroadcastProduct { divided, a, b })))
    }
}

impl Lower for LinearBinary {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        let negative = match operator.function {
            Linear::Add => false,
            Linear::Sub => true,
            Linear::Quotient => return Ok(None),
        };
        let (a, b) = (operator.shapes.a.clone(), operator.shapes.b.clone());
        Ok(Some(any(BroadcastSum { negative, a, b })))
    }
}

impl Operator for BroadcastSum {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let (a, b) = (inputs[0], inputs[1]);
        let y = if self.negative { a.broadcast_sub(b)? } else { a.broadcast_add(b)? };
        Ok(OpOutput::one(y, ()))
    }

    fn backward(
        &self,
        _kept: (),
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let da = when(wanted[0], || summed_to(&dy, &self.a))?;
        let db = when(wanted[1], || {
            if self.negative { summed_to(&dy.neg()?, &self.b) } else { summed_to(&dy, &self.b) }
        })?;
        Ok(vec![da, db])
    }
}

impl Operator for BroadcastProduct {
    type Kept = [Tensor; 2];

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let (a, b) = (inputs[0], inputs[1]);
        let y = if self.divided { a.broadcast_div(b)? } else { a.broadcast_mul(b)? };
        Ok(OpOutput::one(y, [a.clone(), b.clone()]))
    }

    fn backward(
        &self,
        [a, b]: Self::Kept,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let da = when(wanted[0], || {
            let da = if self.divided { dy.broadcast_div(&b)? } else { dy.broadcast_mul(&b)? };
            summed_to(&da, &self.a)
        })?;
        let db = when(wanted[1], || {
            let db = if self.divided {
                (&dy * a.broadcast_div(&b.sqr()?)?.neg()?)?
            } else {
                dy.broadcast_mul(&a)?
            };
            summed_to(&db, &self.b)
        })?;
        Ok(vec![da, db])
    }
}

impl OnDevice<Where> {
    fn full(&self, t: &Tensor) -> Result<Tensor> {
        Ok(t.broadcast_as(self.0.output.as_slice())?.contiguous()?)
    }
}

impl Operator for OnDevice<Where> {
    type Kept = Tensor;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let taken = inputs[0].ne(&inputs[0].zeros_like()?)?;
        let taken = self.full(&taken)?;
        Ok(OpOutput::one(taken.where_cond(&self.full(inputs[1])?, &self.full(inputs[2])?)?, taken))
    }

    fn backward(
        &self,
        taken: Tensor,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let zero = dy.zeros_like()?;
        let first =
            when(wanted[1], || summed_to(&taken.where_cond(&dy, &zero)?, &self.0.inputs[1]))?;
        let second =
            when(wanted[2], || summed_to(&taken.where_cond(&zero, &dy)?, &self.0.inputs[2]))?;
        Ok(vec![None, first, second])
    }
}

impl Operator for OnDevice<PRelu> {
    type Kept = [Tensor; 2];

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let (x, slope) = (inputs[0], inputs[1]);
        let below = rectified(&x.neg()?)?;
        Ok(OpOutput::one(
            (rectified(x)? - below.broadcast_mul(slope)?)?,
            [x.clone(), slope.clone()],
        ))
    }

    fn backward(
        &self,
        [x, slope]: [Tensor; 2],
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let dx = when(wanted[0], || {
            let above = positive(&x)?;
            // at 0 the slope of the negative side, as PyTorch
            let factor = (above.affine(-1.0, 1.0)?.broadcast_mul(&slope)? + above)?;
            Ok((&dy * factor)?)
        })?;
        let dslope =
            when(wanted[1], || summed_to(&(rectified(&x.neg()?)?.neg()? * &dy)?, &self.0.slope))?;
        Ok(vec![dx, dslope])
    }
}
