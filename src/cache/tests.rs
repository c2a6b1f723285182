//! What holds of the format as a whole: its bytes, and that no change of them goes unseen.

use super::{Cache, Codec, Decoder, file, testing, verify};
use crate::monitor::Silent;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

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

/// Whether opening a cache and reading all of it succeeds.
fn reads(folder: &Path) -> bool {
    let read = || -> crate::error::Result<()> {
        let cache = Cache::open(folder)?;
        let (manifest, mut decoder, mut out) = (cache.manifest(), Decoder::default(), Vec::new());
        for spec in &manifest.view_arrays {
            for view in 0..manifest.views {
                cache.array(&spec.path)?.read(&mut decoder, view, 0, manifest.rows, &mut out)?;
            }
        }
        Ok(())
    };
    read().is_ok()
}

fn is_sound(folder: &Path) -> bool {
    verify(folder, 1, &Silent).is_ok_and(|report| report.findings.is_empty())
}

/// The format's bytes. They change with [`super::Manifest::FORMAT`] alone (or where zstd's level-1 frames do, which readers need not notice):
/// `NST_BLESS=1 cargo test golden` writes them anew.
#[test]
fn golden_bytes() {
    for (name, codec) in [("zstd", Codec::Zstd), ("raw", Codec::Raw)] {
        let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(name);
        let folder = tempfile::tempdir().unwrap();
        testing::write(folder.path(), &testing::plan(6, 2, codec)).unwrap();
        let written = contents(folder.path());
        if std::env::var_os("NST_BLESS").is_some() {
            for (path, bytes) in &written {
                file::replace(&golden.join(path), bytes).unwrap();
            }
        }
        let expected = contents(&golden);
        assert_eq!(written.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "files of golden cache {name}");
        for (path, bytes) in &expected {
            assert!(written.get(path) == Some(bytes), "{name}/{path} differs from its golden bytes");
        }
        assert!(reads(&golden) && is_sound(&golden));
    }
}

#[test]
fn two_thousand_random_byte_changes_are_all_detected() {
    for codec in [Codec::Zstd, Codec::Raw] {
        let folder = tempfile::tempdir().unwrap();
        testing::write(folder.path(), &testing::plan(6, 1, codec)).unwrap();
        assert!(reads(folder.path()) && is_sound(folder.path()));
        let files: Vec<(PathBuf, Vec<u8>)> =
            contents(folder.path()).into_iter().map(|(path, bytes)| (folder.path().join(path), bytes)).collect();
        let mut state = 1;
        let mut below = |n: usize| usize::try_from(testing::splitmix(&mut state) % n as u64).unwrap();
        for _ in 0..1000 {
            let (path, bytes) = &files[below(files.len())];
            let (at, change) = (below(bytes.len()), 1 + below(255));
            // in place: some file systems flush a file that is truncated and written again
            let file = fs::File::options().write(true).open(path).unwrap();
            file.write_all_at(&[bytes[at] ^ u8::try_from(change).unwrap()], at as u64).unwrap();
            // opened and read as well: damage that verify sees must not make a reader panic
            let read = reads(folder.path());
            assert!(!is_sound(folder.path()), "{} byte {at} ^ {change}, read: {read}", path.display());
            let metadata = path.ends_with("zarr.json");
            assert!(read == metadata, "{} byte {at} ^ {change}: read: {read}", path.display());
            file.write_all_at(&bytes[at..=at], at as u64).unwrap();
        }
        assert!(reads(folder.path()) && is_sound(folder.path()));
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
