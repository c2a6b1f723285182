//! A folder or an archive, seen as folders and files.

use crate::error::{Result, shown};

/// Names in a message; the others are counted.
const NAMED: usize = 8;

/// What makes a folder itself, however it is reached.
pub(super) type Id = (u64, u64);

/// What lies under a name; links are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Folder(Id),
    File,
    DeadLink,
    /// A device, a pipe, a socket.
    Device,
}

/// A name in a folder.
pub(super) struct Item {
    pub name: Vec<u8>,
    pub kind: Kind,
}

/// A folder or an archive. Paths are relative to its root, parts joined by `/`; the root's is
/// empty.
pub(super) trait Tree {
    /// The root itself.
    fn root(&self) -> Id;
    /// What lies in a folder, in any order.
    fn list(&self, folder: &[u8]) -> Result<Vec<Item>>;
    /// Bytes of a file, and where they begin in an archive.
    fn place(&self, file: &[u8]) -> Result<(u64, u64)>;
    /// Whether it is an archive.
    fn is_archive(&self) -> bool;
    /// How the user names a folder of the tree as a data set of its own.
    fn spec(&self, folder: &[u8]) -> String;
}

/// The first few names, and how many more.
pub(super) fn list<N: AsRef<[u8]>>(names: impl Iterator<Item = N>) -> String {
    let names: Vec<String> = names.map(|name| shown(name.as_ref())).collect();
    let more = names.len().saturating_sub(NAMED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.into_iter().take(NAMED).collect::<Vec<_>>().join(", ") + &rest
}
