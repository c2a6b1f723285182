//! A killed extraction, run again, ends in the bytes of an uninterrupted one. The real binary, a real teacher, real kills.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SAMPLES: usize = 3000;
const KILLS: u32 = 10;
/// The lock file is no content.
const LOCK: &str = ".lock";

fn extract(folder: &Path, cache: &str, threads: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nst-cache"));
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.args([
        "extract",
        "teacher.onnx",
        "--data",
        "idx:data",
        "--preprocess",
        "fashion-mnist",
        "--batch",
        "32",
        "--threads",
        threads,
        "-o",
        cache,
    ]);
    command
}

/// Every file of a cache but the lock, by its path.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, files);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                files.insert(path.strip_prefix(root).unwrap().to_string_lossy().into_owned(), bytes);
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(folder, folder, &mut files);
    files.retain(|path, _| path != LOCK);
    files
}

fn segments(cache: &Path) -> usize {
    std::fs::read_to_string(cache.join("manifest.json")).map_or(0, |text| text.matches("\"crc32c\"").count())
}

#[test]
fn ten_kills_at_random_change_no_byte() {
    support::need_runtime();
    let folder = tempfile::tempdir().unwrap();
    support::write_teacher(&folder.path().join("teacher.onnx"));
    support::write_idx(&folder.path().join("data"), SAMPLES);

    let started = Instant::now();
    let whole = extract(folder.path(), "whole", "2").output().unwrap();
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let full = started.elapsed();

    let mut random = support::Random(0x5eed);
    let all = segments(&folder.path().join("whole"));
    let mut partial = 0;
    for kill in 0..KILLS {
        let mut child = extract(folder.path(), "killed", "2").spawn().unwrap();
        // short enough that ten of them together do not finish the work: some end before the first segment, some in the middle of one
        let wait = full.mul_f64(0.1 + 0.25 * random.unit());
        std::thread::sleep(wait.max(Duration::from_millis(20)));
        child.kill().unwrap();
        child.wait().unwrap();
        let published = segments(&folder.path().join("killed"));
        partial += u32::from((1..all).contains(&published));
        eprintln!("kill {kill} after {wait:?}: {published} of {all} segments");
    }
    assert!(partial > 0, "no kill left a cache between its first and its last segment: the test shows nothing");
    let last = extract(folder.path(), "killed", "2").output().unwrap();
    assert!(last.status.success(), "{}", String::from_utf8_lossy(&last.stderr));

    let (whole, killed) = (contents(&folder.path().join("whole")), contents(&folder.path().join("killed")));
    assert_eq!(whole.keys().collect::<Vec<_>>(), killed.keys().collect::<Vec<_>>());
    for (path, bytes) in &whole {
        assert!(killed[path] == *bytes, "{path} differs");
    }

    // and neither does the number of decoding threads
    let single = extract(folder.path(), "single", "1").output().unwrap();
    assert!(single.status.success());
    let single = contents(&folder.path().join("single"));
    let differing: Vec<_> = whole.iter().filter(|(path, bytes)| single.get(*path) != Some(bytes)).map(|(path, _)| path).collect();
    assert!(differing.is_empty(), "other bytes with one thread: {differing:?}");
}
