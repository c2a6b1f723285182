//! Values that are known before a graph runs.

use crate::array::{Array, Values};
use crate::error::{Error, Result};
use crate::kernel::strided::{Strided, gather};

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

/// No more elements than this are computed from fewer: shape arithmetic and masks are small, and a
/// hostile shape must not fill the memory.
pub(super) const LIMIT: usize = 1 << 24;

impl Host {
    pub(super) fn int(shape: Vec<usize>, values: Vec<i64>) -> Self {
        Self { shape, numbers: Numbers::Int(values) }
    }

    pub(super) fn float(shape: Vec<usize>, values: Vec<f64>) -> Self {
        Self { shape, numbers: Numbers::Float(values) }
    }

    pub(super) fn from_array(array: &Array) -> Self {
        let numbers = match array.values() {
            Values::Bool(v) | Values::U8(v) => {
                Numbers::Int(v.iter().map(|&x| i64::from(x)).collect())
            }
            Values::U16(v) => Numbers::Int(v.iter().map(|&x| i64::from(x)).collect()),
            Values::U32(v) => Numbers::Int(v.iter().map(|&x| i64::from(x)).collect()),
            Values::U64(v) => {
                Numbers::Int(v.iter().map(|&x| i64::try_from(x).unwrap_or(i64::MAX)).collect())
            }
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

    /// Sizes: integers that are not negative.
    pub(super) fn sizes(&self) -> Result<Vec<usize>> {
        self.ints()?
            .iter()
            .map(|&n| {
                usize::try_from(n)
                    .map_err(|_| Error::input(format!("shape: expected sizes, found {n}")))
            })
            .collect()
    }

    pub(super) fn reshaped(&self, shape: Vec<usize>) -> Self {
        Self { shape, numbers: self.numbers.clone() }
    }

    /// The elements of a view.
    pub(super) fn viewed(&self, view: &Strided) -> Result<Self> {
        at_most(&view.shape, LIMIT.max(self.len()))?;
        let shape = view.shape.clone();
        Ok(match &self.numbers {
            Numbers::Float(v) => Self::float(shape, gather(v, view)),
            Numbers::Int(v) => {
                // the float kernel gathers places, not values, so that integers beyond 2⁵³ stay
                // exact
                #[allow(clippy::cast_precision_loss, reason = "far fewer than 2⁵³ places")]
                let places: Vec<f64> = (0..v.len()).map(|i| i as f64).collect();
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "the places from above"
                )]
                Self::int(shape, gather(&places, view).into_iter().map(|p| v[p as usize]).collect())
            }
        })
    }
}

pub(super) fn limit(shape: &[usize]) -> Result<usize> {
    at_most(shape, LIMIT)
}

pub(super) fn at_most(shape: &[usize], most: usize) -> Result<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= most).ok_or_else(
        || Error::input(format!("constant of shape {shape:?}: expected at most {most} values")),
    )
}
