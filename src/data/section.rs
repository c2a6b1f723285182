//! A range of a file as a reader of its own, by positioned reads: threads share the file.

use std::borrow::Borrow;
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// `length` bytes of a file from `start`.
pub(super) struct Section<F> {
    file: F,
    start: u64,
    length: u64,
    /// The offset of the next byte, from `start`.
    at: u64,
}

impl<F: Borrow<File>> Section<F> {
    pub(super) fn new(file: F, start: u64, length: u64) -> Self {
        Self { file, start, length, at: 0 }
    }
}

impl<F: Borrow<File>> Read for Section<F> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let left = usize::try_from(self.length.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let Some(buffer) = buffer.get_mut(..wanted).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        let from = self.start.checked_add(self.at).ok_or(ErrorKind::InvalidInput)?;
        let count = self.file.borrow().read_at(buffer, from)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl<F: Borrow<File>> Seek for Section<F> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| Error::from(ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_ends_where_it_ends() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"0123456789", 0).unwrap();
        let mut section = Section::new(&file, 3, 4);
        let mut text = String::new();
        section.read_to_string(&mut text).unwrap();
        assert_eq!(text, "3456");
        assert_eq!(section.seek(SeekFrom::End(-1)).unwrap(), 3);
        text.clear();
        section.read_to_string(&mut text).unwrap();
        assert_eq!(text, "6");
        assert!(section.seek(SeekFrom::Current(-9)).is_err());
        section.seek(SeekFrom::Start(u64::MAX)).unwrap();
        assert_eq!(section.read(&mut [0; 8]).unwrap(), 0);
    }
}
