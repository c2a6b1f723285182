//! `train`: placeholder until its branch is merged.

use super::Context;
use crate::error::{Error, Result};

/// Arguments of `train`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Not there yet.
///
/// # Errors
/// Always.
pub fn run(_args: Args, _context: &Context<'_>) -> Result<()> {
    Err(Error::input("train: not built yet"))
}
