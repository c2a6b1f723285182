//! `demo`: the whole pipeline on the embedded data.

use super::Context;
use crate::error::{Error, Result};

pub(super) const EXAMPLES: &str = "";

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Not there yet.
///
/// # Errors
/// Always.
pub fn run(_args: Args, _context: &Context<'_>) -> Result<()> {
    Err(Error::input("demo: not built yet"))
}
