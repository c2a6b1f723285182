//! Writes a cache: takes the lock, resumes what exists, streams segments into temporary shards,
//! publishes them by rename, and commits them with the manifest.

use super::plan::{CachePlan, Files};
use super::resume::resume;
use super::shard::{Encoder, ShardWriter, Sum};
use super::stamps::StampRecord;
use super::{Cache, Manifest, Segment, document, extraction, zarr};
use crate::array::Dtype;
use crate::data::{Fingerprint, Trace};
use crate::error::{Context, Error, Result};
use crate::statistic::Statistic;
use crate::storage::{self, Draft, Lock};
use crate::threads;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Measures the time that an extraction takes.
#[derive(Debug, Clone, Copy)]
struct Clock {
    /// Seconds of all earlier runs.
    before: f64,
    /// The start of this run.
    started: Instant,
}

/// A cache open for writing, under an exclusive file lock.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    manifest: Manifest,
    clock: Option<Clock>,
    /// The record of what samples were read from, if it is kept.
    record: Option<StampRecord>,
    lock: Lock,
}

impl Writer {
    /// Creates the cache, or resumes one that was made with the same settings: the same values of
    /// the row arrays, and the same manifest except for segments, the teacher's file name and top-1
    /// accuracy, the data's name and the skipped samples. The plan may have more views, and more
    /// taps and view arrays after the existing ones; published shards stay as they are. If the plan
    /// says that rows may have moved, segments with other rows count as unpublished. Temporary and
    /// unpublished files of an interrupted run are swept. A shard that is missing or not the
    /// published one counts as unpublished, along with those of the arrays after it, and is
    /// rewritten. A complete cache can be read while views or arrays are added to it.
    ///
    /// # Errors
    /// If the folder holds a cache with other settings (names the first difference) or other files,
    /// another process is using it, or it cannot be written.
    pub fn open(folder: &Path, plan: &CachePlan) -> Result<Self> {
        plan.validate()?;
        refuse_foreign(folder)?;
        let mut lock = Lock::create(folder)?;
        refuse_links(folder)?;
        let (rows, row_sums) = plan.encode_rows()?;
        let mut wanted = Manifest { row_sums, ..plan.manifest.clone() };
        wanted.settle();
        let manifest = if let Some(found) = document::load(folder)? {
            resume(&lock, wanted, plan, &found)?
        } else {
            document::store(&lock, &wanted)?;
            wanted
        };
        sweep(&lock, &manifest)?;
        write_documents(&lock, zarr::documents(&manifest)?.into_iter().chain(rows).collect())?;
        let is_published = published_samples(&manifest, &plan.sample_ids);
        let record = StampRecord::open(&lock, &plan.names, is_published)?;
        if manifest.extends.is_some() {
            lock.let_readers_in()?;
        }
        Ok(Self { folder: folder.to_owned(), manifest, clock: None, record, lock })
    }

    /// Opens the complete part of the cache for reading, while this writer holds the lock.
    ///
    /// # Errors
    /// As [`Cache::open`].
    pub fn read(&self) -> Result<Cache> {
        Cache::map(&self.folder)
    }

    /// The committed manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// From now on, records the extraction time with each segment: that of earlier runs plus the
    /// time since `started`. A cache that was begun without a record gets none, since it would be
    /// partial.
    ///
    /// # Errors
    /// If the record cannot be created.
    pub fn count_from(&mut self, started: Instant) -> Result<()> {
        let mut recorded = extraction::seconds_if_whole(&self.folder)?;
        if recorded.is_none() && self.manifest.segments.is_empty() {
            // before the first segment: after a kill between the two, the next run would find
            // segments without a record
            extraction::store(&self.lock, 0.0)?;
            recorded = Some(0.0);
        }
        self.clock = recorded.map(|before| Clock { before, started });
        Ok(())
    }

    /// Whether a segment is published in all arrays.
    #[must_use]
    pub fn has(&self, view: usize, segment: usize) -> bool {
        self.manifest.published_arrays(view, segment) == self.manifest.view_arrays.len()
    }

    /// Starts a segment, with one temporary shard for each unpublished array.
    ///
    /// # Errors
    /// If there is no such segment, it is already published, or the files cannot be created.
    pub fn segment(&self, view: usize, segment: usize) -> Result<SegmentWriter> {
        if view >= self.manifest.views
            || segment >= self.manifest.segments_per_view()
            || self.has(view, segment)
        {
            return Err(Error::input(format!(
                "view {view}, segment {segment}: there is no such segment, or it is already \
                 published"
            )));
        }
        let all = self.manifest.view_arrays.len();
        self.begin(view, segment, self.manifest.published_arrays(view, segment)..all)
    }

    /// Starts a replacement for a published segment, with one temporary shard for each published
    /// array.
    ///
    /// # Errors
    /// If the segment is not published, or the files cannot be created.
    pub fn replacement(&self, view: usize, segment: usize) -> Result<SegmentWriter> {
        let published = self.manifest.published_arrays(view, segment);
        if published == 0 {
            return Err(Error::input(format!(
                "view {view}, segment {segment}: it is not published"
            )));
        }
        self.begin(view, segment, 0..published)
    }

    fn begin(&self, view: usize, segment: usize, arrays: Range<usize>) -> Result<SegmentWriter> {
        let encoder = Encoder::new().context(|| "zstd: cannot start".to_owned())?;
        // filled in place, so that earlier files are removed if a later one cannot be created
        let first = arrays.start;
        let missing = self.manifest.view_arrays.get(arrays).unwrap_or_default();
        let mut begun = SegmentWriter {
            view,
            segment,
            first,
            encoder,
            shards: Vec::with_capacity(missing.len()),
        };
        for spec in missing {
            let target = self.folder.join(zarr::view_shard(spec, view, segment));
            self.lock.create_dirs(target.parent().unwrap_or(&self.folder))?;
            let out = Out(Draft::new(&target)?);
            begun.shards.push(Unpublished {
                writer: ShardWriter::new(self.manifest.view_layout(spec, segment), out),
                row_bytes: spec.row_bytes(),
            });
        }
        Ok(begun)
    }

    /// Publishes a finished segment: syncs and renames its shards, syncs their folders, and commits
    /// the manifest that lists them.
    ///
    /// # Errors
    /// If rows are missing, or an I/O operation fails. The manifest is then unchanged.
    pub fn publish(&mut self, mut segment: SegmentWriter) -> Result<()> {
        let key = (segment.view, segment.segment);
        let unpublished =
            || Segment { view: key.0, index: key.1, bytes: Vec::new(), crc32c: Vec::new() };
        let mut record = self.manifest.segment(key.0, key.1).cloned().unwrap_or_else(unpublished);
        if record.bytes.len() != segment.first {
            return Err(Error::input(format!(
                "view {}, segment {}: already published",
                key.0, key.1
            )));
        }
        self.sums(&segment, &mut record)?;
        self.put(&mut segment, record)
    }

    /// Publishes a replacement ([`Writer::replacement`]) for a published segment. The old one is
    /// removed from the manifest first, so that everything the manifest lists is whole at any
    /// moment.
    ///
    /// # Errors
    /// As for [`Writer::publish`]; the segment may then be missing.
    pub fn replace(&mut self, mut segment: SegmentWriter) -> Result<()> {
        let key = (segment.view, segment.segment);
        let mut record =
            Segment { view: key.0, index: key.1, bytes: Vec::new(), crc32c: Vec::new() };
        if segment.first != 0
            || segment.shards.len() != self.manifest.published_arrays(key.0, key.1)
        {
            return Err(Error::input(format!(
                "view {}, segment {}: expected every published array of it",
                key.0, key.1
            )));
        }
        self.sums(&segment, &mut record)?;
        self.unpublish(&BTreeSet::from([key]))?;
        self.put(&mut segment, record)
    }

    /// Removes segments from the manifest. Their shards are swept when the cache is next opened for
    /// writing, or overwritten.
    ///
    /// # Errors
    /// If the manifest cannot be written.
    pub fn unpublish(&mut self, keys: &BTreeSet<(usize, usize)>) -> Result<()> {
        let mut next = self.manifest.clone();
        next.segments.retain(|s| !keys.contains(&(s.view, s.index)));
        if next == self.manifest {
            return Ok(());
        }
        self.lock.keep_readers_out()?;
        self.commit(next)
    }

    /// Changes an array of features from f16 to f32. The array moves behind all others, which keep
    /// their shards, and becomes unpublished.
    ///
    /// # Errors
    /// If there is no such array, or an I/O operation fails.
    pub fn widen(&mut self, path: &str) -> Result<()> {
        let next = widened(&self.manifest, path);
        let next = next.ok_or_else(|| {
            Error::input(format!("cache {}: no array `{path}` of f16", self.folder.display()))
        })?;
        self.lock.keep_readers_out()?;
        // one commit: after a kill, the array is found as one that is being added
        self.commit(next)?;
        sweep(&self.lock, &self.manifest)?;
        write_documents(&self.lock, zarr::documents(&self.manifest)?)
    }

    /// Records what samples were read from, for the segments that are published next. Returns the
    /// samples that are already recorded with other bytes; then nothing is recorded.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn record(&mut self, traces: &[(usize, Trace)]) -> Result<Vec<usize>> {
        self.record.as_mut().map_or(Ok(Vec::new()), |record| record.add(&self.lock, traces))
    }

    /// Updates the stamps of samples whose content is unchanged.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn renew(&mut self, traces: &[(usize, Trace)]) -> Result<()> {
        let Some(record) = self.record.as_mut().filter(|_| !traces.is_empty()) else {
            return Ok(());
        };
        record.renew(traces);
        if record.held { Ok(()) } else { record.store(&self.lock) }
    }

    /// Begins a refresh: discards the traces of these samples, but leaves the record on disk
    /// unchanged until [`Writer::refreshed`], so that a killed refresh is still detected as
    /// pending.
    pub fn refresh(&mut self, changed: &[usize]) {
        if let Some(record) = &mut self.record {
            record.forget(changed);
            record.held = true;
        }
    }

    /// Records the current fingerprint of the data.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn relist(&mut self, fingerprint: &Fingerprint) -> Result<()> {
        let mut next = self.manifest.clone();
        next.data.fingerprint = fingerprint.clone();
        if next == self.manifest { Ok(()) } else { self.commit(next) }
    }

    /// Ends a refresh: records the current fingerprint and stamps of the data.
    ///
    /// # Errors
    /// If an I/O operation fails.
    pub fn refreshed(&mut self, fingerprint: &Fingerprint) -> Result<()> {
        self.relist(fingerprint)?;
        let Some(record) = &mut self.record else { return Ok(()) };
        record.held = false;
        record.store(&self.lock)
    }

    /// Adds the length and digest of each shard of a segment to `record`; fails if rows are
    /// missing.
    fn sums(&self, segment: &SegmentWriter, record: &mut Segment) -> Result<()> {
        for (shard, spec) in
            segment.shards.iter().zip(self.manifest.view_arrays.iter().skip(segment.first))
        {
            let missing = shard.writer.missing_rows();
            if missing > 0 {
                let (view, index) = (segment.view, segment.segment);
                return Err(Error::input(format!(
                    "view {view}, segment {index}: array `{}` lacks {missing} rows",
                    spec.path
                )));
            }
            let Sum { bytes, crc32c } = shard.writer.sum();
            record.bytes.push(bytes);
            record.crc32c.push(crc32c);
        }
        Ok(())
    }

    /// Syncs and renames a segment's shards, then commits its record.
    fn put(&mut self, segment: &mut SegmentWriter, record: Segment) -> Result<()> {
        let key = (segment.view, segment.segment);
        threads::at_once(&segment.shards, |shard| shard.draft().sync())?;
        for shard in &mut segment.shards {
            self.lock.rename(&mut shard.writer.get_mut().0)?;
        }
        let targets = segment.shards.iter().map(|shard| shard.draft().target());
        storage::sync_dirs_between(&self.folder, targets)?;
        let mut next = self.manifest.clone();
        match next.segments.binary_search_by_key(&key, |s| (s.view, s.index)) {
            Ok(index) => next.segments[index] = record,
            Err(index) => next.segments.insert(index, record),
        }
        self.commit(next)?;
        match self.clock {
            Some(Clock { before, started }) => {
                extraction::store(&self.lock, before + started.elapsed().as_secs_f64())
            }
            None => Ok(()),
        }
    }

    /// Records the teacher's top-1 accuracy over all rows, in basis points, and commits it.
    ///
    /// # Errors
    /// If the manifest cannot be written.
    pub fn finish(&mut self, top1_basis_points: Option<u32>) -> Result<()> {
        let mut next = self.manifest.clone();
        next.teacher.top1_basis_points = top1_basis_points;
        if next == self.manifest { Ok(()) } else { self.commit(next) }
    }

    fn commit(&mut self, mut next: Manifest) -> Result<()> {
        next.settle();
        document::store(&self.lock, &next)?;
        self.manifest = next;
        Ok(())
    }
}

/// A segment being written, possibly on another thread. Its files are removed if it is dropped
/// unpublished.
pub struct SegmentWriter {
    view: usize,
    segment: usize,
    /// The first array to be written; those before it are already published.
    first: usize,
    encoder: Encoder,
    shards: Vec<Unpublished>,
}

impl std::fmt::Debug for SegmentWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentWriter")
            .field("view", &self.view)
            .field("segment", &self.segment)
            .finish_non_exhaustive()
    }
}

/// One shard of a segment in its temporary file.
struct Unpublished {
    writer: ShardWriter<Out>,
    row_bytes: usize,
}

impl Unpublished {
    fn draft(&self) -> &Draft {
        &self.writer.get_ref().0
    }
}

/// Lets a draft be written through [`std::io::Write`].
struct Out(Draft);

impl std::io::Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.file().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.file().flush()
    }
}

impl SegmentWriter {
    /// Appends rows to one view array (an index into `manifest.view_arrays`). `bytes` holds whole
    /// rows, little-endian. Chunks are compressed and written as they fill, and the last row
    /// completes the shard. Returns the number of bytes that this call wrote to disk.
    ///
    /// # Errors
    /// If `bytes` is not a whole number of rows, the segment overflows, or writing fails.
    pub fn append(&mut self, array: usize, bytes: &[u8]) -> Result<u64> {
        let (view, segment) = (self.view, self.segment);
        let Some(Unpublished { writer, row_bytes }) =
            array.checked_sub(self.first).and_then(|index| self.shards.get_mut(index))
        else {
            return Err(Error::input(format!(
                "view {view}, segment {segment}: there is no array {array}, or it is already \
                 published"
            )));
        };
        let (rows, missing) = (bytes.len() / *row_bytes, writer.missing_rows());
        if !bytes.len().is_multiple_of(*row_bytes) || rows > missing {
            return Err(Error::input(format!(
                "view {view}, segment {segment}, array {array}: expected up to {missing} rows of \
                 {row_bytes} bytes, found {} bytes",
                bytes.len()
            )));
        }
        if rows == 0 {
            return Ok(0);
        }
        let before = writer.sum().bytes;
        let appended = writer.append(&mut self.encoder, bytes);
        appended.map_err(|e| storage::failed(writer.get_ref().0.temporary(), "write", e))?;
        Ok(writer.sum().bytes - before)
    }
}

/// Refuses a folder that has files but no manifest: they are somebody else's.
fn refuse_foreign(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(storage::failed(folder, "list", e)),
    };
    let mut foreign = None;
    for entry in entries {
        let name = entry
            .map_err(|e| storage::failed(folder, "list", e))?
            .file_name()
            .to_string_lossy()
            .into_owned();
        if name == document::NAME {
            return Ok(());
        }
        if name != storage::LOCK && !storage::is_temporary(&name) {
            foreign = foreign.into_iter().chain([name]).min();
        }
    }
    match foreign {
        None => Ok(()),
        Some(name) => Err(Error::input(format!(
            "{}: expected a cache or an empty folder, found `{name}`",
            folder.display()
        ))
        .hint("choose another folder with -o")),
    }
}

/// Refuses a cache with a link to anything but a file. Writing or removing through such a link
/// would affect somebody else's files, and the target of a broken link may only be unavailable.
pub(super) fn refuse_links(folder: &Path) -> Result<()> {
    storage::walk(folder, &mut |path| {
        let full = folder.join(path);
        let unseen = |e| storage::failed(&full, "examine", e);
        if !fs::symlink_metadata(&full).map_err(unseen)?.is_symlink()
            || fs::metadata(&full).is_ok_and(|target| target.is_file())
        {
            return Ok(());
        }
        Err(Error::input(format!(
            "{}: a link that leads to no file; nothing is written through it",
            full.display()
        ))
        .hint("restore the link's target, or remove the link"))
    })
}

/// Returns a predicate: whether a sample's row is published in any view. With mixing, a row depends
/// on a second sample too, so every sample counts as published.
fn published_samples(manifest: &Manifest, sample_ids: &[i64]) -> impl Fn(usize) -> bool {
    let mixes = manifest.augment.as_ref().is_some_and(crate::data::Augmentation::mixes);
    let rows = manifest.segments.iter().flat_map(|segment| manifest.row_range(segment.index));
    let samples: BTreeSet<i64> = rows.filter_map(|row| sample_ids.get(row).copied()).collect();
    move |sample| mixes || i64::try_from(sample).is_ok_and(|sample| samples.contains(&sample))
}

/// The manifest after an f16 array of features becomes f32, moves behind all others, and becomes
/// unpublished.
fn widened(manifest: &Manifest, path: &str) -> Option<Manifest> {
    let mut next = manifest.clone();
    let index =
        next.view_arrays.iter().position(|spec| spec.path == path && spec.dtype == Dtype::F16)?;
    let mut spec = next.view_arrays.remove(index);
    spec.dtype = Dtype::F32;
    spec.chunk_rows = super::chunk_rows(spec.row_bytes(), next.segment_rows);
    next.view_arrays.push(spec);
    for segment in &mut next.segments {
        if index < segment.bytes.len() {
            segment.bytes.remove(index);
            segment.crc32c.remove(index);
        }
    }
    next.segments.retain(|segment| !segment.bytes.is_empty());
    // taps are in the order of their first arrays
    let arrays = &next.view_arrays;
    let first_array = |alias: &str| {
        arrays.iter().position(|spec| {
            Statistic::of_path(&spec.path).is_some_and(|(owner, _)| owner == alias)
        })
    };
    next.taps.sort_by_key(|tap| first_array(&tap.alias));
    Some(next)
}

/// Removes what an interrupted run left: temporary files, and shards that the manifest does not
/// list.
pub(super) fn sweep(lock: &Lock, manifest: &Manifest) -> Result<()> {
    let mut removed = Vec::new();
    storage::walk(lock.folder(), &mut |path| {
        let name = path.rsplit('/').next().unwrap_or(path);
        let unpublished =
            zarr::parse_view_shard(manifest, path).is_some_and(|(array, view, segment)| {
                array >= manifest.published_arrays(view, segment)
            });
        if storage::is_temporary(name) || unpublished {
            removed.push(lock.folder().join(path));
            lock.remove(path)?;
        }
        Ok(())
    })?;
    storage::sync_dirs_between(lock.folder(), removed.iter().map(PathBuf::as_path))
}

/// Removes empty folders.
pub(super) fn remove_empty(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
            // fails if the folder is not empty
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Writes the files that are missing or differ.
pub(super) fn write_documents(lock: &Lock, files: Files) -> Result<()> {
    let mut stale = Vec::new();
    for (path, bytes) in files {
        let full = lock.folder().join(&path);
        match storage::try_read(&full, bytes.len() as u64) {
            Ok(found) if found.as_ref() == Some(&bytes) => {}
            Err(e) if e.kind() != ErrorKind::FileTooLarge => {
                return Err(storage::failed(&full, "read", e));
            }
            _ => stale.push((path, bytes)),
        }
    }
    threads::at_once(&stale, |(path, bytes)| lock.replace(path, bytes))?;
    let paths: Vec<PathBuf> = stale.iter().map(|(path, _)| lock.folder().join(path)).collect();
    storage::sync_dirs_between(lock.folder(), paths.iter().map(PathBuf::as_path))
}

#[cfg(test)]
mod tests;
