//! `extraction.json`: the time that the extraction took, in seconds. It is not part of the content,
//! so a cache's bytes depend neither on the speed of the extraction nor on its interruptions. It is
//! framed and hashed like the manifest.

use super::document;
use super::shard::Fault;
use crate::error::{Context, Error, Result};
use crate::storage::{self, Lock};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The file's name in the cache's folder.
pub(super) const NAME: &str = "extraction.json";

const BYTES_MAX: u64 = 4096;
const KEY: &str = "extraction";

/// The time taken by the runs that wrote a cache.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Extraction {
    /// The sum of each run's wall time up to the last segment that it published.
    seconds: f64,
}

/// The seconds that the extraction took; `None` if they are not recorded.
///
/// # Errors
/// If the record is damaged.
pub fn seconds(folder: &Path) -> Result<Option<f64>> {
    let Some(bytes) = read(folder)? else { return Ok(None) };
    let path = folder.join(NAME);
    decode(&bytes).map_err(|problem| Error::input(format!("{}: {problem}", path.display())))
}

/// The problem with the record, if any.
pub(super) fn problem(folder: &Path) -> Option<Fault> {
    match storage::try_read(&folder.join(NAME), BYTES_MAX) {
        Ok(bytes) => decode(&bytes?).err().map(Fault::Damaged),
        Err(error) => Some(error.into()),
    }
}

/// The recorded seconds; a damaged record counts as missing.
///
/// # Errors
/// If the file cannot be read.
pub(super) fn seconds_if_whole(folder: &Path) -> Result<Option<f64>> {
    Ok(read(folder)?.and_then(|bytes| decode(&bytes).ok().flatten()))
}

fn read(folder: &Path) -> Result<Option<Vec<u8>>> {
    storage::read_bounded(&folder.join(NAME), BYTES_MAX)
}

fn decode(bytes: &[u8]) -> Result<Option<f64>, String> {
    let body = document::unframe(KEY, bytes)?;
    let record: Extraction = serde_json::from_slice(body).map_err(|e| format!("damaged: {e}"))?;
    Ok(Some(record.seconds).filter(|seconds| seconds.is_finite() && *seconds >= 0.0))
}

/// Replaces the record.
pub(super) fn store(lock: &Lock, seconds: f64) -> Result<()> {
    // milliseconds: anything finer is noise
    let record = Extraction { seconds: (seconds * 1e3).round() / 1e3 };
    let body =
        serde_json::to_vec(&record).context(|| format!("{NAME}: cannot be written as JSON"))?;
    lock.replace(NAME, &document::frame(KEY, &body))
}

#[cfg(test)]
mod tests {
    use super::super::{Cache, Codec, Writer, testing, verify};
    use super::*;
    use crate::monitor::Silent;
    use std::time::{Duration, Instant};

    /// An instant this many seconds ago.
    fn ago(seconds: u64) -> Instant {
        Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap()
    }

    fn recorded(folder: &Path) -> f64 {
        super::seconds(folder).unwrap().unwrap()
    }

    #[test]
    fn runs_add_up_segment_by_segment() {
        let folder = tempfile::tempdir().unwrap();
        let plan = testing::plan(6, 2, Codec::Zstd);
        let mut writer = Writer::open(folder.path(), &plan).unwrap();
        writer.count_from(ago(100)).unwrap();
        assert_eq!(super::seconds(folder.path()).unwrap(), Some(0.0), "nothing is published");
        testing::publish(&mut writer, 0, 0).unwrap();
        assert!((100.0..110.0).contains(&recorded(folder.path())));
        drop(writer);
        // killed here and resumed
        let mut writer = Writer::open(folder.path(), &plan).unwrap();
        writer.count_from(ago(20)).unwrap();
        testing::publish(&mut writer, 0, 1).unwrap();
        testing::publish(&mut writer, 1, 0).unwrap();
        testing::publish(&mut writer, 1, 1).unwrap();
        drop(writer);
        assert!((120.0..130.0).contains(&recorded(folder.path())));
        assert_eq!(
            Cache::open(folder.path()).unwrap().extraction_seconds(),
            Some(recorded(folder.path()))
        );
        // added views add their own time
        let mut writer = Writer::open(folder.path(), &testing::plan(6, 3, Codec::Zstd)).unwrap();
        writer.count_from(ago(7)).unwrap();
        testing::publish(&mut writer, 2, 0).unwrap();
        testing::publish(&mut writer, 2, 1).unwrap();
        drop(writer);
        assert!((127.0..140.0).contains(&recorded(folder.path())));
        assert!(verify(folder.path(), 1, &Silent).unwrap().findings.is_empty());
    }

    #[test]
    fn a_cache_begun_without_a_record_gets_none() {
        let folder = tempfile::tempdir().unwrap();
        let plan = testing::plan(6, 1, Codec::Raw);
        testing::publish(&mut Writer::open(folder.path(), &plan).unwrap(), 0, 0).unwrap();
        let mut writer = Writer::open(folder.path(), &plan).unwrap();
        writer.count_from(ago(5)).unwrap();
        testing::publish(&mut writer, 0, 1).unwrap();
        assert_eq!(super::seconds(folder.path()).unwrap(), None);
    }

    #[test]
    fn every_changed_byte_is_found_and_costs_the_record_alone() {
        let folder = tempfile::tempdir().unwrap();
        testing::write(folder.path(), &testing::plan(6, 1, Codec::Raw)).unwrap();
        store(&Lock::exclusive(folder.path()).unwrap(), 12.5).unwrap();
        let path = folder.path().join(NAME);
        let sound = std::fs::read(&path).unwrap();
        assert!(verify(folder.path(), 1, &Silent).unwrap().findings.is_empty());
        for at in 0..sound.len() {
            let mut bad = sound.clone();
            bad[at] ^= 0x04;
            std::fs::write(&path, &bad).unwrap();
            let findings = verify(folder.path(), 1, &Silent).unwrap().findings;
            assert_eq!(
                findings.iter().map(|f| f.file.as_str()).collect::<Vec<_>>(),
                [NAME],
                "byte {at}"
            );
            assert_eq!(Cache::open(folder.path()).unwrap().extraction_seconds(), None, "byte {at}");
        }
    }
}
