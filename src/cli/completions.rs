//! `completions SHELL`.

use super::{Context, emit};
use crate::error::{Error, Result};
use clap_complete::Shell;

pub(super) const EXAMPLES: &str = "\
Examples:
  nst-cache completions bash > ~/.local/share/bash-completion/completions/nst-cache
  nst-cache completions zsh > ~/.zfunc/_nst-cache";

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Writes the completion script to stdout.
///
/// # Errors
/// If stdout cannot be written.
pub fn run(args: Args, _context: &Context<'_>) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "nst-cache", &mut script);
    let script = String::from_utf8(script)
        .map_err(|e| Error::input("completion script: not UTF-8").because(e))?;
    emit(script.trim_end())
}
