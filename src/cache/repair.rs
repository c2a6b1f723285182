//! Removes damaged parts from a cache, so that the extraction that wrote it can fill the gaps.
//! Files derived from the manifest are rewritten; files that are not part of a cache are left
//! alone.

use super::{Finding, Manifest, document, verify, write, zarr};
use crate::error::{Context as _, Error, Result};
use crate::monitor::Monitor;
use crate::storage::{self, Lock};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A segment removed from the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Dropped {
    /// The view it belonged to.
    pub view: usize,
    /// Its index within the view.
    pub segment: usize,
    /// Its rows, `first..end` within the view.
    pub rows: (usize, usize),
}

/// The result of a repair.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// The problems found.
    pub findings: Vec<Finding>,
    /// Segments to be recomputed.
    pub dropped: Vec<Dropped>,
    /// Removed shards of row arrays (`sample_id`, `label`), whose values the extraction knows.
    pub removed: Vec<String>,
    /// Metadata documents that were rewritten.
    pub rewritten: Vec<String>,
    /// Files that are not part of a cache and were kept.
    pub left: Vec<String>,
}

impl RepairReport {
    /// Whether the extraction has to run again.
    #[must_use]
    pub fn needs_extraction(&self) -> bool {
        !self.dropped.is_empty() || !self.removed.is_empty()
    }

    /// Number of rows to be recomputed, in all views.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.dropped.iter().map(|d| d.rows.1 - d.rows.0).sum()
    }
}

/// Verifies a cache on `threads` threads and removes what is damaged. Segments with a damaged shard
/// are dropped from the manifest, then their shards are removed, as are the shards of damaged row
/// arrays, and each differing `zarr.json` is rewritten. An intact cache is not changed. A repair
/// that is killed at any moment can be repeated.
///
/// # Errors
/// If the folder is not a cache, its manifest is unusable (everything else depends on it), another
/// process is using it, the user asked to stop, or an I/O operation fails. If a file cannot be
/// read, its state is unknown and nothing is removed.
pub fn repair(folder: &Path, threads: usize, monitor: &dyn Monitor) -> Result<RepairReport> {
    // before taking the lock, which creates a file: a folder that is not a cache stays unchanged
    Manifest::load(folder)?;
    let lock = Lock::exclusive(folder)?;
    write::refuse_links(folder)?;
    let manifest = Manifest::load(folder)?;
    let findings = verify::check(folder, &manifest, threads, monitor)?.findings;
    if let Some(finding) = findings.iter().find(|finding| finding.unreadable) {
        let path = folder.join(&finding.file);
        return Err(Error::input(format!(
            "{}: {}; nothing was removed",
            path.display(),
            finding.problem
        ))
        .hint(
            "make it readable and repair again; if it is lost for good, remove it by hand first",
        ));
    }
    let metadata = zarr::documents(&manifest)?;
    let row_shards: BTreeSet<String> = manifest.row_arrays.iter().map(zarr::row_shard).collect();

    let mut report = RepairReport { findings, ..RepairReport::default() };
    let damaged: BTreeSet<String> =
        report.findings.iter().map(|finding| finding.file.clone()).collect();
    for path in damaged {
        if metadata.contains_key(&path) {
            report.rewritten.push(path);
        } else if row_shards.contains(&path) {
            report.removed.push(path);
        } else if let Some((_, view, segment)) = zarr::parse_view_shard(&manifest, &path) {
            // unpublished shards are swept below
            if manifest.segment(view, segment).is_some() {
                let first = segment * manifest.segment_rows;
                report.dropped.push(Dropped {
                    view,
                    segment,
                    rows: (first, first + manifest.rows_of_segment(segment)),
                });
            }
        } else if !storage::is_temporary(path.rsplit('/').next().unwrap_or(&path)) {
            report.left.push(path);
        }
    }
    report.dropped.sort_unstable();
    report.dropped.dedup();
    apply(&lock, manifest, &report)?;
    for path in &report.rewritten {
        if let Some(bytes) = metadata.get(path) {
            lock.replace(path, bytes)?;
        }
    }
    Ok(report)
}

/// The views and arrays of an abandoned extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Withdrawn {
    /// Number of views.
    pub views: usize,
    /// Paths of the arrays.
    pub arrays: Vec<String>,
    /// Total length of their published shards in bytes.
    pub bytes: u64,
}

/// Abandons the extension of a complete cache and restores the cache as it was before. If it is
/// killed at any moment, it can be repeated, or `repair` rewrites the metadata.
///
/// # Errors
/// If no extension is in progress, another process is using the cache, or an I/O operation fails.
pub fn withdraw(folder: &Path) -> Result<Withdrawn> {
    Manifest::load(folder)?;
    let lock = Lock::exclusive(folder)?;
    write::refuse_links(folder)?;
    let manifest = Manifest::load(folder)?;
    let part = manifest.before_extension().ok_or_else(|| {
        Error::input(format!(
            "cache {}: expected one that is being extended, found {}",
            folder.display(),
            if manifest.is_complete() {
                "a complete one"
            } else {
                "an unfinished first extraction"
            }
        ))
    })?;
    part.validate().context(|| format!("{}: what it was before", folder.display()))?;
    let published_bytes = |manifest: &Manifest| {
        manifest.segments.iter().flat_map(|s| &s.bytes).fold(0u64, |sum, &n| sum.saturating_add(n))
    };
    let withdrawn = Withdrawn {
        views: manifest.views - part.views,
        arrays: manifest.view_arrays[part.view_arrays.len()..]
            .iter()
            .map(|spec| spec.path.clone())
            .collect(),
        bytes: published_bytes(&manifest).saturating_sub(published_bytes(&part)),
    };
    // while the manifest still names the arrays, so that their files stay known after a kill
    let bare = Manifest { segments: part.segments.clone(), ..manifest.clone() };
    document::store(&lock, &bare)?;
    write::sweep(&lock, &bare)?;
    let (before, now) = (zarr::documents(&manifest)?, zarr::documents(&part)?);
    for path in before.keys().filter(|path| !now.contains_key(*path)) {
        lock.remove(path)?;
    }
    document::store(&lock, &part)?;
    write::write_documents(&lock, now)?;
    write::remove_empty(folder);
    Ok(withdrawn)
}

/// Drops segments, then removes shards. In this order, a shard that the manifest lists is never
/// missing.
fn apply(lock: &Lock, mut manifest: Manifest, report: &RepairReport) -> Result<()> {
    if !report.dropped.is_empty() {
        let is_dropped = |s: &super::Segment| {
            report.dropped.iter().any(|d| (d.view, d.segment) == (s.view, s.index))
        };
        manifest.segments.retain(|segment| !is_dropped(segment));
        manifest.settle();
        document::store(lock, &manifest)?;
    }
    let mut removed: Vec<PathBuf> = Vec::new();
    for path in &report.removed {
        if lock.remove(path)? {
            removed.push(lock.folder().join(path));
        }
    }
    storage::sync_dirs_between(lock.folder(), removed.iter().map(PathBuf::as_path))?;
    if report.findings.is_empty() { Ok(()) } else { write::sweep(lock, &manifest) }
}

#[cfg(test)]
mod tests {
    use super::super::{Cache, Codec, Writer, testing};
    use super::*;
    use crate::monitor::Silent;
    use std::fs;

    fn flip(path: &Path, at: usize) {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn damage_of_each_kind_is_removed_and_filled_again() {
        let (folder, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = |path: &str| folder.path().join(path);
        let plan = testing::plan(10, 2, Codec::Zstd);
        testing::write(whole.path(), &plan).unwrap();
        testing::write(folder.path(), &plan).unwrap();
        assert_eq!(repair(folder.path(), 1, &Silent).unwrap(), RepairReport::default());

        flip(&file("logits/c/1/2/0"), 3);
        flip(&file("input/c/1/2/0/0/0"), 3);
        fs::remove_file(file("inputs/mask/c/0/0")).unwrap();
        fs::write(file("label/c/0"), b"x").unwrap();
        fs::write(file("taps/zarr.json"), b"{}").unwrap();
        fs::write(file("taps/.zarr.json.tmp"), b"{}").unwrap();
        fs::write(file("taps/notes.txt"), b"mine").unwrap();
        let report = repair(folder.path(), 2, &Silent).unwrap();
        let dropped = |view, segment, rows| Dropped { view, segment, rows };
        assert_eq!(report.findings.len(), 6);
        assert_eq!(report.dropped, [dropped(0, 0, (0, 4)), dropped(1, 2, (8, 10))]);
        assert_eq!(
            (report.removed, report.rewritten, report.left),
            (
                vec!["label/c/0".to_owned()],
                vec!["taps/zarr.json".to_owned()],
                vec!["taps/notes.txt".to_owned()]
            )
        );
        // incomplete, but nothing is wrong except the foreign file and the missing array
        assert!(Cache::open(folder.path()).is_err());
        let left = verify::verify(folder.path(), 1, &Silent).unwrap();
        assert_eq!(
            left.findings.iter().map(|f| f.file.as_str()).collect::<Vec<_>>(),
            ["label/c/0", "taps/notes.txt"]
        );
        assert!(
            !file("logits/c/1/2/0").exists()
                && !file("taps/.zarr.json.tmp").exists()
                && !left.complete
        );

        let writer = Writer::open(folder.path(), &plan).unwrap();
        assert_eq!((writer.has(0, 0), writer.has(0, 1), writer.has(1, 2)), (false, true, false));
        drop(writer);
        testing::write(folder.path(), &plan).unwrap();
        fs::remove_file(file("taps/notes.txt")).unwrap();
        storage::walk(whole.path(), &mut |path| {
            assert_eq!(
                fs::read(whole.path().join(path)).unwrap(),
                fs::read(file(path)).unwrap(),
                "{path}"
            );
            Ok(())
        })
        .unwrap();
        assert_eq!(repair(folder.path(), 1, &Silent).unwrap(), RepairReport::default());
    }

    #[test]
    fn a_cache_in_use_and_a_folder_without_a_cache_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert!(repair(folder.path(), 1, &Silent).is_err());
        assert!(!folder.path().join(storage::LOCK).exists());
        testing::write(folder.path(), &testing::plan(10, 1, Codec::Raw)).unwrap();
        let reader = Cache::open(folder.path()).unwrap();
        assert!(repair(folder.path(), 1, &Silent).unwrap_err().to_string().contains("in use"));
        drop(reader);
        repair(folder.path(), 1, &Silent).unwrap();
    }

    #[test]
    fn a_target_of_a_broken_link_is_not_lost() {
        let (root, plan) = (tempfile::tempdir().unwrap(), testing::plan(10, 1, Codec::Raw));
        let (folder, disk) = (root.path().join("cache"), root.path().join("disk"));
        testing::write(&folder, &plan).unwrap();
        fs::rename(folder.join("logits"), &disk).unwrap();
        std::os::unix::fs::symlink(&disk, folder.join("logits")).unwrap();
        let count = || {
            let mut count = 0;
            storage::walk(&folder, &mut |_| {
                count += 1;
                Ok(())
            })
            .unwrap();
            count
        };
        let before = count();
        for target in [disk.clone(), root.path().join("unmounted")] {
            fs::rename(&disk, root.path().join("away")).unwrap();
            fs::rename(root.path().join("away"), &target).unwrap();
            let error = repair(&folder, 1, &Silent).unwrap_err().to_string();
            assert!(error.contains("a link that leads to no file"), "{error}");
            assert!(Writer::open(&folder, &plan).is_err());
            assert_eq!(count(), before);
        }
    }

    #[test]
    fn a_row_array_whose_folder_is_gone_is_repaired() {
        let (folder, plan) = (tempfile::tempdir().unwrap(), testing::plan(10, 1, Codec::Raw));
        testing::write(folder.path(), &plan).unwrap();
        fs::remove_dir_all(folder.path().join("label")).unwrap();
        let report = repair(folder.path(), 1, &Silent).unwrap();
        assert_eq!((report.removed, report.dropped), (vec!["label/c/0".to_owned()], Vec::new()));
        testing::write(folder.path(), &plan).unwrap();
        assert!(verify::verify(folder.path(), 1, &Silent).unwrap().findings.is_empty());
    }
}
