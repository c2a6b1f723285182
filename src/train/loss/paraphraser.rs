//! FT's paraphraser: trained on the teacher's cached maps before the student is, as its authors do.

use super::super::clip;
use super::super::loader::{Steps, stream};
use super::super::optimizer::Optimizer;
use super::super::source::Source;
use super::Term;
use super::site::Teacher;
use crate::criterion::ft::{SLOPE, paraphrase};
use crate::criterion::module::Module;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::recipe::{Ft, Train};
use candle_core::DType;

/// Trains the paraphrasers of a term to reconstruct the teacher's maps: the student's optimiser at
/// its peak rate, over epochs of the same batches.
///
/// Nothing of it is saved before its end: a run that is stopped here does it again, with the same
/// bits.
///
/// # Errors
/// When a batch cannot be read, the loss is not finite, or the user asks to stop.
pub(super) fn train(
    term: &Term,
    paraphrasers: &[Module],
    settings: &Ft,
    recipe: &Train,
    source: &Source<'_>,
    threads: usize,
    monitor: &dyn Monitor,
) -> Result<()> {
    let steps = Steps { rows: source.len(), batch: recipe.batch, drop_last: recipe.drop_last };
    let total = steps.per_epoch() * settings.paraphraser_epochs;
    let optimizer = |module: &Module| {
        Optimizer::create(
            module.variables().map(|(_, v)| v.clone()).collect(),
            recipe.optimizer.rule.clone(),
        )
    };
    let mut optimizers = paraphrasers.iter().map(optimizer).collect::<Result<Vec<_>>>()?;
    monitor.begin(
        &format!("{}: paraphraser", term.name),
        "images",
        (settings.paraphraser_epochs * source.len()) as u64,
        0,
    );
    let mut last = 0.0;
    stream(source, steps, 0..total, threads, |batches| {
        for step in 0..total {
            let batch = batches.take()?;
            last = 0.0;
            for ((site, module), optimizer) in
                term.sites.iter().zip(paraphrasers).zip(&mut optimizers)
            {
                let Teacher::Tap(tap) = site.teacher else { continue };
                let teacher = batch
                    .taps
                    .get(tap)
                    .ok_or_else(|| Error::input("ft: the batch lacks a teacher's map"))?;
                let found = paraphrase(&teacher.to_dtype(DType::F32)?, module, SLOPE)?;
                let gradients: Vec<_> =
                    found.weights.into_iter().map(|(_, gradient)| Some(gradient)).collect();
                let norm = clip::global_norm(&gradients)?;
                if !(norm.is_finite() && found.value.is_finite()) {
                    return Err(Error::check(format!(
                        "{}: paraphraser: step {step}: loss {}, gradient's norm {norm}",
                        term.name, found.value
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
                    "{}: stopped while its paraphraser was trained, which is done again",
                    term.name
                ))
                .hint("the same command starts anew"));
            }
        }
        Ok(())
    })?;
    monitor.end();
    monitor.note(&format!(
        "{}: paraphraser trained for {} epochs, loss {last:.4}",
        term.name, settings.paraphraser_epochs
    ));
    Ok(())
}
