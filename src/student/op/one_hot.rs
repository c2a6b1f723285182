//! `OneHot`: along a new axis one value at the place that an index names, another elsewhere. An
//! index that names none leaves the other everywhere. Nothing flows back.

use super::{Built, OpOutput, Operator, PassOptions, Site};
use crate::error::{Error, Result};
use crate::kernel::Float;
use crate::student::op::gather::place;
use crate::student::op::site::axis;
use crate::tensor::{Element, data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
struct OneHot {
    depth: usize,
    /// The number of indices behind the new axis.
    inner: usize,
    /// Off and on.
    values: [f64; 2],
    output: Vec<usize>,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let shape = site.shape(0)?.to_vec();
    let depth = site.known_number(1)?.ok_or_else(|| Error::input("depth is missing"))?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a depth is whole, and within 1 and 2³¹ here"
    )]
    let depth = (1.0..2_147_483_648.0).contains(&depth).then_some(depth as usize);
    let depth = depth.ok_or_else(|| Error::input("depth: expected 1 to 2^31"))?;
    let values = site.known_floats(2)?.unwrap_or_default();
    let values: [f64; 2] = values.try_into().map_err(|found: Vec<f64>| {
        Error::input(format!("values: expected off and on, found {} numbers", found.len()))
    })?;
    let at = axis(site.int("axis", -1), shape.len() + 1)?;
    let inner = shape[at..].iter().product();
    let output = [&shape[..at], &[depth], &shape[at..]].concat();
    Ok(Built::new(OneHot { depth, inner, values, output: output.clone() }, [0], output))
}

impl OneHot {
    #[allow(clippy::cast_possible_truncation, reason = "indices are whole numbers")]
    fn values<T: Element>(&self, indices: &[T]) -> Vec<T> {
        let [off, on] = self.values.map(<T as Float>::of);
        let mut out = vec![off; self.output.iter().product()];
        let blocks = out.chunks_exact_mut((self.depth * self.inner).max(1));
        for (out, indices) in blocks.zip(indices.chunks_exact(self.inner.max(1))) {
            for (i, index) in indices.iter().enumerate() {
                if let Ok(place) = place(index.wide() as i64, self.depth) {
                    out[place as usize * self.inner + i] = on;
                }
            }
        }
        out
    }
}

impl Operator for OneHot {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let indices = data(inputs[0])?;
        let y =
            typed!(inputs[0].dtype(), |T| tensor(self.values(indices.of::<T>()?), &self.output))?;
        Ok(OpOutput::one(y, ()))
    }

    fn backward(
        &self,
        _kept: (),
        _gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![None; wanted.len()])
    }
}
