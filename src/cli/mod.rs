//! The command line: one file per command, from arguments to a validated recipe to the run. The
//! only place for clap, indicatif and printing.

#![allow(
    clippy::needless_pass_by_value,
    reason = "every command owns its arguments, whatever it does with them"
)]

mod cache;
mod completions;
mod criteria;
mod demo;
mod doctor;
mod eval;
#[doc(hidden)] // the benchmarks take its flags
pub mod extract;
mod feed_args;
mod file;
mod inspect;
mod man;
mod monitor;
mod new;
pub mod preprocess_args;
mod print;
mod recipe;
mod sweep;
mod train;

use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::recipe::Config;
use crate::runtime::{self, Runtime};
use crate::threads;
use crate::train::Host;
use clap::{Parser, Subcommand, ValueEnum};
use monitor::Terminal;
use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

pub(crate) use print::{emit, emit_json};

/// What every command gets in addition to its own arguments.
pub struct Context<'a> {
    /// Defaults from the working folder.
    pub config: &'a Config,
    /// Whether stdout gets one JSON document instead of text.
    pub json: bool,
    /// Total compute threads.
    pub threads: usize,
    /// `--onnxruntime`: path of ONNX Runtime's library.
    pub onnxruntime: Option<PathBuf>,
    /// Progress, notes and warnings go to stderr; Ctrl-C asks to stop through it.
    pub monitor: &'a dyn Monitor,
}

impl Context<'_> {
    /// ONNX Runtime, with a warning if this version is known to compute something wrong.
    ///
    /// # Errors
    /// If it is not found.
    pub(crate) fn runtime(&self) -> Result<Runtime> {
        Runtime::load_for(self.onnxruntime.as_deref(), self.monitor)
    }

    /// The process in which a training run executes.
    pub(crate) fn host(&self) -> Host<'_> {
        let onnxruntime = self.onnxruntime.clone();
        Host { threads: self.threads, onnxruntime, monitor: self.monitor }
    }
}

const EXAMPLES: &str = "\
Examples:
  nst-cache demo
  nst-cache inspect teacher.onnx
  nst-cache extract teacher.onnx --data folder:photos --preprocess imagenet
  nst-cache train resnet20 --cache cache/teacher
  nst-cache eval runs/resnet20/student.onnx --data folder:photos --split test

`nst-cache.toml` in the working folder holds defaults for flags. Results go to stdout, everything \
                        else to stderr.
Exit status: 0 done, 1 a check failed, 2 bad input or use, 101 a bug of ours, 130 interrupted.";

/// Offline feature distillation on ONNX: run the teacher once, train any number of students from
/// its cache.
#[derive(Debug, Parser)]
#[command(
    name = "nst-cache",
    version,
    after_help = EXAMPLES,
    max_term_width = 120,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Write one JSON document to stdout instead of text
    #[arg(long, global = true)]
    json: bool,
    /// Total number of compute threads [default: the machine's cores]
    #[arg(long, global = true, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// ONNX Runtime's library [default: `ORT_DYLIB_PATH`, else next to this program, else of the
    /// Python package beside it, else the system's]
    #[arg(long, global = true, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    /// Log more to stderr (twice: still more; `NST_LOG` sets a custom filter)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Show only warnings and errors, no progress or notes
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Stop when standard input ends: ends a sweep's runs together with the sweep
    #[arg(long, global = true, hide = true)]
    stop_with_stdin: bool,
    /// When to color messages
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: Color,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

impl Color {
    /// Whether stderr is to be colored.
    fn enabled(self) -> bool {
        match self {
            Self::Auto => {
                std::io::stderr().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            }
            Self::Always => true,
            Self::Never => false,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a model's inputs, outputs and taps, and whether it can be trained
    Inspect(inspect::Args),
    /// Run a teacher once over a data set and write the cache
    #[command(after_help = extract::EXAMPLES)]
    Extract(extract::Args),
    /// Train a student, from a cache or from labels alone
    Train(train::Args),
    /// Train many students from one cache: every student with every method and seed of a recipe
    #[command(after_help = sweep::EXAMPLES)]
    Sweep(sweep::Args),
    /// Write the recipe of a published comparison
    #[command(after_help = recipe::EXAMPLES)]
    Recipe(recipe::Args),
    /// Measure a model in ONNX Runtime: by labels, against a teacher, or by nearest neighbors
    #[command(after_help = eval::EXAMPLES)]
    Eval(eval::Args),
    /// Write an untrained student
    New(new::Args),
    /// Show, check, repair or export a cache
    Cache(cache::Args),
    /// List the criteria: what each needs stored, its defaults, its source
    #[command(after_help = criteria::EXAMPLES)]
    Criteria(criteria::Args),
    /// Run the whole pipeline on the embedded data
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::Args),
    /// Say what this machine offers, and whether everything works on it
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::Args),
    /// Write a completion script for a shell
    #[command(after_help = completions::EXAMPLES)]
    Completions(completions::Args),
    /// Write the manual's pages into a folder
    #[command(after_help = man::EXAMPLES)]
    Man(man::Args),
}

/// Runs the program and returns its exit status.
#[must_use]
pub fn main() -> ExitCode {
    // SAFETY: the program starts here, with a single thread
    unsafe { runtime::forbid_telemetry() };
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return print::usage(&usage),
    };
    let color = cli.global.color.enabled();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print::error(&error, color);
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let Cli { global, command } = cli;
    let color = global.color.enabled();
    start_log(global.verbose, color)?;
    let config = Config::read(Path::new(""))?;
    let count = count_threads(global.threads, config.threads)?;
    rayon::ThreadPoolBuilder::new().num_threads(count).build_global().map_err(threads::refused)?;
    monitor::listen_for_interrupts()?;
    if global.stop_with_stdin {
        monitor::stop_with_stdin()?;
    }
    let terminal = Terminal::new(global.quiet, color);
    let context = Context {
        config: &config,
        json: global.json,
        threads: count,
        onnxruntime: global.onnxruntime,
        monitor: &terminal,
    };
    match command {
        Command::Inspect(args) => inspect::run(args, &context),
        Command::Extract(args) => extract::run(args, &context),
        Command::Train(args) => train::run(args, &context),
        Command::Sweep(args) => sweep::run(args, &context),
        Command::Recipe(args) => recipe::run(args, &context),
        Command::Eval(args) => eval::run(args, &context),
        Command::New(args) => new::run(args, &context),
        Command::Cache(args) => cache::run(args, &context),
        Command::Criteria(args) => criteria::run(args, &context),
        Command::Demo(args) => demo::run(args, &context),
        Command::Doctor(args) => doctor::run(args, &context),
        Command::Completions(args) => completions::run(args, &context),
        Command::Man(args) => man::run(args, &context),
    }
}

fn count_threads(flag: Option<NonZeroUsize>, config: Option<usize>) -> Result<usize> {
    match (flag, config) {
        (Some(n), _) => Ok(n.get()),
        (None, Some(0)) => {
            Err(Error::input(format!("{}: threads: expected 1 or more, found 0", Config::FILE)))
        }
        (None, Some(n)) => Ok(n),
        (None, None) => Ok(std::thread::available_parallelism().map_or(1, NonZeroUsize::get)),
    }
}

/// Sends the log to stderr: only this crate's warnings unless `-v` or `NST_LOG` ask for more.
fn start_log(verbose: u8, color: bool) -> Result<()> {
    let by_flag = match verbose {
        0 => "off,nst_cache=warn",
        1 => "warn,nst_cache=info",
        2 => "info,nst_cache=debug",
        _ => "trace",
    };
    let directives = std::env::var("NST_LOG")
        .ok()
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| by_flag.to_owned());
    let filter = EnvFilter::try_new(&directives).map_err(|e| {
        Error::input(format!("NST_LOG `{directives}`: not a log filter")).because(e)
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(color)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    Ok(())
}

/// The command line definition, for completion scripts.
fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn threads_come_from_the_flag_then_the_config_then_the_machine() {
        assert_eq!(count_threads(NonZeroUsize::new(3), Some(5)).ok(), Some(3));
        assert_eq!(count_threads(None, Some(5)).ok(), Some(5));
        assert!(count_threads(None, Some(0)).is_err());
        assert!(count_threads(None, None).is_ok_and(|n| n >= 1));
    }
}
