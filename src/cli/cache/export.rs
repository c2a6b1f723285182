//! `cache export`: writes arrays of a cache to one file for other tools.

use super::super::{Context, emit, emit_json, file};
use crate::cache::{Cache, Export, Format, export};
use crate::error::{Error, Result};
use crate::extract::human_bytes;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Arguments of `cache export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cache's folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Write an uncompressed .npz, for `numpy.load`
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "safetensors",
        conflicts_with = "safetensors"
    )]
    npz: Option<PathBuf>,
    /// Write a .safetensors file
    #[arg(long, value_name = "FILE")]
    safetensors: Option<PathBuf>,
    /// Only this array, tap (by its alias) or folder of arrays (repeat for more); `sample_id` and
    /// `label` are always included [default: all]
    #[arg(long = "tap", value_name = "NAME")]
    names: Vec<String>,
    /// Only these rows of each view, in the cache's order
    #[arg(long, value_name = "FIRST..END", value_parser = parse_rows)]
    rows: Option<Range<usize>>,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

/// Writes the file whole or not at all.
pub(super) fn run(args: &Args, context: &Context<'_>) -> Result<()> {
    let (path, format) = match (&args.npz, &args.safetensors) {
        (Some(path), _) => (path, Format::Npz),
        (None, Some(path)) => (path, Format::Safetensors),
        (None, None) => return Err(Error::input("expected --npz FILE or --safetensors FILE")),
    };
    let cache = Cache::open(&args.folder)?;
    if let Some(note) = cache.extension() {
        context.monitor.warn(note);
    }
    let written = file::write_whole(path, args.force, |out| {
        export(&cache, format, &args.names, args.rows.clone(), out, context.monitor)
    })?;
    if context.json { emit_json(&written) } else { emit(&text(&written, path)) }
}

fn text(written: &Export, path: &Path) -> String {
    let line =
        |(name, dtype, shape): &(String, &str, Vec<usize>)| format!("{name}  {dtype} {shape:?}\n");
    let arrays: String = written.arrays.iter().map(line).collect();
    format!("{arrays}{}: {} rows, {}", path.display(), written.rows, human_bytes(written.bytes))
}

/// Parses `0..100`.
fn parse_rows(text: &str) -> Result<Range<usize>, String> {
    let parse = || {
        let (first, end) = text.split_once("..")?;
        Some(first.parse().ok()?..end.parse().ok()?)
    };
    parse().ok_or_else(|| {
        "expected the first row and the one after the last, such as 0..100".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_a_first_and_an_end() {
        assert_eq!(parse_rows("3..10"), Ok(3..10));
        for wrong in ["", "3", "3..", "..3", "3..=4", "-1..2", "a..b"] {
            assert!(parse_rows(wrong).is_err(), "{wrong}");
        }
    }
}
