//! `Dropout`: the mask is a pure function of (pass, node, position), and drawn again in the
//! backward pass.

use super::on_device::{self, Target};
use super::{Built, Forward, Operator, Run, Saved, Site, draw, only};
use crate::error::{Error, Result};
use crate::kernel::Float;
use crate::kernel::elementwise::map_indexed;
use crate::student::Mode;
use crate::student::value::{Element, data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug, Clone, Copy)]
pub(super) struct Dropout {
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
    pub(super) fn key(&self, run: &Run) -> Option<u64> {
        let training = match run.mode {
            Mode::Train => true,
            Mode::Eval => false,
            Mode::AsWritten => self.training_mode,
        };
        (training && self.ratio > 0.0).then(|| draw::key(run.seed, self.number))
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
    pub(super) fn apply(&self, x: &Tensor, key: u64) -> Result<Tensor> {
        let held = data(x)?;
        typed!(x.dtype(), |T| tensor(self.masked(held.of::<T>()?, key), x.dims()))
    }
}

impl Operator for Dropout {
    fn on_device(&self, _target: &Target) -> Result<Option<Box<dyn Operator>>> {
        on_device::boxed(on_device::dropout::OnDevice(*self))
    }

    fn forward(&self, inputs: &[&Tensor], run: &Run) -> Result<Forward> {
        let Some(key) = self.key(run) else {
            return Ok(Forward::one(inputs[0].clone(), Vec::new()));
        };
        let mut forward = Forward::one(self.apply(inputs[0], key)?, Vec::new());
        forward.saved.training = true;
        // the key as two exact halves
        forward.saved.places = vec![(key >> 32) as u32, (key & 0xFFFF_FFFF) as u32];
        Ok(forward)
    }

    fn backward(
        &self,
        saved: Saved,
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        if !saved.training {
            return Ok(vec![Some(dy)]);
        }
        let [high, low] = saved.places[..] else {
            return Err(Error::internal("dropout saved no key"));
        };
        Ok(vec![Some(self.apply(&dy, u64::from(high) << 32 | u64::from(low))?)])
    }
}
