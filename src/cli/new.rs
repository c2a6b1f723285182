//! `new`: placeholder until its branch is merged.

use super::Context;
use crate::error::{Error, Result};

/// Arguments of `new`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Not there yet.
///
/// # Errors
/// Always.
pub fn run(_args: Args, _context: &Context<'_>) -> Result<()> {
    Err(Error::input("new: not built yet"))
}
