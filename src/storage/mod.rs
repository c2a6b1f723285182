//! Durable files, shared by caches, runs and sweeps: replaced atomically, written under the lock of
//! their folder, with the directories that lead to them synced.

mod draft;
mod folder;
mod lock;
mod read;

pub use draft::{Draft, is_draft, is_temporary};
pub use folder::{create_dirs, sync_dir, sync_dirs_between, walk};
pub use lock::{LOCK, Lock};
pub use read::{is_there, length, open, open_with, read_bounded, read_whole, try_read};

use crate::error::Error;
use std::io::{self, ErrorKind};
use std::path::Path;

/// The error of a failed operation on a file, with a hint if one action helps.
#[must_use]
pub fn failed(path: &Path, action: &str, error: io::Error) -> Error {
    let hint = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(
            "free some space, then run the same command again: it resumes from what is complete",
        ),
        ErrorKind::PermissionDenied => {
            Some("grant yourself permission, or choose another folder with -o")
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
