//! `demo`: the whole pipeline on the embedded data, by the same calls that the commands make.

use super::train::job_of;
use super::{Context, emit, emit_json};
use crate::error::{Error, Result};
use crate::evaluate;
use crate::extract::{self, ExtractReport, human_bytes};
use crate::onnx::{Model, cost};
use crate::recipe::{Evaluate, Extract};
use crate::runtime::{Device, SessionOptions};
use crate::storage::{Draft, create_dirs, failed, read_whole};
use crate::train::{self, Job};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(super) const EXAMPLES: &str = "\
Examples:
  nst-cache demo
  nst-cache demo --student resnet20 --epochs 10 -o runs/longer";

/// The teacher of the demo, so that it runs in any folder.
pub(super) const TEACHER: &[u8] = include_bytes!("../../models/teacher.onnx");
const DATA: &str = "fashion-mnist";
const BATCH: usize = 64;
/// The students: each run's name, its name in the table, and its loss.
const STUDENTS: [(&str, &str, &[&str]); 2] = [
    ("ce", "labels alone (CE)", &["ce"]),
    (
        "nst-kd",
        "from the cache (CE + NST + KD)",
        &["ce:weight=0.1", "kd:weight=0.9", "nst-poly:weight=50"],
    ),
];

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The teacher [default: a ResNet-20 for the embedded images, written beside the runs]
    #[arg(long, value_name = "FILE.onnx")]
    teacher: Option<PathBuf>,
    /// The student's preset
    #[arg(long, value_name = "PRESET", default_value = "resnet8")]
    student: String,
    /// Epochs of each student
    #[arg(long, value_name = "N", default_value_t = 4)]
    epochs: usize,
    /// Only the first N training samples
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Folder for the runs and the cache
    #[arg(short, long, value_name = "DIR", default_value = "runs/demo")]
    output: PathBuf,
}

/// The demo's results.
#[derive(Debug, Serialize)]
struct Report {
    teacher_top1: f64,
    teacher_parameters: u64,
    cache: ExtractReport,
    students: Vec<Student>,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Student {
    name: &'static str,
    loss: &'static str,
    model: PathBuf,
    /// Test accuracy of `student.onnx` in ONNX Runtime, in percent.
    top1: f64,
    parameters: usize,
    train_seconds: f64,
    /// max |Δlogit| between trainer and ONNX Runtime.
    parity: f64,
}

/// Runs the command: measure the teacher, cache it, train two students, measure them.
///
/// # Errors
/// Those of the commands that it runs.
pub fn run(args: Args, context: &Context<'_>) -> Result<()> {
    let started = Instant::now();
    let teacher = teacher(&args)?;
    let cache = args.output.join("cache");

    let teacher_parameters = cost::parameters(&Model::read(&teacher)?);
    let teacher_top1 = measure(&teacher, context)?;
    let cached = cache_teacher(&args, &teacher, &cache, context)?;
    let mut students = Vec::new();
    for (name, loss, criteria) in STUDENTS {
        let folder = args.output.join(name);
        let report = train_student(&args, &cache, &folder, criteria, context)?;
        let model = folder.join("student.onnx");
        students.push(Student {
            name,
            loss,
            top1: measure(&model, context)?,
            model,
            parameters: report.parameters,
            train_seconds: report.outcome.seconds,
            parity: report.parity.max_difference(),
        });
    }
    let report = Report {
        teacher_top1,
        teacher_parameters,
        cache: cached,
        students,
        seconds: started.elapsed().as_secs_f64(),
    };
    if context.json { emit_json(&report) } else { emit(&describe(&report, &args, &teacher)) }
}

/// The file that is named, or the demo's own, which is written where it is not yet.
fn teacher(args: &Args) -> Result<PathBuf> {
    if let Some(teacher) = &args.teacher {
        return if teacher.exists() {
            Ok(teacher.clone())
        } else {
            Err(Error::input(format!("teacher {}: not there", teacher.display()))
                .hint("leave --teacher out for the demo's own"))
        };
    }
    let path = args.output.join("teacher.onnx");
    if read_whole(&path)?.is_none_or(|bytes| bytes != TEACHER) {
        create_dirs(&args.output)?;
        let mut draft = Draft::new(&path)?;
        draft.file().write_all(TEACHER).map_err(|e| failed(&path, "write", e))?;
        draft.publish()?;
    }
    Ok(path)
}

/// Top-1 on the test split, in percent.
fn measure(model: &Path, context: &Context<'_>) -> Result<f64> {
    show(&format!("eval {} --data {DATA}", model.display()), context);
    let recipe = Evaluate {
        default_preprocess: context.config.preprocess.clone(),
        ..Evaluate::new(model, DATA.parse()?)
    };
    let options = SessionOptions { device: Device::Cpu, threads: context.threads };
    Ok(evaluate::run(&recipe, &context.runtime()?, &options, context.monitor)?.top1)
}

fn cache_teacher(
    args: &Args,
    teacher: &Path,
    cache: &Path,
    context: &Context<'_>,
) -> Result<ExtractReport> {
    let recipe = Extract {
        limit: args.limit,
        split: context.config.split.clone().unwrap_or_else(|| "train".to_owned()),
        default_preprocess: context.config.preprocess.clone(),
        threads: context.threads,
        ..Extract::new(teacher, DATA.parse()?, cache)
    };
    let limit = args.limit.map_or_else(String::new, |n| format!(" --limit {n}"));
    let (teacher, cache) = (teacher.display(), cache.display());
    show(&format!("extract {teacher} -o {cache}{limit} --data {DATA}"), context);
    let options = SessionOptions { device: Device::Cpu, threads: context.threads };
    extract::run(&recipe, &context.runtime()?, &options, context.monitor)
}

fn train_student(
    args: &Args,
    cache: &Path,
    folder: &Path,
    criteria: &[&str],
    context: &Context<'_>,
) -> Result<train::Report> {
    let mut job = Job {
        cache: Some(cache.to_owned()),
        resume: true,
        output: folder.to_owned(),
        ..job_of(&args.student, context.config)
    };
    job.recipe.epochs = args.epochs;
    job.recipe.batch = BATCH;
    job.recipe.criteria = criteria.iter().map(|text| text.parse()).collect::<Result<_>>()?;
    let (student, epochs) = (&args.student, args.epochs);
    let (cache, folder) = (cache.display(), folder.display());
    let criteria = criteria.join(" --criterion ");
    show(
        &format!(
            "train {student} --cache {cache} --epochs {epochs} --batch {BATCH} -o {folder} \
             --resume --criterion {criteria}"
        ),
        context,
    );
    let host = context.host();
    let report = train::prepare(&job, &host)?.run(&host)?;
    report.parity.check()?;
    Ok(report)
}

/// Shows the equivalent command.
fn show(command: &str, context: &Context<'_>) {
    context.monitor.note(&format!("$ nst-cache {command}"));
}

fn describe(report: &Report, args: &Args, teacher: &Path) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["", "top-1 %", "parameters", "seconds", "parity"]);
    let first = [
        "teacher".to_owned(),
        format!("{:.2}", report.teacher_top1),
        report.teacher_parameters.to_string(),
    ];
    let extract = format!("{:.1} (extract)", report.cache.seconds);
    table.add_row(first.into_iter().chain([extract, "-".to_owned()]));
    for student in &report.students {
        table.add_row([
            format!("{}, {}", args.student, student.loss),
            format!("{:.2}", student.top1),
            student.parameters.to_string(),
            format!("{:.1} (train)", student.train_seconds),
            format!("{:.1e}", student.parity),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let models: Vec<String> =
        report.students.iter().map(|s| format!("  {}  ({})", s.model.display(), s.loss)).collect();
    let cache = &report.cache;
    #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
    let ratio = cache.raw_bytes as f64 / cache.bytes.max(1) as f64;
    format!(
        "{table}\ncache: {} for {} rows, {ratio:.1}x below raw; the teacher ran once; all of it \
         took {:.0} s\n\ntrained students:\n{}\n\nnext:\n  nst-cache inspect {}\n  nst-cache \
         train resnet20 --cache {} --criterion kd --criterion nst\n  nst-cache extract \
         YOUR_TEACHER.onnx --data YOUR_IMAGES",
        human_bytes(cache.bytes),
        cache.rows,
        report.seconds,
        models.join("\n"),
        teacher.display(),
        args.output.join("cache").display(),
    )
}
