//! `ArgMax` and `ArgMin`: where along an axis the extremum lies, the first of equals or the last.
//! Nothing flows back.

use super::{Built, OpOutput, Operator, PassOptions, Site};
use crate::error::{Error, Result};
use crate::kernel::Float;
use crate::student::op::site::axis;
use crate::tensor::{Element, data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
struct Extremum {
    largest: bool,
    last: bool,
    /// The size of the axis, and of everything behind it.
    size: usize,
    inner: usize,
    output: Vec<usize>,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let input = site.shape(0)?;
    let at = axis(site.int("axis", 0), input.len())?;
    let size = input[at];
    if size == 0 {
        return Err(Error::input(format!("axis {at} is empty")));
    }
    let kept: &[usize] = if site.int("keepdims", 1) != 0 { &[1] } else { &[] };
    let output = [&input[..at], kept, &input[at + 1..]].concat();
    let operator = Extremum {
        largest: site.operator() == "ArgMax",
        last: site.int("select_last_index", 0) != 0,
        size,
        inner: input[at + 1..].iter().product(),
        output: output.clone(),
    };
    Ok(Built::new(operator, [0], output))
}

impl Extremum {
    #[allow(clippy::cast_precision_loss, reason = "a place in memory")]
    fn places<T: Element>(&self, x: &[T]) -> Vec<T> {
        let mut out = Vec::with_capacity(self.output.iter().product());
        for block in x.chunks_exact((self.size * self.inner).max(1)) {
            for i in 0..self.inner {
                let (mut best, mut place) = (block[i], 0);
                for at in 1..self.size {
                    let v = block[at * self.inner + i];
                    let better = if self.largest { v > best } else { v < best };
                    if better || (self.last && v == best) {
                        (best, place) = (v, at);
                    }
                }
                out.push(<T as Float>::of(place as f64));
            }
        }
        out
    }
}

impl Operator for Extremum {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = data(inputs[0])?;
        let y = typed!(inputs[0].dtype(), |T| tensor(self.places(x.of::<T>()?), &self.output))?;
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
