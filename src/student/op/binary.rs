//! `Add`, `Sub`, `Mul`, `Div`, `Mod` and `Pow` with broadcasting.

use super::{Built, MapLayer, OpOutput, Operator, PassOptions, Site, only};
use crate::error::{Error, Result};
use crate::kernel::elementwise::map;
use crate::kernel::strided::{broadcast_zip, reduce_sum};
use crate::tensor::{Element, data, tensor, typed};
use candle_core::Tensor;

/// Functions whose gradients do not depend on the operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::student) enum Linear {
    Add,
    Sub,
    /// Of integers, towards zero: nothing flows back.
    Quotient,
}

/// Functions whose gradients are taken at the operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::student) enum Curved {
    Mul,
    Div,
    Pow,
    /// The remainder with the sign of the dividend (`fmod`).
    Remainder,
    /// The remainder with the sign of the divisor.
    Modulo,
}

/// The shapes of the operands, and the one that both repeat to.
#[derive(Debug)]
pub(in crate::student) struct Operands {
    pub(in crate::student) a: Vec<usize>,
    pub(in crate::student) b: Vec<usize>,
    out: Vec<usize>,
}

#[derive(Debug)]
pub(in crate::student) struct LinearBinary {
    pub(in crate::student) function: Linear,
    pub(in crate::student) shapes: Operands,
}

#[derive(Debug)]
pub(in crate::student) struct CurvedBinary {
    pub(in crate::student) function: Curved,
    pub(in crate::student) shapes: Operands,
}

/// The shape that two shapes broadcast to.
pub(in crate::student) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], axis: usize| {
        (axis + shape.len()).checked_sub(rank).map_or(1, |i| shape[i])
    };
    (0..rank)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(Error::input(format!("shapes {a:?} and {b:?} do not broadcast"))),
        })
        .collect()
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let (a, b) = (site.shape(0)?.to_vec(), site.shape(1)?.to_vec());
    let out = broadcast(&a, &b)?;
    let shapes = Operands { a, b, out: out.clone() };
    let linear = match site.operator() {
        "Add" => Some(Linear::Add),
        "Sub" => Some(Linear::Sub),
        "Div" if site.integer(0) && site.integer(1) => Some(Linear::Quotient),
        _ => None,
    };
    if let Some(function) = linear {
        return Ok(Built::new(LinearBinary { function, shapes }, [0, 1], out));
    }
    let function = match site.operator() {
        "Mul" => Curved::Mul,
        "Pow" => Curved::Pow,
        "Mod" if site.int("fmod", 0) != 0 => Curved::Remainder,
        "Mod" => Curved::Modulo,
        _ => Curved::Div,
    };
    Ok(Built::new(CurvedBinary { function, shapes }, [0, 1], out))
}

impl Operands {
    /// `f(a, b)` of the operands' values, both repeated.
    fn zip<T: Element>(&self, a: &[T], b: &[T], f: impl Fn(T, T) -> T + Sync) -> Vec<T> {
        broadcast_zip((a, &self.a), (b, &self.b), &self.out, f)
    }

    /// Sums a gradient over what an operand was repeated along.
    fn reduced<T: Element>(&self, full: Vec<T>, to: &[usize]) -> Result<Tensor> {
        if to == self.out { tensor(full, to) } else { tensor(reduce_sum(&full, &self.out, to), to) }
    }

    /// A gradient that is the output's own: handed on without a copy where shapes agree.
    fn passed<T: Element>(&self, dy: &Tensor, to: &[usize]) -> Result<Tensor> {
        if to == self.out {
            Ok(dy.clone())
        } else {
            tensor(reduce_sum(data(dy)?.of::<T>()?, &self.out, to), to)
        }
    }

    /// `f(d, x)` with an operand's values, summed over what `to` was repeated along.
    fn scaled<T: Element>(
        &self,
        d: &[T],
        x: (&[T], &[usize]),
        to: &[usize],
        f: impl Fn(T, T) -> T + Sync,
    ) -> Result<Tensor> {
        self.reduced(broadcast_zip((d, &self.out), x, &self.out, f), to)
    }

    /// `d·f(a, b)`, summed likewise.
    fn sloped<T: Element>(
        &self,
        d: &[T],
        [a, b]: [&[T]; 2],
        to: &[usize],
        f: impl Fn(T, T) -> T + Sync,
    ) -> Result<Tensor> {
        let slope = self.zip(a, b, f);
        self.scaled(d, (&slope, &self.out), to, |d, s| d * s)
    }
}

/// A gradient if it is wanted.
fn when(wanted: bool, f: impl FnOnce() -> Result<Tensor>) -> Result<Option<Tensor>> {
    if wanted { f().map(Some) } else { Ok(None) }
}

impl Operator for LinearBinary {
    type Kept = ();

    fn map_layer(&self) -> MapLayer<'_> {
        if self.function == Linear::Add && self.shapes.a == self.shapes.b {
            MapLayer::Add
        } else {
            MapLayer::Other
        }
    }

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let (a, b) = (data(inputs[0])?, data(inputs[1])?);
        let y = typed!(inputs[0].dtype(), |T| {
            let (a, b) = (a.of::<T>()?, b.of::<T>()?);
            let y = match self.function {
                Linear::Add => self.shapes.zip(a, b, |a, b| a + b),
                Linear::Sub => self.shapes.zip(a, b, |a, b| a - b),
                Linear::Quotient => self.shapes.zip(a, b, |a, b| (a / b).trunc()),
            };
            tensor(y, &self.shapes.out)
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
        let Operands { a, b, .. } = &self.shapes;
        typed!(dy.dtype(), |T| {
            let da = || self.shapes.passed::<T>(&dy, a);
            match self.function {
                Linear::Add => {
                    let db = || self.shapes.passed::<T>(&dy, b);
                    Ok(vec![when(wanted[0], da)?, when(wanted[1], db)?])
                }
                Linear::Sub => {
                    let held = data(&dy)?;
                    let d = held.of::<T>()?;
                    let db = || self.shapes.reduced(map(d, |d| -d), b);
                    Ok(vec![when(wanted[0], da)?, when(wanted[1], db)?])
                }
                Linear::Quotient => Ok(vec![None, None]),
            }
        })
    }
}

impl CurvedBinary {
    /// The gradients of both operands where they are wanted. `d`: the values of `dy`.
    fn gradients<T: Element>(
        &self,
        [a, b]: [&[T]; 2],
        (dy, d): (&Tensor, &[T]),
        wanted: &[bool],
    ) -> Result<[Option<Tensor>; 2]> {
        let s = &self.shapes;
        let (of_a, of_b) = ((a, s.a.as_slice()), (b, s.b.as_slice()));
        let [first, second] = [wanted[0], wanted[1]];
        Ok(match self.function {
            Curved::Mul => [
                when(first, || s.scaled(d, of_b, &s.a, |d, b| d * b))?,
                when(second, || s.scaled(d, of_a, &s.b, |d, a| d * a))?,
            ],
            Curved::Div => [
                when(first, || s.scaled(d, of_b, &s.a, |d, b| d / b))?,
                when(second, || s.sloped(d, [a, b], &s.b, |a, b| -a / (b * b)))?,
            ],
            // at 0 to the power of 0 the slopes are 0, as in PyTorch
            Curved::Pow => {
                let by_base = |a: T, b: T| {
                    if b == T::zero() { b } else { b * a.powf(b - T::one()) }
                };
                let still = |a: T, b: T| a == T::zero() && b >= T::zero();
                let by_power = |a: T, b: T| {
                    if still(a, b) { T::zero() } else { a.powf(b) * a.ln() }
                };
                [
                    when(first, || s.sloped(d, [a, b], &s.a, by_base))?,
                    when(second, || s.sloped(d, [a, b], &s.b, by_power))?,
                ]
            }
            Curved::Remainder | Curved::Modulo => {
                let whole: fn(T) -> T =
                    if self.function == Curved::Remainder { T::trunc } else { T::floor };
                [
                    when(first, || s.passed::<T>(dy, &s.a))?,
                    when(second, || s.sloped(d, [a, b], &s.b, |a, b| -whole(a / b)))?,
                ]
            }
        })
    }
}

impl Operator for CurvedBinary {
    type Kept = [Tensor; 2];

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let (a, b) = (data(inputs[0])?, data(inputs[1])?);
        let y = typed!(inputs[0].dtype(), |T| {
            let (a, b) = (a.of::<T>()?, b.of::<T>()?);
            let y = match self.function {
                Curved::Mul => self.shapes.zip(a, b, |a, b| a * b),
                Curved::Div => self.shapes.zip(a, b, |a, b| a / b),
                Curved::Pow => self.shapes.zip(a, b, T::powf),
                Curved::Remainder => self.shapes.zip(a, b, |a, b| a % b),
                Curved::Modulo => self.shapes.zip(a, b, |a, b| a - b * (a / b).floor()),
            };
            tensor(y, &self.shapes.out)
        })?;
        Ok(OpOutput::one(y, [inputs[0].clone(), inputs[1].clone()]))
    }

    fn backward(
        &self,
        [a, b]: Self::Kept,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let (a, b, d) = (data(&a)?, data(&b)?, data(&dy)?);
        typed!(dy.dtype(), |T| {
            let operands = [a.of::<T>()?, b.of::<T>()?];
            self.gradients(operands, (&dy, d.of::<T>()?), wanted).map(Vec::from)
        })
    }
}
