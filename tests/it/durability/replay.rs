//! What a crash can leave. The log of a command is replayed onto a tree that knows what was written
//! and what was synced; after each operation, models of what a crash keeps give the folders that
//! may be found.

use super::compare::{Tree, everything};
use crate::support::Random;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::rc::Rc;

/// A path below the root, by its parts.
type Parts = Vec<String>;

/// An operation that changes what is below the root.
#[derive(Debug)]
pub enum Op {
    /// Opens a file, and makes it where it is not there.
    Create(Parts),
    /// Cuts or fills a file to a length.
    Truncate(Parts, usize),
    Write(Parts, usize, Vec<u8>),
    Sync(Parts),
    Rename(Parts, Parts),
    Link(Parts, Parts),
    Unlink(Parts),
    MakeDir(Parts),
}

/// Reads a log that the library wrote. What lies outside of `root` is not in it.
pub fn parse(log: &[u8], root: &Path) -> Vec<Op> {
    let mut rest = log;
    let mut take = |count: usize| {
        let (taken, after) = rest.split_at_checked(count)?;
        rest = after;
        Some(taken)
    };
    let mut ops = Vec::new();
    while let Some(head) = take(24) {
        let number = |range: std::ops::Range<usize>| {
            let bytes = head[range].iter().rev();
            usize::try_from(bytes.fold(0u64, |n, &byte| n << 8 | u64::from(byte))).unwrap()
        };
        let path = String::from_utf8(take(number(4..8)).unwrap().to_vec()).unwrap();
        let data = take(number(8..16)).unwrap().to_vec();
        let at = number(16..24);
        let below = |path: &str| {
            let path = Path::new(path).strip_prefix(root).unwrap();
            path.components().map(|p| p.as_os_str().to_string_lossy().into_owned()).collect()
        };
        let to = |data: Vec<u8>| below(&String::from_utf8(data).unwrap());
        ops.push(match head[0] {
            b'C' => Op::Create(below(&path)),
            b'T' => Op::Truncate(below(&path), at),
            b'W' => Op::Write(below(&path), at, data),
            b'S' => Op::Sync(below(&path)),
            b'R' => Op::Rename(below(&path), to(data)),
            b'L' => Op::Link(below(&path), to(data)),
            b'U' => Op::Unlink(below(&path)),
            b'M' => Op::MakeDir(below(&path)),
            op => panic!("operation {op}"),
        });
    }
    ops
}

/// A file's bytes with their checksum, by which states are told apart.
#[derive(Debug, Clone, Default)]
struct Blob {
    bytes: Rc<Vec<u8>>,
    sum: u32,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { sum: crc32c::crc32c(&bytes), bytes: Rc::new(bytes) }
    }
}

/// A change of a folder's entries.
#[derive(Debug, Clone)]
enum Change {
    Add(String, usize),
    Remove(String),
    Move(String, String, usize),
}

fn apply(entries: &mut BTreeMap<String, usize>, change: &Change) {
    match change {
        Change::Add(name, node) => drop(entries.insert(name.clone(), *node)),
        Change::Remove(name) => drop(entries.remove(name)),
        Change::Move(from, to, node) => {
            entries.remove(from);
            entries.insert(to.clone(), *node);
        }
    }
}

#[derive(Debug)]
enum Node {
    File {
        now: Blob,
        synced: Option<Blob>,
    },
    Folder {
        now: BTreeMap<String, usize>,
        synced: BTreeMap<String, usize>,
        /// Changes since the last sync.
        pending: Vec<Change>,
    },
}

/// What was written, and what of it was synced.
pub struct Disk {
    nodes: Vec<Node>,
}

/// The root's node.
const ROOT: usize = 0;

impl Disk {
    /// A disk on which this tree has long been.
    pub fn new(tree: &Tree) -> Self {
        let folder =
            || Node::Folder { now: BTreeMap::new(), synced: BTreeMap::new(), pending: Vec::new() };
        let mut disk = Self { nodes: vec![folder()] };
        // folders come before what is in them
        for (path, bytes) in tree {
            let parts: Parts = path.split('/').map(str::to_owned).collect();
            let blob = bytes.clone().map(Blob::new);
            let node = blob
                .map_or_else(folder, |blob| Node::File { now: blob.clone(), synced: Some(blob) });
            disk.nodes.push(node);
            let last = disk.nodes.len() - 1;
            disk.change(&parts, |name| Change::Add(name, last));
            disk.sync(&parts[..parts.len() - 1]);
        }
        disk
    }

    fn find(&self, parts: &[String]) -> Option<usize> {
        parts.iter().try_fold(ROOT, |at, part| match &self.nodes[at] {
            Node::Folder { now, .. } => now.get(part).copied(),
            Node::File { .. } => None,
        })
    }

    /// Changes the entry that a path names.
    fn change(&mut self, parts: &[String], of: impl FnOnce(String) -> Change) {
        let Some((name, folder)) = parts.split_last() else { return };
        let Some(at) = self.find(folder) else { return };
        if let Node::Folder { now, pending, .. } = &mut self.nodes[at] {
            let change = of(name.clone());
            apply(now, &change);
            pending.push(change);
        }
    }

    fn sync(&mut self, parts: &[String]) {
        let Some(at) = self.find(parts) else { return };
        match &mut self.nodes[at] {
            Node::File { now, synced } => *synced = Some(now.clone()),
            Node::Folder { now, synced, pending } => {
                synced.clone_from(now);
                pending.clear();
            }
        }
    }

    fn edit(&mut self, parts: &[String], edit: impl FnOnce(&mut Vec<u8>)) {
        // a file that has lost its name is nobody's
        let Some(at) = self.find(parts) else { return };
        if let Node::File { now, .. } = &mut self.nodes[at] {
            let mut bytes = (*now.bytes).clone();
            edit(&mut bytes);
            *now = Blob::new(bytes);
        }
    }

    /// Does one operation.
    pub fn perform(&mut self, op: &Op) {
        match op {
            Op::Create(path) | Op::MakeDir(path) => {
                if self.find(path).is_some() {
                    return;
                }
                self.nodes.push(match op {
                    Op::Create(_) => Node::File { now: Blob::default(), synced: None },
                    _ => Node::Folder {
                        now: BTreeMap::new(),
                        synced: BTreeMap::new(),
                        pending: Vec::new(),
                    },
                });
                let last = self.nodes.len() - 1;
                self.change(path, |name| Change::Add(name, last));
            }
            Op::Truncate(path, length) => self.edit(path, |bytes| bytes.resize(*length, 0)),
            Op::Write(path, at, data) => self.edit(path, |bytes| {
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[*at..at + data.len()].copy_from_slice(data);
            }),
            Op::Sync(path) => self.sync(path),
            Op::Rename(from, to) | Op::Link(from, to) => {
                let Some(node) = self.find(from) else { return };
                let (folder, target) = (&from[..from.len() - 1], &to[..to.len() - 1]);
                if matches!(op, Op::Link(..)) {
                    self.change(to, |name| Change::Add(name, node));
                } else if folder == target {
                    let old = from[from.len() - 1].clone();
                    self.change(to, |name| Change::Move(old, name, node));
                } else {
                    self.change(from, Change::Remove);
                    self.change(to, |name| Change::Add(name, node));
                }
            }
            Op::Unlink(path) => self.change(path, Change::Remove),
        }
    }

    /// What is found after a crash now.
    fn after_crash(&self, model: Model, seed: u64) -> State {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut files = BTreeMap::new();
        self.below(ROOT, "", model, &mut random, &mut files);
        State { files }
    }

    fn below(
        &self,
        at: usize,
        prefix: &str,
        model: Model,
        random: &mut Random,
        into: &mut BTreeMap<String, Option<Blob>>,
    ) {
        let Node::Folder { now, synced, pending } = &self.nodes[at] else { return };
        let entries = match model {
            Model::All | Model::Names | Model::Zeros => now.clone(),
            Model::Synced | Model::Data => synced.clone(),
            Model::Random => {
                let mut entries = synced.clone();
                for change in pending {
                    if random.unit() < 0.5 {
                        apply(&mut entries, change);
                    }
                }
                entries
            }
        };
        for (name, node) in entries {
            let path = format!("{prefix}{name}");
            match &self.nodes[node] {
                Node::File { now, synced } => {
                    into.insert(path, Some(kept(now, synced.as_ref(), model, random)));
                }
                Node::Folder { .. } => {
                    self.below(node, &format!("{path}/"), model, random, into);
                    into.insert(path, None);
                }
            }
        }
    }
}

/// What a crash keeps of a file.
fn kept(now: &Blob, synced: Option<&Blob>, model: Model, random: &mut Random) -> Blob {
    let old = synced.cloned().unwrap_or_default();
    if old.sum == now.sum && old.bytes == now.bytes {
        return old;
    }
    let zeros = || {
        let mut bytes = old.bytes[..old.bytes.len().min(now.bytes.len())].to_vec();
        bytes.resize(now.bytes.len(), 0);
        Blob::new(bytes)
    };
    match model {
        Model::All | Model::Data => now.clone(),
        Model::Synced | Model::Names => old,
        Model::Zeros => zeros(),
        Model::Random => match random.next() >> 33 & 3 {
            0 => old,
            1 => now.clone(),
            2 => {
                #[allow(clippy::cast_possible_truncation, reason = "below a file's length")]
                let length = (random.next() >> 16) as usize % (now.bytes.len() + 1);
                Blob::new(now.bytes[..length].to_vec())
            }
            _ => zeros(),
        },
    }
}

/// What a crash keeps of names and data that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// Everything.
    All,
    /// Nothing.
    Synced,
    /// All names, of files only what was synced.
    Names,
    /// All names, and zeros in place of data that was not synced.
    Zeros,
    /// All data, of names only those that were synced.
    Data,
    /// Some of the names, and of each file anything of that.
    Random,
}

/// Files and folders as a crash leaves them.
#[derive(Debug, Clone)]
pub struct State {
    files: BTreeMap<String, Option<Blob>>,
}

impl State {
    /// Two states of one value are the same.
    fn value(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (path, blob) in &self.files {
            path.hash(&mut hasher);
            blob.as_ref().map(|blob| (blob.bytes.len(), blob.sum)).hash(&mut hasher);
        }
        hasher.finish()
    }

    pub fn tree(&self) -> Tree {
        let bytes = |blob: &Blob| blob.bytes.to_vec();
        self.files.iter().map(|(path, blob)| (path.clone(), blob.as_ref().map(bytes))).collect()
    }
}

/// A command's log, and what was there before it.
pub struct Recording {
    pub before: Tree,
    pub ops: Vec<Op>,
}

impl Recording {
    /// What is found after a crash behind the first `count` operations.
    pub fn state(&self, count: usize, model: Model, seed: u64) -> State {
        let mut disk = Disk::new(&self.before);
        self.ops[..count].iter().for_each(|op| disk.perform(op));
        disk.after_crash(model, seed)
    }

    /// The last of the first `count` operations, for people.
    pub fn last(&self, count: usize) -> String {
        let Some(op) = count.checked_sub(1).map(|last| &self.ops[last]) else {
            return "nothing".to_owned();
        };
        let (what, path) = match op {
            Op::Create(path) => ("open or make", path),
            Op::Truncate(path, _) => ("truncate", path),
            Op::Write(path, ..) => ("write", path),
            Op::Sync(path) => ("sync", path),
            Op::Rename(_, path) => ("rename to", path),
            Op::Link(_, path) => ("link to", path),
            Op::Unlink(path) => ("remove", path),
            Op::MakeDir(path) => ("make folder", path),
        };
        format!("{what} {}", path.join("/"))
    }

    /// The names of all states that differ: operations done, model, seed.
    pub fn states(&self) -> Vec<(usize, Model, u64)> {
        let models = [Model::All, Model::Synced, Model::Names, Model::Zeros, Model::Data];
        let mut disk = Disk::new(&self.before);
        let mut seen = HashSet::new();
        let mut states = Vec::new();
        for count in 0..=self.ops.len() {
            if let Some(op) = count.checked_sub(1).map(|last| &self.ops[last]) {
                disk.perform(op);
            }
            let fixed = models.iter().map(|&model| (model, 0));
            let random = (1..=3).map(|seed| (Model::Random, count as u64 * 7 + seed));
            for (model, seed) in fixed.chain(random) {
                if seen.insert(disk.after_crash(model, seed).value()) {
                    states.push((count, model, seed));
                }
            }
        }
        states
    }

    /// What a whole replay says otherwise than the folder itself: the log is not of everything.
    pub fn disagreements(&self, root: &Path) -> Vec<String> {
        let replayed = self.state(self.ops.len(), Model::All, 0).tree();
        super::compare::differences(&replayed, &everything(root))
    }

    /// What was not made last when the command had ended. Of logs and locks the name counts.
    pub fn not_synced(&self) -> Vec<String> {
        let read = |model| {
            let mut tree = self.state(self.ops.len(), model, 0).tree();
            for (path, bytes) in &mut tree {
                if super::compare::is_log(path) || path.ends_with("/.lock") {
                    bytes.take();
                }
            }
            tree
        };
        super::compare::differences(&read(Model::Synced), &read(Model::All))
    }
}

/// Writes a state into a folder.
pub fn materialise(tree: &Tree, folder: &Path) {
    for (path, bytes) in tree {
        let path = folder.join(path);
        match bytes {
            None => std::fs::create_dir_all(path).unwrap(),
            Some(bytes) => {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, bytes).unwrap();
            }
        }
    }
}
