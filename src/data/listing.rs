//! The files of an image data set, whether they lie in a folder or in an archive: splits, classes, labels, canonical order.

use super::Fingerprint;
use super::fingerprint::Listed;
use crate::error::{Error, Result};
use crate::recipe::DataFormat;
use std::collections::{BTreeMap, BTreeSet};

/// Folder names that stand for splits rather than classes.
const SPLITS: [&str; 5] = ["train", "test", "val", "valid", "validation"];
/// Endings of image files, in lower case.
const ENDINGS: [&str; 14] =
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pnm", ".ppm", ".pgm", ".pbm"];

/// One image file.
pub(super) struct Entry {
    /// Path relative to the root, parts joined by `/`.
    pub path: Vec<u8>,
    /// Bytes.
    pub size: u64,
    /// Where its bytes begin in the archive; 0 in a folder.
    pub offset: u64,
}

/// The images of one split in canonical order.
pub(super) struct Listing {
    pub entries: Vec<Entry>,
    pub labels: Vec<i64>,
    pub classes: Vec<String>,
    pub fingerprint: Fingerprint,
}

/// Whether a file's name is that of an image.
pub(super) fn is_image(name: &[u8]) -> bool {
    ENDINGS.iter().any(|end| name.len() > end.len() && name[name.len() - end.len()..].eq_ignore_ascii_case(end.as_bytes()))
}

/// Whether a file or folder is one that the system or an editor keeps for itself.
pub(super) fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(b".") || name == b"__MACOSX"
}

/// Decides whether a root is divided into splits. `folders`: its first-level folders, and whether each has folders below it.
/// A folder named like a split is one if all its siblings are, or if it has folders below it (a class `train` of railway pictures has none).
/// Returns whether the folder named `split` is to be taken instead of the root.
///
/// # Errors
/// When there are splits but not this one.
pub(super) fn has_split(root: &str, folders: &BTreeMap<Vec<u8>, bool>, split: &str) -> Result<bool> {
    let named = |name: &[u8]| name == split.as_bytes() || SPLITS.iter().any(|s| s.as_bytes() == name);
    let all_named = folders.keys().all(|name| named(name));
    let splits: Vec<_> = folders.iter().filter(|(name, nested)| named(name) && (all_named || **nested)).map(|(name, _)| name).collect();
    if splits.iter().any(|name| name.as_slice() == split.as_bytes()) {
        return Ok(true);
    }
    if splits.is_empty() {
        if SPLITS.contains(&split) {
            return Ok(false);
        }
        return Err(Error::input(format!("data {root}: expected split train, test or val, found `{split}`")));
    }
    let found: Vec<_> = splits.iter().map(|name| String::from_utf8_lossy(name)).collect();
    Err(Error::input(format!("data {root}: no split `{split}`, found {}", found.join(", "))))
}

impl Listing {
    /// Puts images in canonical order and labels them by their first folder. `folders`: all first-level folders, those without an image too.
    /// Images that all lie in the root itself are unlabelled.
    ///
    /// # Errors
    /// When there is no image, or some lie in the root and others in class folders.
    pub(super) fn new(root: &str, mut entries: Vec<Entry>, folders: &BTreeSet<Vec<u8>>) -> Result<Self> {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let nested = entries.iter().filter(|e| class_of(&e.path).is_some()).count();
        if entries.is_empty() {
            return Err(Error::input(format!("data {root}: expected images ({}), found none", ENDINGS.join(" "))));
        }
        if let Some(stray) = entries.iter().find(|e| nested > 0 && class_of(&e.path).is_none()) {
            let path = String::from_utf8_lossy(&stray.path);
            return Err(Error::input(format!("data {root}: expected every image in a class folder, found {path} beside them"))
                .hint("move it into a class folder, or away"));
        }
        let classes: Vec<&Vec<u8>> = if nested == 0 { Vec::new() } else { folders.iter().collect() };
        let label = |entry: &Entry| {
            let class = class_of(&entry.path)?;
            let position = classes.binary_search_by(|c| c.as_slice().cmp(class)).ok()?;
            i64::try_from(position).ok()
        };
        let labels = entries.iter().map(|e| label(e).unwrap_or(-1)).collect();
        let mut listed = Listed::new();
        for class in &classes {
            listed.bytes(class);
        }
        for entry in &entries {
            listed.file(&entry.path, entry.size);
        }
        let classes = classes.into_iter().map(|c| String::from_utf8_lossy(c).into_owned()).collect();
        let fingerprint = listed.finish(DataFormat::Folder, entries.len());
        Ok(Self { entries, labels, classes, fingerprint })
    }

    /// The path of a sample, for messages.
    pub(super) fn name(&self, index: usize) -> String {
        self.entries.get(index).map_or_else(|| format!("sample {index}"), |e| String::from_utf8_lossy(&e.path).into_owned())
    }

    /// The file of a sample.
    pub(super) fn entry(&self, index: usize) -> Result<&Entry> {
        self.entries.get(index).ok_or_else(|| Error::input(format!("sample {index}: expected an index below {}", self.entries.len())))
    }
}

/// The first folder of a path.
fn class_of(path: &[u8]) -> Option<&[u8]> {
    path.iter().position(|&b| b == b'/').map(|slash| &path[..slash])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(list: &[(&str, bool)]) -> BTreeMap<Vec<u8>, bool> {
        list.iter().map(|(name, nested)| (name.as_bytes().to_vec(), *nested)).collect()
    }

    #[test]
    fn splits_are_told_from_classes() {
        assert!(has_split("d", &folders(&[("train", true), ("val", true)]), "val").unwrap());
        assert!(has_split("d", &folders(&[("train", true), ("meta", false)]), "train").unwrap());
        assert!(!has_split("d", &folders(&[("train", false), ("bus", false)]), "train").unwrap());
        assert!(!has_split("d", &folders(&[("cat", false)]), "test").unwrap());
        assert!(has_split("d", &folders(&[("fold1", true), ("fold2", true)]), "fold1").unwrap());
        let error = has_split("d", &folders(&[("train", true), ("val", true)]), "test").unwrap_err();
        assert_eq!(error.to_string(), "data d: no split `test`, found train, val");
        assert!(has_split("d", &folders(&[("cat", false)]), "tset").is_err());
    }

    #[test]
    fn order_is_of_paths_and_labels_are_of_class_names() {
        let entry = |path: &str| Entry { path: path.as_bytes().to_vec(), size: 1, offset: 0 };
        let entries = vec![entry("a/2.png"), entry("a-b/1.png"), entry("a/1.png"), entry("c/x/1.png")];
        let classes = ["a", "a-b", "b", "c"].map(|c| c.as_bytes().to_vec()).into();
        let listing = Listing::new("d", entries, &classes).unwrap();
        let names: Vec<_> = (0..4).map(|i| listing.name(i)).collect();
        // `-` sorts before `/`, but the class `a` before the class `a-b`
        assert_eq!(names, ["a-b/1.png", "a/1.png", "a/2.png", "c/x/1.png"]);
        assert_eq!(listing.labels, [1, 0, 0, 3]);
        assert_eq!(listing.classes, ["a", "a-b", "b", "c"]);
    }
}
