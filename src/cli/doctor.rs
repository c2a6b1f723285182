//! `doctor`: what this machine offers, whether the program runs on it, and what to do if not.

use super::demo::TEACHER;
use super::{Context, emit, emit_json};
use crate::array::{Array, Values};
use crate::error::{Error, Result};
use crate::extract::human_bytes;
use crate::kernel;
use crate::machine;
use crate::onnx::{Dim, Model};
use crate::runtime::{Device, Runtime, Session, SessionOptions};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::path::Path;
use std::time::Instant;

pub(super) const EXAMPLES: &str = "\
Examples:
  nst-cache doctor
  nst-cache doctor --json | jq '.checks[] | select(.status != \"ok\")'

Exit status 0 if everything works on the CPU, 1 if something does not.";

/// Below these, real runs soon fail.
const MEMORY: u64 = 2_000_000_000;
const DISK: u64 = 1_000_000_000;

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Status {
    Ok,
    /// It works without.
    Note,
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, found: found.into(), advice: None }
    }

    fn note(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        let (found, advice) = (found.into(), Some(advice.into()));
        Self { name, status: Status::Note, found, advice }
    }

    fn failed(name: &'static str, error: &Error) -> Self {
        let advice = error.find_hint().map(str::to_owned);
        Self { name, status: Status::Failed, found: error.chain(), advice }
    }
}

#[derive(Serialize)]
struct Report {
    checks: Vec<Check>,
}

/// Looks at everything, and prints it.
///
/// # Errors
/// A failed check if the program cannot run on the CPU.
pub fn run(_args: Args, context: &Context<'_>) -> Result<()> {
    let mut checks = vec![program(), processor(context.threads), memory()];
    checks.extend([
        disk("disk here", Path::new("")),
        disk("disk for temporary files", &std::env::temp_dir()),
    ]);
    match Runtime::load(context.onnxruntime.as_deref()) {
        Err(error) => checks.push(Check::failed("ONNX Runtime", &error)),
        Ok(runtime) => {
            checks.push(library(&runtime));
            checks.push(inference(&runtime, Device::Cpu, context.threads));
            checks.push(gpu(&runtime, context.threads));
        }
    }
    let failed = checks.iter().filter(|check| check.status == Status::Failed).count();
    let report = Report { checks };
    if context.json {
        emit_json(&report)?;
    } else {
        emit(&describe(&report.checks))?;
    }
    if failed > 0 {
        return Err(Error::check(format!(
            "doctor: {failed} of {} checks failed",
            report.checks.len()
        )));
    }
    context.monitor.note("everything works on the CPU");
    Ok(())
}

fn describe(checks: &[Check]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    for check in checks {
        let mark = match check.status {
            Status::Ok => "ok",
            Status::Note => "note",
            Status::Failed => "FAILED",
        };
        table.add_row([mark, check.name, &check.found]);
        if let Some(advice) = &check.advice {
            table.add_row(["", "", &format!("→ {advice}")]);
        }
    }
    table.trim_fmt()
}

fn program() -> Check {
    let student = if cfg!(feature = "cuda") { "CPU and CUDA" } else { "CPU" };
    Check::ok(
        "nst-cache",
        format!(
            "{}, {} {}, trains on {student}",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            std::env::consts::ARCH
        ),
    )
}

fn processor(threads: usize) -> Check {
    let kernels = kernel::instruction_set();
    let found = format!("{threads} threads, {kernels}");
    if kernels == kernel::PLAIN {
        return Check::note("processor", found, "training is several times faster with AVX2");
    }
    Check::ok("processor", found)
}

fn memory() -> Check {
    match machine::available_memory() {
        None => Check::ok("memory", "not told by the system"),
        Some(free) if free < MEMORY => Check::note(
            "memory",
            format!("{} free", human_bytes(free)),
            "close other programs, or use a smaller --batch",
        ),
        Some(free) => Check::ok("memory", format!("{} free", human_bytes(free))),
    }
}

/// Free space, and whether a file can be written.
fn disk(name: &'static str, folder: &Path) -> Check {
    let place = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if let Err(error) = tempfile::tempfile_in(place) {
        let error = Error::input(format!("{}: cannot write there", place.display())).because(error);
        return Check::failed(name, &error.hint("go to a folder of your own, or set TMPDIR"));
    }
    match machine::free_disk(place) {
        None => Check::ok(name, "writable"),
        Some(free) if free < DISK => Check::note(
            name,
            format!("{} free in {}", human_bytes(free), place.display()),
            "a cache may take gigabytes: extract --dry-run tells, -o writes elsewhere",
        ),
        Some(free) => Check::ok(name, format!("{} free in {}", human_bytes(free), place.display())),
    }
}

fn library(runtime: &Runtime) -> Check {
    let found = format!("{}, {}", runtime.version, runtime.path.display());
    match runtime.fault() {
        Some(fault) => Check::note("ONNX Runtime", found, fault),
        None => Check::ok("ONNX Runtime", found),
    }
}

/// Runs the demo's teacher on one image.
fn inference(runtime: &Runtime, device: Device, threads: usize) -> Check {
    let name = if device == Device::Cpu { "inference on the CPU" } else { "inference on the GPU" };
    let run = || {
        let model = Model::from_bytes(TEACHER.to_vec(), None)?;
        let outputs: Vec<String> = model.outputs().into_iter().map(|output| output.name).collect();
        let mut session =
            Session::new(runtime, &model, &outputs, &SessionOptions { device, threads })?;
        let inputs = model.inputs();
        let arrays = inputs.iter().map(|input| {
            let size = |dim: &Dim| if let Dim::Fixed(n) = dim { *n } else { 1 };
            let shape: Vec<usize> = input.shape.iter().map(size).collect();
            let count = shape.iter().product();
            Array::new(shape, Values::F32(vec![0.5; count]))
        });
        let arrays = arrays.collect::<Result<Vec<_>>>()?;
        let named: Vec<(&str, &Array)> =
            inputs.iter().map(|input| input.name.as_str()).zip(&arrays).collect();
        // the first run allocates
        session.run(&named, &outputs)?;
        let start = Instant::now();
        let values = session.run(&named, &outputs)?;
        if values.iter().any(|array| array.to_f32().iter().any(|x| !x.is_finite())) {
            return Err(Error::check("the demo's teacher gives values that are not finite"));
        }
        Ok(start.elapsed())
    };
    match run() {
        Ok(time) => Check::ok(
            name,
            format!("the demo's teacher takes {:.2} ms an image", 1e3 * time.as_secs_f64()),
        ),
        Err(error) => Check::failed(name, &error),
    }
}

/// A GPU is a convenience: without one nothing fails.
fn gpu(runtime: &Runtime, threads: usize) -> Check {
    let gpus = machine::nvidia_gpus();
    let driver = machine::nvidia_driver();
    if gpus.is_empty() && driver.is_none() {
        return Check::ok("GPU", "none found: teachers run on the CPU");
    }
    let names = if gpus.is_empty() { "a GPU".to_owned() } else { gpus.join(", ") };
    let driver = driver.map_or_else(String::new, |version| format!(", driver {version}"));
    let tried = inference(runtime, Device::Cuda(0), threads);
    match tried.status {
        Status::Ok => Check::ok("GPU", format!("{names}{driver}: {}", tried.found)),
        _ => Check::note(
            "GPU",
            format!("{names}{driver}, not used: {}", tried.found),
            tried
                .advice
                .unwrap_or_else(|| "take the GPU build of ONNX Runtime: docs/gpu.md".to_owned()),
        ),
    }
}
