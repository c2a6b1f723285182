//! `TopK`: the largest or smallest elements along an axis, and their places. The places run as
//! floats, as all integers on data do.

use super::{Built, OpOutput, Operator, PassOptions, Site};
use crate::error::{Error, Result};
use crate::kernel::Float;
use crate::kernel::ranking::top;
use crate::student::op::site::axis;
use crate::tensor::{data, tensor, typed};
use candle_core::Tensor;

#[derive(Debug)]
struct TopK {
    input: Vec<usize>,
    output: Vec<usize>,
    /// Size of the axis, and of everything behind it.
    size: usize,
    inner: usize,
    count: usize,
    largest: bool,
}

/// Source: <https://onnx.ai/onnx/operators/onnx__TopK.html>. Whatever `sorted` says, the first is
/// the largest (or smallest).
///
/// # Shapes
/// X: any; values and places: the same, but K along the axis.
pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let input = site.shape(0)?.to_vec();
    let axis = axis(site.int("axis", -1), input.len())?;
    let size = input[axis];
    let k = match site.known_ints(1)?.as_deref() {
        Some(&[k]) => k,
        Some(other) => {
            return Err(Error::input(format!("k: expected one number, found {}", other.len())));
        }
        // before opset 10
        None => site.int("k", -1),
    };
    let count = usize::try_from(k).ok().filter(|&k| k <= size).ok_or_else(|| {
        Error::input(format!("k: expected 0 to {size}, the size of axis {axis}, found {k}"))
    })?;
    if u32::try_from(size).is_err() {
        return Err(Error::input(format!(
            "axis {axis}: expected fewer than 2³² elements, found {size}"
        )));
    }
    let inner = input[axis + 1..].iter().product();
    let mut output = input.clone();
    output[axis] = count;
    let operator = TopK {
        input,
        output: output.clone(),
        size,
        inner,
        count,
        largest: site.int("largest", 1) != 0,
    };
    Ok(Built::with_outputs(operator, [0], vec![output.clone(), output]))
}

impl TopK {
    /// The place in the input of each output.
    fn sources<'a>(&self, places: &'a [u32]) -> impl Iterator<Item = usize> + use<'a> {
        let (size, inner, block) = (self.size, self.inner, (self.count * self.inner).max(1));
        places.iter().enumerate().map(move |(at, &place)| {
            (at / block * size + place as usize) * inner + at % inner.max(1)
        })
    }
}

impl Operator for TopK {
    type Kept = Vec<u32>;

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "places along an axis of fewer than 2³²"
    )]
    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = data(inputs[0])?;
        typed!(inputs[0].dtype(), |T| {
            let x = x.of::<T>()?;
            let places: Vec<u32> = top(x, self.size, self.inner, self.count, self.largest)
                .into_iter()
                .map(|place| place as u32)
                .collect();
            let values: Vec<T> = self.sources(&places).map(|from| x[from]).collect();
            let numbers: Vec<T> =
                places.iter().map(|&place| <T as Float>::of(f64::from(place))).collect();
            let outputs = vec![tensor(values, &self.output)?, tensor(numbers, &self.output)?];
            Ok(OpOutput::several(outputs, places))
        })
    }

    /// The places have no gradient.
    fn backward(
        &self,
        places: Vec<u32>,
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(dy) = gradients.into_iter().next().flatten() else { return Ok(vec![None]) };
        let held = data(&dy)?;
        typed!(dy.dtype(), |T| {
            let mut dx: Vec<T> = vec![0.0; self.input.iter().product()];
            for (to, &d) in self.sources(&places).zip(held.of::<T>()?) {
                dx[to] = d;
            }
            Ok(vec![Some(tensor(dx, &self.input)?)])
        })
    }
}
