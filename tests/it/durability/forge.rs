//! Kinds of damage to a cache, by chance and by intent.

use super::forge_manifest::{
    all_swapped, array_order, array_twice, geometry, manifest_text, manifest_value, paths_swapped,
    segment_dropped, segment_twice, sums_swapped,
};
use crate::support::Random;

use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// A cache that is being damaged.
pub struct Damage {
    pub cache: PathBuf,
    /// Where a file can be put beside it.
    pub aside: PathBuf,
    /// Caches of other settings and the same shapes.
    pub others: Vec<PathBuf>,
    pub manifest: Value,
    pub random: Random,
}

/// Does the damage and says what it was.
type Apply = fn(&mut Damage) -> String;

/// The kinds of damage; those that have more to choose from stand here more often.
pub const KINDS: [(&str, Apply); 37] = [
    ("swap segments", swap_segments),
    ("swap arrays", swap_arrays),
    ("copy within", copy_within),
    ("shard of another cache", other_shard),
    ("array of another cache", other_array),
    ("rows of another cache", other_rows),
    ("rows swapped", rows_swapped),
    ("manifest of another cache", other_manifest),
    ("truncate", truncate),
    ("sparse and huge", sparse),
    ("remove", remove),
    ("not a file", not_a_file),
    ("chunks swapped", chunks_swapped),
    ("index", index),
    ("manifest, segment twice", segment_twice),
    ("manifest, segment dropped", segment_dropped),
    ("manifest, sums swapped", sums_swapped),
    ("manifest and shards swapped", all_swapped),
    ("manifest, array twice", array_twice),
    ("manifest, order of arrays", array_order),
    ("manifest, paths swapped", paths_swapped),
    ("manifest, a value", manifest_value),
    ("manifest, geometry", geometry),
    ("manifest, text", manifest_text),
    ("zarr.json", zarr),
    ("bits", bits),
    ("page of zeros", zeros),
    ("swap segments", swap_segments),
    ("shard of another cache", other_shard),
    ("rows of another cache", other_rows),
    ("not a file", not_a_file),
    ("not a file", not_a_file),
    ("index", index),
    ("manifest, a value", manifest_value),
    ("manifest, a value", manifest_value),
    ("manifest, geometry", geometry),
    ("manifest, text", manifest_text),
];

/// Whether a forgery says all of itself, sums too: who can write the manifest can write the values.
pub fn is_consistent(kind: &str, done: &str) -> bool {
    let shapes = ["rows", "views", "segment_rows", "chunk_rows", "row_shape", "dtype", "codec"];
    match kind {
        "manifest and shards swapped" | "manifest, geometry" => true,
        "manifest, a value" => shapes.iter().any(|key| done.contains(key)),
        _ => false,
    }
}

pub const FEATURES: [&str; 2] = ["taps/one/features", "taps/two/features"];
const ROWS: [&str; 2] = ["label", "sample_id"];

/// A number as a place in something that has so many.
pub fn place(random: &mut Random, count: usize) -> usize {
    (random.next() >> 16) as usize % count.max(1)
}

pub fn pick<'a, T>(random: &mut Random, items: &'a [T]) -> &'a T {
    &items[place(random, items.len())]
}

/// Two different places.
pub fn two(random: &mut Random, count: usize) -> (usize, usize) {
    let first = place(random, count);
    let second = (first + 1 + place(random, count - 1)) % count;
    (first, second)
}

/// The manifest of a cache as JSON.
pub fn read_manifest(cache: &Path) -> Value {
    let document: Value =
        serde_json::from_slice(&fs::read(cache.join("manifest.json")).unwrap()).unwrap();
    document["manifest"].clone()
}

pub fn write_body(cache: &Path, body: &[u8]) {
    let hash =
        Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let head = format!("{{\"sha256\":\"{hash}\",\n\"manifest\":");
    fs::write(cache.join("manifest.json"), [head.as_bytes(), body, b"}\n"].concat()).unwrap();
}

impl Damage {
    pub fn store(&self) {
        write_body(&self.cache, self.manifest.to_string().as_bytes());
    }

    pub fn arrays(&self) -> &Vec<Value> {
        self.manifest["view_arrays"].as_array().unwrap()
    }

    pub fn segments(&mut self) -> &mut Vec<Value> {
        self.manifest["segments"].as_array_mut().unwrap()
    }

    pub fn array(&mut self) -> usize {
        place(&mut self.random, self.manifest["view_arrays"].as_array().unwrap().len())
    }

    pub fn segment(&mut self) -> usize {
        place(&mut self.random, self.manifest["segments"].as_array().unwrap().len())
    }

    pub fn two_segments(&mut self) -> (usize, usize) {
        let count = self.segments().len();
        two(&mut self.random, count)
    }

    /// Which array has this path.
    pub fn of_path(&self, path: &str) -> usize {
        self.arrays().iter().position(|array| array["path"] == path).unwrap()
    }

    /// One of the two taps.
    fn features(&mut self) -> usize {
        let path = FEATURES[place(&mut self.random, 2)];
        self.of_path(path)
    }

    /// The path of a shard in a cache.
    pub fn shard(&self, array: usize, segment: usize) -> String {
        let spec = &self.arrays()[array];
        let record = &self.manifest["segments"][segment];
        let axes = "/0".repeat(spec["row_shape"].as_array().map_or(0, Vec::len));
        let path = spec["path"].as_str().unwrap();
        format!("{path}/c/{}/{}{axes}", record["view"], record["index"])
    }

    fn at(&self, path: &str) -> PathBuf {
        self.cache.join(path)
    }

    /// Some file of the cache.
    fn file(&mut self) -> String {
        let (array, segment) = (self.array(), self.segment());
        let others = [
            "label/c/0",
            "sample_id/c/0",
            "zarr.json",
            "manifest.json",
            "extraction.json",
            ".lock",
        ];
        if place(&mut self.random, 3) == 0 {
            return self.shard(array, segment);
        }
        (*pick(&mut self.random, &others)).to_owned()
    }

    /// Changes a file's bytes.
    fn edit(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.at(path)).unwrap();
        change(&mut bytes);
        fs::write(self.at(path), bytes).unwrap();
    }

    fn other(&mut self) -> PathBuf {
        pick(&mut self.random, &self.others).clone()
    }

    pub fn exchange(&self, a: &str, b: &str) {
        let (first, second) = (fs::read(self.at(a)).unwrap(), fs::read(self.at(b)).unwrap());
        fs::write(self.at(a), second).unwrap();
        fs::write(self.at(b), first).unwrap();
    }
}

fn swap_segments(to: &mut Damage) -> String {
    let (array, (a, b)) = (to.array(), to.two_segments());
    let (a, b) = (to.shard(array, a), to.shard(array, b));
    to.exchange(&a, &b);
    format!("{a} and {b}")
}

fn swap_arrays(to: &mut Damage) -> String {
    let (first, second) = (to.segment(), to.segment());
    let second = if to.random.unit() < 0.5 { first } else { second };
    let (one, two) = (to.of_path(FEATURES[0]), to.of_path(FEATURES[1]));
    let (a, b) = (to.shard(one, first), to.shard(two, second));
    to.exchange(&a, &b);
    format!("{a} and {b}")
}

fn copy_within(to: &mut Damage) -> String {
    let (array, (a, b)) = (to.array(), to.two_segments());
    let (a, b) = (to.shard(array, a), to.shard(array, b));
    fs::copy(to.at(&a), to.at(&b)).unwrap();
    format!("{a} to {b}")
}

fn other_shard(to: &mut Damage) -> String {
    let (array, segment, other) = (to.array(), to.segment(), to.other());
    let path = to.shard(array, segment);
    fs::copy(other.join(&path), to.at(&path)).unwrap();
    format!("{path} of {}", other.display())
}

fn other_array(to: &mut Damage) -> String {
    let (array, other) = (to.array(), to.other());
    for segment in 0..to.segments().len() {
        let path = to.shard(array, segment);
        fs::copy(other.join(&path), to.at(&path)).unwrap();
    }
    format!("{} of {}", to.arrays()[array]["path"], other.display())
}

fn other_rows(to: &mut Damage) -> String {
    let other = to.other();
    let paths = &ROWS[[0..1, 1..2, 0..2][place(&mut to.random, 3)].clone()];
    for path in paths {
        let path = format!("{path}/c/0");
        fs::copy(other.join(&path), to.at(&path)).unwrap();
    }
    format!("{paths:?} of {}", other.display())
}

fn rows_swapped(to: &mut Damage) -> String {
    to.exchange("label/c/0", "sample_id/c/0");
    "label and sample_id".to_owned()
}

fn other_manifest(to: &mut Damage) -> String {
    let other = to.other();
    fs::copy(other.join("manifest.json"), to.at("manifest.json")).unwrap();
    format!("of {}", other.display())
}

fn set_length(path: &Path, length: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

fn truncate(to: &mut Damage) -> String {
    let path = to.file();
    let length = fs::metadata(to.at(&path)).unwrap().len();
    let lengths = [0, 1, length / 2, length.saturating_sub(1), length + 1, length + 4096];
    let length = *pick(&mut to.random, &lengths);
    set_length(&to.at(&path), length);
    format!("{path} to {length}")
}

fn sparse(to: &mut Damage) -> String {
    let path = to.file();
    let length = *pick(&mut to.random, &[1 << 30, 1 << 36, 1 << 40]);
    set_length(&to.at(&path), length);
    format!("{path} to {length}")
}

fn remove(to: &mut Damage) -> String {
    let path = to.file();
    fs::remove_file(to.at(&path)).unwrap();
    path
}

fn not_a_file(to: &mut Damage) -> String {
    let path = to.file();
    let (array, segment) = (to.array(), to.segment());
    let other = to.at(&to.shard(array, segment));
    let file = to.at(&path);
    let moved = to.aside.join("moved");
    fs::rename(&file, &moved).unwrap();
    let kinds =
        ["link", "other", "null", "zero", "full", "dangling", "loop", "folder", "fifo", "socket"];
    let kind = *pick(&mut to.random, &kinds);
    match kind {
        "link" => symlink(&moved, &file).unwrap(),
        "other" => symlink(&other, &file).unwrap(),
        "null" | "zero" | "full" => symlink(format!("/dev/{kind}"), &file).unwrap(),
        "dangling" => symlink("/nowhere/x", &file).unwrap(),
        "loop" => symlink(&file, &file).unwrap(),
        "folder" => fs::create_dir(&file).unwrap(),
        "fifo" => fifo(&file),
        // a path may be too long for a socket
        _ => UnixListener::bind(&file).map_or_else(|_| fifo(&file), drop),
    }
    format!("{path}: {kind}")
}

/// Makes a FIFO, of which a read does not end.
pub fn fifo(path: &Path) {
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from(0o644));
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
}

/// How many chunks a shard of features has.
fn chunks(to: &Damage, array: usize) -> usize {
    let number = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
    number(&to.manifest["segment_rows"]) / number(&to.arrays()[array]["chunk_rows"])
}

/// The index of a shard: where it stands, and offset and length of each chunk.
fn entries(bytes: &[u8], chunks: usize) -> (usize, Vec<[u64; 2]>) {
    let at = bytes.len() - 4 - 16 * chunks;
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    (at, (0..chunks).map(|i| [number(at + 16 * i), number(at + 16 * i + 8)]).collect())
}

/// Two chunks of a shard exchanged, the index as it was.
fn chunks_swapped(to: &mut Damage) -> String {
    let (array, segment) = (to.features(), to.segment());
    let (path, count) = (to.shard(array, segment), chunks(to, array));
    let (a, b) = two(&mut to.random, count);
    to.edit(&path, |bytes| {
        let (_, entries) = entries(bytes, count);
        let range = |[at, length]: [u64; 2]| {
            usize::try_from(at).unwrap()..usize::try_from(at + length).unwrap()
        };
        // compressed ones have lengths of their own
        let length = entries[a][1].min(entries[b][1]);
        let (a, b) = (range([entries[a][0], length]), range([entries[b][0], length]));
        let (first, second) = (bytes[a.clone()].to_vec(), bytes[b.clone()].to_vec());
        bytes[a].copy_from_slice(&second);
        bytes[b].copy_from_slice(&first);
    });
    format!("{path}, {a} and {b}")
}

/// Entries of an index changed, its checksum and the manifest's digest made right.
fn index(to: &mut Damage) -> String {
    let array = to.features();
    let (segment, count) = (to.segment(), chunks(to, array));
    let path = to.shard(array, segment);
    let mut bytes = fs::read(to.at(&path)).unwrap();
    let (at, mut entries) = entries(&bytes, count);
    let length = bytes.len() as u64;
    let kind = *pick(&mut to.random, &["swap", "overlap", "huge", "off", "twice", "empty", "zero"]);
    let (a, b) = two(&mut to.random, count);
    let random = &mut to.random;
    match kind {
        "swap" => entries.swap(a, b),
        "overlap" => entries[a][0] = entries[a][0].saturating_sub(1 + random.next() % 5000),
        "huge" => {
            let values = [1 << 63, u64::MAX, 1 << 40, length];
            entries[a][place(random, 2)] = *pick(random, &values);
        }
        "off" => {
            let move_by = *pick(random, &[-1, 1, -4, 4]);
            entries[a][1] = entries[a][1].wrapping_add_signed(move_by);
        }
        "twice" => entries[a] = entries[b],
        "empty" => entries[a] = [u64::MAX; 2],
        _ => entries[a] = [0, 0],
    }
    let mut index: Vec<u8> = entries.iter().flatten().flat_map(|n| n.to_le_bytes()).collect();
    index.extend(crc32c::crc32c(&index).to_le_bytes());
    bytes.truncate(at);
    bytes.extend(&index);
    let ends = entries.iter().filter_map(|[at, length]| {
        let end = usize::try_from(at.checked_add(*length)?).ok()?;
        bytes.get(end.checked_sub(4)?..end)
    });
    let sums: Vec<u8> = ends.flatten().chain(&index[index.len() - 4..]).copied().collect();
    to.manifest["segments"][segment]["crc32c"][array] = crc32c::crc32c(&sums).into();
    fs::write(to.at(&path), &bytes).unwrap();
    to.store();
    format!("{path}: {kind}")
}

/// Flips a bit.
pub fn flip(bytes: &mut [u8], random: &mut Random) {
    let at = place(random, bytes.len());
    bytes[at] ^= 1 << place(random, 8);
}

fn zarr(to: &mut Damage) -> String {
    let paths: Vec<String> = super::compare::everything(&to.cache)
        .into_keys()
        .filter(|path| path.ends_with("zarr.json"))
        .collect();
    let path = pick(&mut to.random, &paths).clone();
    let mut bytes = fs::read(to.at(&path)).unwrap();
    flip(&mut bytes, &mut to.random);
    fs::write(to.at(&path), bytes).unwrap();
    path
}

fn bits(to: &mut Damage) -> String {
    let (array, segment) = (to.array(), to.segment());
    let paths = [to.shard(array, segment), "label/c/0".to_owned(), "sample_id/c/0".to_owned()];
    let path = pick(&mut to.random, &paths).clone();
    let count = *pick(&mut to.random, &[1, 1, 2, 8]);
    let mut bytes = fs::read(to.at(&path)).unwrap();
    (0..count).for_each(|_| flip(&mut bytes, &mut to.random));
    fs::write(to.at(&path), bytes).unwrap();
    format!("{path}: {count}")
}

/// A sector that was lost.
fn zeros(to: &mut Damage) -> String {
    let (array, segment) = (to.array(), to.segment());
    let path = to.shard(array, segment);
    let size = *pick(&mut to.random, &[512, 4096]);
    let mut bytes = fs::read(to.at(&path)).unwrap();
    let at = place(&mut to.random, bytes.len()) / size * size;
    let end = bytes.len().min(at + size);
    bytes[at..end].fill(0);
    fs::write(to.at(&path), bytes).unwrap();
    format!("{path}: {size} at {at}")
}
