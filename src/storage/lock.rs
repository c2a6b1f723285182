//! The lock of a folder: one writer, or any number of readers. It is a system lock on the file
//! `.lock` that ends with the process holding it; the file's text about its holder is only for
//! people.

use super::read::is_missing;
use super::{Draft, create_dirs, failed, is_draft, open, open_with, read_bounded, sync_dir};
use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The file that is locked.
pub const LOCK: &str = ".lock";

/// Number of attempts to lock, and the pause between them: a child process holds its parent's locks
/// between fork and exec.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Bytes that are read of a holder's line.
const HOLDER_BYTES: u64 = 512;

/// A folder, locked until this is dropped. A writer replaces and removes files through its lock,
/// which checks that the folder is still the one that was locked.
#[derive(Debug)]
pub struct Lock {
    folder: PathBuf,
    file: File,
    is_writer: bool,
    /// Whether another process may hold the lock.
    is_lost: bool,
}

impl Lock {
    /// Takes the writer's lock of an existing folder: nobody else reads or writes it until the lock
    /// is dropped.
    ///
    /// # Errors
    /// If it is in use (names the holder), or cannot be locked.
    pub fn exclusive(folder: &Path) -> Result<Self> {
        let path = folder.join(LOCK);
        for _ in 0..TRIES {
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).read(true).write(true);
            let file = open_with(&mut options, &path).map_err(|e| failed(&path, "write", e))?;
            match file.try_lock() {
                // otherwise the folder was replaced between opening and locking
                Ok(()) if is_current(&file, &path)? => {
                    let mut lock =
                        Self { folder: folder.to_owned(), file, is_writer: true, is_lost: false };
                    lock.sign()?;
                    return Ok(lock);
                }
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
                Err(TryLockError::Error(e)) => return Err(failed(&path, "lock", e)),
            }
        }
        Err(in_use(folder))
    }

    /// Creates a folder durably and takes its writer's lock.
    ///
    /// # Errors
    /// As for [`Lock::exclusive`], and if the folder cannot be created.
    pub fn create(folder: &Path) -> Result<Self> {
        create_dirs(folder)?;
        Self::exclusive(folder)
    }

    /// Takes a reader's lock of a folder: nobody writes it until the lock is dropped. `None` if
    /// there is no lock to take: a copy without its lock file, or a file system without locks.
    ///
    /// # Errors
    /// If it is being written (names the holder), or the lock cannot be opened.
    pub fn shared(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(LOCK);
        for _ in 0..TRIES {
            let file = match open(&path) {
                Ok(file) => file,
                Err(e) if is_missing(&e) => return Ok(None),
                Err(e) => return Err(failed(&path, "read", e)),
            };
            match file.try_lock_shared() {
                Ok(()) if is_current(&file, &path)? => {
                    return Ok(Some(Self {
                        folder: folder.to_owned(),
                        file,
                        is_writer: false,
                        is_lost: false,
                    }));
                }
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
                Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => {
                    tracing::warn!("{}: read without a lock: {e}", folder.display());
                    return Ok(None);
                }
                Err(TryLockError::Error(e)) => return Err(failed(&path, "lock", e)),
            }
        }
        Err(in_use(folder))
    }

    /// The process that is writing a folder, if any.
    ///
    /// # Errors
    /// If the lock cannot be opened.
    pub fn writer(folder: &Path) -> Result<Option<String>> {
        let path = folder.join(LOCK);
        let file = match open(&path) {
            Ok(file) => file,
            Err(e) if is_missing(&e) => return Ok(None),
            Err(e) => return Err(failed(&path, "read", e)),
        };
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Ok(Some(holder(&path))),
            Err(TryLockError::Error(e)) if e.kind() != ErrorKind::Unsupported => {
                Err(failed(&path, "lock", e))
            }
            _ => Ok(None),
        }
    }

    /// Lets readers in while this writer only adds. Other writers stay out.
    ///
    /// # Errors
    /// If another process took the lock at that moment.
    pub fn let_readers_in(&mut self) -> Result<()> {
        self.is_lost = self.file.try_lock_shared().is_err();
        self.check()
    }

    /// Keeps readers out again.
    ///
    /// # Errors
    /// If there are readers; the lock is then lost.
    pub fn keep_readers_out(&mut self) -> Result<()> {
        if self.file.try_lock().is_ok() {
            return Ok(());
        }
        // a failed conversion of the lock releases it
        self.is_lost = true;
        Err(in_use(&self.folder))
    }

    /// The locked folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Checks that the folder is still the one that was locked. A folder that was removed and
    /// recreated belongs to another process, with a lock of its own.
    ///
    /// # Errors
    /// If it is another one.
    pub fn check(&self) -> Result<()> {
        if self.is_lost {
            return Err(in_use(&self.folder));
        }
        if is_current(&self.file, &self.folder.join(LOCK))? {
            return Ok(());
        }
        Err(Error::input(format!(
            "{}: removed or begun anew by another process; this one writes nothing more into it",
            self.folder.display()
        ))
        .hint("run the same command again, into another folder if that one is in use"))
    }

    /// Replaces a file of the folder atomically and durably; `name` is a path below the folder.
    ///
    /// # Errors
    /// If an I/O operation fails, or the folder was replaced.
    pub fn replace(&self, name: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        let parent = path.parent().unwrap_or(&self.folder);
        self.create_dirs(parent)?;
        let mut draft = Draft::new(&path)?;
        draft.file().write_all(bytes).map_err(|e| failed(draft.temporary(), "write", e))?;
        draft.sync()?;
        self.rename(&mut draft)?;
        sync_dir(parent)
    }

    /// Creates a folder below this one, with its missing ancestors, but never this one, which
    /// another process may have removed.
    ///
    /// # Errors
    /// If an I/O operation fails, or the folder was replaced.
    pub fn create_dirs(&self, below: &Path) -> Result<()> {
        self.check()?;
        let names = below.strip_prefix(&self.folder).unwrap_or(Path::new(""));
        let mut path = self.folder.clone();
        for name in names {
            path.push(name);
            match fs::create_dir(&path) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                made => made.map_err(|e| failed(&path, "make the folder", e))?,
            }
        }
        Ok(())
    }

    /// Renames a draft in the folder. The caller syncs the draft before and the folder after.
    ///
    /// # Errors
    /// If an I/O operation fails, or the folder was replaced.
    pub fn rename(&self, draft: &mut Draft) -> Result<()> {
        // the check suffices: a folder that is replaced after it takes the draft with it
        self.check()?;
        draft.rename()
    }

    /// Removes a file of the folder; returns whether it existed.
    ///
    /// # Errors
    /// If an I/O operation fails, or the folder was replaced.
    pub fn remove(&self, name: impl AsRef<Path>) -> Result<bool> {
        self.check()?;
        let path = self.folder.join(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(e) if is_missing(&e) => Ok(false),
            Err(e) => Err(failed(&path, "remove", e)),
        }
    }

    /// Removes the drafts left by killed processes in `folder`, which is this folder or one below
    /// it; folders inside it are not searched.
    ///
    /// # Errors
    /// If an I/O operation fails, or the folder was replaced.
    pub fn sweep(&self, folder: &Path) -> Result<()> {
        let unlisted = |e| failed(folder, "list", e);
        let entries = match fs::read_dir(folder) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            listed => listed.map_err(unlisted)?,
        };
        for entry in entries {
            let entry = entry.map_err(unlisted)?;
            let is_folder = entry.file_type().map_err(unlisted)?.is_dir();
            if !is_folder && is_draft(&entry.file_name().to_string_lossy()) {
                self.check()?;
                fs::remove_file(entry.path()).map_err(|e| failed(&entry.path(), "remove", e))?;
            }
        }
        Ok(())
    }

    /// Removes the holder's line, so that a finished folder has the same bytes whoever made it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn unsign(&self) -> Result<()> {
        self.file.set_len(0).map_err(|e| failed(&self.folder.join(LOCK), "write", e))
    }

    /// Writes the holder's line into the file.
    fn sign(&mut self) -> Result<()> {
        self.unsign()?;
        let line = format!("pid {} on {} since {}\n", std::process::id(), host(), now());
        let written = self.file.write_all(line.as_bytes());
        written.map_err(|e| failed(&self.folder.join(LOCK), "write", e))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // do not remove another process's line
        if self.is_writer && !self.is_lost {
            // best effort: the line is only for people
            let _ = self.unsign();
        }
    }
}

/// Whether an open file is still the one at this path.
fn is_current(file: &File, path: &Path) -> Result<bool> {
    let unknown = |e| failed(path, "examine", e);
    let held = file.metadata().map_err(unknown)?;
    match fs::metadata(path) {
        Ok(now) => Ok((now.dev(), now.ino()) == (held.dev(), held.ino())),
        Err(e) if is_missing(&e) => Ok(false),
        Err(e) => Err(unknown(e)),
    }
}

fn in_use(folder: &Path) -> Error {
    let who = holder(&folder.join(LOCK));
    Error::input(format!("{}: in use by {who}", folder.display()))
        .hint("wait until that ends, or choose another folder with -o")
}

/// The holder of a lock, as far as it is known.
fn holder(path: &Path) -> String {
    let text = read_bounded(path, HOLDER_BYTES).ok().flatten().unwrap_or_default();
    let line = crate::error::shown(text.split(|&b| b == b'\n').next().unwrap_or_default());
    let (readers, host) = (holders(path, "READ"), host());
    // the line may be left from a killed writer while others read now
    let is_signed = |process: &String| line.starts_with(&format!("pid {process} on {host}"));
    if !readers.is_empty() && !readers.iter().any(is_signed) {
        return format!("pid {} on {host}, reading it", readers.join(", "));
    }
    match holders(path, "WRITE").first() {
        // it was stopped before it wrote its line
        Some(writer) if line.is_empty() => format!("pid {writer} on {host}"),
        _ if line.is_empty() => "another process".to_owned(),
        _ => line,
    }
}

/// The processes of this machine that hold a lock of kind `READ` or `WRITE`, according to Linux.
fn holders(path: &Path, kind: &str) -> Vec<String> {
    let mut processes = Vec::new();
    #[cfg(target_os = "linux")]
    {
        let inode = fs::metadata(path).map_or_else(|_| String::new(), |m| m.ino().to_string());
        let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
        for line in locks.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [_, "FLOCK", _, found, process, file, ..] = words.as_slice()
                && *found == kind
                && file.rsplit(':').next() == Some(&inode)
            {
                processes.push((*process).to_owned());
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (path, kind);
    processes
}

/// The name of this machine.
fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "this machine".to_owned() } else { name }
}

/// The current time in UTC, in the format of RFC 3339.
fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    utc(now.as_secs())
}

/// Seconds since 1970 as a date. Days are counted from March 1 of the year 0, so that a leap day
/// ends a year (Howard Hinnant's `civil_from_days`).
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (date, month) =
        (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writer_or_many_readers_and_the_holder_is_named() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        assert!(Lock::shared(folder).unwrap().is_none());
        let writer = Lock::exclusive(folder).unwrap();
        for refused in [Lock::exclusive(folder).map(|_| ()), Lock::shared(folder).map(|_| ())] {
            let error = refused.unwrap_err().to_string();
            let named = format!("in use by pid {} on {} since 2", std::process::id(), host());
            assert!(error.contains(&named), "{error}");
        }
        drop(writer);
        assert_eq!(fs::read(folder.join(LOCK)).unwrap(), b"");
        let readers = [Lock::shared(folder).unwrap(), Lock::shared(folder).unwrap()];
        assert!(readers.iter().all(Option::is_some));
        // a killed writer's line is not mistaken for a reader's
        fs::write(folder.join(LOCK), b"pid 1 on elsewhere since 1970-01-01T00:00:00Z\n").unwrap();
        let error = Lock::exclusive(folder).unwrap_err().to_string();
        assert!(error.contains("reading it") && !error.contains("elsewhere"), "{error}");
        drop(readers);
        Lock::exclusive(folder).unwrap();
    }

    #[test]
    fn a_writer_that_only_adds_lets_readers_in_and_no_writer() {
        let root = tempfile::tempdir().unwrap();
        let mut writer = Lock::exclusive(root.path()).unwrap();
        writer.let_readers_in().unwrap();
        let reader = Lock::shared(root.path()).unwrap();
        assert!(reader.is_some() && Lock::exclusive(root.path()).is_err());
        writer.replace("a", b"1").unwrap();
        // a failed conversion loses the lock: nothing more is written
        assert!(writer.keep_readers_out().is_err() && writer.replace("a", b"2").is_err());
        drop((reader, writer));
        let mut writer = Lock::exclusive(root.path()).unwrap();
        writer.let_readers_in().unwrap();
        writer.keep_readers_out().unwrap();
        assert!(Lock::shared(root.path()).is_err());
    }

    #[test]
    fn a_folder_that_was_replaced_is_not_written() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("folder");
        for exchange in [0, 1, 2] {
            let lock = Lock::create(&folder).unwrap();
            lock.replace("below/a", b"1").unwrap();
            match exchange {
                0 => fs::remove_file(folder.join(LOCK)).unwrap(),
                1 => fs::remove_dir_all(&folder).unwrap(),
                _ => fs::rename(&folder, root.path().join("aside")).unwrap(),
            }
            for refused in [lock.check(), lock.replace("a", b"2"), lock.remove("below/a").map(drop)]
            {
                assert!(refused.is_err(), "{exchange}");
            }
            let other = Lock::create(&folder).unwrap();
            other.replace("a", b"3").unwrap();
            assert!(lock.replace("a", b"2").unwrap_err().to_string().contains("begun anew"));
            drop(lock);
            assert_eq!(fs::read(folder.join("a")).unwrap(), b"3");
            assert!(!fs::read(folder.join(LOCK)).unwrap().is_empty(), "another one's line stays");
            drop(other);
            fs::remove_dir_all(&folder).unwrap();
        }
    }

    #[test]
    fn a_lock_is_a_regular_file_and_one_that_cannot_be_opened_is_not_missing() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(LOCK);
        std::os::unix::fs::symlink(root.path().join("elsewhere"), &path).unwrap();
        assert!(Lock::exclusive(root.path()).is_err() && !root.path().join("elsewhere").exists());
        fs::remove_file(&path).unwrap();
        std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(Lock::exclusive(root.path()).is_err() && Lock::shared(root.path()).is_err());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(Lock::exclusive(root.path()).is_err() && Lock::shared(root.path()).is_err());
    }

    #[test]
    fn times_are_dates() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), date);
        }
    }

    #[test]
    fn temporaries_of_all_versions_are_swept_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let kept = [".lock", "a.tmp", ".tmp", ".notes.tmp", ".tmp-mine", ".gitignore", "run.json"];
        let swept = [".run.json.00ff00ff00ff00ff.tmp", ".tmpAb12Cd", ".nst-cache-x1Y2z3"];
        for name in kept.iter().chain(&swept) {
            fs::write(folder.path().join(name), b"").unwrap();
        }
        fs::create_dir(folder.path().join(".folder.tmp")).unwrap();
        let lock = Lock::exclusive(folder.path()).unwrap();
        lock.sweep(folder.path()).unwrap();
        lock.sweep(&folder.path().join("none")).unwrap();
        let entries = fs::read_dir(folder.path()).unwrap();
        let mut left: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left.len(), kept.len() + 1);
        assert!(kept.iter().all(|name| left.iter().any(|found| found == name)), "{left:?}");
    }
}
