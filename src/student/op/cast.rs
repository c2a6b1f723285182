//! `Cast` and `CastLike`. On data all numbers are floats: between float types nothing changes, to
//! an integer the fraction goes (and with it the gradient), to a boolean only zero or not remains.

use super::{Built, OpOutput, Operator, PassOptions, Site};
use crate::error::{Error, Result};
use crate::kernel::elementwise::map;
use crate::student::op::site::INTEGERS;
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug, Clone, Copy)]
pub(in crate::student) enum Cast {
    Keep,
    Truncate,
    Truth,
}

/// ONNX element types: float16, float32, float64, bfloat16, bool.
const FLOATS: [i64; 4] = [1, 10, 11, 16];
const BOOL: i64 = 9;

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let cast = if site.operator() == "CastLike" {
        if site.integer(1) && !site.integer(0) { Cast::Truncate } else { Cast::Keep }
    } else {
        match site.int("to", 0) {
            BOOL => Cast::Truth,
            to if FLOATS.contains(&to) => Cast::Keep,
            to if INTEGERS.contains(&to) => Cast::Truncate,
            to => {
                return Err(Error::input(format!(
                    "to: expected a float, integer or boolean type, found type {to}"
                )));
            }
        }
    };
    Ok(Built::new(cast, [0], site.shape(0)?.to_vec()))
}

impl Operator for Cast {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = inputs[0];
        let held = data(x)?;
        let y = typed!(x.dtype(), |T| match self {
            Self::Keep => Ok(x.clone()),
            Self::Truncate => tensor(map(held.of::<T>()?, T::trunc), x.dims()),
            Self::Truth =>
                tensor(map(held.of::<T>()?, |x| if x == 0.0 { 0.0 } else { 1.0 }), x.dims()),
        })?;
        Ok(OpOutput::one(y, ()))
    }

    fn backward(
        &self,
        _kept: (),
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        Ok(if matches!(self, Self::Keep) { gradients } else { vec![None; wanted.len()] })
    }
}
