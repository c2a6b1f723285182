//! Reads files from a folder that anybody may have filled: only regular files, never more bytes
//! than requested, and any error other than "not found" stays an error.

use super::failed;
use crate::error::Result;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Opens a regular file for reading. Anything else is refused without waiting: opening a pipe would
/// block until its other end is opened.
///
/// # Errors
/// The system's error; [`ErrorKind::InvalidInput`] if it is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    regular(&mut options, path, true)
}

/// Opens a regular file with `options`, which may create it. A link is refused.
///
/// # Errors
/// As for [`open`].
pub fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    regular(options, path, false)
}

/// Opens a regular file with `options`, through links if `follows_links`.
pub(super) fn regular(
    options: &mut OpenOptions,
    path: &Path,
    follows_links: bool,
) -> io::Result<File> {
    // non-blocking, so that a pipe without a writer opens at once and can be refused
    let link = if follows_links { OFlags::empty() } else { OFlags::NOFOLLOW };
    options.custom_flags((OFlags::NONBLOCK | link).bits().cast_signed());
    let irregular = || io::Error::new(ErrorKind::InvalidInput, "expected a regular file");
    match options.open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Ok(_) => Err(irregular()),
        // not openable at all: a socket, a pipe without a reader, a link that is not followed
        Err(_) if is_irregular(path, follows_links) => Err(irregular()),
        Err(e) => Err(e),
    }
}

/// Whether the path is visible and not a regular file.
fn is_irregular(path: &Path, follows_links: bool) -> bool {
    let found =
        if follows_links { std::fs::metadata(path) } else { std::fs::symlink_metadata(path) };
    found.is_ok_and(|found| !found.is_file())
}

/// Whether an error means that there is no such file.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Whether something exists at this path.
///
/// # Errors
/// If that cannot be determined.
pub fn is_there(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if is_missing(&e) => Ok(false),
        Err(e) => Err(failed(path, "examine", e)),
    }
}

/// The length of the file at this path in bytes; `None` if there is none.
///
/// # Errors
/// If that cannot be determined.
pub fn length(path: &Path) -> Result<Option<u64>> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some(found.len())),
        Err(e) if is_missing(&e) => Ok(None),
        Err(e) => Err(failed(path, "examine", e)),
    }
}

/// Reads a file of at most `limit` bytes; `None` if there is none.
///
/// # Errors
/// If it is longer, not a regular file, or cannot be read.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    try_read(path, limit).map_err(|e| failed(path, "read", e))
}

/// Like [`read_bounded`], but returns the system's error.
///
/// # Errors
/// As for [`open`]; [`ErrorKind::FileTooLarge`] if the file is longer.
pub fn try_read(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match open(path) {
        Ok(file) => file,
        Err(e) if is_missing(&e) => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let message = format!("expected at most {limit} bytes, found more");
        return Err(io::Error::new(ErrorKind::FileTooLarge, message));
    }
    Ok(Some(bytes))
}

/// Reads a whole file; `None` if there is none.
///
/// # Errors
/// If it is not a regular file or cannot be read.
pub fn read_whole(path: &Path) -> Result<Option<Vec<u8>>> {
    read_bounded(path, u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        std::fs::write(file("file"), b"four").unwrap();
        std::os::unix::fs::symlink(file("file"), file("link")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", file("zero")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(file("socket")).unwrap();
        std::process::Command::new("mkfifo").arg(file("pipe")).status().unwrap();
        for name in ["file", "link"] {
            assert_eq!(read_bounded(&file(name), 4).unwrap().unwrap(), b"four");
            assert!(read_bounded(&file(name), 3).unwrap_err().chain().contains("at most 3"));
        }
        for name in ["zero", "socket", "pipe"] {
            let error = read_whole(&file(name)).unwrap_err();
            assert!(error.chain().contains("expected a regular file"), "{}", error.chain());
        }
        assert!(read_whole(folder.path()).is_err());
        assert!(read_whole(&file("none")).unwrap().is_none() && !is_there(&file("none")).unwrap());
        assert!(read_whole(&file("file/below")).unwrap().is_none());
        assert!(is_there(&file("zero")).unwrap());
    }
}
