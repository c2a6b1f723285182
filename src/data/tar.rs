//! A `.tar` or `.tar.gz` of a folder of images, read in place: an index of the entries, then one positioned read a sample.
//! A compressed archive is unpacked once to a temporary file. Nothing is ever extracted under an entry's name.

use super::listing::{Entry, Listing, has_split, is_hidden, is_image};
use super::spool::{Spool, Watched};
use super::{Dataset, Fingerprint, Sample, image, open_file};
use crate::error::{Context, Error, Result};
use crate::monitor::Monitor;
use flate2::read::MultiGzDecoder;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Tar's unit of space, in bytes.
const BLOCK: u64 = 512;

pub(super) struct Tar {
    name: String,
    file: File,
    listing: Listing,
}

/// Indexes the images of a split.
pub(super) fn open(path: &Path, split: &str, monitor: &dyn Monitor) -> Result<Tar> {
    let name = path.display().to_string();
    let file = unpacked(path, &name, monitor)?;
    let (entries, folders) = index(&file, &name)?;
    let (entries, folders) = select(&name, entries, &folders, split)?;
    let listing = Listing::new(&name, entries, &folders)?;
    Ok(Tar { name, file, listing })
}

/// The plain archive: the file itself, or what it unpacks to.
fn unpacked(path: &Path, name: &str, monitor: &dyn Monitor) -> Result<File> {
    let (mut file, length) = open_file(path)?;
    let mut magic = [0; 2];
    let compressed = file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
    file.seek(SeekFrom::Start(0)).context(|| format!("{name}: cannot be read"))?;
    if !compressed {
        return Ok(file);
    }
    let mut spool = Spool::new()?;
    spool.append(MultiGzDecoder::new(BufReader::with_capacity(1 << 18, Watched::new(file, length, monitor))), length, name)?;
    Ok(spool.into_file())
}

/// Every image file of the archive, and every folder that is named or implied; paths without `./`. Links, devices and other special entries are passed over.
fn index(file: &File, name: &str) -> Result<(Vec<Entry>, BTreeSet<Vec<u8>>)> {
    let message = || format!("{name}: cannot be read as a tar archive");
    let length = file.metadata().context(message)?.len();
    let mut reader = file;
    reader.seek(SeekFrom::Start(0)).context(message)?;
    let mut archive = tar::Archive::new(reader);
    let (mut images, mut folders, mut end) = (BTreeMap::new(), BTreeSet::new(), 0u64);
    for entry in archive.entries_with_seek().context(message)? {
        let entry = entry.context(message)?;
        let raw_path = entry.path_bytes();
        let shown = || String::from_utf8_lossy(&raw_path).into_owned();
        let (offset, size) = (entry.raw_file_position(), entry.size());
        let stop = offset.checked_add(size).filter(|&stop| stop <= length).ok_or_else(|| {
            Error::input(format!("{name}: entry {}: expected {size} bytes from byte {offset}, found a file of {length} bytes", shown()))
                .hint("the archive is truncated: fetch it again")
        })?;
        end = stop.next_multiple_of(BLOCK);
        let kind = entry.header().entry_type();
        let is_folder = kind.is_dir() || raw_path.ends_with(b"/");
        if !is_folder && !kind.is_file() && !kind.is_contiguous() {
            continue;
        }
        let parts: Vec<&[u8]> = raw_path.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
        if parts.contains(&b"..".as_slice()) {
            return Err(Error::input(format!("{name}: entry {}: expected a path inside the archive, found `..`", shown())));
        }
        if parts.iter().any(|part| is_hidden(part)) {
            continue;
        }
        let folder_parts = if is_folder { parts.len() } else { parts.len().saturating_sub(1) };
        for depth in 1..=folder_parts {
            folders.insert(parts[..depth].join(&b'/'));
        }
        if !is_folder && parts.last().is_some_and(|file| is_image(file)) {
            // as tar itself does, a later entry replaces an earlier one of the same path
            images.insert(parts.join(&b'/'), (offset, size));
        }
    }
    if end + BLOCK > length {
        return Err(Error::input(format!("{name}: expected an end-of-archive block at byte {end}, found the end of the file"))
            .hint("the archive is truncated: fetch it again"));
    }
    let entries = images.into_iter().map(|(path, (offset, size))| Entry { path, size, offset }).collect();
    Ok((entries, folders))
}

/// The entries of a split with paths relative to its root, and the first-level folders there. One top folder that holds everything is
/// stripped, unless it is named like a split.
fn select(name: &str, entries: Vec<Entry>, folders: &BTreeSet<Vec<u8>>, split: &str) -> Result<(Vec<Entry>, BTreeSet<Vec<u8>>)> {
    let mut prefix = Vec::new();
    if has_split(name, &first_level(folders, &prefix), split)? {
        prefix = [split.as_bytes(), b"/"].concat();
    } else if let Some(top) = only_folder(folders).filter(|top| entries.iter().all(|e| strip(&e.path, top).is_some())) {
        prefix = top;
        if has_split(name, &first_level(folders, &prefix), split)? {
            prefix.extend_from_slice(split.as_bytes());
            prefix.push(b'/');
        }
    }
    let inside = |e: Entry| strip(&e.path, &prefix).map(<[u8]>::to_vec).map(|path| Entry { path, ..e });
    let entries = entries.into_iter().filter_map(inside).collect();
    Ok((entries, first_level(folders, &prefix).into_keys().collect()))
}

/// `top/`, if there is one top folder.
fn only_folder(folders: &BTreeSet<Vec<u8>>) -> Option<Vec<u8>> {
    let tops = first_level(folders, b"");
    let (top, _) = tops.first_key_value().filter(|_| tops.len() == 1)?;
    Some([top.as_slice(), b"/"].concat())
}

/// The folders directly below `prefix` (empty, or ending in `/`), and whether each has folders below it.
fn first_level(folders: &BTreeSet<Vec<u8>>, prefix: &[u8]) -> BTreeMap<Vec<u8>, bool> {
    let mut found = BTreeMap::new();
    for below in folders.iter().filter_map(|path| strip(path, prefix)) {
        let end = below.iter().position(|&b| b == b'/');
        *found.entry(below[..end.unwrap_or(below.len())].to_vec()).or_insert(false) |= end.is_some();
    }
    found
}

fn strip<'a>(path: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    path.strip_prefix(prefix).filter(|rest| !rest.is_empty())
}

impl Tar {
    fn read(&self, index: usize) -> Result<Vec<u8>> {
        let entry = self.listing.entry(index)?;
        let message = || format!("image {}: {}: cannot be read", self.name, self.name(index));
        let size = usize::try_from(entry.size.min(image::MAX_FILE + 1)).context(message)?;
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, entry.offset).context(message)?;
        Ok(bytes)
    }
}

impl Dataset for Tar {
    fn len(&self) -> usize {
        self.listing.entries.len()
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        let bytes = self.read(index)?;
        image::decode(&bytes).map(Sample::Image).context(|| format!("image {}: {}", self.name, self.name(index)))
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
