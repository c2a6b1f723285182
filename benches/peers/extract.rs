//! `bench extract`: an extraction, writing included, against its teacher run bare in this process
//! with the same tensors read.

use crate::summary::median;
use crate::{Context, emit, emit_json};
use comfy_table::{Table, presets};
use nst_cache::cli::extract as command;
use nst_cache::error::{Context as _, Result};
use nst_cache::extract::{self, Stages};
use nst_cache::runtime::Runtime;
use serde::Serialize;
use std::num::NonZeroUsize;

/// Arguments of `bench extract`.
#[derive(Debug, clap::Args)]
// clap names a group after the structure, and the flattened one has the same name
#[group(skip)]
pub struct Args {
    #[command(flatten)]
    extract: command::Args,
    /// Pairs of runs, bare and whole in turn
    #[arg(long, default_value_t = NonZeroUsize::new(3).unwrap_or(NonZeroUsize::MIN))]
    rounds: NonZeroUsize,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct ExtractionReport {
    rows: usize,
    threads: usize,
    /// Medians over the rounds.
    bare_rows_per_s: f64,
    extract_rows_per_s: f64,
    /// The whole against the bare: the median of the rounds' ratios, and each.
    ratio: f64,
    ratios: Vec<f64>,
    /// Bytes of the cache, and those a second that were written.
    bytes: u64,
    bytes_per_s: f64,
    /// How long each stage of the last round worked, and that round.
    stages: Stages,
    seconds: f64,
}

#[allow(clippy::cast_precision_loss, reason = "counts of rows and bytes")]
pub fn run(args: Args, context: &Context<'_>) -> Result<()> {
    let runtime = Runtime::load(context.onnxruntime.as_deref())?;
    let (mut recipe, session) = command::resolve(args.extract, context)?;
    // beside the folder that was asked for: the disk that is meant is measured
    let folder = recipe.output.parent().unwrap_or(std::path::Path::new(".")).to_owned();
    std::fs::create_dir_all(&folder).context(|| folder.display().to_string())?;
    let (mut bare, mut whole, mut ratios, mut last) = (Vec::new(), Vec::new(), Vec::new(), None);
    for round in 0..args.rounds.get() {
        context.monitor.note(&format!("round {} of {}", round + 1, args.rounds));
        let (rows, seconds) = extract::bare(&recipe, &runtime, &session, context.monitor)?;
        let scratch = tempfile::tempdir_in(&folder).context(|| folder.display().to_string())?;
        recipe.output = scratch.path().join("cache");
        let report = extract::run(&recipe, &runtime, &session, context.monitor)?;
        bare.push(rows as f64 / seconds);
        whole.push(rows as f64 / report.pipeline_seconds);
        ratios.push(seconds / report.pipeline_seconds);
        last = Some(report);
    }
    let Some(last) = last else { return Ok(()) };
    let report = ExtractionReport {
        rows: last.rows,
        threads: context.threads,
        bare_rows_per_s: median(&bare),
        extract_rows_per_s: median(&whole),
        ratio: median(&ratios),
        ratios,
        bytes: last.bytes,
        bytes_per_s: last.bytes as f64 / last.pipeline_seconds,
        stages: last.stages,
        seconds: last.pipeline_seconds,
    };
    if context.json {
        return emit_json(&report);
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["stage", "worked s", "of the run"]);
    let Stages { decode, infer, convert, write } = report.stages;
    for (stage, seconds) in [
        ("decode", decode),
        ("teacher", infer),
        ("convert", convert),
        ("compress and write", write),
    ] {
        table.add_row([
            stage.to_owned(),
            format!("{seconds:.2}"),
            format!("{:.0} %", 100.0 * seconds / report.seconds),
        ]);
    }
    emit(&format!(
        "{table}\n{} rows, {} threads: bare {:.0} rows/s, with everything {:.0} rows/s ({:.0} \
         MB/s written), ratio {:.3}",
        report.rows,
        report.threads,
        report.bare_rows_per_s,
        report.extract_rows_per_s,
        report.bytes_per_s / 1e6,
        report.ratio
    ))
}
