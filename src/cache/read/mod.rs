//! Reads a cache: shards are memory-mapped, every index is checked when the cache is opened, and
//! every chunk when it is decoded.

use super::shard::{Digest, Fault, ShardLayout, Sum};
use super::{ArraySpec, Manifest, extraction, manifest, zarr};
use crate::error::{Context, Error, Result};
use crate::storage::{self, Lock};
use crate::threads;
use memmap2::{Advice, Mmap, UncheckedAdvice};
use std::fs::File;
use std::io::{BufReader, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// A cache open for reading, under a shared file lock. It can be shared between threads.
///
/// ```no_run
/// use nst_cache::cache::{Cache, Decoder};
///
/// let cache = Cache::open("cache/photos".as_ref())?;
/// let (logits, rows) = (cache.array("logits")?, cache.manifest().rows);
/// let mut bytes = Vec::new();
/// // all rows of the first view
/// logits.read(&mut Decoder::default(), 0, 0, rows, &mut bytes)?;
/// let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
/// println!("{:?} by {rows} rows", logits.spec().row_shape);
/// # assert!(!values.is_empty());
/// # Ok::<(), nst_cache::error::Error>(())
/// ```
///
/// Shards are mapped into memory and their files closed, so that thousands of them need no file
/// handles. The contract of the maps: a published shard is never written again (a writer replaces
/// files by rename, which does not affect existing maps, and the shared lock keeps writers out). If
/// a shard is truncated by other means while it is mapped, reading the lost pages causes a bus
/// error.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    manifest: Manifest,
    sample_ids: Vec<i64>,
    labels: Vec<i64>,
    /// The shards of each view array, by view, then segment.
    shards: Vec<Vec<Shard>>,
    /// The note about an extension in progress, whose views and arrays are not read.
    extension: Option<String>,
    /// Held until the cache is dropped.
    lock: Option<Lock>,
}

/// A mapped shard, with the offsets where its chunks start (and where the last one ends).
#[derive(Debug)]
struct Shard {
    map: Mmap,
    bounds: Vec<u64>,
    /// Its digest in the manifest, if there is one.
    digest: Option<u32>,
    /// Whether the shard is known to have that digest.
    is_checked: AtomicBool,
}

impl Cache {
    /// Opens a cache and checks the manifest's checksum and format version, every shard's length,
    /// index checksum, chunk ranges and lengths, and the whole row arrays. A shard's digest is
    /// checked when it is first read. If views or arrays are being added to the cache, only what
    /// was complete before is read ([`Cache::extension`]).
    ///
    /// # Errors
    /// If it is not a cache, incomplete (says how to complete it), damaged (names the file), of a
    /// newer format, or being written.
    pub fn open(folder: &Path) -> Result<Self> {
        let lock = Lock::shared(folder)?;
        let mut cache = Self::map(folder)?;
        // so that everything mapped belongs to one cache
        lock.as_ref().map_or(Ok(()), Lock::check)?;
        cache.lock = lock;
        Ok(cache)
    }

    /// Like [`Cache::open`], under a lock that the caller holds.
    pub(super) fn map(folder: &Path) -> Result<Self> {
        let found = Manifest::load(folder)?;
        let part = found.before_extension();
        let extension = part.as_ref().map(|_| {
            let (done, all) = (found.whole_segments(), found.segments_total());
            format!(
                "cache {}: being extended, {done} of {all} segments are complete; it is read as \
                 it was before",
                folder.display()
            )
        });
        let manifest = part.unwrap_or(found);
        if !manifest.is_complete() {
            return Err(incomplete(folder, &manifest));
        }
        let (sample_ids, labels) = row_arrays(folder, &manifest)?;
        let open = |(index, spec): (usize, &ArraySpec)| {
            let shard = |segment: &super::Segment| {
                let path = folder.join(zarr::view_shard(spec, segment.view, segment.index));
                let layout = manifest.view_layout(spec, segment.index);
                Shard::open(&path, &layout, segment.sum(index))
                    .map_err(|fault| fault.error(&path.display().to_string()))
            };
            manifest.segments.iter().map(shard).collect::<Result<Vec<Shard>>>()
        };
        let shards = manifest.view_arrays.iter().enumerate().map(open).collect::<Result<_>>()?;
        let folder = folder.to_owned();
        Ok(Self { folder, manifest, sample_ids, labels, shards, extension, lock: None })
    }

    /// The note to report if the cache is being extended and is read as it was before.
    #[must_use]
    pub fn extension(&self) -> Option<&str> {
        self.extension.as_deref()
    }

    /// The manifest of what is read.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The folder of the cache.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The seconds that the extraction took, over all its runs; `None` if they are not recorded, or
    /// the record cannot be read.
    #[must_use]
    pub fn extraction_seconds(&self) -> Option<f64> {
        extraction::seconds(&self.folder).ok().flatten()
    }

    /// Each row's sample, as an index in the data set.
    #[must_use]
    pub fn sample_ids(&self) -> &[i64] {
        &self.sample_ids
    }

    /// The label of each row, −1 if unlabeled.
    #[must_use]
    pub fn labels(&self) -> &[i64] {
        &self.labels
    }

    /// Asks the system to drop the cache's pages from memory, so that the next read comes from
    /// disk.
    #[doc(hidden)] // for benchmarks
    pub fn evict(&self) {
        for (spec, shards) in self.manifest.view_arrays.iter().zip(&self.shards) {
            for (shard, segment) in shards.iter().zip(&self.manifest.segments) {
                shard.release(0, shard.bounds.len().saturating_sub(1));
                if let Ok(file) = File::open(self.folder.join(zarr::view_shard(
                    spec,
                    segment.view,
                    segment.index,
                ))) {
                    // only advice: pages that stay are read from memory
                    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
                }
            }
        }
    }

    /// A view array by path.
    ///
    /// # Errors
    /// If there is none (lists the arrays of the cache).
    pub fn array(&self, path: &str) -> Result<ArrayReader<'_>> {
        let arrays = &self.manifest.view_arrays;
        let found = arrays.iter().zip(&self.shards).find(|(spec, _)| spec.path == path);
        found.map(|(spec, shards)| ArrayReader { cache: self, spec, shards }).ok_or_else(|| {
            let known = arrays.iter().map(|spec| spec.path.as_str()).collect::<Vec<_>>().join(", ");
            Error::input(format!("cache {}: there is no array `{path}`", self.folder.display()))
                .hint(format!("it has {known}"))
        })
    }
}

impl Shard {
    fn open(path: &Path, layout: &ShardLayout, sum: Option<Sum>) -> Result<Self, Fault> {
        let file = storage::open(path)?;
        // SAFETY: the contract is stated at `Cache`: published shards do not change, and writers
        // are kept out by the shared lock. What the map holds is treated as hostile, so bytes that
        // change against the contract give a checksum error, not unsoundness beyond the map's own.
        let map = unsafe { Mmap::map(&file) }.map_err(Fault::Unreadable)?;
        let length = map.len() as u64;
        if let Some(Sum { bytes, .. }) = sum
            && bytes != length
        {
            return Err(format!("expected {bytes} bytes, found {length}").into());
        }
        let index_start = map.len().checked_sub(layout.index_bytes());
        let index =
            index_start.and_then(|start| map.get(start..)).ok_or_else(|| "truncated".to_owned())?;
        let (bounds, _) = layout.read_index(index, length)?;
        let digest = sum.map(|sum| sum.crc32c);
        Ok(Self { map, bounds, digest, is_checked: AtomicBool::new(digest.is_none()) })
    }

    /// Checks once, by the checksums of all its chunks, that this is the published shard.
    fn check(&self) -> Result<(), Fault> {
        if self.is_checked.load(Ordering::Relaxed) {
            return Ok(());
        }
        // one page per chunk is touched: read-ahead would fetch most of the shard
        let _ = self.map.advise(Advice::Random);
        let mut digest = Digest::default();
        for chunk in 0..self.bounds.len().saturating_sub(1) {
            digest.add(self.encoded(chunk)?);
        }
        digest.add(&self.map);
        let _ = self.map.advise(Advice::Normal);
        if self.digest.is_some_and(|expected| expected != digest.value()) {
            return Err(WRONG_SHARD.to_owned().into());
        }
        self.is_checked.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Releases the pages of chunks that were read, so that the process's memory does not grow with
    /// the cache. They stay in the page cache, from which a reader of a neighboring chunk maps a
    /// shared page again.
    fn release(&self, first: usize, end: usize) {
        let Some(range) = self.range(first, end) else { return };
        // SAFETY: the map is a shared, read-only file mapping, so the next access to a released
        // page finds the file's bytes again: nothing read through the map changes.
        let released = unsafe {
            self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
        };
        // only advice: pages that stay are reclaimed when memory is short
        let _ = released;
    }

    /// The encoded bytes of chunks `first..end`, as a range of the map.
    fn range(&self, first: usize, end: usize) -> Option<std::ops::Range<usize>> {
        Some(
            usize::try_from(*self.bounds.get(first)?).ok()?
                ..usize::try_from(*self.bounds.get(end)?).ok()?,
        )
    }

    /// A chunk's bytes, after a check that this is the published shard.
    fn chunk(&self, chunk: usize) -> Result<&[u8], Fault> {
        self.check()?;
        self.encoded(chunk)
    }

    fn encoded(&self, chunk: usize) -> Result<&[u8], Fault> {
        self.range(chunk, chunk + 1)
            .and_then(|range| self.map.get(range))
            .ok_or_else(|| Fault::Damaged("chunk missing".to_owned()))
    }
}

/// The problem of an intact shard whose digest is not the manifest's.
pub(super) const WRONG_SHARD: &str = "sound, but not the shard that was published";

/// The path of a cache's file, for messages.
fn path_text(folder: &Path, path: &str) -> String {
    folder.join(path).display().to_string()
}

fn incomplete(folder: &Path, manifest: &Manifest) -> Error {
    let (done, all) = (manifest.whole_segments(), manifest.segments_total());
    Error::input(format!(
        "cache {}: incomplete, {done} of {all} segments are published",
        folder.display()
    ))
    .hint("run the same `nst-cache extract` command again: it resumes where it stopped")
}

/// The values of the row arrays: unique sample ids within the data set, and labels, each a class or
/// −1.
fn row_arrays(folder: &Path, manifest: &Manifest) -> Result<(Vec<i64>, Vec<i64>)> {
    let read = |path: &str| {
        let (spec, sum) = manifest.row_array(path).ok_or_else(|| {
            Error::input(format!("cache {}: there is no array `{path}`", folder.display()))
        })?;
        let values = row_array(folder, manifest, spec, sum);
        values.map_err(|fault| fault.error(&path_text(folder, &zarr::row_shard(spec))))
    };
    let (sample_ids, labels) = (read(manifest::SAMPLE_ID)?, read(manifest::LABEL)?);
    for (path, values) in [(manifest::SAMPLE_ID, &sample_ids), (manifest::LABEL, &labels)] {
        let wrong = values.iter().enumerate().find_map(|(row, &value)| {
            wrong_value(manifest, path, value).map(|problem| format!("row {row}: {problem}"))
        });
        // sorting takes a fifth of the time of a hash set
        let duplicate = || {
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let pair = sorted.windows(2).find(|pair| pair.first() == pair.last())?;
            Some(format!("sample {}: appears twice", pair.first()?))
        };
        let is_unique = path == manifest::SAMPLE_ID;
        if let Some(problem) = wrong.or_else(|| if is_unique { duplicate() } else { None }) {
            let place = format!("cache {}: array `{path}`", folder.display());
            return Err(Fault::Damaged(problem).error(&place));
        }
    }
    Ok((sample_ids, labels))
}

/// The problem with a value of a row array, if any: a sample id must be within the data set, and a
/// label must be a class or −1.
pub(super) fn wrong_value(manifest: &Manifest, path: &str, value: i64) -> Option<String> {
    if path == manifest::LABEL {
        let classes = i64::try_from(manifest.data.classes.len()).unwrap_or(i64::MAX);
        return (value < -1 || classes > 0 && value >= classes)
            .then(|| format!("label {value}: expected −1 to {}", classes - 1));
    }
    let samples = i64::try_from(manifest.data.fingerprint.samples).unwrap_or(i64::MAX);
    (!(0..samples).contains(&value))
        .then(|| format!("sample {value}: expected 0 to {}", samples - 1))
}

/// Reads a whole row array. `sum`: the length and digest that its shard must have, if known.
pub(super) fn row_array(
    folder: &Path,
    manifest: &Manifest,
    spec: &ArraySpec,
    sum: Option<Sum>,
) -> Result<Vec<i64>, Fault> {
    let layout = manifest.row_layout(spec);
    let shard = Shard::open(&folder.join(zarr::row_shard(spec)), &layout, sum)?;
    let mut decoder = Decoder::default();
    let mut values = Vec::new();
    for chunk in 0..layout.used_chunks() {
        let (first, end) = layout.rows_of(chunk);
        let result = shard.chunk(chunk).and_then(|encoded| decoder.chunk(&layout, encoded));
        let bytes = result.map_err(|fault| match fault {
            Fault::Damaged(problem) => format!("rows {first}..{end}: {problem}").into(),
            fault => fault,
        })?;
        values.try_reserve(end - first).map_err(|e| Fault::Unreadable(e.into()))?;
        values.extend(bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).take(end - first));
    }
    Ok(values)
}

/// The sample ids of a cache, complete or not; `None` if they are missing or damaged.
///
/// # Errors
/// If they cannot be read.
pub fn sample_ids(folder: &Path, manifest: &Manifest) -> Result<Option<Vec<i64>>> {
    let Some((spec, sum)) = manifest.row_array(manifest::SAMPLE_ID) else { return Ok(None) };
    match row_array(folder, manifest, spec, sum) {
        Ok(ids) => Ok(Some(ids)),
        Err(Fault::Missing | Fault::Damaged(_)) => Ok(None),
        Err(fault) => Err(fault.error(&path_text(folder, &zarr::row_shard(spec)))),
    }
}

/// For each segment, the length of the prefix of its published arrays whose shards are intact.
/// Reads one page of each chunk.
///
/// # Errors
/// If a shard cannot be read, so that its state is unknown.
pub(super) fn published(folder: &Path, manifest: &Manifest) -> Result<Vec<usize>> {
    let counts = Mutex::new(vec![0; manifest.segments.len()]);
    let places: Vec<usize> = (0..manifest.segments.len()).collect();
    threads::at_once(&places, |&place| {
        let segment = &manifest.segments[place];
        let mut count = 0;
        for (array, spec) in manifest.view_arrays.iter().enumerate().take(segment.bytes.len()) {
            let path = folder.join(zarr::view_shard(spec, segment.view, segment.index));
            let layout = manifest.view_layout(spec, segment.index);
            match is_published(&path, &layout, segment.sum(array)) {
                Ok(()) => count += 1,
                Err(Fault::Missing | Fault::Damaged(_)) => break,
                Err(fault) => return Err(fault.error(&path.display().to_string())),
            }
        }
        counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[place] = count;
        Ok(())
    })?;
    Ok(counts.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// Checks that a shard is the published one. It reads instead of mapping, so that a failing disk
/// causes an error and not a bus error.
fn is_published(path: &Path, layout: &ShardLayout, sum: Option<Sum>) -> Result<(), Fault> {
    let file = storage::open(path)?;
    let length = file.metadata()?.len();
    if sum.is_some_and(|sum| sum.bytes != length) {
        return Err("wrong length".to_owned().into());
    }
    let index_start = length.checked_sub(layout.index_bytes() as u64);
    let index_start = index_start.ok_or_else(|| "truncated".to_owned())?;
    (&file).seek(SeekFrom::Start(index_start))?;
    let (bounds, stored) = layout.read_index(BufReader::new(&file), length)?;
    let mut digest = Digest::default();
    let mut checksum = stored;
    for end in bounds.iter().skip(1) {
        let offset = end - checksum.len() as u64;
        file.read_exact_at(&mut checksum, offset)?;
        digest.add(&checksum);
    }
    digest.add(&stored);
    if sum.is_some_and(|sum| sum.crc32c != digest.value()) {
        return Err(WRONG_SHARD.to_owned().into());
    }
    Ok(())
}

/// Reads rows of a published shard of a cache, complete or not: the little-endian bytes of `rows`,
/// which are counted within the segment. `at` is (view, segment).
///
/// # Errors
/// If the shard is not published, has no such rows, or is damaged.
pub fn published_rows(
    folder: &Path,
    manifest: &Manifest,
    array: usize,
    at: (usize, usize),
    rows: Range<usize>,
) -> Result<Vec<u8>> {
    let (view, segment) = at;
    let sum = manifest.segment(view, segment).and_then(|published| published.sum(array));
    let spec = manifest
        .view_arrays
        .get(array)
        .filter(|_| sum.is_some() && rows.end <= manifest.rows_of_segment(segment));
    let spec = spec.ok_or_else(|| {
        Error::input(format!("view {view}, segment {segment}: rows {rows:?} are not published"))
    })?;
    let (path, layout) =
        (folder.join(zarr::view_shard(spec, view, segment)), manifest.view_layout(spec, segment));
    let path = path.display().to_string();
    let shard = Shard::open(Path::new(&path), &layout, sum).map_err(|fault| fault.error(&path))?;
    let (mut decoder, mut out) = (Decoder::default(), Vec::new());
    for chunk in rows.start / spec.chunk_rows..rows.end.div_ceil(spec.chunk_rows) {
        let (first, end) = layout.rows_of(chunk);
        let decoded = shard.chunk(chunk).and_then(|encoded| decoder.chunk(&layout, encoded));
        let decoded =
            decoded.map_err(|fault| fault.error(&format!("{path}: rows {first}..{end}")))?;
        let wanted = (rows.start.max(first) - first)..(rows.end.min(end) - first);
        out.extend_from_slice(
            decoded
                .get(wanted.start * spec.row_bytes()..wanted.end * spec.row_bytes())
                .unwrap_or_default(),
        );
    }
    Ok(out)
}

/// Reads one array over `[view, row, …]`.
#[derive(Debug, Clone, Copy)]
pub struct ArrayReader<'a> {
    cache: &'a Cache,
    spec: &'a ArraySpec,
    shards: &'a [Shard],
}

/// Consecutive rows of one segment.
struct Piece<'a> {
    segment: usize,
    shard: &'a Shard,
    /// The first row, within the segment.
    first: usize,
    end: usize,
}

impl<'a> ArrayReader<'a> {
    /// The array's specification.
    #[must_use]
    pub fn spec(&self) -> &'a ArraySpec {
        self.spec
    }

    /// Asks the kernel to read ahead the pages that hold rows `first..first+rows` of a view.
    pub fn prefetch(&self, view: usize, first: usize, rows: usize) {
        let chunk_rows = self.spec.chunk_rows;
        for piece in self.pieces(view, first, rows) {
            if let Some(range) =
                piece.shard.range(piece.first / chunk_rows, piece.end.div_ceil(chunk_rows))
            {
                // only advice: pages that are not read ahead are read on demand
                let _ = piece.shard.map.advise_range(Advice::WillNeed, range.start, range.len());
            }
        }
    }

    /// Decodes rows `first..first+rows` of a view into `out` as little-endian bytes, replacing its
    /// contents. A thread reuses its own `decoder`.
    ///
    /// # Errors
    /// If the rows are outside the view, or a chunk is damaged (names the file and rows).
    pub fn read(
        &self,
        decoder: &mut Decoder,
        view: usize,
        first: usize,
        rows: usize,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let bytes = rows.checked_mul(self.spec.row_bytes()).filter(|_| self.has(view, first, rows));
        let bytes = bytes.ok_or_else(|| self.outside(view, first, rows))?;
        out.try_reserve(bytes.saturating_sub(out.len()))
            .context(|| format!("array `{}`: no memory for {rows} rows", self.spec.path))?;
        // not cleared: every byte is overwritten below, and zeroing would cost a tenth of the
        // decoding time
        out.resize(bytes, 0);
        let result = self.decode(decoder, view, first, rows, out);
        if result.is_err() {
            out.clear();
        }
        result
    }

    /// Like [`ArrayReader::read`], but decodes as many rows as fit in `out`, whose contents are
    /// unspecified after an error.
    ///
    /// # Errors
    /// As for [`ArrayReader::read`], and if `out` is not a whole number of rows.
    pub fn read_into(
        &self,
        decoder: &mut Decoder,
        view: usize,
        first: usize,
        out: &mut [u8],
    ) -> Result<()> {
        let row_bytes = self.spec.row_bytes().max(1);
        let rows = out.len() / row_bytes;
        if !out.len().is_multiple_of(row_bytes) || !self.has(view, first, rows) {
            return Err(self.outside(view, first, rows));
        }
        self.decode(decoder, view, first, rows, out)
    }

    fn has(&self, view: usize, first: usize, rows: usize) -> bool {
        let manifest = &self.cache.manifest;
        view < manifest.views && first.checked_add(rows).is_some_and(|end| end <= manifest.rows)
    }

    fn outside(&self, view: usize, first: usize, rows: usize) -> Error {
        let manifest = &self.cache.manifest;
        Error::input(format!(
            "array `{}`: requested rows {first}..{} of view {view}; there are {} rows and {} views",
            self.spec.path,
            first.saturating_add(rows),
            manifest.rows,
            manifest.views
        ))
    }

    fn decode(
        &self,
        decoder: &mut Decoder,
        view: usize,
        first: usize,
        rows: usize,
        mut out: &mut [u8],
    ) -> Result<()> {
        let (row_bytes, chunk_rows) = (self.spec.row_bytes(), self.spec.chunk_rows);
        for piece in self.pieces(view, first, rows) {
            let layout = self.cache.manifest.view_layout(self.spec, piece.segment);
            let mut row = piece.first;
            while row < piece.end {
                let chunk = row / chunk_rows;
                let start = chunk * chunk_rows;
                let end = piece.end.min(start + chunk_rows);
                let (target, rest) = out.split_at_mut((end - row) * row_bytes);
                let result = piece.shard.chunk(chunk).and_then(|encoded| {
                    if target.len() == layout.chunk_bytes() {
                        return decoder.chunk_into(&layout, encoded, target);
                    }
                    let bytes = decoder.chunk(&layout, encoded)?;
                    target.copy_from_slice(
                        &bytes[(row - start) * row_bytes..(end - start) * row_bytes],
                    );
                    Ok(())
                });
                result.map_err(|fault| {
                    fault.error(&self.place(view, piece.segment, layout.rows_of(chunk)))
                })?;
                (out, row) = (rest, end);
            }
            piece.shard.release(piece.first / chunk_rows, piece.end.div_ceil(chunk_rows));
        }
        Ok(())
    }

    /// Does only the unavoidable work on one segment of a view: each chunk's CRC-32C and
    /// decompression. This is the baseline that readers are measured against. Returns the number of
    /// decoded bytes.
    ///
    /// # Errors
    /// If a chunk is damaged.
    #[doc(hidden)] // for benchmarks
    pub fn bare(&self, decoder: &mut Decoder, view: usize, segment: usize) -> Result<usize> {
        let layout = self.cache.manifest.view_layout(self.spec, segment);
        let Some(shard) = self.shards.get(view * self.cache.manifest.segments_per_view() + segment)
        else {
            return Ok(0);
        };
        let Decoder { zstd, chunk: out } = decoder;
        out.resize(layout.chunk_bytes(), 0);
        for chunk in 0..layout.used_chunks() {
            let result =
                shard.chunk(chunk).and_then(|encoded| Ok(layout.decode(encoded, zstd, out)?));
            result
                .map_err(|fault| fault.error(&self.place(view, segment, layout.rows_of(chunk))))?;
        }
        shard.release(0, layout.used_chunks());
        Ok(layout.used_chunks() * layout.chunk_bytes())
    }

    /// The file and rows of a chunk, for messages.
    fn place(&self, view: usize, segment: usize, rows: (usize, usize)) -> String {
        let path = path_text(&self.cache.folder, &zarr::view_shard(self.spec, view, segment));
        let before = segment * self.cache.manifest.segment_rows;
        format!("{path}: rows {}..{}", before + rows.0, before + rows.1)
    }

    /// Splits rows at segment boundaries, dropping rows outside the view.
    fn pieces(
        &self,
        view: usize,
        first: usize,
        rows: usize,
    ) -> impl Iterator<Item = Piece<'a>> + use<'a> {
        let (manifest, shards) = (&self.cache.manifest, self.shards);
        let (segment_rows, segments) = (manifest.segment_rows, manifest.segments_per_view());
        let end =
            if view < manifest.views { first.saturating_add(rows).min(manifest.rows) } else { 0 };
        (first / segment_rows..end.div_ceil(segment_rows)).filter_map(move |segment| {
            let before = segment * segment_rows;
            let shard = shards.get(view * segments + segment)?;
            Some(Piece {
                segment,
                shard,
                first: first.saturating_sub(before),
                end: (end - before).min(segment_rows),
            })
        })
    }
}

/// The buffer and zstd context of one reading thread.
#[derive(Default)]
pub struct Decoder {
    zstd: zstd::bulk::Decompressor<'static>,
    chunk: Vec<u8>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Decoder {
    /// Decodes a chunk into the decoder's buffer.
    pub(super) fn chunk(&mut self, layout: &ShardLayout, encoded: &[u8]) -> Result<&[u8], Fault> {
        let bytes = layout.chunk_bytes();
        let more = bytes.saturating_sub(self.chunk.len());
        self.chunk.try_reserve(more).map_err(|e| Fault::Unreadable(e.into()))?;
        self.chunk.resize(bytes, 0);
        layout.decode(encoded, &mut self.zstd, &mut self.chunk)?;
        Ok(&self.chunk)
    }

    fn chunk_into(
        &mut self,
        layout: &ShardLayout,
        encoded: &[u8],
        out: &mut [u8],
    ) -> Result<(), Fault> {
        Ok(layout.decode(encoded, &mut self.zstd, out)?)
    }
}

#[cfg(test)]
mod tests;
