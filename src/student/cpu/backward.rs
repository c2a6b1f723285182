//! The reverse sweep.

use super::buffer::{Arena, Buffer};
use super::map::{self, Back, MapGradient};
use super::{Kept, Normal, Record, Way, timed};
use crate::error::{Context, Error, Result};
use crate::kernel::blocked::{self, elementwise, pool, stem, sums};
use crate::student::exec::reference;
use crate::student::op::{BatchNorm, MapLayer};
use crate::student::plan::{GraphPlan, GraphStep};
use crate::student::value::{data, narrow, tensor};
use crate::student::{Student, TensorId};
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// A gradient in the form in which it came up.
#[derive(Debug)]
enum Form {
    Dense(Tensor),
    Map(MapGradient),
}

struct Sweep<'a> {
    arena: &'a Arc<Arena>,
    gradients: Vec<Option<Form>>,
}

/// Sweeps the plan in reverse from the gradients of some tensors; gives those of all tensors that
/// nothing computes.
pub(in crate::student) fn backward(
    student: &Student,
    plan: &GraphPlan,
    record: Record,
    seeds: Vec<Option<Tensor>>,
) -> Result<Vec<Option<Tensor>>> {
    let Record { ways, mut kept } = record;
    let mut sweep = Sweep {
        arena: &student.arena,
        gradients: seeds.into_iter().map(|seed| seed.map(Form::Dense)).collect(),
    };
    for (step, way) in plan.steps.iter().zip(&ways.0).rev() {
        let kept = kept.pop().unwrap_or(Kept::Nothing);
        timed(student, "backward", step, way, || sweep.step(step, way, kept))
            .context(|| student.describe(step.node))?;
    }
    sweep.gradients.into_iter().map(|g| g.map(|g| dense(g, &student.arena)).transpose()).collect()
}

fn dense(gradient: Form, arena: &Arc<Arena>) -> Result<Tensor> {
    match gradient {
        Form::Dense(g) => Ok(g),
        Form::Map(g) => g.to_tensor(arena),
    }
}

impl Sweep<'_> {
    fn step(&mut self, step: &GraphStep, way: &Way, kept: Kept) -> Result<()> {
        let own: Vec<Option<Form>> =
            step.outputs.iter().map(|id| id.and_then(|id| self.gradients[id.0].take())).collect();
        if !step.wanted.contains(&true) || own.iter().all(Option::is_none) {
            return Ok(());
        }
        match (kept, way) {
            (Kept::Dense(left), _) => {
                let own = own
                    .into_iter()
                    .map(|g| g.map(|g| dense(g, self.arena)).transpose())
                    .collect::<Result<_>>()?;
                for (input, gradient) in left.backward(own, &step.wanted)?.into_iter().enumerate() {
                    if let Some(gradient) = gradient {
                        self.give(step, input, Form::Dense(gradient))?;
                    }
                }
                Ok(())
            }
            (Kept::Convolution { x, weight }, Way::Convolution { plan, .. }) => {
                let dz = self.map(own)?;
                let (held, mut dw) = (
                    data(&weight)?,
                    vec![0.0; if step.wanted[1] { weight.elem_count() } else { 0 }],
                );
                let wanted = step.wanted[1].then_some(dw.as_mut_slice());
                if step.wanted[0] {
                    let (mut dx, add) = self.room(step.inputs[0], x.map.len());
                    let weight = held.of::<f32>()?;
                    dz.with(|dz| {
                        blocked::backward(plan, x.view(), weight, dz, Some((&mut dx, add)), wanted);
                    });
                    self.give(step, 0, Form::Map(MapGradient::stored(x.map, dx)))?;
                } else {
                    let weight = held.of::<f32>()?;
                    dz.with(|dz| blocked::backward(plan, x.view(), weight, dz, None, wanted));
                }
                self.weights(step, weight.dims(), dw, &dz)
            }
            (Kept::Stem { x }, Way::Stem(c)) => {
                let dz = self.map(own)?;
                let shape = [c.filters, c.channels, c.kernel[0], c.kernel[1]];
                let mut dw = vec![0.0; if step.wanted[1] { shape.iter().product() } else { 0 }];
                if step.wanted[1] {
                    let (held, dw) = (data(&x)?, &mut dw);
                    let x = held.of::<f32>()?;
                    dz.with(|dz| stem::weight_gradient(c, x, dz, dw));
                }
                self.weights(step, &shape, dw, &dz)
            }
            (Kept::BatchNorm(normal), _) => self.batch_norm(step, own, &normal),
            (Kept::Clamp(x), Way::Clamp { open, .. }) => {
                let dy = self.map(own)?.resolved(self.arena);
                let affine = x.affine.unwrap_or_else(|| map::identity(&x.map));
                let back = Back { z: x.data, affine, clamp: Some(*open), terms: None };
                self.give(step, 0, Form::Map(MapGradient { back: Some(back), ..dy }))
            }
            (Kept::Add, _) => {
                let dy = self.map(own)?.resolved(self.arena);
                if step.wanted[0] {
                    self.give(step, 0, Form::Map(dy.clone()))?;
                }
                self.give(step, 1, Form::Map(dy))
            }
            (Kept::MaxPool { map, places }, Way::MaxPool(w)) => {
                let (dy, mut dx) =
                    (self.map(own)?.resolved(self.arena), self.arena.take(map.len()));
                pool::maximum_gradient(&map, w, &dy.dy, &places, &mut dx);
                self.give(step, 0, Form::Map(MapGradient::stored(map, dx)))
            }
            (Kept::AveragePool(map), Way::AveragePool(w)) => {
                let (dy, mut dx) =
                    (self.map(own)?.resolved(self.arena), self.arena.take(map.len()));
                pool::average_gradient(&map, w, &dy.dy, &mut dx);
                self.give(step, 0, Form::Map(MapGradient::stored(map, dx)))
            }
            (Kept::PlaneMean(map), _) => {
                let mut dx = self.arena.take(map.len());
                for gradient in own.into_iter().flatten() {
                    let dy = dense(gradient, self.arena)?;
                    elementwise::spread_mean(&map, data(&dy)?.of::<f32>()?, &mut dx);
                }
                self.give(step, 0, Form::Map(MapGradient::stored(map, dx)))
            }
            (Kept::Nothing, _) => Ok(()),
            (_, way) => Err(Error::input(format!(
                "{}: the forward pass kept another operator's values",
                way.name()
            ))),
        }
    }

    fn batch_norm(
        &mut self,
        step: &GraphStep,
        own: Vec<Option<Form>>,
        normal: &Normal,
    ) -> Result<()> {
        let MapLayer::BatchNorm(norm) = step.operator.map_layer() else {
            return Err(Error::input("batch norm: found another operator"));
        };
        let Normal { z, affine, means, rstd, scale, training } = normal;
        let mut dy = self.map(own)?;
        // the mask of the activation that read this very map is done along with the sums
        let of_own = |back: &Back| {
            Arc::ptr_eq(&back.z, &z.data)
                && Arc::ptr_eq(&back.affine, affine)
                && back.terms.is_none()
        };
        let clamp = match &dy.back {
            Some(back) if of_own(back) => back.clamp,
            _ => {
                dy = dy.resolved(self.arena);
                None
            }
        };
        let sums = sums::gradient_sums(
            &z.map,
            &dy.dy,
            blocked::View { data: &z.data, affine: Some(affine), clamp },
            means,
        );
        let [dscale, dbias] = BatchNorm::parameter_gradients(rstd, &sums, DType::F32)?;
        self.give(step, 1, Form::Dense(dscale))?;
        self.give(step, 2, Form::Dense(dbias))?;
        let terms: Vec<[f64; 3]> = norm
            .input_terms([means, rstd, scale], *training, &sums)
            .into_iter()
            .map(|[mean, scale, slope, offset]| [scale, slope, offset - mean * slope])
            .collect();
        let back = Back {
            z: z.data.clone(),
            affine: affine.clone(),
            clamp,
            terms: Some(map::terms(&terms)),
        };
        self.give(step, 0, Form::Map(MapGradient { map: z.map, dy: dy.dy, back: Some(back) }))
    }

    /// The gradients of a convolution's weight and bias.
    fn weights(
        &mut self,
        step: &GraphStep,
        shape: &[usize],
        dw: Vec<f32>,
        dz: &MapGradient,
    ) -> Result<()> {
        if step.wanted[1] {
            self.give(step, 1, Form::Dense(tensor(dw, shape)?))?;
        }
        if step.wanted.get(2) == Some(&true) {
            let totals = dz.with(|g| sums::totals(&dz.map, g));
            self.give(step, 2, Form::Dense(narrow(&totals, &[totals.len()], DType::F32)?))?;
        }
        Ok(())
    }

    /// The gradient of a step's first output as a map.
    fn map(&self, own: Vec<Option<Form>>) -> Result<MapGradient> {
        match own.into_iter().next().flatten() {
            Some(Form::Map(g)) => Ok(g),
            Some(Form::Dense(g)) => MapGradient::from_tensor(&g, self.arena),
            None => Err(Error::input("output has no gradient")),
        }
    }

    /// Memory for the gradient of a map, and whether it already holds a part of it.
    fn room(&mut self, id: TensorId, len: usize) -> (Buffer, bool) {
        match self.gradients[id.0].take() {
            Some(Form::Map(MapGradient { map, dy, back: None })) => match Arc::try_unwrap(dy) {
                Ok(buffer) => return (buffer, true),
                Err(dy) => {
                    self.gradients[id.0] = Some(Form::Map(MapGradient { map, dy, back: None }));
                }
            },
            other => self.gradients[id.0] = other,
        }
        (self.arena.take(len), false)
    }

    /// Adds the gradient of a step's input, if it is wanted, to what is there.
    fn give(&mut self, step: &GraphStep, input: usize, gradient: Form) -> Result<()> {
        let (Some(&id), Some(true)) = (step.inputs.get(input), step.wanted.get(input)) else {
            return Ok(());
        };
        let total = match (self.gradients[id.0].take(), gradient) {
            (None, gradient) => gradient,
            (Some(Form::Dense(a)), Form::Dense(b)) => Form::Dense(reference::sum(&a, &b)?),
            (Some(a), b) => {
                Form::Map(self.map(vec![Some(a)])?.plus(self.map(vec![Some(b)])?, self.arena))
            }
        };
        self.gradients[id.0] = Some(total);
        Ok(())
    }
}
