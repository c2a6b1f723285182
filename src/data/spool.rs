//! Unpacks compressed data once into a temporary file that has no name, since samples are read in random order.

use crate::error::{Context, Error, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

/// Disk space that is left to others, in bytes.
const RESERVE: u64 = 256 << 20;
/// Unpacked bytes between two looks at the free space.
const STEP: u64 = 64 << 20;
/// Data that unpack to more than this are refused when they also exceed [`MAX_RATIO`].
const FREE_SIZE: u64 = 256 << 20;
/// Unpacked over packed bytes. Deflate reaches 1,032 on zeros; images and tensors stay under 20.
const MAX_RATIO: u64 = 200;

/// A growing temporary file, unlinked from the start: it vanishes with its last user, however the process ends.
pub(super) struct Spool {
    file: File,
    folder: PathBuf,
    length: u64,
}

impl Spool {
    pub(super) fn new() -> Result<Self> {
        let folder = std::env::temp_dir();
        let file = tempfile::tempfile_in(&folder)
            .map_err(|e| Error::input(format!("temporary folder {}: no file can be made", folder.display())).because(e))?;
        Ok(Self { file, folder, length: 0 })
    }

    /// Where the next byte will lie.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The file, for reading in place.
    pub(super) fn into_file(self) -> File {
        self.file
    }

    /// Appends all of `source`, which was unpacked from `packed` bytes; `name` is for messages. Returns how many bytes came.
    ///
    /// # Errors
    /// When the disk is too full, the data unpack to an implausible size, or `source` is damaged.
    pub(super) fn append(&mut self, mut source: impl Read, packed: u64, name: &str) -> Result<u64> {
        let most = packed.saturating_mul(MAX_RATIO).max(FREE_SIZE);
        let mut buffer = vec![0; 1 << 18];
        let (mut written, mut checked) = (0u64, 0u64);
        loop {
            let count = source.read(&mut buffer).context(|| format!("{name}: cannot be unpacked"))?;
            if count == 0 {
                self.length = self.length.saturating_add(written);
                return Ok(written);
            }
            if written == 0 || written - checked >= STEP {
                self.check_free(name)?;
                checked = written;
            }
            written += count as u64;
            if written > most {
                return Err(Error::input(format!("{name}: expected at most {MAX_RATIO} times {packed} bytes, found more on unpacking")));
            }
            let bytes = buffer.get(..count).unwrap_or(&buffer);
            self.file.write_all(bytes).context(|| format!("temporary folder {}: cannot be written", self.folder.display()))?;
        }
    }

    fn check_free(&self, name: &str) -> Result<()> {
        let stat = rustix::fs::fstatvfs(&self.file).context(|| format!("temporary folder {}: cannot be read", self.folder.display()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < RESERVE + STEP {
            return Err(Error::input(format!("{name}: no room to unpack in {}, where {} MiB are free", self.folder.display(), free >> 20))
                .hint("set TMPDIR to a folder on a larger disk, or unpack the data yourself"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_refused() {
        let mut spool = Spool::new().unwrap();
        let error = spool.append(std::io::repeat(0), 1000, "bomb.tar.gz").unwrap_err();
        assert!(error.chain().contains("bomb.tar.gz: expected at most 200 times 1000 bytes"), "{}", error.chain());
    }
}
