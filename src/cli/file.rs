//! Result files: written whole or not at all.

use crate::error::{Context as _, Error, Result};
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

/// Refuses a path where there is a file already, unless it may be replaced: before the work whose
/// result goes there.
///
/// # Errors
/// When there is one.
pub(super) fn refuse_existing(path: &Path, replace: bool) -> Result<()> {
    if path.exists() && !replace { Err(exists(path)) } else { Ok(()) }
}

/// Writes a file by `fill` into a temporary sibling that is then synced and renamed.
///
/// # Errors
/// When it exists and may not be replaced, `fill` fails, or the disk refuses.
pub(super) fn write_whole<T>(
    path: &Path,
    replace: bool,
    fill: impl FnOnce(&mut File) -> Result<T>,
) -> Result<T> {
    let failed = || format!("{}: cannot be written", path.display());
    refuse_existing(path, replace)?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).context(failed)?;
    let mut file = tempfile::Builder::new()
        .prefix(".nst-cache-")
        .make_in(folder, |path| File::create_new(path))
        .context(failed)?;
    let result = fill(file.as_file_mut())?;
    file.as_file().sync_all().context(failed)?;
    if replace {
        file.persist(path).map_err(|e| e.error).context(failed)?;
    } else {
        file.persist_noclobber(path).map_err(|e| match e.error.kind() {
            ErrorKind::AlreadyExists => exists(path),
            _ => Error::input(failed()).because(e.error),
        })?;
    }
    File::open(folder).and_then(|folder| folder.sync_all()).context(failed)?;
    Ok(result)
}

fn exists(path: &Path) -> Error {
    Error::input(format!("{}: exists already", path.display()))
        .hint("give another name, or --force to replace it")
}
