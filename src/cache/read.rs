//! Reading a cache: shards are memory-mapped, every index is checked at open, every chunk when it
//! is decoded.

use super::shard::{Digest, Fault, Layout, Sum};
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

/// A cache open for reading, under a shared file lock. Share it between threads.
///
/// Shards are mapped into memory and their files closed, so that thousands of them need no file
/// handles. The contract of the maps: a published shard is never written again (a writer replaces
/// files by rename, which leaves a map as it is, and the shared lock keeps writers out); whoever
/// truncates a shard by other means while it is mapped gets a bus error when the lost pages are
/// read.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    manifest: Manifest,
    sample_ids: Vec<i64>,
    labels: Vec<i64>,
    /// The shards of each view array, by view, then segment.
    shards: Vec<Vec<Shard>>,
    /// The views and arrays that are being added to it, which are not read.
    extension: Option<String>,
    /// Holds the lock until the cache is dropped.
    lock: Option<Lock>,
}

/// A mapped shard and where its chunks begin (and the last one ends).
#[derive(Debug)]
struct Shard {
    map: Mmap,
    bounds: Vec<u64>,
    /// Its digest in the manifest, if that has it.
    digest: Option<u32>,
    /// Whether it was found to have that digest.
    is_checked: AtomicBool,
}

impl Cache {
    /// Opens a cache: manifest checksum, format version, every shard's length, index checksum,
    /// ranges and lengths, the row arrays whole. That a shard is the one that was published is
    /// checked when it is first read. Of a cache to which views or arrays are being added, what
    /// was complete before is read ([`Cache::extension`]).
    ///
    /// # Errors
    /// When it is no cache, incomplete (says how to complete it), damaged (names the file), of a
    /// newer format, or being written.
    pub fn open(folder: &Path) -> Result<Self> {
        let lock = Lock::shared(folder)?;
        let mut cache = Self::map(folder)?;
        // all that was mapped is of one cache
        lock.as_ref().map_or(Ok(()), Lock::check)?;
        cache.lock = lock;
        Ok(cache)
    }

    /// The same under a lock that the caller holds.
    pub(super) fn map(folder: &Path) -> Result<Self> {
        let found = Manifest::load(folder)?;
        let part = found.before_extension();
        let extension = part.as_ref().map(|_| {
            let (done, all) = (found.whole_segments(), found.segments_total());
            format!(
                "cache {}: being extended, {done} of {all} segments are whole: read as it was \
                 before that",
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

    /// What is said of a cache that is being extended, and read as it was before.
    #[must_use]
    pub fn extension(&self) -> Option<&str> {
        self.extension.as_deref()
    }

    /// What it is made of.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where it lies.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The seconds that the extraction took, over all its runs; `None` where that is not recorded,
    /// or the record cannot be read.
    #[must_use]
    pub fn extraction_seconds(&self) -> Option<f64> {
        extraction::seconds(&self.folder).ok().flatten()
    }

    /// The index of each row's sample in the data set.
    #[must_use]
    pub fn sample_ids(&self) -> &[i64] {
        &self.sample_ids
    }

    /// The label of each row, −1 unlabelled.
    #[must_use]
    pub fn labels(&self) -> &[i64] {
        &self.labels
    }

    /// Asks the system to drop the cache's pages from memory, so that the next read comes from the
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
                    // advice: what stays in memory is read from there
                    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
                }
            }
        }
    }

    /// A view array by path.
    ///
    /// # Errors
    /// When there is none (lists those there are).
    pub fn array(&self, path: &str) -> Result<ArrayReader<'_>> {
        let arrays = &self.manifest.view_arrays;
        let found = arrays.iter().zip(&self.shards).find(|(spec, _)| spec.path == path);
        found.map(|(spec, shards)| ArrayReader { cache: self, spec, shards }).ok_or_else(|| {
            let there = arrays.iter().map(|spec| spec.path.as_str()).collect::<Vec<_>>().join(", ");
            Error::input(format!("cache {}: there is no array `{path}`", self.folder.display()))
                .hint(format!("it has {there}"))
        })
    }
}

impl Shard {
    fn open(path: &Path, layout: &Layout, sum: Option<Sum>) -> Result<Self, Fault> {
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
        let at = map.len().checked_sub(layout.index_bytes());
        let index = at.and_then(|at| map.get(at..)).ok_or_else(|| "truncated".to_owned())?;
        let (bounds, _) = layout.read_index(index, length)?;
        let digest = sum.map(|sum| sum.crc32c);
        Ok(Self { map, bounds, digest, is_checked: AtomicBool::new(digest.is_none()) })
    }

    /// Checks once that it is the shard that was published, by the checksums of all its chunks.
    fn check(&self) -> Result<(), Fault> {
        if self.is_checked.load(Ordering::Relaxed) {
            return Ok(());
        }
        // a page a chunk: what the system reads ahead of each would be most of the shard
        let _ = self.map.advise(Advice::Random);
        let mut digest = Digest::default();
        for chunk in 0..self.bounds.len().saturating_sub(1) {
            digest.add(self.encoded(chunk)?);
        }
        digest.add(&self.map);
        let _ = self.map.advise(Advice::Normal);
        if self.digest.is_some_and(|expected| expected != digest.value()) {
            return Err(OTHER.to_owned().into());
        }
        self.is_checked.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Lets go of the pages of chunks that were read, so that a process's memory does not grow with
    /// the cache. They stay in the page cache, from where a reader of a neighbouring chunk maps a
    /// shared page again.
    fn release(&self, first: usize, end: usize) {
        let Some(range) = self.range(first, end) else { return };
        // SAFETY: the map is of a file, shared and read-only, so the next access to a released page
        // finds the file's bytes again: nothing that was read through the map can change by this.
        let released = unsafe {
            self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
        };
        // advice: pages that stay are given back when memory is short
        let _ = released;
    }

    /// The encoded bytes of chunks `first..end`, as a range of the map.
    fn range(&self, first: usize, end: usize) -> Option<std::ops::Range<usize>> {
        Some(
            usize::try_from(*self.bounds.get(first)?).ok()?
                ..usize::try_from(*self.bounds.get(end)?).ok()?,
        )
    }

    /// A chunk's bytes, of a shard that is the one that was published.
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

/// What is wrong with a shard that is sound and another one.
pub(super) const OTHER: &str = "sound, but not the shard that was published";

/// A file of a cache, as messages name it.
fn shown(folder: &Path, path: &str) -> String {
    folder.join(path).display().to_string()
}

fn incomplete(folder: &Path, manifest: &Manifest) -> Error {
    let (done, all) = (manifest.whole_segments(), manifest.segments_total());
    Error::input(format!(
        "cache {}: incomplete, {done} of {all} segments are there",
        folder.display()
    ))
    .hint("run the same `nst-cache extract` command again: it goes on where it stopped")
}

/// The values of the row arrays: sample ids, each once and in the data set, and labels, each a
/// class or −1.
fn row_arrays(folder: &Path, manifest: &Manifest) -> Result<(Vec<i64>, Vec<i64>)> {
    let read = |path: &str| {
        let (spec, sum) = manifest.row_array(path).ok_or_else(|| {
            Error::input(format!("cache {}: there is no array `{path}`", folder.display()))
        })?;
        let values = row_array(folder, manifest, spec, sum);
        values.map_err(|fault| fault.error(&shown(folder, &zarr::row_shard(spec))))
    };
    let (sample_ids, labels) = (read(manifest::SAMPLE_ID)?, read(manifest::LABEL)?);
    for (path, values) in [(manifest::SAMPLE_ID, &sample_ids), (manifest::LABEL, &labels)] {
        let wrong = values.iter().enumerate().find_map(|(row, &value)| {
            wrong_value(manifest, path, value).map(|problem| format!("row {row}: {problem}"))
        });
        // a fifth of the time of a set
        let twice = || {
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let twice = sorted.windows(2).find(|pair| pair.first() == pair.last())?;
            Some(format!("sample {}: there twice", twice.first()?))
        };
        let is_unique = path == manifest::SAMPLE_ID;
        if let Some(problem) = wrong.or_else(|| if is_unique { twice() } else { None }) {
            let place = format!("cache {}: array `{path}`", folder.display());
            return Err(Fault::Damaged(problem).error(&place));
        }
    }
    Ok((sample_ids, labels))
}

/// What is wrong with a value of a row array: a sample index is one of the data set's, a label is a
/// class, or −1.
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

/// Reads a row array whole. `sum`: length and digest of its shard, where it has to have them.
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

/// The sample ids of a cache, complete or not; `None` where they are missing or damaged.
///
/// # Errors
/// When they cannot be read.
pub fn sample_ids(folder: &Path, manifest: &Manifest) -> Result<Option<Vec<i64>>> {
    let Some((spec, sum)) = manifest.row_array(manifest::SAMPLE_ID) else { return Ok(None) };
    match row_array(folder, manifest, spec, sum) {
        Ok(ids) => Ok(Some(ids)),
        Err(Fault::Missing | Fault::Damaged(_)) => Ok(None),
        Err(fault) => Err(fault.error(&shown(folder, &zarr::row_shard(spec)))),
    }
}

/// How many of each segment's published arrays are there as they were published: the first so
/// many. Looks at one page of each chunk.
///
/// # Errors
/// When one cannot be read, so that it is not known.
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

/// Checks that a shard is the one that was published. Reads, and maps nothing: here a failing disk
/// is an error and no bus error.
fn is_published(path: &Path, layout: &Layout, sum: Option<Sum>) -> Result<(), Fault> {
    let file = storage::open(path)?;
    let length = file.metadata()?.len();
    if sum.is_some_and(|sum| sum.bytes != length) {
        return Err("of another length".to_owned().into());
    }
    let at = length.checked_sub(layout.index_bytes() as u64);
    let at = at.ok_or_else(|| "truncated".to_owned())?;
    (&file).seek(SeekFrom::Start(at))?;
    let (bounds, stored) = layout.read_index(BufReader::new(&file), length)?;
    let mut digest = Digest::default();
    let mut checksum = stored;
    for end in bounds.iter().skip(1) {
        let at = end - checksum.len() as u64;
        file.read_exact_at(&mut checksum, at)?;
        digest.add(&checksum);
    }
    digest.add(&stored);
    if sum.is_some_and(|sum| sum.crc32c != digest.value()) {
        return Err(OTHER.to_owned().into());
    }
    Ok(())
}

/// Rows of a published shard of a cache, complete or not: little-endian bytes of `rows`, counted
/// within the segment.
///
/// # Errors
/// When it is not published, has no such rows, or is damaged.
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

/// One array over `[view, row, …]`.
#[derive(Debug, Clone, Copy)]
pub struct ArrayReader<'a> {
    cache: &'a Cache,
    spec: &'a ArraySpec,
    shards: &'a [Shard],
}

/// Consecutive rows that lie in one segment.
struct Piece<'a> {
    segment: usize,
    shard: &'a Shard,
    /// Within the segment.
    first: usize,
    end: usize,
}

impl<'a> ArrayReader<'a> {
    /// Its specification.
    #[must_use]
    pub fn spec(&self) -> &'a ArraySpec {
        self.spec
    }

    /// Asks the kernel to read the pages that hold rows `first..first+rows` of a view ahead.
    pub fn prefetch(&self, view: usize, first: usize, rows: usize) {
        let chunk_rows = self.spec.chunk_rows;
        for piece in self.pieces(view, first, rows) {
            if let Some(range) =
                piece.shard.range(piece.first / chunk_rows, piece.end.div_ceil(chunk_rows))
            {
                // advice: what cannot be read ahead is read when it is asked for
                let _ = piece.shard.map.advise_range(Advice::WillNeed, range.start, range.len());
            }
        }
    }

    /// Decodes rows `first..first+rows` of a view into `out` (what it held is replaced),
    /// little-endian bytes; `decoder` is reused by one thread.
    ///
    /// # Errors
    /// When the rows are outside the view, or a chunk is damaged (names file, rows).
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
        // not cleared: every byte is overwritten below, and zeroing them first would cost a tenth
        // of the decoding
        out.resize(bytes, 0);
        let result = self.decode(decoder, view, first, rows, out);
        if result.is_err() {
            out.clear();
        }
        result
    }

    /// As [`ArrayReader::read`], as many rows as `out` takes, whose bytes are not to be used after
    /// an error.
    ///
    /// # Errors
    /// As there, and when `out` is not a whole number of rows.
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
            "array `{}`: rows {first}..{} of view {view} asked for, there are {} rows and {} views",
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

    /// Does to one segment of a view what cannot be left out, and nothing else: each chunk's
    /// CRC-32C, and its decompression. What a reader is measured against. Gives the bytes that came
    /// out.
    ///
    /// # Errors
    /// When a chunk is damaged.
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

    /// The file and the rows of a chunk, as messages name them.
    fn place(&self, view: usize, segment: usize, rows: (usize, usize)) -> String {
        let path = shown(&self.cache.folder, &zarr::view_shard(self.spec, view, segment));
        let before = segment * self.cache.manifest.segment_rows;
        format!("{path}: rows {}..{}", before + rows.0, before + rows.1)
    }

    /// Splits rows at the segments' bounds; rows outside the view are left out.
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

/// Buffers and the zstd context of one reading thread.
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
    /// Decodes a chunk into the decoder's own buffer.
    pub(super) fn chunk(&mut self, layout: &Layout, encoded: &[u8]) -> Result<&[u8], Fault> {
        let bytes = layout.chunk_bytes();
        let more = bytes.saturating_sub(self.chunk.len());
        self.chunk.try_reserve(more).map_err(|e| Fault::Unreadable(e.into()))?;
        self.chunk.resize(bytes, 0);
        layout.decode(encoded, &mut self.zstd, &mut self.chunk)?;
        Ok(&self.chunk)
    }

    fn chunk_into(&mut self, layout: &Layout, encoded: &[u8], out: &mut [u8]) -> Result<(), Fault> {
        Ok(layout.decode(encoded, &mut self.zstd, out)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Codec, Writer, testing};
    use super::*;
    use std::fs;

    #[test]
    fn every_range_of_rows_is_what_was_written() {
        for codec in [Codec::Zstd, Codec::Raw] {
            let folder = tempfile::tempdir().unwrap();
            let plan = testing::plan(10, 2, codec);
            testing::write(folder.path(), &plan).unwrap();
            let cache = Cache::open(folder.path()).unwrap();
            assert_eq!(
                (cache.sample_ids(), cache.labels()),
                (plan.sample_ids.as_slice(), plan.labels.as_slice())
            );
            assert_eq!(cache.manifest().teacher.top1_basis_points, Some(9_125));
            let (mut decoder, mut out) = (Decoder::default(), vec![9; 1000]);
            for spec in &plan.manifest.view_arrays {
                let array = cache.array(&spec.path).unwrap();
                assert_eq!(array.spec(), spec);
                for view in 0..2 {
                    for first in 0..10 {
                        for rows in 0..=10 - first {
                            array.prefetch(view, first, rows);
                            array.read(&mut decoder, view, first, rows, &mut out).unwrap();
                            assert_eq!(
                                out,
                                testing::rows(spec, view, first..first + rows),
                                "{} view {view} rows {first}+{rows}",
                                spec.path
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn rows_outside_are_refused_and_not_prefetched() {
        let folder = tempfile::tempdir().unwrap();
        testing::write(folder.path(), &testing::plan(10, 1, Codec::Zstd)).unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let array = cache.array("logits").unwrap();
        for (view, first, rows) in [
            (1, 0, 1),
            (0, 10, 1),
            (0, 0, 11),
            (0, usize::MAX, 1),
            (0, 1, usize::MAX),
            (usize::MAX, 0, 0),
        ] {
            array.prefetch(view, first, rows);
            assert!(
                array.read(&mut Decoder::default(), view, first, rows, &mut Vec::new()).is_err(),
                "{view} {first} {rows}"
            );
        }
        let error = cache.array("logit").unwrap_err();
        assert!(error.find_hint().is_some_and(|h| h.contains("logits, taps/conv/features")));
    }

    #[test]
    fn an_incomplete_cache_says_how_far_it_is_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(folder.path(), &testing::plan(10, 2, Codec::Zstd)).unwrap();
        testing::publish(&mut writer, 0, 0).unwrap();
        drop(writer);
        let error = Cache::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("1 of 6 segments"), "{error}");
        assert!(error.find_hint().is_some_and(|h| h.contains("again")));
        assert!(
            Cache::open(&folder.path().join("nowhere"))
                .unwrap_err()
                .to_string()
                .contains("no cache there")
        );
    }

    #[test]
    fn a_damaged_chunk_is_named_by_file_and_rows() {
        let folder = tempfile::tempdir().unwrap();
        testing::write(folder.path(), &testing::plan(10, 2, Codec::Zstd)).unwrap();
        let path = folder.path().join("taps/conv/features/c/1/1/0/0/0");
        let mut bytes = fs::read(&path).unwrap();
        bytes[0] ^= 1;
        fs::write(&path, bytes).unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let array = cache.array("taps/conv/features").unwrap();
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        let error = array.read(&mut decoder, 1, 0, 10, &mut out).unwrap_err();
        assert!(
            error.to_string().ends_with(
                "taps/conv/features/c/1/1/0/0/0: rows 4..6: chunk checksum does not match"
            ),
            "{error}"
        );
        assert!(out.is_empty());
        array.read(&mut decoder, 1, 6, 4, &mut out).unwrap();
        array.read(&mut decoder, 0, 0, 10, &mut out).unwrap();
    }

    #[test]
    fn a_truncated_or_missing_shard_is_seen_at_open() {
        let folder = tempfile::tempdir().unwrap();
        testing::write(folder.path(), &testing::plan(10, 1, Codec::Raw)).unwrap();
        for name in ["input/c/0/2/0/0/0", "label/c/0"] {
            let path = folder.path().join(name);
            let bytes = fs::read(&path).unwrap();
            for length in 0..bytes.len() {
                fs::write(&path, &bytes[..length]).unwrap();
                let error = Cache::open(folder.path()).unwrap_err();
                assert!(error.to_string().contains(name), "{error}");
            }
            fs::remove_file(&path).unwrap();
            assert!(Cache::open(folder.path()).unwrap_err().to_string().contains(name));
            fs::write(&path, &bytes).unwrap();
        }
        Cache::open(folder.path()).unwrap();
    }

    #[test]
    fn a_copy_without_its_lock_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        testing::write(folder.path(), &testing::plan(10, 1, Codec::Zstd)).unwrap();
        fs::remove_file(folder.path().join(storage::LOCK)).unwrap();
        Cache::open(folder.path()).unwrap();
    }
}
