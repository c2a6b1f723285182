//! `GatherElements` and `GatherND`: the elements, or runs of them, at the places that indices name,
//! known ones or data.

use super::places::Places;
use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::Result;
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
struct Pick {
    places: Places,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let places =
        if site.operator() == "GatherND" { Places::rows(site)? } else { Places::elements(site)? };
    let inputs: &[usize] = if places.vary() { &[0, 1] } else { &[0] };
    let output = places.runs();
    Ok(Built::new(Pick { places }, inputs, output))
}

impl Operator for Pick {
    type Kept = Vec<u32>;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let starts = self.places.starts(inputs.get(1).copied())?;
        let (x, run) = (data(inputs[0])?, self.places.run());
        let y = typed!(inputs[0].dtype(), |T| {
            let x = x.of::<T>()?;
            let runs = starts.iter().flat_map(|&start| &x[start as usize..][..run]);
            tensor(runs.copied().collect::<Vec<T>>(), &self.places.runs())
        })?;
        Ok(OpOutput::one(y, starts))
    }

    fn backward(
        &self,
        starts: Vec<u32>,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let (d, run) = (data(&dy)?, self.places.run());
        typed!(dy.dtype(), |T| {
            let mut dx: Vec<T> = vec![0.0; self.places.data().iter().product()];
            for (&start, d) in starts.iter().zip(d.of::<T>()?.chunks_exact(run.max(1))) {
                dx[start as usize..][..run].iter_mut().zip(d).for_each(|(x, d)| *x += d);
            }
            let mut result = vec![None; wanted.len()];
            result[0] = Some(tensor(dx, self.places.data())?);
            Ok(result)
        })
    }
}
