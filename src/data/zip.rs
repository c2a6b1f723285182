//! A `.zip` of a folder of images, read in place like a `.tar`; deflated images are inflated as
//! they are read.

use super::Stamp;
use super::archive::{self, Archive, Node};
use super::folder::shown_path;
use super::layout;
use super::open_file;
use super::tar::Tar;
use crate::error::{Context, Error, Result, shown};
use crate::monitor::Monitor;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use zip::{CompressionMethod, ZipArchive};

/// Longest link target, in bytes.
const MAX_LINK: u64 = 4096;

/// Whether a zip file holds NumPy arrays.
pub(super) fn holds_arrays(path: &Path) -> bool {
    let archive = File::open(path).ok().and_then(|file| ZipArchive::new(BufReader::new(file)).ok());
    archive.is_some_and(|mut archive| {
        (0..archive.len()).any(|index| {
            archive.by_index_raw(index).is_ok_and(|entry| entry.name_raw().ends_with(b".npy"))
        })
    })
}

/// Indexes the images of a split.
pub(super) fn open(path: &Path, split: &str, monitor: &dyn Monitor) -> Result<Tar> {
    let name = shown_path(path);
    let (file, length) = open_file(path)?;
    let stamp = Stamp::of(&file.metadata().context(|| format!("{name}: cannot be read"))?);
    let (archive, deflated) = index(&file, length, &name)?;
    let (_, listing) = layout::open(&archive, &name, split, monitor)?;
    Ok(Tar { name, file, stamp, listing, deflated })
}

/// Indexes every entry; also the packed size of each deflated file by the offset of its data.
fn index(file: &File, length: u64, name: &str) -> Result<(Archive, HashMap<u64, u64>)> {
    let message = || format!("{name}: cannot be read as a zip archive");
    let mut reading = ZipArchive::new(BufReader::new(file)).map_err(|e| {
        Error::input(message()).because(e).hint("the archive may be truncated: fetch it again")
    })?;
    let (mut archive, mut deflated) = (Archive::new(name), HashMap::new());
    for index in 0..reading.len() {
        let mut entry = reading.by_index_raw(index).context(message)?;
        let path = forward_slashes(entry.name_raw()).into_owned();
        let context = || format!("{name}: entry {}", shown(&path));
        if entry.encrypted() {
            return Err(Error::input(format!(
                "{}: expected plain bytes, found encrypted ones",
                context()
            ))
            .hint("unpack the archive with its password and name the folder"));
        }
        if entry.is_dir() || path.ends_with(b"/") {
            archive.add(&path, Node::Folder)?;
            continue;
        }
        let (size, packed) = (entry.size(), entry.compressed_size());
        let offset = entry.data_start().ok_or_else(|| {
            Error::input(format!("{}: expected an offset within the file", context()))
        })?;
        if offset.checked_add(packed).is_none_or(|end| end > length) {
            return Err(Error::input(format!(
                "{}: expected {packed} bytes from byte {offset}, found fewer",
                context()
            ))
            .hint("the archive is truncated: fetch it again"));
        }
        let method = entry.compression();
        if entry.is_symlink() && method == CompressionMethod::Stored {
            let mut link = Vec::new();
            entry.by_ref().take(MAX_LINK).read_to_end(&mut link).context(context)?;
            archive.add(
                &path,
                archive::target(&link, archive::parent(&path)).map_or(Node::DeadLink, Node::Link),
            )?;
            continue;
        }
        match method {
            CompressionMethod::Stored if size == packed => {}
            CompressionMethod::Deflated => drop(deflated.insert(offset, packed)),
            other => {
                return Err(Error::input(format!(
                    "{}: expected no compression or deflate, found {other}",
                    context()
                ))
                .hint("unpack the archive and name the folder"));
            }
        }
        archive.add(&path, Node::File { size, offset })?;
    }
    Ok((archive, deflated))
}

/// Some writers on Windows separate names by `\`.
fn forward_slashes(name: &[u8]) -> Cow<'_, [u8]> {
    if name.contains(&b'/') || !name.contains(&b'\\') {
        return Cow::Borrowed(name);
    }
    name.iter().map(|&b| if b == b'\\' { b'/' } else { b }).collect::<Vec<_>>().into()
}
