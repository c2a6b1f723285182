//! Damaged runs: a checkpoint with a bit flipped, metrics that are spoilt, a finished run without
//! its student.

use super::bench::{Bench, Faulty, SWEEP, TRAIN, judge};
use super::compare::{self, Tree};
use super::faults::unfinished;
use super::forge::flip;
use super::replay::materialise;
use super::states::{OUTPUT, on};
use crate::support::{Random, is_slow};

use std::fs;
use std::path::Path;

type SpoilBytes = fn(&mut Vec<u8>);
type SpoilFile = fn(&Path);

/// What goes on with an unfinished run.
fn resume() -> String {
    format!("{TRAIN} --checkpoint-steps 2 --resume")
}

/// Goes on with a run after a change to it: refused, or the same student as without the change.
fn go_on_after(
    bench: &Bench,
    before: &Tree,
    whole: &Tree,
    change: impl FnOnce(&Path) -> String,
) -> Faulty {
    let place = bench.place();
    let root = place.path();
    materialise(before, root);
    let changed = change(&root.join(OUTPUT));
    let done = bench.run(&on(&resume(), root));
    let path = format!("{OUTPUT}/student.onnx");
    let is_same = compare::runs(root).get(&path) == whole.get(&path);
    match done.code {
        _ if done.is_crash() => vec![format!("{changed}: {}", bench.brief(&done.said()))],
        Some(2) => Vec::new(),
        Some(0) if is_same => Vec::new(),
        Some(0) => vec![format!("{changed}: another student, and success is reported")],
        _ => vec![format!("{changed}: {}", bench.brief(&done.said()))],
    }
}

/// An unfinished run, and what it ends in.
fn prepare(bench: &Bench) -> (Tree, Tree) {
    let before = unfinished(bench);
    let place = bench.place();
    materialise(&before, place.path());
    bench.succeeds(&on(&resume(), place.path()));
    (before, compare::runs(place.path()))
}

/// F10.
#[test]
fn a_flipped_bit_of_a_checkpoint_makes_no_other_student() {
    let bench = Bench::with_cache();
    let (before, whole) = prepare(&bench);
    let count = if is_slow() { 60 } else { 12 };
    let cases: Vec<(String, u64)> = (1..=count).map(|seed| (seed.to_string(), seed)).collect();
    judge("checkpoint bit flips", &cases, |&seed| {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        Some(go_on_after(&bench, &before, &whole, |run| {
            let path = run.join("checkpoint.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            flip(&mut bytes, &mut random);
            fs::write(&path, bytes).unwrap();
            format!("checkpoint, seed {seed}")
        }))
    });
}

/// Metrics that are not what the checkpoint was written beside are put back from it.
#[test]
fn spoilt_metrics_are_put_back() {
    let bench = Bench::with_cache();
    // a whole epoch, so that there are lines before the checkpoint
    let line = format!("{TRAIN} --checkpoint-steps 2");
    let place = bench.place();
    bench.succeeds(&on(&line, place.path()));
    let sound = fs::read(place.path().join(OUTPUT).join("metrics.jsonl")).unwrap();
    let mut before = compare::everything(place.path());
    for name in ["run.json", "student.onnx"] {
        before.remove(&format!("{OUTPUT}/{name}"));
    }
    let spoils: [(&str, SpoilBytes); 4] = [
        ("zeros", |bytes| bytes[10..20].fill(0)),
        ("short", |bytes| bytes.truncate(30)),
        ("empty", Vec::clear),
        ("bit", |bytes| bytes[12] ^= 1),
    ];
    let cases = spoils.map(|(name, spoil)| (name.to_owned(), spoil));
    judge("spoilt metrics", &cases, |spoil| {
        let place = bench.place();
        materialise(&before, place.path());
        let path = place.path().join(OUTPUT).join("metrics.jsonl");
        let mut bytes = fs::read(&path).unwrap();
        spoil(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let done = bench.run(&on(&resume(), place.path()));
        let is_right = done.code == Some(0) && fs::read(&path).unwrap() == sound;
        Some(if is_right { Vec::new() } else { vec![bench.brief(&done.said())] })
    });
}

/// F16: a run is finished where its student is there, and the one that it made.
#[test]
fn a_finished_run_has_its_student() {
    let bench = Bench::with_cache();
    let spoils: [(&str, SpoilFile); 4] = [
        ("removed", |path| fs::remove_file(path).unwrap()),
        ("empty", |path| fs::write(path, b"").unwrap()),
        ("another", |path| {
            let mut bytes = fs::read(path).unwrap();
            let last = bytes.len() - 40;
            bytes[last] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("folder", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
    ];
    let scenes = [(TRAIN, ""), (SWEEP, "/student/KD/seed-0")].map(|(line, below)| {
        let place = bench.place();
        bench.succeeds(&on(line, place.path()));
        (line, below, compare::everything(place.path()), compare::runs(place.path()))
    });
    let mut cases = Vec::new();
    for scene in &scenes {
        for (name, spoil) in spoils {
            let command = scene.0.split(' ').next().unwrap();
            cases.push((format!("{command}-{name}"), (scene, spoil)));
        }
    }
    judge(
        "finished runs without their students",
        &cases,
        |((line, below, before, whole), spoil)| {
            let place = bench.place();
            materialise(before, place.path());
            let run = format!("{OUTPUT}{below}/student.onnx");
            spoil(&place.path().join(&run));
            let done = bench.run(&on(line, place.path()));
            // made again, or refused: not called finished
            let found = compare::runs(place.path());
            let is_right = match done.code {
                Some(0) => found.get(&run) == whole.get(&run),
                code => !done.is_crash() && matches!(code, Some(1 | 2)),
            };
            Some(if is_right { Vec::new() } else { vec![bench.brief(&done.said())] })
        },
    );
}
