//! Reductions: `ReduceMean`, `ReduceSum`, `ReduceMax`, `ReduceMin`, `ReduceL1`, `ReduceL2`,
//! `ReduceSumSquare`, `ReduceLogSum`, `ReduceLogSumExp`, `GlobalAveragePool`. Equal extremes share
//! the gradient evenly, as `PyTorch`'s amax.

use super::on_device::{self, Target};
use super::{Built, Forward, Kind, Operator, Run, Saved, Site, only, saved};
use crate::error::{Error, Result};
use crate::kernel::Float;
use crate::kernel::elementwise::{map, zip};
use crate::kernel::strided::{Strided, broadcast_zip, gather, reduce_fold, reduce_sum};
use crate::student::op::site::axis;
use crate::student::value::{Element, data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reduction {
    /// Σ x times a factor: sums and means.
    Sum(f64),
    LogSum,
    Max,
    Min,
    L1,
    L2,
    SumSquare,
    LogSumExp,
}

#[derive(Debug)]
struct Reduce {
    reduction: Reduction,
    input: Vec<usize>,
    /// The input's shape with 1 for each axis that is reduced.
    kept: Vec<usize>,
    output: Vec<usize>,
    mean: bool,
}

/// The shapes of a reduction.
#[derive(Debug)]
pub(super) struct Shapes {
    pub(super) input: Vec<usize>,
    /// The input's shape with 1 for each axis that is reduced.
    pub(super) kept: Vec<usize>,
    pub(super) output: Vec<usize>,
}

/// The shapes by the axes that a node names, of which there has to be one if so `asked`.
pub(super) fn shapes(site: &Site<'_>, asked: bool) -> Result<Shapes> {
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
    let kept: Vec<usize> =
        input.iter().enumerate().map(|(i, &n)| if axes.contains(&i) { 1 } else { n }).collect();
    let output = if keep {
        kept.clone()
    } else {
        input.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, &n)| n).collect()
    };
    if asked && axes.is_empty() {
        return Err(Error::input("noop_with_empty_axes: expected axes, found none"));
    }
    Ok(Shapes { input, kept, output })
}

#[allow(clippy::cast_precision_loss, reason = "a count of elements in memory")]
pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let asked = matches!(
        site.operator(),
        "ReduceL1" | "ReduceL2" | "ReduceSumSquare" | "ReduceLogSum" | "ReduceLogSumExp"
    );
    let Shapes { input, kept, output } = shapes(site, asked)?;
    let count: usize = input.iter().zip(&kept).map(|(n, k)| if k == n { 1 } else { *n }).product();
    let reduction = match site.operator() {
        "ReduceSum" => Reduction::Sum(1.0),
        "ReduceMax" => Reduction::Max,
        "ReduceMin" => Reduction::Min,
        "ReduceL1" => Reduction::L1,
        "ReduceL2" => Reduction::L2,
        "ReduceSumSquare" => Reduction::SumSquare,
        "ReduceLogSum" => Reduction::LogSum,
        "ReduceLogSumExp" => Reduction::LogSumExp,
        _ if site.integer(0) => return Err(Error::input("the mean of integers is not supported")),
        _ => Reduction::Sum(1.0 / count.max(1) as f64),
    };
    if input.contains(&0) && matches!(reduction, Reduction::Max | Reduction::Min) {
        return Err(Error::input("input 0 is empty"));
    }
    let mean = matches!(site.operator(), "ReduceMean" | "GlobalAveragePool");
    Ok(Built::new(Reduce { reduction, input, kept, output: output.clone(), mean }, [0], output))
}

impl Reduce {
    fn values<T: Element>(&self, x: &[T]) -> Vec<T> {
        let sum = |x: &[T]| reduce_sum(x, &self.input, &self.kept);
        let fold = |init, f: fn(T, T) -> T| reduce_fold(x, &self.input, &self.kept, init, f);
        match self.reduction {
            Reduction::Sum(factor) => {
                let factor = <T as Float>::of(factor);
                map(&sum(x), |v| v * factor)
            }
            Reduction::LogSum => map(&sum(x), T::ln),
            Reduction::Max => {
                fold(T::neg_infinity(), |a, b| if b > a || b.is_nan() { b } else { a })
            }
            Reduction::Min => fold(T::infinity(), |a, b| if b < a || b.is_nan() { b } else { a }),
            Reduction::L1 => sum(&map(x, T::abs)),
            Reduction::L2 => map(&sum(&map(x, |v| v * v)), T::sqrt),
            Reduction::SumSquare => sum(&map(x, |v| v * v)),
            Reduction::LogSumExp => {
                let max = fold(T::neg_infinity(), |a, b| if b > a || b.is_nan() { b } else { a });
                let shifted =
                    broadcast_zip((x, &self.input), (&max, &self.kept), &self.input, |x, m| {
                        (x - m).exp()
                    });
                zip(&sum(&shifted), &max, |s, m| s.ln() + m)
            }
        }
    }

    /// `f(x, y)·d` with the output and its gradient repeated over the input.
    fn sloped<T: Element>(
        &self,
        x: &[T],
        y: &[T],
        d: &[T],
        f: impl Fn(T, T) -> T + Sync,
    ) -> Vec<T> {
        let slope = broadcast_zip((x, &self.input), (y, &self.kept), &self.input, f);
        broadcast_zip((&slope, &self.input), (d, &self.kept), &self.input, |s, d| s * d)
    }

    fn gradient<T: Element>(&self, kept: &Saved, d: &[T]) -> Result<Vec<T>> {
        let (zero, one) = (T::zero(), T::one());
        if let Reduction::Sum(factor) = self.reduction {
            let factor = <T as Float>::of(factor);
            return Ok(gather(
                &map(d, |v| v * factor),
                &Strided::broadcast(&self.kept, &self.input),
            ));
        }
        let (x, y) = (data(saved(kept, 0)?)?, data(saved(kept, 1)?)?);
        let (x, y) = (x.of::<T>()?, y.of::<T>()?);
        Ok(match self.reduction {
            Reduction::LogSum => self.sloped(x, y, d, |_, y| (-y).exp()),
            Reduction::L1 => self.sloped(x, y, d, |x, _| if x == zero { zero } else { x.signum() }),
            Reduction::L2 => self.sloped(x, y, d, |x, y| if y == zero { zero } else { x / y }),
            Reduction::SumSquare => self.sloped(x, y, d, |x, _| x + x),
            Reduction::LogSumExp => self.sloped(x, y, d, |x, y| (x - y).exp()),
            Reduction::Max | Reduction::Min | Reduction::Sum(_) => {
                let same = |x: T, y: T| if x == y { one } else { zero };
                let ties = reduce_sum(
                    &broadcast_zip((x, &self.input), (y, &self.kept), &self.input, same),
                    &self.input,
                    &self.kept,
                );
                self.sloped(x, y, &zip(d, &ties, |d, n| d / n), same)
            }
        })
    }
}

impl Operator for Reduce {
    fn on_device(&self, _target: &Target) -> Result<Option<Box<dyn Operator>>> {
        if self.input.contains(&0) {
            return Ok(None);
        }
        on_device::boxed(on_device::reduce::Reduce {
            reduction: self.reduction,
            input: self.input.clone(),
            kept: self.kept.clone(),
            output: self.output.clone(),
        })
    }

    fn kind(&self) -> Kind<'_> {
        match (self.input.as_slice(), self.kept.as_slice()) {
            (&[n, c, h, w], &[images, channels, 1, 1])
                if n == images && c == channels && self.mean && h * w > 0 =>
            {
                Kind::PlaneMean
            }
            _ => Kind::Other,
        }
    }

    fn forward(&self, inputs: &[&Tensor], _run: &Run) -> Result<Forward> {
        let x = data(inputs[0])?;
        let y = typed!(inputs[0].dtype(), |T| tensor(self.values(x.of::<T>()?), &self.output))?;
        let keep = if matches!(self.reduction, Reduction::Sum(_)) {
            Vec::new()
        } else {
            vec![inputs[0].clone(), y.clone()]
        };
        Ok(Forward::one(y, keep))
    }

    fn backward(
        &self,
        kept: Saved,
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let held = data(&dy)?;
        typed!(dy.dtype(), |T| Ok(vec![Some(tensor(
            self.gradient(&kept, held.of::<T>()?)?,
            &self.input
        )?)]))
    }
}
