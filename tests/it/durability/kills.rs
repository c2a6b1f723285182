//! Kills at random moments, then the same command: the same bytes.

use super::bench::{Bench, EXTRACT, Faulty, PATIENCE, SWEEP, TRAIN, finish, judge};
use super::compare::{self, Tree};
use super::states::{OUTPUT, go_on, on};
use crate::support::{Random, is_slow};

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// Kills a command up to four times on the way to its end.
fn kill_often(bench: &Bench, line: &str, is_cache: bool, full: Duration, seed: u64) -> Vec<String> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let place = bench.place();
    let root = place.path();
    let mut faulty = Vec::new();
    let whole = contents(bench, line, is_cache);
    for _ in 0..=random.next() >> 62 {
        let is_begun = root.join(OUTPUT).join("checkpoint.safetensors").exists();
        let resume = if line.starts_with("train ") && is_begun { " --resume" } else { "" };
        let line = on(line, root) + resume;
        let mut child = bench.command(&line).spawn().unwrap();
        std::thread::sleep(full.mul_f64(0.05 + 0.95 * random.unit()));
        // one that has ended already is fine
        let _ = child.kill();
        let done = finish(child, PATIENCE);
        wait_for_children(root);
        if done.signal != Some(9) && done.code != Some(0) {
            faulty.push(format!("before it was killed: {}", bench.brief(&done.said())));
        }
        if is_cache {
            let done = bench.run(&on("cache verify", root));
            if done.is_crash() {
                faulty.push(format!("verify after a kill: {}", bench.brief(&done.said())));
            }
        }
    }
    let done = go_on(bench, line, root);
    if done.code == Some(0) {
        let found = if is_cache { compare::cache(root) } else { compare::runs(root) };
        compare::expect_equal("at the end", &found, &whole, &mut faulty);
    } else {
        faulty.push(format!("the same command: {}", bench.brief(&done.said())));
    }
    faulty
}

/// What the command ends in when nobody kills it; made once a bench.
fn contents(bench: &Bench, line: &str, is_cache: bool) -> Tree {
    let root = bench.at("whole");
    assert!(root.join(OUTPUT).exists(), "{line}");
    if is_cache { compare::cache(&root) } else { compare::runs(&root) }
}

/// A killed sweep's run ends by itself, a moment later; until then it holds its log.
fn wait_for_children(root: &Path) {
    let started = Instant::now();
    for path in compare::everything(root).into_keys().filter(|path| compare::is_log(path)) {
        let log = File::open(root.join(path)).unwrap();
        while log.try_lock().is_err() {
            assert!(started.elapsed() < PATIENCE, "a run outlives its sweep");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn play(what: &str, bench: &Bench, line: &str, is_cache: bool, tried: [u64; 2]) {
    let started = Instant::now();
    bench.succeeds(&on(line, &bench.at("whole")));
    let full = started.elapsed();
    let cases: Vec<(String, u64)> =
        (1..=tried[usize::from(is_slow())]).map(|seed| (seed.to_string(), seed)).collect();
    judge(&format!("kills at random moments, {what}"), &cases, |&seed| -> Option<Faulty> {
        Some(kill_often(bench, line, is_cache, full, seed))
    });
}

#[test]
fn extract() {
    play("extract", &Bench::new(), EXTRACT, true, [5, 45]);
}

#[test]
fn train() {
    let line = format!("{TRAIN} --checkpoint-steps 2");
    play("train", &Bench::with_cache(), &line, false, [5, 45]);
}

#[test]
fn sweep() {
    play("sweep", &Bench::with_cache(), SWEEP, false, [3, 15]);
}
