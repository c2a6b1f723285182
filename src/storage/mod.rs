//! Files that outlive a crash: replaced whole or not at all, written under the lock of their
//! folder, their names made last in the folders that lead to them. What caches, runs and sweeps
//! have in common on disk.

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

/// What could not be done to a file, with the action that helps where there is one.
#[must_use]
pub fn failed(path: &Path, action: &str, error: io::Error) -> Error {
    let hint = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Some("free some space, then run the same command again: it goes on from what is whole")
        }
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
