//! `Dropout`: the mask is a pure function of (pass, node, position), and drawn again in the
//! backward pass.

use super::{Built, OpOutput, Operator, PassOptions, Site, draw, only};
use crate::error::{Error, Result};
use crate::kernel::Float;
use crate::kernel::elementwise::map_indexed;
use crate::student::Mode;
use crate::tensor::{Element, data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug, Clone, Copy)]
pub(in crate::student) struct Dropout {
    ratio: f64,
    training_mode: bool,
    number: u64,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let ratio = site.known_number(1)?.unwrap_or_else(|| f64::from(site.float("ratio", 0.5)));
    if !(0.0..=1.0).contains(&ratio) {
        return Err(Error::input(format!("ratio: expected 0 to 1, found {ratio}")));
    }
    let training_mode = site.known_number(2)?.is_some_and(|v| v != 0.0);
    Ok(Built::new(
        Dropout { ratio, training_mode, number: site.number as u64 },
        [0],
        site.shape(0)?.to_vec(),
    ))
}

impl Dropout {
    /// What the masks of a pass are drawn by; `None` where nothing is dropped.
    pub(in crate::student) fn key(&self, options: &PassOptions) -> Option<u64> {
        let training = match options.mode {
            Mode::Train => true,
            Mode::Eval => false,
            Mode::AsWritten => self.training_mode,
        };
        (training && self.ratio > 0.0).then(|| draw::key(options.seed, self.number))
    }

    fn masked<T: Element>(&self, x: &[T], key: u64) -> Vec<T> {
        let scale =
            if self.ratio < 1.0 { <T as Float>::of(1.0 / (1.0 - self.ratio)) } else { T::zero() };
        map_indexed(
            x,
            |i, x| {
                if draw::uniform(key, i) < self.ratio { T::zero() } else { x * scale }
            },
        )
    }

    /// The masked tensor, times what keeps its mean.
    pub(in crate::student) fn apply(&self, x: &Tensor, key: u64) -> Result<Tensor> {
        let held = data(x)?;
        typed!(x.dtype(), |T| tensor(self.masked(held.of::<T>()?, key), x.dims()))
    }
}

impl Operator for Dropout {
    type Kept = Option<u64>;

    fn forward(&self, inputs: &[&Tensor], options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let Some(key) = self.key(options) else {
            return Ok(OpOutput::one(inputs[0].clone(), None));
        };
        Ok(OpOutput::one(self.apply(inputs[0], key)?, Some(key)))
    }

    fn backward(
        &self,
        key: Option<u64>,
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        Ok(vec![Some(match key {
            Some(key) => self.apply(&dy, key)?,
            None => dy,
        })])
    }
}
