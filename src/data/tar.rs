//! A `.tar` or `.tar.gz` of a folder of images, read in place: an index of the entries, then one
//! positioned read per sample. A compressed archive is unpacked once to a temporary file. Nothing
//! is ever extracted under an entry's name.

use super::archive::{self, Archive, Node};
use super::folder::shown_path;
use super::layout;
use super::listing::Listing;
use super::section::Section;
use super::spool::{Spool, Watched};
use super::{ContentHash, Dataset, Fingerprint, Sample, Stamp, image, open_file};
use crate::error::{Context, Error, Result, shown};
use crate::monitor::Monitor;
use flate2::read::{DeflateDecoder, MultiGzDecoder};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Tar's block size, in bytes.
const BLOCK: u64 = 512;

/// Images in a tar or zip archive.
pub(super) struct Tar {
    pub name: String,
    pub file: File,
    /// The archive's file metadata, taken before it was read.
    pub stamp: Stamp,
    pub listing: Listing,
    /// Packed sizes of deflated images by the offset of their data; empty for a tar.
    pub deflated: HashMap<u64, u64>,
}

/// Indexes a split's images in an archive, compressed or not.
pub(super) fn open(
    path: &Path,
    split: &str,
    is_packed: bool,
    monitor: &dyn Monitor,
) -> Result<Tar> {
    let name = shown_path(path);
    let (file, length) = open_file(path)?;
    let stamp = Stamp::of(&file.metadata().context(|| format!("{name}: cannot be read"))?);
    let file = if is_packed { unpacked(file, length, &name, monitor)? } else { file };
    let (_, listing) = layout::open(&index(&file, &name)?, &name, split, monitor)?;
    Ok(Tar { name, file, stamp, listing, deflated: HashMap::new() })
}

/// The content of a compressed archive, unpacked.
fn unpacked(file: File, length: u64, name: &str, monitor: &dyn Monitor) -> Result<File> {
    let mut spool = Spool::new()?;
    spool.append(
        MultiGzDecoder::new(BufReader::with_capacity(1 << 18, Watched::new(file, length, monitor))),
        length,
        name,
    )?;
    Ok(spool.into_file())
}

/// Indexes every entry of the archive.
fn index(file: &File, name: &str) -> Result<Archive> {
    let length = file.metadata().context(|| format!("{name}: cannot be read"))?.len();
    let mut archive = Archive::new(name);
    members(Section::new(file, 0, length), length, name, |path, node| archive.add(path, node))?;
    Ok(archive)
}

/// Hands on every entry of an archive of `length` bytes, in order, by its path.
///
/// # Errors
/// Those of `each`; also if the archive is truncated or damaged.
pub(super) fn members(
    archive: impl Read + Seek,
    length: u64,
    name: &str,
    mut each: impl FnMut(&[u8], Node) -> Result<()>,
) -> Result<()> {
    let message = || format!("{name}: cannot be read");
    let mut reading = tar::Archive::new(archive);
    let mut end = 0u64;
    for entry in reading.entries_with_seek().context(message)? {
        let entry = entry.map_err(|e| no_header(name, end, length, &e))?;
        let path = entry.path_bytes();
        let (offset, size) = (entry.raw_file_position(), entry.size());
        let stop = offset.checked_add(size).filter(|&stop| stop <= length).ok_or_else(|| {
            let path = shown(&path);
            Error::input(format!(
                "{name}: entry {path}: expected {size} bytes from byte {offset}, found a file of \
                 {length} bytes"
            ))
            .hint("the archive is truncated: fetch it again")
        })?;
        end = stop.next_multiple_of(BLOCK);
        let kind = entry.header().entry_type();
        let link = || entry.link_name_bytes().unwrap_or_default();
        let node = if kind.is_dir() || kind.is_file() && path.ends_with(b"/") {
            Node::Folder
        } else if kind.is_file() || kind.is_contiguous() {
            Node::File { size, offset }
        } else if kind.is_hard_link() {
            let target = archive::target(&link(), b"");
            // appended to the very archive that contains it
            if target == archive::target(&path, b"") {
                continue;
            }
            target.map_or(Node::DeadLink, Node::Link)
        } else if kind.is_symlink() {
            archive::target(&link(), archive::parent(&path)).map_or(Node::DeadLink, Node::Link)
        } else if kind.is_pax_global_extensions() {
            continue;
        } else {
            Node::Device
        };
        each(&path, node)?;
    }
    if end + BLOCK > length {
        return Err(Error::input(format!(
            "{name}: expected an end-of-archive block at byte {end}, found the end of the file"
        ))
        .hint("the archive is truncated: fetch it again"));
    }
    Ok(())
}

/// The error where an entry should begin. The reader's own message would show the bytes it found
/// there.
fn no_header(name: &str, end: u64, length: u64, error: &std::io::Error) -> Error {
    if error.raw_os_error().is_some() {
        return Error::input(format!("{name}: cannot be read"))
            .because(std::io::Error::from(error.kind()));
    }
    let place = format!("{name}: expected the header of a tar entry after byte {end}");
    if error.kind() == ErrorKind::UnexpectedEof || end.saturating_add(BLOCK) > length {
        Error::input(format!("{place}, found the end of the file"))
            .hint("the archive is truncated: fetch it again")
    } else {
        Error::input(format!("{place}, found other bytes"))
            .hint("the archive is damaged: fetch it again")
    }
}

impl Tar {
    fn read(&self, index: usize) -> Result<Vec<u8>> {
        let entry = self.listing.entry(index)?;
        let message = || format!("image {}: {}: cannot be read", self.name, self.name(index));
        let stored = self.deflated.get(&entry.offset).copied();
        let size = usize::try_from(stored.unwrap_or(entry.size).min(image::MAX_FILE + 1))
            .context(message)?;
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, entry.offset).context(message)?;
        if stored.is_some() {
            let mut inflated = Vec::new();
            DeflateDecoder::new(bytes.as_slice())
                .take(image::MAX_FILE + 1)
                .read_to_end(&mut inflated)
                .context(message)?;
            bytes = inflated;
        }
        Ok(bytes)
    }

    fn decode(&self, index: usize, bytes: &[u8]) -> Result<Sample> {
        image::decode(bytes)
            .map(Sample::Image)
            .context(|| format!("image {}: {}", self.name, self.name(index)))
    }
}

impl Dataset for Tar {
    fn len(&self) -> usize {
        self.listing.entries.len()
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        let bytes = self.read(index)?;
        self.decode(index, &bytes)
    }

    fn stamp(&self, _: usize) -> Result<Option<Stamp>> {
        Ok(Some(self.stamp))
    }

    fn content(&self, index: usize) -> Result<Option<ContentHash>> {
        Ok(Some(ContentHash::of(&self.read(index)?)))
    }

    fn sample_and_content(&self, index: usize) -> Result<(Sample, Option<ContentHash>)> {
        let bytes = self.read(index)?;
        Ok((self.decode(index, &bytes)?, Some(ContentHash::of(&bytes))))
    }

    fn label(&self, index: usize) -> i64 {
        self.listing.labels.get(index).copied().unwrap_or(-1)
    }

    fn name(&self, index: usize) -> String {
        self.listing.name(index)
    }

    fn classes(&self) -> &[String] {
        &self.listing.classes
    }

    fn fingerprint(&self) -> &Fingerprint {
        &self.listing.fingerprint
    }

    fn image_size(&self, index: usize) -> Option<[usize; 2]> {
        image::size(&self.read(index).ok()?).ok()
    }
}
