//! Checks everything a cache promises: manifest and its checksum, every zarr.json against the
//! manifest, every shard's checksum, index, chunks, finite values, stray files.

use super::shard::{Digest, Layout};
use super::{ArraySpec, Decoder, Manifest, document, extraction, file, manifest, stamps, zarr};
use crate::array::Dtype;
use crate::data::augment::{Parameter, View};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::recipe::Statistic;
use serde::Serialize;
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The file, relative to the cache.
    pub file: String,
    /// Rows concerned, `first..end` within the view, if it is about rows.
    pub rows: Option<(usize, usize)>,
    /// What is wrong.
    pub problem: String,
}

/// What a verification saw.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// Files read.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks decoded.
    pub chunks: usize,
    /// Whether every segment is published.
    pub complete: bool,
    /// What is wrong, by file and row; empty for a sound cache.
    pub findings: Vec<Finding>,
}

/// Reads and checks the whole cache on `threads` threads.
///
/// # Errors
/// When the folder is no cache, its manifest cannot be used at all, it is being written, or the
/// user asked to stop; everything else is a [`Finding`].
pub fn verify(folder: &Path, threads: usize, monitor: &dyn Monitor) -> Result<VerifyReport> {
    let _lock = file::lock_shared(folder)?;
    check(folder, &Manifest::load(folder)?, threads, monitor)
}

/// The same under a lock that the caller holds.
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
    if let Err(problem) = extraction::seconds(folder) {
        seen.found(extraction::NAME, None, problem.chain());
    }
    if let Some(problem) = stamps::problem(folder, manifest) {
        seen.found(stamps::NAME, None, problem);
    }

    monitor.begin("verify", "shards", shards.len() as u64, 0);
    let (next, total) = (AtomicUsize::new(0), Mutex::new(seen));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, shards.len().max(1)) {
            scope.spawn(|| {
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
        }
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
    layout: Layout,
    /// The first row of it.
    first: usize,
    /// Its length and digest, where the manifest has them.
    sum: Option<(u64, u32)>,
}

/// Every shard that the manifest promises: the row arrays' and those of published segments.
fn shards(manifest: &Manifest) -> Vec<Promise<'_>> {
    let row = |spec| Promise {
        path: zarr::row_shard(spec),
        spec,
        layout: manifest.row_layout(spec),
        first: 0,
        sum: None,
    };
    let mut shards: Vec<_> = manifest.row_arrays.iter().map(row).collect();
    for segment in &manifest.segments {
        let sums = segment.bytes.iter().copied().zip(segment.crc32c.iter().copied());
        shards.extend(manifest.view_arrays.iter().zip(sums).map(|(spec, sum)| Promise {
            path: zarr::view_shard(spec, segment.view, segment.index),
            spec,
            layout: manifest.view_layout(spec, segment.index),
            first: segment.index * manifest.segment_rows,
            sum: Some(sum),
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
    fn found(&mut self, file: &str, rows: Option<(usize, usize)>, problem: impl Into<String>) {
        self.findings.push(Finding { file: file.to_owned(), rows, problem: problem.into() });
    }

    fn add(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.chunks += other.chunks;
        self.findings.extend(other.findings);
    }
}

fn check_metadata(folder: &Path, path: &str, expected: &[u8], seen: &mut Seen) {
    match file::read_bounded(&folder.join(path), expected.len() as u64) {
        Ok(None) => seen.found(path, None, "missing"),
        Ok(Some(found)) => {
            seen.files += 1;
            seen.bytes += found.len() as u64;
            if found != expected {
                seen.found(path, None, "not what the manifest gives");
            }
        }
        Err(_) => seen.found(path, None, "unreadable, or longer than what the manifest gives"),
    }
}

/// Finds files that do not belong. In an incomplete cache, what an interrupted run leaves is no
/// finding: the next run sweeps it.
fn check_strays(
    folder: &Path,
    manifest: &Manifest,
    promised: &BTreeSet<&String>,
    seen: &mut Seen,
) -> Result<()> {
    file::walk(folder, &mut |path| {
        let path = path.to_owned();
        let unpublished = || {
            zarr::parse_view_shard(manifest, &path).is_some()
                || file::is_temporary(path.rsplit('/').next().unwrap_or(&path))
        };
        let left_over = !manifest.is_complete() && unpublished();
        let beside = [file::LOCK, document::NAME, extraction::NAME, stamps::NAME];
        if !beside.contains(&path.as_str()) && !promised.contains(&path) && !left_over {
            seen.found(&path, None, "does not belong to the cache");
        }
        Ok(())
    })
}

/// One checking thread: reads shards by chunk, so that memory does not grow with them, and a
/// failing disk is an error and no bus error.
#[derive(Default)]
struct Worker {
    decoder: Decoder,
    encoded: Vec<u8>,
    seen: Seen,
}

impl Worker {
    fn check(&mut self, folder: &Path, manifest: &Manifest, shard: &Promise<'_>) {
        let mut file = match File::open(folder.join(&shard.path)) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return self.seen.found(&shard.path, None, "missing");
            }
            Err(e) => return self.seen.found(&shard.path, None, format!("cannot be read: {e}")),
        };
        self.seen.files += 1;
        if let Err(problem) = self.check_file(&mut file, manifest, shard) {
            self.seen.found(&shard.path, None, problem);
        }
    }

    fn check_file(
        &mut self,
        file: &mut File,
        manifest: &Manifest,
        shard: &Promise<'_>,
    ) -> Result<(), String> {
        let unreadable = |e: std::io::Error| format!("cannot be read: {e}");
        let length = file.metadata().map_err(unreadable)?.len();
        if let Some((expected, _)) = shard.sum.filter(|(expected, _)| *expected != length) {
            return Err(format!("expected {expected} bytes, found {length}"));
        }
        let at = length.checked_sub(shard.layout.index_bytes() as u64).ok_or("truncated")?;
        file.seek(SeekFrom::Start(at)).map_err(unreadable)?;
        let mut index = vec![0; shard.layout.index_bytes()];
        file.read_exact(&mut index).map_err(unreadable)?;
        let bounds = shard.layout.parse_index(&index, length)?;

        file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        let known = self.seen.findings.len();
        let (mut digest, mut values) = (Digest::default(), RowValues::default());
        for (chunk, pair) in bounds.windows(2).enumerate() {
            let &[begin, end] = pair else { continue };
            // bounded: `parse_index` lets no chunk be longer than zstd can make it
            self.encoded.resize(usize::try_from(end - begin).map_err(|e| e.to_string())?, 0);
            file.read_exact(&mut self.encoded).map_err(unreadable)?;
            digest.add(&self.encoded);
            self.seen.bytes += end - begin;
            self.seen.chunks += 1;
            self.check_chunk(manifest, shard, chunk, &mut values);
        }
        self.seen.bytes += index.len() as u64;
        digest.add(&index);
        // a damaged chunk is named above, by its rows; here it is a sound shard that is another
        // one's
        let named = self.seen.findings.len() > known;
        if shard.sum.is_some_and(|(_, expected)| expected != digest.value()) && !named {
            return Err("sound, but not the shard that was published".to_owned());
        }
        Ok(())
    }

    /// Checks the chunk in `encoded`.
    fn check_chunk(
        &mut self,
        manifest: &Manifest,
        shard: &Promise<'_>,
        chunk: usize,
        values: &mut RowValues,
    ) {
        let rows = shard.layout.rows_of(chunk);
        let within_view = Some((shard.first + rows.0, shard.first + rows.1));
        let decoded = match self.decoder.chunk(&shard.layout, &self.encoded) {
            Ok(decoded) => decoded,
            Err(problem) => return self.seen.found(&shard.path, within_view, problem),
        };
        let row_bytes = shard.spec.row_bytes();
        for (row, bytes) in decoded.chunks_exact(row_bytes).take(rows.1 - rows.0).enumerate() {
            let row = shard.first + rows.0 + row;
            let problem = if shard.sum.is_none() {
                values.check(manifest, shard.spec, bytes)
            } else {
                wrong_values(manifest, shard.spec, bytes)
            };
            if let Some(problem) = problem {
                self.seen.found(&shard.path, Some((row, row + 1)), problem);
            }
        }
    }
}

/// What was met so far of a row array.
#[derive(Default)]
struct RowValues {
    seen: HashSet<i64>,
}

impl RowValues {
    /// A sample index is one of the data set's, each once; a label is a class, or −1.
    fn check(&mut self, manifest: &Manifest, spec: &ArraySpec, bytes: &[u8]) -> Option<String> {
        let value = i64::from_le_bytes(*bytes.first_chunk()?);
        if spec.path == manifest::LABEL {
            let classes = i64::try_from(manifest.data.classes.len()).unwrap_or(i64::MAX);
            return (value < -1 || classes > 0 && value >= classes)
                .then(|| format!("label {value}: expected −1 to {}", classes - 1));
        }
        let samples = i64::try_from(manifest.data.fingerprint.samples).unwrap_or(i64::MAX);
        if !(0..samples).contains(&value) {
            return Some(format!("sample {value}: expected 0 to {}", samples - 1));
        }
        (!self.seen.insert(value)).then(|| format!("sample {value}: there twice"))
    }
}

/// What is wrong with a row of a view array: a value that is not finite, a view's parameter outside
/// its range, or a sign past the last activation.
fn wrong_values(manifest: &Manifest, spec: &ArraySpec, bytes: &[u8]) -> Option<String> {
    if let Some((alias, Statistic::Sign)) = Statistic::of_path(&spec.path) {
        let activations = manifest.map(alias)?.activations()?;
        let used = u32::try_from(activations % 8).unwrap_or(0);
        let padding = if used == 0 { 0 } else { bytes.last().map_or(0, |last| last >> used) };
        return (padding != 0).then(|| {
            format!("expected 0 in the bits past the {activations} activations, found {padding:#b}")
        });
    }
    let parameter = manifest.augment.as_ref().and_then(|_| Parameter::named(&spec.path));
    match parameter {
        Some(parameter) => parameter.read(bytes, manifest.rows, &mut View::default()).err(),
        None => not_finite(spec.dtype, bytes),
    }
}

/// Says so if a value is NaN or infinite, which shows in its exponent: all ones.
fn not_finite(dtype: Dtype, bytes: &[u8]) -> Option<String> {
    // folds without an early exit, so that they vectorise
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
            return Some("a truth value is neither 0 nor 1".to_owned());
        }
        _ => false,
    };
    bad.then(|| "a value is NaN or infinite".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::{Codec, Plan, Writer, testing};
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
        file::walk(folder.path(), &mut |path| {
            files += usize::from(path != file::LOCK);
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
                &["zarr.json None not what the manifest gives"],
            ),
            (
                |f| fs::remove_file(f.join("logits/c/1/2/0")).unwrap(),
                &["logits/c/1/2/0 None missing"],
            ),
            (
                |f| fs::write(f.join("taps/notes.txt"), b"").unwrap(),
                &["taps/notes.txt None does not belong to the cache"],
            ),
            (
                |f| fs::write(f.join("input/.0.tmp"), b"").unwrap(),
                &["input/.0.tmp None does not belong to the cache"],
            ),
            (
                |f| flip(&f.join("logits/c/1/1/0"), 2),
                &["logits/c/1/1/0 Some((4, 5)) chunk checksum does not match"],
            ),
            (
                |f| flip(&f.join("label/c/0"), 2),
                &["label/c/0 Some((0, 4)) chunk checksum does not match"],
            ),
            (|f| fs::write(f.join("label/c/0"), b"").unwrap(), &["label/c/0 None truncated"]),
            // both are whole and sound, but each in the other's place
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
    fn values_that_cannot_be_are_named_by_row() {
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
                format!("sample_id/c/0 Some((7, 8)) sample {}: there twice", plan.sample_ids[1]),
                "taps/conv/features/c/0/2/0/0/0 Some((8, 9)) a value is NaN or infinite".to_owned(),
            ]
        );
    }

    #[test]
    fn an_incomplete_cache_is_sound_with_what_a_kill_left_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let plan: Plan = testing::plan(10, 2, Codec::Zstd);
        let mut writer = Writer::open(folder.path(), &plan).unwrap();
        testing::publish(&mut writer, 0, 1).unwrap();
        assert!(
            verify(folder.path(), 1, &Silent).unwrap_err().to_string().contains("being written")
        );
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
    fn signs_past_the_last_activation_and_statistics_that_are_no_numbers_are_named_by_row() {
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
