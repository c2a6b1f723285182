//! What a sweep asks before it starts: can every run be made, and what is there of it already.
//! Nothing is written.

use super::folder::{Folder, There};
use super::material::{Material, Model};
use super::{Args, Plan, Report, device, import};
use crate::cache::TeacherRecord;
use crate::cli::Context;
use crate::data::{DataSpec, Preprocess};
use crate::error::{Error, Result};
use crate::monitor::Silent;
use crate::recipe::Train;
use crate::storage::Lock;
use crate::train::loader::Steps;

/// What is there of a run.
pub(in crate::cli) enum State {
    /// It has finished, with these settings.
    Finished(Box<Report>),
    /// A checkpoint of these settings, to go on from.
    Begun,
    /// Nothing.
    New,
    /// Another process is at work on it: who.
    Running(String),
}

/// Of runs that share their cache, their test set and the length of their training.
pub(in crate::cli) struct Survey {
    /// One for every run.
    pub states: Vec<State>,
    /// Steps of each run.
    pub steps: usize,
    /// Who taught.
    pub teacher: TeacherRecord,
    /// The seconds that its cache took, where they are recorded.
    pub extraction_seconds: Option<f64>,
    /// The tensor of the teacher's logits.
    pub logits: Option<String>,
    /// The classes of the teacher's logits; `None`: they are others than the data's.
    pub classes: Option<Vec<String>>,
    /// How the teacher's images were made.
    pub preprocess: Option<Preprocess>,
    /// What the students are measured on.
    pub test: Option<(DataSpec, String)>,
}

/// Resolves every run as [`super::run`] does: each against its folder, and each student with each
/// set of criteria against the cache.
///
/// # Errors
/// As a run before its first step; a folder with other settings by the difference.
pub(in crate::cli) fn survey(runs: &[(Args, Train)], context: &Context<'_>) -> Result<Survey> {
    let (args, recipe) =
        runs.first().ok_or_else(|| Error::input("sweep: expected runs, found none"))?;
    let first = Plan::of(args, recipe.clone(), context)?;
    let material = Material::open(&first, context)?;
    let cache =
        material.cache().ok_or_else(|| Error::input("sweep: expected a cache, found none"))?;
    let manifest = cache.manifest();
    let silent = Context {
        monitor: &Silent,
        config: context.config,
        json: false,
        threads: context.threads,
        onnxruntime: None,
    };

    let mut states = Vec::with_capacity(runs.len());
    let mut resolved: Vec<(String, Train)> = Vec::new();
    let mut steps = 0;
    for (args, recipe) in runs {
        let plan = Plan::of(args, recipe.clone(), context)?;
        let model = Model::resolve(&plan, &material, &silent)?;
        let folder = Folder::new(
            &plan.output,
            material.settings(&plan.recipe, &model, device::kind(&plan.device)),
        );
        let state = match Lock::writer(&plan.output)? {
            Some(holder) => State::Running(holder),
            None => match folder.look(true)? {
                There::Finished(report) if report.parity.check().is_ok() => State::Finished(report),
                // one that fails its parity ends at once, and says so again
                There::Finished(_) | There::Begun => State::Begun,
                There::Nothing => State::New,
            },
        };
        // another seed changes nothing of what a run needs
        let what = (plan.model.clone(), Train { seed: 0, ..plan.recipe.clone() });
        if !matches!(state, State::Finished(_)) && !resolved.contains(&what) {
            steps = resolve(&plan, &material, &model, &silent).map_err(|e| {
                Error::input(format!("{} for {}", plan.model, plan.output.display())).because(e)
            })?;
            resolved.push(what);
        }
        states.push(state);
    }
    material.note_views(&first.recipe, context);
    let test = material.test(None, &[]).is_some();
    let beside = || manifest.data.spec.parse().ok().map(|spec| (spec, "test".to_owned()));
    Ok(Survey {
        states,
        steps,
        teacher: manifest.teacher.clone(),
        extraction_seconds: cache.extraction_seconds(),
        logits: manifest
            .view_arrays
            .iter()
            .find(|a| a.path == "logits")
            .and_then(|a| a.tensor.clone()),
        classes: Some(manifest.data.classes.clone())
            .filter(|_| !manifest.logits.is_some_and(|logits| logits.other_classes)),
        preprocess: manifest.data.preprocess.clone(),
        test: first.test.clone().or_else(beside).filter(|_| test),
    })
}

/// Makes everything that a run needs, up to its first step; gives its steps.
fn resolve(
    plan: &Plan,
    material: &Material,
    model: &Model,
    context: &Context<'_>,
) -> Result<usize> {
    let student = import(model, plan, context)?;
    let inputs: Vec<String> = student.inputs().iter().map(|input| input.name.clone()).collect();
    let terms = material.terms(&plan.recipe, context)?;
    let pairs = material.pairs(&terms, &student, context)?;
    let objective = material.objective(plan, &terms, &pairs, &student)?;
    let source = material.source(&plan.recipe, model.preprocess.as_ref(), &inputs, &objective)?;
    let steps =
        Steps { rows: source.len(), batch: plan.recipe.batch, drop_last: plan.recipe.drop_last };
    Ok(steps.per_epoch() * plan.recipe.epochs)
}
