//! `Tile`: the input repeated along its axes.

use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::strided::{Strided, dense_strides, gather, reduce_sum};
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
pub(in crate::student) struct Tile {
    /// The output as `[repeats, size]` for each axis.
    pub(in crate::student) view: Strided,
    pub(in crate::student) input: Vec<usize>,
    pub(in crate::student) output: Vec<usize>,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let input = site.shape(0)?.to_vec();
    let repeats = site.known_ints(1)?.ok_or_else(|| Error::input("repeats are missing"))?;
    let repeats = repeats
        .iter()
        .map(|&n| usize::try_from(n))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Error::input("repeats").because(e))?;
    let (view, output) = tiled(&input, &repeats)?;
    Ok(Built::new(Tile { view, input, output: output.clone() }, [0], output))
}

/// An array repeated along its axes as a view, and the shape of the result: `[n]` repeated r times
/// is `[r, n]` with stride 0 along r.
pub(in crate::student) fn tiled(
    input: &[usize],
    repeats: &[usize],
) -> Result<(Strided, Vec<usize>)> {
    if repeats.len() != input.len() {
        return Err(Error::input(format!(
            "repeats: expected {} sizes, found {}",
            input.len(),
            repeats.len()
        )));
    }
    let output: Option<Vec<usize>> =
        repeats.iter().zip(input).map(|(r, n)| r.checked_mul(*n)).collect();
    let output = output
        .ok_or_else(|| Error::input(format!("repeats: {repeats:?} of {input:?} are too large")))?;
    let shape = repeats.iter().zip(input).flat_map(|(&r, &n)| [r, n]).collect();
    let strides = dense_strides(input).into_iter().flat_map(|s| [0, s]).collect();
    Ok((Strided { shape, strides, offset: 0 }, output))
}

impl Operator for Tile {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = data(inputs[0])?;
        typed!(inputs[0].dtype(), |T| Ok(OpOutput::one(
            tensor(gather(x.of::<T>()?, &self.view), &self.output)?,
            ()
        )))
    }

    fn backward(
        &self,
        _kept: (),
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let held = data(&dy)?;
        let once: Vec<usize> = self.input.iter().flat_map(|&n| [1, n]).collect();
        typed!(dy.dtype(), |T| Ok(vec![Some(tensor(
            reduce_sum(held.of::<T>()?, &self.view.shape, &once),
            &self.input
        )?)]))
    }
}
