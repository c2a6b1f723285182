//! `Add`, `Sub`, `Mul`, `Div`, `Where` and `PRelu` with broadcasting.

use super::super::{Forward, Operator, Run, Saved, only, saved};
use super::sum::summed_to;
use super::{positive, rectified};
use crate::error::Result;
use candle_core::Tensor;

#[derive(Debug, Clone, Copy)]
pub(in crate::student::op) enum Function {
    Add,
    Sub,
    Mul,
    Div,
}

#[derive(Debug)]
pub(in crate::student::op) struct Binary {
    pub(in crate::student::op) function: Function,
    pub(in crate::student::op) a: Vec<usize>,
    pub(in crate::student::op) b: Vec<usize>,
}

/// A gradient if it is wanted.
fn when(wanted: bool, f: impl FnOnce() -> Result<Tensor>) -> Result<Option<Tensor>> {
    if wanted { f().map(Some) } else { Ok(None) }
}

impl Operator for Binary {
    fn forward(&self, inputs: &[&Tensor], _run: &Run) -> Result<Forward> {
        let (a, b) = (inputs[0], inputs[1]);
        let both = || vec![a.clone(), b.clone()];
        Ok(match self.function {
            Function::Add => Forward::one(a.broadcast_add(b)?, Vec::new()),
            Function::Sub => Forward::one(a.broadcast_sub(b)?, Vec::new()),
            Function::Mul => Forward::one(a.broadcast_mul(b)?, both()),
            Function::Div => Forward::one(a.broadcast_div(b)?, both()),
        })
    }

    fn backward(
        &self,
        kept: Saved,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let operand = |i| saved(&kept, i);
        let da = when(wanted[0], || match self.function {
            Function::Add | Function::Sub => summed_to(&dy, &self.a),
            Function::Mul => summed_to(&dy.broadcast_mul(operand(1)?)?, &self.a),
            Function::Div => summed_to(&dy.broadcast_div(operand(1)?)?, &self.a),
        })?;
        let db = when(wanted[1], || match self.function {
            Function::Add => summed_to(&dy, &self.b),
            Function::Sub => summed_to(&dy.neg()?, &self.b),
            Function::Mul => summed_to(&dy.broadcast_mul(operand(0)?)?, &self.b),
            Function::Div => {
                let slope = operand(0)?.broadcast_div(&operand(1)?.sqr()?)?.neg()?;
                summed_to(&(dy.clone() * slope)?, &self.b)
            }
        })?;
        Ok(vec![da, db])
    }
}

/// A choice and not a sum of products: the branch not taken may be infinite.
#[derive(Debug)]
pub(in crate::student::op) struct Where {
    /// Of the condition and the two branches.
    pub(in crate::student::op) inputs: [Vec<usize>; 3],
    pub(in crate::student::op) output: Vec<usize>,
}

impl Where {
    fn full(&self, t: &Tensor) -> Result<Tensor> {
        Ok(t.broadcast_as(self.output.as_slice())?.contiguous()?)
    }
}

impl Operator for Where {
    fn forward(&self, inputs: &[&Tensor], _run: &Run) -> Result<Forward> {
        let taken = inputs[0].ne(&inputs[0].zeros_like()?)?;
        let taken = self.full(&taken)?;
        Ok(Forward::one(
            taken.where_cond(&self.full(inputs[1])?, &self.full(inputs[2])?)?,
            vec![taken],
        ))
    }

    fn backward(
        &self,
        kept: Saved,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let (taken, dy) = (saved(&kept, 0)?, only(gradients)?);
        let zero = dy.zeros_like()?;
        let first = when(wanted[1], || summed_to(&taken.where_cond(&dy, &zero)?, &self.inputs[1]))?;
        let second =
            when(wanted[2], || summed_to(&taken.where_cond(&zero, &dy)?, &self.inputs[2]))?;
        Ok(vec![None, first, second])
    }
}

/// The slope of the negative side is learned.
#[derive(Debug)]
pub(in crate::student::op) struct PRelu {
    pub(in crate::student::op) slope: Vec<usize>,
}

impl Operator for PRelu {
    fn forward(&self, inputs: &[&Tensor], _run: &Run) -> Result<Forward> {
        let (x, slope) = (inputs[0], inputs[1]);
        let below = rectified(&x.neg()?)?;
        Ok(Forward::one(
            (rectified(x)? - below.broadcast_mul(slope)?)?,
            vec![x.clone(), slope.clone()],
        ))
    }

    fn backward(
        &self,
        kept: Saved,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let (x, slope, dy) = (saved(&kept, 0)?, saved(&kept, 1)?, only(gradients)?);
        let dx = when(wanted[0], || {
            let above = positive(x)?;
            // at 0 the slope of the negative side, as PyTorch
            let factor = (above.affine(-1.0, 1.0)?.broadcast_mul(slope)? + above)?;
            Ok((&dy * factor)?)
        })?;
        let dslope =
            when(wanted[1], || summed_to(&(rectified(&x.neg()?)?.neg()? * &dy)?, &self.slope))?;
        Ok(vec![dx, dslope])
    }
}
