//! `man DIR`: the manual, a page for each command.

use super::Context;
use crate::error::{Context as _, Result};
use crate::storage::create_dirs;
use std::path::PathBuf;

pub(super) const EXAMPLES: &str = "\
Examples:
  nst-cache man ~/.local/share/man/man1 && man nst-cache-extract";

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for the pages
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Writes the pages.
///
/// # Errors
/// If the folder cannot be written.
pub fn run(args: Args, context: &Context<'_>) -> Result<()> {
    create_dirs(&args.folder)?;
    let failed = || format!("{}: cannot be written", args.folder.display());
    clap_mangen::generate_to(super::command(), &args.folder).context(failed)?;
    context.monitor.note(&format!("pages in {}", args.folder.display()));
    Ok(())
}
