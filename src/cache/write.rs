//! Writing a cache: lock, resume check, segments streamed into temporary shards, published by
//! rename, committed by the manifest.

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

/// What is known of the time that a cache takes.
#[derive(Debug, Clone, Copy)]
struct Clock {
    /// Seconds of the runs before this one.
    before: f64,
    /// When this one began.
    started: Instant,
}

/// A cache open for writing, under an exclusive file lock.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    manifest: Manifest,
    clock: Option<Clock>,
    /// What samples were read from, where that is recorded.
    record: Option<StampRecord>,
    lock: Lock,
}

impl Writer {
    /// Creates the cache, or resumes one that was made with the same settings: everything in the
    /// manifest but segments, the teacher's file name and top-1, the data's name and the skipped
    /// samples, and the row arrays' values. The plan may have more views, and more taps and view
    /// arrays after those that are there: published shards stay as they are. Where it says that
    /// rows may have moved, segments of other rows count as not published. Temporary and
    /// unpublished files of an interrupted run are swept; a shard that is gone or another one than
    /// was published counts as not published, with those of the arrays after it, to be written
    /// again. Where views or arrays are added to a complete cache, it can be read meanwhile.
    ///
    /// # Errors
    /// When the folder holds a cache of other settings (names the first difference), another
    /// process uses it, the folder holds something else, or nothing can be written.
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

    /// What is complete, to be read while the lock is held.
    ///
    /// # Errors
    /// As [`Cache::open`].
    pub fn read(&self) -> Result<Cache> {
        Cache::map(&self.folder)
    }

    /// The manifest as committed.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Records, with each segment from now on, that this run of the extraction began at `started`:
    /// its time is added to that of the runs before. A cache that was begun without a record gets
    /// none, which would be of a part of it.
    ///
    /// # Errors
    /// When the record cannot be begun.
    pub fn count_from(&mut self, started: Instant) -> Result<()> {
        let mut recorded = extraction::seconds_if_whole(&self.folder)?;
        if recorded.is_none() && self.manifest.segments.is_empty() {
            // before the first segment: killed between the two, the next run would find a cache
            // without a record
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

    /// Starts a segment: one temporary shard for each array that is not published.
    ///
    /// # Errors
    /// When there is no such segment or it is published, or the files cannot be made.
    pub fn segment(&self, view: usize, segment: usize) -> Result<SegmentWriter> {
        if view >= self.manifest.views
            || segment >= self.manifest.segments_per_view()
            || self.has(view, segment)
        {
            return Err(Error::input(format!(
                "view {view}, segment {segment}: there is no such segment, or it is published"
            )));
        }
        let all = self.manifest.view_arrays.len();
        self.begin(view, segment, self.manifest.published_arrays(view, segment)..all)
    }

    /// Starts a published segment anew: one temporary shard for each array that is published.
    ///
    /// # Errors
    /// When it is not published, or the files cannot be made.
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
        // built up in place: what is begun is removed when a later file cannot be made
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

    /// Publishes a finished segment: syncs and renames its shards, syncs their folders, then
    /// commits the manifest that lists them.
    ///
    /// # Errors
    /// When rows are missing, or the disk refuses. The manifest then stands as before.
    pub fn publish(&mut self, mut segment: SegmentWriter) -> Result<()> {
        let key = (segment.view, segment.segment);
        let empty = || Segment { view: key.0, index: key.1, bytes: Vec::new(), crc32c: Vec::new() };
        let mut record = self.manifest.segment(key.0, key.1).cloned().unwrap_or_else(empty);
        if record.bytes.len() != segment.first {
            return Err(Error::input(format!(
                "view {}, segment {}: published already",
                key.0, key.1
            )));
        }
        self.sums(&segment, &mut record)?;
        self.put(&mut segment, record)
    }

    /// Publishes a segment in the place of one that is published, in the same arrays
    /// ([`Writer::replacement`]): that one leaves the manifest first, so that whatever the manifest
    /// lists is whole at any moment.
    ///
    /// # Errors
    /// As [`Writer::publish`]; the segment may then be missing.
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

    /// Takes segments out of the manifest; their shards are swept when the cache is next opened, or
    /// written over.
    ///
    /// # Errors
    /// When the manifest cannot be written.
    pub fn unpublish(&mut self, keys: &BTreeSet<(usize, usize)>) -> Result<()> {
        let mut next = self.manifest.clone();
        next.segments.retain(|s| !keys.contains(&(s.view, s.index)));
        if next == self.manifest {
            return Ok(());
        }
        self.lock.keep_readers_out()?;
        self.commit(next)
    }

    /// Stores an array of features as f32 that was f16: it comes after all others, of which nothing
    /// is lost, and is published nowhere.
    ///
    /// # Errors
    /// When there is no such array, or the disk refuses.
    pub fn widen(&mut self, path: &str) -> Result<()> {
        let next = widened(&self.manifest, path);
        let next = next.ok_or_else(|| {
            Error::input(format!("cache {}: no array `{path}` of f16", self.folder.display()))
        })?;
        self.lock.keep_readers_out()?;
        // one commit: a run that is killed after it finds the array as one that is being added
        self.commit(next)?;
        sweep(&self.lock, &self.manifest)?;
        write_documents(&self.lock, zarr::documents(&self.manifest)?)
    }

    /// Records what samples were read from, for the segments that are published next. Gives those
    /// that are recorded as read from other bytes; then nothing is recorded.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn record(&mut self, traces: &[(usize, Trace)]) -> Result<Vec<usize>> {
        self.record.as_mut().map_or(Ok(Vec::new()), |record| record.add(&self.lock, traces))
    }

    /// Takes in the stamps that unchanged samples have now.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn renew(&mut self, traces: &[(usize, Trace)]) -> Result<()> {
        let Some(record) = self.record.as_mut().filter(|_| !traces.is_empty()) else {
            return Ok(());
        };
        record.renew(traces);
        if record.held { Ok(()) } else { record.store(&self.lock) }
    }

    /// Begins a refresh: what is recorded of these samples is void, and the record on disk stays as
    /// it is until [`Writer::refreshed`], so that a refresh which is killed is one that is still to
    /// be done.
    pub fn refresh(&mut self, changed: &[usize]) {
        if let Some(record) = &mut self.record {
            record.forget(changed);
            record.held = true;
        }
    }

    /// Says that the cache is one of the data as it is now.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn relist(&mut self, fingerprint: &Fingerprint) -> Result<()> {
        let mut next = self.manifest.clone();
        next.data.fingerprint = fingerprint.clone();
        if next == self.manifest { Ok(()) } else { self.commit(next) }
    }

    /// Ends a refresh: the cache is one of the data as it is now.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn refreshed(&mut self, fingerprint: &Fingerprint) -> Result<()> {
        self.relist(fingerprint)?;
        let Some(record) = &mut self.record else { return Ok(()) };
        record.held = false;
        record.store(&self.lock)
    }

    /// Length and digest of each shard of a segment that has all its rows.
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

    /// Syncs and renames a segment's shards, and commits its record.
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
            Ok(at) => next.segments[at] = record,
            Err(at) => next.segments.insert(at, record),
        }
        self.commit(next)?;
        match self.clock {
            Some(Clock { before, started }) => {
                extraction::store(&self.lock, before + started.elapsed().as_secs_f64())
            }
            None => Ok(()),
        }
    }

    /// Records the teacher's accuracy over all rows (basis points) and commits.
    ///
    /// # Errors
    /// When the manifest cannot be written.
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

/// A segment being written. Send: it may be filled on another thread. Dropped unpublished, it
/// removes its files.
pub struct SegmentWriter {
    view: usize,
    segment: usize,
    /// The first array that is written; those before it are published.
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

/// A draft that is written to.
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
    /// Appends rows to one view array (index into `manifest.view_arrays`): `bytes` holds whole
    /// rows, little-endian. Chunks are compressed and written as they fill; with its last row the
    /// shard is complete. Returns the bytes written to disk by this call.
    ///
    /// # Errors
    /// When `bytes` is not whole rows, the segment overflows, or the disk refuses.
    pub fn append(&mut self, array: usize, bytes: &[u8]) -> Result<u64> {
        let (view, segment) = (self.view, self.segment);
        let Some(Unpublished { writer, row_bytes }) =
            array.checked_sub(self.first).and_then(|at| self.shards.get_mut(at))
        else {
            return Err(Error::input(format!(
                "view {view}, segment {segment}: there is no array {array}, or it is published"
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

/// Refuses a folder that has no manifest but other files: it is somebody's.
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

/// Refuses a cache in which a link leads to anything but a file: what is written or removed through
/// one is somebody else's, and what lies behind one that leads nowhere now is not lost.
pub(super) fn refuse_links(folder: &Path) -> Result<()> {
    storage::walk(folder, &mut |path| {
        let at = folder.join(path);
        let unseen = |e| storage::failed(&at, "examine", e);
        if !fs::symlink_metadata(&at).map_err(unseen)?.is_symlink()
            || fs::metadata(&at).is_ok_and(|target| target.is_file())
        {
            return Ok(());
        }
        Err(Error::input(format!(
            "{}: a link that leads to no file; nothing is written through it",
            at.display()
        ))
        .hint("put there what it is to lead to, or remove it"))
    })
}

/// Whether a sample's row is published in any view. A mixed row is of two samples, of which one
/// alone stands in it: there, all count.
fn published_samples(manifest: &Manifest, sample_ids: &[i64]) -> impl Fn(usize) -> bool {
    let mixes = manifest.augment.as_ref().is_some_and(crate::data::Augmentation::mixes);
    let rows = manifest.segments.iter().flat_map(|segment| manifest.row_range(segment.index));
    let samples: BTreeSet<i64> = rows.filter_map(|row| sample_ids.get(row).copied()).collect();
    move |sample| mixes || i64::try_from(sample).is_ok_and(|sample| samples.contains(&sample))
}

/// A manifest in which an array of features in f16 comes after all others, in f32, and is published
/// nowhere.
fn widened(manifest: &Manifest, path: &str) -> Option<Manifest> {
    let mut next = manifest.clone();
    let at =
        next.view_arrays.iter().position(|spec| spec.path == path && spec.dtype == Dtype::F16)?;
    let mut spec = next.view_arrays.remove(at);
    spec.dtype = Dtype::F32;
    spec.chunk_rows = super::chunk_rows(spec.row_bytes(), next.segment_rows);
    next.view_arrays.push(spec);
    for segment in &mut next.segments {
        if at < segment.bytes.len() {
            segment.bytes.remove(at);
            segment.crc32c.remove(at);
        }
    }
    next.segments.retain(|segment| !segment.bytes.is_empty());
    // taps stand in the order of their first arrays
    let arrays = &next.view_arrays;
    let first = |alias: &str| {
        arrays
            .iter()
            .position(|spec| Statistic::of_path(&spec.path).is_some_and(|(of, _)| of == alias))
    };
    next.taps.sort_by_key(|tap| first(&tap.alias));
    Some(next)
}

/// Removes what an interrupted run left: temporary files, and shards that no manifest lists.
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

/// Removes folders that hold nothing any more.
pub(super) fn remove_empty(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
            // refused where it holds something
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Replaces the files that are not there as they should be.
pub(super) fn write_documents(lock: &Lock, files: Files) -> Result<()> {
    let mut other = Vec::new();
    for (path, bytes) in files {
        let at = lock.folder().join(&path);
        match storage::try_read(&at, bytes.len() as u64) {
            Ok(found) if found.as_ref() == Some(&bytes) => {}
            Err(e) if e.kind() != ErrorKind::FileTooLarge => {
                return Err(storage::failed(&at, "read", e));
            }
            _ => other.push((path, bytes)),
        }
    }
    threads::at_once(&other, |(path, bytes)| lock.replace(path, bytes))?;
    let paths: Vec<PathBuf> = other.iter().map(|(path, _)| lock.folder().join(path)).collect();
    storage::sync_dirs_between(lock.folder(), paths.iter().map(PathBuf::as_path))
}

#[cfg(test)]
mod tests;
