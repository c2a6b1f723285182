//! Operators of any number of inputs that repeat to one shape: `Max`, `Min`, `Sum`, `Mean`. Equal
//! extremes share the gradient evenly, as `PyTorch`'s maximum and minimum.

use super::{Built, Forward, Operator, Run, Saved, Site, only, saved};
use crate::error::{Error, Result};
use crate::kernel::Float;
use crate::kernel::elementwise::map;
use crate::kernel::strided::{Strided, broadcast_zip, gather, reduce_sum};
use crate::student::value::{Element, data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Function {
    Max,
    Min,
    /// The sum times a factor.
    Sum(f64),
}

#[derive(Debug)]
struct Variadic {
    function: Function,
    inputs: Vec<Vec<usize>>,
    output: Vec<usize>,
}

#[allow(clippy::cast_precision_loss, reason = "a count of inputs")]
pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let inputs = (0..site.shapes.len())
        .map(|i| site.shape(i).map(<[usize]>::to_vec))
        .collect::<Result<Vec<_>>>()?;
    let first = inputs.first().ok_or_else(|| Error::input("input 0 is missing"))?;
    let output = inputs[1..]
        .iter()
        .try_fold(first.clone(), |shape, other| super::binary::broadcast(&shape, other))?;
    let function = match site.operator() {
        "Max" => Function::Max,
        "Min" => Function::Min,
        "Sum" => Function::Sum(1.0),
        _ => Function::Sum(1.0 / inputs.len() as f64),
    };
    let all: Vec<usize> = (0..inputs.len()).collect();
    Ok(Built::new(Variadic { function, inputs, output: output.clone() }, all, output))
}

impl Variadic {
    fn combine<T: Element>(&self) -> fn(T, T) -> T {
        match self.function {
            Function::Max => |a, b| if b > a || b.is_nan() { b } else { a },
            Function::Min => |a, b| if b < a || b.is_nan() { b } else { a },
            Function::Sum(_) => |a, b| a + b,
        }
    }

    /// 1 where an operand is the extreme.
    fn hits<T: Element>(&self, y: &[T], x: &Tensor, shape: &[usize]) -> Result<Vec<T>> {
        let same = |y: T, x: T| if x == y { T::one() } else { T::zero() };
        Ok(broadcast_zip((y, &self.output), (data(x)?.of::<T>()?, shape), &self.output, same))
    }

    fn summed<T: Element>(&self, full: Vec<T>, to: &[usize]) -> Result<Tensor> {
        if to == self.output {
            tensor(full, to)
        } else {
            tensor(reduce_sum(&full, &self.output, to), to)
        }
    }
}

impl Operator for Variadic {
    fn forward(&self, inputs: &[&Tensor], _run: &Run) -> Result<Forward> {
        let y = typed!(inputs[0].dtype(), |T| {
            let first = data(inputs[0])?;
            let mut y =
                gather(first.of::<T>()?, &Strided::broadcast(&self.inputs[0], &self.output));
            for (x, shape) in inputs.iter().zip(&self.inputs).skip(1) {
                let x = data(x)?;
                y = broadcast_zip(
                    (&y, &self.output),
                    (x.of::<T>()?, shape),
                    &self.output,
                    self.combine(),
                );
            }
            if let Function::Sum(factor) = self.function
                && (factor - 1.0).abs() > 0.0
            {
                let factor = <T as Float>::of(factor);
                y = map(&y, |v| v * factor);
            }
            tensor(y, &self.output)
        })?;
        let kept = match self.function {
            Function::Sum(_) => Vec::new(),
            _ => inputs.iter().map(|&x| x.clone()).chain([y.clone()]).collect(),
        };
        Ok(Forward::one(y, kept))
    }

    fn backward(
        &self,
        kept: Saved,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let held = data(&dy)?;
        let out = self.output.as_slice();
        typed!(dy.dtype(), |T| {
            let d = held.of::<T>()?;
            if let Function::Sum(factor) = self.function {
                let factor = <T as Float>::of(factor);
                let share = |(shape, &wanted): (&Vec<usize>, &bool)| {
                    if wanted {
                        self.summed(map(d, |d| d * factor), shape).map(Some)
                    } else {
                        Ok(None)
                    }
                };
                return self.inputs.iter().zip(wanted).map(share).collect();
            }
            let y = data(saved(&kept, self.inputs.len())?)?;
            let y = y.of::<T>()?;
            let mut ties: Vec<T> = vec![0.0; y.len()];
            for (i, shape) in self.inputs.iter().enumerate() {
                let hits = self.hits(y, saved(&kept, i)?, shape)?;
                ties.iter_mut().zip(hits).for_each(|(n, hit)| *n += hit);
            }
            let share = broadcast_zip((d, out), (&ties, out), out, |d, n| d / n);
            let mut result = vec![None; wanted.len()];
            for (i, shape) in self.inputs.iter().enumerate().filter(|(i, _)| wanted[*i]) {
                let hits = self.hits(y, saved(&kept, i)?, shape)?;
                result[i] = Some(self.summed(
                    broadcast_zip((&hits, out), (&share, out), out, |h, s| h * s),
                    shape,
                )?);
            }
            Ok(result)
        })
    }
}
