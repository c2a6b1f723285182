//! `cache info`, `verify`, `repair` and `export`.

mod check;
mod export;
mod info;

use crate::error::Result;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  nst-cache cache info cache/teacher
  nst-cache cache verify cache/teacher --live teacher.onnx
  nst-cache cache repair cache/teacher
  nst-cache cache export cache/teacher --npz teacher.npz";

const INFO_EXAMPLES: &str = "\
Examples:
  nst-cache cache info cache/teacher
  nst-cache cache info cache/teacher --json | jq '.arrays[].ratio'";

const VERIFY_EXAMPLES: &str = "\
Examples:
  nst-cache cache verify cache/teacher
  nst-cache cache verify cache/teacher --live teacher.onnx
  nst-cache cache verify cache/teacher --json | jq '.findings[].file'

Reads every byte. Problems go to stdout, one line per file and rows; exit status 1 if there \
                               are any.";

const REPAIR_EXAMPLES: &str = "\
Examples:
  nst-cache cache repair cache/teacher
  nst-cache extract teacher.onnx --data folder:photos     # as before: fills what was removed
  nst-cache cache repair cache/teacher --drop-extension   # without what was being added

Verifies first; a sound cache is not changed. If a file cannot be read, repair stops and removes \
                               nothing. A damaged manifest cannot be repaired: remove the \
                               folder and extract again.";

const EXPORT_EXAMPLES: &str = "\
Examples:
  nst-cache cache export cache/teacher --npz teacher.npz
  nst-cache cache export cache/teacher --safetensors layer3.safetensors --tap layer3 --rows 0..1000
  nst-cache cache export cache/teacher --npz logits.npz --tap logits

Arrays keep their paths, types and row order: sample_id and label [row], the others [view, \
                               row, …].";

/// Arguments of `cache`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show a cache's teacher, data and preprocessing, and what each array takes on disk
    #[command(after_help = INFO_EXAMPLES)]
    Info {
        /// The cache's folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Check every checksum and shape in a cache, and that all values are finite
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify {
        /// The cache's folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Also recompute a sample of rows with this teacher, and compare
        #[arg(long, value_name = "TEACHER.onnx")]
        live: Option<PathBuf>,
    },
    /// Remove damaged rows from a cache, for the same `extract` command to fill again
    #[command(after_help = REPAIR_EXAMPLES)]
    Repair {
        /// The cache's folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Drop the views or taps that were being added, restoring the cache as it was
        #[arg(long)]
        drop_extension: bool,
    },
    /// Write arrays of a cache to one file for other tools
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(export::Args),
}

/// Runs `cache`.
///
/// # Errors
/// If the folder is not a cache, or (status 1) something in it is wrong.
pub fn run(args: Args, context: &super::Context<'_>) -> Result<()> {
    match args.command {
        Command::Info { folder } => info::run(&folder, context.json),
        Command::Verify { folder, live } => check::verify(&folder, live.as_deref(), context),
        Command::Repair { folder, drop_extension: false } => check::repair(&folder, context),
        Command::Repair { folder, drop_extension: true } => check::withdraw(&folder, context),
        Command::Export(args) => export::run(&args, context),
    }
}
