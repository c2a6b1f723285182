//! What a folder or archive holds besides the images that are read, counted by kind and reported in
//! one line.

use super::listing::Listing;
use super::names::{self, IMAGES};
use super::tree::{Item, ItemKind, list};
use crate::error::{Error, shown};
use crate::monitor::Monitor;
use std::collections::BTreeMap;

/// Most kinds in a message; the rest are counted together.
const NAMED: usize = 6;

#[derive(Default)]
pub(super) struct LeftOut {
    kinds: BTreeMap<String, usize>,
    /// Kinds that may hold labels.
    labels: BTreeMap<String, usize>,
    /// Whether any of them is more than an accompanying file.
    matters: bool,
    /// Folders (possibly classes) with files that are left out, and whether all of those files
    /// merely accompany images.
    folders: BTreeMap<Vec<u8>, bool>,
}

impl LeftOut {
    /// Counts a file that is not an image. `class` is its first folder, or empty.
    pub(super) fn add(&mut self, class: &[u8], item: &Item) {
        let is_companion = item.kind == ItemKind::File && names::is_companion(&item.name);
        let kind = match item.kind {
            ItemKind::DeadLink => "broken (link)".to_owned(),
            ItemKind::Device => "special (pipe, device)".to_owned(),
            ItemKind::File | ItemKind::Folder(_) => names::kind(&item.name),
        };
        if item.kind == ItemKind::File && names::may_hold_labels(&item.name) {
            *self.labels.entry(kind.clone()).or_default() += 1;
        }
        *self.kinds.entry(kind).or_default() += 1;
        self.matters |= !is_companion;
        if !class.is_empty() {
            match self.folders.get_mut(class) {
                Some(companions) => *companions &= is_companion,
                None => drop(self.folders.insert(class.to_vec(), is_companion)),
            }
        }
    }

    /// Whether files were left out of a folder and all of them merely accompany images.
    pub(super) fn has_only_companions(&self, folder: &[u8]) -> bool {
        self.folders.get(folder).copied().unwrap_or(false)
    }

    /// Reports what is left out, which classes are empty, and that labels are not read.
    pub(super) fn report(&self, name: &str, listing: &Listing, monitor: &dyn Monitor) {
        if !self.kinds.is_empty() {
            let total: usize = self.kinds.values().sum();
            let text = format!(
                "data {name}: {}: {}",
                counted(total, "file is left out", "files are left out"),
                kinds(&self.kinds)
            );
            if self.matters { monitor.warn(&text) } else { monitor.note(&text) }
        }
        let mut filled = vec![false; listing.classes.len()];
        for &label in &listing.labels {
            if let Some(filled) =
                usize::try_from(label).ok().and_then(|label| filled.get_mut(label))
            {
                *filled = true;
            }
        }
        let empty: Vec<&String> = listing
            .classes
            .iter()
            .zip(&filled)
            .filter(|(_, filled)| !**filled)
            .map(|(class, _)| class)
            .collect();
        if !empty.is_empty() {
            monitor.warn(&format!(
                "data {name}: classes without images keep their labels: {}",
                list(empty.into_iter())
            ));
        }
        if listing.classes.is_empty() && !self.labels.is_empty() {
            monitor.warn(&format!(
                "data {name}: the images are unlabeled: labels are the names of class folders; \
                 not read as labels: {}",
                kinds(&self.labels)
            ));
        }
    }

    /// The error for a place without any image.
    pub(super) fn no_images(&self, place: &str, is_archive: bool) -> Error {
        let endings = IMAGES.join(" ");
        if self.kinds.is_empty() {
            return Error::input(format!("data {place}: expected images ({endings}), found none"));
        }
        let error = Error::input(format!(
            "data {place}: expected images ({endings}), found {}",
            kinds(&self.kinds)
        ));
        let has = |endings: &[&str]| endings.iter().any(|end| self.kinds.contains_key(*end));
        if has(&[
            ".tar", ".tgz", ".gz", ".zip", ".bz2", ".tbz", ".xz", ".txz", ".zst", ".7z", ".rar",
        ]) {
            error.hint(if is_archive {
                "unpack it, and each archive in it into a folder named after its class"
            } else {
                "name one archive as the data set, or unpack each into a folder named after its \
                 class"
            })
        } else if has(&[".bin"]) {
            let unpack = if is_archive { "unpack it; " } else { "" };
            error.hint(format!(
                "{unpack}CIFAR's binary version is read as --data cifar10:DIR or cifar100:DIR"
            ))
        } else if has(&[".npz"]) {
            error.hint("name the file: --data npz:FILE")
        } else if has(&[".parquet"]) && !is_archive {
            error.hint("name its format: --data parquet:DIR")
        } else if has(&[
            ".parquet",
            ".arrow",
            ".feather",
            ".tfrecord",
            ".tfrecords",
            ".mdb",
            ".rec",
            ".h5",
            ".hdf5",
            ".npy",
            ".mat",
        ]) {
            error.hint(
                "write the images out as files, one folder per class, or as arrays in a .npz file",
            )
        } else if has(&[
            ".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".dng", ".cr2", ".nef",
            ".tga", ".exr", ".dcm",
        ]) {
            error.hint("convert them to PNG or JPEG")
        } else if self.kinds.contains_key(&names::kind(b"x")) {
            error.hint("images are recognized by their file extensions: add them")
        } else {
            error
        }
    }
}

/// `8 files` for `file`, `files`.
fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// `4 .avif, 2 broken (link)`, the most frequent first.
fn kinds(kinds: &BTreeMap<String, usize>) -> String {
    let mut sorted: Vec<(&String, &usize)> = kinds.iter().collect();
    sorted.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let rest: usize = sorted.iter().skip(NAMED).map(|(_, count)| **count).sum();
    let mut parts: Vec<String> = sorted
        .iter()
        .take(NAMED)
        .map(|(kind, count)| format!("{count} {}", shown(kind.as_bytes())))
        .collect();
    if rest > 0 {
        parts.push(format!("{rest} of other kinds"));
    }
    parts.join(", ")
}
