//! `ReduceMean`, `ReduceSum` and `GlobalAveragePool`.

use super::{Built, Forward, Kind, Operator, Run, Saved, Site, only};
use crate::error::Result;
use crate::kernel::Float;
use crate::kernel::elementwise::map;
use crate::kernel::strided::{Strided, gather, reduce_sum};
use crate::student::op::site::axis;
use crate::student::value::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
struct Reduce {
    input: Vec<usize>,
    /// The input's shape with 1 for each axis that is reduced.
    kept: Vec<usize>,
    output: Vec<usize>,
    factor: f64,
    mean: bool,
}

#[allow(clippy::cast_precision_loss, reason = "a count of elements in memory")]
pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let input = site.shape(0)?.to_vec();
    let (axes, keep) = if site.operator() == "GlobalAveragePool" {
        ((2..input.len()).collect(), true)
    } else {
        let axes = site.ints_at(1, "axes")?.unwrap_or_default();
        let noop = site.int("noop_with_empty_axes", 0) != 0;
        let axes: Vec<usize> = if axes.is_empty() && !noop {
            (0..input.len()).collect()
        } else {
            axes.iter().map(|&a| axis(a, input.len())).collect::<Result<_>>()?
        };
        (axes, site.int("keepdims", 1) != 0)
    };
    let kept: Vec<usize> = input.iter().enumerate().map(|(i, &n)| if axes.contains(&i) { 1 } else { n }).collect();
    let output = if keep { kept.clone() } else { input.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, &n)| n).collect() };
    let count: usize = axes.iter().map(|&a| input[a]).product();
    let mean = site.operator() != "ReduceSum";
    let factor = if mean { 1.0 / count.max(1) as f64 } else { 1.0 };
    Ok(Built::new(Reduce { input, kept, output: output.clone(), factor, mean }, [0], output))
}

impl Operator for Reduce {
    fn kind(&self) -> Kind<'_> {
        match (self.input.as_slice(), self.kept.as_slice()) {
            (&[n, c, h, w], &[images, channels, 1, 1]) if n == images && c == channels && self.mean && h * w > 0 => Kind::PlaneMean,
            _ => Kind::Other,
        }
    }

    fn forward(&self, inputs: &[&Tensor], _run: &Run) -> Result<Forward> {
        let x = data(inputs[0])?;
        typed!(inputs[0].dtype(), T => {
            let factor = <T as Float>::of(self.factor);
            let sums = reduce_sum(x.of::<T>()?, &self.input, &self.kept);
            Ok(Forward::one(tensor(map(&sums, |v| v * factor), &self.output)?, Vec::new()))
        })
    }

    fn backward(&self, _saved: Saved, gradients: Vec<Option<Tensor>>, _wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let held = data(&dy)?;
        typed!(dy.dtype(), T => {
            let factor = <T as Float>::of(self.factor);
            let shares = map(held.of::<T>()?, |v| v * factor);
            Ok(vec![Some(tensor(gather(&shares, &Strided::broadcast(&self.kept, &self.input)), &self.input)?)])
        })
    }
}
