//! Folders: made so that their names last, synced, and walked.

use super::failed;
use super::read::is_missing;
use crate::error::Result;
use crate::threads;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Makes a folder and what leads to it, and makes their names last.
///
/// # Errors
/// When the disk refuses.
pub fn create_dirs(folder: &Path) -> Result<()> {
    let made = |folder: &Path| -> std::io::Result<Vec<PathBuf>> {
        // one that is there may be what a run left that was killed before it synced the name: so
        // the folder above is synced again
        let mut named = vec![folder.to_owned()];
        for above in folder.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()) {
            match fs::symlink_metadata(above) {
                Err(e) if is_missing(&e) => named.push(above.to_owned()),
                _ => break,
            }
        }
        fs::create_dir_all(folder)?;
        Ok(named)
    };
    let named = made(folder).map_err(|e| failed(folder, "make the folder", e))?;
    named.iter().rev().try_for_each(|folder| sync_above(folder))
}

/// Makes a name last in the folder that it stands in, where we may look into that.
fn sync_above(path: &Path) -> Result<()> {
    let above = match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        Some(_) => Path::new("."),
        None => return Ok(()),
    };
    match File::open(above) {
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(()),
        opened => opened.and_then(|folder| folder.sync_all()).map_err(|e| failed(above, "sync", e)),
    }
}

/// Makes a rename, or new entries, in a folder last.
///
/// # Errors
/// When the disk refuses.
pub fn sync_dir(folder: &Path) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| failed(folder, "sync", e))
}

/// Makes last what was put into the folders that lead from `root` (included) to each of `files`.
///
/// # Errors
/// When the disk refuses.
pub fn sync_dirs_between<'a>(root: &Path, files: impl Iterator<Item = &'a Path>) -> Result<()> {
    let mut folders = BTreeSet::new();
    for file in files {
        folders.extend(file.ancestors().skip(1).take_while(|a| a.starts_with(root)));
    }
    threads::at_once(&folders.into_iter().collect::<Vec<_>>(), |folder| sync_dir(folder))
}

/// Calls `visit` with the path below `folder` (parts joined by `/`) of everything in it that is not
/// a folder. Links are not followed.
///
/// # Errors
/// When a folder cannot be listed; what `visit` gives.
pub fn walk(folder: &Path, visit: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    fn below(folder: &Path, prefix: &str, visit: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        let unlisted = |e| failed(folder, "list", e);
        for entry in fs::read_dir(folder).map_err(unlisted)? {
            let entry = entry.map_err(unlisted)?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type().map_err(unlisted)?.is_dir() {
                below(&entry.path(), &format!("{name}/"), visit)?;
            } else {
                visit(&name)?;
            }
        }
        Ok(())
    }
    below(folder, "", visit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_whatever_is_there_of_them() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/c");
        create_dirs(&path).unwrap();
        create_dirs(&path).unwrap();
        fs::write(path.join("file"), b"").unwrap();
        let mut seen = Vec::new();
        walk(root.path(), &mut |path| {
            seen.push(path.to_owned());
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, ["a/b/c/file"]);
        sync_dirs_between(root.path(), [path.join("file")].iter().map(PathBuf::as_path)).unwrap();
        assert!(create_dirs(&path.join("file/below")).is_err());
        assert!(walk(&path.join("none"), &mut |_| Ok(())).is_err());
    }
}
