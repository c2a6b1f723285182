//! Damage, a full disk, samples that cannot be read, a reader that goes away: what is said, and
//! what is left to go on with. What bad use and bad input are told is in `snapshots/errors.rs`.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use crate::support::{self, PROGRAM, Ran, Sandbox};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The file of the first segment of a stored map.
fn shard(cache: &Path, tap: &str) -> PathBuf {
    cache.join("taps").join(tap).join("features/c/0/0/0/0/0")
}

#[test]
fn a_damaged_shard_is_named() {
    let folder = &Sandbox::with_runtime().teacher().data(40);
    folder.succeeds(
        "extract teacher.onnx --data idx:data --preprocess fashion-mnist --tap map1 --tap map2",
    );
    let train = "train resnet8 --cache cache/teacher --epochs 1 --criterion nst:pair=map1>layer1";
    let path = shard(&folder.join("cache/teacher"), "map1");
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[100] ^= 1;
    let damages: [(&str, Option<&[u8]>); 3] = [
        ("truncated", Some(&whole[..whole.len() - 9])),
        ("missing", None),
        ("flipped", Some(&flipped)),
    ];
    for (what, bytes) in damages {
        match bytes {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let file = "taps/map1/features/c/0/0/0/0/0";
        folder.refused(&format!("{train} -o runs/{what}"), &[file]);
        folder.run("cache verify cache/teacher").expect(1).says(&[file, "1 problem"]);
    }
    std::fs::write(&path, &whole).unwrap();
    folder.succeeds("cache verify cache/teacher");
}

/// A limit on the length of files stands for a full disk: the write fails half-way.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_full_leaves_what_can_be_gone_on_with() {
    let folder = &Sandbox::with_runtime().teacher().data(40);
    let command = "extract teacher.onnx --data idx:data --store f32 --tap map1";
    let limited = Command::new("bash")
        .args(["-c", &format!("trap '' XFSZ; ulimit -f 100; exec \"$0\" {command}"), PROGRAM])
        .current_dir(&**folder)
        .output()
        .unwrap();
    Ran::new(command, limited).expect(2).says(&["cannot write", "taps/map1"]);
    let temporary = |path: &String| Path::new(path).extension().is_some_and(|e| e == "tmp");
    assert!(!folder.listing().iter().any(temporary), "a temporary file is left");
    folder.succeeds(command);
    folder.succeeds("cache verify cache/teacher");
}

#[test]
fn skip_bad_leaves_unreadable_samples_out_and_says_so() {
    let folder = &Sandbox::with_runtime().teacher();
    support::write_images(&folder.join("images"), 12);
    folder.file("images/b/broken.png", b"\x89PNG\r\n\x1a\nand then nothing");
    let line = "extract teacher.onnx --data folder:images --channels gray --skip-bad --json";
    let ran = folder.run(line).expect(0);
    ran.says(&["b/broken.png"]);
    let report = ran.json();
    assert_eq!((&report["rows"], &report["skipped"]), (&12.into(), &1.into()));
    folder.succeeds("cache verify cache/teacher");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut command = Sandbox::new().command("completions zsh");
    command.current_dir("/").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran::new("completions zsh", child.wait_with_output().unwrap()).expect(0);
    assert_eq!(ran.stderr, "");
}
