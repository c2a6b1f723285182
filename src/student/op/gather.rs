//! `Gather` along an axis: by known indices, or by indices that are data (an embedding of tokens).

use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::student::op::site::axis;
use crate::tensor::{data, tensor, typed, wide};
use candle_core::Tensor;

#[derive(Debug)]
pub(in crate::student) struct GatherAxis {
    pub(in crate::student) input: Vec<usize>,
    pub(in crate::student) output: Vec<usize>,
    /// The indices where they are known.
    pub(in crate::student) indices: Option<Vec<u32>>,
    /// Size of the axis, and of everything behind it.
    pub(in crate::student) size: usize,
    pub(in crate::student) inner: usize,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let input = site.shape(0)?.to_vec();
    let axis = axis(site.int("axis", 0), input.len())?;
    let size = input[axis];
    let inner = input[axis + 1..].iter().product();
    let output = [&input[..axis], site.shape(1)?, &input[axis + 1..]].concat();
    let indices = match site.constant(1) {
        Some(host) => Some(host.ints()?.iter().map(|&i| place(i, size)).collect::<Result<_>>()?),
        None => None,
    };
    let inputs: &[usize] = if indices.is_some() { &[0] } else { &[0, 1] };
    Ok(Built::new(
        GatherAxis { input, output: output.clone(), indices, size, inner },
        inputs,
        output,
    ))
}

/// An index counted from the end if negative.
pub(super) fn place(index: i64, size: usize) -> Result<u32> {
    let signed = i64::try_from(size).unwrap_or(i64::MAX);
    let from_start = if index < 0 { index + signed } else { index };
    u32::try_from(from_start).ok().filter(|&i| (i as usize) < size).ok_or_else(|| {
        Error::input(format!("indices: expected -{size} to {}, found {index}", signed - 1))
    })
}

/// The places that indices name: known ones, or those of a tensor on the host.
#[allow(clippy::cast_possible_truncation, reason = "indices are whole numbers")]
pub(in crate::student) fn places_of(
    known: Option<&[u32]>,
    indices: Option<&Tensor>,
    size: usize,
) -> Result<Vec<u32>> {
    match (known, indices) {
        (Some(known), _) => Ok(known.to_vec()),
        (None, Some(indices)) => {
            wide(indices)?.into_iter().map(|i| place(i as i64, size)).collect()
        }
        (None, None) => Err(Error::internal("indices are missing")),
    }
}

impl Operator for GatherAxis {
    type Kept = Vec<u32>;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = data(inputs[0])?;
        let places = places_of(self.indices.as_deref(), inputs.get(1).copied(), self.size)?;
        typed!(inputs[0].dtype(), |T| {
            let mut out: Vec<T> = Vec::with_capacity(self.output.iter().product());
            for block in x.of::<T>()?.chunks_exact((self.size * self.inner).max(1)) {
                for &i in &places {
                    out.extend_from_slice(&block[i as usize * self.inner..][..self.inner]);
                }
            }
            Ok(OpOutput::one(tensor(out, &self.output)?, places))
        })
    }

    fn backward(
        &self,
        places: Vec<u32>,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let held = data(&dy)?;
        typed!(dy.dtype(), |T| {
            let mut dx: Vec<T> = vec![0.0; self.input.iter().product()];
            let mut rows = held.of::<T>()?.chunks_exact(self.inner.max(1));
            for block in dx.chunks_exact_mut((self.size * self.inner).max(1)) {
                for (&i, row) in places.iter().zip(&mut rows) {
                    block[i as usize * self.inner..][..self.inner]
                        .iter_mut()
                        .zip(row)
                        .for_each(|(x, d)| *x += d);
                }
            }
            let mut result = vec![None; wanted.len()];
            result[0] = Some(tensor(dx, &self.input)?);
            Ok(result)
        })
    }
}
