//! Comparisons and logical operators on data: 1 for true, 0 for false. Nothing flows back through
//! them.

use super::{Built, OpOutput, Operator, PassOptions, Site};
use crate::error::Result;
use crate::kernel::elementwise::map;
use crate::kernel::strided::broadcast_zip;
use crate::tensor::{Element, data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug, Clone, Copy)]
enum Predicate {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    And,
    Or,
    Xor,
    Not,
    IsNan,
    /// Whether each sign of infinity counts: negative, positive.
    IsInf(bool, bool),
}

#[derive(Debug)]
struct Compare {
    function: Predicate,
    output: Vec<usize>,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let function = match site.operator() {
        "Equal" => Predicate::Equal,
        "Less" => Predicate::Less,
        "LessOrEqual" => Predicate::LessOrEqual,
        "Greater" => Predicate::Greater,
        "GreaterOrEqual" => Predicate::GreaterOrEqual,
        "And" => Predicate::And,
        "Or" => Predicate::Or,
        "Xor" => Predicate::Xor,
        "Not" => Predicate::Not,
        "IsNaN" => Predicate::IsNan,
        _ => Predicate::IsInf(
            site.int("detect_negative", 1) != 0,
            site.int("detect_positive", 1) != 0,
        ),
    };
    if matches!(function, Predicate::Not | Predicate::IsNan | Predicate::IsInf(..)) {
        let output = site.shape(0)?.to_vec();
        return Ok(Built::new(Compare { function, output: output.clone() }, [0], output));
    }
    let output = super::binary::broadcast(site.shape(0)?, site.shape(1)?)?;
    Ok(Built::new(Compare { function, output: output.clone() }, [0, 1], output))
}

fn truth<T: Element>(value: bool) -> T {
    if value { T::one() } else { T::zero() }
}

impl Predicate {
    fn of_one<T: Element>(self, x: &[T]) -> Vec<T> {
        match self {
            Self::IsNan => map(x, |x| truth(x.is_nan())),
            Self::IsInf(negative, positive) => map(x, |x| {
                truth(x.is_infinite() && if x.is_sign_negative() { negative } else { positive })
            }),
            _ => map(x, |x| truth(x == T::zero())),
        }
    }

    fn of_two<T: Element>(self) -> fn(T, T) -> T {
        match self {
            Self::Equal => |a, b| truth(a == b),
            Self::Less => |a, b| truth(a < b),
            Self::LessOrEqual => |a, b| truth(a <= b),
            Self::Greater => |a, b| truth(a > b),
            Self::GreaterOrEqual => |a, b| truth(a >= b),
            Self::And => |a, b| truth(a != T::zero() && b != T::zero()),
            Self::Or => |a, b| truth(a != T::zero() || b != T::zero()),
            _ => |a, b| truth((a != T::zero()) != (b != T::zero())),
        }
    }
}

impl Operator for Compare {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let a = data(inputs[0])?;
        let y = typed!(inputs[0].dtype(), |T| {
            let Some(second) = inputs.get(1) else {
                return Ok(OpOutput::one(
                    tensor(self.function.of_one(a.of::<T>()?), &self.output)?,
                    (),
                ));
            };
            let b = data(second)?;
            let (a, b) = ((a.of::<T>()?, inputs[0].dims()), (b.of::<T>()?, second.dims()));
            tensor(broadcast_zip(a, b, &self.output, self.function.of_two()), &self.output)
        })?;
        Ok(OpOutput::one(y, ()))
    }

    fn backward(
        &self,
        _kept: (),
        _gradients: Vec<Option<Tensor>>,
        wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![None; wanted.len()])
    }
}
