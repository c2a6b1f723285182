//! A folder of image files: one folder a class, images nested at will below it; a folder of images alone is unlabelled.

use super::listing::{Entry, Listing, has_split, is_hidden, is_image};
use super::{Dataset, Fingerprint, Sample, image};
use crate::error::{Context, Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{File, FileType};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Folders inside one another, at most: stops at links that lead back up.
const MAX_DEPTH: usize = 32;

pub(super) struct Folder {
    root: PathBuf,
    listing: Listing,
}

/// Lists the images of a split.
pub(super) fn open(path: &Path, split: &str) -> Result<Folder> {
    let display = path.display().to_string();
    let mut first_level = BTreeMap::new();
    for folder in subfolders(path)? {
        let nested = !subfolders(&path.join(OsStr::from_bytes(&folder)))?.is_empty();
        first_level.insert(folder, nested);
    }
    let split_taken = has_split(&display, &first_level, split)?;
    let root = if split_taken { path.join(split) } else { path.to_path_buf() };
    let folders: BTreeSet<_> = if split_taken { subfolders(&root)?.into_iter().collect() } else { first_level.into_keys().collect() };
    let mut entries = Vec::new();
    walk(&root, &mut Vec::new(), MAX_DEPTH, &mut entries)?;
    let listing = Listing::new(&root.display().to_string(), entries, &folders)?;
    Ok(Folder { root, listing })
}

/// The visible files and folders of a folder; links are followed.
fn read_folder(path: &Path) -> Result<Vec<(OsString, FileType, u64)>> {
    let message = || format!("data {}: cannot be read", path.display());
    let mut found = Vec::new();
    for item in std::fs::read_dir(path).context(message)? {
        let name = item.context(message)?.file_name();
        // a link that leads nowhere is no file
        if !is_hidden(name.as_bytes())
            && let Ok(metadata) = std::fs::metadata(path.join(&name))
        {
            found.push((name, metadata.file_type(), metadata.len()));
        }
    }
    Ok(found)
}

fn subfolders(path: &Path) -> Result<Vec<Vec<u8>>> {
    let found = read_folder(path)?;
    Ok(found.into_iter().filter(|(_, kind, _)| kind.is_dir()).map(|(name, ..)| name.into_vec()).collect())
}

fn walk(folder: &Path, prefix: &mut Vec<u8>, depth: usize, entries: &mut Vec<Entry>) -> Result<()> {
    if depth == 0 {
        return Err(Error::input(format!("data {}: expected at most {MAX_DEPTH} nested folders, found more", folder.display())));
    }
    for (name, kind, size) in read_folder(folder)? {
        let parent = prefix.len();
        prefix.extend_from_slice(name.as_bytes());
        if kind.is_dir() {
            prefix.push(b'/');
            walk(&folder.join(&name), prefix, depth - 1, entries)?;
        } else if kind.is_file() && is_image(name.as_bytes()) {
            entries.push(Entry { path: prefix.clone(), size, offset: 0 });
        }
        prefix.truncate(parent);
    }
    Ok(())
}

impl Folder {
    fn read(&self, index: usize) -> Result<Vec<u8>> {
        let path = self.root.join(OsStr::from_bytes(&self.listing.entry(index)?.path));
        let message = || format!("image {}: cannot be read", path.display());
        let file = File::open(&path).context(message)?;
        let mut bytes = Vec::new();
        file.take(image::MAX_FILE + 1).read_to_end(&mut bytes).context(message)?;
        Ok(bytes)
    }
}

impl Dataset for Folder {
    fn len(&self) -> usize {
        self.listing.entries.len()
    }

    fn sample(&self, index: usize) -> Result<Sample> {
        let bytes = self.read(index)?;
        image::decode(&bytes).map(Sample::Image).context(|| format!("image {}/{}", self.root.display(), self.name(index)))
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
