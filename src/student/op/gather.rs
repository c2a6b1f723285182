//! `Gather` of known indices along an axis.

use super::{Built, Forward, Operator, Run, Saved, Site, only};
use crate::error::{Error, Result};
use crate::student::op::site::axis;
use crate::student::value::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
struct Gather {
    input: Vec<usize>,
    output: Vec<usize>,
    indices: Vec<usize>,
    /// Size of the axis, and of everything behind it.
    size: usize,
    inner: usize,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let input = site.shape(0)?.to_vec();
    let axis = axis(site.int("axis", 0), input.len())?;
    let size = input[axis];
    let known = site.known_ints(1)?.ok_or_else(|| Error::input("indices are missing"))?;
    let signed = i64::try_from(size).unwrap_or(i64::MAX);
    let indices = known
        .iter()
        .map(|&i| {
            usize::try_from(if i < 0 { i + signed } else { i })
                .ok()
                .filter(|&i| i < size)
                .ok_or_else(|| Error::input(format!("indices: expected less than {size}, found {i}")))
        })
        .collect::<Result<Vec<_>>>()?;
    let inner = input[axis + 1..].iter().product();
    let output = [&input[..axis], site.shape(1)?, &input[axis + 1..]].concat();
    Ok(Built::new(Gather { input, output: output.clone(), indices, size, inner }, [0], output))
}

impl Operator for Gather {
    fn forward(&self, inputs: &[&Tensor], _run: &Run) -> Result<Forward> {
        let x = data(inputs[0])?;
        typed!(inputs[0].dtype(), T => {
            let mut out: Vec<T> = Vec::with_capacity(self.output.iter().product());
            for block in x.of::<T>()?.chunks_exact((self.size * self.inner).max(1)) {
                self.indices.iter().for_each(|&i| out.extend_from_slice(&block[i * self.inner..(i + 1) * self.inner]));
            }
            Ok(Forward::one(tensor(out, &self.output)?, Vec::new()))
        })
    }

    fn backward(&self, _saved: Saved, gradients: Vec<Option<Tensor>>, _wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let held = data(&dy)?;
        typed!(dy.dtype(), T => {
            let mut dx: Vec<T> = vec![0.0; self.input.iter().product()];
            let mut rows = held.of::<T>()?.chunks_exact(self.inner.max(1));
            for block in dx.chunks_exact_mut((self.size * self.inner).max(1)) {
                for (&i, row) in self.indices.iter().zip(&mut rows) {
                    block[i * self.inner..(i + 1) * self.inner].iter_mut().zip(row).for_each(|(x, d)| *x += d);
                }
            }
            Ok(vec![Some(tensor(dx, &self.input)?)])
        })
    }
}
