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
        error
            .to_string()
            .ends_with("taps/conv/features/c/1/1/0/0/0: rows 4..6: chunk checksum does not match"),
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
