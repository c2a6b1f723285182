//! `eval`: placeholder until its branch is merged.

use super::Context;
use crate::error::{Error, Result};

/// Arguments of `eval`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Not there yet.
///
/// # Errors
/// Always.
pub fn run(_args: Args, _context: &Context<'_>) -> Result<()> {
    Err(Error::input("eval: not built yet"))
}
