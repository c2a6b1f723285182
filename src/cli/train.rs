//! `train STUDENT`: arguments → recipe → student, teacher's cache or data, test split →
//! training → student.onnx, checked in ONNX Runtime.

mod export;
mod folder;
mod material;
mod outputs;
mod parity;
mod survey;
mod teacher;

use super::extract::command;
use super::preprocess_args::PreprocessArgs;
use super::print::grouped;
use super::{Context, device, emit, emit_json};
use crate::data::DataSpec;
use crate::error::{Error, Result};
use crate::recipe::{CriterionRecipe, Sakd, SakdMode, Train};
use crate::runtime::Device;
use crate::student::{Executor, FoldedNorms, ImportOptions, Precision, Student};
use crate::train::groups;
use crate::train::loader::Steps;
use crate::train::loss::{Learnable, Objective};
use crate::train::pairing::Pair;
use crate::train::trainer::{self, Options, Outcome};
use folder::{Folder, There};
use material::{Material, Model};
use parity::Parity;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
pub(super) use survey::{State, Survey, survey};

pub(super) const EXAMPLES: &str = "\
Examples:
  nst-cache train resnet20 --cache cache/teacher
  nst-cache train student.onnx --cache cache/teacher --criterion kd:weight=0.9 --criterion \
                                   ce:weight=0.1 --criterion nst
  nst-cache train wrn-16-2 --data cifar10:cifar-10-batches-bin --preprocess cifar10 --epochs 60
  nst-cache train resnet20 --cache cache/teacher --sakd exact --sakd-teacher models/teacher.onnx
  nst-cache train resnet20 --cache cache/teacher --resume

Without a cache it trains on the labels alone: that is how a teacher is made. Stopped or killed, \
                                   --resume goes on with the same bits.";

/// Arguments of `train`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[allow(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Args {
    /// A preset (resnet20, wrn-16-2, …), an .onnx file, or the name of a student in
    /// nst-cache.toml
    #[arg(value_name = "STUDENT")]
    student: String,
    /// Cache to train from
    #[arg(long, value_name = "DIR", conflicts_with = "data")]
    cache: Option<PathBuf>,
    /// Data set to train on without a teacher
    #[arg(long, value_name = "SPEC")]
    data: Option<DataSpec>,
    /// Part of the data set [default: train]
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// Where the images lie that the cache was made of, if it does not store them [default: as the
    /// cache names them]
    #[arg(long, value_name = "SPEC", conflicts_with = "data")]
    source: Option<DataSpec>,
    /// Data set of the evaluation [default: the test split of the training data]
    #[arg(long, value_name = "SPEC[:SPLIT]")]
    test: Option<String>,
    /// Recipe file; flags win over it. Its table `optimizer` takes no-decay (patterns of
    /// parameters; norm means scale and bias of every normalization) and group (pattern and
    /// lr-factor; the first that fits counts)
    #[arg(long, value_name = "FILE.toml")]
    recipe: Option<PathBuf>,
    /// Term of the loss, METHOD[:key=value,…] (repeat for more); `nst-cache criteria` lists the
    /// methods and their keys. All take weight, from, until, warmup-epochs (epochs) and decay-to (a
    /// weight); those of maps and vectors take pair=TEACHER>STUDENT
    #[arg(long = "criterion", value_name = "SPEC")]
    criteria: Vec<CriterionRecipe>,
    /// Choose for each sample at which of the pairs it is distilled (spot-adaptive; a recipe's
    /// table `sakd` has its settings): by a policy that learns from the cache (cached, the
    /// default), or from routes through the student and the teacher itself (exact)
    #[arg(long, value_name = "MODE", num_args = 0..=1)]
    #[allow(clippy::option_option, reason = "left out, without a mode, with one: as clap says it")]
    sakd: Option<Option<SakdMode>>,
    /// The ONNX file that made the cache, for --sakd exact, which runs its stages at every step
    #[arg(long, value_name = "FILE.onnx")]
    sakd_teacher: Option<PathBuf>,
    /// Epochs; with --resume more than a run of the folder has extend it, where its schedule and
    /// weights do not depend on its end
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Samples of a step
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Peak learning rate
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// Seed of initial weights, data order and augmentation
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Initialisers that do not train (pattern with *, repeat for more)
    #[arg(long, value_name = "PATTERN")]
    freeze: Vec<String>,
    /// Initialisers that train although they would not by themselves
    #[arg(long, value_name = "PATTERN")]
    train: Vec<String>,
    /// Normalise by the running statistics, which stay as they are
    #[arg(long)]
    freeze_batchnorm: bool,
    /// Give the student a new last layer of N classes, drawn from the seed
    #[arg(long, value_name = "N")]
    head: Option<usize>,
    /// Put a new batch norm behind every convolution into which the student's exporter folded one
    #[arg(long, conflicts_with = "leave_folded")]
    insert_batchnorm: bool,
    /// Train without the batch norms that the student's exporter folded into convolutions
    #[arg(long)]
    leave_folded: bool,
    /// Leave out the last batch of an epoch where it is incomplete
    #[arg(long)]
    drop_last: bool,
    /// The convolutions' rounding: fast adds Winograd's F(4x4), strict keeps below 1e-6
    #[arg(long, value_name = "fast|strict")]
    precision: Option<Precision>,
    /// Only the first N samples
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Shuffle the data set with this seed before --limit
    #[arg(long, value_name = "SEED")]
    shuffle: Option<u64>,
    /// Go on from the run's last checkpoint, to its end or, with more --epochs, beyond
    #[arg(long)]
    resume: bool,
    /// Steps between checkpoints, beside one at the end of each epoch
    #[arg(long, value_name = "STEPS")]
    checkpoint_steps: Option<NonZeroUsize>,
    /// Where to train: cpu, cuda, cuda:INDEX or auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: Device,
    /// Folder of the run [default: runs/ and the student's name]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// What a run came to, as `run.json` keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    /// The student as it was named.
    student: String,
    /// The trained model, relative to the run's folder.
    model: String,
    /// SHA-256 of its bytes; `None`: an earlier build recorded none.
    #[serde(default)]
    model_sha256: Option<String>,
    /// Numbers that trained.
    pub(super) parameters: usize,
    /// Pairs of maps, shallowest first.
    pairs: Vec<Pair>,
    #[serde(flatten)]
    pub(super) outcome: Outcome,
    pub(super) parity: Parity,
    /// Everything that decided the result.
    settings: serde_json::Value,
}

/// Steps between lines of the metrics.
const LOG_STEPS: usize = 20;

/// Runs the command.
///
/// # Errors
/// Bad input by name; a failed check when the exported model disagrees with the trainer; an
/// interruption when the user asks to stop.
#[allow(clippy::needless_pass_by_value, reason = "every command takes its arguments")]
pub fn run(args: Args, context: &Context<'_>) -> Result<()> {
    let plan = Plan::new(&args, context)?;
    let report = execute(&args, &plan, context)?;
    show(&report, &plan, context)?;
    report.parity.check()
}

/// The report of a run that has finished.
pub(super) fn finished(folder: &Path) -> Result<Report> {
    folder::report(folder)
}

/// The command without its printing.
pub(super) fn report(args: &Args, context: &Context<'_>) -> Result<Report> {
    let report = execute(args, &Plan::new(args, context)?, context)?;
    report.parity.check()?;
    Ok(report)
}

/// Trains, or finds the run finished. Whether the exported student passes its check is the caller's
/// to ask: the report is written either way.
fn execute(args: &Args, plan: &Plan, context: &Context<'_>) -> Result<Report> {
    let material = Material::open(plan, context)?;
    let model = Model::resolve(plan, &material, context)?;
    let folder = Folder::new(
        &plan.output,
        material.settings(&plan.recipe, &model, device::kind(&plan.device)),
    );
    let finished = |report: Report| {
        context
            .monitor
            .note(&format!("{}: finished already, with these settings", plan.output.display()));
        report.parity.warn(context.monitor);
        Ok(report)
    };
    if let There::Finished(report) = folder.look(args.resume)? {
        return finished(*report);
    }

    let student = import(&model, plan, context)?;
    let inputs: Vec<String> = student.inputs().iter().map(|input| input.name.clone()).collect();
    let terms = material.terms(&plan.recipe, context)?;
    outputs::check_runtime(&student, context)?;
    let pairs = material.pairs(&terms, &student, context)?;
    if let (Some(cache), Some(folder)) = (material.cache(), &plan.cache) {
        command::refuse_unserved(cache.manifest(), folder, &terms, &pairs)?;
    }
    let objective = material.objective(plan, &terms, &pairs, &student)?;
    let source = material.source(&plan.recipe, model.preprocess.as_ref(), &inputs, &objective)?;
    outputs::check(&model.onnx, &student, &material, &source, &terms, context)?;
    let learnable = Learnable::new(&objective, &plan.recipe, &source, context.monitor)?;
    let test = material.test(model.preprocess.as_ref(), &inputs);
    material.note_views(&plan.recipe, context);
    // a cache serves two threads from the reservoirs that it keeps
    let loader_threads = context.threads.clamp(1, if material.decodes() { 4 } else { 2 });
    let options =
        Options { checkpoint_steps: plan.checkpoint_steps, log_steps: LOG_STEPS, loader_threads };
    announce(plan, &source, &objective, &pairs, context);
    if context.monitor.stop_requested() {
        return Err(Error::interrupted("training: stopped before the first step"));
    }
    // everything that the user gave has been resolved: from here on something is written
    let lock = match folder.begin(args.resume)? {
        Ok(lock) => lock,
        Err(report) => return finished(*report),
    };

    let shorter = if args.resume { folder.shorter()? } else { Vec::new() };
    let run = trainer::Run {
        recipe: &plan.recipe,
        objective: &objective,
        student: &student,
        source: &source,
        test: test.as_ref(),
        folder: &lock,
        identity: &folder.identity(),
        shorter: &shorter,
        resume: args.resume,
        options,
        monitor: context.monitor,
    };
    let outcome = trainer::run(&run, learnable)?;

    let exported = student.export(&export::metadata(
        &plan.recipe,
        &model,
        &material,
        outcome.test.as_ref(),
    )?)?;
    let (path, model_sha256) = folder::write_model(&lock, &exported)?;
    let samples = match test {
        Some(test) => test,
        None => material.sequential(model.preprocess.as_ref(), &inputs)?,
    };
    let parity = parity::parity(&student, &exported, &samples, context)?;
    let parameters = student.parameters().iter().map(|p| p.var.elem_count()).sum();
    let report = Report {
        student: args.student.clone(),
        model: path,
        model_sha256: Some(model_sha256),
        parameters,
        pairs: pairs.concat(),
        outcome,
        parity,
        settings: folder.settings().clone(),
    };
    report.parity.warn(context.monitor);
    folder::finish(&lock, &report)?;
    Ok(report)
}

/// The arguments, the recipe file and the working folder's defaults, brought together.
struct Plan {
    /// A preset or an .onnx file.
    model: String,
    recipe: Train,
    cache: Option<PathBuf>,
    /// Where the images of the cache lie.
    source: Option<DataSpec>,
    /// The teacher's file, where it is run.
    teacher: Option<PathBuf>,
    data: Option<(DataSpec, String)>,
    test: Option<(DataSpec, String)>,
    preprocess: crate::data::PreprocessOptions,
    output: PathBuf,
    device: candle_core::Device,
    checkpoint_steps: Option<usize>,
}

impl Plan {
    fn new(args: &Args, context: &Context<'_>) -> Result<Self> {
        let entry = context.config.students.get(&args.student);
        let recipe = match args.recipe.as_ref().or(entry.and_then(|e| e.recipe.as_ref())) {
            Some(path) => Train::read(path)?,
            None => Train::default(),
        };
        Self::of(args, recipe, context)
    }

    /// The plan of a recipe that has been read.
    fn of(args: &Args, mut recipe: Train, context: &Context<'_>) -> Result<Self> {
        let config = context.config;
        let entry = config.students.get(&args.student);
        recipe.epochs = args.epochs.unwrap_or(recipe.epochs);
        recipe.batch = args.batch.unwrap_or(recipe.batch);
        recipe.seed = args.seed.unwrap_or(recipe.seed);
        recipe.limit = args.limit.or(recipe.limit);
        recipe.shuffle = args.shuffle.or(recipe.shuffle);
        recipe.freeze_batchnorm |= args.freeze_batchnorm;
        recipe.drop_last |= args.drop_last;
        recipe.head = args.head.or(recipe.head);
        if args.insert_batchnorm {
            recipe.folded_batchnorm = FoldedNorms::Insert;
        }
        if args.leave_folded {
            recipe.folded_batchnorm = FoldedNorms::Leave;
        }
        recipe.precision = args.precision.unwrap_or(recipe.precision);
        recipe.freeze.extend(args.freeze.iter().cloned());
        recipe.train.extend(args.train.iter().cloned());
        if let Some(lr) = args.lr {
            recipe.optimizer.rule.set_lr(lr);
        }
        if !args.criteria.is_empty() {
            recipe.criteria.clone_from(&args.criteria);
        }
        if args.sakd.is_some() || args.sakd_teacher.is_some() {
            let sakd = recipe.sakd.get_or_insert_default();
            sakd.mode = args.sakd.flatten().unwrap_or(sakd.mode);
            sakd.teacher = args
                .sakd_teacher
                .clone()
                .or(sakd.teacher.take().filter(|_| sakd.mode == SakdMode::Exact));
        }
        let test = match (&args.test, &recipe.test) {
            (Some(text), _) => Some(spec_and_split(text)?),
            (None, Some(spec)) => Some((spec.clone(), "test".to_owned())),
            (None, None) => None,
        };
        recipe.test = test.as_ref().map(|(spec, _)| spec.clone());
        recipe.validate()?;
        let teacher = recipe.sakd.as_mut().map_or(Ok(None), take_teacher)?;

        let split = args
            .split
            .clone()
            .or_else(|| config.split.clone())
            .unwrap_or_else(|| "train".to_owned());
        let cache = args
            .cache
            .clone()
            .or_else(|| entry.and_then(|e| e.cache.clone()))
            .or_else(|| config.cache.clone());
        let (cache, data) = match (&args.data, cache) {
            (Some(data), _) => (None, Some((data.clone(), split))),
            (None, Some(cache)) => (Some(cache), None),
            (None, None) => (None, config.data.clone().map(|data| (data, split))),
        };
        if cache.is_none() && data.is_none() {
            return Err(Error::input("train: expected a cache or a data set, found neither")
                .hint("write --cache DIR, or --data SPEC for training without a teacher"));
        }
        let name = if entry.is_some() { args.student.clone() } else { stem(&args.student) };
        Ok(Self {
            model: entry.map_or_else(|| args.student.clone(), |e| e.model.clone()),
            recipe,
            cache,
            source: args.source.clone(),
            teacher,
            data,
            test,
            preprocess: args.preprocess.options()?.or(config.preprocess.clone()),
            output: args.output.clone().unwrap_or_else(|| PathBuf::from("runs").join(name)),
            device: device::training(args.device, context.monitor)?,
            checkpoint_steps: args.checkpoint_steps.map(NonZeroUsize::get),
        })
    }
}

/// The file of the exact mode, taken out of the settings: where it lies decides nothing, and what
/// it is the cache records.
fn take_teacher(sakd: &mut Sakd) -> Result<Option<PathBuf>> {
    match (sakd.mode, sakd.teacher.take()) {
        (SakdMode::Exact, None) => {
            Err(Error::input("sakd exact: expected the teacher's file, found none").hint(
                "name the model that made the cache: --sakd-teacher FILE.onnx, or teacher in \
                 [sakd]",
            ))
        }
        (_, teacher) => Ok(teacher),
    }
}

/// `models/net.onnx` → `net`; presets as they are.
pub(super) fn stem(name: &str) -> String {
    let path = std::path::Path::new(name);
    let is_file = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
    path.file_stem()
        .filter(|_| is_file)
        .map_or_else(|| name.to_owned(), |s| s.to_string_lossy().into_owned())
}

/// `SPEC` or `SPEC:SPLIT`; only known split names are taken for one, since paths may hold colons.
fn spec_and_split(text: &str) -> Result<(DataSpec, String)> {
    match text.rsplit_once(':') {
        Some((spec, split @ ("train" | "test" | "val" | "valid" | "validation")))
            if !spec.is_empty() =>
        {
            Ok((spec.parse()?, split.to_owned()))
        }
        _ => Ok((text.parse()?, "test".to_owned())),
    }
}

fn import(model: &Model, plan: &Plan, context: &Context<'_>) -> Result<Student> {
    let recipe = &plan.recipe;
    let options = ImportOptions {
        freeze: recipe.freeze.clone(),
        train: recipe.train.clone(),
        freeze_batchnorm: recipe.freeze_batchnorm,
        folded_norms: recipe.folded_batchnorm,
        executor: Executor::Blocked(recipe.precision),
        device: plan.device.clone(),
        ..ImportOptions::default()
    };
    let student = Student::import(&model.onnx, &options)?;
    student.check_batch()?;
    if let (Some(warning), FoldedNorms::Ask) = (student.folded_norms(), recipe.folded_batchnorm) {
        context.monitor.warn(&warning);
    }
    let training = student.tensors().iter().filter(|tensor| tensor.trains);
    if training.clone().next().is_none() {
        return Err(Error::input("student: expected parameters to train, found none")
            .hint("nst-cache inspect STUDENT.onnx --parameters says why; --train names some"));
    }
    let count: usize = training.clone().map(|t| t.shape.iter().product::<usize>()).sum();
    context.monitor.note(&format!(
        "{} parameters train, in {} tensors",
        grouped(count as u64),
        training.count()
    ));
    for line in student.notes() {
        context.monitor.note(&line);
    }
    // a pattern that names nothing is refused before anything is written
    groups::factors(&student, &recipe.optimizer)?;
    Ok(student)
}

/// Says what is about to happen.
fn announce(
    plan: &Plan,
    source: &crate::train::source::Source<'_>,
    objective: &Objective,
    pairs: &[Vec<Pair>],
    context: &Context<'_>,
) {
    let terms: Vec<String> =
        objective.terms.iter().map(|t| format!("{}·{}", t.recipe.weight, t.name)).collect();
    context.monitor.note(&format!(
        "{} samples, {} epochs of batch {}, loss {}, on the {}",
        source.len(),
        plan.recipe.epochs,
        plan.recipe.batch,
        terms.join(" + "),
        device::kind(&plan.device).to_uppercase().replace("CUDA", "GPU")
    ));
    let Train { batch, drop_last, .. } = plan.recipe;
    if (Steps { rows: source.len(), batch, drop_last }).joins_last() {
        let line =
            "the last batch of an epoch has one sample more, which would be alone (--drop-last)";
        context.monitor.note(line);
    }
    if let Some(teacher) = &plan.teacher {
        context.monitor.note(&format!(
            "sakd exact: the stages of {} run at every step, behind its first cached map",
            teacher.display()
        ));
    }
    let mut seen = Vec::new();
    for pair in pairs.iter().flatten() {
        if !seen.contains(&pair) {
            context.monitor.note(&format!(
                "pair: teacher {} {:?} with student {} {:?}",
                pair.teacher, pair.teacher_shape, pair.student, pair.student_shape
            ));
            seen.push(pair);
        }
    }
}

fn show(report: &Report, plan: &Plan, context: &Context<'_>) -> Result<()> {
    if context.json {
        return emit_json(report);
    }
    let accuracy = report.outcome.test.map_or_else(String::new, |t| {
        format!("top-1 {:.2} % of {} test samples, ", t.top1, t.samples)
    });
    emit(&format!(
        "{}: {accuracy}{} parameters, {:.1} s, {}",
        plan.output.join(&report.model).display(),
        report.parameters,
        report.outcome.seconds,
        report.parity
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_is_taken_from_the_end_only_by_its_name() {
        let of = |text: &str| {
            spec_and_split(text).map(|(spec, split)| (spec.to_string(), split)).unwrap()
        };
        assert_eq!(of("fashion-mnist"), ("fashion-mnist".into(), "test".into()));
        assert_eq!(of("idx:data:train"), ("idx:data".into(), "train".into()));
        assert_eq!(of("folder:a:b"), ("folder:a:b".into(), "test".into()));
    }

    #[test]
    fn runs_are_named_by_their_student() {
        assert_eq!(stem("models/net.v2.onnx"), "net.v2");
        assert_eq!(stem("wrn-16-2"), "wrn-16-2");
        assert_eq!(stem("resnet8x4"), "resnet8x4");
    }
}
