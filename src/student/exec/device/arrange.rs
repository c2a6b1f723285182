//! `Transpose`, `Expand`, `Slice`, `Split`, `Pad`, `Tile` and pixel shuffles: elements picked, none
//! computed.

use super::sum::summed_to;
use super::table::{Adjoint, IndexTable};
use super::{Lower, Lowered, Target};
use crate::error::Result;
use crate::kernel::strided::{Strided, gather};
use crate::student::op::depth_space::Blocks;
use crate::student::op::pad::Pad;
use crate::student::op::tile::Tile;
use crate::student::op::view::{Adjoint as ViewAdjoint, StridedView};
use crate::student::op::{OpOutput, Operator, PassOptions, any, only};
use candle_core::Tensor;
use std::sync::Arc;

/// Axes in another order: of a tensor, or of one seen with other axes.
#[derive(Debug)]
struct Permute {
    /// The axes before, and their order after.
    shape: Vec<usize>,
    order: Vec<usize>,
    input: Vec<usize>,
    output: Vec<usize>,
}

impl Lower for Blocks {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        Ok(Some(any(Permute {
            shape: operator.shape.to_vec(),
            order: operator.order.to_vec(),
            input: operator.input.clone(),
            output: operator.output.clone(),
        })))
    }
}

impl Lower for Tile {
    fn lower(operator: &Arc<Self>, _target: &Target) -> Lowered {
        Ok(Some(any(Repeat {
            input: operator.input.clone(),
            once: operator.input.iter().flat_map(|&n| [1, n]).collect(),
            full: operator.view.shape.clone(),
            output: operator.output.clone(),
        })))
    }
}

impl Lower for StridedView {
    fn lower(operator: &Arc<Self>, target: &Target) -> Lowered {
        let (input, output) = (operator.input.clone(), operator.views[0].shape.clone());
        Ok(match &operator.adjoint {
            ViewAdjoint::Gather { order, .. } => {
                Some(any(Permute { shape: input.clone(), order: order.clone(), input, output }))
            }
            ViewAdjoint::Sum => {
                Some(any(Repeat { once: input.clone(), full: output.clone(), input, output }))
            }
            ViewAdjoint::Scatter => Pick::views(&input, &operator.views, target)?.map(any),
        })
    }
}

impl Lower for Pad {
    fn lower(operator: &Arc<Self>, target: &Target) -> Lowered {
        let shapes: [&[usize]; 2] = [&operator.input, &operator.output];
        let walks = [&operator.from, &operator.to];
        Ok(Pick::padded(shapes, walks, operator.value, target)?.map(any))
    }
}

impl Operator for Permute {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let y =
            inputs[0].reshape(self.shape.as_slice())?.permute(self.order.clone())?.contiguous()?;
        Ok(OpOutput::one(y.reshape(self.output.as_slice())?, ()))
    }

    fn backward(
        &self,
        _kept: (),
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let mut inverse = vec![0; self.order.len()];
        self.order.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
        let shape: Vec<usize> = self.order.iter().map(|&axis| self.shape[axis]).collect();
        let dx = only(gradients)?.reshape(shape)?.permute(inverse)?.contiguous()?;
        Ok(vec![Some(dx.reshape(self.input.as_slice())?)])
    }
}

/// Axes repeated: `input` is seen as `once`, which repeats to `full`.
#[derive(Debug)]
struct Repeat {
    input: Vec<usize>,
    once: Vec<usize>,
    full: Vec<usize>,
    output: Vec<usize>,
}

impl Operator for Repeat {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let y = inputs[0]
            .reshape(self.once.as_slice())?
            .broadcast_as(self.full.as_slice())?
            .contiguous()?;
        Ok(OpOutput::one(y.reshape(self.output.as_slice())?, ()))
    }

    fn backward(
        &self,
        _kept: (),
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let dx = summed_to(&only(gradients)?.reshape(self.full.as_slice())?, &self.once)?;
        Ok(vec![Some(dx.reshape(self.input.as_slice())?)])
    }
}

/// Elements of the input, picked by tables.
#[derive(Debug)]
struct Pick {
    /// A table and its adjoint for each output.
    parts: Vec<(IndexTable, Adjoint)>,
    /// Images that the same tables serve, or 1 where they walk the whole tensor.
    planes: usize,
    /// Added where nothing is picked: a pad's value.
    fill: Option<Tensor>,
    input: Vec<usize>,
    outputs: Vec<Vec<usize>>,
}

impl Pick {
    /// Views of the input, each element read at most once a view. `None` for empty tensors.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "places below 2³²"
    )]
    fn views(input: &[usize], views: &[Strided], target: &Target) -> Result<Option<Self>> {
        if input.is_empty() || input.contains(&0) || views.iter().any(Strided::is_empty) {
            return Ok(None);
        }
        let plane: usize = input[1..].iter().product();
        // where every image is walked alike, one image's table serves all
        let alike = |v: &Strided| {
            v.shape[0] == input[0] && v.strides[0] == plane.cast_signed() && v.offset < plane
        };
        let planes = if views.iter().all(alike) { input[0] } else { 1 };
        let size = input.iter().product::<usize>() / planes;
        let numbers: Vec<f64> = (0..size).map(|i| i as f64).collect();
        let mut parts = Vec::new();
        for view in views {
            let one = if planes == 1 {
                view.clone()
            } else {
                Strided { shape: [&[1], &view.shape[1..]].concat(), ..view.clone() }
            };
            let places: Vec<Option<usize>> =
                gather(&numbers, &one).into_iter().map(|p| Some(p as usize)).collect();
            parts.push(Self::part(places, size, target)?);
        }
        let outputs = views.iter().map(|v| v.shape.clone()).collect();
        Ok(Some(Self { parts, planes, fill: None, input: input.to_vec(), outputs }))
    }

    /// A constant around a part of the input: `from` walks what is read, `to` where it lies in the
    /// output.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "places below 2³²"
    )]
    fn padded(
        [input, output]: [&[usize]; 2],
        [from, to]: [&Strided; 2],
        value: f64,
        target: &Target,
    ) -> Result<Option<Self>> {
        if input.is_empty() || input.contains(&0) || from.is_empty() {
            return Ok(None);
        }
        let planes = if from.shape[0] == input[0] && input[0] == output[0] { input[0] } else { 1 };
        let [size, made] = [input, output].map(|shape| shape.iter().product::<usize>() / planes);
        let walk = |view: &Strided, size: usize| -> Vec<usize> {
            let one = if planes == 1 {
                view.clone()
            } else {
                Strided { shape: [&[1], &view.shape[1..]].concat(), ..view.clone() }
            };
            let numbers: Vec<f64> = (0..size).map(|i| i as f64).collect();
            gather(&numbers, &one).into_iter().map(|p| p as usize).collect()
        };
        let mut places = vec![None; made];
        for (at, place) in walk(to, made).into_iter().zip(walk(from, size)) {
            places[at] = Some(place);
        }
        let fill = (value != 0.0).then(|| {
            let values: Vec<f64> =
                places.iter().map(|p| if p.is_some() { 0.0 } else { value }).collect();
            target.tensor(&values, &[1, made])
        });
        let parts = vec![Self::part(places, size, target)?];
        Ok(Some(Self {
            parts,
            planes,
            fill: fill.transpose()?,
            input: input.to_vec(),
            outputs: vec![output.to_vec()],
        }))
    }

    fn part(
        places: Vec<Option<usize>>,
        size: usize,
        target: &Target,
    ) -> Result<(IndexTable, Adjoint)> {
        let back = Adjoint::new(&places, size, &target.device)?;
        Ok((IndexTable::new(places, &target.device)?, back))
    }

    fn flat(&self, t: &Tensor) -> Result<Tensor> {
        Ok(t.reshape((self.planes, ()))?)
    }
}

impl Operator for Pick {
    type Kept = ();

    fn forward(&self, inputs: &[&Tensor], _options: &PassOptions) -> Result<OpOutput<Self::Kept>> {
        let x = self.flat(inputs[0])?;
        let mut outputs = Vec::new();
        for ((table, _), shape) in self.parts.iter().zip(&self.outputs) {
            let y = table.gather(&x)?;
            let y = if let Some(fill) = &self.fill { y.broadcast_add(fill)? } else { y };
            outputs.push(y.reshape(shape.as_slice())?);
        }
        Ok(OpOutput::several(outputs, ()))
    }

    fn backward(
        &self,
        _kept: (),
        gradients: Vec<Option<Tensor>>,
        _wanted: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let mut total: Option<Tensor> = None;
        for (gradient, (_, back)) in gradients.into_iter().zip(&self.parts) {
            let Some(dy) = gradient else { continue };
            let dx = back.apply(&self.flat(&dy)?)?;
            total = Some(match total {
                Some(sum) => (sum + dx)?,
                None => dx,
            });
        }
        Ok(vec![total.map(|dx| dx.reshape(self.input.as_slice())).transpose()?])
    }
}
