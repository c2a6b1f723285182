//! `Pad`: constant, reflect, edge and wrap; negative pads crop, before the others fill.

use super::separable::{LONGEST_AXIS, Separable};
use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::Float;
use crate::kernel::resample::Taps;
use crate::kernel::strided::{Strided, dense_strides, gather, scatter};
use crate::student::op::site::axis;
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;

/// Padding with a constant.
#[derive(Debug)]
pub(in crate::student) struct Pad {
    /// What is read of the input, and where it lies in the output.
    pub(in crate::student) from: Strided,
    pub(in crate::student) to: Strided,
    pub(in crate::student) input: Vec<usize>,
    pub(in crate::student) output: Vec<usize>,
    pub(in crate::student) value: f64,
}

/// Elements cut off and put before and behind an axis.
#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    crop: [usize; 2],
    fill: [usize; 2],
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let input = site.shape(0)?.to_vec();
    let pads = site.ints_at(1, "pads")?.ok_or_else(|| Error::input("pads are missing"))?;
    let axes: Vec<usize> = match site.known_ints(3)? {
        Some(axes) => axes.iter().map(|&a| axis(a, input.len())).collect::<Result<_>>()?,
        None => (0..input.len()).collect(),
    };
    if pads.len() != 2 * axes.len() || pads.iter().any(|p| p.unsigned_abs() >= 1 << 31) {
        return Err(Error::input(format!(
            "pads: expected {} sizes, found {pads:?}",
            2 * axes.len()
        )));
    }
    let mut ends = vec![Ends::default(); input.len()];
    let size = |n: i64| usize::try_from(n.max(0)).unwrap_or(0);
    for (i, &axis) in axes.iter().enumerate() {
        let (before, after) = (pads[i], pads[axes.len() + i]);
        ends[axis] =
            Ends { crop: [size(-before), size(-after)], fill: [size(before), size(after)] };
        if input[axis] < ends[axis].crop[0] + ends[axis].crop[1] {
            return Err(Error::input(format!("pads: {pads:?} crop more than input {input:?} has")));
        }
    }
    match site.text("mode").as_deref() {
        None | Some("" | "constant") => {
            let value =
                site.known_number(2)?.unwrap_or_else(|| f64::from(site.float("value", 0.0)));
            Ok(constant(input, &ends, value))
        }
        Some(mode @ ("reflect" | "edge" | "wrap")) => copied(&input, &ends, mode),
        Some(mode) => Err(Error::input(format!(
            "mode: expected constant, reflect, edge or wrap, found {mode}"
        ))),
    }
}

fn constant(input: Vec<usize>, ends: &[Ends], value: f64) -> Built {
    let kept: Vec<usize> = input.iter().zip(ends).map(|(n, e)| n - e.crop[0] - e.crop[1]).collect();
    let output: Vec<usize> =
        kept.iter().zip(ends).map(|(n, e)| n + e.fill[0] + e.fill[1]).collect();
    let view = |shape: &[usize], before: &dyn Fn(&Ends) -> usize| {
        let strides = dense_strides(shape);
        let offset = ends.iter().zip(&strides).map(|(e, s)| before(e) * s.cast_unsigned()).sum();
        Strided { shape: kept.clone(), strides, offset }
    };
    let (from, to) = (view(&input, &|e| e.crop[0]), view(&output, &|e| e.fill[0]));
    Built::new(Pad { from, to, input, output: output.clone(), value }, [0], output)
}

/// Padding by copies of elements: each axis is read at other indices.
fn copied(input: &[usize], ends: &[Ends], mode: &str) -> Result<Built> {
    let mut axes = Vec::new();
    for (axis, e) in ends.iter().enumerate().filter(|(_, e)| e.crop != [0, 0] || e.fill != [0, 0]) {
        let size = input[axis] - e.crop[0] - e.crop[1];
        let furthest = e.fill[0].max(e.fill[1]);
        if (size == 0 && furthest > 0)
            || (mode == "reflect" && furthest >= size.max(1))
            || furthest > LONGEST_AXIS
        {
            return Err(Error::input(format!(
                "pads: axis {axis} of size {size} cannot be padded by {furthest} in mode {mode}"
            )));
        }
        let source = |o: usize| match (o.checked_sub(e.fill[0]), mode) {
            (Some(i), _) if i < size => i,
            (None, "reflect") => e.fill[0] - o,
            (Some(i), "reflect") => 2 * (size - 1) - i,
            (None, "edge") => 0,
            (Some(_), "edge") => size - 1,
            (None, _) => (size - (e.fill[0] - o) % size) % size,
            (Some(i), _) => i % size,
        };
        let taps: Taps =
            (0..size + e.fill[0] + e.fill[1]).map(|o| vec![(e.crop[0] + source(o), 1.0)]).collect();
        axes.push((axis, taps));
    }
    let operator = Separable::new(input, axes);
    let output = operator.output().to_vec();
    Ok(Built::new(operator, [0], output))
}

impl Operator for Pad {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = data(inputs[0])?;
        typed!(inputs[0].dtype(), |T| {
            let mut out: Vec<T> = vec![<T as Float>::of(self.value); self.output.iter().product()];
            if self.from.shape == self.input {
                scatter(x.of::<T>()?, &self.to, &mut out);
            } else {
                scatter(&gather(x.of::<T>()?, &self.from), &self.to, &mut out);
            }
            Ok(OpOutput::one(tensor(out, &self.output)?, ()))
        })
    }

    fn backward(
        &self,
        _kept: (),
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let held = data(&dy)?;
        typed!(dy.dtype(), |T| {
            let kept = gather(held.of::<T>()?, &self.to);
            if self.from.shape == self.input {
                return Ok(vec![Some(tensor(kept, &self.input)?)]);
            }
            let mut dx: Vec<T> = vec![0.0; self.input.iter().product()];
            scatter(&kept, &self.from, &mut dx);
            Ok(vec![Some(tensor(dx, &self.input)?)])
        })
    }
}
