//! Reductions: `ReduceMean`, `ReduceSum`, `ReduceMax`, `ReduceMin`, `ReduceL1`, `ReduceL2`,
//! `ReduceSumSquare`, `ReduceLogSum`, `ReduceLogSumExp`, `GlobalAveragePool`. Equal extremes share
//! the gradient evenly, as `PyTorch`'s amax.

use super::{Built, MapLayer, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::Float;
use crate::kernel::elementwise::{map, zip};
use crate::kernel::strided::{Strided, broadcast_zip, gather, reduce_fold, reduce_sum};
use crate::student::op::site::axis;
use crate::tensor::{Element, data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::student) enum Reduction {
    LogSum,
    Max,
    Min,
    L1,
    L2,
    SumSquare,
    LogSumExp,
}

/// Σ x times a factor: sums and means.
#[derive(Debug)]
pub(in crate::student) struct Sum {
    pub(in crate::student) factor: f64,
    pub(in crate::student) shapes: Shapes,
    mean: bool,
}

/// The reductions that are not linear.
#[derive(Debug)]
pub(in crate::student) struct Reduce {
    pub(in crate::student) reduction: Reduction,
    pub(in crate::student) shapes: Shapes,
}

/// The shapes of a reduction.
#[derive(Debug, Clone)]
pub(in crate::student) struct Shapes {
    pub(in crate::student) input: Vec<usize>,
    /// The input's shape with 1 for each axis that is reduced.
    pub(in crate::student) kept: Vec<usize>,
    pub(in crate::student) output: Vec<usize>,
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
    let shapes = shapes(site, asked)?;
    let output = shapes.output.clone();
    let reduction = match site.operator() {
        "ReduceSum" => {
            return Ok(Built::new(Sum { factor: 1.0, shapes, mean: false }, [0], output));
        }
        "ReduceMax" => Reduction::Max,
        "ReduceMin" => Reduction::Min,
        "ReduceL1" => Reduction::L1,
        "ReduceL2" => Reduction::L2,
        "ReduceSumSquare" => Reduction::SumSquare,
        "ReduceLogSum" => Reduction::LogSum,
        "ReduceLogSumExp" => Reduction::LogSumExp,
        _ if site.integer(0) => return Err(Error::input("the mean of integers is not supported")),
        _ => {
            let sizes = shapes.input.iter().zip(&shapes.kept);
            let count: usize = sizes.map(|(n, k)| if k == n { 1 } else { *n }).product();
            let factor = 1.0 / count.max(1) as f64;
            return Ok(Built::new(Sum { factor, shapes, mean: true }, [0], output));
        }
    };
    if shapes.input.contains(&0) && matches!(reduction, Reduction::Max | Reduction::Min) {
        return Err(Error::input("input 0 is empty"));
    }
    Ok(Built::new(Reduce { reduction, shapes }, [0], output))
}

impl Operator for Sum {
    type Kept = ();

    fn map_layer(&self) -> MapLayer<'_> {
        match (self.shapes.input.as_slice(), self.shapes.kept.as_slice()) {
            (&[n, c, h, w], &[images, channels, 1, 1])
                if n == images && c == channels && self.mean && h * w > 0 =>
            {
                MapLayer::PlaneMean
            }
            _ => MapLayer::Other,
        }
    }

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let Shapes { input, kept, output } = &self.shapes;
        let x = data(inputs[0])?;
        let y = typed!(inputs[0].dtype(), |T| {
            let factor = <T as Float>::of(self.factor);
            tensor(map(&reduce_sum(x.of::<T>()?, input, kept), |v| v * factor), output)
        })?;
        Ok(OpOutput::one(y, ()))
    }

    fn backward(
        &self,
        _kept: (),
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let Shapes { input, kept, .. } = &self.shapes;
        let dy = only(gradients)?;
        let held = data(&dy)?;
        typed!(dy.dtype(), |T| {
            let factor = <T as Float>::of(self.factor);
            let d = map(held.of::<T>()?, |v| v * factor);
            Ok(vec![Some(tensor(gather(&d, &Strided::broadcast(kept, input)), input)?)])
        })
    }
}

impl Reduce {
    fn values<T: Element>(&self, x: &[T]) -> Vec<T> {
        let Shapes { input, kept, .. } = &self.shapes;
        let sum = |x: &[T]| reduce_sum(x, input, kept);
        let fold = |init, f: fn(T, T) -> T| reduce_fold(x, input, kept, init, f);
        match self.reduction {
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
                let shifted = broadcast_zip((x, input), (&max, kept), input, |x, m| (x - m).exp());
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
        let Shapes { input, kept, .. } = &self.shapes;
        let slope = broadcast_zip((x, input), (y, kept), input, f);
        broadcast_zip((&slope, input), (d, kept), input, |s, d| s * d)
    }

    fn gradient<T: Element>(&self, x: &[T], y: &[T], d: &[T]) -> Vec<T> {
        let Shapes { input, kept, .. } = &self.shapes;
        let (zero, one) = (T::zero(), T::one());
        match self.reduction {
            Reduction::LogSum => self.sloped(x, y, d, |_, y| (-y).exp()),
            Reduction::L1 => self.sloped(x, y, d, |x, _| if x == zero { zero } else { x.signum() }),
            Reduction::L2 => self.sloped(x, y, d, |x, y| if y == zero { zero } else { x / y }),
            Reduction::SumSquare => self.sloped(x, y, d, |x, _| x + x),
            Reduction::LogSumExp => self.sloped(x, y, d, |x, y| (x - y).exp()),
            Reduction::Max | Reduction::Min => {
                let same = |x: T, y: T| if x == y { one } else { zero };
                let ties =
                    reduce_sum(&broadcast_zip((x, input), (y, kept), input, same), input, kept);
                self.sloped(x, y, &zip(d, &ties, |d, n| d / n), same)
            }
        }
    }
}

impl Operator for Reduce {
    /// Input and output.
    type Kept = [Tensor; 2];

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = data(inputs[0])?;
        let output = &self.shapes.output;
        let y = typed!(inputs[0].dtype(), |T| tensor(self.values(x.of::<T>()?), output))?;
        Ok(OpOutput::one(y.clone(), [inputs[0].clone(), y]))
    }

    fn backward(
        &self,
        [x, y]: Self::Kept,
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let (x, y, d) = (data(&x)?, data(&y)?, data(&dy)?);
        typed!(dy.dtype(), |T| {
            let dx = self.gradient(x.of::<T>()?, y.of::<T>()?, d.of::<T>()?);
            Ok(vec![Some(tensor(dx, &self.shapes.input)?)])
        })
    }
}
