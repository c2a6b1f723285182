//! Files as the cache needs them: replaced whole or not at all, locked, and failing with one clear
//! line.

use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file that readers and the writer lock. Empty; never the lock itself, which ends with the
/// process that holds it.
pub(super) const LOCK: &str = ".lock";

/// What could not be done to a file, with the action that helps where there is one.
pub(super) fn failed(path: &Path, action: &str, error: io::Error) -> Error {
    let hint = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(
            "free some space, then run the same command again: it goes on after the last whole \
             segment",
        ),
        ErrorKind::PermissionDenied => {
            Some("give yourself the permission, or choose another folder with -o")
        }
        ErrorKind::ReadOnlyFilesystem => Some("choose a folder on another file system with -o"),
        _ => None,
    };
    let wrapped = Error::input(format!("{}: cannot {action}", path.display())).because(error);
    match hint {
        Some(hint) => wrapped.hint(hint),
        None => wrapped,
    }
}

/// The name under which a file is written before it is renamed. One writer holds the lock, so the
/// name need not be unique.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

/// Whether a file name is one that [`temporary`] makes.
pub(super) fn is_temporary(name: &str) -> bool {
    name.strip_suffix(".tmp").is_some_and(|name| name.starts_with('.'))
}

/// Makes a folder and what leads to it.
pub(super) fn create_dirs(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| failed(folder, "make the folder", e))
}

/// Makes a rename, or new entries, in a folder last.
pub(super) fn sync_dir(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| failed(folder, "sync", e))
}

/// Makes last what was put into the folders that lead from `root` (included) to each of `files`.
pub(super) fn sync_dirs_between<'a>(
    root: &Path,
    files: impl Iterator<Item = &'a Path>,
) -> Result<()> {
    let mut folders = BTreeSet::new();
    for file in files {
        folders.extend(file.ancestors().skip(1).take_while(|a| a.starts_with(root)));
    }
    at_once(&folders.into_iter().collect::<Vec<_>>(), |folder| sync_dir(folder))
}

/// Calls `action` for all items on threads of their own, up to 16 of them: they wait for the disk,
/// which takes syncs that come together as one flush (a tenth of the time of one after the other).
/// The first item's error wins.
pub(super) fn at_once<T: Sync>(
    items: &[T],
    action: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let group = items.len().div_ceil(16).max(1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = items
            .chunks(group)
            .map(|items| scope.spawn(|| items.iter().try_for_each(&action)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

/// Replaces a file: sibling temporary file, sync, rename, sync of the folder.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let (draft, folder) = (temporary(path), path.parent().unwrap_or(Path::new(".")));
    create_dirs(folder)?;
    File::create(&draft)
        .and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_all()))
        .map_err(|e| failed(&draft, "write", e))?;
    fs::rename(&draft, path).map_err(|e| failed(path, "rename into place", e))?;
    sync_dir(folder)
}

/// Reads a file of at most `limit` bytes; `None` when it is not there.
pub(super) fn read_bounded(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(failed(path, "read", e)),
    };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| failed(path, "read", e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::input(format!(
            "{}: expected at most {limit} bytes, found more",
            path.display()
        )));
    }
    Ok(Some(bytes))
}

/// How often a lock is tried, and how long is waited between.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Tries for a moment: a program that is being started holds the locks of the one that starts it
/// until it runs.
fn patiently(
    take: impl Fn() -> std::result::Result<(), TryLockError>,
) -> std::result::Result<(), TryLockError> {
    for _ in 1..TRIES {
        match take() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
    take()
}

/// Takes the writer's lock of a cache: nobody else reads or writes it until the file is closed.
pub(super) fn lock_exclusive(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| failed(&path, "write", e))?;
    match patiently(|| file.try_lock()) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::input(format!("cache {}: in use by another process", folder.display()))
                .hint(
                    "wait until that extraction, training or check has ended, or choose another \
                     folder with -o",
                ))
        }
        Err(TryLockError::Error(e)) => Err(failed(&path, "lock", e)),
    }
}

/// Takes a reader's lock of a cache. A cache that was copied without its lock file, or lies where
/// files cannot be locked, is read without: a writer makes the file before anything else.
pub(super) fn lock_shared(folder: &Path) -> Result<Option<File>> {
    let Ok(file) = File::open(folder.join(LOCK)) else { return Ok(None) };
    match patiently(|| file.try_lock_shared()) {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(Error::input(format!(
            "cache {}: being written by another process",
            folder.display()
        ))
        .hint("wait until that extraction has ended")),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// Calls `visit` with the path below `folder` (parts joined by `/`) of everything in it that is not
/// a folder. Links are not followed.
pub(super) fn walk(folder: &Path, visit: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    fn below(folder: &Path, prefix: &str, visit: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        for entry in fs::read_dir(folder).map_err(|e| failed(folder, "list", e))? {
            let entry = entry.map_err(|e| failed(folder, "list", e))?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                below(&entry.path(), &format!("{name}/"), visit)?;
            } else {
                visit(&name)?;
            }
        }
        Ok(())
    }
    below(folder, "", visit)
}
