//! A folder of image files: one folder per class, with images at any depth below it; a folder of
//! images alone is unlabeled.

use super::layout;
use super::listing::Listing;
use super::tree::{Id, Item, ItemKind, Tree};
use super::{ContentHash, Dataset, Fingerprint, Sample, Stamp, image};
use crate::error::{Context, Result, shown};
use crate::monitor::Monitor;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub(super) struct ImageFolder {
    pub root: PathBuf,
    pub listing: Listing,
}

/// Lists the images of a split.
pub(super) fn open(path: &Path, split: &str, monitor: &dyn Monitor) -> Result<ImageFolder> {
    let root = std::fs::metadata(path).context(|| unreadable(path))?;
    let (below, listing) =
        layout::open(&Disk { path, root: id(&root) }, &shown_path(path), split, monitor)?;
    Ok(ImageFolder { root: path.join(OsStr::from_bytes(&below)), listing })
}

/// Whether a folder holds images, at any depth.
pub(super) fn has_images(path: &Path) -> Result<bool> {
    let root = std::fs::metadata(path).context(|| unreadable(path))?;
    layout::has_images(&Disk { path, root: id(&root) })
}

/// A path as messages show it.
pub(super) fn shown_path(path: &Path) -> String {
    shown(path.as_os_str().as_bytes())
}

fn unreadable(path: &Path) -> String {
    format!("data {}: cannot be read", shown_path(path))
}

/// A folder on disk.
struct Disk<'a> {
    path: &'a Path,
    root: Id,
}

fn id(metadata: &Metadata) -> Id {
    (metadata.dev(), metadata.ino())
}

/// Whether a link is broken or points to itself.
fn leads_nowhere(error: &std::io::Error) -> bool {
    let loops = rustix::io::Errno::LOOP.raw_os_error();
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(loops)
}

impl Tree for Disk<'_> {
    fn root(&self) -> Id {
        self.root
    }

    fn list(&self, folder: &[u8]) -> Result<Vec<Item>> {
        let folder = self.path.join(OsStr::from_bytes(folder));
        let message = || unreadable(&folder);
        let mut items = Vec::new();
        for item in std::fs::read_dir(&folder).context(message)? {
            let item = item.context(message)?;
            let kind = item.file_type().context(message)?;
            let kind = if kind.is_file() {
                ItemKind::File
            } else if kind.is_dir() || kind.is_symlink() {
                match std::fs::metadata(item.path()) {
                    Ok(metadata) if metadata.is_dir() => ItemKind::Folder(id(&metadata)),
                    Ok(metadata) if metadata.is_file() => ItemKind::File,
                    Ok(_) => ItemKind::Device,
                    Err(e) if leads_nowhere(&e) => ItemKind::DeadLink,
                    Err(e) => return Err(e).context(|| unreadable(&item.path())),
                }
            } else {
                ItemKind::Device
            };
            items.push(Item { name: item.file_name().into_vec(), kind });
        }
        Ok(items)
    }

    fn place(&self, file: &[u8]) -> Result<(u64, u64)> {
        let path = self.path.join(OsStr::from_bytes(file));
        let metadata = std::fs::metadata(&path).context(|| unreadable(&path))?;
        Ok((metadata.len(), 0))
    }

    fn is_archive(&self) -> bool {
        false
    }

    fn spec(&self, folder: &[u8]) -> String {
        format!("folder:{}", shown_path(&self.path.join(OsStr::from_bytes(folder))))
    }
}

impl ImageFolder {
    fn path(&self, index: usize) -> Result<PathBuf> {
        Ok(self.root.join(OsStr::from_bytes(&self.listing.entry(index)?.path)))
    }

    fn read(&self, index: usize) -> Result<Vec<u8>> {
        let path = self.path(index)?;
        let message = || format!("image {}: cannot be read", shown_path(&path));
        let file = File::open(&path).context(message)?;
        let mut bytes = Vec::new();
        file.take(image::MAX_FILE + 1).read_to_end(&mut bytes).context(message)?;
        Ok(bytes)
    }

    fn decode(&self, index: usize, bytes: &[u8]) -> Result<Sample> {
        image::decode(bytes)
            .map(Sample::Image)
            .context(|| format!("image {}", shown_path(&self.root.join(self.name(index)))))
    }
}

impl Dataset for ImageFolder {
    fn len(&self) -> usize {
        self.listing.entries.len()
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        let bytes = self.read(index)?;
        self.decode(index, &bytes)
    }

    fn stamp(&self, index: usize) -> Result<Option<Stamp>> {
        let path = self.path(index)?;
        let metadata = std::fs::metadata(&path)
            .context(|| format!("image {}: cannot be read", shown_path(&path)))?;
        Ok(Some(Stamp::of(&metadata)))
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
