//! Writing a cache: lock, resume check, segments streamed into temporary shards, published by
//! rename, committed by the manifest.

use super::shard::{Encoder, ShardWriter};
use super::stamps::Record;
use super::{ArraySpec, Manifest, Segment, document, extraction, file, manifest, read, zarr};
use crate::array::Dtype;
use crate::data::{Fingerprint, Trace};
use crate::error::{Context, Error, Result};
use crate::recipe::Statistic;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a cache is to become: a manifest without segments, and the row arrays' values.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Everything but `segments` (empty).
    pub manifest: Manifest,
    /// `sample_id`: index in the data set, in row order.
    pub sample_ids: Vec<i64>,
    /// `label`, −1 unlabelled, in row order.
    pub labels: Vec<i64>,
    /// The sample ids of a cache that is there, where they may be others: the segments whose rows
    /// stay the same are kept.
    pub before: Option<Vec<i64>>,
    /// A hash of each sample's name ([`crate::data::hashed_names`]); none where nothing is recorded
    /// of what samples are read from.
    pub names: Vec<u64>,
}

impl Plan {
    fn validate(&self) -> Result<()> {
        let rows = self.manifest.rows;
        self.manifest.validate().context(|| "plan of the cache".to_owned())?;
        if self.sample_ids.len() != rows
            || self.labels.len() != rows
            || !self.manifest.segments.is_empty()
        {
            return Err(Error::input(format!(
                "plan of the cache: expected {rows} sample ids, {rows} labels and no segment, \
                 found {}, {} and {}",
                self.sample_ids.len(),
                self.labels.len(),
                self.manifest.segments.len()
            )));
        }
        Ok(())
    }

    /// The values of the row array of this path.
    fn row_values(&self, path: &str) -> &[i64] {
        if path == manifest::LABEL { &self.labels } else { &self.sample_ids }
    }
}

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
    record: Option<Record>,
    /// Holds the lock until the writer is dropped.
    _lock: File,
}

impl Writer {
    /// Creates the cache, or resumes one that was made with the same settings: everything in the
    /// manifest but segments, the teacher's file name and top-1, the data's name and the skipped
    /// samples, and the row arrays' values. The plan may have more views, and more taps and view
    /// arrays after those that are there: published shards stay as they are. Where it says that
    /// rows may have moved, segments of other rows count as not published. Temporary and
    /// unpublished files of an interrupted run are swept; a shard that is gone or of another length
    /// counts as not published, with those of the arrays after it, to be written again.
    ///
    /// # Errors
    /// When the folder holds a cache of other settings (names the first difference), another
    /// process uses it, the folder holds something else, or nothing can be written.
    pub fn open(folder: &Path, plan: &Plan) -> Result<Self> {
        plan.validate()?;
        refuse_foreign(folder)?;
        file::create_dirs(folder)?;
        let lock = file::lock_exclusive(folder)?;
        let manifest = if let Some(found) = document::load(folder)? {
            resume(folder, plan, &found)?
        } else {
            document::store(folder, &plan.manifest)?;
            plan.manifest.clone()
        };
        sweep(folder, &manifest)?;
        write_metadata(folder, &manifest, plan)?;
        let record =
            Record::open(folder, &plan.names, published_samples(&manifest, &plan.sample_ids))?;
        Ok(Self { folder: folder.to_owned(), manifest, clock: None, record, _lock: lock })
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
        let mut recorded = extraction::seconds(&self.folder).ok().flatten();
        if recorded.is_none() && self.manifest.segments.is_empty() {
            // before the first segment: killed between the two, the next run would find a cache
            // without a record
            extraction::store(&self.folder, 0.0)?;
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
            let temporary = file::temporary(&target);
            file::create_dirs(temporary.parent().unwrap_or(&self.folder))?;
            let out = File::create(&temporary).map_err(|e| file::failed(&temporary, "write", e))?;
            begun.shards.push(Draft {
                writer: ShardWriter::new(self.manifest.view_layout(spec, segment), out),
                row_bytes: spec.row_bytes(),
                temporary,
                target,
            });
        }
        Ok(begun)
    }

    /// Publishes a finished segment: syncs and renames its shards, syncs their folders, then
    /// commits the manifest that lists them.
    ///
    /// # Errors
    /// When rows are missing, or the disk refuses. The manifest then stands as before.
    #[allow(clippy::needless_pass_by_value, reason = "a published segment takes no more rows")]
    pub fn publish(&mut self, segment: SegmentWriter) -> Result<()> {
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
        self.put(&segment, record)
    }

    /// Publishes a segment in the place of one that is published, in the same arrays
    /// ([`Writer::replacement`]): that one leaves the manifest first, so that whatever the manifest
    /// lists is whole at any moment.
    ///
    /// # Errors
    /// As [`Writer::publish`]; the segment may then be missing.
    #[allow(clippy::needless_pass_by_value, reason = "a published segment takes no more rows")]
    pub fn replace(&mut self, segment: SegmentWriter) -> Result<()> {
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
        self.put(&segment, record)
    }

    /// Takes segments out of the manifest; their shards are swept when the cache is next opened, or
    /// written over.
    ///
    /// # Errors
    /// When the manifest cannot be written.
    pub fn unpublish(&mut self, keys: &BTreeSet<(usize, usize)>) -> Result<()> {
        let mut next = self.manifest.clone();
        next.segments.retain(|s| !keys.contains(&(s.view, s.index)));
        if next == self.manifest { Ok(()) } else { self.commit(next) }
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
        // one commit: a run that is killed after it finds the array as one that is being added
        self.commit(next)?;
        sweep(&self.folder, &self.manifest)?;
        write_documents(&self.folder, zarr::documents(&self.manifest)?)
    }

    /// Records what samples were read from, for the segments that are published next. Gives those
    /// that are recorded as read from other bytes; then nothing is recorded.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn record(&mut self, traces: &[(usize, Trace)]) -> Result<Vec<usize>> {
        self.record.as_mut().map_or(Ok(Vec::new()), |record| record.add(&self.folder, traces))
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
        if record.held { Ok(()) } else { record.store(&self.folder) }
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
        record.store(&self.folder)
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
            let (bytes, crc32c) = shard.writer.sum();
            record.bytes.push(bytes);
            record.crc32c.push(crc32c);
        }
        Ok(())
    }

    /// Syncs and renames a segment's shards, and commits its record.
    fn put(&mut self, segment: &SegmentWriter, record: Segment) -> Result<()> {
        let key = (segment.view, segment.segment);
        file::at_once(&segment.shards, |shard| {
            shard
                .writer
                .get_ref()
                .sync_all()
                .map_err(|e| file::failed(&shard.temporary, "write", e))?;
            fs::rename(&shard.temporary, &shard.target)
                .map_err(|e| file::failed(&shard.target, "rename into place", e))
        })?;
        file::sync_dirs_between(&self.folder, segment.shards.iter().map(|s| s.target.as_path()))?;
        let mut next = self.manifest.clone();
        match next.segments.binary_search_by_key(&key, |s| (s.view, s.index)) {
            Ok(at) => next.segments[at] = record,
            Err(at) => next.segments.insert(at, record),
        }
        self.commit(next)?;
        match self.clock {
            Some(Clock { before, started }) => {
                extraction::store(&self.folder, before + started.elapsed().as_secs_f64())
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

    fn commit(&mut self, next: Manifest) -> Result<()> {
        document::store(&self.folder, &next)?;
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
    shards: Vec<Draft>,
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
struct Draft {
    writer: ShardWriter<File>,
    row_bytes: usize,
    temporary: PathBuf,
    target: PathBuf,
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
        let Some(Draft { writer, row_bytes, temporary, .. }) =
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
        let (before, _) = writer.sum();
        writer.append(&mut self.encoder, bytes).map_err(|e| file::failed(temporary, "write", e))?;
        Ok(writer.sum().0 - before)
    }
}

impl Drop for SegmentWriter {
    fn drop(&mut self) {
        for shard in &self.shards {
            // published ones are renamed; one that stays is swept when the cache is opened again
            let _ = fs::remove_file(&shard.temporary);
        }
    }
}

/// Refuses a folder that has no manifest but other files: it is somebody's.
fn refuse_foreign(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(file::failed(folder, "list", e)),
    };
    let mut foreign = None;
    for entry in entries {
        let name = entry
            .map_err(|e| file::failed(folder, "list", e))?
            .file_name()
            .to_string_lossy()
            .into_owned();
        if name == document::NAME {
            return Ok(());
        }
        if name != file::LOCK && !file::is_temporary(&name) {
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

/// The manifest to go on from, if the cache was made by the same settings; it is committed where it
/// has more than the one that is there.
fn resume(folder: &Path, plan: &Plan, found: &Manifest) -> Result<Manifest> {
    let refused = |field: String, expected: String, found: String| {
        Error::input(format!(
            "cache {}: made with another {field}: expected {expected}, found {found}",
            folder.display()
        ))
        .hint("choose another folder with -o, or remove this one")
    };
    let mut within = within(&plan.manifest, found);
    let before = plan.before.as_deref().filter(|before| before.len() == found.rows);
    if before.is_some() {
        within.rows = found.rows;
    }
    if let Some((field, expected, found)) = document::difference(&within, found) {
        return Err(refused(field, expected, found));
    }
    // of the rows that are published: the others may be those of a run that was killed while it
    // moved them
    let published: BTreeSet<usize> = found.segments.iter().map(|segment| segment.index).collect();
    let published: Vec<Range<usize>> =
        published.into_iter().map(|index| rows_of(found, index)).collect();
    let sample_ids = before.unwrap_or(&plan.sample_ids);
    for spec in &found.row_arrays {
        // one that cannot be read is written again below: the plan has its values
        let Ok(values) = read::row_array(folder, found, spec) else { continue };
        let is_label = spec.path == manifest::LABEL;
        let rows = published.iter().cloned().flatten();
        let expected = |row: usize| match (is_label, sample_ids.get(row)) {
            (false, id) => id.copied(),
            // a label is its sample's: where that has moved, it has gone with it
            (true, id) if id == plan.sample_ids.get(row) => plan.labels.get(row).copied(),
            (true, _) => values.get(row).copied(),
        };
        let mut other = rows
            .filter_map(|row| Some((row, expected(row)?, *values.get(row)?)))
            .filter(|(_, e, f)| e != f);
        if let Some((row, e, f)) = other.next() {
            return Err(refused(
                format!("{} in row {row}", spec.path),
                e.to_string(),
                f.to_string(),
            ));
        }
    }
    let next_segments = plan.manifest.segments_per_view();
    let mut next = Manifest { segments: found.segments.clone(), ..plan.manifest.clone() };
    next.teacher.file.clone_from(&found.teacher.file);
    next.teacher.top1_basis_points = found.teacher.top1_basis_points;
    next.data.spec.clone_from(&found.data.spec);
    if before.is_some() {
        let same = |index| {
            let (was, is) = (rows_of(found, index), rows_of(&plan.manifest, index));
            was == is && sample_ids.get(was) == plan.sample_ids.get(is)
        };
        next.segments.retain(|segment| segment.index < next_segments && same(segment.index));
    } else {
        next.data.skipped.clone_from(&found.data.skipped);
    }
    for segment in &mut next.segments {
        let is_there = |&(spec, &bytes): &(&ArraySpec, &u64)| {
            fs::metadata(folder.join(zarr::view_shard(spec, segment.view, segment.index)))
                .is_ok_and(|m| m.is_file() && m.len() == bytes)
        };
        let kept = next.view_arrays.iter().zip(&segment.bytes).take_while(is_there).count();
        segment.bytes.truncate(kept);
        segment.crc32c.truncate(kept);
    }
    next.segments.retain(|segment| !segment.bytes.is_empty());
    // before the zarr.json of what is new: they follow from the manifest
    if next != *found {
        document::store(folder, &next)?;
    }
    Ok(next)
}

/// The rows of a segment, within a view.
fn rows_of(manifest: &Manifest, segment: usize) -> Range<usize> {
    let first = segment * manifest.segment_rows;
    first..first + manifest.rows_of_segment(segment)
}

/// Whether a sample's row is published in any view. A mixed row is of two samples, of which one
/// alone stands in it: there, all count.
fn published_samples(manifest: &Manifest, sample_ids: &[i64]) -> impl Fn(usize) -> bool {
    let mixes = manifest.augment.as_ref().is_some_and(crate::recipe::Augmentation::mixes);
    let rows = manifest.segments.iter().flat_map(|segment| rows_of(manifest, segment.index));
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

/// What of a plan was there when `found` was made: fewer views, the first of its taps and view
/// arrays, and no map where a tap had features alone.
fn within(plan: &Manifest, found: &Manifest) -> Manifest {
    let mut within = plan.clone();
    within.views = plan.views.min(found.views);
    within.taps.truncate(found.taps.len());
    for (tap, before) in within.taps.iter_mut().zip(&found.taps) {
        tap.map = tap.map.filter(|_| before.map.is_some());
    }
    within.view_arrays.truncate(found.view_arrays.len());
    within.logits =
        within.logits.filter(|_| within.view_arrays.iter().any(|spec| spec.path == "logits"));
    // a statistic asks for a later format than the features that were there
    within.format = within.lowest_format();
    within
}

/// Removes what an interrupted run left: temporary files, and shards that no manifest lists.
pub(super) fn sweep(folder: &Path, manifest: &Manifest) -> Result<()> {
    file::walk(folder, &mut |path| {
        let name = path.rsplit('/').next().unwrap_or(path);
        let unpublished =
            zarr::parse_view_shard(manifest, path).is_some_and(|(array, view, segment)| {
                array >= manifest.published_arrays(view, segment)
            });
        if !file::is_temporary(name) && !unpublished {
            return Ok(());
        }
        let path = folder.join(path);
        fs::remove_file(&path).map_err(|e| file::failed(&path, "remove", e))
    })
}

/// Writes every zarr.json and the row arrays, where they are not there as they should be.
fn write_metadata(folder: &Path, manifest: &Manifest, plan: &Plan) -> Result<()> {
    let mut files = zarr::documents(manifest)?;
    let mut encoder = Encoder::new().context(|| "zstd: cannot start".to_owned())?;
    for spec in &manifest.row_arrays {
        let values: Vec<u8> =
            plan.row_values(&spec.path).iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut shard = ShardWriter::new(manifest.row_layout(spec), Vec::new());
        shard
            .append(&mut encoder, &values)
            .context(|| format!("array {}: cannot be encoded", spec.path))?;
        files.insert(zarr::row_shard(spec), shard.into_inner());
    }
    write_documents(folder, files)
}

/// Replaces the files that are not there as they should be.
fn write_documents(folder: &Path, files: BTreeMap<String, Vec<u8>>) -> Result<()> {
    let differs = |(path, bytes): &(PathBuf, Vec<u8>)| {
        file::read_bounded(path, bytes.len() as u64).ok().flatten().as_ref() != Some(bytes)
    };
    let files: Vec<_> =
        files.into_iter().map(|(path, bytes)| (folder.join(path), bytes)).filter(differs).collect();
    file::at_once(&files, |(path, bytes)| file::replace(path, bytes))?;
    file::sync_dirs_between(folder, files.iter().map(|(path, _)| path.as_path()))
}

#[cfg(test)]
mod tests {
    use super::super::{Cache, Codec, testing, verify};
    use super::*;
    use crate::error::Kind;
    use crate::monitor::Silent;

    /// Every file of a cache by path, the lock excepted.
    fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        file::walk(folder, &mut |path| {
            if path != file::LOCK {
                files.insert(path.to_owned(), fs::read(folder.join(path)).unwrap());
            }
            Ok(())
        })
        .unwrap();
        files
    }

    #[test]
    fn an_interrupted_run_goes_on_to_the_same_bytes() {
        let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let plan = testing::plan(10, 2, Codec::Zstd);
        testing::write(whole.path(), &plan).unwrap();
        {
            let mut writer = Writer::open(cut.path(), &plan).unwrap();
            testing::publish(&mut writer, 1, 1).unwrap();
            let mut shards = writer.segment(0, 0).unwrap();
            shards.append(0, &testing::rows(&plan.manifest.view_arrays[0], 0, 0..3)).unwrap();
            drop(shards);
            // what a kill leaves: a temporary shard, a renamed one that no manifest lists, a draft
            // of the manifest
            fs::write(cut.path().join("input/c/0/0/0/0/.0.tmp"), b"half").unwrap();
            fs::write(cut.path().join("input/c/0/0/0/0/0"), b"whole, unpublished").unwrap();
            fs::write(cut.path().join(".manifest.json.tmp"), b"{").unwrap();
        }
        testing::write(cut.path(), &plan).unwrap();
        assert!(contents(whole.path()) == contents(cut.path()));
        testing::write(cut.path(), &plan).unwrap();
        assert!(contents(whole.path()) == contents(cut.path()));
    }

    #[test]
    fn views_and_arrays_are_added_without_touching_what_is_published() {
        use std::os::unix::fs::MetadataExt;
        let (grown, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let plan = testing::plan(10, 3, Codec::Zstd);
        let mut small = testing::plan(10, 1, Codec::Zstd);
        small.manifest.view_arrays.truncate(3);
        small.manifest.taps.clear();
        testing::write(grown.path(), &small).unwrap();
        let inodes = |folder: &Path| -> BTreeMap<String, u64> {
            let shards = contents(folder).into_keys().filter(|path| path.contains("/c/"));
            shards
                .map(|path| (path.clone(), fs::metadata(folder.join(path)).unwrap().ino()))
                .collect()
        };
        let before = inodes(grown.path());

        // begun: a segment in the new array alone, and one of a new view
        let mut writer = Writer::open(grown.path(), &plan).unwrap();
        assert_eq!(
            (writer.manifest().published_arrays(0, 1), writer.has(0, 1), writer.has(1, 0)),
            (3, false, false)
        );
        let mut shards = writer.segment(0, 1).unwrap();
        assert!(shards.append(2, &[0; 12]).unwrap_err().to_string().contains("published"));
        shards.append(3, &testing::rows(&plan.manifest.view_arrays[3], 0, 4..8)).unwrap();
        writer.publish(shards).unwrap();
        testing::publish(&mut writer, 2, 1).unwrap();
        drop(writer);
        assert!(Cache::open(grown.path()).unwrap_err().to_string().contains("incomplete"));
        // what a kill leaves in the new array is swept, and a shard that is lost is written again
        // with those after it
        file::create_dirs(&grown.path().join("taps/conv/features/c/0/0/0/0")).unwrap();
        fs::write(grown.path().join("taps/conv/features/c/0/0/0/0/0"), b"unpublished").unwrap();
        fs::remove_file(grown.path().join("logits/c/2/1/0")).unwrap();
        let writer = Writer::open(grown.path(), &plan).unwrap();
        assert!(!grown.path().join("taps/conv/features/c/0/0/0/0/0").exists());
        assert_eq!(writer.manifest().published_arrays(2, 1), 2);
        drop(writer);
        testing::write(grown.path(), &plan).unwrap();
        testing::write(whole.path(), &plan).unwrap();
        assert!(contents(grown.path()) == contents(whole.path()));
        let after = inodes(grown.path());
        assert!(
            before
                .iter()
                .filter(|(path, _)| path.contains("/c/0/"))
                .all(|(path, inode)| after[path] == *inode)
        );

        // fewer views, fewer arrays or another first array are other settings
        for (change, field) in [
            ((|m| m.views = 2) as fn(&mut Manifest), "views"),
            (|m| m.taps.clear(), "taps"),
            (|m| m.view_arrays.truncate(3), "view_arrays"),
            (|m| m.view_arrays[0].dtype = crate::array::Dtype::I32, "view_arrays[0].dtype"),
        ] {
            let mut other = plan.clone();
            change(&mut other.manifest);
            let error = Writer::open(grown.path(), &other).unwrap_err().to_string();
            assert!(error.contains(&format!("made with another {field}:")), "{error}");
        }
    }

    #[test]
    fn a_statistic_is_added_to_a_tap_that_had_features_alone() {
        let (grown, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let before = testing::plan(6, 2, Codec::Zstd);
        let after = testing::plan_of(testing::statistics(Codec::Zstd));
        testing::write(grown.path(), &before).unwrap();
        let writer = Writer::open(grown.path(), &after).unwrap();
        assert_eq!(
            (writer.manifest().format, writer.manifest().published_arrays(0, 0)),
            (Manifest::FORMAT_STATISTICS, 4)
        );
        drop(writer);
        testing::write(grown.path(), &after).unwrap();
        testing::write(whole.path(), &after).unwrap();
        assert!(contents(grown.path()) == contents(whole.path()));

        // nothing is taken away, and no map becomes another
        let error = Writer::open(grown.path(), &before).unwrap_err().to_string();
        assert!(error.contains("made with another"), "{error}");
        let mut other = testing::plan(6, 2, Codec::Zstd);
        other.manifest.format = Manifest::FORMAT_STATISTICS;
        other.manifest.taps[0].map = Some(crate::recipe::MapShape {
            channels: 12,
            height: 1,
            width: 1,
            ..after.manifest.taps[0].map.unwrap()
        });
        other.manifest.view_arrays.truncate(3);
        let error = Writer::open(grown.path(), &other).unwrap_err().to_string();
        assert!(error.contains("made with another taps[0].map"), "{error}");
    }

    /// The plan of [`testing::plan`] of ten rows without the sample in row `hole`: the last row
    /// takes its place.
    fn with_a_hole(views: usize, hole: usize) -> Plan {
        let (whole, mut plan) =
            (testing::plan(10, views, Codec::Zstd), testing::plan(9, views, Codec::Zstd));
        plan.manifest.data.limit = whole.manifest.data.limit;
        plan.manifest.data.skipped = vec![u64::try_from(whole.sample_ids[hole]).unwrap()];
        if hole < 9 {
            (plan.sample_ids[hole], plan.labels[hole]) = (whole.sample_ids[9], whole.labels[9]);
        }
        plan
    }

    #[test]
    fn rows_that_move_take_their_segments_out_and_leave_the_others() {
        for (hole, kept) in
            [(5, [true, false, false]), (1, [false, true, false]), (9, [true, true, false])]
        {
            let (folder, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let whole = testing::plan(10, 2, Codec::Zstd);
            testing::write(folder.path(), &whole).unwrap();
            let arrays = ["label/c/0", "sample_id/c/0"]
                .map(|path| (path, fs::read(folder.path().join(path)).unwrap()));
            let plan = with_a_hole(2, hole);
            // not unless the plan says so
            assert!(
                Writer::open(folder.path(), &plan)
                    .unwrap_err()
                    .to_string()
                    .contains("made with another rows")
            );
            let moved = Plan { before: Some(whole.sample_ids.clone()), ..plan.clone() };
            let has = |writer: &Writer, view| [0, 1, 2].map(|segment| writer.has(view, segment));
            let writer = Writer::open(folder.path(), &moved).unwrap();
            assert_eq!((has(&writer, 0), has(&writer, 1)), (kept, kept), "row {hole}");
            drop(writer);
            assert!(Cache::open(folder.path()).is_err());
            // killed before the row arrays were written, which then are those of before: gone on
            // with, or gone back from
            for (path, bytes) in &arrays {
                fs::write(folder.path().join(path), bytes).unwrap();
            }
            let again = Plan { before: Some(plan.sample_ids.clone()), ..plan.clone() };
            assert_eq!(has(&Writer::open(folder.path(), &again).unwrap(), 1), kept);
            testing::write(folder.path(), &again).unwrap();
            testing::write(fresh.path(), &plan).unwrap();
            assert!(contents(folder.path()) == contents(fresh.path()), "row {hole}");
            // and the sample comes back
            let back = Plan { before: Some(plan.sample_ids.clone()), ..whole.clone() };
            assert_eq!(has(&Writer::open(folder.path(), &back).unwrap(), 0), kept);
            testing::write(folder.path(), &back).unwrap();
            testing::write(fresh.path(), &back).unwrap();
            assert!(contents(folder.path()) == contents(fresh.path()), "row {hole}");
        }
    }

    #[test]
    fn a_segment_that_is_gone_with_its_only_row_is_swept() {
        let (folder, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (whole, mut plan) =
            (testing::plan(9, 1, Codec::Zstd), testing::plan(8, 1, Codec::Zstd));
        plan.manifest.data.limit = whole.manifest.data.limit;
        testing::write(folder.path(), &whole).unwrap();
        testing::write(
            folder.path(),
            &Plan { before: Some(whole.sample_ids.clone()), ..plan.clone() },
        )
        .unwrap();
        testing::write(fresh.path(), &plan).unwrap();
        assert!(contents(folder.path()) == contents(fresh.path()));
    }

    #[test]
    fn another_label_or_order_is_refused_where_rows_may_move() {
        let folder = tempfile::tempdir().unwrap();
        let whole = testing::plan(10, 1, Codec::Zstd);
        testing::write(folder.path(), &whole).unwrap();
        let before = contents(folder.path());
        let mut other = Plan { before: Some(whole.sample_ids.clone()), ..with_a_hole(1, 5) };
        other.labels[6] = i64::from(other.labels[6] == 0);
        let error = Writer::open(folder.path(), &other).unwrap_err();
        assert!(error.to_string().contains("made with another label in row 6"), "{error}");
        let mut other = Plan { before: Some(whole.sample_ids.clone()), ..with_a_hole(1, 5) };
        other.before.as_mut().unwrap().swap(0, 1);
        let error = Writer::open(folder.path(), &other).unwrap_err();
        assert!(error.to_string().contains("made with another sample_id in row 0"), "{error}");
        assert!(before == contents(folder.path()));
    }

    #[test]
    fn a_segment_is_replaced_whole_or_is_missing() {
        let (folder, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let plan = testing::plan(10, 2, Codec::Zstd);
        testing::write(folder.path(), &plan).unwrap();
        testing::write(whole.path(), &plan).unwrap();
        let mut writer = Writer::open(folder.path(), &plan).unwrap();
        let fill = |writer: &Writer, value: u8| {
            let mut shards = writer.replacement(1, 1).unwrap();
            for (array, spec) in plan.manifest.view_arrays.iter().enumerate() {
                shards.append(array, &vec![value; 4 * spec.row_bytes()]).unwrap();
            }
            shards
        };
        writer.replace(fill(&writer, 1)).unwrap();
        assert!(writer.has(1, 1) && writer.segment(1, 1).is_err());
        let short = writer.replacement(1, 0).unwrap();
        assert!(writer.replace(short).unwrap_err().to_string().contains("lacks 4 rows"));
        assert!(writer.has(1, 0));
        drop(writer);
        assert!(verify(folder.path(), 1, &Silent).unwrap().findings.is_empty());
        // killed between the two commits: the shards are there, and count as not published
        let mut writer = Writer::open(folder.path(), &plan).unwrap();
        writer.unpublish(&BTreeSet::from([(1, 1)])).unwrap();
        drop(writer);
        testing::write(folder.path(), &plan).unwrap();
        assert!(contents(folder.path()) == contents(whole.path()));
    }

    #[test]
    fn a_widened_array_comes_last_and_alone_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = testing::plan(10, 2, Codec::Zstd);
        // not the last of them
        plan.manifest.view_arrays.swap(2, 3);
        let mut writer = Writer::open(folder.path(), &plan).unwrap();
        testing::publish(&mut writer, 0, 0).unwrap();
        testing::publish(&mut writer, 1, 2).unwrap();
        assert!(writer.widen("logits").is_err());
        writer.widen("taps/conv/features").unwrap();
        let widened = writer.manifest().clone();
        assert_eq!((writer.manifest().published_arrays(0, 0), writer.has(0, 0)), (3, false));
        assert!(!folder.path().join("taps/conv/features/c/0/0/0/0/0").exists());
        drop(writer);
        let plan = Plan { manifest: Manifest { segments: Vec::new(), ..widened.clone() }, ..plan };
        assert_eq!(Writer::open(folder.path(), &plan).unwrap().manifest(), &widened);
        testing::write(folder.path(), &plan).unwrap();
        assert!(verify(folder.path(), 1, &Silent).unwrap().findings.is_empty());
        assert_eq!(
            Cache::open(folder.path()).unwrap().array("taps/conv/features").unwrap().spec().dtype,
            Dtype::F32
        );
    }

    #[test]
    fn a_run_killed_before_the_first_commit_starts_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(file::LOCK), b"").unwrap();
        fs::write(folder.path().join(".manifest.json.tmp"), b"{").unwrap();
        testing::write(folder.path(), &testing::plan(10, 1, Codec::Raw)).unwrap();
        Cache::open(folder.path()).unwrap();
    }

    #[test]
    fn missing_and_damaged_small_files_are_written_again() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let plan = testing::plan(10, 1, Codec::Zstd);
        testing::write(folder.path(), &plan).unwrap();
        testing::write(other.path(), &plan).unwrap();
        fs::remove_file(folder.path().join("taps/zarr.json")).unwrap();
        fs::write(folder.path().join("label/c/0"), b"x").unwrap();
        fs::write(folder.path().join("logits/c/0/1/0"), b"short").unwrap();
        let writer = Writer::open(folder.path(), &plan).unwrap();
        assert_eq!((writer.has(0, 0), writer.has(0, 1), writer.has(0, 2)), (true, false, true));
        drop(writer);
        testing::write(folder.path(), &plan).unwrap();
        assert!(contents(folder.path()) == contents(other.path()));
    }

    #[test]
    fn another_plan_is_refused_with_the_field_and_both_values() {
        let folder = tempfile::tempdir().unwrap();
        let plan = testing::plan(10, 2, Codec::Zstd);
        testing::write(folder.path(), &plan).unwrap();
        let before = contents(folder.path());
        let mut other = plan.clone();
        other.manifest.teacher.sha256 = "ab".into();
        let error = Writer::open(folder.path(), &other).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("made with another teacher.sha256: expected \"ab\", found \"00\""),
            "{error}"
        );
        assert!(error.find_hint().is_some_and(|h| h.contains("-o")));
        let mut other = plan.clone();
        other.labels[3] = 0;
        let error = Writer::open(folder.path(), &other).unwrap_err();
        assert!(
            error.to_string().ends_with("made with another label in row 3: expected 0, found 2"),
            "{error}"
        );
        assert!(before == contents(folder.path()));
    }

    #[test]
    fn a_folder_with_other_things_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.tex"), b"years of work").unwrap();
        let error = Writer::open(folder.path(), &testing::plan(10, 1, Codec::Zstd)).unwrap_err();
        assert!(error.to_string().contains("thesis.tex"));
        assert_eq!(contents(folder.path()).len(), 1);
        assert!(!folder.path().join(file::LOCK).exists());
    }

    #[test]
    fn one_writer_or_many_readers() {
        let folder = tempfile::tempdir().unwrap();
        let plan = testing::plan(10, 1, Codec::Zstd);
        let writer = Writer::open(folder.path(), &plan).unwrap();
        assert!(Writer::open(folder.path(), &plan).unwrap_err().to_string().contains("in use"));
        assert!(Cache::open(folder.path()).unwrap_err().to_string().contains("being written"));
        drop(writer);
        testing::write(folder.path(), &plan).unwrap();
        let readers = (Cache::open(folder.path()).unwrap(), Cache::open(folder.path()).unwrap());
        assert!(Writer::open(folder.path(), &plan).is_err());
        drop(readers);
        Writer::open(folder.path(), &plan).unwrap();
    }

    #[test]
    fn wrong_rows_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(folder.path(), &testing::plan(10, 1, Codec::Zstd)).unwrap();
        assert!(writer.segment(0, 3).is_err());
        assert!(writer.segment(1, 0).is_err());
        let mut shards = writer.segment(0, 2).unwrap();
        assert!(shards.append(4, &[]).is_err());
        assert!(shards.append(0, &[0; 17]).is_err());
        assert!(shards.append(0, &[0; 48]).is_err());
        assert_eq!(shards.append(0, &[]).unwrap(), 0);
        assert!(shards.append(0, &[0; 32]).unwrap() > 0);
        let error = writer.publish(shards).unwrap_err();
        assert!(error.to_string().contains("`inputs/mask` lacks 2 rows"), "{error}");
        assert!(!writer.has(0, 2));
        let mut plan = testing::plan(10, 1, Codec::Zstd);
        plan.labels.pop();
        assert!(Writer::open(folder.path(), &plan).is_err());
    }

    #[test]
    fn a_full_disk_and_a_missing_permission_are_one_clear_line() {
        let path = Path::new("cache/x/.manifest.json.tmp");
        let full =
            file::failed(path, "write", std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert_eq!((full.kind(), full.chain().lines().count()), (Kind::Input, 1));
        assert!(
            full.chain().starts_with("cache/x/.manifest.json.tmp: cannot write: "),
            "{}",
            full.chain()
        );
        assert!(full.find_hint().is_some_and(|h| h.contains("free some space")));
        let denied =
            file::failed(path, "write", std::io::Error::from(std::io::ErrorKind::PermissionDenied));
        assert!(denied.find_hint().is_some_and(|h| h.contains("permission")));
        // a file in the way of the folder
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cache"), b"").unwrap();
        assert!(
            Writer::open(&folder.path().join("cache"), &testing::plan(10, 1, Codec::Zstd)).is_err()
        );
    }
}
