//! The images of a data set in canonical order, labeled by their class folders.

use super::Fingerprint;
use super::fingerprint::Listed;
use crate::data::spec::DataFormat;
use crate::error::{Error, Result, shown};
use std::collections::BTreeSet;

/// One image file.
pub(super) struct ImageEntry {
    /// Path relative to the root, parts joined by `/`.
    pub path: Vec<u8>,
    /// Bytes.
    pub size: u64,
    /// Offset of its content in the archive; 0 in a folder.
    pub offset: u64,
}

/// The images of one split in canonical order.
pub(super) struct Listing {
    pub entries: Vec<ImageEntry>,
    pub labels: Vec<i64>,
    pub classes: Vec<String>,
    pub fingerprint: Fingerprint,
}

impl Listing {
    /// Sorts images into canonical order and labels them by their first folder. `folders` are the
    /// class folders, including empty ones. Images that are all in the root itself are unlabeled.
    ///
    /// # Errors
    /// If some images are in the root and others in class folders.
    pub(super) fn new(
        root: &str,
        mut entries: Vec<ImageEntry>,
        folders: &BTreeSet<Vec<u8>>,
    ) -> Result<Self> {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let nested = entries.iter().filter(|e| class_of(&e.path).is_some()).count();
        if let Some(stray) = entries.iter().find(|e| nested > 0 && class_of(&e.path).is_none()) {
            let path = shown(&stray.path);
            return Err(Error::input(format!(
                "data {root}: expected every image in a class folder, found {path} next to them"
            ))
            .hint("move it into a class folder, or out of the data set"));
        }
        let classes: Vec<&Vec<u8>> =
            if nested == 0 { Vec::new() } else { folders.iter().collect() };
        let label = |entry: &ImageEntry| {
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
        let classes: Vec<String> = classes.into_iter().map(|c| shown(c)).collect();
        let mut names = BTreeSet::new();
        if let Some(twice) = classes.iter().find(|class| !names.insert(class.as_str())) {
            return Err(Error::input(format!(
                "data {root}: expected class folders with different names, found `{twice}` twice"
            )));
        }
        let fingerprint = listed.finish(DataFormat::Folder, entries.len());
        Ok(Self { entries, labels, classes, fingerprint })
    }

    /// A sample's path, for messages.
    pub(super) fn name(&self, index: usize) -> String {
        self.entries.get(index).map_or_else(|| format!("sample {index}"), |e| shown(&e.path))
    }

    /// A sample's file.
    pub(super) fn entry(&self, index: usize) -> Result<&ImageEntry> {
        self.entries.get(index).ok_or_else(|| {
            Error::input(format!("sample {index}: expected an index below {}", self.entries.len()))
        })
    }
}

/// The first folder of a path.
pub(super) fn class_of(path: &[u8]) -> Option<&[u8]> {
    path.iter().position(|&b| b == b'/').map(|slash| &path[..slash])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_of_paths_and_labels_are_of_class_names() {
        let entry = |path: &str| ImageEntry { path: path.as_bytes().to_vec(), size: 1, offset: 0 };
        let entries =
            vec![entry("a/2.png"), entry("a-b/1.png"), entry("a/1.png"), entry("c/x/1.png")];
        let classes = ["a", "a-b", "b", "c"].map(|c| c.as_bytes().to_vec()).into();
        let listing = Listing::new("d", entries, &classes).unwrap();
        let names: Vec<_> = (0..4).map(|i| listing.name(i)).collect();
        // `-` sorts before `/`, but class `a` before class `a-b`
        assert_eq!(names, ["a-b/1.png", "a/1.png", "a/2.png", "c/x/1.png"]);
        assert_eq!(listing.labels, [1, 0, 0, 3]);
        assert_eq!(listing.classes, ["a", "a-b", "b", "c"]);
        // a folder named like the escaped form of another
        let entries = vec![
            entry("\\xff/1.png"),
            ImageEntry { path: b"\xff/1.png".to_vec(), size: 1, offset: 0 },
        ];
        let classes = [b"\\xff".to_vec(), b"\xff".to_vec()].into();
        assert!(Listing::new("d", entries, &classes).err().unwrap().to_string().contains("twice"));
    }
}
