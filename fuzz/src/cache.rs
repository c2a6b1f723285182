//! Caches: the golden ones with a file replaced, its checksums made right where it has any, so that
//! what stands behind them is reached.

use super::read_or_refused;
use nst_cache::cache::{ArraySpec, Cache, Decoder, Manifest, verify};
use nst_cache::monitor::Silent;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

const MANIFEST: &str = "manifest.json";
/// Rows that are read of an array.
const READ: usize = 16;

/// The golden cache of this name.
#[must_use]
pub fn golden(name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let below = |root: &Path| root.join("tests/data/golden").join(name);
    [below(here), below(&here.join(".."))]
        .into_iter()
        .find(|path| path.is_dir())
        .expect("the golden caches of tests/data")
}

/// Every file of a folder, by its path in it, in order.
#[must_use]
pub fn files(folder: &Path) -> Vec<PathBuf> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.sort();
    found
}

/// The shards (or the `zarr.json`s) of a golden cache.
#[must_use]
pub fn members(name: &str, metadata: bool) -> Vec<PathBuf> {
    let mut files = files(&golden(name));
    files.retain(|path| !path.ends_with(MANIFEST) && path.ends_with("zarr.json") == metadata);
    files
}

/// The golden cache that a selector chooses, and its number among `members`.
#[must_use]
pub fn select(selector: u8) -> (&'static str, usize) {
    (if selector >= 128 { "raw" } else { "zstd" }, usize::from(selector % 128))
}

thread_local! {
    /// A copy of each golden cache, made once a thread.
    static COPIES: RefCell<HashMap<&'static str, tempfile::TempDir>> = RefCell::default();
}

/// Calls `change` with a copy of a golden cache, and puts back the files that it names.
fn with_copy(name: &'static str, changed: &[&Path], change: impl FnOnce(&Path)) {
    let from = golden(name);
    COPIES.with_borrow_mut(|copies| {
        let folder = copies.entry(name).or_insert_with(|| {
            let folder = tempfile::tempdir().unwrap();
            for path in files(&from) {
                fs::create_dir_all(folder.path().join(&path).parent().unwrap()).unwrap();
                fs::copy(from.join(&path), folder.path().join(&path)).unwrap();
            }
            folder
        });
        change(folder.path());
        for path in changed {
            fs::copy(from.join(path), folder.path().join(path)).unwrap();
        }
    });
}

/// Opens, reads and verifies a cache; whether all of it could be read.
fn read(folder: &Path) -> bool {
    let report = read_or_refused(verify(folder, 1, &Silent));
    let Some(cache) = read_or_refused(Cache::open(folder)) else { return false };
    let (manifest, mut decoder, mut out) = (cache.manifest(), Decoder::default(), Vec::new());
    let mut all = report.is_some_and(|report| report.findings.is_empty());
    for spec in &manifest.view_arrays {
        let array = cache.array(&spec.path).unwrap();
        for view in 0..manifest.views.min(2) {
            array.prefetch(view, 0, READ);
            let rows = manifest.rows.min(READ);
            let read = array.read(&mut decoder, view, 0, rows, &mut out);
            all &= read_or_refused(read).is_some();
        }
    }
    all
}

/// A manifest: JSON, put into the frame with its hash (or a whole file, if it has the frame).
pub fn manifest(bytes: &[u8]) {
    with_copy("zstd", &[Path::new(MANIFEST)], |folder| {
        fs::write(folder.join(MANIFEST), framed(bytes)).unwrap();
        read(folder);
    });
}

/// The document around a manifest's JSON.
fn framed(body: &[u8]) -> Vec<u8> {
    if body.starts_with(b"{\"sha256\"") {
        return body.to_vec();
    }
    let hash: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
    [b"{\"sha256\":\"", hash.as_bytes(), b"\",\n\"manifest\":", body, b"}\n"].concat()
}

/// A `zarr.json` of a golden cache, chosen by the first byte: `verify` must name any that differs.
pub fn zarr_json(bytes: &[u8]) {
    let Some((&selector, bytes)) = bytes.split_first() else { return };
    let (name, number) = select(selector);
    let members = members(name, true);
    let path = &members[number % members.len()];
    with_copy(name, &[path], |folder| {
        let same = fs::read(folder.join(path)).unwrap() == bytes;
        fs::write(folder.join(path), bytes).unwrap();
        let findings = verify(folder, 1, &Silent).unwrap().findings;
        assert!(
            findings.iter().all(|finding| Path::new(&finding.file) == path)
                && findings.is_empty() == same
        );
        assert_eq!(read(folder), same);
    });
}

/// A shard of a golden cache, chosen by the first byte, with its checksums made right; the manifest
/// gets its length.
pub fn shard(bytes: &[u8]) {
    let Some((&selector, bytes)) = bytes.split_first() else { return };
    let (name, number) = select(selector);
    let members = members(name, false);
    let path = &members[number % members.len()];
    let root = golden(name);
    let original = fs::read(root.join(path)).unwrap();
    let mut manifest = Manifest::load(&root).unwrap();
    let array: PathBuf = path.iter().take_while(|part| *part != "c").collect();
    let is_it = |spec: &ArraySpec| Path::new(&spec.path) == array;
    let published = manifest.view_arrays.iter().position(is_it);
    let spec =
        manifest.view_arrays.iter().chain(&manifest.row_arrays).find(|spec| is_it(spec)).unwrap();
    let shard_rows = if published.is_some() {
        manifest.segment_rows
    } else {
        manifest.segments_per_view() * manifest.segment_rows
    };
    let shard = sealed(bytes, shard_rows / spec.chunk_rows);

    let place: Vec<usize> = path
        .iter()
        .skip_while(|part| *part != "c")
        .filter_map(|part| part.to_str()?.parse().ok())
        .collect();
    if let (Some(index), [view, segment, ..]) = (published, &place[..]) {
        let segment =
            manifest.segments.iter_mut().find(|s| (s.view, s.index) == (*view, *segment)).unwrap();
        segment.bytes[index] = shard.len() as u64;
    }
    with_copy(name, &[Path::new(MANIFEST), path], |folder| {
        fs::write(folder.join(MANIFEST), framed(&serde_json::to_vec(&manifest).unwrap())).unwrap();
        fs::write(folder.join(path), &shard).unwrap();
        // another sound shard has another digest than the manifest's (which has none of the row
        // arrays)
        let sound = read(folder);
        assert!(
            !sound || shard == original || published.is_none(),
            "{}: another shard was taken for the published one",
            path.display()
        );
    });
}

/// The shard with the checksums of its index and of the chunks that the index names.
fn sealed(bytes: &[u8], chunks: usize) -> Vec<u8> {
    let mut shard = bytes.to_vec();
    let Some(at) = shard.len().checked_sub(chunks * 16 + 4) else { return shard };
    let entries: Vec<u64> = shard[at..at + chunks * 16]
        .chunks_exact(8)
        .map(|n| u64::from_le_bytes(n.try_into().unwrap()))
        .collect();
    for pair in entries.chunks_exact(2) {
        let end = pair[0]
            .checked_add(pair[1])
            .and_then(|end| usize::try_from(end).ok())
            .filter(|&end| end <= at && pair[1] >= 4);
        if let (Some(end), Ok(start)) = (end, usize::try_from(pair[0])) {
            let sum = crc32c::crc32c(&shard[start..end - 4]).to_le_bytes();
            shard[end - 4..end].copy_from_slice(&sum);
        }
    }
    let sum = crc32c::crc32c(&shard[at..at + chunks * 16]).to_le_bytes();
    shard[at + chunks * 16..].copy_from_slice(&sum);
    shard
}
