//! The figures that are compared with other tools (docs/performance.md, `make
//! bench-peers`).
//!
//! ```text
//! cargo bench --bench peers -- step --model resnet20 --threads 1
//! ```

#![allow(clippy::print_stderr, reason = "a program")]

mod criteria;
mod distill;
mod extract;
mod memory;
mod read;
mod step;
mod summary;
mod synthetic;

use clap::{Parser, Subcommand};
use nst_cache::cli::Context;
use nst_cache::error::{Context as _, Result};
use nst_cache::monitor::Monitor;
use nst_cache::recipe::Config;
use nst_cache::{runtime, threads};
use serde::Serialize;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

const EXAMPLES: &str = "\
Examples:
  bench step --model resnet20 --threads 1
  bench step --model wrn-16-2,resnet18-224 --precision strict --json
  bench extract models/teacher.onnx --data fashion-mnist --threads 1
  bench read cache/teacher --cold
  bench distill --pair cifar --threads 2 --json
  bench criteria --threads 1
  bench criteria nst-gauss --pair wide --json

docs/performance.md says how these compare with PyTorch, and `make bench-peers` measures both side \
                        by side.";

/// Measures what is compared with other tools.
#[derive(Debug, Parser)]
#[command(name = "bench", after_help = EXAMPLES, max_term_width = 120)]
struct Line {
    /// Write one JSON document to stdout instead of text
    #[arg(long, global = true)]
    json: bool,
    /// Total of compute threads [default: the machine's cores]
    #[arg(long, global = true, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// ONNX Runtime's library
    #[arg(long, global = true, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    /// No notes: warnings and errors alone
    #[arg(short, long, global = true)]
    quiet: bool,
    /// What `cargo bench` adds
    #[arg(long, global = true, hide = true)]
    bench: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One training step of a student: forward, cross-entropy, backward, SGD
    Step(step::Args),
    /// An extraction, writing included, against its teacher run bare with the same tensors read
    Extract(Box<extract::Args>),
    /// Reading a cache, against a bare loop of checksums and zstd over the same bytes
    Read(read::Args),
    /// One distillation step from a cache: loading, forward, cross-entropy and NST at every stage,
    /// backward, SGD
    Distill(distill::Args),
    /// Each criterion by itself: the loss with its gradients for the student's tensors and for what
    /// it learns, time and memory
    Criteria(criteria::Args),
}

/// Notes and warnings go to stderr; there are no bars, which would take part of what is measured.
struct Notes {
    quiet: bool,
}

impl Monitor for Notes {
    fn begin(&self, _: &str, _: &'static str, _: u64, _: u64) {}
    fn advance(&self, _: u64, _: u64) {}
    fn status(&self, _: &str) {}
    fn end(&self) {}
    fn note(&self, text: &str) {
        if !self.quiet {
            eprintln!("note: {text}");
        }
    }
    fn warn(&self, text: &str) {
        eprintln!("warning: {text}");
    }
    fn stop_requested(&self) -> bool {
        false
    }
}

fn main() -> ExitCode {
    // SAFETY: the program begins here, with one thread
    unsafe { runtime::forbid_telemetry() };
    match run(Line::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.chain());
            if let Some(hint) = error.find_hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(line: Line) -> Result<()> {
    let filter = EnvFilter::try_from_env("NST_LOG").unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    let threads = line
        .threads
        .or_else(|| std::thread::available_parallelism().ok())
        .map_or(1, NonZeroUsize::get);
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(threads::refused)?;
    let config = Config::read(Path::new(""))?;
    let monitor = Notes { quiet: line.quiet };
    let context = Context {
        config: &config,
        json: line.json,
        threads,
        onnxruntime: line.onnxruntime,
        monitor: &monitor,
    };
    match line.what {
        What::Step(args) => step::run(&args, &context),
        What::Extract(args) => extract::run(*args, &context),
        What::Read(args) => read::run(&args, &context),
        What::Distill(args) => distill::run(&args, &context),
        What::Criteria(args) => criteria::run(&args, &context),
    }
}

/// Writes a table to stdout.
fn emit(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context(|| "standard output".to_owned())
}

/// Writes one JSON document to stdout.
fn emit_json(document: &impl Serialize) -> Result<()> {
    emit(&serde_json::to_string_pretty(document).context(|| "result".to_owned())?)
}
