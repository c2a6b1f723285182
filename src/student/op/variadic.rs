//! Operators of any number of inputs that repeat to one shape: `Max`, `Min`, `Sum`, `Mean`. Equal
//! extremes share the gradient evenly, as `PyTorch`'s maximum and minimum.

use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::Float;
use crate::kernel::elementwise::map;
use crate::kernel::strided::{Strided, broadcast_zip, gather, reduce_sum};
use crate::tensor::{Element, data, tensor, typed};
use candle_core::Tensor;

/// The shapes of the inputs, and the one that all repeat to.
#[derive(Debug)]
struct Repeated {
    inputs: Vec<Vec<usize>>,
    output: Vec<usize>,
}

/// The sum times a factor.
#[derive(Debug)]
struct VariadicSum {
    factor: f64,
    shapes: Repeated,
}

#[derive(Debug)]
struct VariadicExtreme {
    largest: bool,
    shapes: Repeated,
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
    let all: Vec<usize> = (0..inputs.len()).collect();
    let share = 1.0 / inputs.len() as f64;
    let shapes = Repeated { inputs, output: output.clone() };
    Ok(match site.operator() {
        "Max" => Built::new(VariadicExtreme { largest: true, shapes }, all, output),
        "Min" => Built::new(VariadicExtreme { largest: false, shapes }, all, output),
        "Sum" => Built::new(VariadicSum { factor: 1.0, shapes }, all, output),
        _ => Built::new(VariadicSum { factor: share, shapes }, all, output),
    })
}

impl Repeated {
    /// All inputs combined from the first on.
    fn combined<T: Element>(&self, inputs: &[&Tensor], f: fn(T, T) -> T) -> Result<Vec<T>> {
        let first = data(inputs[0])?;
        let mut y = gather(first.of::<T>()?, &Strided::broadcast(&self.inputs[0], &self.output));
        for (x, shape) in inputs.iter().zip(&self.inputs).skip(1) {
            let x = data(x)?;
            y = broadcast_zip((&y, &self.output), (x.of::<T>()?, shape), &self.output, f);
        }
        Ok(y)
    }

    fn summed<T: Element>(&self, full: Vec<T>, to: &[usize]) -> Result<Tensor> {
        if to == self.output {
            tensor(full, to)
        } else {
            tensor(reduce_sum(&full, &self.output, to), to)
        }
    }
}

impl Operator for VariadicSum {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let y = typed!(inputs[0].dtype(), |T| {
            let mut y: Vec<T> = self.shapes.combined(inputs, |a, b| a + b)?;
            if (self.factor - 1.0).abs() > 0.0 {
                let factor = <T as Float>::of(self.factor);
                y = map(&y, |v| v * factor);
            }
            tensor(y, &self.shapes.output)
        })?;
        Ok(OpOutput::one(y, ()))
    }

    fn backward(
        &self,
        _kept: (),
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let held = data(&dy)?;
        typed!(dy.dtype(), |T| {
            let (d, factor) = (held.of::<T>()?, <T as Float>::of(self.factor));
            let share = |(shape, &wanted): (&Vec<usize>, &bool)| {
                wanted.then(|| self.shapes.summed(map(d, |d| d * factor), shape)).transpose()
            };
            self.shapes.inputs.iter().zip(wanted).map(share).collect()
        })
    }
}

impl VariadicExtreme {
    /// 1 where an operand is the extreme.
    fn hits<T: Element>(&self, y: &[T], x: &Tensor, shape: &[usize]) -> Result<Vec<T>> {
        let same = |y: T, x: T| if x == y { T::one() } else { T::zero() };
        let output = self.shapes.output.as_slice();
        Ok(broadcast_zip((y, output), (data(x)?.of::<T>()?, shape), output, same))
    }
}

/// The operands and their extreme.
#[derive(Debug)]
struct VariadicExtremeKept {
    operands: Vec<Tensor>,
    extreme: Tensor,
}

impl Operator for VariadicExtreme {
    type Kept = VariadicExtremeKept;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let y = typed!(inputs[0].dtype(), |T| {
            let f: fn(T, T) -> T = if self.largest {
                |a, b| if b > a || b.is_nan() { b } else { a }
            } else {
                |a, b| if b < a || b.is_nan() { b } else { a }
            };
            tensor(self.shapes.combined(inputs, f)?, &self.shapes.output)
        })?;
        let operands = inputs.iter().map(|&x| x.clone()).collect();
        Ok(OpOutput::one(y.clone(), VariadicExtremeKept { operands, extreme: y }))
    }

    fn backward(
        &self,
        kept: VariadicExtremeKept,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let (held, y) = (data(&dy)?, data(&kept.extreme)?);
        let out = self.shapes.output.as_slice();
        let operands = || kept.operands.iter().zip(&self.shapes.inputs);
        typed!(dy.dtype(), |T| {
            let (d, y) = (held.of::<T>()?, y.of::<T>()?);
            let mut ties: Vec<T> = vec![0.0; y.len()];
            for (x, shape) in operands() {
                let hits = self.hits(y, x, shape)?;
                ties.iter_mut().zip(hits).for_each(|(n, hit)| *n += hit);
            }
            let share = broadcast_zip((d, out), (&ties, out), out, |d, n| d / n);
            let mut result = vec![None; wanted.len()];
            for (i, (x, shape)) in operands().enumerate().filter(|(i, _)| wanted[*i]) {
                let hits = self.hits(y, x, shape)?;
                let full = broadcast_zip((&hits, out), (&share, out), out, |h, s| h * s);
                result[i] = Some(self.shapes.summed(full, shape)?);
            }
            Ok(result)
        })
    }
}
