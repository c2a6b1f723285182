//! `bench criteria`: time and memory of each criterion by itself, its loss with the gradients for
//! the student's tensors and for what it learns, at the sizes of the usual comparison. One process
//! a criterion, so that the peak of memory is that criterion's own.

mod case;
mod save;

use crate::memory::{peak_rss_mb, rss_mb};
use crate::summary::{Summary, summary};
use crate::{Context, emit, emit_json};
use case::{Case, Shapes};
use clap::ValueEnum as _;
use comfy_table::{CellAlignment, Table, presets};
use nst_cache::criterion::papers;
use nst_cache::error::{Context as _, Error, Result};
use nst_cache::recipe::CriterionRecipe;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Arguments of `bench criteria`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The criteria, as `train --criterion` takes them [default: all that the pair allows, a
    /// process each]
    #[arg(value_name = "CRITERION")]
    criteria: Vec<String>,
    /// The shapes of teacher and student: of two of RepDistiller's pairs on CIFAR-100, or one stage
    /// of 256 channels of 32x32
    #[arg(long, value_enum, default_value_t = Shapes::Equal)]
    pair: Shapes,
    /// Samples of a step
    #[arg(long, default_value_t = NonZeroUsize::new(64).unwrap_or(NonZeroUsize::MIN))]
    batch: NonZeroUsize,
    /// Steps that are measured
    #[arg(long, default_value_t = NonZeroUsize::new(10).unwrap_or(NonZeroUsize::MIN))]
    steps: NonZeroUsize,
    /// Steps before them
    #[arg(long, default_value_t = 2)]
    warmup: usize,
    /// Measure nothing: write one criterion's tensors, weights, loss and gradients here, to hold
    /// another implementation against
    #[arg(long, value_name = "FILE.safetensors")]
    save: Option<PathBuf>,
}

/// What was measured of one criterion.
#[derive(Debug, Serialize, Deserialize)]
struct CriterionRow {
    criterion: String,
    pair: Shapes,
    batch: usize,
    threads: usize,
    median_ms: f64,
    p10_ms: f64,
    p90_ms: f64,
    /// Of the process with the tensors in place, before the first step; `null` where the system
    /// does not say, as the next one.
    baseline_mb: Option<f64>,
    /// Of the process, all that the baseline counts included.
    peak_rss_mb: Option<f64>,
    /// Of the first step, unweighted.
    loss: f64,
}

pub fn run(args: &Args, context: &Context<'_>) -> Result<()> {
    let names: Vec<&str> = if args.criteria.is_empty() {
        papers::names().collect()
    } else {
        args.criteria.iter().map(String::as_str).collect()
    };
    let criteria = names
        .iter()
        .map(|name| Ok((*name, name.parse()?)))
        .collect::<Result<Vec<(&str, CriterionRecipe)>>>()?;
    let case = |criterion| Case::new(criterion, args.pair, args.batch.get(), context.monitor);
    match (criteria.as_slice(), &args.save) {
        ([(_, criterion)], Some(path)) => save::write(path, case(criterion)?),
        (_, Some(_)) => Err(Error::input("--save: expected one criterion")
            .hint("name one: nst-cache criteria at --save at.safetensors")),
        ([(_, criterion)], None) => {
            let row = measure(criterion, case(criterion)?, args, context)?;
            if context.json { emit_json(&row) } else { emit(&table(&[row])) }
        }
        (several, None) => {
            let possible =
                several.iter().filter(|(_, criterion)| args.pair.allows(&criterion.method));
            let rows = possible
                .map(|(name, _)| by_itself(name, args, context))
                .collect::<Result<Vec<_>>>()?;
            if context.json { emit_json(&rows) } else { emit(&table(&rows)) }
        }
    }
}

fn measure(
    criterion: &CriterionRecipe,
    mut case: Case,
    args: &Args,
    context: &Context<'_>,
) -> Result<CriterionRow> {
    let baseline_mb = rss_mb();
    let mut times = Vec::with_capacity(args.steps.get());
    let mut first = None;
    for step in 0..args.warmup + args.steps.get() {
        let start = Instant::now();
        let loss = case.step(step)?.parts.first().copied().flatten().unwrap_or(f64::NAN);
        if step >= args.warmup {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        if !loss.is_finite() {
            return Err(Error::check(format!(
                "{}: step {step}: the loss is {loss}",
                criterion.name()
            )));
        }
        first.get_or_insert(loss);
    }
    let Summary { median: median_ms, p10: p10_ms, p90: p90_ms } = summary(times);
    Ok(CriterionRow {
        criterion: criterion.name().to_owned(),
        pair: args.pair,
        batch: args.batch.get(),
        threads: context.threads,
        median_ms,
        p10_ms,
        p90_ms,
        baseline_mb,
        peak_rss_mb: peak_rss_mb(),
        loss: first.unwrap_or(f64::NAN),
    })
}

/// The same in a process of its own.
fn by_itself(name: &str, args: &Args, context: &Context<'_>) -> Result<CriterionRow> {
    context.monitor.note(&format!("{name}: {} + {} steps", args.warmup, args.steps));
    let failed = || format!("bench criteria {name}: the process that measures it");
    let program = std::env::current_exe().context(|| "this program: cannot be found".to_owned())?;
    let pair =
        args.pair.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    let mut command = Command::new(program);
    command.args(["criteria", name, "--pair", &pair, "--json", "--quiet"]);
    for (flag, value) in [
        ("--batch", args.batch.get()),
        ("--steps", args.steps.get()),
        ("--warmup", args.warmup),
        ("--threads", context.threads),
    ] {
        command.args([flag, &value.to_string()]);
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context(failed)?;
    if !output.status.success() {
        return Err(Error::check(format!("{}: {}", failed(), output.status)));
    }
    serde_json::from_slice(&output.stdout).context(failed)
}

fn table(rows: &[CriterionRow]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["criterion", "median ms", "p10", "p90", "before MB", "peak MB", "loss"]);
    let megabytes = |mb: Option<f64>| mb.map_or_else(|| "-".to_owned(), |mb| format!("{mb:.0}"));
    for row in rows {
        table.add_row([
            row.criterion.clone(),
            format!("{:.2}", row.median_ms),
            format!("{:.2}", row.p10_ms),
            format!("{:.2}", row.p90_ms),
            megabytes(row.baseline_mb),
            megabytes(row.peak_rss_mb),
            format!("{:.4e}", row.loss),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let Some(row) = rows.first() else { return table.to_string() };
    format!(
        "{table}\n{}, batch {}, {} threads, float32, the teacher's maps in float16 as a cache \
         holds them",
        row.pair.about(),
        row.batch,
        row.threads
    )
}
