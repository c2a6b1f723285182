//! `Add`, `Sub`, `Mul`, `Div`, `Mod` and `Pow` with broadcasting.

use super::on_device::{self, Target};
use super::{Built, Forward, Kind, Operator, Run, Saved, Site, only, saved};
use crate::error::{Error, Result};
use crate::kernel::elementwise::map;
use crate::kernel::strided::{broadcast_zip, reduce_sum};
use crate::student::value::{Element, data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    /// The remainder with the sign of the dividend (`fmod`).
    Remainder,
    /// The remainder with the sign of the divisor.
    Modulo,
    /// Of integers: towards zero.
    Quotient,
}

#[derive(Debug)]
struct Binary {
    function: Function,
    a: Vec<usize>,
    b: Vec<usize>,
    out: Vec<usize>,
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
    let function = match site.operator() {
        "Add" => Function::Add,
        "Sub" => Function::Sub,
        "Mul" => Function::Mul,
        "Pow" => Function::Pow,
        "Mod" if site.int("fmod", 0) != 0 => Function::Remainder,
        "Mod" => Function::Modulo,
        _ if site.integer(0) && site.integer(1) => Function::Quotient,
        _ => Function::Div,
    };
    let (a, b) = (site.shape(0)?.to_vec(), site.shape(1)?.to_vec());
    let out = broadcast(&a, &b)?;
    Ok(Built::new(Binary { function, a, b, out: out.clone() }, [0, 1], out))
}

impl Binary {
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

    /// `f(a, b)·d`, summed over what the operand was repeated along.
    fn sloped<T: Element>(
        &self,
        kept: &Saved,
        dy: &[T],
        to: &[usize],
        f: impl Fn(T, T) -> T + Sync,
    ) -> Result<Tensor> {
        let (a, b) = (data(saved(kept, 0)?)?, data(saved(kept, 1)?)?);
        let slope = broadcast_zip((a.of::<T>()?, &self.a), (b.of::<T>()?, &self.b), &self.out, f);
        self.reduced(
            broadcast_zip((dy, &self.out), (&slope, &self.out), &self.out, |d, s| d * s),
            to,
        )
    }

    fn gradients<T: Element>(
        &self,
        kept: &Saved,
        dy: &Tensor,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let held = data(dy)?;
        let d = held.of::<T>()?;
        let out = self.out.as_slice();
        let (a_shape, b_shape) = (self.a.as_slice(), self.b.as_slice());
        let when = |i: usize, f: &dyn Fn() -> Result<Tensor>| {
            if wanted[i] { f().map(Some) } else { Ok(None) }
        };
        match self.function {
            Function::Add => Ok(vec![
                when(0, &|| self.passed::<T>(dy, a_shape))?,
                when(1, &|| self.passed::<T>(dy, b_shape))?,
            ]),
            Function::Sub => Ok(vec![
                when(0, &|| self.passed::<T>(dy, a_shape))?,
                when(1, &|| self.reduced(map(d, |d| -d), b_shape))?,
            ]),
            Function::Mul => {
                let (a, b) = (data(saved(kept, 0)?)?, data(saved(kept, 1)?)?);
                let (a, b) = (a.of::<T>()?, b.of::<T>()?);
                Ok(vec![
                    when(0, &|| {
                        self.reduced(
                            broadcast_zip((d, out), (b, b_shape), out, |d, b| d * b),
                            a_shape,
                        )
                    })?,
                    when(1, &|| {
                        self.reduced(
                            broadcast_zip((d, out), (a, a_shape), out, |d, a| d * a),
                            b_shape,
                        )
                    })?,
                ])
            }
            Function::Div => {
                let b = data(saved(kept, 1)?)?;
                let b = b.of::<T>()?;
                Ok(vec![
                    when(0, &|| {
                        self.reduced(
                            broadcast_zip((d, out), (b, b_shape), out, |d, b| d / b),
                            a_shape,
                        )
                    })?,
                    when(1, &|| self.sloped(kept, d, b_shape, |a, b| -a / (b * b)))?,
                ])
            }
            // at 0 to the power of 0 the slopes are 0, as in PyTorch
            Function::Pow => Ok(vec![
                when(0, &|| {
                    self.sloped(kept, d, a_shape, |a, b| {
                        if b == T::zero() { b } else { b * a.powf(b - T::one()) }
                    })
                })?,
                when(1, &|| {
                    let still = |a: T, b: T| a == T::zero() && b >= T::zero();
                    self.sloped(kept, d, b_shape, |a, b| {
                        if still(a, b) { T::zero() } else { a.powf(b) * a.ln() }
                    })
                })?,
            ]),
            Function::Remainder | Function::Modulo => {
                let own = when(0, &|| self.passed::<T>(dy, a_shape))?;
                let whole: fn(T) -> T =
                    if self.function == Function::Remainder { T::trunc } else { T::floor };
                Ok(vec![own, when(1, &|| self.sloped(kept, d, b_shape, |a, b| -whole(a / b)))?])
            }
            Function::Quotient => Ok(vec![None, None]),
        }
    }
}

impl Operator for Binary {
    fn on_device(&self, _target: &Target) -> Result<Option<Box<dyn Operator>>> {
        use on_device::binary::Function as Form;
        let function = match self.function {
            Function::Add => Form::Add,
            Function::Sub => Form::Sub,
            Function::Mul => Form::Mul,
            Function::Div => Form::Div,
            // candle's power is exp(b·ln a), which has no negative base
            Function::Pow | Function::Remainder | Function::Modulo | Function::Quotient => {
                return Ok(None);
            }
        };
        on_device::boxed(on_device::binary::Binary {
            function,
            a: self.a.clone(),
            b: self.b.clone(),
        })
    }

    fn kind(&self) -> Kind<'_> {
        if self.function == Function::Add && self.a == self.b { Kind::Add } else { Kind::Other }
    }

    fn forward(&self, inputs: &[&Tensor], _run: &Run) -> Result<Forward> {
        let (held_a, held_b) = (data(inputs[0])?, data(inputs[1])?);
        let y = typed!(inputs[0].dtype(), |T| {
            let (a, b) =
                ((held_a.of::<T>()?, self.a.as_slice()), (held_b.of::<T>()?, self.b.as_slice()));
            let y = match self.function {
                Function::Add => broadcast_zip(a, b, &self.out, |a, b| a + b),
                Function::Sub => broadcast_zip(a, b, &self.out, |a, b| a - b),
                Function::Mul => broadcast_zip(a, b, &self.out, |a, b| a * b),
                Function::Div => broadcast_zip(a, b, &self.out, |a, b| a / b),
                Function::Pow => broadcast_zip(a, b, &self.out, T::powf),
                Function::Remainder => broadcast_zip(a, b, &self.out, |a, b| a % b),
                Function::Quotient => broadcast_zip(a, b, &self.out, |a, b| (a / b).trunc()),
                Function::Modulo => broadcast_zip(a, b, &self.out, |a, b| a - b * (a / b).floor()),
            };
            tensor(y, &self.out)
        })?;
        let keep = matches!(
            self.function,
            Function::Mul | Function::Div | Function::Pow | Function::Remainder | Function::Modulo
        );
        Ok(Forward::one(
            y,
            if keep { vec![inputs[0].clone(), inputs[1].clone()] } else { Vec::new() },
        ))
    }

    fn backward(
        &self,
        kept: Saved,
        gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        typed!(dy.dtype(), |T| self.gradients::<T>(&kept, &dy, wanted))
    }
}
