//! The index of an archive: its folders, the byte ranges of its files, and its links, which are
//! followed inside the archive only.

use super::layout::joined;
use super::tree::{Id, Item, ItemKind, Tree};
use crate::error::{Error, Result, shown};
use std::collections::BTreeMap;

/// Most path components looked up, links included: hostile links multiply.
const MAX_STEPS: usize = 1024;
/// Deepest nesting of folders: each keeps its whole path.
const MAX_DEPTH: usize = 256;

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Folder,
    File {
        size: u64,
        offset: u64,
    },
    /// A link to this path inside the archive.
    Link(Vec<u8>),
    /// A link that leads out of the archive.
    DeadLink,
    Device,
}

#[derive(Default)]
struct Directory {
    number: u64,
    children: BTreeMap<Vec<u8>, Node>,
}

/// An archive's entries by folder.
pub(super) struct Archive {
    name: String,
    folders: BTreeMap<Vec<u8>, Directory>,
}

impl Archive {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            folders: BTreeMap::from([(Vec::new(), Directory::default())]),
        }
    }

    /// Adds an entry and the folders above it. Like tar itself, a later entry replaces an earlier
    /// one with the same path.
    ///
    /// # Errors
    /// If its path leads out of the archive.
    pub(super) fn add(&mut self, path: &[u8], node: Node) -> Result<()> {
        let parts: Vec<&[u8]> = parts(path).collect();
        if parts.contains(&b"..".as_slice()) {
            return Err(Error::input(format!(
                "{}: entry {}: expected a path inside the archive, found `..`",
                self.name,
                shown(path)
            )));
        }
        if parts.len() > MAX_DEPTH {
            return Err(Error::input(format!(
                "{}: expected at most {MAX_DEPTH} nested folders, found {}",
                self.name,
                parts.len()
            )));
        }
        let Some((name, above)) = parts.split_last() else { return Ok(()) };
        let mut folder = Vec::new();
        for part in above {
            folder = self.insert(folder, part, Node::Folder);
        }
        self.insert(folder, name, node);
        Ok(())
    }

    /// Adds an entry to an existing folder; returns the entry's path.
    fn insert(&mut self, folder: Vec<u8>, name: &[u8], node: Node) -> Vec<u8> {
        let path = joined(&folder, name);
        if node == Node::Folder {
            let number = self.folders.len() as u64;
            self.folders
                .entry(path.clone())
                .or_insert_with(|| Directory { number, children: BTreeMap::new() });
        }
        self.folders.entry(folder).or_default().children.insert(name.to_vec(), node);
        path
    }

    /// The path and node that a path resolves to after following links.
    fn find(&self, path: &[u8]) -> Option<(Vec<u8>, &Node)> {
        let mut steps = MAX_STEPS;
        self.follow(path, &mut steps)
    }

    fn follow(&self, path: &[u8], steps: &mut usize) -> Option<(Vec<u8>, &Node)> {
        let mut at = Vec::new();
        let mut node = &Node::Folder;
        for part in parts(path) {
            *steps = steps.checked_sub(1)?;
            node = self.folders.get(&at)?.children.get(part)?;
            at = joined(&at, part);
            if let Node::Link(target) = node {
                (at, node) = self.follow(target, steps)?;
            }
        }
        Some((at, node))
    }
}

impl Tree for Archive {
    fn root(&self) -> Id {
        (0, 0)
    }

    fn list(&self, folder: &[u8]) -> Result<Vec<Item>> {
        let place =
            self.find(folder).and_then(|(place, _)| Some((self.folders.get(&place)?, place)));
        let Some((folder, place)) = place else { return Ok(Vec::new()) };
        let kind = |name: &[u8]| match self.find(&joined(&place, name)) {
            Some((path, Node::Folder)) => self
                .folders
                .get(&path)
                .map_or(ItemKind::DeadLink, |folder| ItemKind::Folder((0, folder.number))),
            Some((_, Node::File { .. })) => ItemKind::File,
            Some((_, Node::Device)) => ItemKind::Device,
            _ => ItemKind::DeadLink,
        };
        Ok(folder
            .children
            .keys()
            .map(|name| Item { name: name.clone(), kind: kind(name) })
            .collect())
    }

    fn place(&self, file: &[u8]) -> Result<(u64, u64)> {
        match self.find(file) {
            Some((_, &Node::File { size, offset })) => Ok((size, offset)),
            _ => {
                Err(Error::input(format!("{}: entry {}: expected a file", self.name, shown(file))))
            }
        }
    }

    fn is_archive(&self) -> bool {
        true
    }

    fn spec(&self, folder: &[u8]) -> String {
        format!("folder:{} of the unpacked archive", shown(folder))
    }
}

/// The path that a link in `folder` points to, or `None` if it is outside the archive.
pub(super) fn target(link: &[u8], folder: &[u8]) -> Option<Vec<u8>> {
    if link.is_empty() || link.starts_with(b"/") {
        return None;
    }
    let mut path: Vec<&[u8]> = parts(folder).collect();
    for part in parts(link) {
        match part {
            b".." => path.pop().map(|_| ())?,
            part => path.push(part),
        }
    }
    Some(path.join(&b'/'))
}

/// The parent folder of a path.
pub(super) fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&b| b == b'/').map_or(b"", |slash| &path[..slash])
}

/// The components of a path, without `.`.
fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_inside_the_archive() {
        let mut archive = Archive::new("x");
        let file = Node::File { size: 3, offset: 512 };
        archive.add(b"./a/1.png", file.clone()).unwrap();
        archive.add(b"b/", Node::Folder).unwrap();
        for (path, link) in [
            ("b/2.png", "../a/1.png"),
            ("b/more", "../a"),
            ("b/up", ".."),
            ("b/3.png", "more/1.png"),
            ("b/4.png", "4.png"),
        ] {
            archive
                .add(
                    path.as_bytes(),
                    target(link.as_bytes(), b"b").map_or(Node::DeadLink, Node::Link),
                )
                .unwrap();
        }
        archive
            .add(b"b/out.png", target(b"../../x.png", b"b").map_or(Node::DeadLink, Node::Link))
            .unwrap();
        let kinds: Vec<_> = archive
            .list(b"b")
            .unwrap()
            .into_iter()
            .map(|i| (String::from_utf8(i.name).unwrap(), i.kind))
            .collect();
        let (a, root) = (ItemKind::Folder((0, 1)), ItemKind::Folder((0, 0)));
        let expected = [
            ("2.png", ItemKind::File),
            ("3.png", ItemKind::File),
            ("4.png", ItemKind::DeadLink),
            ("more", a),
            ("out.png", ItemKind::DeadLink),
            ("up", root),
        ];
        assert_eq!(kinds, expected.map(|(name, kind)| (name.to_owned(), kind)));
        assert_eq!(archive.place(b"b/more/1.png").unwrap(), (3, 512));
        assert_eq!(archive.place(b"b/up/b/3.png").unwrap(), (3, 512));
        assert!(archive.place(b"b/4.png").is_err() && archive.add(b"../x", file.clone()).is_err());
        assert!(archive.add(&b"d/".repeat(300), file).is_err());
        // each link goes through the previous one a hundred times
        for (name, through) in
            [("m1", "up"), ("m2", "m1"), ("m3", "m2"), ("m4", "m3"), ("m5", "m4")]
        {
            archive
                .add(
                    format!("b/{name}").as_bytes(),
                    Node::Link(format!("{through}/b/").repeat(100).into_bytes()),
                )
                .unwrap();
        }
        assert!(archive.find(b"b/m5").is_none());
    }
}
