//! `stamps.bin`: what each sample was read from when its rows were computed, and the names of all
//! samples. It is not part of the content, since stamps describe one machine's files. Blocks, each
//! with a checksum, are appended before the segments that they describe are committed.

use super::Manifest;
use super::shard::Fault;
use crate::data::{ContentHash, Dataset, Stamp, Trace, shuffle};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::storage::{self, Lock};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The file's name in the cache's folder.
pub(super) const NAME: &str = "stamps.bin";

/// Bound on the file's length in bytes, enough for a hundred million samples.
const BYTES_MAX: u64 = 8 << 30;
/// The start of a block; a byte with the kind of its entries follows.
const MAGIC: &[u8; 7] = b"nst-st1";
const NAMES: u8 = b'n';
const TRACES: u8 = b't';
/// Bytes of a block's head: magic, kind, count.
const HEAD: usize = 16;
const CHECKSUM: usize = 4;
/// Bytes per name's hash.
const NAME_BYTES: usize = 8;
/// Bytes per trace: sample index, size, time, inode, hash.
const TRACE_BYTES: usize = 48;

/// Number of samples whose bytes are compared even though their files look unchanged.
pub const OTHERS: usize = 64;
/// Number of samples named in a message; the others are counted.
const NAMED: usize = 5;

/// Records what a cache's samples were read from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stamps {
    /// A hash of each sample's name, in the data set's order.
    names: Vec<u64>,
    traces: BTreeMap<usize, Trace>,
}

/// The result of comparing a data set with the record.
#[derive(Debug, Clone, Default)]
pub struct Compared {
    /// Samples whose content differs, in ascending order.
    pub changed: Vec<usize>,
    /// Samples whose files have new metadata but the same content.
    pub restamped: Vec<(usize, Trace)>,
    /// Samples without a record.
    pub unknown: Vec<usize>,
    /// Randomly drawn samples that look unchanged or have no record, for further comparison.
    pub drawn: Vec<usize>,
}

/// Number of samples added to and removed from a data set, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moves {
    /// Number of new names.
    pub added: usize,
    /// Number of missing names.
    pub removed: usize,
}

impl Stamps {
    /// Reads the record of the cache in `folder`, complete or not; `None` if there is none.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn load(folder: &Path) -> Result<Option<Self>> {
        Ok(read(folder)?.map(|(stamps, _)| stamps))
    }

    /// Compares the names; `None` if none were recorded.
    #[must_use]
    pub fn moves(&self, names: &[u64]) -> Option<Moves> {
        if self.names.is_empty() {
            return None;
        }
        let (before, now): (HashSet<u64>, HashSet<u64>) =
            (self.names.iter().copied().collect(), names.iter().copied().collect());
        Some(Moves {
            added: now.difference(&before).count(),
            removed: before.difference(&now).count(),
        })
    }

    /// Compares `samples` with what they were read from: the metadata of every file, the bytes of
    /// those whose metadata differs, and the bytes of `all` others or of [`OTHERS`] drawn by the
    /// clock. Nothing that is stored depends on the draw, which differs every time.
    ///
    /// # Errors
    /// If the user asks to stop.
    pub fn compare(
        &self,
        dataset: &dyn Dataset,
        samples: &[usize],
        all: bool,
        monitor: &dyn Monitor,
    ) -> Result<Compared> {
        let looks = samples.par_iter().map(|&sample| {
            let known = self.traces.get(&sample);
            let same = known
                .is_some_and(|known| dataset.stamp(sample).ok().flatten() == Some(known.stamp));
            (sample, known, same)
        });
        let mut found = Compared::default();
        let (mut hashed, mut others) = (Vec::new(), Vec::new());
        for (sample, known, same) in looks.collect::<Vec<_>>() {
            match known {
                None => found.unknown.push(sample),
                Some(known) if same && !all => others.push((sample, *known)),
                Some(known) => hashed.push((sample, *known)),
            }
        }
        let mut drawn = [others.iter().map(|o| o.0).collect(), found.unknown.clone()].concat();
        shuffle(&mut drawn, clock());
        drawn.truncate(OTHERS);
        let is_drawn: HashSet<usize> = drawn.iter().copied().collect();
        hashed.extend(others.into_iter().filter(|(sample, _)| is_drawn.contains(sample)));
        found.drawn = drawn;
        // a few are too fast for a progress bar
        let shown = hashed.len() > 1000;
        if shown {
            monitor.begin("compare", "samples", hashed.len() as u64, 0);
        }
        let compared = hashed.into_par_iter().map(|(sample, known)| {
            if monitor.stop_requested() {
                return Err(Error::interrupted("while the data was compared; nothing was written"));
            }
            // before the bytes, in the order of the original recording
            let stamp = dataset.stamp(sample).ok().flatten();
            let content = dataset.content(sample).ok().flatten();
            if shown {
                monitor.advance(1, known.stamp.size);
            }
            Ok((sample, known, stamp.zip(content).map(|(stamp, content)| Trace { stamp, content })))
        });
        let compared = compared.collect::<Result<Vec<_>>>();
        if shown {
            monitor.end();
        }
        for (sample, known, now) in compared? {
            match now {
                Some(now) if now == known => {}
                Some(now) if now.content == known.content => found.restamped.push((sample, now)),
                // a file that cannot be read counts as changed
                _ => found.changed.push(sample),
            }
        }
        found.changed.sort_unstable();
        Ok(found)
    }
}

/// A seed that differs from run to run.
fn clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs().wrapping_mul(1_000_000_007)
        ^ u64::from(now.subsec_nanos())
        ^ (u64::from(std::process::id()) << 32)
}

/// The error that names samples that have changed since the cache was made.
#[must_use]
pub fn changed(folder: &Path, dataset: &dyn Dataset, samples: &[usize]) -> Error {
    let named: Vec<String> =
        samples.iter().take(NAMED).map(|&sample| dataset.name(sample)).collect();
    let rest = if samples.len() > NAMED {
        format!(" and {} more", samples.len() - NAMED)
    } else {
        String::new()
    };
    let (count, have) = if samples.len() == 1 {
        ("1 sample".to_owned(), "has")
    } else {
        (format!("{} samples", samples.len()), "have")
    };
    Error::input(format!(
        "cache {}: {count} of its data {have} changed since: {}{rest}",
        folder.display(),
        named.join(", ")
    ))
    .hint("`nst-cache extract` with the same arguments and --refresh recomputes exactly their rows")
}

/// The record on disk, as held by the writer.
#[derive(Debug)]
pub(super) struct StampRecord {
    stamps: Stamps,
    /// Whether writing is suspended until the end of a refresh.
    pub(super) held: bool,
}

impl StampRecord {
    /// Opens the record of a cache, or creates one. Traces of samples in no published segment are
    /// removed, a block that a kill left incomplete is cut off, and a damaged record counts as
    /// missing. `names` is empty for data that needs no record.
    pub(super) fn open(
        lock: &Lock,
        names: &[u64],
        is_published: impl Fn(usize) -> bool,
    ) -> Result<Option<Self>> {
        if names.is_empty() {
            return Ok(None);
        }
        let found = storage::read_bounded(&lock.folder().join(NAME), BYTES_MAX)?;
        let found = found.and_then(|bytes| decode(&bytes).ok());
        let mut stamps = found.as_ref().map(|(stamps, _)| stamps.clone()).unwrap_or_default();
        names.clone_into(&mut stamps.names);
        stamps.traces.retain(|&sample, _| is_published(sample));
        let record = Self { stamps, held: false };
        if found.is_none_or(|(found, whole)| !whole || found != record.stamps) {
            record.store(lock)?;
        }
        Ok(Some(record))
    }

    /// Adds traces of samples. Returns the samples that are already recorded with other content;
    /// then nothing is added.
    pub(super) fn add(&mut self, lock: &Lock, traces: &[(usize, Trace)]) -> Result<Vec<usize>> {
        let known = |(sample, _): &&(usize, Trace)| self.stamps.traces.get(sample);
        let changed: Vec<usize> = traces
            .iter()
            .filter(|t| known(t).is_some_and(|known| known.content != t.1.content))
            .map(|t| t.0)
            .collect();
        let new: Vec<(usize, Trace)> =
            traces.iter().filter(|t| known(t).is_none()).copied().collect();
        if !changed.is_empty() || new.is_empty() {
            return Ok(changed);
        }
        if !self.held {
            let path = lock.folder().join(NAME);
            let bytes = block(TRACES, new.len(), new.iter().flat_map(trace_bytes));
            let failed = |e| storage::failed(&path, "write", e);
            let mut file =
                storage::open_with(File::options().append(true), &path).map_err(failed)?;
            lock.check()?;
            file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(failed)?;
        }
        self.stamps.traces.extend(new);
        Ok(Vec::new())
    }

    /// Removes the traces of samples, in memory.
    pub(super) fn forget(&mut self, samples: &[usize]) {
        for sample in samples {
            self.stamps.traces.remove(sample);
        }
    }

    /// Replaces the traces of samples, in memory.
    pub(super) fn renew(&mut self, traces: &[(usize, Trace)]) {
        self.stamps.traces.extend(traces.iter().copied());
    }

    /// Writes the whole record.
    pub(super) fn store(&self, lock: &Lock) -> Result<()> {
        lock.replace(NAME, &encode(&self.stamps))
    }
}

fn encode(stamps: &Stamps) -> Vec<u8> {
    let names =
        block(NAMES, stamps.names.len(), stamps.names.iter().flat_map(|name| name.to_le_bytes()));
    let traces = stamps.traces.iter().map(|(&sample, &trace)| (sample, trace));
    let traces = block(TRACES, stamps.traces.len(), traces.flat_map(|t| trace_bytes(&t)));
    [names, traces].concat()
}

fn block(kind: u8, count: usize, body: impl Iterator<Item = u8>) -> Vec<u8> {
    let mut bytes = [MAGIC.as_slice(), &[kind], &(count as u64).to_le_bytes()].concat();
    bytes.extend(body);
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn trace_bytes((sample, Trace { stamp, content }): &(usize, Trace)) -> [u8; TRACE_BYTES] {
    let mut bytes = [0; TRACE_BYTES];
    let fields = [*sample as u64, stamp.size, stamp.modified.cast_unsigned(), stamp.inode];
    for (to, field) in bytes.chunks_exact_mut(8).zip(fields) {
        to.copy_from_slice(&field.to_le_bytes());
    }
    bytes[32..].copy_from_slice(&content.0);
    bytes
}

fn parse_trace(bytes: &[u8; TRACE_BYTES]) -> Option<(usize, Trace)> {
    let (words, content) = bytes.split_at(32);
    let [sample, size, modified, inode] = words.as_chunks::<8>().0 else { return None };
    let stamp = Stamp {
        size: u64::from_le_bytes(*size),
        modified: i64::from_le_bytes(*modified),
        inode: u64::from_le_bytes(*inode),
    };
    let content = ContentHash(content.try_into().ok()?);
    Some((usize::try_from(u64::from_le_bytes(*sample)).ok()?, Trace { stamp, content }))
}

/// The record, and whether it ends at the end of a block.
fn read(folder: &Path) -> Result<Option<(Stamps, bool)>> {
    let path = folder.join(NAME);
    let Some(bytes) = storage::read_bounded(&path, BYTES_MAX)? else { return Ok(None) };
    decode(&bytes)
        .map(Some)
        .map_err(|problem| Error::input(format!("{}: {problem}", path.display())))
}

fn decode(bytes: &[u8]) -> Result<(Stamps, bool), String> {
    let mut stamps = Stamps::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        let Some((head, _)) = rest.split_at_checked(HEAD) else { return Ok((stamps, false)) };
        let kind = head.strip_prefix(MAGIC).and_then(|rest| rest.first().copied());
        let width = match kind {
            Some(NAMES) => NAME_BYTES,
            Some(TRACES) => TRACE_BYTES,
            _ => return Err("damaged, or not an nst-cache record".to_owned()),
        };
        let count = head.last_chunk().map_or(0, |count| u64::from_le_bytes(*count));
        let length = usize::try_from(count)
            .ok()
            .and_then(|n| n.checked_mul(width))
            .and_then(|n| n.checked_add(HEAD));
        // the process was killed while it appended this block
        let Some((framed, next)) =
            length.and_then(|n| n.checked_add(CHECKSUM)).and_then(|n| rest.split_at_checked(n))
        else {
            return Ok((stamps, false));
        };
        let (block, sum) = framed.split_at(framed.len() - CHECKSUM);
        if crc32c::crc32c(block).to_le_bytes() != sum {
            return Err("damaged: checksum does not match".to_owned());
        }
        let body = block.get(HEAD..).unwrap_or_default();
        if kind == Some(NAMES) {
            stamps.names =
                body.as_chunks().0.iter().map(|name| u64::from_le_bytes(*name)).collect();
        } else {
            stamps.traces.extend(body.as_chunks().0.iter().filter_map(parse_trace));
        }
        rest = next;
    }
    Ok((stamps, true))
}

/// The problem with the record of a cache, if any. In an incomplete cache, the last block may be
/// incomplete.
pub(super) fn problem(folder: &Path, manifest: &Manifest) -> Option<Fault> {
    let bytes = match storage::try_read(&folder.join(NAME), BYTES_MAX) {
        Ok(bytes) => bytes?,
        Err(error) => return Some(error.into()),
    };
    match decode(&bytes) {
        Err(problem) => Some(Fault::Damaged(problem)),
        Ok((_, false)) if manifest.is_complete() => Some(Fault::Damaged("truncated".to_owned())),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Silent;

    fn trace(value: u8) -> Trace {
        Trace {
            stamp: Stamp { size: 7, modified: i64::from(value) - 9, inode: u64::MAX - 1 },
            content: ContentHash([value; 16]),
        }
    }

    #[test]
    fn added_traces_are_read_back_and_an_incomplete_block_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::exclusive(folder.path()).unwrap();
        let open = |names: &[u64]| StampRecord::open(&lock, names, |sample| sample != 9).unwrap();
        assert!(open(&[]).is_none() && !folder.path().join(NAME).exists());
        let mut record = open(&[3, 4]).unwrap();
        assert_eq!(
            record.add(&lock, &[(0, trace(1)), (9, trace(2))]).unwrap(),
            Vec::<usize>::new()
        );
        assert_eq!(
            record.add(&lock, &[(1, trace(3)), (0, trace(1))]).unwrap(),
            Vec::<usize>::new()
        );
        assert_eq!(
            record.add(&lock, &[(1, trace(4))]).unwrap(),
            [1],
            "it was read before, and other bytes"
        );
        let stamps = Stamps::load(folder.path()).unwrap().unwrap();
        assert_eq!(stamps, record.stamps);
        assert_eq!(stamps.moves(&[4, 5, 6]), Some(Moves { added: 2, removed: 1 }));

        let path = folder.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        let cut = whole.len() - 5;
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert!(!read(folder.path()).unwrap().unwrap().1);
        // the sample of no published segment and the incomplete block are gone
        let record = open(&[3, 4]).unwrap();
        assert_eq!(record.stamps.traces.keys().copied().collect::<Vec<_>>(), [0]);
        assert_eq!(read(folder.path()).unwrap(), Some((record.stamps, true)));
    }

    #[test]
    fn no_changed_byte_passes_and_no_count_is_believed() {
        let stamps = Stamps { names: vec![1, 2], traces: [(0, trace(1)), (1, trace(2))].into() };
        let sound = encode(&stamps);
        assert_eq!(decode(&sound), Ok((stamps.clone(), true)));
        for at in 0..sound.len() {
            let mut bad = sound.clone();
            bad[at] ^= 0x84;
            assert_ne!(decode(&bad), Ok((stamps.clone(), true)), "byte {at}");
        }
        let mut long = sound;
        long[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(decode(&long), Ok((Stamps::default(), false)));
    }

    /// A folder of `count` images of one size.
    fn images(folder: &Path, count: u8) -> Box<dyn Dataset> {
        std::fs::create_dir_all(folder.join("a")).unwrap();
        (0..count).for_each(|i| {
            std::fs::write(
                folder.join(format!("a/{i:03}.pgm")),
                [b"P5 1 1 255\n".as_slice(), &[i]].concat(),
            )
            .unwrap();
        });
        crate::data::open(&folder.display().to_string().parse().unwrap(), "train", &Silent).unwrap()
    }

    #[test]
    fn files_with_new_metadata_are_hashed_and_others_are_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let dataset = images(folder.path(), 200);
        let read = |i| Trace {
            stamp: dataset.stamp(i).unwrap().unwrap(),
            content: dataset.content(i).unwrap().unwrap(),
        };
        let mut stamps =
            Stamps { names: Vec::new(), traces: (0..200).map(|i| (i, read(i))).collect() };
        let samples: Vec<usize> = (0..200).collect();
        let compare = |stamps: &Stamps, all| {
            stamps.compare(dataset.as_ref(), &samples, all, &Silent).unwrap()
        };
        let found = compare(&stamps, false);
        assert_eq!(
            (found.changed.len(), found.restamped.len(), found.unknown.len(), found.drawn.len()),
            (0, 0, 0, OTHERS)
        );
        assert_ne!(found.drawn, compare(&stamps, false).drawn);

        let path = |i: usize| folder.path().join(format!("a/{i:03}.pgm"));
        // touched, replaced, gone
        let touch = |i: usize| {
            File::options().write(true).open(path(i)).unwrap().set_modified(UNIX_EPOCH).unwrap();
        };
        touch(5);
        std::fs::write(path(6), b"P5 1 1 255\n!").unwrap();
        std::fs::remove_file(path(7)).unwrap();
        stamps.traces.remove(&8);
        let found = compare(&stamps, false);
        assert_eq!(
            (found.changed, found.restamped, found.unknown),
            (vec![6, 7], vec![(5, read(5))], vec![8])
        );
        // only the bytes differ: found by the draw, or if all files are read
        let sly = read(10);
        stamps.traces.insert(10, Trace { content: ContentHash([0; 16]), ..sly });
        assert_eq!(compare(&stamps, true).changed, [6, 7, 10]);
        let seen = (0..60).filter(|_| compare(&stamps, false).changed.contains(&10)).count();
        // 64 of 197: 20 of 60 are expected, and none at all once in 10^10
        assert!((1..60).contains(&seen), "{seen}");
    }
}
