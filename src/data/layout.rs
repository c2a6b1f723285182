//! Finds the images of a split in a tree of folders and decides which folders are classes, in one
//! way for folders and archives.
//!
//! Where names are ambiguous, the content decides and a note says so, or the tree is refused with
//! the choices listed.

use super::left_out::LeftOut;
use super::listing::{ImageEntry, Listing, class_of};
use super::names::{has_image_ending, is_companion, is_system};
use super::split::{self, Named, Part};
use super::tree::{Id, Item, ItemKind, Tree, list};
use crate::error::{Error, Result, shown};
use crate::monitor::Monitor;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Deepest nesting of folders.
const MAX_DEPTH: usize = 32;

/// The images of a split: the folder that holds them (empty, or ending in `/`), and their listing
/// relative to it. `name` is the tree's name in messages.
///
/// # Errors
/// If there is no such split, no image, or more than one way to read the folders.
pub(super) fn open(
    tree: &dyn Tree,
    name: &str,
    split: &str,
    monitor: &dyn Monitor,
) -> Result<(Vec<u8>, Listing)> {
    let mut search = Search::new(tree, name, split, Vec::new());
    let taken = search.descend(false)?;
    if !taken {
        split::check(name, split)?;
    }
    let (entries, folders) = search.images()?;
    let place = if search.at.is_empty() {
        name.to_owned()
    } else {
        format!("{name}: {}", shown(trimmed(&search.at)))
    };
    if entries.is_empty() {
        return Err(search.left_out.no_images(&place, tree.is_archive()));
    }
    let doubts = search.doubts(&entries)?;
    let listing = Listing::new(&place, entries, &folders)?;
    if search.at != [split.as_bytes(), b"/"].concat() && !search.at.is_empty() {
        let folder = shown(trimmed(&search.at));
        search.notes.push(if taken {
            format!("split `{split}` is the folder {folder}")
        } else {
            format!("all images are in the folder {folder}, which is not a class")
        });
    }
    if !listing.classes.is_empty() {
        search.warn_of_other_classes(&folders, monitor)?;
    }
    for doubt in &doubts {
        monitor.warn(&format!("data {name}: {doubt}"));
    }
    for note in &search.notes {
        monitor.note(&format!("data {name}: {note}"));
    }
    search.left_out.report(name, &listing, monitor);
    Ok((search.at, listing))
}

/// Whether a tree holds images, at any depth.
pub(super) fn has_images(tree: &dyn Tree) -> Result<bool> {
    let mut seen = HashSet::from([tree.root()]);
    Ok(holds(tree, b"", MAX_DEPTH, &mut seen)? == Holds::Images)
}

/// What a folder holds, at any depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Holds {
    /// Files that accompany images (lists, notes, labels): not a class.
    Companions,
    /// Nothing, or files of other kinds: possibly a class.
    Unknown,
    Images,
}

struct Search<'a> {
    tree: &'a dyn Tree,
    name: &'a str,
    split: &'a str,
    /// The folder being examined: empty, or ending in `/`.
    at: Vec<u8>,
    /// The folders above it.
    ids: Vec<Id>,
    left_out: LeftOut,
    notes: Vec<String>,
    /// The folders of the other splits.
    other_parts: Vec<Vec<u8>>,
}

impl<'a> Search<'a> {
    /// Begins at a folder of the tree.
    fn new(tree: &'a dyn Tree, name: &'a str, split: &'a str, at: Vec<u8>) -> Self {
        Self {
            tree,
            name,
            split,
            at,
            ids: vec![tree.root()],
            left_out: LeftOut::default(),
            notes: Vec::new(),
            other_parts: Vec::new(),
        }
    }

    /// Descends into the split's folder, unless it was `taken` already, and into folders that hold
    /// everything. Returns whether a split's folder was taken.
    fn descend(&mut self, mut taken: bool) -> Result<bool> {
        loop {
            let items = visible(self.tree, trimmed(&self.at))?;
            let folders: Vec<&Item> =
                items.iter().filter(|item| matches!(item.kind, ItemKind::Folder(_))).collect();
            let part = if taken { None } else { self.part(&folders)? };
            taken |= part.is_some();
            let next = match part {
                Some(part) => Some(part),
                None => self.wrapper(&items, &folders, taken)?,
            };
            let Some(next) = next else { return Ok(taken) };
            for file in items.iter().filter(|item| !matches!(item.kind, ItemKind::Folder(_))) {
                self.left_out.add(b"", file);
            }
            if let ItemKind::Folder(id) = next.kind {
                self.ids.push(id);
            }
            self.at.extend_from_slice(&next.name);
            self.at.push(b'/');
            if self.ids.len() > MAX_DEPTH {
                return Err(self.too_deep(&[]));
            }
        }
    }

    /// The split's folder, if these folders are splits.
    fn part<'i>(&mut self, folders: &[&'i Item]) -> Result<Option<&'i Item>> {
        let exact = folders.iter().find(|item| item.name == self.split.as_bytes()).copied();
        let asked = split::named(self.split.as_bytes()).filter(|asked| asked.alone);
        let named: Vec<(&Item, Named)> =
            folders.iter().filter_map(|&item| Some((item, split::named(&item.name)?))).collect();
        let mut parts: Vec<(&Item, Part)> = Vec::new();
        for (item, name) in &named {
            let another = || {
                named.iter().any(|(_, other)| other.frame == name.frame && other.part != name.part)
            };
            if name.alone || another() || folders.len() == 1 && self.image_folders(&item.name)? > 0
            {
                parts.push((*item, name.part));
            }
        }
        if asked.is_none()
            && let Some(item) = exact
            && (folders.len() == 1 || self.image_folders(&item.name)? > 0)
        {
            return Ok(Some(item));
        }
        if parts.is_empty() || !self.are_parts(folders, &parts)? {
            return Ok(None);
        }
        let matching: Vec<&Item> = match asked {
            _ if exact.is_some() && !["train", "test", "val"].contains(&self.split) => {
                exact.into_iter().collect()
            }
            Some(asked) => parts
                .iter()
                .filter(|(_, part)| *part == asked.part)
                .map(|(item, _)| *item)
                .collect(),
            None => parts
                .iter()
                .filter(|(item, _)| item.name.eq_ignore_ascii_case(self.split.as_bytes()))
                .map(|(item, _)| *item)
                .collect(),
        };
        match matching.as_slice() {
            [one] => {
                let others =
                    parts.iter().map(|(item, _)| &item.name).filter(|name| **name != one.name);
                self.other_parts = others.map(|name| self.below(name)).collect();
                Ok(Some(*one))
            }
            [] => {
                let found = list(parts.iter().map(|(item, _)| item.name.as_slice()));
                let other = parts.first().map_or_else(String::new, |(item, _)| shown(&item.name));
                let other = if other.contains(' ') { format!("'{other}'") } else { other };
                Err(Error::input(format!(
                    "data {}: no split `{}`, found {found}",
                    self.name, self.split
                ))
                .hint(format!("--split {other} takes that one")))
            }
            [first, ..] => {
                let found = list(matching.iter().map(|item| item.name.as_slice()));
                Err(Error::input(format!(
                    "data {}: split `{}`: expected one folder, found {found}",
                    self.name, self.split
                ))
                .hint(format!("name the one you mean: --data {}", self.spec(&first.name))))
            }
        }
    }

    /// Whether folders named like splits are splits rather than classes.
    fn are_parts(&mut self, folders: &[&Item], parts: &[(&Item, Part)]) -> Result<bool> {
        let mut beside = Vec::new();
        let mut open = false;
        for item in
            folders.iter().filter(|item| parts.iter().all(|(part, _)| part.name != item.name))
        {
            match self.holds(&item.name)? {
                Holds::Images => beside.push(item.name.as_slice()),
                Holds::Unknown => open = true,
                Holds::Companions => {}
            }
        }
        if beside.is_empty() && !open {
            return Ok(true);
        }
        let mut nested = false;
        for (item, _) in parts {
            nested = nested || self.image_folders(&item.name)? > 0;
        }
        let several = parts.iter().any(|(_, part)| *part != parts[0].1);
        let names = list(parts.iter().map(|(item, _)| item.name.as_slice()));
        if beside.is_empty() {
            return Ok(nested || several);
        }
        if nested && several {
            self.notes.push(format!(
                "folders beside the splits {names} are left out: {}",
                list(beside.into_iter())
            ));
            return Ok(true);
        }
        if nested || several {
            return Err(Error::input(format!(
                "data {}: {names} may be a split or a class: expected only splits or only \
                 classes, found {} beside it",
                self.name,
                list(beside.into_iter())
            ))
            .hint(format!(
                "if it is the split, name its folder: --data {}; otherwise rename it",
                self.spec(&parts[0].0.name)
            )));
        }
        // a class `train` in railway pictures has no subfolders
        self.notes.push(format!("{names} is taken for a class: it has no subfolders"));
        Ok(false)
    }

    /// The only folder that holds images here, if it is not a class.
    fn wrapper<'i>(
        &mut self,
        items: &[Item],
        folders: &[&'i Item],
        in_split: bool,
    ) -> Result<Option<&'i Item>> {
        if items.iter().any(is_image) {
            return Ok(None);
        }
        let (mut only, mut open) = (None, false);
        for &item in folders {
            match self.holds(&item.name)? {
                Holds::Images if only.is_some() => return Ok(None),
                Holds::Images => only = Some(item),
                Holds::Unknown => open = true,
                Holds::Companions => {}
            }
        }
        let Some(only) = only else { return Ok(None) };
        let direct = visible(self.tree, &self.below(&only.name))?.iter().any(is_image);
        let is_neutral = split::is_neutral_name(&only.name);
        let strip = match self.image_folders(&only.name)? {
            0 if in_split => is_neutral,
            // a single class distinguishes nothing
            0 => is_neutral || !open,
            1 if in_split => is_neutral && !direct,
            _ => !direct,
        };
        if !strip {
            return Ok(None);
        }
        let beside =
            folders.iter().map(|item| item.name.as_slice()).filter(|name| *name != only.name);
        self.no_classes(beside.collect());
        Ok(Some(only))
    }

    fn no_classes(&mut self, folders: Vec<&[u8]>) {
        if !folders.is_empty() {
            self.notes.push(format!(
                "folders without images are left out: {}",
                list(folders.into_iter())
            ));
        }
    }

    /// The images below the chosen folder, and which folders there are classes.
    fn images(&mut self) -> Result<(Vec<ImageEntry>, BTreeSet<Vec<u8>>)> {
        let items = visible(self.tree, trimmed(&self.at))?;
        let folders = items
            .into_iter()
            .filter(|item| matches!(item.kind, ItemKind::Folder(_)))
            .map(|item| item.name);
        let mut walk = Traversal {
            entries: Vec::new(),
            seen: self.ids.iter().copied().collect(),
            again: Vec::new(),
        };
        self.walk(&mut Vec::new(), &mut walk)?;
        if !walk.again.is_empty() {
            let again = list(walk.again.iter().map(Vec::as_slice));
            self.notes.push(format!(
                "links lead to folders that are read anyway, so their images count again: {again}"
            ));
        }
        let with_images: HashSet<&[u8]> =
            walk.entries.iter().filter_map(|e| class_of(&e.path)).collect();
        let (classes, companions): (BTreeSet<Vec<u8>>, BTreeSet<Vec<u8>>) =
            folders.partition(|folder| {
                with_images.contains(folder.as_slice())
                    || !self.left_out.has_only_companions(folder)
            });
        if !with_images.is_empty() {
            self.no_classes(companions.iter().map(Vec::as_slice).collect());
        }
        Ok((walk.entries, classes))
    }

    fn walk(&mut self, inner: &mut Vec<u8>, walk: &mut Traversal) -> Result<()> {
        if self.ids.len() > MAX_DEPTH {
            return Err(self.too_deep(inner));
        }
        for item in visible(self.tree, trimmed(&self.below(inner)))? {
            let parent = inner.len();
            inner.extend_from_slice(&item.name);
            match item.kind {
                ItemKind::Folder(id) => {
                    if self.ids.contains(&id) {
                        let link = shown(&self.below(inner));
                        return Err(Error::input(format!(
                            "data {}: {link}: a link to a folder that holds it",
                            self.name
                        ))
                        .hint("remove the link"));
                    }
                    if !walk.seen.insert(id) {
                        walk.again.push(inner.clone());
                    }
                    self.ids.push(id);
                    inner.push(b'/');
                    self.walk(inner, walk)?;
                    self.ids.pop();
                }
                ItemKind::File if has_image_ending(&item.name) => {
                    let (size, offset) = self.tree.place(&self.below(inner))?;
                    walk.entries.push(ImageEntry { path: inner.clone(), size, offset });
                }
                _ => self.left_out.add(class_of(inner).unwrap_or_default(), &item),
            }
            inner.truncate(parent);
        }
        Ok(())
    }

    /// Oddities of the classes. Splits below classes, or below several data sets, are refused:
    /// reading them together would mix the splits.
    fn doubts(&self, entries: &[ImageEntry]) -> Result<Vec<String>> {
        let mut below: BTreeMap<&[u8], BTreeSet<&[u8]>> = BTreeMap::new();
        for entry in entries {
            let mut parts = entry.path.split(|&b| b == b'/');
            let (class, inner, file) = (parts.next(), parts.next(), parts.next());
            let (Some(class), Some(inner)) = (class, inner) else { return Ok(Vec::new()) };
            // a file directly in the class folder has no inner folder
            below.entry(class).or_default().insert(if file.is_some() { inner } else { &b""[..] });
        }
        let is_part = |name: &&[u8]| split::named(name).is_some_and(|named| named.alone);
        let several: BTreeSet<&[u8]> = below.values().flatten().copied().collect();
        let first = below.keys().next().map_or_else(String::new, |class| self.spec(class));
        if several.len() < 2 || !several.iter().all(is_part) {
            let mut doubts = Vec::new();
            if let Some(images) =
                below.keys().find(|class| below.len() > 1 && split::is_images(class))
            {
                doubts.push(format!(
                    "`{}` is taken for a class; if all images are there: --data {}",
                    shown(images),
                    self.spec(images)
                ));
            }
            if below.len() > 1 && several.len() > 1 && below.values().all(|inner| *inner == several)
            {
                let inner = list(several.iter());
                doubts.push(format!(
                    "every class holds the folders {inner}; if these are the classes, name one \
                     folder: --data {first}"
                ));
            }
            return Ok(doubts);
        }
        let found = list(
            below.iter().flat_map(|(class, parts)| parts.iter().map(|part| joined(class, part))),
        );
        Err(Error::input(format!(
            "data {}: expected splits with classes below them, found splits below other folders: \
             {found}",
            self.name
        ))
        .hint(format!(
            "name one folder, as --data {first}, or put the split's name first: train/CLASS"
        )))
    }

    /// Warns of splits with other classes, since labels count each split's folders separately.
    fn warn_of_other_classes(
        &self,
        folders: &BTreeSet<Vec<u8>>,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        for part in &self.other_parts {
            let mut other = Search::new(self.tree, self.name, self.split, joined(part, b""));
            other.descend(true)?;
            let items = visible(self.tree, trimmed(&other.at))?;
            let theirs: BTreeSet<Vec<u8>> = items
                .into_iter()
                .filter(|item| matches!(item.kind, ItemKind::Folder(_)))
                .map(|item| item.name)
                .collect();
            let mut differ = Vec::new();
            for name in theirs.symmetric_difference(folders) {
                if folders.contains(name) || other.holds(name)? != Holds::Companions {
                    differ.push(name);
                }
            }
            if !theirs.is_empty() && !differ.is_empty() {
                monitor.warn(&format!(
                    "data {}: {} and {} do not have the same classes, so a label does not mean \
                     the same in both; only in one: {}",
                    self.name,
                    shown(trimmed(&self.at)),
                    shown(trimmed(&other.at)),
                    list(differ.into_iter())
                ));
            }
        }
        Ok(())
    }

    /// How many folders directly below a folder hold images; 2 means two or more.
    fn image_folders(&self, folder: &[u8]) -> Result<usize> {
        let folder = self.below(folder);
        let mut count = 0;
        for item in visible(self.tree, &folder)?
            .iter()
            .filter(|item| matches!(item.kind, ItemKind::Folder(_)))
        {
            let held =
                holds(self.tree, &joined(&folder, &item.name), MAX_DEPTH, &mut HashSet::new())?;
            count += usize::from(held == Holds::Images);
            if count == 2 {
                break;
            }
        }
        Ok(count)
    }

    fn holds(&self, folder: &[u8]) -> Result<Holds> {
        holds(self.tree, &self.below(folder), MAX_DEPTH, &mut HashSet::new())
    }

    /// The tree's path of a path relative to the folder being examined.
    fn below(&self, inner: &[u8]) -> Vec<u8> {
        [self.at.as_slice(), inner].concat()
    }

    fn spec(&self, folder: &[u8]) -> String {
        self.tree.spec(&self.below(folder))
    }

    fn too_deep(&self, inner: &[u8]) -> Error {
        let path = shown(trimmed(&self.below(inner)));
        Error::input(format!(
            "data {}: {path}: expected at most {MAX_DEPTH} nested folders, found more",
            self.name
        ))
    }
}

/// The state of a recursive walk.
struct Traversal {
    entries: Vec<ImageEntry>,
    /// Every folder that was read.
    seen: HashSet<Id>,
    /// Links to folders that were already read.
    again: Vec<Vec<u8>>,
}

/// The entries of a folder in byte order, without system files.
fn visible(tree: &dyn Tree, folder: &[u8]) -> Result<Vec<Item>> {
    let mut items = tree.list(folder)?;
    items.retain(|item| !is_system(&item.name));
    items.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(items)
}

fn is_image(item: &Item) -> bool {
    item.kind == ItemKind::File && has_image_ending(&item.name)
}

/// What a folder holds; stops at the first image. `seen` holds the folders visited so far, since
/// links may form cycles.
fn holds(tree: &dyn Tree, folder: &[u8], depth: usize, seen: &mut HashSet<Id>) -> Result<Holds> {
    let items = visible(tree, folder)?;
    if items.iter().any(is_image) {
        return Ok(Holds::Images);
    }
    let (mut companions, mut unknown) = (false, false);
    for item in &items {
        let found = match item.kind {
            ItemKind::Folder(id) if depth > 0 && seen.insert(id) => {
                holds(tree, &joined(folder, &item.name), depth - 1, seen)?
            }
            ItemKind::File if is_companion(&item.name) => Holds::Companions,
            _ => Holds::Unknown,
        };
        match found {
            Holds::Images => return Ok(found),
            Holds::Unknown => unknown = true,
            Holds::Companions => companions = true,
        }
    }
    Ok(if companions && !unknown { Holds::Companions } else { Holds::Unknown })
}

/// Joins a folder's path and a name.
pub(super) fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

/// A folder's path without the last `/`.
fn trimmed(folder: &[u8]) -> &[u8] {
    folder.strip_suffix(b"/").unwrap_or(folder)
}
