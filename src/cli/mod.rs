//! The command line: one file a command, arguments → validated recipe → the flow. The only place for clap, indicatif and printing.

pub mod cache;
mod print;

use crate::monitor::Monitor;
use crate::recipe::Config;
use std::path::PathBuf;

pub(crate) use print::{emit, emit_json};

/// What every command is given beside its own arguments.
pub struct Context<'a> {
    /// Defaults of the working folder.
    pub config: &'a Config,
    /// One JSON document on stdout instead of text.
    pub json: bool,
    /// Total compute threads.
    pub threads: usize,
    /// `--onnxruntime`: path of ONNX Runtime's library.
    pub onnxruntime: Option<PathBuf>,
    /// Progress, notes and warnings go to stderr; Ctrl-C asks through it to stop.
    pub monitor: &'a dyn Monitor,
}

/// Runs the program and gives its exit status.
#[must_use]
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
