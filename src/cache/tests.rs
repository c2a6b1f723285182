//! Tests of the format as a whole: its bytes, and that every change to them is detected.

use super::{Cache, Codec, Decoder, testing, verify};
use crate::error::Result;
use crate::monitor::Silent;
use crate::storage;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Every file of a cache by path, except the lock.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    storage::walk(folder, &mut |path| {
        if path != storage::LOCK {
            files.insert(path.to_owned(), fs::read(folder.join(path)).unwrap());
        }
        Ok(())
    })
    .unwrap();
    files
}

/// Everything that a reader gets from a cache.
fn read(folder: &Path) -> Result<Vec<u8>> {
    let cache = Cache::open(folder)?;
    let (manifest, mut decoder, mut out) = (cache.manifest(), Decoder::default(), Vec::new());
    let mut all: Vec<u8> =
        cache.sample_ids().iter().chain(cache.labels()).flat_map(|v| v.to_le_bytes()).collect();
    for spec in &manifest.view_arrays {
        for view in 0..manifest.views {
            cache.array(&spec.path)?.read(&mut decoder, view, 0, manifest.rows, &mut out)?;
            all.extend(&out);
        }
    }
    Ok(all)
}

fn is_sound(folder: &Path) -> bool {
    verify(folder, 1, &Silent).is_ok_and(|report| report.findings.is_empty())
}

/// The format's bytes. They change only with the format version, or with zstd's level-1 frames,
/// which readers need not notice: `NST_BLESS=1 cargo test golden` rewrites them.
#[test]
fn golden_bytes() {
    let plans = [
        ("zstd", testing::plan(6, 2, Codec::Zstd)),
        ("raw", testing::plan(6, 2, Codec::Raw)),
        ("statistics", testing::plan_of(testing::statistics(Codec::Zstd))),
    ];
    for (name, plan) in plans {
        let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(name);
        let folder = tempfile::tempdir().unwrap();
        testing::write(folder.path(), &plan).unwrap();
        let written = contents(folder.path());
        if std::env::var_os("NST_BLESS").is_some() {
            for (path, bytes) in &written {
                let path = golden.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
        }
        let expected = contents(&golden);
        assert_eq!(
            written.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>(),
            "files of golden cache {name}"
        );
        for (path, bytes) in &expected {
            assert!(
                written.get(path) == Some(bytes),
                "{name}/{path} differs from its golden bytes"
            );
        }
        assert!(read(&golden).is_ok() && is_sound(&golden));
    }
}

#[test]
fn a_thousand_random_byte_changes_are_all_detected() {
    change_bytes(500);
}

#[test]
#[ignore = "half a minute; the test above makes a tenth of the changes"]
fn ten_thousand_random_byte_changes_are_all_detected() {
    change_bytes(5_000);
}

/// Caches of formats before 6, whose row arrays have no digests, are read, and are upgraded to the
/// current format when they are resumed.
#[test]
fn earlier_formats_are_read_and_resumed() {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
    for (name, format, plan) in [
        ("zstd", 1, testing::plan(6, 2, Codec::Zstd)),
        ("raw", 1, testing::plan(6, 2, Codec::Raw)),
        ("statistics", 3, testing::plan_of(testing::statistics(Codec::Zstd))),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for (path, bytes) in contents(&golden.join(name)) {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let earlier = golden.join("earlier").join(format!("{name}.json"));
        fs::copy(earlier, folder.path().join("manifest.json")).unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        assert_eq!((cache.manifest().format, cache.labels()), (format, plan.labels.as_slice()));
        drop(cache);
        assert!(is_sound(folder.path()));
        assert_eq!(read(folder.path()).unwrap(), read(&golden.join(name)).unwrap());
        testing::write(folder.path(), &plan).unwrap();
        assert!(contents(folder.path()) == contents(&golden.join(name)), "{name}");
    }
}

/// Changes `count` single bytes of all files of a cache, one at a time, for each codec: `verify`
/// names the file, a reader's error names it too, and neither panics. Only a change of a
/// `zarr.json`, which our reader ignores, leaves the data readable and unchanged.
fn change_bytes(count: usize) {
    for codec in [Codec::Zstd, Codec::Raw] {
        let folder = tempfile::tempdir().unwrap();
        testing::write(folder.path(), &testing::plan(6, 1, codec)).unwrap();
        let whole = read(folder.path()).unwrap();
        assert!(is_sound(folder.path()));
        let files: Vec<(String, Vec<u8>)> = contents(folder.path()).into_iter().collect();
        let mut state = 1;
        let mut below =
            |n: usize| usize::try_from(testing::splitmix(&mut state) % n as u64).unwrap();
        for _ in 0..count {
            let (path, bytes) = &files[below(files.len())];
            let (at, change) = (below(bytes.len()), 1 + below(255));
            let label = format!("{path} byte {at} ^ {change}");
            // in place: some file systems flush a file that is truncated and rewritten
            let file = fs::File::options().write(true).open(folder.path().join(path)).unwrap();
            file.write_all_at(&[bytes[at] ^ u8::try_from(change).unwrap()], at as u64).unwrap();
            match verify(folder.path(), 1, &Silent) {
                Ok(report) => assert!(
                    report.findings.iter().any(|finding| finding.file == *path),
                    "{label}: {:?}",
                    report.findings
                ),
                Err(error) => assert!(
                    path == "manifest.json" && error.chain().contains(path),
                    "{label}: {}",
                    error.chain()
                ),
            }
            match read(folder.path()) {
                Ok(data) => {
                    assert!(path.ends_with("zarr.json") && data == whole, "{label}: read as data");
                }
                Err(error) => assert!(error.chain().contains(path), "{label}: {}", error.chain()),
            }
            file.write_all_at(&bytes[at..=at], at as u64).unwrap();
        }
        assert!(read(folder.path()).unwrap() == whole && is_sound(folder.path()));
    }
}

#[test]
fn every_truncation_is_detected() {
    let folder = tempfile::tempdir().unwrap();
    testing::write(folder.path(), &testing::plan(6, 1, Codec::Zstd)).unwrap();
    for (path, bytes) in contents(folder.path()) {
        let file = folder.path().join(&path);
        for length in (0..bytes.len()).step_by(7) {
            fs::write(&file, &bytes[..length]).unwrap();
            assert!(!is_sound(folder.path()), "{path} cut at {length}");
        }
        fs::write(&file, [&bytes[..], b"\n"].concat()).unwrap();
        assert!(!is_sound(folder.path()), "{path} with a byte more");
        fs::write(&file, &bytes).unwrap();
    }
}
