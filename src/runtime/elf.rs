//! Checks a shared library before the loader maps it: the loader does not refuse a truncated one,
//! and the process would end with SIGBUS.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Most entries of a table; real libraries have dozens.
const MAX_ENTRIES: u64 = 4096;

/// Checks that a file is a whole 64-bit ELF library for this machine: all segments and the section
/// table lie inside it. On systems with another format, only that it is a file.
///
/// # Errors
/// Says what is wrong with the file.
pub(super) fn check(path: &Path) -> Result<()> {
    let subject = path.display();
    let unreadable =
        |e: std::io::Error| Error::input(format!("{subject}: cannot be read")).because(e);
    let mut file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Error::input(format!(
            "{subject}: expected a shared library, found no plain file"
        )));
    }
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    let size = metadata.len();
    let mut header = [0u8; 64];
    if size < header.len() as u64 {
        return Err(Error::input(format!(
            "{subject}: expected a shared library, found a file of {size} bytes"
        )));
    }
    file.read_exact(&mut header).map_err(unreadable)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return Err(Error::input(format!(
            "{subject}: expected a 64-bit ELF shared library, found another kind of file"
        )));
    }
    let machine = number(&header, 18, 2);
    if EXPECTED_MACHINE.is_some_and(|expected| machine != expected) {
        return Err(Error::input(format!(
            "{subject}: expected a library for {}, found one for ELF machine {machine}",
            std::env::consts::ARCH
        )));
    }
    let truncated = |end: u64| {
        Error::input(format!("{subject}: truncated: expected at least {end} bytes, found {size}"))
    };
    let segments = ElfTable {
        offset: number(&header, 32, 8),
        entry: number(&header, 54, 2),
        count: number(&header, 56, 2),
    };
    let sections = ElfTable {
        offset: number(&header, 40, 8),
        entry: number(&header, 58, 2),
        count: number(&header, 60, 2),
    };
    for table in [&segments, &sections] {
        let end = table.end().unwrap_or(u64::MAX);
        if end > size {
            return Err(truncated(end));
        }
    }
    if segments.count == 0 || segments.count > MAX_ENTRIES || segments.entry < 56 {
        return Err(Error::input(format!(
            "{subject}: expected an ELF library with segments, found {} of them",
            segments.count
        )));
    }
    for index in 0..segments.count {
        let mut segment = [0u8; 56];
        file.seek(SeekFrom::Start(segments.offset + index * segments.entry)).map_err(unreadable)?;
        file.read_exact(&mut segment).map_err(unreadable)?;
        let end = number(&segment, 8, 8).saturating_add(number(&segment, 32, 8));
        if end > size {
            return Err(truncated(end));
        }
    }
    Ok(())
}

/// ELF's number for the machine that this program is built for.
const EXPECTED_MACHINE: Option<u64> = if cfg!(target_arch = "x86_64") {
    Some(62)
} else if cfg!(target_arch = "aarch64") {
    Some(183)
} else {
    None
};

/// Where a table of headers lies in the file.
struct ElfTable {
    offset: u64,
    entry: u64,
    count: u64,
}

impl ElfTable {
    fn end(&self) -> Option<u64> {
        self.entry.checked_mul(self.count)?.checked_add(self.offset)
    }
}

/// A little-endian number of a header.
fn number(header: &[u8], offset: usize, bytes: usize) -> u64 {
    let field = header.get(offset..offset + bytes).unwrap_or_default();
    field.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_whole_binary_passes_and_every_truncation_is_refused() {
        let whole = std::fs::read("/proc/self/exe").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("library.so");
        std::fs::write(&path, &whole).unwrap();
        check(&path).unwrap();
        for keep in [0, 10, 63, 64, 100, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..keep]).unwrap();
            let message = check(&path).unwrap_err().to_string();
            assert!(
                message.contains("truncated") || message.contains("found a file of"),
                "{keep}: {message}"
            );
        }
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("library.so");
        std::fs::write(&path, [b'x'; 500]).unwrap();
        assert!(check(&path).unwrap_err().to_string().contains("another kind"));
        assert!(check(folder.path()).is_err());
        assert!(check(&folder.path().join("none")).is_err());
        // a segment that ends beyond 2⁶⁴
        let mut bytes = std::fs::read("/proc/self/exe").unwrap();
        let table = usize::try_from(number(&bytes, 32, 8)).unwrap();
        bytes[table + 8..table + 16].fill(0xff);
        std::fs::write(&path, bytes).unwrap();
        assert!(check(&path).unwrap_err().to_string().contains("truncated"));
    }
}
