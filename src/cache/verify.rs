//! Checks everything that a cache promises: the manifest and its checksum, every `zarr.json`
//! against the manifest, every shard's digest, index, chunks and values, and stray files.

use super::read::{WRONG_SHARD, wrong_value};
use super::shard::{Digest, Fault, ShardLayout, Sum};
use super::{ArraySpec, Decoder, Manifest, document, extraction, logits, manifest, stamps, zarr};
use crate::array::Dtype;
use crate::data::augment::{Parameter, View};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::statistic::{Statistic, TopPart};
use crate::storage::{self, Lock};
use crate::threads;
use serde::Serialize;
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Number of wrong rows per chunk that are named; the others are counted.
const ROWS_NAMED: usize = 64;

/// One problem with a cache.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The file, relative to the cache.
    pub file: String,
    /// The affected rows, `first..end` within the view, if the problem concerns rows.
    pub rows: Option<(usize, usize)>,
    /// The problem, in words.
    pub problem: String,
    /// Whether the system could not read the file, so that its state is unknown.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unreadable: bool,
}

/// The result of a verification.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// Number of files read.
    pub files: usize,
    /// Number of bytes read.
    pub bytes: u64,
    /// Number of chunks decoded.
    pub chunks: usize,
    /// Whether every segment is published.
    pub complete: bool,
    /// The problems, sorted by file and row; empty for an intact cache.
    pub findings: Vec<Finding>,
}

/// Reads and checks the whole cache on `threads` threads.
///
/// # Errors
/// If the folder is not a cache, its manifest is unusable, it is being written, or the user asked
/// to stop; everything else is a [`Finding`].
pub fn verify(folder: &Path, threads: usize, monitor: &dyn Monitor) -> Result<VerifyReport> {
    let lock = Lock::shared(folder)?;
    let report = check(folder, &Manifest::load(folder)?, threads, monitor)?;
    // so that everything read belongs to one cache
    lock.as_ref().map_or(Ok(()), Lock::check)?;
    Ok(report)
}

/// Like [`verify`], under a lock that the caller holds.
pub(super) fn check(
    folder: &Path,
    manifest: &Manifest,
    threads: usize,
    monitor: &dyn Monitor,
) -> Result<VerifyReport> {
    let metadata = zarr::documents(manifest)?;
    let shards = shards(manifest);

    let mut seen =
        Seen { files: 1, bytes: document::encode(manifest)?.len() as u64, ..Seen::default() };
    for (path, expected) in &metadata {
        check_metadata(folder, path, expected, &mut seen);
    }
    let promised = metadata.keys().chain(shards.iter().map(|s| &s.path)).collect();
    check_strays(folder, manifest, &promised, &mut seen)?;
    let side_files = [
        (extraction::NAME, extraction::problem(folder)),
        (stamps::NAME, stamps::problem(folder, manifest)),
    ];
    for (name, fault) in side_files {
        if let Some(fault) = fault {
            seen.found(name, None, &fault);
        }
    }

    monitor.begin("verify", "shards", shards.len() as u64, 0);
    let (next, total) = (AtomicUsize::new(0), Mutex::new(seen));
    threads::share(threads.min(shards.len()), || {
        let mut worker = Worker::default();
        while let Some(shard) = shards.get(next.fetch_add(1, Ordering::Relaxed)) {
            if monitor.stop_requested() {
                break;
            }
            let before = worker.seen.bytes;
            worker.check(folder, manifest, shard);
            monitor.advance(1, worker.seen.bytes - before);
        }
        total.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(worker.seen);
    });
    monitor.end();
    if monitor.stop_requested() {
        return Err(Error::interrupted("verify: stopped before the end"));
    }
    let mut seen = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    seen.findings.sort();
    Ok(VerifyReport {
        files: seen.files,
        bytes: seen.bytes,
        chunks: seen.chunks,
        complete: manifest.is_complete(),
        findings: seen.findings,
    })
}

/// A shard that the manifest promises.
struct Promise<'a> {
    path: String,
    spec: &'a ArraySpec,
    layout: ShardLayout,
    /// Its first row within the view.
    first: usize,
    /// Its length and digest, if the manifest has them.
    sum: Option<Sum>,
    /// Whether it belongs to a row array.
    is_row: bool,
}

/// Every shard that the manifest promises: those of row arrays and of published segments.
fn shards(manifest: &Manifest) -> Vec<Promise<'_>> {
    let row_shard = |spec: &'_ ArraySpec| {
        let (spec, sum) = manifest.row_array(&spec.path)?;
        let (path, layout) = (zarr::row_shard(spec), manifest.row_layout(spec));
        Some(Promise { path, spec, layout, first: 0, sum, is_row: true })
    };
    let mut shards: Vec<_> = manifest.row_arrays.iter().filter_map(row_shard).collect();
    for segment in &manifest.segments {
        let published = manifest.view_arrays.iter().take(segment.bytes.len()).enumerate();
        shards.extend(published.map(|(array, spec)| Promise {
            path: zarr::view_shard(spec, segment.view, segment.index),
            spec,
            layout: manifest.view_layout(spec, segment.index),
            first: segment.index * manifest.segment_rows,
            sum: segment.sum(array),
            is_row: false,
        }));
    }
    shards
}

#[derive(Default)]
struct Seen {
    files: usize,
    bytes: u64,
    chunks: usize,
    findings: Vec<Finding>,
}

impl Seen {
    fn found(&mut self, file: &str, rows: Option<(usize, usize)>, fault: &Fault) {
        let (problem, unreadable) = (fault.to_string(), matches!(fault, Fault::Unreadable(_)));
        self.findings.push(Finding { file: file.to_owned(), rows, problem, unreadable });
    }

    fn add(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.chunks += other.chunks;
        self.findings.extend(other.findings);
    }
}

fn check_metadata(folder: &Path, path: &str, expected: &[u8], seen: &mut Seen) {
    let read = || -> Result<Vec<u8>, Fault> {
        let mut found = Vec::new();
        let limit = expected.len() as u64 + 1;
        storage::open(&folder.join(path))?.take(limit).read_to_end(&mut found)?;
        Ok(found)
    };
    let fault = match read() {
        Ok(found) => {
            seen.files += 1;
            seen.bytes += found.len() as u64;
            if found == expected {
                return;
            }
            Fault::Damaged("does not match the manifest".to_owned())
        }
        Err(fault) => fault,
    };
    seen.found(path, None, &fault);
}

/// Reports files that do not belong to the cache. In an incomplete cache, files left by an
/// interrupted run are not reported: the next run sweeps them.
fn check_strays(
    folder: &Path,
    manifest: &Manifest,
    promised: &BTreeSet<&String>,
    seen: &mut Seen,
) -> Result<()> {
    storage::walk(folder, &mut |path| {
        let path = path.to_owned();
        // a kill may leave one at any moment, and the next writer sweeps it
        let is_draft = storage::is_temporary(path.rsplit('/').next().unwrap_or(&path));
        let is_leftover =
            || !manifest.is_complete() && zarr::parse_view_shard(manifest, &path).is_some();
        let fixed = [storage::LOCK, document::NAME, extraction::NAME, stamps::NAME];
        let belongs = fixed.contains(&path.as_str()) || promised.contains(&path) || is_draft;
        if !belongs && !is_leftover() {
            seen.found(&path, None, &Fault::Damaged("does not belong to the cache".to_owned()));
        }
        Ok(())
    })
}

/// One checking thread. It reads shards chunk by chunk, so that memory does not grow with them and
/// a failing disk causes an error and not a bus error.
#[derive(Default)]
struct Worker {
    decoder: Decoder,
    encoded: Vec<u8>,
    seen: Seen,
}

impl Worker {
    fn check(&mut self, folder: &Path, manifest: &Manifest, shard: &Promise<'_>) {
        let opened = storage::open(&folder.join(&shard.path)).map_err(Fault::from);
        let checked = opened.and_then(|mut file| {
            self.seen.files += 1;
            self.check_file(&mut file, manifest, shard)
        });
        if let Err(fault) = checked {
            self.seen.found(&shard.path, None, &fault);
        }
    }

    fn check_file(
        &mut self,
        file: &mut File,
        manifest: &Manifest,
        shard: &Promise<'_>,
    ) -> Result<(), Fault> {
        let length = file.metadata()?.len();
        if let Some(Sum { bytes, .. }) = shard.sum.filter(|sum| sum.bytes != length) {
            return Err(format!("expected {bytes} bytes, found {length}").into());
        }
        let index_bytes = shard.layout.index_bytes() as u64;
        let index_start = length.checked_sub(index_bytes).ok_or_else(|| "truncated".to_owned())?;
        file.seek(SeekFrom::Start(index_start))?;
        let (bounds, stored) = shard.layout.read_index(BufReader::new(&mut *file), length)?;

        file.seek(SeekFrom::Start(0))?;
        let findings_before = self.seen.findings.len();
        let (mut digest, mut samples) = (Digest::default(), HashSet::new());
        for (chunk, pair) in bounds.windows(2).enumerate() {
            let &[begin, end] = pair else { continue };
            // bounded: `read_index` rejects chunks longer than zstd can produce, or than the file
            let bytes = usize::try_from(end - begin).map_err(|e| e.to_string())?;
            self.encoded.clear();
            self.encoded.try_reserve(bytes).map_err(|e| Fault::Unreadable(e.into()))?;
            self.encoded.resize(bytes, 0);
            file.read_exact(&mut self.encoded)?;
            digest.add(&self.encoded);
            self.seen.bytes += end - begin;
            self.seen.chunks += 1;
            self.check_chunk(manifest, shard, chunk, &mut samples)?;
        }
        self.seen.bytes += index_bytes;
        digest.add(&stored);
        // damaged chunks are already reported by row; without any, this is an intact but wrong
        // shard
        let has_damaged_chunks = self.seen.findings.len() > findings_before;
        if shard.sum.is_some_and(|sum| sum.crc32c != digest.value()) && !has_damaged_chunks {
            return Err(WRONG_SHARD.to_owned().into());
        }
        Ok(())
    }

    /// Checks the chunk in `self.encoded`.
    fn check_chunk(
        &mut self,
        manifest: &Manifest,
        shard: &Promise<'_>,
        chunk: usize,
        samples: &mut HashSet<i64>,
    ) -> Result<(), Fault> {
        let rows = shard.layout.rows_of(chunk);
        let within_view = Some((shard.first + rows.0, shard.first + rows.1));
        let decoded = match self.decoder.chunk(&shard.layout, &self.encoded) {
            Ok(decoded) => decoded,
            Err(fault @ Fault::Unreadable(_)) => return Err(fault),
            Err(fault) => {
                self.seen.found(&shard.path, within_view, &fault);
                return Ok(());
            }
        };
        let row_bytes = shard.spec.row_bytes();
        let mut wrong = 0;
        for (row, bytes) in decoded.chunks_exact(row_bytes).take(rows.1 - rows.0).enumerate() {
            let row = shard.first + rows.0 + row;
            let problem = match bytes.first_chunk() {
                Some(value) if shard.is_row => {
                    let (path, value) = (&shard.spec.path, i64::from_le_bytes(*value));
                    let is_new = path != manifest::SAMPLE_ID || samples.insert(value);
                    wrong_value(manifest, path, value)
                        .or_else(|| (!is_new).then(|| format!("sample {value}: appears twice")))
                }
                _ => wrong_values(manifest, shard.spec, bytes),
            };
            if let Some(problem) = problem {
                wrong += 1;
                if wrong <= ROWS_NAMED {
                    self.seen.found(&shard.path, Some((row, row + 1)), &problem.into());
                }
            }
        }
        if wrong > ROWS_NAMED {
            let rest = format!("{} more rows are wrong", wrong - ROWS_NAMED);
            self.seen.found(&shard.path, within_view, &rest.into());
        }
        Ok(())
    }
}

/// The problem with a row of a view array, if any: a value that is not finite, a view parameter out
/// of range, a sign bit past the last activation, or sparse logits that are no part of a
/// distribution.
fn wrong_values(manifest: &Manifest, spec: &ArraySpec, bytes: &[u8]) -> Option<String> {
    if let Some((alias, Statistic::Sign)) = Statistic::of_path(&spec.path) {
        let activations = manifest.map(alias)?.activations()?;
        let used = u32::try_from(activations % 8).unwrap_or(0);
        let padding = if used == 0 { 0 } else { bytes.last().map_or(0, |last| last >> used) };
        return (padding != 0).then(|| {
            format!("expected 0 in the bits past the {activations} activations, found {padding:#b}")
        });
    }
    if let Some(part) = TopPart::of_path(&spec.path)
        && let Some(top) = manifest.top()
    {
        return not_finite(spec.dtype, bytes)
            .or_else(|| logits::wrong(part, spec.dtype, top, bytes));
    }
    let parameter = manifest.augment.as_ref().and_then(|_| Parameter::named(&spec.path));
    match parameter {
        Some(parameter) => parameter.read(bytes, manifest.rows, &mut View::default()).err(),
        None => not_finite(spec.dtype, bytes),
    }
}

/// Reports a NaN or infinite value, whose exponent bits are all ones.
fn not_finite(dtype: Dtype, bytes: &[u8]) -> Option<String> {
    // folds without an early exit, so that they vectorize
    let bad = match dtype {
        Dtype::F16 => bytes
            .as_chunks()
            .0
            .iter()
            .fold(false, |bad, b| bad | (u16::from_le_bytes(*b) & 0x7c00 == 0x7c00)),
        Dtype::F32 => bytes
            .as_chunks()
            .0
            .iter()
            .fold(false, |bad, b| bad | (u32::from_le_bytes(*b) & 0x7f80_0000 == 0x7f80_0000)),
        Dtype::F64 => bytes
            .as_chunks()
            .0
            .iter()
            .fold(false, |bad, b| bad | !f64::from_le_bytes(*b).is_finite()),
        Dtype::BF16 => bytes
            .as_chunks()
            .0
            .iter()
            .fold(false, |bad, b| bad | (u16::from_le_bytes(*b) & 0x7f80 == 0x7f80)),
        Dtype::Bool if bytes.iter().any(|&b| b > 1) => {
            return Some("a boolean is neither 0 nor 1".to_owned());
        }
        _ => false,
    };
    bad.then(|| "a value is NaN or infinite".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::{CachePlan, Codec, Writer, testing};
    use super::*;
    use crate::monitor::Silent;
    use std::fs;

    /// A complete cache of ten rows and two views.
    fn cache() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        testing::write(folder.path(), &testing::plan(10, 2, Codec::Zstd)).unwrap();
        folder
    }

    fn findings(folder: &Path) -> Vec<String> {
        let report = verify(folder, 3, &Silent).unwrap();
        let line = |f: &Finding| format!("{} {:?} {}", f.file, f.rows, f.problem);
        report.findings.iter().map(line).collect()
    }

    #[test]
    fn a_sound_cache_has_no_findings_and_every_byte_is_counted() {
        let folder = cache();
        let report = verify(folder.path(), 2, &Silent).unwrap();
        assert_eq!((report.findings, report.complete), (Vec::new(), true));
        let (mut files, mut bytes) = (0, 0);
        storage::walk(folder.path(), &mut |path| {
            files += usize::from(path != storage::LOCK);
            bytes += fs::metadata(folder.path().join(path)).unwrap().len();
            Ok(())
        })
        .unwrap();
        assert_eq!((report.files, report.bytes), (files, bytes));
        // 3 chunks a row array; a view has 5 chunks of images, 3 of masks, 10 of logits, 5 of
        // features
        assert_eq!(report.chunks, 2 * 3 + 2 * (5 + 3 + 10 + 5));
    }

    #[test]
    fn each_kind_of_damage_is_named() {
        type Damage = fn(&Path);
        let cases: [(Damage, &[&str]); 9] = [
            (
                |f| fs::remove_file(f.join("taps/zarr.json")).unwrap(),
                &["taps/zarr.json None missing"],
            ),
            (
                |f| fs::write(f.join("zarr.json"), b"{}").unwrap(),
                &["zarr.json None does not match the manifest"],
            ),
            (
                |f| fs::remove_file(f.join("logits/c/1/2/0")).unwrap(),
                &["logits/c/1/2/0 None missing"],
            ),
            (
                |f| fs::write(f.join("taps/notes.txt"), b"").unwrap(),
                &["taps/notes.txt None does not belong to the cache"],
            ),
            // the next writer sweeps it
            (|f| fs::write(f.join("input/.0.0123456789abcdef.tmp"), b"").unwrap(), &[]),
            (
                |f| flip(&f.join("logits/c/1/1/0"), 2),
                &["logits/c/1/1/0 Some((4, 5)) chunk checksum does not match"],
            ),
            (
                |f| flip(&f.join("label/c/0"), 2),
                &["label/c/0 Some((0, 4)) chunk checksum does not match"],
            ),
            (
                |f| fs::write(f.join("label/c/0"), b"").unwrap(),
                &["label/c/0 None expected 157 bytes, found 0"],
            ),
            // both are complete and intact, but swapped
            (
                |f| {
                    let (a, b) = (f.join("inputs/mask/c/0/0"), f.join("inputs/mask/c/0/1"));
                    let (bytes_a, bytes_b) = (fs::read(&a).unwrap(), fs::read(&b).unwrap());
                    assert_eq!(bytes_a.len(), bytes_b.len());
                    fs::write(&a, bytes_b).unwrap();
                    fs::write(&b, bytes_a).unwrap();
                },
                &[
                    "inputs/mask/c/0/0 None sound, but not the shard",
                    "inputs/mask/c/0/1 None sound, but not the shard",
                ],
            ),
        ];
        for (index, (damage, expected)) in cases.into_iter().enumerate() {
            let folder = cache();
            damage(folder.path());
            let found = findings(folder.path());
            assert_eq!(found.len(), expected.len(), "case {index}: {found:?}");
            assert!(
                found.iter().zip(expected).all(|(f, e)| f.starts_with(e)),
                "case {index}: {found:?}"
            );
        }
    }

    fn flip(path: &Path, at: usize) {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn impossible_values_are_named_by_row() {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = testing::plan(10, 1, Codec::Raw);
        plan.labels[9] = 3;
        plan.labels[2] = -2;
        plan.sample_ids[5] = 100;
        plan.sample_ids[7] = plan.sample_ids[1];
        let mut writer = Writer::open(folder.path(), &plan).unwrap();
        let mut shards = writer.segment(0, 2).unwrap();
        for (index, spec) in plan.manifest.view_arrays.iter().enumerate() {
            let mut bytes = testing::rows(spec, 0, 8..10);
            match spec.dtype {
                Dtype::F32 => bytes[20..24].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes()),
                Dtype::F16 => bytes[2..4].copy_from_slice(&half::f16::NAN.to_le_bytes()),
                _ => {}
            }
            shards.append(index, &bytes).unwrap();
        }
        writer.publish(shards).unwrap();
        drop(writer);
        assert_eq!(
            findings(folder.path()),
            [
                "label/c/0 Some((2, 3)) label -2: expected −1 to 2".to_owned(),
                "label/c/0 Some((9, 10)) label 3: expected −1 to 2".to_owned(),
                "logits/c/0/2/0 Some((9, 10)) a value is NaN or infinite".to_owned(),
                "sample_id/c/0 Some((5, 6)) sample 100: expected 0 to 99".to_owned(),
                format!("sample_id/c/0 Some((7, 8)) sample {}: appears twice", plan.sample_ids[1]),
                "taps/conv/features/c/0/2/0/0/0 Some((8, 9)) a value is NaN or infinite".to_owned(),
            ]
        );
    }

    #[test]
    fn an_incomplete_cache_is_intact_despite_leftovers_of_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        let plan: CachePlan = testing::plan(10, 2, Codec::Zstd);
        let mut writer = Writer::open(folder.path(), &plan).unwrap();
        testing::publish(&mut writer, 0, 1).unwrap();
        let error = verify(folder.path(), 1, &Silent).unwrap_err().to_string();
        assert!(error.contains("in use by pid"), "{error}");
        drop(writer);
        fs::create_dir_all(folder.path().join("logits/c/1/0")).unwrap();
        fs::write(folder.path().join("logits/c/1/0/.0.tmp"), b"x").unwrap();
        fs::write(folder.path().join("logits/c/1/0/0"), b"x").unwrap();
        let report = verify(folder.path(), 1, &Silent).unwrap();
        assert_eq!((report.findings, report.complete), (Vec::new(), false));
        fs::write(folder.path().join("logits/c/1/0/1"), b"x").unwrap();
        assert_eq!(findings(folder.path()), ["logits/c/1/0/1 None does not belong to the cache"]);
    }

    #[test]
    fn parameters_of_views_outside_their_range_are_named_by_row() {
        let folder = tempfile::tempdir().unwrap();
        let plan = testing::plan_of(testing::augmented(10, 2, Codec::Raw));
        let mut writer = Writer::open(folder.path(), &plan).unwrap();
        let mut shards = writer.segment(1, 2).unwrap();
        for (index, spec) in plan.manifest.view_arrays.iter().enumerate() {
            let mut bytes = testing::rows(spec, 1, 8..10);
            match spec.path.as_str() {
                "flip" => bytes[1] = 7,
                "partner" => bytes[..8].copy_from_slice(&10i64.to_le_bytes()),
                "mix" => bytes[4..].copy_from_slice(&1.25f32.to_le_bytes()),
                _ => {}
            }
            shards.append(index, &bytes).unwrap();
        }
        writer.publish(shards).unwrap();
        drop(writer);
        let expected = [
            "flip/c/1/2 Some((9, 10)) flip 7: expected 0 or 1",
            "mix/c/1/2 Some((9, 10)) mix 1.25: expected a share of 0 to 1",
            "partner/c/1/2 Some((8, 9)) partner 10: expected a row below 10",
        ];
        assert_eq!(findings(folder.path()), expected);
    }

    #[test]
    fn sign_bits_past_the_last_activation_and_nan_statistics_are_named_by_row() {
        let folder = tempfile::tempdir().unwrap();
        let plan = testing::plan_of(testing::statistics(Codec::Raw));
        testing::write(folder.path(), &plan).unwrap();
        assert_eq!(findings(folder.path()), Vec::<String>::new());
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(folder.path(), &plan).unwrap();
        let mut shards = writer.segment(1, 1).unwrap();
        for (index, spec) in plan.manifest.view_arrays.iter().enumerate() {
            let mut bytes = testing::rows(spec, 1, 4..6);
            match spec.path.as_str() {
                "taps/conv/gram" => bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes()),
                "taps/conv/sign" => bytes[3] |= 0x50,
                _ => {}
            }
            shards.append(index, &bytes).unwrap();
        }
        writer.publish(shards).unwrap();
        drop(writer);
        let expected = [
            "taps/conv/gram/c/1/1/0 Some((4, 5)) a value is NaN or infinite",
            "taps/conv/sign/c/1/1/0 Some((5, 6)) expected 0 in the bits past the 12 activations, \
             found 0b101",
        ];
        assert_eq!(findings(folder.path()), expected);
    }

    #[test]
    fn no_cache_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(verify(folder.path(), 1, &Silent).is_err());
    }
}
