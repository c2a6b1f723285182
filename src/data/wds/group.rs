//! Groups the members of a shard into samples, as webdataset does: consecutive members with the
//! same key, which is the path up to the first dot of the file's name.

use crate::data::names::{IMAGES, is_system};
use crate::error::{Error, Result, shown};
use std::collections::{BTreeMap, HashSet};

/// Most kinds of members that are counted one by one.
const KINDS: usize = 64;

/// Where a member's bytes are in its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub offset: u64,
    pub size: u64,
}

/// Consecutive members with one key.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    pub key: Vec<u8>,
    /// The image's extension in lower case, and its bytes.
    pub image: Option<(Vec<u8>, Member)>,
    pub cls: Option<Member>,
    pub json: Option<Member>,
    /// All extensions, in lower case.
    extensions: HashSet<Vec<u8>>,
    images: usize,
}

impl Group {
    /// The path of its image in the shard.
    pub(super) fn path(&self) -> Vec<u8> {
        let extension = self.image.as_ref().map_or(b"".as_slice(), |(extension, _)| extension);
        [&self.key, extension].join(&b'.')
    }
}

/// What is not read of some shards.
#[derive(Debug, Default)]
pub(super) struct Ignored {
    /// Samples without an image.
    pub imageless: usize,
    /// Samples with several images.
    pub several: usize,
    /// Members by their extension, `.txt`.
    pub kinds: BTreeMap<String, usize>,
}

impl Ignored {
    fn count(&mut self, kind: String) {
        let known = self.kinds.contains_key(&kind) || self.kinds.len() < KINDS;
        *self.kinds.entry(if known { kind } else { "of other kinds".into() }).or_default() += 1;
    }

    /// How many members have which extension, the most frequent first.
    pub(super) fn kinds(&self) -> String {
        let mut sorted: Vec<_> = self.kinds.iter().collect();
        sorted.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let parts = sorted.iter().take(8).map(|(kind, count)| format!("{count} {kind}"));
        let more = sorted.len().saturating_sub(8);
        let rest = (more > 0).then(|| format!("{more} other kinds"));
        parts.chain(rest).collect::<Vec<_>>().join(", ")
    }
}

/// Groups one shard's members.
pub(super) struct Grouping<'a> {
    shard: &'a str,
    ignored: &'a mut Ignored,
    group: Option<Group>,
    /// The keys of the groups before.
    seen: HashSet<Vec<u8>>,
}

impl<'a> Grouping<'a> {
    pub(super) fn new(shard: &'a str, ignored: &'a mut Ignored) -> Self {
        Self { shard, ignored, group: None, seen: HashSet::new() }
    }

    /// Takes the next member; `file` is `None` for a folder, a link or a device. Returns the group
    /// that it ends, if that has one image.
    ///
    /// # Errors
    /// If a key has two members with one extension, or its members are not consecutive.
    pub(super) fn add(&mut self, path: &[u8], file: Option<Member>) -> Result<Option<Group>> {
        let start = path.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
        let name = &path[start..];
        // webdataset's own records, and what operating systems leave
        if path.starts_with(b"__") || name.is_empty() || is_system(name) {
            return Ok(None);
        }
        let Some(member) = file else {
            self.ignored.count("special (folder, link, device)".into());
            return Ok(None);
        };
        let Some(dot) = name.iter().position(|&b| b == b'.') else {
            self.ignored.count("without an extension".into());
            return Ok(None);
        };
        let key = &path[..start + dot];
        let extension = name[dot + 1..].to_ascii_lowercase();
        let mut ended = None;
        if self.group.as_ref().is_none_or(|group| group.key != key) {
            ended = self.end();
            if !self.seen.insert(key.to_vec()) {
                return Err(Error::input(format!(
                    "{}: key {}: expected its members one after another, found {} behind others",
                    self.shard,
                    shown(key),
                    shown(path)
                ))
                .hint("write the shard anew, sorted by name: tar --sort=name"));
            }
        }
        let group =
            self.group.get_or_insert_with(|| Group { key: key.to_vec(), ..Group::default() });
        if !group.extensions.insert(extension.clone()) {
            return Err(Error::input(format!(
                "{}: key {}: expected one member .{}, found two",
                self.shard,
                shown(key),
                shown(&extension)
            )));
        }
        match extension.as_slice() {
            b"cls" => group.cls = Some(member),
            b"json" => group.json = Some(member),
            _ if is_image(&extension) => {
                group.images += 1;
                group.image = Some((extension, member));
            }
            _ => self.ignored.count(format!(".{}", short(&extension))),
        }
        Ok(ended)
    }

    /// The last group, if it has one image.
    pub(super) fn end(&mut self) -> Option<Group> {
        let group = self.group.take()?;
        match group.images {
            0 => self.ignored.imageless += 1,
            1 => return Some(group),
            _ => self.ignored.several += 1,
        }
        None
    }
}

/// Whether an extension in lower case is an image's.
fn is_image(extension: &[u8]) -> bool {
    IMAGES.iter().any(|image| &image.as_bytes()[1..] == extension)
}

/// An extension for a message.
fn short(extension: &[u8]) -> String {
    const LONGEST: usize = 24;
    match extension.get(..LONGEST) {
        Some(start) => shown(start) + "\u{2026}",
        None => shown(extension),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys of the groups of some members, and what is left out.
    fn grouped(paths: &[&str]) -> Result<(Vec<String>, Ignored)> {
        let mut ignored = Ignored::default();
        let mut grouping = Grouping::new("x.tar", &mut ignored);
        let mut keys = Vec::new();
        for path in paths {
            let member = Member { offset: 0, size: 1 };
            keys.extend(grouping.add(path.as_bytes(), Some(member))?);
        }
        keys.extend(grouping.end());
        let keys = keys.iter().map(|group| shown(&group.path())).collect();
        Ok((keys, ignored))
    }

    #[test]
    fn keys_end_at_the_first_dot_of_the_file_name() {
        let (keys, ignored) = grouped(&[
            "__info__.txt",
            "a.b/1.JPG",
            "a.b/1.cls",
            "a.b/1.seg.png",
            "2.png",
            ".DS_Store",
            "2.json",
            "2.txt",
            "3.cls",
            "4.png",
            "4.jpg",
            "readme",
        ])
        .unwrap();
        assert_eq!(keys, ["a.b/1.jpg", "2.png"]);
        assert_eq!((ignored.imageless, ignored.several), (1, 1));
        assert_eq!(ignored.kinds(), "1 .seg.png, 1 .txt, 1 without an extension");
    }

    #[test]
    fn a_key_that_returns_and_a_member_twice_are_refused() {
        for (paths, what) in [
            (["1.jpg", "2.jpg", "1.cls"], "key 1: expected its members one after another"),
            (["1.jpg", "1.JPG", "1.cls"], "key 1: expected one member .jpg, found two"),
        ] {
            let error = grouped(&paths).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
