//! One training step: forward, loss, backward, clip, update.

use super::clip;
use super::loss::{Learnable, Objective, Value};
use super::optimizer::Optimizer;
use super::schedule::Clock;
use super::source::Batch;
use crate::error::{Context, Error, Result};
use crate::student::{Mode, Student, TensorId};
use candle_core::{D, DType, Device, Tensor};
use std::time::{Duration, Instant};

/// Per-step settings, and the clipping.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The step's position in the run.
    pub clock: Clock,
    /// Learning rate.
    pub lr: f64,
    /// Largest norm of the gradient, applied separately to the student's and to that of the
    /// criteria's modules.
    pub clip: Option<f64>,
    /// The class logits whose accuracy is counted, if there are any.
    pub classes: Option<TensorId>,
    /// Key of the dropout masks.
    pub seed: u64,
}

/// The result of a step.
#[derive(Debug)]
pub struct Stepped {
    /// The loss; its gradients with respect to the student's tensors have been consumed.
    pub value: Value,
    /// The gradient's global norm before clipping.
    pub norm: f64,
    /// Labeled rows whose highest logit is at the label, and labeled rows in total.
    pub counts: (usize, usize),
    /// The time of each part.
    pub times: Times,
}

/// The time of each part of a step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// The student's forward pass.
    pub forward: Duration,
    /// The terms of the loss with their gradients.
    pub criteria: Duration,
    /// The student's backward pass.
    pub backward: Duration,
    /// Gradient norm, clipping and optimizer.
    pub update: Duration,
}

/// Takes one step.
///
/// # Errors
/// When the batch does not fit the student or the objective, or the loss or its gradient is not
/// finite (names step and term).
pub fn step(
    student: &Student,
    objective: &Objective,
    optimizer: &mut Optimizer,
    learnable: &mut Learnable,
    batch: &Batch,
    settings: &Settings,
) -> Result<Stepped> {
    let step = settings.clock.step;
    let mut times = Times::default();
    let pass = timed(&mut times.forward, || {
        student.forward(&batch.inputs, Mode::Train, &objective.keep, settings.seed)
    })?;
    let mut value =
        timed(&mut times.criteria, || objective.evaluate(&pass, batch, settings.clock, learnable))?;
    check_finite(step, objective, &value)?;
    let counts = match settings.classes {
        Some(classes) => count_correct(pass.value(classes)?, &batch.main_labels())?,
        None => (0, 0),
    };
    let seeds = std::mem::take(&mut value.seeds);
    let gradients = timed(&mut times.backward, || pass.backward(seeds))?;
    let norm = timed(&mut times.update, || {
        let norm = clip::global_norm(&gradients)?;
        if !norm.is_finite() {
            return Err(Error::check(format!(
                "training: step {step}: the gradient's norm is {norm}"
            ))
            .hint("lower --lr, or set clip in the recipe"));
        }
        optimizer.update(&gradients, settings.lr, clip::factor(norm, settings.clip))?;
        learnable
            .update(&value.learnable, settings.lr, settings.clip)
            .context(|| format!("training: step {step}"))?;
        Ok(norm)
    })?;
    Ok(Stepped { value, norm, counts, times })
}

fn timed<R>(time: &mut Duration, f: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = f();
    *time = start.elapsed();
    result
}

fn check_finite(step: usize, objective: &Objective, value: &Value) -> Result<()> {
    let parts =
        objective.terms.iter().zip(&value.parts).filter_map(|(term, part)| Some((term, (*part)?)));
    match parts.into_iter().find(|(_, part)| !part.is_finite()) {
        None => Ok(()),
        Some((term, part)) => {
            Err(Error::check(format!("training: step {step}: {} is {part}", term.name))
                .hint("lower --lr, or set clip in the recipe"))
        }
    }
}

/// How many labeled rows have their highest logit at the label, and how many are labeled.
pub(super) fn count_correct(logits: &Tensor, labels: &[i64]) -> Result<(usize, usize)> {
    let best = logits
        .to_device(&Device::Cpu)?
        .argmax(D::Minus1)?
        .to_dtype(DType::I64)?
        .flatten_all()?
        .to_vec1::<i64>()?;
    let correct = best.iter().zip(labels).filter(|(b, l)| b == l).count();
    Ok((correct, labels.iter().filter(|l| **l >= 0).count()))
}
