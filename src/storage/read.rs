//! Reading files of a folder that anybody may have filled: regular files alone, never more of them
//! than is asked for, and an error that is not "there is none" stays an error.

use super::failed;
use crate::error::Result;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Opens a regular file for reading. Anything else is refused at once: opening a pipe would wait
/// for its other end.
///
/// # Errors
/// As the system says; [`ErrorKind::InvalidInput`] for what is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    regular(&mut options, path, true)
}

/// Opens with `options`, which may make it, a regular file that is no link.
///
/// # Errors
/// As [`open`].
pub fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    regular(options, path, false)
}

/// Opens with `options` what is a regular file, perhaps through a link.
pub(super) fn regular(
    options: &mut OpenOptions,
    path: &Path,
    follows_links: bool,
) -> io::Result<File> {
    // a pipe without a writer is opened at once, seen to be one, and closed
    let link = if follows_links { OFlags::empty() } else { OFlags::NOFOLLOW };
    options.custom_flags((OFlags::NONBLOCK | link).bits().cast_signed());
    let irregular = || io::Error::new(ErrorKind::InvalidInput, "expected a regular file");
    match options.open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Ok(_) => Err(irregular()),
        // what cannot be opened at all: a socket, a pipe nobody reads, a link that is not followed
        Err(_) if is_irregular(path, follows_links) => Err(irregular()),
        Err(e) => Err(e),
    }
}

/// Whether something else than a file is seen there.
fn is_irregular(path: &Path, follows_links: bool) -> bool {
    let found =
        if follows_links { std::fs::metadata(path) } else { std::fs::symlink_metadata(path) };
    found.is_ok_and(|found| !found.is_file())
}

/// Whether an error says that there is no such file.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Whether there is something at this path.
///
/// # Errors
/// When that cannot be told.
pub fn is_there(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if is_missing(&e) => Ok(false),
        Err(e) => Err(failed(path, "examine", e)),
    }
}

/// The length of what is at this path; `None` where there is nothing.
///
/// # Errors
/// When that cannot be told.
pub fn length(path: &Path) -> Result<Option<u64>> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some(found.len())),
        Err(e) if is_missing(&e) => Ok(None),
        Err(e) => Err(failed(path, "examine", e)),
    }
}

/// Reads a file of at most `limit` bytes; `None` when it is not there.
///
/// # Errors
/// When it is longer, no regular file, or cannot be read.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    try_read(path, limit).map_err(|e| failed(path, "read", e))
}

/// The same with the system's error; [`ErrorKind::FileTooLarge`] for one that is longer.
///
/// # Errors
/// As there.
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

/// Reads a file whole; `None` when it is not there.
///
/// # Errors
/// When it is no regular file or cannot be read.
pub fn read_whole(path: &Path) -> Result<Option<Vec<u8>>> {
    read_bounded(path, u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), b"four").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("zero")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
        for name in ["file", "link"] {
            assert_eq!(read_bounded(&at(name), 4).unwrap().unwrap(), b"four");
            assert!(read_bounded(&at(name), 3).unwrap_err().chain().contains("at most 3"));
        }
        for name in ["zero", "socket", "pipe"] {
            let error = read_whole(&at(name)).unwrap_err();
            assert!(error.chain().contains("expected a regular file"), "{}", error.chain());
        }
        assert!(read_whole(folder.path()).is_err());
        assert!(read_whole(&at("none")).unwrap().is_none() && !is_there(&at("none")).unwrap());
        assert!(read_whole(&at("file/below")).unwrap().is_none());
        assert!(is_there(&at("zero")).unwrap());
    }
}
