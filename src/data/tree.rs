//! A common view of folders and archives: nested folders of files.

use crate::error::{Result, shown};

/// Most names in a message; the rest are counted.
const NAMED: usize = 8;

/// Identifies a folder, whatever path leads to it.
pub(super) type Id = (u64, u64);

/// What a name refers to, after following links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ItemKind {
    Folder(Id),
    File,
    DeadLink,
    /// A device, a pipe, a socket.
    Device,
}

/// An entry of a folder.
pub(super) struct Item {
    pub name: Vec<u8>,
    pub kind: ItemKind,
}

/// A folder or an archive. Paths are relative to its root and joined by `/`; the root's path is
/// empty.
pub(super) trait Tree {
    fn root(&self) -> Id;
    /// The entries of a folder, in any order.
    fn list(&self, folder: &[u8]) -> Result<Vec<Item>>;
    /// A file's size in bytes, and the offset of its content in an archive.
    fn place(&self, file: &[u8]) -> Result<(u64, u64)>;
    /// Whether it is an archive.
    fn is_archive(&self) -> bool;
    /// How a user would name this folder as a data set of its own.
    fn spec(&self, folder: &[u8]) -> String;
}

/// The first few names, and how many more there are.
pub(super) fn list<N: AsRef<[u8]>>(names: impl Iterator<Item = N>) -> String {
    let names: Vec<String> = names.map(|name| shown(name.as_ref())).collect();
    let more = names.len().saturating_sub(NAMED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.into_iter().take(NAMED).collect::<Vec<_>>().join(", ") + &rest
}
