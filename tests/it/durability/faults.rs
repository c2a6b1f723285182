//! Faults: one call fails, or it and all later ones. The program says so, reports no success that
//! is none, and the same command afterwards ends in the same bytes.

use super::bench::{
    Bench, Done, EXTRACT, Faulty, PATIENCE, SWEEP, TRAIN, alone, finish, judge, sample,
};
use super::compare::{self, Tree, everything};
use super::replay::materialise;
use super::shim::{
    self, EACCES, EINTR, EIO, EMFILE, ENOENT, ENOMEM, ENOSPC, ENOSYS, Failure, Fault, HALF,
};
use super::states::{OUTPUT, accepted, damage, go_on, on};

use std::collections::BTreeMap;
use std::path::Path;

/// Calls of a kind that fail: how, how many of them at most, and whether all later ones do too.
type Row = (&'static str, Failure, usize, bool);

/// All of a kind.
const ALL: usize = usize::MAX;
const ONCE: bool = false;
const LATER: bool = true;

/// A command that meets faults.
struct Scene {
    /// In the table of figures.
    what: &'static str,
    bench: Bench,
    /// What is there before it.
    before: Tree,
    line: String,
    kind: Kind,
    /// Below which the faults are: the case's folder, or the cache that is read.
    root: Option<&'static str>,
    /// What the same command ends in.
    whole: Tree,
    /// Faults that are tried in part.
    few: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cache,
    Runs,
    Verify,
    /// Is followed by an extraction.
    Repair,
}

impl Scene {
    fn contents(&self, root: &Path) -> Tree {
        if self.kind == Kind::Runs { compare::runs(root) } else { compare::cache(root) }
    }

    /// Runs the command with a change to it.
    fn run(&self, root: &Path, change: impl FnOnce(&mut std::process::Command)) -> Done {
        let mut command = self.bench.command(&on(&self.line, root));
        change(&mut command);
        finish(command.spawn().unwrap(), PATIENCE)
    }

    /// How often the command calls what.
    fn totals(&self) -> BTreeMap<String, usize> {
        let place = self.bench.place();
        materialise(&self.before, place.path());
        let report = self.bench.place();
        let report = report.path().join("report");
        let watched = self.watched(place.path());
        let done = self.run(place.path(), |command| {
            shim::count(command, &self.bench.shim, &watched, &report);
        });
        assert_eq!(done.code, Some(0), "{}: {}", self.line, done.said());
        shim::report(&report).totals
    }

    fn watched(&self, root: &Path) -> std::path::PathBuf {
        self.root.map_or_else(|| root.to_owned(), |path| self.bench.at(path))
    }
}

/// The faults of these rows, of calls that the command makes so often.
fn planned(rows: &[Row], totals: &BTreeMap<String, usize>) -> Vec<Fault> {
    let faults = rows.iter().zip(1..).flat_map(|(&(call, failure, most, and_later), seed)| {
        let count = totals.get(call).copied().unwrap_or_default();
        let of = |nth| Fault { call, failure, nth, and_later };
        // the rows' own bound, whether all is asked for or a part
        let step = count.div_ceil(most.max(1)).max(1);
        (1 + seed % step..=count).step_by(step).map(of).collect::<Vec<_>>()
    });
    faults.collect()
}

/// Tries a scene's faults.
fn play(scene: &Scene, rows: &[Row]) {
    let faults = planned(rows, &scene.totals());
    let faults = if alone().is_some() { faults } else { sample(faults, scene.few, ALL, 3) };
    let cases: Vec<(String, Fault)> = faults.into_iter().map(|f| (f.name(), f)).collect();
    judge(&format!("faults, {}", scene.what), &cases, |fault| suffer(scene, fault));
}

/// What is wrong with how a fault is taken; nothing where the call was not reached.
fn suffer(scene: &Scene, fault: &Fault) -> Option<Faulty> {
    let place = scene.bench.place();
    let (root, report) = (place.path().join("root"), place.path().join("report"));
    std::fs::create_dir(&root).unwrap();
    materialise(&scene.before, &root);
    let watched = scene.watched(&root);
    let done = scene.run(&root, |command| {
        fault.inject(command, &scene.bench.shim, &watched, &report);
    });
    let hits = shim::report(&report).hits;
    let hit = hits.first()?;
    let mut faulty = ending(scene, fault, hit, &done);
    if scene.kind == Kind::Verify {
        return Some(faulty);
    }
    let output = root.join(OUTPUT);
    if scene.kind != Kind::Runs && output.join("manifest.json").exists() {
        faulty.extend(accepted(&scene.bench, &output, |path| {
            scene.whole.get(&format!("{OUTPUT}/{path}")).cloned().flatten()
        }));
    }
    let again = go_on(&scene.bench, &scene.line, &root);
    if again.code != Some(0) {
        faulty.push(format!("{hit}; the same command: {}", scene.bench.brief(&again.said())));
        return Some(faulty);
    }
    if scene.kind == Kind::Repair {
        let done = scene.bench.run(&on(EXTRACT, &root));
        if done.code != Some(0) {
            faulty.push(format!("{hit}; extract: {}", scene.bench.brief(&done.said())));
        }
    }
    let found = scene.contents(&root);
    compare::expect_equal(&format!("{hit}; at the end"), &found, &scene.whole, &mut faulty);
    Some(faulty)
}

/// What is wrong with how the command ended.
fn ending(scene: &Scene, fault: &Fault, hit: &str, done: &Done) -> Faulty {
    let said = || scene.bench.brief(&done.said());
    let is_change = ["write", "fsync", "rename", "ftruncate"].contains(&fault.call);
    // what a sweep's run says in its log is for people alone, and so is taking out who held a lock
    let is_said = compare::is_log(hit) || fault.call == "ftruncate" && hit.ends_with("/.lock");
    // a cache without its lock is read without
    let is_lockless = fault.call == "flock" || hit.ends_with("/.lock") && fault.failure == ENOENT;
    let mut faulty = Vec::new();
    if done.is_crash() {
        return vec![format!("{hit}: {}", said())];
    }
    match done.code {
        Some(0) if is_change && !fault.is_harmless() && !is_said => {
            faulty.push(format!("{hit}: failed, and success is reported"));
        }
        Some(0) if scene.kind == Kind::Verify && !fault.is_harmless() && !is_lockless => {
            faulty.push(format!("{hit}: not read, and called sound"));
        }
        Some(1) if scene.kind == Kind::Verify || scene.line.starts_with("sweep") => {}
        Some(2) if !done.err.contains("os error") && !fault.is_harmless() => {
            faulty.push(format!("{hit}: no cause is named: {}", said()));
        }
        Some(0 | 2) => {}
        _ => faulty.push(format!("{hit}: {}", said())),
    }
    if fault.is_harmless() && fault.call != "flock" && done.code != Some(0) {
        faulty.push(format!("{hit}: not tried again: {}", said()));
    }
    faulty
}

/// A scene on what `before` makes; `line` ends in what it ends in without faults.
fn scene(
    (what, few): (&'static str, usize),
    bench: Bench,
    before: Option<&str>,
    line: &str,
    kind: Kind,
) -> Scene {
    let place = bench.place();
    let root = place.path();
    let before = before.map_or_else(Tree::new, |before| {
        bench.succeeds(&on(before, root));
        everything(root)
    });
    bench.succeeds(&on(line, root));
    let whole = if kind == Kind::Runs { compare::runs(root) } else { compare::cache(root) };
    drop(place);
    Scene { what, bench, before, line: line.to_owned(), kind, root: None, whole, few }
}

#[test]
fn extract() {
    let scene = scene(("extract", 40), Bench::new(), None, EXTRACT, Kind::Cache);
    play(
        &scene,
        &[
            ("write", ENOSPC, ALL, ONCE),
            ("write", ENOSPC, 20, LATER),
            ("write", EIO, 12, ONCE),
            ("write", EINTR, 12, ONCE),
            ("write", HALF, 20, ONCE),
            ("fsync", EIO, 70, ONCE),
            ("fsync", ENOSPC, 10, LATER),
            ("fsync", EINTR, 8, ONCE),
            ("rename", EIO, ALL, ONCE),
            ("rename", ENOSPC, 8, LATER),
            ("open", EMFILE, 50, ONCE),
            ("open", EIO, 25, LATER),
            ("open", EINTR, 15, ONCE),
            ("open", EACCES, 15, ONCE),
            ("mmap", ENOMEM, ALL, ONCE),
            ("read", EIO, 40, ONCE),
            ("read", HALF, 15, ONCE),
            ("read", EINTR, 10, ONCE),
            ("mkdir", ENOSPC, 25, ONCE),
            ("flock", EINTR, ALL, ONCE),
            ("flock", ENOSYS, ALL, ONCE),
            ("opendir", EIO, 20, ONCE),
            ("readdir", EIO, 20, ONCE),
            ("stat", EIO, 20, ONCE),
            ("unlink", EIO, ALL, ONCE),
        ],
    );
}

#[test]
fn extension() {
    let before = format!("{EXTRACT} --augment flip --views 1");
    let line = format!("{EXTRACT} --augment flip --views 2");
    let scene = scene(("extension by a view", 16), Bench::new(), Some(&before), &line, Kind::Cache);
    play(
        &scene,
        &[
            ("write", ENOSPC, 20, ONCE),
            ("write", ENOSPC, 8, LATER),
            ("fsync", EIO, 30, ONCE),
            ("rename", EIO, 12, ONCE),
            ("open", EMFILE, 25, ONCE),
            ("mmap", ENOMEM, ALL, ONCE),
            ("unlink", EIO, ALL, ONCE),
            ("stat", EIO, 20, ONCE),
            ("opendir", EACCES, 20, ONCE),
        ],
    );
}

/// A run with checkpoints in its epochs.
fn steps() -> String {
    format!("{TRAIN} --checkpoint-steps 2")
}

#[test]
fn train() {
    let scene = scene(("train", 30), Bench::with_cache(), None, &steps(), Kind::Runs);
    play(
        &scene,
        &[
            ("write", ENOSPC, ALL, ONCE),
            ("write", EIO, ALL, ONCE),
            ("write", EINTR, ALL, ONCE),
            ("write", HALF, ALL, ONCE),
            ("write", ENOSPC, ALL, LATER),
            ("fsync", EIO, ALL, ONCE),
            ("fsync", EINTR, 4, ONCE),
            ("rename", EIO, ALL, ONCE),
            ("rename", ENOSPC, ALL, ONCE),
            ("open", EMFILE, ALL, ONCE),
            ("open", EINTR, 6, ONCE),
            ("open", EIO, 6, LATER),
            ("stat", EIO, 12, ONCE),
            ("ftruncate", EIO, ALL, ONCE),
            ("mkdir", EIO, ALL, ONCE),
            ("opendir", EIO, ALL, ONCE),
            ("unlink", EIO, ALL, ONCE),
        ],
    );
}

#[test]
fn reads_of_train() {
    let what = ("train's reads of the cache", 12);
    let mut scene = scene(what, Bench::with_cache(), None, &steps(), Kind::Runs);
    scene.root = Some("ex");
    play(
        &scene,
        &[
            ("open", EMFILE, ALL, ONCE),
            ("open", EIO, ALL, ONCE),
            ("mmap", ENOMEM, ALL, ONCE),
            ("read", EIO, 12, ONCE),
            ("stat", EIO, 12, ONCE),
            ("flock", EINTR, ALL, ONCE),
            ("flock", EIO, ALL, ONCE),
        ],
    );
}

#[test]
fn sweep() {
    let scene = scene(("sweep", 16), Bench::with_cache(), None, SWEEP, Kind::Runs);
    play(
        &scene,
        &[
            ("write", ENOSPC, 12, ONCE),
            ("write", ENOSPC, 12, LATER),
            ("fsync", EIO, 20, ONCE),
            ("rename", EIO, 12, ONCE),
            ("open", EMFILE, 24, ONCE),
            ("flock", EIO, ALL, ONCE),
            ("mkdir", EIO, ALL, ONCE),
            ("opendir", EIO, ALL, ONCE),
        ],
    );
}

#[test]
fn verify() {
    let what = ("cache verify", 40);
    let scene = scene(what, Bench::new(), Some(EXTRACT), "cache verify", Kind::Verify);
    play(
        &scene,
        &[
            ("read", EIO, 45, ONCE),
            ("read", HALF, 10, ONCE),
            ("read", EINTR, 10, ONCE),
            ("open", EMFILE, 30, ONCE),
            ("open", EACCES, 30, ONCE),
            ("open", ENOENT, 10, ONCE),
            ("mmap", ENOMEM, ALL, ONCE),
            ("opendir", EIO, 25, ONCE),
            ("readdir", EIO, 25, ONCE),
            ("flock", EIO, ALL, ONCE),
        ],
    );
}

#[test]
fn repair() {
    let bench = Bench::new();
    let place = bench.place();
    let root = place.path();
    bench.succeeds(&on(EXTRACT, root));
    let whole = compare::cache(root);
    damage(&root.join(OUTPUT));
    let before = everything(root);
    drop(place);
    let (what, few) = ("cache repair, then extract", 16);
    let line = "cache repair".to_owned();
    let scene = Scene { what, bench, before, line, kind: Kind::Repair, root: None, whole, few };
    let of = |call| (call, EIO, 25, ONCE);
    play(&scene, &["write", "fsync", "rename", "unlink", "open", "read", "opendir"].map(of));
}

/// F5: what merely could not be opened or read is not taken out of a sound cache.
#[test]
fn repair_of_a_sound_cache_takes_nothing_out() {
    let what = ("repair of a sound cache", 40);
    let scene = scene(what, Bench::new(), Some(EXTRACT), "cache repair", Kind::Repair);
    let mut rows = Vec::new();
    for failure in [EMFILE, ENOMEM, EACCES, EIO] {
        for call in ["open", "read", "stat", "opendir", "readdir", "mmap", "flock"] {
            rows.push((call, failure, 20, ONCE));
        }
    }
    let faults = planned(&rows, &scene.totals());
    let faults = if alone().is_some() { faults } else { sample(faults, scene.few, ALL, 5) };
    let cases: Vec<(String, Fault)> = faults.into_iter().map(|f| (f.name(), f)).collect();
    judge("faults, repair of a sound cache", &cases, |fault| {
        let (hit, done, found) = meet(&scene.bench, &scene.before, &scene.line, fault)?;
        let mut faulty = Vec::new();
        if done.is_crash() {
            faulty.push(format!("{hit}: {}", scene.bench.brief(&done.said())));
        }
        compare::expect_equal(&hit, &found, &without_lock(&scene.before), &mut faulty);
        if !faulty.is_empty() {
            faulty.push(scene.bench.brief(&done.said()));
        }
        Some(faulty)
    });
}

/// Runs a command on `before` with a fault: what was hit, how it ended, and what is there then.
fn meet(bench: &Bench, before: &Tree, line: &str, fault: &Fault) -> Option<(String, Done, Tree)> {
    let place = bench.place();
    let (root, report) = (place.path().join("root"), place.path().join("report"));
    std::fs::create_dir(&root).unwrap();
    materialise(before, &root);
    let mut command = bench.command(&on(line, &root));
    fault.inject(&mut command, &bench.shim, &root, &report);
    let done = finish(command.spawn().unwrap(), PATIENCE);
    let hit = shim::report(&report).hits.first()?.clone();
    Some((hit, done, without_lock(&everything(&root))))
}

fn without_lock(tree: &Tree) -> Tree {
    let mut tree = tree.clone();
    tree.retain(|path, _| !path.ends_with("/.lock"));
    tree
}

/// F6: a run is not overwritten by one of other settings while something of its folder cannot be
/// looked at.
#[test]
fn a_run_is_not_overwritten_that_cannot_be_seen() {
    let bench = Bench::with_cache();
    let place = bench.place();
    bench.succeeds(&on(TRAIN, place.path()));
    let finished = everything(place.path());
    let unfinished = unfinished(&bench);
    let line = format!("{TRAIN} --seed 7");
    let refused = bench.run(&on(&line, place.path()));
    assert_eq!(refused.code, Some(2), "{}", refused.said());
    let mut cases = Vec::new();
    for (name, before) in [("finished", &finished), ("unfinished", &unfinished)] {
        for call in ["opendir", "readdir", "stat", "open", "read", "flock"] {
            for failure in [EIO, EACCES, EMFILE] {
                let faults = (1..=8).map(|nth| Fault { call, failure, nth, and_later: false });
                cases.extend(faults.map(|f| (format!("{name}-{}", f.name()), (before, f))));
            }
        }
    }
    let cases = if alone().is_some() { cases } else { sample(cases, 60, ALL, 7) };
    judge("faults, a run of other settings in the folder", &cases, |(before, fault)| {
        let (hit, done, found) = meet(&bench, before, &line, fault)?;
        let mut faulty = Vec::new();
        if done.is_crash() || done.code != Some(2) {
            faulty.push(format!("{hit}: {}", bench.brief(&done.said())));
        }
        compare::expect_equal(&hit, &found, &without_lock(before), &mut faulty);
        Some(faulty)
    });
}

/// A run that stopped after its first checkpoint: the disk was full.
pub(super) fn unfinished(bench: &Bench) -> Tree {
    for nth in 1.. {
        let fault = Fault { call: "write", failure: ENOSPC, nth, and_later: true };
        let (_, _, tree) = meet(bench, &Tree::new(), &steps(), &fault).unwrap();
        if tree.contains_key(&format!("{OUTPUT}/checkpoint.safetensors")) {
            assert!(!tree.contains_key(&format!("{OUTPUT}/run.json")));
            return tree;
        }
    }
    unreachable!()
}
