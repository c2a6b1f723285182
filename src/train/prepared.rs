//! Prepares a run, and runs it.

use super::folder::{self, Folder, There};
use super::job::{Host, Job, Settled};
use super::material::Material;
use super::model::Model;
use super::report::Report;
use super::student::import;
use super::{again, device, metadata, natures, outputs, parity};
use crate::error::{Error, Result};
use crate::recipe::Train;
use crate::student::{Projection, Student};
use crate::trainer::epochs::{self, Options, Training};
use crate::trainer::loader::Steps;
use crate::trainer::loss::{Learnable, Objective};
use crate::trainer::metrics::Evaluation;
use crate::trainer::pairing::Pair;
use crate::trainer::source::Source;

/// Steps between lines of the metrics.
const LOG_STEPS: usize = 20;
/// Threads that prepare batches: the reservoirs that a cache source keeps serve two.
const LOADERS: usize = 2;
const DECODERS: usize = 4;

/// A run with all of the user's input resolved; nothing has been written yet.
pub struct Prepared {
    settled: Settled,
    material: Material,
    model: Model,
    folder: Folder,
    state: State,
}

enum State {
    Finished(Box<Report>),
    Ready(Box<Ready>),
}

/// What a run needs besides its data.
pub(super) struct Ready {
    student: Student,
    /// The names of the student's inputs.
    inputs: Vec<String>,
    /// Why the student's first output is not taken for class logits, if it is not.
    no_classes: Option<String>,
    /// The pairs of each term.
    pairs: Vec<Vec<Pair>>,
    objective: Objective,
}

/// Resolves a job: reads the data, the model and the state of the folder, and pairs the taps.
///
/// # Errors
/// When an input is bad (named, with what to do about it), or the folder holds another run.
pub fn prepare(job: &Job, host: &Host<'_>) -> Result<Prepared> {
    let settled = Settled::new(job, host)?;
    let material = Material::open(&settled, host)?;
    let model = Model::resolve(&settled, &material, host)?;
    let folder = folder_of(&settled, &material, &model);
    let state = match folder.look(job.resume)? {
        There::Finished(report) => State::Finished(report),
        There::Begun | There::Nothing => {
            let student = import(&model, &settled, &material, host)?;
            let ready = Ready::new(&model, student, &settled, &material, host)?;
            outputs::check_runtime(&ready.student, host)?;
            State::Ready(Box::new(ready))
        }
    };
    Ok(Prepared { settled, material, model, folder, state })
}

/// The folder of a run, with the settings that it belongs to.
pub(super) fn folder_of(settled: &Settled, material: &Material, model: &Model) -> Folder {
    let (recipe, device) = (&settled.recipe, device::kind(&settled.device));
    let settings = material.settings(recipe, &model.onnx, model.preprocess.as_ref(), device);
    Folder::new(&settled.job.output, settings)
}

impl Ready {
    /// The terms of the loss on their pairs.
    pub(super) fn new(
        model: &Model,
        student: Student,
        settled: &Settled,
        material: &Material,
        host: &Host<'_>,
    ) -> Result<Self> {
        let inputs = student.inputs().iter().map(|input| input.name.clone()).collect();
        let no_classes = outputs::no_classes(model, &student, material)?;
        let terms = material.terms(&settled.recipe, no_classes.as_deref(), host)?;
        let pairs = material.pairs(&terms, &student, host)?;
        if let (Some(cache), Some(folder)) = (material.cache(), &settled.job.cache) {
            again::refuse_unserved(cache.manifest(), folder, &terms, &pairs)?;
            natures::check(&model.onnx, cache.manifest(), &terms, &pairs, host)?;
        }
        let objective = material.objective(settled, &terms, &pairs, &student)?;
        Ok(Self { student, inputs, no_classes, pairs, objective })
    }

    /// The training data of a step.
    pub(super) fn source<'a>(
        &self,
        settled: &Settled,
        material: &'a Material,
        model: &Model,
    ) -> Result<Source<'a>> {
        let preprocess = model.preprocess.as_ref();
        material.source(&settled.recipe, preprocess, &self.inputs, &self.objective)
    }
}

impl Prepared {
    /// Trains, from the start or from the folder's checkpoint, and exports the student; returns the
    /// existing report if the run has already finished. It is up to the caller to check that the
    /// exported student is the one that was trained ([`Parity::check`](parity::Parity::check)): the
    /// report is written either way.
    ///
    /// # Errors
    /// When a sample can't be read, the loss is not finite, the disk fails, or the user asks to
    /// stop (the same job with [`resume`](Job::resume) continues).
    pub fn run(self, host: &Host<'_>) -> Result<Report> {
        let Self { settled, material, model, folder, state } = self;
        let finished = |report: Report| {
            host.monitor.note(&format!(
                "{}: finished already, with these settings",
                settled.job.output.display()
            ));
            report.parity.warn(host.monitor);
            Ok(report)
        };
        let ready = match state {
            State::Finished(report) => return finished(*report),
            State::Ready(ready) => ready,
        };
        let Ready { student, inputs: fed, no_classes, pairs, objective } = &*ready;
        let source = ready.source(&settled, &material, &model)?;
        let other = no_classes.as_deref();
        let classes =
            outputs::check(&model.onnx, student, &material, &source, objective, other, host)?;
        let mut learnable = Learnable::new(objective, &settled.recipe, &source, host.monitor)?;
        let projections = |learnable: &Learnable| {
            if settled.recipe.export_projector {
                learnable.projections(objective, student)
            } else {
                Ok(Vec::new())
            }
        };
        if settled.recipe.export_projector {
            let projections = projections(&learnable)?;
            if projections.is_empty() {
                return Err(Error::input(
                    "export-projector: expected a criterion that learns a projector, found none",
                )
                .hint("--criterion 'cosine:projector=true' learns one"));
            }
            let inputs = material.input_shapes(student, model.preprocess.as_ref())?;
            for Projection { tensor, output, shape, .. } in projections {
                let id = student.tensor(&tensor);
                let own = id.map(|id| student.shape(id, &inputs)).transpose()?.flatten();
                if own.is_none_or(|own| own.len() != shape.len() + 1) {
                    return Err(Error::input(format!(
                        "export-projector: expected a vector, tokens or a map of two dimensions, \
                         found {tensor}"
                    ))
                    .hint("train without it: the student is exported without its projector"));
                }
                host.monitor.note(&format!("exported beside {tensor}: its projection {output}"));
            }
        }
        let test = material.test(student, classes, model.preprocess.as_ref(), fed, host)?;
        material.note_views(&settled.recipe, host);
        announce(&settled, &source, objective, pairs, host);
        if host.monitor.stop_requested() {
            return Err(Error::interrupted("training: stopped before the first step"));
        }
        // all user input has been resolved: writing starts here
        let resume = settled.job.resume;
        let lock = match folder.begin(resume)? {
            Ok(lock) => lock,
            Err(report) => return finished(*report),
        };
        let shorter = if resume { folder.shorter()? } else { Vec::new() };
        let inputs = material.input_shapes(student, model.preprocess.as_ref())?;
        let described = |test: Option<&Evaluation>, projections: &[Projection]| {
            let named = outputs::describe(student, classes, projections, &inputs)?;
            metadata::metadata(&settled.recipe, &model, &material, &named, test)
        };
        let export = |test: Option<&Evaluation>, learnable: &Learnable| {
            let projections = projections(learnable)?;
            let metadata = described(test, &projections)?;
            let exported = student.export_projected(&metadata, &projections)?;
            Ok::<_, Error>((exported, projections))
        };
        let keep_best = |test: &Evaluation, learnable: &Learnable| {
            folder::write_best(&lock, &export(Some(test), learnable)?.0)
        };
        let loaders = if material.decodes() { DECODERS } else { LOADERS };
        let training = Training {
            recipe: &settled.recipe,
            objective,
            student,
            classes,
            source: &source,
            test: test.as_ref(),
            keep_best: &keep_best,
            folder: &lock,
            identity: &folder.identity(),
            shorter: &shorter,
            resume,
            options: Options {
                checkpoint_steps: settled.job.checkpoint_steps,
                log_steps: LOG_STEPS,
                loader_threads: host.threads.clamp(1, loaders),
            },
            monitor: host.monitor,
        };
        let outcome = epochs::run(&training, &mut learnable)?;

        let (exported, projections) = export(outcome.test.as_ref(), &learnable)?;
        let (path, model_sha256) = folder::write_model(&lock, &exported)?;
        let samples = match test {
            Some(test) => test.source,
            None => material.sequential(model.preprocess.as_ref(), fed)?,
        };
        let subject = parity::Subject {
            classes,
            class_count: material.data_classes(),
            projections: &projections,
        };
        let report = Report {
            student: settled.job.name.clone(),
            model: path,
            model_sha256: Some(model_sha256),
            parameters: student.parameters().iter().map(|p| p.var.elem_count()).sum(),
            pairs: pairs.concat(),
            outcome,
            parity: parity::parity(student, &exported, &subject, &samples, host)?,
            settings: folder.settings().clone(),
        };
        report.parity.warn(host.monitor);
        folder::finish(&lock, &report)?;
        Ok(report)
    }
}

/// Announces the run.
fn announce(
    settled: &Settled,
    source: &Source<'_>,
    objective: &Objective,
    pairs: &[Vec<Pair>],
    host: &Host<'_>,
) {
    let terms: Vec<String> =
        objective.terms.iter().map(|t| format!("{}·{}", t.recipe.weight, t.name)).collect();
    host.monitor.note(&format!(
        "{} samples, {} epochs of batch {}, loss {}, on the {}",
        source.len(),
        settled.recipe.epochs,
        settled.recipe.batch,
        terms.join(" + "),
        device::kind(&settled.device).to_uppercase().replace("CUDA", "GPU")
    ));
    let Train { batch, drop_last, .. } = settled.recipe;
    if (Steps { rows: source.len(), batch, drop_last }).joins_last() {
        let line =
            "an epoch's last batch takes in a sample that would be alone (--drop-last omits it)";
        host.monitor.note(line);
    }
    if let Some(teacher) = &settled.teacher {
        host.monitor.note(&format!(
            "sakd exact: the stages of {} run at every step, after its first cached map",
            teacher.display()
        ));
    }
    let mut seen = Vec::new();
    for pair in pairs.iter().flatten() {
        if !seen.contains(&pair) {
            host.monitor.note(&format!(
                "pair: teacher {} {:?} with student {} {:?}",
                pair.teacher, pair.teacher_shape, pair.student, pair.student_shape
            ));
            seen.push(pair);
        }
    }
    let suggested =
        objective.terms.iter().find(|term| term.recipe.pairs.is_empty() && !term.pairs.is_empty());
    if let Some(term) = suggested {
        host.monitor.note(&format!(
            "pairs are suggestions: --criterion '{}:pair=TEACHER>STUDENT' names others",
            term.recipe.name()
        ));
    }
}
