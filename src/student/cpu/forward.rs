//! The forward sweep.

use super::buffer::Arena;
use super::map::{self, Lazy};
use super::{Kept, Normal, Record, Way, Ways, timed};
use crate::error::{Context, Error, Result};
use crate::kernel::blocked::{self, Map, elementwise, pool, stem, sums};
use crate::student::exec::reference::Values;
use crate::student::op::{MapLayer, PassOptions};
use crate::student::plan::{GraphPlan, GraphStep};
use crate::student::value::{data, tensor};
use crate::student::{Mode, Student, TensorId};
use candle_core::Tensor;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A tensor in the forms that steps have asked for.
#[derive(Debug, Default, Clone)]
struct Slot {
    dense: Option<Tensor>,
    map: Option<Lazy>,
}

struct Sweep<'a> {
    plan: &'a GraphPlan,
    arena: &'a Arc<Arena>,
    slots: Vec<Slot>,
    /// New values of running statistics: the step's input and the value.
    updates: Vec<(usize, Tensor)>,
}

/// Runs the plan forward.
pub(in crate::student) fn forward(
    student: &Student,
    plan: &GraphPlan,
    ways: &Arc<Ways>,
    values: Values,
    run: &PassOptions,
    keep: &HashSet<TensorId>,
) -> Result<(HashMap<TensorId, Tensor>, Record)> {
    let slots = values.into_iter().map(|dense| Slot { dense, map: None }).collect();
    let mut sweep = Sweep { plan, arena: &student.arena, slots, updates: Vec::new() };
    let mut kept = HashMap::new();
    for id in keep {
        if let Some(value) = sweep.slots.get(id.0).and_then(|slot| slot.dense.clone()) {
            kept.insert(*id, value);
        }
    }
    let mut all = Vec::with_capacity(plan.steps.len());
    for (step, way) in plan.steps.iter().zip(&ways.0) {
        let left = timed(student, "forward", step, way, || sweep.step(step, way, run))
            .context(|| student.describe(step.node))?;
        student.update(step, sweep.updates.drain(..), run)?;
        all.push(if step.wanted.contains(&true) { left } else { Kept::Nothing });
        for id in step.outputs.iter().flatten().filter(|id| keep.contains(id)) {
            kept.insert(*id, sweep.dense(*id)?);
        }
        for id in &step.last_use {
            sweep.slots[id.0] = Slot::default();
        }
    }
    Ok((kept, Record { ways: ways.clone(), kept: all }))
}

impl Sweep<'_> {
    fn step(&mut self, step: &GraphStep, way: &Way, run: &PassOptions) -> Result<Kept> {
        let blocks = step.inputs.iter().any(|id| self.slots[id.0].map.is_some());
        match way {
            Way::Convolution { plan, moments } => {
                self.convolution(step, plan, *moments && run.mode != Mode::Eval)
            }
            Way::Stem(_) if blocks => self.general(step, run),
            Way::Stem(c) => self.stem(step, c),
            Way::BatchNorm => self.batch_norm(step, run),
            // these gain nothing by blocks if their input does not lie so
            Way::Dense
            | Way::Clamp { .. }
            | Way::Add
            | Way::MaxPool(_)
            | Way::AveragePool(_)
            | Way::PlaneMean
                if !blocks =>
            {
                self.general(step, run)
            }
            Way::Dense => self.general(step, run),
            Way::Clamp { bounds, .. } => self.clamp(step, *bounds),
            Way::Add => self.add(step),
            Way::MaxPool(w) => {
                let (x, map, mut to) = self.pooled(step)?;
                let mut places = vec![[0; blocked::LANES]; to.len()];
                pool::maximum(&x.map, w, x.view(), &mut to, &mut places);
                self.store(step, Lazy::stored(map, to));
                Ok(Kept::MaxPool { map: x.map, places })
            }
            Way::AveragePool(w) => {
                let (x, map, mut to) = self.pooled(step)?;
                pool::average(&x.map, w, x.view(), &mut to);
                self.store(step, Lazy::stored(map, to));
                Ok(Kept::AveragePool(x.map))
            }
            Way::PlaneMean => {
                let x = self.map(step.inputs[0])?;
                let means = sums::means(&x.map, x.view());
                if let Some(id) = step.outputs[0] {
                    self.slots[id.0].dense = Some(tensor(means, self.shape(id)?)?);
                }
                Ok(Kept::PlaneMean(x.map))
            }
        }
    }

    fn general(&mut self, step: &GraphStep, run: &PassOptions) -> Result<Kept> {
        let inputs: Vec<Tensor> =
            step.inputs.iter().map(|&id| self.dense(id)).collect::<Result<_>>()?;
        let done = step.operator.forward(&inputs.iter().collect::<Vec<_>>(), run)?;
        self.updates = done.updates;
        for (id, value) in step.outputs.iter().zip(done.outputs) {
            if let Some(id) = id {
                self.slots[id.0].dense = Some(value);
            }
        }
        Ok(Kept::Dense(done.kept))
    }

    fn convolution(
        &mut self,
        step: &GraphStep,
        plan: &blocked::Plan,
        moments: bool,
    ) -> Result<Kept> {
        let (x, weight) = (self.map(step.inputs[0])?, self.dense(step.inputs[1])?);
        let (map, mut to) = self.output(step)?;
        let moments = self.with_bias(step, |bias| {
            let held = data(&weight)?;
            let weight = held.of::<f32>()?;
            if moments {
                return Ok(Some(Arc::new(blocked::forward_with_moments(
                    plan,
                    x.view(),
                    weight,
                    bias,
                    &mut to,
                ))));
            }
            blocked::forward(plan, x.view(), weight, bias, &mut to);
            Ok(None)
        })?;
        self.store(step, Lazy { moments, ..Lazy::stored(map, to) });
        Ok(Kept::Convolution { x, weight })
    }

    fn stem(&mut self, step: &GraphStep, c: &crate::kernel::conv::Conv) -> Result<Kept> {
        let (x, weight) = (self.dense(step.inputs[0])?, self.dense(step.inputs[1])?);
        let (map, mut to) = self.output(step)?;
        self.with_bias(step, |bias| {
            stem::forward(c, data(&x)?.of::<f32>()?, data(&weight)?.of::<f32>()?, bias, &mut to);
            Ok(())
        })?;
        self.store(step, Lazy::stored(map, to));
        Ok(Kept::Stem { x })
    }

    fn with_bias<R>(
        &mut self,
        step: &GraphStep,
        f: impl FnOnce(Option<&[f32]>) -> Result<R>,
    ) -> Result<R> {
        match step.inputs.get(2) {
            None => f(None),
            Some(&id) => {
                let bias = self.dense(id)?;
                f(Some(data(&bias)?.of::<f32>()?))
            }
        }
    }

    fn batch_norm(&mut self, step: &GraphStep, run: &PassOptions) -> Result<Kept> {
        let MapLayer::BatchNorm(norm) = step.operator.map_layer() else {
            return self.general(step, run);
        };
        let z = self.map(step.inputs[0])?.written(self.arena);
        self.slots[step.inputs[0].0].map = Some(z.clone());
        let parameters: Vec<Tensor> =
            step.inputs[1..].iter().map(|&id| self.dense(id)).collect::<Result<_>>()?;
        let parameters: Vec<&Tensor> = parameters.iter().collect();
        let moments = || {
            Ok(z.moments
                .as_ref()
                .map_or_else(|| sums::moments(&z.map, &z.data), |known| known.to_vec()))
        };
        let n = norm.normalizer(run, moments, &parameters)?;
        let factors = n.scale.iter().zip(&n.rstd).map(|(s, r)| s * r);
        let affine = map::affine(
            factors
                .zip(n.means.iter().zip(&n.bias))
                .map(|(factor, (mean, bias))| [factor, bias - mean * factor]),
        );
        self.updates = n.updates;
        self.store(step, Lazy { affine: Some(affine.clone()), ..z.clone() });
        Ok(Kept::BatchNorm(Box::new(Normal {
            z,
            affine,
            means: n.means,
            rstd: n.rstd,
            scale: n.scale,
            training: n.training,
        })))
    }

    fn clamp(&mut self, step: &GraphStep, bounds: [f32; 2]) -> Result<Kept> {
        let mut x = self.map(step.inputs[0])?;
        if x.clamp.is_some() {
            x = x.written(self.arena);
            self.slots[step.inputs[0].0].map = Some(x.clone());
        }
        self.store(step, Lazy { clamp: Some(bounds), ..x.clone() });
        Ok(Kept::Clamp(x))
    }

    fn add(&mut self, step: &GraphStep) -> Result<Kept> {
        let (a, b) = (self.map(step.inputs[0])?, self.map(step.inputs[1])?);
        let (map, mut to) = self.output(step)?;
        elementwise::sum(&map, a.view(), b.view(), &mut to);
        self.store(step, Lazy::stored(map, to));
        Ok(Kept::Add)
    }

    /// A pooled map: input, the output's sizes and memory.
    fn pooled(&mut self, step: &GraphStep) -> Result<(Lazy, Map, super::buffer::Buffer)> {
        let x = self.map(step.inputs[0])?;
        let (map, to) = self.output(step)?;
        Ok((x, map, to))
    }

    /// Sizes and memory of a step's first output.
    fn output(&self, step: &GraphStep) -> Result<(Map, super::buffer::Buffer)> {
        let id = step
            .outputs
            .first()
            .copied()
            .flatten()
            .ok_or_else(|| Error::input("output is not used"))?;
        let map = map::of_shape(self.shape(id)?)?;
        Ok((map, self.arena.take(map.len())))
    }

    fn store(&mut self, step: &GraphStep, value: Lazy) {
        if let Some(Some(id)) = step.outputs.first() {
            self.slots[id.0].map = Some(value);
        }
    }

    fn shape(&self, id: TensorId) -> Result<&[usize]> {
        self.plan
            .shapes
            .get(&id)
            .map(Vec::as_slice)
            .ok_or_else(|| Error::input("a tensor has no shape"))
    }

    /// A tensor as a map, turned into one if it is dense.
    fn map(&mut self, id: TensorId) -> Result<Lazy> {
        let slot = &mut self.slots[id.0];
        if let Some(map) = &slot.map {
            return Ok(map.clone());
        }
        let dense = slot.dense.as_ref().ok_or_else(|| Error::input("an input was not computed"))?;
        let map = Lazy::from_tensor(dense, self.arena)?;
        slot.map = Some(map.clone());
        Ok(map)
    }

    /// A tensor as a dense one.
    fn dense(&mut self, id: TensorId) -> Result<Tensor> {
        let slot = &mut self.slots[id.0];
        if let Some(dense) = &slot.dense {
            return Ok(dense.clone());
        }
        let map = slot.map.as_ref().ok_or_else(|| Error::input("an input was not computed"))?;
        let dense = map.to_tensor()?;
        slot.dense = Some(dense.clone());
        Ok(dense)
    }
}
