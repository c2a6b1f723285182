//! `Softmax` and `LogSoftmax` over an axis (before opset 13: over everything from the axis on).

use super::{Built, OpOutput, Operator, PassOptions, Site, only};
use crate::error::Result;
use crate::kernel::softmax;
use crate::kernel::strided::{Strided, dense_strides, gather};
use crate::student::op::site::axis;
use crate::tensor::{Element, data, tensor, typed};
use candle_core::Tensor;
use std::borrow::Cow;

#[derive(Debug)]
pub(in crate::student) struct Softmax {
    pub(in crate::student) logarithm: bool,
    pub(in crate::student) width: usize,
    /// For an axis that is not the last: the input as `[outer, inner, width]`, and the inverse.
    pub(in crate::student) turned: Option<[Strided; 2]>,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let shape = site.shape(0)?;
    // a scalar is a row of one
    let axis = if shape.is_empty() {
        0
    } else {
        axis(site.int("axis", if site.opset < 13 { 1 } else { -1 }), shape.len())?
    };
    let outer: usize = shape[..axis].iter().product();
    let inner: usize = shape.get(axis + 1..).unwrap_or_default().iter().product();
    let size = shape.get(axis).copied().unwrap_or(1);
    let coerced = site.opset < 13;
    let turned = (!coerced && inner != 1).then(|| {
        let swap = |[a, b, c]: [usize; 3]| {
            let s = dense_strides(&[a, b, c]);
            Strided { shape: vec![a, c, b], strides: vec![s[0], s[2], s[1]], offset: 0 }
        };
        [swap([outer, size, inner]), swap([outer, inner, size])]
    });
    let width = if coerced { size * inner } else { size };
    let operator = Softmax { logarithm: site.operator() == "LogSoftmax", width, turned };
    Ok(Built::new(operator, [0], shape.to_vec()))
}

impl Softmax {
    fn rows<'a, T: Element>(&self, x: &'a [T]) -> Cow<'a, [T]> {
        self.turned.as_ref().map_or(Cow::Borrowed(x), |[there, _]| Cow::Owned(gather(x, there)))
    }

    fn back<T: Element>(&self, rows: Vec<T>) -> Vec<T> {
        match &self.turned {
            Some([_, back]) => gather(&rows, back),
            None => rows,
        }
    }
}

impl Operator for Softmax {
    type Kept = Tensor;

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = data(inputs[0])?;
        let y = typed!(inputs[0].dtype(), |T| {
            let f = if self.logarithm { softmax::log_forward } else { softmax::forward };
            tensor(self.back(f(&self.rows(x.of::<T>()?), self.width)), inputs[0].dims())
        })?;
        Ok(OpOutput::one(y.clone(), y))
    }

    fn backward(
        &self,
        y: Tensor,
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = only(gradients)?;
        let (y, held) = (data(&y)?, data(&dy)?);
        typed!(dy.dtype(), |T| {
            let f = if self.logarithm { softmax::log_backward } else { softmax::backward };
            let dx = f(&self.rows(y.of::<T>()?), &self.rows(held.of::<T>()?), self.width);
            Ok(vec![Some(tensor(self.back(dx), dy.dims())?)])
        })
    }
}
