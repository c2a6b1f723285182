//! Constant folding: what a graph computes from shapes and constants alone is known once the input shapes are.

mod arrange;

use super::Mode;
use super::op::site::{INTEGERS, Site, attribute};
use super::op::{self, binary, reshape, view};
use super::value::{narrow, wide};
use crate::array::{Array, Values};
use crate::error::{Error, Result};
use crate::kernel::strided::{Strided, gather};
use arrange::{concatenated, gathered, scattered, tiled};

/// A known value: integers (booleans among them) or numbers, row-major.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Host {
    pub(super) shape: Vec<usize>,
    pub(super) numbers: Numbers,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Numbers {
    Int(Vec<i64>),
    Float(Vec<f64>),
}

/// More elements than this are not made of fewer: shape arithmetic and masks are small, and a hostile shape must not fill the memory.
const LIMIT: usize = 1 << 24;

impl Host {
    pub(super) fn int(shape: Vec<usize>, values: Vec<i64>) -> Self {
        Self { shape, numbers: Numbers::Int(values) }
    }

    pub(super) fn float(shape: Vec<usize>, values: Vec<f64>) -> Self {
        Self { shape, numbers: Numbers::Float(values) }
    }

    pub(super) fn from_array(array: &Array) -> Self {
        let numbers = match array.values() {
            Values::Bool(v) | Values::U8(v) => Numbers::Int(v.iter().map(|&x| i64::from(x)).collect()),
            Values::U16(v) => Numbers::Int(v.iter().map(|&x| i64::from(x)).collect()),
            Values::U32(v) => Numbers::Int(v.iter().map(|&x| i64::from(x)).collect()),
            Values::U64(v) => Numbers::Int(v.iter().map(|&x| i64::try_from(x).unwrap_or(i64::MAX)).collect()),
            Values::I8(v) => Numbers::Int(v.iter().map(|&x| i64::from(x)).collect()),
            Values::I16(v) => Numbers::Int(v.iter().map(|&x| i64::from(x)).collect()),
            Values::I32(v) => Numbers::Int(v.iter().map(|&x| i64::from(x)).collect()),
            Values::I64(v) => Numbers::Int(v.clone()),
            Values::BF16(v) => Numbers::Float(v.iter().map(|x| x.to_f64()).collect()),
            Values::F16(v) => Numbers::Float(v.iter().map(|x| x.to_f64()).collect()),
            Values::F32(v) => Numbers::Float(v.iter().map(|&x| f64::from(x)).collect()),
            Values::F64(v) => Numbers::Float(v.clone()),
        };
        Self { shape: array.shape().to_vec(), numbers }
    }

    pub(super) fn len(&self) -> usize {
        match &self.numbers {
            Numbers::Int(v) => v.len(),
            Numbers::Float(v) => v.len(),
        }
    }

    pub(super) fn is_float(&self) -> bool {
        matches!(self.numbers, Numbers::Float(_))
    }

    pub(super) fn ints(&self) -> Result<&[i64]> {
        match &self.numbers {
            Numbers::Int(v) => Ok(v),
            Numbers::Float(_) => Err(Error::input("constant: expected integers, found floats")),
        }
    }

    /// The values as floats.
    #[allow(clippy::cast_precision_loss, reason = "sizes and indices are far below 2⁵³")]
    pub(super) fn floats(&self) -> Vec<f64> {
        match &self.numbers {
            Numbers::Int(v) => v.iter().map(|&x| x as f64).collect(),
            Numbers::Float(v) => v.clone(),
        }
    }

    /// Sizes: integers from 0 on.
    fn sizes(&self) -> Result<Vec<usize>> {
        self.ints()?.iter().map(|&n| usize::try_from(n).map_err(|_| Error::input(format!("shape: expected sizes, found {n}")))).collect()
    }

    fn reshaped(&self, shape: Vec<usize>) -> Self {
        Self { shape, numbers: self.numbers.clone() }
    }

    /// The elements of a view.
    fn viewed(&self, view: &Strided) -> Result<Self> {
        at_most(&view.shape, LIMIT.max(self.len()))?;
        let shape = view.shape.clone();
        Ok(match &self.numbers {
            Numbers::Float(v) => Self::float(shape, gather(v, view)),
            Numbers::Int(v) => {
                // places, not values, go through the float kernel: integers beyond 2⁵³ stay exact
                #[allow(clippy::cast_precision_loss, reason = "far fewer than 2⁵³ places")]
                let places: Vec<f64> = (0..v.len()).map(|i| i as f64).collect();
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "places made above")]
                Self::int(shape, gather(&places, view).into_iter().map(|p| v[p as usize]).collect())
            }
        })
    }
}

fn limit(shape: &[usize]) -> Result<usize> {
    at_most(shape, LIMIT)
}

fn at_most(shape: &[usize], most: usize) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|&n| n <= most)
        .ok_or_else(|| Error::input(format!("constant of shape {shape:?}: expected at most {most} values")))
}

/// Whether a node of this kind can be folded once its inputs are known.
pub(super) fn supported(operator: &str) -> bool {
    matches!(
        operator,
        "Shape"
            | "Size"
            | "Gather"
            | "Concat"
            | "Unsqueeze"
            | "Squeeze"
            | "Cast"
            | "Add"
            | "Sub"
            | "Mul"
            | "Div"
            | "Mod"
            | "Min"
            | "Max"
            | "Pow"
            | "Neg"
            | "Abs"
            | "Floor"
            | "Ceil"
            | "Round"
            | "Sqrt"
            | "Range"
            | "ConstantOfShape"
            | "Slice"
            | "Reshape"
            | "Flatten"
            | "Transpose"
            | "Expand"
            | "Where"
            | "Equal"
            | "Less"
            | "Greater"
            | "LessOrEqual"
            | "GreaterOrEqual"
            | "Not"
            | "And"
            | "Or"
            | "Identity"
            | "Split"
            | "ReduceProd"
            | "ScatterND"
            | "Tile"
            | "Dropout"
    )
}

/// The outputs of a node whose inputs are known (`Shape` and `Size` ask for the shape alone); `None` when it is not of a kind that is folded.
///
/// `fill`: the value attribute of `ConstantOfShape`.
pub(super) fn fold(site: &Site<'_>, fill: Option<&Host>) -> Result<Option<Vec<Host>>> {
    let operator = site.node.op_type();
    if let Some(host) = of_shape(site, operator)? {
        return Ok(Some(vec![host]));
    }
    if !site.shapes.iter().zip(&site.constants).all(|(shape, known)| shape.is_none() || known.is_some()) {
        return Ok(None);
    }
    // of these only the usual form is folded here
    let other_form = match operator {
        "Max" | "Min" => site.shapes.len() != 2,
        "Mod" => site.int("fmod", 0) != 0,
        _ => false,
    };
    if !supported(operator) || other_form {
        return if op::refusal(site.node).as_deref() != Some(op::UNKNOWN) && !site.shapes.is_empty() {
            computed(site).map(Some)
        } else {
            Ok(None)
        };
    }
    if operator == "Split" {
        let x = known(site, 0)?;
        return view::split(site, &x.shape)?.iter().map(|v| x.viewed(v)).collect::<Result<_>>().map(Some);
    }
    Ok(Some(vec![one(site, operator, fill)?]))
}

/// The outputs of a numeric operator on known inputs, in double precision.
#[allow(clippy::cast_possible_truncation, reason = "integers came in and were computed with exactly")]
fn computed(site: &Site<'_>) -> Result<Vec<Host>> {
    let built = op::build(site)?;
    for shape in &built.outputs {
        limit(shape)?;
    }
    let inputs = built
        .inputs
        .iter()
        .map(|&i| known(site, i).and_then(|host| narrow(&host.floats(), &host.shape, candle_core::DType::F64)))
        .collect::<Result<Vec<_>>>()?;
    let run = op::Run { mode: Mode::Eval, freeze_batchnorm: true, seed: 0 };
    let outputs = built.operator.forward(&inputs.iter().collect::<Vec<_>>(), &run)?.outputs;
    let host = |t: &candle_core::Tensor| {
        let (shape, values) = (t.dims().to_vec(), wide(t)?);
        Ok(if site.yields_integers() { Host::int(shape, values.iter().map(|&v| v as i64).collect()) } else { Host::float(shape, values) })
    };
    outputs.iter().map(host).collect()
}

fn of_shape(site: &Site<'_>, operator: &str) -> Result<Option<Host>> {
    let signed = |n: usize| i64::try_from(n).map_err(|e| Error::input("shape").because(e));
    match operator {
        "Shape" => {
            let sizes = site.shape(0)?.iter().map(|&n| signed(n)).collect::<Result<Vec<_>>>()?;
            let rank = signed(sizes.len())?;
            let bound = |v: i64| usize::try_from(if v < 0 { v + rank } else { v }.clamp(0, rank)).unwrap_or(0);
            let (start, end) = (bound(site.int("start", 0)), bound(site.int("end", rank)));
            let part = sizes.get(start..end.max(start)).unwrap_or_default().to_vec();
            Ok(Some(Host::int(vec![part.len()], part)))
        }
        "Size" => Ok(Some(Host::int(Vec::new(), vec![signed(at_most(site.shape(0)?, usize::MAX)?)?]))),
        _ => Ok(None),
    }
}

fn known<'a>(site: &Site<'a>, input: usize) -> Result<&'a Host> {
    site.constant(input).ok_or_else(|| Error::input(format!("input {input} is missing")))
}

fn one(site: &Site<'_>, operator: &str, fill: Option<&Host>) -> Result<Host> {
    let x = || known(site, 0);
    Ok(match operator {
        "Gather" => gathered(x()?, known(site, 1)?, site.int("axis", 0))?,
        "Concat" => concatenated(site)?,
        "Unsqueeze" => x()?.reshaped(reshape::unsqueezed(&x()?.shape, &site.ints_at(1, "axes")?.unwrap_or_default())?),
        "Squeeze" => x()?.reshaped(reshape::squeezed(&x()?.shape, site.ints_at(1, "axes")?.as_deref())?),
        "Flatten" => x()?.reshaped(reshape::flattened(&x()?.shape, site.int("axis", 1))?),
        "Reshape" => {
            let target = site.ints_at(1, "shape")?.unwrap_or_default();
            x()?.reshaped(reshape::reshaped(&x()?.shape, &target, site.int("allowzero", 0) != 0)?)
        }
        "Cast" => cast(x()?, site.int("to", 1)),
        "Identity" | "Dropout" => x()?.clone(),
        "Range" => range(x()?, known(site, 1)?, known(site, 2)?)?,
        "ConstantOfShape" => {
            let shape = x()?.sizes()?;
            let count = limit(&shape)?;
            match fill.map(|f| &f.numbers) {
                Some(Numbers::Int(v)) => Host::int(shape, vec![v.first().copied().unwrap_or(0); count]),
                Some(Numbers::Float(v)) => Host::float(shape, vec![v.first().copied().unwrap_or(0.0); count]),
                None => Host::float(shape, vec![0.0; count]),
            }
        }
        "Slice" => {
            let (starts, ends) = (site.ints_at(1, "starts")?.unwrap_or_default(), site.ints_at(2, "ends")?.unwrap_or_default());
            x()?.viewed(&view::sliced(&x()?.shape, &starts, &ends, site.ints_at(3, "axes")?.as_deref(), site.known_ints(4)?.as_deref())?)?
        }
        "Transpose" => x()?.viewed(&view::transposed(
            &x()?.shape,
            &view::permutation(attribute(site.node, "perm").map(|a| &a.ints[..]), x()?.shape.len())?,
        ))?,
        "Expand" => {
            let shape = binary::broadcast(&x()?.shape, &known(site, 1)?.sizes()?)?;
            limit(&shape)?;
            x()?.viewed(&Strided::broadcast(&x()?.shape, &shape))?
        }
        "ScatterND" => scattered(x()?, known(site, 1)?, known(site, 2)?, site.text("reduction").as_deref())?,
        "Tile" => tiled(x()?, &known(site, 1)?.sizes()?)?,
        "Where" => chosen(x()?, known(site, 1)?, known(site, 2)?)?,
        "ReduceProd" => product(site, x()?)?,
        _ if site.shapes.len() == 1 => unary(operator, x()?)?,
        _ => arithmetic(operator, x()?, known(site, 1)?)?,
    })
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
    let scalar = |h: &Host| h.floats().first().copied().ok_or_else(|| Error::input("range: expected a number"));
    let (first, last, by) = (scalar(start)?, scalar(end)?, scalar(step)?);
    let count = ((last - first) / by).ceil().max(0.0);
    #[allow(clippy::cast_precision_loss, reason = "the limit is 2²⁴")]
    let fits = count <= LIMIT as f64;
    if !fits {
        return Err(Error::input(format!("range from {first} to {last} by {by}: expected at most {LIMIT} values")));
    }
    let mut values = Vec::new();
    let mut i = 0.0;
    while i < count {
        values.push(first + i * by);
        i += 1.0;
    }
    let host = Host::float(vec![values.len()], values);
    Ok(if start.is_float() { host } else { cast(&host, 7) })
}

fn chosen(condition: &Host, a: &Host, b: &Host) -> Result<Host> {
    let shape = binary::broadcast(&binary::broadcast(&condition.shape, &a.shape)?, &b.shape)?;
    limit(&shape)?;
    let spread = |h: &Host| h.viewed(&Strided::broadcast(&h.shape, &shape));
    let (condition, a, b) = (spread(condition)?, spread(a)?, spread(b)?);
    let condition = condition.ints()?;
    if let (Numbers::Int(a), Numbers::Int(b)) = (&a.numbers, &b.numbers) {
        return Ok(Host::int(shape, condition.iter().zip(a.iter().zip(b)).map(|(&c, (&a, &b))| if c != 0 { a } else { b }).collect()));
    }
    let (a, b) = (a.floats(), b.floats());
    Ok(Host::float(shape, condition.iter().zip(a.iter().zip(&b)).map(|(&c, (&a, &b))| if c != 0 { a } else { b }).collect()))
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
            Host::int(shape, vec![total.ok_or_else(|| Error::input("product of a constant overflows"))?])
        }
    })
}

fn unary(operator: &str, x: &Host) -> Result<Host> {
    let shape = x.shape.clone();
    if let Numbers::Int(v) = &x.numbers {
        let f: fn(i64) -> i64 = match operator {
            "Neg" => i64::wrapping_neg,
            "Abs" => i64::wrapping_abs,
            "Not" => |v| i64::from(v == 0),
            _ => |v| v,
        };
        return Ok(Host::int(shape, v.iter().map(|&v| f(v)).collect()));
    }
    let f: fn(f64) -> f64 = match operator {
        "Neg" => |v| -v,
        "Abs" => f64::abs,
        "Floor" => f64::floor,
        "Ceil" => f64::ceil,
        "Round" => f64::round_ties_even,
        "Sqrt" => f64::sqrt,
        other => return Err(Error::input(format!("{other} of a constant is not supported"))),
    };
    Ok(Host::float(shape, x.floats().into_iter().map(f).collect()))
}

fn arithmetic(operator: &str, a: &Host, b: &Host) -> Result<Host> {
    let shape = binary::broadcast(&a.shape, &b.shape)?;
    limit(&shape)?;
    let spread = |h: &Host| h.viewed(&Strided::broadcast(&h.shape, &shape));
    let (a, b) = (spread(a)?, spread(b)?);
    let wrong = || Error::input(format!("{operator} of constants divides by zero or overflows"));
    if let (Numbers::Int(a), Numbers::Int(b)) = (&a.numbers, &b.numbers) {
        let f: fn(i64, i64) -> Option<i64> = match operator {
            "Add" => i64::checked_add,
            "Sub" => i64::checked_sub,
            "Mul" => i64::checked_mul,
            "Div" => i64::checked_div,
            "Mod" => |a, b| a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }),
            "Min" => |a, b| Some(a.min(b)),
            "Max" => |a, b| Some(a.max(b)),
            "Pow" => |a, b| u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
            "Equal" => |a, b| Some(i64::from(a == b)),
            "Less" => |a, b| Some(i64::from(a < b)),
            "Greater" => |a, b| Some(i64::from(a > b)),
            "LessOrEqual" => |a, b| Some(i64::from(a <= b)),
            "GreaterOrEqual" => |a, b| Some(i64::from(a >= b)),
            "And" => |a, b| Some(i64::from(a != 0 && b != 0)),
            "Or" => |a, b| Some(i64::from(a != 0 || b != 0)),
            other => return Err(Error::input(format!("{other} of constants is not supported"))),
        };
        let values: Option<Vec<i64>> = a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect();
        return Ok(Host::int(shape, values.ok_or_else(wrong)?));
    }
    let (a, b) = (a.floats(), b.floats());
    #[allow(clippy::float_cmp, reason = "the operators ask for exact comparison")]
    let compare: Option<fn(f64, f64) -> bool> = match operator {
        "Equal" => Some(|a, b| a == b),
        "Less" => Some(|a, b| a < b),
        "Greater" => Some(|a, b| a > b),
        "LessOrEqual" => Some(|a, b| a <= b),
        "GreaterOrEqual" => Some(|a, b| a >= b),
        _ => None,
    };
    if let Some(f) = compare {
        return Ok(Host::int(shape, a.iter().zip(&b).map(|(&a, &b)| i64::from(f(a, b))).collect()));
    }
    let f: fn(f64, f64) -> f64 = match operator {
        "Add" => |a, b| a + b,
        "Sub" => |a, b| a - b,
        "Mul" => |a, b| a * b,
        "Div" => |a, b| a / b,
        "Mod" => |a, b| a % b,
        "Min" => f64::min,
        "Max" => f64::max,
        "Pow" => f64::powf,
        other => return Err(Error::input(format!("{other} of constants is not supported"))),
    };
    Ok(Host::float(shape, a.iter().zip(&b).map(|(&a, &b)| f(a, b)).collect()))
}
