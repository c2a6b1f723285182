//! Drafts of files: written under a temporary name in the target's folder, synced, and renamed.

use super::{failed, sync_dir};
use crate::error::Result;
use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::BuildHasher as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Bytes of the target's name that a draft's name repeats, so that it stays within the limits of
/// file systems.
const NAME_BYTES: usize = 200;

/// A file under its temporary name, `.NAME.RANDOM.tmp`. No other process uses that name, so a draft
/// whose folder was replaced is never mistaken for one in the new folder. A draft that is dropped
/// before it is published is removed.
#[derive(Debug)]
pub struct Draft {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    published: bool,
}

impl Draft {
    /// Creates a draft of the file `target`, with the permissions of the user's umask. The target's
    /// folder must exist.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn new(target: &Path) -> Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let name = name.get(..name.floor_char_boundary(NAME_BYTES)).unwrap_or_default();
        loop {
            let random = RandomState::new().hash_one(std::process::id());
            let temporary = target.with_file_name(format!(".{name}.{random:016x}.tmp"));
            // create_new, so that an existing link is never followed
            match File::create_new(&temporary) {
                Ok(file) => {
                    let target = target.to_owned();
                    return Ok(Self { file, temporary, target, published: false });
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed(&temporary, "write", e)),
            }
        }
    }

    /// The file to write to.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// The path until it is published.
    #[must_use]
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// The path once it is published.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Makes its bytes durable.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| failed(&self.temporary, "write", e))
    }

    /// Renames it to its target. The name is durable once the folder is synced.
    ///
    /// # Errors
    /// If the rename fails or the draft no longer exists.
    pub fn rename(&mut self) -> Result<()> {
        fs::rename(&self.temporary, &self.target)
            .map_err(|e| failed(&self.target, "rename into place", e))?;
        self.published = true;
        Ok(())
    }

    /// Gives it its name unless that is taken; returns whether it did.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn rename_new(&mut self) -> Result<bool> {
        match fs::hard_link(&self.temporary, &self.target) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            // no hard links here: a file created between these two calls is replaced
            Err(_) if !super::is_there(&self.target)? => self.rename().map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// Syncs it, renames it and makes the name durable.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn publish(mut self) -> Result<()> {
        self.sync()?;
        self.rename()?;
        sync_dir(self.target.parent().unwrap_or(Path::new("")))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            // if this fails, the next writer of the folder sweeps it
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Whether a file name is that of a [`Draft`], of this version or the previous one.
#[must_use]
pub fn is_draft(name: &str) -> bool {
    let is_random = |text: &str, length: usize, is_digit: fn(char) -> bool| {
        text.len() == length && text.chars().all(is_digit)
    };
    let own =
        name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp")).is_some_and(|name| {
            let (name, end) = name.rsplit_once('.').unwrap_or_default();
            !name.is_empty() && is_random(end, 16, |c| c.is_ascii_hexdigit())
        });
    let earlier = [".tmp", ".nst-cache-"].iter().any(|prefix| {
        let end = name.strip_prefix(prefix);
        end.is_some_and(|end| is_random(end, 6, |c| c.is_ascii_alphanumeric()))
    });
    own || earlier
}

/// Like [`is_draft`], for files of a cache, where every `.NAME.tmp` is a draft too.
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    is_draft(name) || name.strip_suffix(".tmp").is_some_and(|name| name.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_draft_becomes_the_file_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        for text in ["one", "two"] {
            let mut draft = Draft::new(&path).unwrap();
            draft.file().write_all(text.as_bytes()).unwrap();
            assert!(names(folder.path()).iter().any(|name| is_temporary(name)));
            draft.publish().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(names(folder.path()), ["a.bin"]);
        drop(Draft::new(&path).unwrap());
        assert_eq!(names(folder.path()), ["a.bin"]);
        assert!(!Draft::new(&path).unwrap().rename_new().unwrap());
        assert!(Draft::new(&folder.path().join("b.bin")).unwrap().rename_new().unwrap());
        assert_eq!(names(folder.path()).len(), 2);
        assert!(Draft::new(&folder.path().join("no/such/a.bin")).is_err());
        let long = folder.path().join("é".repeat(127));
        Draft::new(&long).unwrap().publish().unwrap();
        assert!(long.exists());
    }

    #[test]
    fn a_draft_whose_folder_is_another_one_is_not_published() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let mut draft = Draft::new(&folder.join("a.bin")).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        let mut other = Draft::new(&folder.join("a.bin")).unwrap();
        assert!(draft.rename().is_err());
        other.rename().unwrap();
    }

    #[test]
    fn files_have_the_mode_that_the_mask_leaves() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("plain");
        fs::write(&plain, b"").unwrap();
        let mut draft = Draft::new(&folder.path().join("a.bin")).unwrap();
        draft.rename().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&folder.path().join("a.bin")), mode(&plain));
    }
}
