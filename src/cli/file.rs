//! Result files: written whole or not at all.

use crate::error::{Error, Result};
use crate::storage::{self, Draft};
use std::fs::File;
use std::path::Path;

/// Refuses a path where a file exists, unless it may be replaced. Call it before the work whose
/// result goes there.
///
/// # Errors
/// If a file exists.
pub(super) fn refuse_existing(path: &Path, replace: bool) -> Result<()> {
    if !replace && storage::is_there(path)? { Err(exists(path)) } else { Ok(()) }
}

/// Writes a file: `fill` writes a temporary sibling, which is then synced and renamed.
///
/// # Errors
/// If the file exists and may not be replaced, `fill` fails, or the disk refuses.
pub(super) fn write_whole<T>(
    path: &Path,
    replace: bool,
    fill: impl FnOnce(&mut File) -> Result<T>,
) -> Result<T> {
    refuse_existing(path, replace)?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    storage::create_dirs(folder)?;
    let mut draft = Draft::new(path)?;
    let result = fill(draft.file())?;
    draft.sync()?;
    if replace {
        draft.rename()?;
    } else if !draft.rename_new()? {
        return Err(exists(path));
    }
    storage::sync_dir(folder)?;
    Ok(result)
}

fn exists(path: &Path) -> Error {
    Error::input(format!("{}: already exists", path.display()))
        .hint("choose another name, or use --force to replace it")
}
