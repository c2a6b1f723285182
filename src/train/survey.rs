//! What a sweep checks before it starts: that every run can be made, and how far each already is.
//! Writes nothing.

use super::folder::There;
use super::job::{Host, Job, Settled};
use super::material::Material;
use super::model::Model;
use super::prepared::{Ready, folder_of};
use super::report::Report;
use super::student::import;
use crate::cache::TeacherRecord;
use crate::data::{DataSpec, Preprocess};
use crate::error::{Error, Result};
use crate::monitor::Silent;
use crate::recipe::Train;
use crate::storage::Lock;
use crate::trainer::loader::Steps;

/// How far a run is.
pub enum State {
    /// It has finished, with these settings.
    Finished(Box<Report>),
    /// There is a checkpoint of these settings to resume from.
    Begun,
    /// There is nothing yet.
    New,
    /// Another process, named here, is working on it.
    Running(String),
}

/// A survey of runs that share their cache, their test set and the length of their training.
pub struct Survey {
    /// One per run.
    pub states: Vec<State>,
    /// Steps of each run.
    pub steps: usize,
    /// The teacher's record.
    pub teacher: TeacherRecord,
    /// The time that extracting its cache took, in seconds, if recorded.
    pub extraction_seconds: Option<f64>,
    /// The tensor of the teacher's logits.
    pub logits: Option<String>,
    /// The classes of the teacher's logits; `None` if they differ from the data's.
    pub classes: Option<Vec<String>>,
    /// How the teacher's images were preprocessed.
    pub preprocess: Option<Preprocess>,
    /// The evaluation data.
    pub test: Option<(DataSpec, String)>,
}

/// Resolves every run as [`prepare`](super::prepare) does: each against its folder, and each
/// student with each set of criteria against the cache. Writes nothing.
///
/// # Errors
/// As for a run before its first step; if a folder has other settings, names the difference.
pub fn survey(jobs: &[Job], host: &Host<'_>) -> Result<Survey> {
    let job = jobs.first().ok_or_else(|| Error::input("sweep: expected runs, found none"))?;
    let first = Settled::new(job, host)?;
    let material = Material::open(&first, host)?;
    let cache =
        material.cache().ok_or_else(|| Error::input("sweep: expected a cache, found none"))?;
    let manifest = cache.manifest();
    let silent = Host { threads: host.threads, onnxruntime: None, monitor: &Silent };

    let mut states = Vec::with_capacity(jobs.len());
    let mut resolved: Vec<(String, Train)> = Vec::new();
    let mut steps = 0;
    for job in jobs {
        let settled = Settled::new(job, host)?;
        let model = Model::resolve(&settled, &material, &silent)?;
        let folder = folder_of(&settled, &material, &model);
        let state = match Lock::writer(&job.output)? {
            Some(holder) => State::Running(holder),
            None => match folder.look(true)? {
                There::Finished(report) if report.parity.check().is_ok() => State::Finished(report),
                // a finished run that fails its parity check ends at once, and reports that again
                There::Finished(_) | There::Begun => State::Begun,
                There::Nothing => State::New,
            },
        };
        // the seed does not affect what a run needs
        let what = (job.student.clone(), Train { seed: 0, ..settled.recipe.clone() });
        if !matches!(state, State::Finished(_)) && !resolved.contains(&what) {
            steps = resolve(&settled, &material, &model, &silent).map_err(|e| {
                Error::input(format!("{} for {}", job.student, job.output.display())).because(e)
            })?;
            resolved.push(what);
        }
        states.push(state);
    }
    material.note_views(&first.recipe, host);
    let test = material.is_tested();
    let beside = || manifest.data.spec.parse().ok().map(|spec| (spec, "test".to_owned()));
    Ok(Survey {
        states,
        steps,
        teacher: manifest.teacher.clone(),
        extraction_seconds: cache.extraction_seconds(),
        logits: manifest.logits_array().and_then(|a| a.tensor.clone()),
        classes: Some(manifest.data.classes.clone())
            .filter(|_| !manifest.logits.as_ref().is_some_and(|logits| logits.other_classes)),
        preprocess: manifest.data.preprocess.clone(),
        test: first.test.clone().or_else(beside).filter(|_| test),
    })
}

/// Builds everything that a run needs, up to its first step; returns its number of steps.
fn resolve(
    settled: &Settled,
    material: &Material,
    model: &Model,
    host: &Host<'_>,
) -> Result<usize> {
    let student = import(model, settled, material, host)?;
    let ready = Ready::new(model, student, settled, material, host)?;
    let source = ready.source(settled, material, model)?;
    let Train { batch, drop_last, epochs, .. } = settled.recipe;
    Ok(Steps { rows: source.len(), batch, drop_last }.per_epoch() * epochs)
}
