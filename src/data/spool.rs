//! Unpacks compressed data once into an unnamed temporary file, since samples are read in random
//! order.

use crate::error::{Context, Error, Result};
use crate::monitor::Monitor;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

/// Disk space left free for others, in bytes.
const RESERVE: u64 = 256 << 20;
/// Unpacked bytes between two checks of the free space.
const STEP: u64 = 64 << 20;
/// Data that unpacks to more than this is refused if it also exceeds [`MAX_RATIO`]; in bytes.
const FREE_SIZE: u64 = 256 << 20;
/// Unpacked to packed bytes. Deflate reaches 1,032 on zeros; images and tensors stay under 20.
const MAX_RATIO: u64 = 200;

/// Unpacking less than this, in packed bytes, is too quick for a progress bar.
const SHOWN: u64 = 32 << 20;

/// A growing temporary file, unlinked from the start: it vanishes with its last user, however the
/// process ends.
pub(super) struct Spool {
    file: File,
    folder: PathBuf,
    length: u64,
}

impl Spool {
    pub(super) fn new() -> Result<Self> {
        let folder = std::env::temp_dir();
        let file = tempfile::tempfile_in(&folder).map_err(|e| {
            Error::input(format!("temporary folder {}: cannot create a file", folder.display()))
                .because(e)
        })?;
        Ok(Self { file, folder, length: 0 })
    }

    /// The offset of the next byte.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The file, for reading while more is appended.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The finished file.
    pub(super) fn into_file(self) -> File {
        self.file
    }

    /// Appends all of `source`, which unpacks `packed` bytes; `name` is for messages. Returns how
    /// many bytes were appended.
    ///
    /// # Errors
    /// If the disk is too full, the unpacked size is implausible, or `source` is damaged.
    pub(super) fn append(&mut self, mut source: impl Read, packed: u64, name: &str) -> Result<u64> {
        let most = packed.saturating_mul(MAX_RATIO).max(FREE_SIZE);
        let mut buffer = vec![0; 1 << 18];
        let (mut written, mut checked) = (0u64, 0u64);
        loop {
            let count = source.read(&mut buffer).map_err(|e| match e.downcast::<Error>() {
                Ok(stopped) => stopped,
                Err(e) => Error::input(format!("{name}: cannot be unpacked"))
                    .because(e)
                    .hint("it is truncated or damaged: fetch it again"),
            })?;
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
                return Err(Error::input(format!(
                    "{name}: expected at most {MAX_RATIO} times {packed} bytes, found more while \
                     unpacking"
                )));
            }
            let bytes = buffer.get(..count).unwrap_or(&buffer);
            self.file.write_all(bytes).context(|| {
                format!("temporary folder {}: cannot be written", self.folder.display())
            })?;
        }
    }

    fn check_free(&self, name: &str) -> Result<()> {
        let stat = rustix::fs::fstatvfs(&self.file)
            .context(|| format!("temporary folder {}: cannot be read", self.folder.display()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < RESERVE + STEP {
            return Err(Error::input(format!(
                "{name}: no room to unpack in {}, where {} MiB are free",
                self.folder.display(),
                free >> 20
            ))
            .hint("set TMPDIR to a folder on a larger disk, or unpack the data yourself"));
        }
        Ok(())
    }
}

/// A packed file that reports its progress and stops when the user asks.
pub(super) struct Watched<'a, R> {
    packed: R,
    monitor: &'a dyn Monitor,
    shown: bool,
    /// Bytes read but not yet reported, less than one unit.
    rest: u64,
}

/// One unit of the progress bar, in bytes.
const UNIT: u64 = 1_000_000;

impl<'a, R: Read> Watched<'a, R> {
    /// `length` is the file's size in bytes.
    pub(super) fn new(packed: R, length: u64, monitor: &'a dyn Monitor) -> Self {
        let shown = length >= SHOWN;
        if shown {
            monitor.begin("unpack", "MB", length / UNIT, 0);
        }
        Self { packed, monitor, shown, rest: 0 }
    }
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.monitor.stop_requested() {
            return Err(std::io::Error::other(Error::interrupted(
                "while the data was unpacked; nothing was written",
            )));
        }
        let count = self.packed.read(buffer)?;
        self.rest += count as u64;
        if self.shown && self.rest >= UNIT {
            self.monitor.advance(self.rest / UNIT, 0);
            self.rest %= UNIT;
        }
        Ok(count)
    }
}

impl<R> Drop for Watched<'_, R> {
    fn drop(&mut self) {
        if self.shown {
            self.monitor.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use std::sync::Mutex;

    /// Records the progress, and whether to stop.
    struct Watcher(Mutex<Vec<u64>>, bool);

    impl Monitor for Watcher {
        fn begin(&self, _: &str, _: &'static str, total: u64, _: u64) {
            self.0.lock().unwrap().push(total);
        }
        fn advance(&self, units: u64, _: u64) {
            self.0.lock().unwrap().push(units);
        }
        fn status(&self, _: &str) {}
        fn end(&self) {
            self.0.lock().unwrap().push(0);
        }
        fn note(&self, _: &str) {}
        fn warn(&self, _: &str) {}
        fn stop_requested(&self) -> bool {
            self.1
        }
    }

    #[test]
    fn unpacking_is_shown_and_can_be_stopped() {
        let watcher = Watcher(Mutex::default(), false);
        let length = 40_500_000;
        let copied = std::io::copy(
            &mut Watched::new(std::io::repeat(1).take(length), length, &watcher),
            &mut std::io::sink(),
        )
        .unwrap();
        let seen = watcher.0.into_inner().unwrap();
        assert_eq!(
            (copied, seen[0], seen[1..].iter().sum::<u64>(), seen.last()),
            (length, 40, 40, Some(&0))
        );
        let watcher = Watcher(Mutex::default(), true);
        let stopped = Watched::new(std::io::repeat(1), 10, &watcher);
        let error = Spool::new().unwrap().append(stopped, 10, "x.tar.gz").unwrap_err();
        assert_eq!(error.kind(), Kind::Interrupted);
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut spool = Spool::new().unwrap();
        let error = spool.append(std::io::repeat(0), 1000, "bomb.tar.gz").unwrap_err();
        assert!(
            error.chain().contains("bomb.tar.gz: expected at most 200 times 1000 bytes"),
            "{}",
            error.chain()
        );
    }
}
