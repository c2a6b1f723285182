//! Pretraining on the teacher's cached maps, before the student is trained.

use super::super::clip;
use super::super::loader::{Steps, stream};
use super::super::optimizer::Optimizer;
use super::super::source::Source;
use super::Term;
use super::site::Compared;
use crate::criterion::Pretraining;
use crate::criterion::math::module::Module;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::recipe::Train;
use candle_core::DType;

/// Trains a term's modules on the teacher's maps, with the student's optimizer at its peak rate,
/// over epochs of the same batches.
///
/// Nothing is saved before it ends: a run stopped here repeats it, bit for bit.
///
/// # Errors
/// When a batch cannot be read, the loss is not finite, or the user asks to stop.
pub(super) fn train(
    term: &Term,
    first: &Pretraining<'_>,
    recipe: &Train,
    source: &Source<'_>,
    threads: usize,
    monitor: &dyn Monitor,
) -> Result<()> {
    let steps = Steps { rows: source.len(), batch: recipe.batch, drop_last: recipe.drop_last };
    let total = steps.per_epoch() * first.epochs;
    let optimizer = |module: &Module| {
        Optimizer::create(
            module.variables().map(|(_, v)| v).collect(),
            recipe.optimizer.rule.clone(),
        )
    };
    let mut optimizers = first.modules.iter().map(optimizer).collect::<Result<Vec<_>>>()?;
    monitor.begin(
        &format!("{}: {}", term.name, first.what),
        "images",
        (first.epochs * source.len()) as u64,
        0,
    );
    let mut last = 0.0;
    stream(source, steps, 0..total, threads, |batches| {
        for step in 0..total {
            let batch = batches.take()?;
            last = 0.0;
            for ((site, module), optimizer) in
                term.sites.iter().zip(first.modules).zip(&mut optimizers)
            {
                let Compared::Tap(tap) = site.teacher else { continue };
                let teacher = batch
                    .taps
                    .get(tap)
                    .ok_or_else(|| Error::input(format!("{}: the batch lacks a map", term.name)))?;
                let found = (first.loss)(&teacher.to_dtype(DType::F32)?, module)?;
                let gradients: Vec<_> =
                    found.weights.into_iter().map(|(_, gradient)| Some(gradient)).collect();
                let norm = clip::global_norm(&gradients)?;
                if !(norm.is_finite() && found.value.is_finite()) {
                    return Err(Error::check(format!(
                        "{}: {}: step {step}: loss {}, gradient's norm {norm}",
                        term.name, first.what, found.value
                    ))
                    .hint("lower --lr, or set clip in the recipe"));
                }
                optimizer.update(
                    &gradients,
                    recipe.optimizer.rule.lr(),
                    clip::factor(norm, recipe.clip),
                )?;
                last += found.value;
            }
            monitor.advance(batch.labels.len() as u64, 0);
            monitor.status(&format!("loss {last:.4}"));
            if monitor.stop_requested() {
                monitor.end();
                return Err(Error::interrupted(format!(
                    "{}: stopped while training its {}, which is not saved",
                    term.name, first.what
                ))
                .hint("the same command starts anew"));
            }
        }
        Ok(())
    })?;
    monitor.end();
    monitor.note(&format!(
        "{}: {} trained for {} epochs, loss {last:.4}",
        term.name, first.what, first.epochs
    ));
    Ok(())
}
