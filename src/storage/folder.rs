//! Folders: created durably, synced, and walked.

use super::failed;
use super::read::is_missing;
use crate::error::Result;
use crate::threads;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Creates a folder and its missing ancestors, and makes their names durable.
///
/// # Errors
/// If an I/O operation fails.
pub fn create_dirs(folder: &Path) -> Result<()> {
    let create = |folder: &Path| -> std::io::Result<Vec<PathBuf>> {
        // a killed run may have created the folder without syncing its name, so the parent of an
        // existing one is synced too
        let mut unsynced = vec![folder.to_owned()];
        for above in folder.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()) {
            match fs::symlink_metadata(above) {
                Err(e) if is_missing(&e) => unsynced.push(above.to_owned()),
                _ => break,
            }
        }
        fs::create_dir_all(folder)?;
        Ok(unsynced)
    };
    let unsynced = create(folder).map_err(|e| failed(folder, "make the folder", e))?;
    unsynced.iter().rev().try_for_each(|folder| sync_parent(folder))
}

/// Makes a name durable by syncing its parent folder, if that can be opened.
fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => return Ok(()),
    };
    match File::open(parent) {
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(()),
        opened => {
            opened.and_then(|folder| folder.sync_all()).map_err(|e| failed(parent, "sync", e))
        }
    }
}

/// Makes renames and new entries in a folder durable (syncs the directory).
///
/// # Errors
/// If an I/O operation fails.
pub fn sync_dir(folder: &Path) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| failed(folder, "sync", e))
}

/// Syncs every folder on the way from `root` (included) to each of `files`.
///
/// # Errors
/// If an I/O operation fails.
pub fn sync_dirs_between<'a>(root: &Path, files: impl Iterator<Item = &'a Path>) -> Result<()> {
    let mut folders = BTreeSet::new();
    for file in files {
        folders.extend(file.ancestors().skip(1).take_while(|a| a.starts_with(root)));
    }
    threads::at_once(&folders.into_iter().collect::<Vec<_>>(), |folder| sync_dir(folder))
}

/// Calls `visit` with the relative path (parts joined by `/`) of everything below `folder` that is
/// not a folder itself. Links are not followed.
///
/// # Errors
/// If a folder cannot be listed, or `visit` fails.
pub fn walk(folder: &Path, visit: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    fn walk_below(
        folder: &Path,
        prefix: &str,
        visit: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let unlisted = |e| failed(folder, "list", e);
        for entry in fs::read_dir(folder).map_err(unlisted)? {
            let entry = entry.map_err(unlisted)?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type().map_err(unlisted)?.is_dir() {
                walk_below(&entry.path(), &format!("{name}/"), visit)?;
            } else {
                visit(&name)?;
            }
        }
        Ok(())
    }
    walk_below(folder, "", visit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_created_whatever_part_exists() {
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
