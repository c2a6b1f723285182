//! `sweep RECIPE`: every student with every method and seed, each a `train` run in a process of its
//! own; then one table.

mod plan;
mod run;
mod side_by_side;
mod teacher;

use super::{Context, emit, emit_json};
use crate::data::DataSpec;
use crate::error::{Context as _, Error, Result};
use crate::machine::available_memory;
use crate::report::sweep::{FailedRun, FinishedRun, SweepTable, TeacherSummary};
use crate::runtime::Device;
use crate::storage::Lock;
use crate::train::{self, Job, State, Survey};
use plan::SweepPlan;
use serde_json::{Value, json};
use side_by_side::{Limits, Outcome};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a sweep waits for runs that another sweep left behind.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) const EXAMPLES: &str = r#"Examples:
  nst-cache sweep recipes/cifar10-sweep.toml --dry-run
  nst-cache sweep recipes/cifar10-sweep.toml
  nst-cache sweep comparison.toml --jobs 4 --memory 12 -o runs/comparison --json

comparison.toml is a training recipe with what is varied:
  cache = "cache/teacher"
  students = ["resnet8", "resnet20"]
  seeds = [0, 1, 2]
  epochs = 30
  [[method]]
  name = "KD+NST"
  [[method.criterion]]
  method = "kd"
  [[method.criterion]]
  method = "nst"

Each run is in OUTPUT/STUDENT/METHOD/seed-N and is, bit for bit, what `nst-cache train` gives for
the same settings. After a stop or a kill the same command resumes: finished runs are kept, and a
run made with other settings is refused. A run that fails does not affect the others."#;

/// Arguments of `sweep`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The recipe: training settings, students, methods, seeds
    #[arg(value_name = "RECIPE.toml")]
    recipe: PathBuf,
    /// Cache to train from [default: the recipe's]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Where the images of the cache are, if it does not store them [default: as recorded in the
    /// cache]
    #[arg(long, value_name = "SPEC")]
    source: Option<DataSpec>,
    /// Epochs of each run [default: the recipe's]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Runs at the same time, which share the threads
    #[arg(long, value_name = "N", default_value = "1")]
    jobs: NonZeroUsize,
    /// Memory of all runs together in GB: another one starts only if it fits [default: what is free
    /// at the start]
    #[arg(long, value_name = "GB", value_parser = gigabytes)]
    memory: Option<u64>,
    /// Where to train: cpu, cuda, cuda:INDEX or auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: Device,
    /// List the runs and their state
    #[arg(long)]
    dry_run: bool,
    /// Folder of the runs [default: runs/ and the recipe's name]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Bad input before the first run; a failed check if runs failed, once all others are done; an
/// interruption if the user asks to stop.
pub fn run(args: Args, context: &Context<'_>) -> Result<()> {
    let plan = SweepPlan::new(&args, context)?;
    let jobs: Vec<Job> = plan.runs.iter().map(|run| run.job.clone()).collect();
    if !args.dry_run {
        // before looking at anything: another sweep may be using the folder
        Lock::shared(&plan.output)?;
        wait_for_orphans(&plan, context)?;
    }
    let mut survey = train::survey(&jobs, &context.host())?;
    if !args.dry_run && survey.states.iter().any(|state| matches!(state, State::Running(_))) {
        // one that was only starting when the wait was over
        wait_for_orphans(&plan, context)?;
        survey = train::survey(&jobs, &context.host())?;
    }
    if args.dry_run {
        return list(&plan, &survey, context);
    }
    let limits = limits(&args, &survey, context)?;
    let teacher = teacher::describe(&plan, &survey, context)?;
    let lock = begin(&plan, &survey)?;
    let outcomes = side_by_side::run(&plan, survey, &lock, &limits, context);
    let table = table(&plan, teacher, outcomes)?;
    write(&lock, &table)?;
    if context.json { emit_json(&table) } else { emit(table.markdown().trim_end()) }?;
    match table.failed.len() {
        0 => Ok(()),
        n => Err(Error::check(format!("sweep: {n} of {} runs failed", plan.runs.len()))
            .hint("the log of each is named above")),
    }
}

/// How many runs at once, with how many threads and how much memory.
fn limits(args: &Args, survey: &Survey, context: &Context<'_>) -> Result<Limits> {
    let open = survey.states.iter().filter(|s| !matches!(s, State::Finished(_))).count();
    let jobs = args.jobs.get().min(open.max(1));
    let available = available_memory();
    if args.memory.is_some() && available.is_none() {
        return Err(Error::input(
            "--memory: this system does not tell how much memory a process uses",
        )
        .hint("use --jobs instead"));
    }
    let threads = (context.threads / jobs).max(1);
    let mut flags = vec!["--threads".to_owned(), threads.to_string()];
    if let Some(library) = &context.onnxruntime {
        flags.extend(["--onnxruntime".to_owned(), plan::text(library)?]);
    }
    let count = survey.states.len();
    context.monitor.note(&format!(
        "{count} runs, {} of them already finished; {jobs} at a time on {threads} threads each",
        count - open
    ));
    Ok(Limits { jobs, memory: args.memory.or(available), flags })
}

/// Waits for the runs of a killed sweep: each ends after its current step.
fn wait_for_orphans(plan: &SweepPlan, context: &Context<'_>) -> Result<()> {
    let started = Instant::now();
    let mut is_noted = false;
    for run in &plan.runs {
        while let Some(holder) = Lock::writer(&run.job.output)? {
            if started.elapsed() > PATIENCE || context.monitor.stop_requested() {
                return Ok(());
            }
            if !is_noted {
                context.monitor.note(&format!(
                    "{}: in use by {holder}: waiting a moment for it to end",
                    run.job.output.display()
                ));
                is_noted = true;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}

/// Locks the sweep's folder, and removes temporary files of killed processes.
fn begin(plan: &SweepPlan, survey: &Survey) -> Result<Lock> {
    for (run, state) in plan.runs.iter().zip(&survey.states) {
        if let State::Running(holder) = state {
            return Err(Error::input(format!("{}: in use by {holder}", run.job.output.display()))
                .hint("wait until it has ended, or choose another folder with -o"));
        }
    }
    let lock = Lock::create(&plan.output)?;
    lock.sweep(&plan.output)?;
    for run in &plan.runs {
        lock.sweep(run.beside())?;
    }
    Ok(lock)
}

/// Prints the runs for `--dry-run`.
fn list(plan: &SweepPlan, survey: &Survey, context: &Context<'_>) -> Result<()> {
    let name = |state: &State| match state {
        State::Finished(_) => "finished",
        State::Begun => "begun",
        State::New => "new",
        State::Running(_) => "running",
    };
    let runs = plan.runs.iter().zip(&survey.states);
    if context.json {
        let entry = |(run, state): (&plan::SweepRun, &State)| {
            json!({
                "student": run.student,
                "method": run.method,
                "seed": run.job.recipe.seed,
                "folder": run.job.output,
                "state": name(state),
            })
        };
        return emit_json(
            &json!({ "runs": runs.map(entry).collect::<Vec<Value>>(), "steps": survey.steps }),
        );
    }
    let lines: Vec<String> = runs
        .map(|(run, state)| format!("{:<8}  {}", name(state), run.job.output.display()))
        .collect();
    emit(&lines.join("\n"))
}

/// Combines the outcomes.
fn table(plan: &SweepPlan, teacher: TeacherSummary, outcomes: Vec<Outcome>) -> Result<SweepTable> {
    let (mut runs, mut failed, mut open) = (Vec::new(), Vec::new(), 0);
    for (run, outcome) in plan.runs.iter().zip(outcomes) {
        let (student, method, seed) =
            (run.student.clone(), run.method.clone(), run.job.recipe.seed);
        match outcome {
            Outcome::Finished(report) => {
                let top1 = report.outcome.test.and_then(|test| test.top1);
                let seconds = report.outcome.seconds;
                runs.push(FinishedRun {
                    student,
                    method,
                    seed,
                    folder: run.job.output.clone(),
                    top1,
                    seconds,
                });
            }
            Outcome::Failed(error) => {
                failed.push(FailedRun { student, method, seed, error, log: run.log.clone() });
            }
            Outcome::Open => open += 1,
        }
    }
    if open > 0 {
        return Err(Error::interrupted(format!(
            "sweep: stopped with {open} of {} runs to do",
            plan.runs.len()
        ))
        .hint("the same command resumes"));
    }
    let methods = || plan.sweep.methods.iter().map(|m| m.name.as_str());
    let order: Vec<(&str, &str)> =
        plan.students.iter().flat_map(|s| methods().map(move |m| (s.as_str(), m))).collect();
    Ok(SweepTable::new(plan.name.clone(), teacher, plan.sweep.shared.epochs, &order, runs, failed))
}

/// Writes the table next to the runs.
fn write(folder: &Lock, table: &SweepTable) -> Result<()> {
    let json =
        serde_json::to_string_pretty(table).context(|| "table: cannot be encoded".to_owned())?;
    folder.replace("table.md", table.markdown().as_bytes())?;
    folder.replace("table.json", format!("{json}\n").as_bytes())
}

/// Parses gigabytes into bytes.
fn gigabytes(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "above 0, and a float's cast saturates"
        )]
        Ok(value) if value.is_finite() && value > 0.0 => Ok((value * 1e9) as u64),
        _ => Err("expected a number of gigabytes above 0".to_owned()),
    }
}
