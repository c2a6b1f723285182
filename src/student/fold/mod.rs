//! Constant folding: what a graph computes from shapes and constants alone is known as soon as the
//! input shapes are.

mod arrange;

use super::Mode;
use super::host::{Host, LIMIT, Numbers, at_most, limit};
use super::op::site::{INTEGERS, Site, attribute};
use super::op::{self, binary, reshape, view};
use crate::error::{Error, Result};
use crate::kernel::strided::Strided;
use crate::onnx::operator::{Binary, Class, Fold, Unary};
use crate::tensor::{narrow, wide};
use arrange::{concatenated, gathered, tiled};

/// Element types of ONNX.
const FLOAT: i64 = 1;
const INT64: i64 = 7;

/// The outputs of a node whose inputs are known (`Shape` and `Size` need only the shape); `None`
/// when its operator is not folded.
///
/// `fill`: the value attribute of `ConstantOfShape`.
pub(super) fn fold(site: &Site<'_>, fill: Option<&Host>) -> Result<Option<Vec<Host>>> {
    let operator = site.node.operator();
    let folds = operator.folds;
    if operator.class == Class::Random {
        return Ok(None);
    }
    if let Some(fold @ (Fold::Shape | Fold::Size)) = folds {
        return outputs(site, fold, fill).map(Some);
    }
    // only the type of the second input matters
    if let ("CastLike", Some(x)) = (site.node.op_type(), site.constant(0)) {
        let to = if site.integer(1) { INT64 } else { FLOAT };
        return Ok(Some(vec![cast(x, to)]));
    }
    if !site
        .shapes
        .iter()
        .zip(&site.constants)
        .all(|(shape, known)| shape.is_none() || known.is_some())
    {
        return Ok(None);
    }
    // only the usual form of these is folded here
    let is_usual = |fold: &Fold| match fold {
        Fold::Binary(Binary::Max | Binary::Min) => site.shapes.len() == 2,
        Fold::Product => {
            site.shapes.first().is_some_and(|s| s.as_ref().is_some_and(|s| s.len() == 1))
        }
        Fold::Binary(Binary::Mod) => site.int("fmod", 0) == 0,
        _ => true,
    };
    let Some(fold) = folds.filter(is_usual) else {
        return if op::refusal(site.node).as_deref() != Some(op::UNKNOWN) && !site.shapes.is_empty()
        {
            computed(site).map(Some)
        } else {
            Ok(None)
        };
    };
    outputs(site, fold, fill).map(Some)
}

/// The outputs of a numeric operator on known inputs, in double precision.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the inputs are integers, and arithmetic on them is exact"
)]
fn computed(site: &Site<'_>) -> Result<Vec<Host>> {
    let built = op::build(site)?;
    for shape in &built.outputs {
        limit(shape)?;
    }
    let inputs = built
        .inputs
        .iter()
        .map(|&i| {
            site.given(i)
                .and_then(|host| narrow(&host.floats(), &host.shape, candle_core::DType::F64))
        })
        .collect::<Result<Vec<_>>>()?;
    let options = op::PassOptions { mode: Mode::Eval, freeze_batchnorm: true, seed: 0 };
    let outputs = built.operator.forward(&inputs.iter().collect::<Vec<_>>(), &options)?.outputs;
    let host = |(i, t): (usize, &candle_core::Tensor)| {
        let (shape, values) = (t.dims().to_vec(), wide(t)?);
        Ok(if site.yields_integers(i) {
            Host::int(shape, values.iter().map(|&v| v as i64).collect())
        } else {
            Host::float(shape, values)
        })
    };
    outputs.iter().enumerate().map(host).collect()
}

/// The sizes of an input, as `Shape` gives them.
fn sizes(site: &Site<'_>) -> Result<Host> {
    let sizes = site.shape(0)?.iter().map(|&n| signed(n)).collect::<Result<Vec<_>>>()?;
    let rank = signed(sizes.len())?;
    let bound =
        |v: i64| usize::try_from(if v < 0 { v + rank } else { v }.clamp(0, rank)).unwrap_or(0);
    let (start, end) = (bound(site.int("start", 0)), bound(site.int("end", rank)));
    let part = sizes.get(start..end.max(start)).unwrap_or_default().to_vec();
    Ok(Host::int(vec![part.len()], part))
}

fn signed(n: usize) -> Result<i64> {
    i64::try_from(n).map_err(|e| Error::input("shape").because(e))
}

fn outputs(site: &Site<'_>, fold: Fold, fill: Option<&Host>) -> Result<Vec<Host>> {
    let x = || site.given(0);
    let host = match fold {
        Fold::Shape => sizes(site)?,
        Fold::Size => Host::int(Vec::new(), vec![signed(at_most(site.shape(0)?, usize::MAX)?)?]),
        Fold::Split => {
            let x = x()?;
            return view::split(site, &x.shape)?.iter().map(|v| x.viewed(v)).collect();
        }
        Fold::Gather => gathered(x()?, site.given(1)?, site.int("axis", 0))?,
        Fold::Concat => concatenated(site)?,
        Fold::Unsqueeze => x()?.reshaped(reshape::unsqueezed(
            &x()?.shape,
            &site.ints_at(1, "axes")?.unwrap_or_default(),
        )?),
        Fold::Squeeze => {
            x()?.reshaped(reshape::squeezed(&x()?.shape, site.ints_at(1, "axes")?.as_deref())?)
        }
        Fold::Flatten => x()?.reshaped(reshape::flattened(&x()?.shape, site.int("axis", 1))?),
        Fold::Reshape => {
            let target = site.ints_at(1, "shape")?.unwrap_or_default();
            x()?.reshaped(reshape::reshaped(&x()?.shape, &target, site.int("allowzero", 0) != 0)?)
        }
        Fold::Cast => cast(x()?, site.int("to", 1)),
        Fold::Copy => x()?.clone(),
        Fold::Range => range(x()?, site.given(1)?, site.given(2)?)?,
        Fold::Fill => {
            let shape = x()?.sizes()?;
            let count = limit(&shape)?;
            match fill.map(|f| &f.numbers) {
                Some(Numbers::Int(v)) => {
                    Host::int(shape, vec![v.first().copied().unwrap_or(0); count])
                }
                Some(Numbers::Float(v)) => {
                    Host::float(shape, vec![v.first().copied().unwrap_or(0.0); count])
                }
                None => Host::float(shape, vec![0.0; count]),
            }
        }
        Fold::Slice => {
            let (starts, ends) = (
                site.ints_at(1, "starts")?.unwrap_or_default(),
                site.ints_at(2, "ends")?.unwrap_or_default(),
            );
            x()?.viewed(&view::sliced(
                &x()?.shape,
                &starts,
                &ends,
                site.ints_at(3, "axes")?.as_deref(),
                site.known_ints(4)?.as_deref(),
            )?)?
        }
        Fold::Transpose => x()?.viewed(&view::transposed(
            &x()?.shape,
            &view::permutation(
                attribute(site.node, "perm").map(|a| &a.ints[..]),
                x()?.shape.len(),
            )?,
        ))?,
        Fold::Expand => {
            let shape = binary::broadcast(&x()?.shape, &site.given(1)?.sizes()?)?;
            limit(&shape)?;
            x()?.viewed(&Strided::broadcast(&x()?.shape, &shape))?
        }
        Fold::Tile => tiled(x()?, &site.given(1)?.sizes()?)?,
        Fold::Where => chosen(x()?, site.given(1)?, site.given(2)?)?,
        Fold::Product => product(site, x()?)?,
        Fold::Unary(unary) => of_one(unary, x()?)?,
        Fold::Binary(binary) => of_two(binary, x()?, site.given(1)?)?,
    };
    Ok(vec![host])
}

#[allow(clippy::cast_possible_truncation, reason = "a cast to an integer truncates")]
fn cast(x: &Host, to: i64) -> Host {
    let shape = x.shape.clone();
    if to == 9 {
        return Host::int(shape, x.floats().into_iter().map(|v| i64::from(v != 0.0)).collect());
    }
    match (&x.numbers, INTEGERS.contains(&to)) {
        (Numbers::Float(v), true) => Host::int(shape, v.iter().map(|&v| v as i64).collect()),
        (Numbers::Int(_), false) => Host::float(shape, x.floats()),
        _ => x.clone(),
    }
}

fn range(start: &Host, end: &Host, step: &Host) -> Result<Host> {
    let scalar = |h: &Host| {
        h.floats().first().copied().ok_or_else(|| Error::input("range: expected a number"))
    };
    let (first, last, by) = (scalar(start)?, scalar(end)?, scalar(step)?);
    let count = ((last - first) / by).ceil().max(0.0);
    #[allow(clippy::cast_precision_loss, reason = "the limit is 2²⁴")]
    let fits = count <= LIMIT as f64;
    if !fits {
        return Err(Error::input(format!(
            "range from {first} to {last} by {by}: expected at most {LIMIT} values"
        )));
    }
    let mut values = Vec::new();
    let mut i = 0.0;
    while i < count {
        values.push(first + i * by);
        i += 1.0;
    }
    let host = Host::float(vec![values.len()], values);
    Ok(if start.is_float() { host } else { cast(&host, INT64) })
}

fn chosen(condition: &Host, a: &Host, b: &Host) -> Result<Host> {
    let shape = binary::broadcast(&binary::broadcast(&condition.shape, &a.shape)?, &b.shape)?;
    limit(&shape)?;
    let spread = |h: &Host| h.viewed(&Strided::broadcast(&h.shape, &shape));
    let (condition, a, b) = (spread(condition)?, spread(a)?, spread(b)?);
    let condition = condition.ints()?;
    if let (Numbers::Int(a), Numbers::Int(b)) = (&a.numbers, &b.numbers) {
        return Ok(Host::int(
            shape,
            condition
                .iter()
                .zip(a.iter().zip(b))
                .map(|(&c, (&a, &b))| if c != 0 { a } else { b })
                .collect(),
        ));
    }
    let (a, b) = (a.floats(), b.floats());
    Ok(Host::float(
        shape,
        condition
            .iter()
            .zip(a.iter().zip(&b))
            .map(|(&c, (&a, &b))| if c != 0 { a } else { b })
            .collect(),
    ))
}

/// `ReduceProd` of a shape.
fn product(site: &Site<'_>, x: &Host) -> Result<Host> {
    let axes = site.ints_at(1, "axes")?.unwrap_or_default();
    if x.shape.len() != 1 || axes.iter().any(|&a| a != 0 && a != -1) {
        return Err(Error::input("product of a constant: expected one axis"));
    }
    let shape = if site.int("keepdims", 1) != 0 { vec![1] } else { Vec::new() };
    Ok(match &x.numbers {
        Numbers::Float(v) => Host::float(shape, vec![v.iter().product()]),
        Numbers::Int(v) => {
            let total = v.iter().try_fold(1i64, |a, &b| a.checked_mul(b));
            Host::int(
                shape,
                vec![total.ok_or_else(|| Error::input("product of a constant overflows"))?],
            )
        }
    })
}

fn of_one(unary: Unary, x: &Host) -> Result<Host> {
    let shape = x.shape.clone();
    if let Numbers::Int(v) = &x.numbers {
        let f: fn(i64) -> i64 = match unary {
            Unary::Neg => i64::wrapping_neg,
            Unary::Abs => i64::wrapping_abs,
            Unary::Not => |v| i64::from(v == 0),
            Unary::Floor | Unary::Ceil | Unary::Round | Unary::Sqrt => |v| v,
        };
        return Ok(Host::int(shape, v.iter().map(|&v| f(v)).collect()));
    }
    let f: fn(f64) -> f64 = match unary {
        Unary::Neg => |v| -v,
        Unary::Abs => f64::abs,
        Unary::Floor => f64::floor,
        Unary::Ceil => f64::ceil,
        Unary::Round => f64::round_ties_even,
        Unary::Sqrt => f64::sqrt,
        Unary::Not => {
            return Err(Error::input(format!("{unary:?} of a constant is not supported")));
        }
    };
    Ok(Host::float(shape, x.floats().into_iter().map(f).collect()))
}

fn of_two(binary: Binary, a: &Host, b: &Host) -> Result<Host> {
    let shape = binary::broadcast(&a.shape, &b.shape)?;
    limit(&shape)?;
    let spread = |h: &Host| h.viewed(&Strided::broadcast(&h.shape, &shape));
    let (a, b) = (spread(a)?, spread(b)?);
    let wrong = || Error::input(format!("{binary:?} of constants divides by zero or overflows"));
    if let (Numbers::Int(a), Numbers::Int(b)) = (&a.numbers, &b.numbers) {
        let f: fn(i64, i64) -> Option<i64> = match binary {
            Binary::Add => i64::checked_add,
            Binary::Sub => i64::checked_sub,
            Binary::Mul => i64::checked_mul,
            Binary::Div => i64::checked_div,
            Binary::Mod => |a, b| {
                a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r })
            },
            Binary::Min => |a, b| Some(a.min(b)),
            Binary::Max => |a, b| Some(a.max(b)),
            Binary::Pow => |a, b| u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
            Binary::Equal => |a, b| Some(i64::from(a == b)),
            Binary::Less => |a, b| Some(i64::from(a < b)),
            Binary::Greater => |a, b| Some(i64::from(a > b)),
            Binary::LessOrEqual => |a, b| Some(i64::from(a <= b)),
            Binary::GreaterOrEqual => |a, b| Some(i64::from(a >= b)),
            Binary::And => |a, b| Some(i64::from(a != 0 && b != 0)),
            Binary::Or => |a, b| Some(i64::from(a != 0 || b != 0)),
        };
        let values: Option<Vec<i64>> = a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect();
        return Ok(Host::int(shape, values.ok_or_else(wrong)?));
    }
    let (a, b) = (a.floats(), b.floats());
    let compared = |f: fn(f64, f64) -> bool| {
        Ok(Host::int(shape.clone(), a.iter().zip(&b).map(|(&a, &b)| i64::from(f(a, b))).collect()))
    };
    #[allow(clippy::float_cmp, reason = "the operators ask for exact comparison")]
    let f: fn(f64, f64) -> f64 = match binary {
        Binary::Equal => return compared(|a, b| a == b),
        Binary::Less => return compared(|a, b| a < b),
        Binary::Greater => return compared(|a, b| a > b),
        Binary::LessOrEqual => return compared(|a, b| a <= b),
        Binary::GreaterOrEqual => return compared(|a, b| a >= b),
        Binary::Add => |a, b| a + b,
        Binary::Sub => |a, b| a - b,
        Binary::Mul => |a, b| a * b,
        Binary::Div => |a, b| a / b,
        Binary::Mod => |a, b| a % b,
        Binary::Min => f64::min,
        Binary::Max => f64::max,
        Binary::Pow => f64::powf,
        Binary::And | Binary::Or => {
            return Err(Error::input(format!("{binary:?} of constants is not supported")));
        }
    };
    Ok(Host::float(shape, a.iter().zip(&b).map(|(&a, &b)| f(a, b)).collect()))
}
