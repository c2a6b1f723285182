//! `Reshape`, `Flatten`, `Squeeze`, `Unsqueeze`, and `Identity`, which changes nothing at all.

use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::student::op::site::axis;
use candle_core::Tensor;

#[derive(Debug)]
pub(in crate::student) struct Reshape {
    input: Vec<usize>,
    output: Vec<usize>,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let input = site.shape(0)?.to_vec();
    let output = match site.operator() {
        "Reshape" => {
            let target =
                site.ints_at(1, "shape")?.ok_or_else(|| Error::input("shape is missing"))?;
            reshaped(&input, &target, site.int("allowzero", 0) != 0)?
        }
        "Flatten" => flattened(&input, site.int("axis", 1))?,
        "Squeeze" => squeezed(&input, site.ints_at(1, "axes")?.as_deref())?,
        "Unsqueeze" => unsqueezed(&input, &site.ints_at(1, "axes")?.unwrap_or_default())?,
        _ => input.clone(),
    };
    Ok(Built::new(Reshape { input, output: output.clone() }, [0], output))
}

/// The shape that `Reshape` gives: -1 is what is left, 0 the input's own size unless `allow_zero`.
pub(in crate::student) fn reshaped(
    input: &[usize],
    target: &[i64],
    allow_zero: bool,
) -> Result<Vec<usize>> {
    let wrong = || Error::input(format!("shape: {input:?} does not become {target:?}"));
    let size: usize = input.iter().product();
    let mut open = None;
    let mut output = Vec::with_capacity(target.len());
    for (i, &n) in target.iter().enumerate() {
        output.push(match n {
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            0 if !allow_zero => *input.get(i).ok_or_else(wrong)?,
            n => usize::try_from(n).map_err(|_| wrong())?,
        });
    }
    let known = output.iter().try_fold(1usize, |a, &b| a.checked_mul(b)).ok_or_else(wrong)?;
    if let Some(open) = open {
        if known == 0 || !size.is_multiple_of(known) {
            return Err(wrong());
        }
        output[open] = size / known;
    } else if known != size {
        return Err(wrong());
    }
    Ok(output)
}

/// The two axes that `Flatten` leaves.
pub(in crate::student) fn flattened(input: &[usize], at: i64) -> Result<Vec<usize>> {
    let rank = i64::try_from(input.len()).unwrap_or(i64::MAX);
    let at =
        usize::try_from(if at < 0 { at + rank } else { at }).ok().filter(|&a| a <= input.len());
    let at = at.ok_or_else(|| Error::input(format!("axis: expected at most {rank}")))?;
    Ok(vec![input[..at].iter().product(), input[at..].iter().product()])
}

/// A shape without the given axes of size 1 (all of them if none is given).
pub(in crate::student) fn squeezed(input: &[usize], axes: Option<&[i64]>) -> Result<Vec<usize>> {
    let axes: Vec<usize> = match axes {
        Some(axes) => axes.iter().map(|&a| axis(a, input.len())).collect::<Result<_>>()?,
        None => (0..input.len()).filter(|&i| input[i] == 1).collect(),
    };
    if let Some(&a) = axes.iter().find(|&&a| input[a] != 1) {
        return Err(Error::input(format!("axis {a}: expected size 1, found {}", input[a])));
    }
    Ok(input.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, &n)| n).collect())
}

/// A shape with axes of size 1 put in.
pub(in crate::student) fn unsqueezed(input: &[usize], axes: &[i64]) -> Result<Vec<usize>> {
    let rank = input.len() + axes.len();
    let axes = axes.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>>>()?;
    let mut rest = input.iter();
    (0..rank)
        .map(|i| if axes.contains(&i) { Some(1) } else { rest.next().copied() })
        .collect::<Option<Vec<_>>>()
        .filter(|_| rest.next().is_none())
        .ok_or_else(|| Error::input(format!("axes: expected each once, found {axes:?}")))
}

impl Operator for Reshape {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        Ok(OpOutput::one(inputs[0].reshape(self.output.as_slice())?, ()))
    }

    fn backward(
        &self,
        _kept: (),
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(only(gradients)?.reshape(self.input.as_slice())?)])
    }
}
