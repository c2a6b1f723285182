//! A killed extraction, run again, ends in the bytes of an uninterrupted one. The real binary, a
//! real teacher, real kills.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use crate::support::{self, Ran, Sandbox, contents};

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Samples of the slow test, and of the other.
const SAMPLES: [usize; 2] = [2000, 800];
/// Kills of the slow test, and of the other.
const KILLS: [u32; 2] = [20, 5];

fn extract(folder: &Sandbox, cache: &str, threads: &str, views: &str, taps: &[&str]) -> Command {
    let mut command = folder.command(
        "extract teacher.onnx --data idx:data --preprocess fashion-mnist --batch 32 --augment \
         crop-flip --mixup 0.5 --cutmix 1 --keep features,mean,sign",
    );
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.args(["--threads", threads, "--views", views, "-o", cache]);
    command.args(taps.iter().flat_map(|tap| ["--tap", tap]));
    command
}

/// Shards that the manifest lists.
fn published(cache: &Path) -> usize {
    let Ok(text) = std::fs::read(cache.join("manifest.json")) else { return 0 };
    let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
    document["manifest"]["segments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["crc32c"].as_array().unwrap().len())
        .sum()
}

/// Runs to the end.
fn finish(mut command: Command) {
    let output = command.output().unwrap();
    Ran::new("extract", output).expect(0);
}

fn assert_same(folder: &Path, whole: &str, other: &str) {
    support::assert_same(&contents(&folder.join(whole)), &contents(&folder.join(other)));
}

/// Kills `command` at random moments of its time `full`; `done` is told of a cache that is
/// complete. How many left a cache between its first shards and its last.
fn kill(
    cache: &Path,
    kills: u32,
    full: Duration,
    all: usize,
    seed: u64,
    command: impl Fn() -> Command,
    done: impl Fn(),
) -> u32 {
    let mut random = support::Random(seed);
    let mut partial = 0;
    let there = published(cache);
    for kill in 0..kills {
        let mut child = command().spawn().unwrap();
        let wait = full.mul_f64(0.05 + 0.5 * random.unit());
        std::thread::sleep(wait.max(Duration::from_millis(20)));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = published(cache);
        partial += u32::from((there + 1..all).contains(&found));
        eprintln!("kill {kill} after {wait:?}: {found} of {all} shards");
        if found == all {
            done();
        }
    }
    partial
}

#[test]
fn kills_at_random_change_no_byte() {
    let folder = &Sandbox::with_runtime();
    let at = |cache: &str| folder.join(cache);
    support::write_teacher(&at("teacher.onnx"));
    support::write_idx(&at("data"), if support::is_slow() { SAMPLES[0] } else { SAMPLES[1] });
    let kills = if support::is_slow() { KILLS[0] } else { KILLS[1] };
    let taps = ["map2", "pooled", "map1@7x7=small"];
    let run = |cache: &str, threads: &str| extract(folder, cache, threads, "3", &taps);

    let started = Instant::now();
    finish(run("whole", "2"));
    let full = started.elapsed();
    let all = published(&at("whole"));
    // a cache that is complete is compared, and another one begun: every kill meets unfinished work
    let again = || {
        finish(run("killed", "2"));
        assert_same(folder, "whole", "killed");
        std::fs::remove_dir_all(at("killed")).unwrap();
    };
    let partial = kill(&at("killed"), kills, full, all, 0x5eed, || run("killed", "2"), again);
    assert!(
        partial > 0,
        "no kill left a cache between its first and its last segment: the test shows nothing"
    );
    finish(run("killed", "2"));
    assert_same(folder, "whole", "killed");

    // and neither does the number of decoding threads
    finish(run("single", "1"));
    assert_same(folder, "whole", "single");

    // nor kills while a view and a tap are added
    let more = |cache: &str| extract(folder, cache, "2", "5", &["map1"]);
    let started = Instant::now();
    finish(more("whole"));
    let all = published(&at("whole"));
    let partial = kill(&at("killed"), 3, started.elapsed(), all, 0xadd, || more("killed"), || ());
    assert!(partial > 0, "no kill left a cache to which some was added");
    finish(more("killed"));
    assert_same(folder, "whole", "killed");
}
