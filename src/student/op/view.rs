//! `Transpose`, `Slice`, `Split` and `Expand`: the same numbers walked with other strides.

use super::{Built, OpOutput, Operator, PassOptions, Site};
use crate::error::{Error, Result};
use crate::kernel::strided::{Strided, dense_strides, gather, reduce_sum, scatter};
use crate::student::op::site::axis;
use crate::tensor::{data, tensor, typed};
use candle_core::{DType, Tensor};

#[derive(Debug)]
pub(in crate::student) struct StridedView {
    pub(in crate::student) input: Vec<usize>,
    /// Each output as a view of the input.
    pub(in crate::student) views: Vec<Strided>,
    pub(in crate::student) adjoint: Adjoint,
}

/// How gradients go back.
#[derive(Debug)]
pub(in crate::student) enum Adjoint {
    /// A permutation: walk it backwards.
    Gather { inverse: Strided, order: Vec<usize> },
    /// Every element is read at most once: write to where it was read.
    Scatter,
    /// Elements are repeated: sum.
    Sum,
}

pub(super) fn build(site: &Site<'_>) -> Result<Built> {
    let input = site.shape(0)?.to_vec();
    let (views, adjoint) = match site.operator() {
        "Transpose" => {
            let order = permutation(site.ints("perm"), input.len())?;
            let forward = transposed(&input, &order);
            let mut inverse = vec![0; order.len()];
            order.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
            let backward = transposed(&forward.shape, &inverse);
            (vec![forward], Adjoint::Gather { inverse: backward, order })
        }
        "Slice" => {
            let part = |i, name| site.ints_at(i, name);
            let (starts, ends) =
                (part(1, "starts")?.unwrap_or_default(), part(2, "ends")?.unwrap_or_default());
            (
                vec![sliced(
                    &input,
                    &starts,
                    &ends,
                    part(3, "axes")?.as_deref(),
                    site.known_ints(4)?.as_deref(),
                )?],
                Adjoint::Scatter,
            )
        }
        "Split" => (split(site, &input)?, Adjoint::Scatter),
        _ => {
            let target = site.known_ints(1)?.ok_or_else(|| Error::input("shape is missing"))?;
            let target = target
                .iter()
                .map(|&n| usize::try_from(n))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| Error::input("shape").because(e))?;
            let shape = super::binary::broadcast(&input, &target)?;
            (vec![Strided::broadcast(&input, &shape)], Adjoint::Sum)
        }
    };
    let outputs = views.iter().map(|v| v.shape.clone()).collect();
    Ok(Built::with_outputs(StridedView { input, views, adjoint }, [0], outputs))
}

/// An order of axes; reversed where none is given.
pub(in crate::student) fn permutation(order: Option<&[i64]>, rank: usize) -> Result<Vec<usize>> {
    let Some(order) = order.filter(|o| !o.is_empty()) else { return Ok((0..rank).rev().collect()) };
    let axes = order.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>>>()?;
    let mut sorted = axes.clone();
    sorted.sort_unstable();
    if sorted != (0..rank).collect::<Vec<_>>() {
        return Err(Error::input(format!(
            "perm: expected an order of {rank} axes, found {order:?}"
        )));
    }
    Ok(axes)
}

/// An array with its axes in another order.
pub(in crate::student) fn transposed(shape: &[usize], order: &[usize]) -> Strided {
    let strides = dense_strides(shape);
    Strided {
        shape: order.iter().map(|&a| shape[a]).collect(),
        strides: order.iter().map(|&a| strides[a]).collect(),
        offset: 0,
    }
}

/// A slice by ONNX's rules: negative indices count from the end, ends beyond the array are clamped,
/// steps may be negative.
pub(in crate::student) fn sliced(
    shape: &[usize],
    starts: &[i64],
    ends: &[i64],
    axes: Option<&[i64]>,
    steps: Option<&[i64]>,
) -> Result<Strided> {
    let mut view = Strided::dense(shape);
    if ends.len() != starts.len()
        || axes.is_some_and(|a| a.len() != starts.len())
        || steps.is_some_and(|s| s.len() != starts.len())
    {
        return Err(Error::input("starts, ends, axes and steps: expected one length"));
    }
    for i in 0..starts.len() {
        let axis =
            axis(axes.map_or_else(|| i64::try_from(i).unwrap_or(i64::MAX), |a| a[i]), shape.len())?;
        let step = steps.map_or(1, |s| s[i]);
        let size = i128::try_from(shape[axis]).unwrap_or(i128::MAX);
        if step == 0 {
            return Err(Error::input("steps: expected another number than 0"));
        }
        // the lowest and highest values that a start or end may take, by direction
        let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
        let bound = |v: i64| {
            let v = i128::from(v);
            (if v < 0 { v + size } else { v }).clamp(low, high)
        };
        let first = if step > 0 { bound(starts[i]) } else { bound(starts[i]).min(size - 1) };
        let last = bound(ends[i]);
        let step = i128::from(step);
        let count = ((last - first) * step.signum()).max(0);
        let count = (count + step.abs() - 1) / step.abs();
        let narrow = |e: std::num::TryFromIntError| Error::input("slice").because(e);
        let start = usize::try_from(first.max(0)).map_err(narrow)?;
        view.shape[axis] = usize::try_from(count).map_err(narrow)?;
        if count > 0 {
            view.offset += start * view.strides[axis].cast_unsigned();
        }
        if count > 1 {
            view.strides[axis] *= isize::try_from(step).map_err(narrow)?;
        }
    }
    Ok(view)
}

pub(in crate::student) fn split(site: &Site<'_>, shape: &[usize]) -> Result<Vec<Strided>> {
    let axis = axis(site.int("axis", 0), shape.len())?;
    let outputs = site.node.output.len();
    let sizes = if let Some(sizes) = site.ints_at(1, "split")? {
        sizes
            .iter()
            .map(|&n| usize::try_from(n))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| Error::input("split").because(e))?
    } else {
        let part = shape[axis].div_ceil(outputs.max(1));
        (0..outputs).map(|i| part.min(shape[axis].saturating_sub(i * part))).collect()
    };
    if sizes.len() != outputs
        || sizes.iter().try_fold(0usize, |n, &s| n.checked_add(s)) != Some(shape[axis])
    {
        return Err(Error::input(format!(
            "split: sizes {sizes:?} for {outputs} outputs do not fill axis {axis} of {shape:?}"
        )));
    }
    let strides = dense_strides(shape);
    let mut start = 0;
    Ok(sizes
        .iter()
        .map(|&size| {
            let mut part = shape.to_vec();
            part[axis] = size;
            let view = Strided {
                shape: part,
                strides: strides.clone(),
                offset: start * strides[axis].cast_unsigned(),
            };
            start += size;
            view
        })
        .collect())
}

impl Operator for StridedView {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = data(inputs[0])?;
        let outputs = typed!(inputs[0].dtype(), |T| {
            let x = x.of::<T>()?;
            self.views
                .iter()
                .map(|view| tensor(gather(x, view), &view.shape))
                .collect::<Result<Vec<_>>>()
        })?;
        Ok(OpOutput::several(outputs, ()))
    }

    fn backward(
        &self,
        _kept: (),
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dtype = gradients.iter().flatten().map(Tensor::dtype).next().unwrap_or(DType::F32);
        typed!(dtype, |T| {
            let mut dx: Vec<T> = Vec::new();
            if matches!(self.adjoint, Adjoint::Scatter) {
                dx.resize(self.input.iter().product(), 0.0);
            }
            for (dy, view) in gradients.iter().zip(&self.views) {
                let Some(dy) = dy else { continue };
                let held = data(dy)?;
                let d = held.of::<T>()?;
                match &self.adjoint {
                    Adjoint::Gather { inverse, .. } => dx = gather(d, inverse),
                    Adjoint::Scatter => scatter(d, view, &mut dx),
                    Adjoint::Sum => dx = reduce_sum(d, &view.shape, &self.input),
                }
            }
            Ok(vec![Some(tensor(dx, &self.input)?)])
        })
    }
}
