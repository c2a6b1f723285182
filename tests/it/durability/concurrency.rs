//! Two processes in one folder, and folders that are removed while somebody works in them: one of
//! them wins, whole, and the other one says who is there.

use super::bench::{
    Bench, Done, EXTRACT, Faulty, PATIENCE, SWEEP, TRAIN, alone, finish, judge, sample,
};
use super::compare::{self, Tree, everything};
use super::replay::materialise;
use super::shim::{self, Stop};
use super::states::{OUTPUT, on};

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// A command that is held somewhere on its way.
struct Held {
    child: Child,
    gate: PathBuf,
}

impl Held {
    /// Starts a command and waits until it is at the stop; nothing where it never comes there.
    fn start(bench: &Bench, line: &str, root: &Path, stop: &Stop, aside: &Path) -> Option<Self> {
        let (gate, report) = (aside.join("gate"), aside.join("report"));
        let mut command = bench.command(line);
        stop.hold(&mut command, &bench.shim, root, &gate, &report);
        let mut child = command.spawn().unwrap();
        let started = Instant::now();
        while shim::report(&report).hits.is_empty() {
            if child.try_wait().unwrap().is_some() {
                finish(child, PATIENCE);
                return None;
            }
            if started.elapsed() > PATIENCE {
                child.kill().unwrap();
                panic!("{line}: neither held nor ended");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Some(Self { child, gate })
    }

    /// Lets it go on to its end.
    fn release(self) -> Done {
        std::fs::write(&self.gate, b"").unwrap();
        finish(self.child, PATIENCE)
    }
}

/// A folder for a case: what is worked in, and what stands beside it.
struct Place {
    place: tempfile::TempDir,
    root: PathBuf,
}

impl Place {
    fn new(bench: &Bench, before: &Tree) -> Self {
        let place = bench.place();
        let root = place.path().join("root");
        std::fs::create_dir(&root).unwrap();
        materialise(before, &root);
        Self { place, root }
    }

    fn output(&self) -> PathBuf {
        self.root.join(OUTPUT)
    }
}

/// What a command makes when it is alone.
fn lone(bench: &Bench, line: &str, before: &Tree, read: fn(&Path) -> Tree) -> Tree {
    let place = Place::new(bench, before);
    bench.succeeds(&on(line, &place.root));
    read(&place.root)
}

/// The stops of these kinds, each at all of these calls, by name.
fn stops(kinds: &[(&'static str, usize)], part: &'static str, few: usize) -> Vec<(String, Stop)> {
    let all: Vec<(String, Stop)> = kinds
        .iter()
        .flat_map(|&(call, count)| (1..=count).map(move |nth| Stop { call, nth, part }))
        .map(|stop| (stop.name(), stop))
        .collect();
    if alone().is_some() { all } else { sample(all, few, usize::MAX, 13) }
}

/// Whether a cache, or a run, has all that it is to have.
fn is_whole(output: &Path) -> bool {
    output.join("run.json").exists()
        || nst_cache::cache::Manifest::load(output).is_ok_and(|manifest| manifest.is_complete())
}

/// F1: an extraction is held, its folder removed, and another cache made there. What the first one
/// does then touches nothing of the second.
fn stale(bench: &Bench, stop: &Stop, expected: &Tree, remove: fn(&Path)) -> Option<Faulty> {
    let place = Place::new(bench, &Tree::new());
    let line = on(EXTRACT, &place.root);
    let first = Held::start(bench, &line, &place.root, stop, place.place.path())?;
    let was_whole = is_whole(&place.output());
    if place.output().exists() {
        remove(&place.output());
    }
    let second = bench.run(&on(&format!("{EXTRACT} --seed 1"), &place.root));
    let first = first.release();
    let mut faulty = Vec::new();
    if second.code != Some(0) {
        faulty.push(format!("the second: {}", bench.brief(&second.said())));
    }
    if first.code != Some(2) && !(was_whole && first.code == Some(0)) {
        faulty.push(format!("the first: {}", bench.brief(&first.said())));
    }
    let verified = bench.run(&on("cache verify", &place.root));
    if verified.code != Some(0) {
        faulty.push(format!("verify: {}", bench.brief(&verified.said())));
    }
    compare::expect_equal("the second's", &compare::cache(&place.root), expected, &mut faulty);
    Some(faulty)
}

/// Removes a folder into which another thread may still write.
fn remove_whole(folder: &Path) {
    while folder.exists() {
        let _ = std::fs::remove_dir_all(folder);
    }
}

#[test]
fn a_writer_whose_folder_is_another_now_leaves_it_alone() {
    let bench = Bench::new();
    let expected = lone(&bench, &format!("{EXTRACT} --seed 1"), &Tree::new(), compare::cache);
    let kinds = [("mkdir", 75), ("open", 150), ("fsync", 110), ("rename", 28)];
    let cases = stops(&kinds, "", 24);
    judge("a cache removed and made anew under a writer", &cases, |stop| {
        stale(&bench, stop, &expected, remove_whole)
    });
}

/// The same command twice, and the lock's file removed between: both are of one mind, and the cache
/// is right.
#[test]
fn a_lock_that_is_removed_is_missed() {
    let bench = Bench::new();
    let expected = lone(&bench, EXTRACT, &Tree::new(), compare::cache);
    let cases = stops(&[("mkdir", 75), ("fsync", 110), ("rename", 28)], "", 8);
    judge("a lock removed under a writer", &cases, |stop| {
        let place = Place::new(&bench, &Tree::new());
        let line = on(EXTRACT, &place.root);
        let first = Held::start(&bench, &line, &place.root, stop, place.place.path())?;
        let was_whole = is_whole(&place.output());
        let has_lock = std::fs::remove_file(place.output().join(".lock")).is_ok();
        let second = bench.run(&line);
        let first = first.release();
        let mut faulty = Vec::new();
        let is_right = second.code == Some(0)
            && (first.code == Some(2) || first.code == Some(0) && (was_whole || !has_lock));
        if !is_right {
            let (first, second) = (bench.brief(&first.said()), bench.brief(&second.said()));
            faulty.push(format!("the first: {first}\n    the second: {second}"));
        }
        compare::expect_equal("at the end", &compare::cache(&place.root), &expected, &mut faulty);
        Some(faulty)
    });
}

/// A command whose output is removed ends, says so, and makes nothing anew.
fn removed(what: &str, bench: &Bench, line: &str, marker: &str, cases: &[(String, Stop)]) {
    judge(what, cases, |stop| {
        let place = Place::new(bench, &Tree::new());
        let line = on(line, &place.root);
        let first = Held::start(bench, &line, &place.root, stop, place.place.path())?;
        let (was_begun, was_whole) =
            (place.output().join(marker).exists(), is_whole(&place.output()));
        if !was_begun {
            first.release();
            return None;
        }
        remove_whole(&place.output());
        let done = first.release();
        let mut faulty = Vec::new();
        if done.code != Some(2) && !(was_whole && done.code == Some(0)) {
            faulty.push(bench.brief(&done.said()));
        }
        let left: Vec<String> = everything(&place.output()).into_keys().collect();
        if place.output().exists() {
            faulty.push(format!("made anew: {}", left.join(" ")));
        }
        Some(faulty)
    });
}

#[test]
fn a_run_whose_folder_is_removed_ends() {
    let bench = Bench::with_cache();
    let kinds = [("open", 24), ("fsync", 24), ("rename", 9), ("write", 12)];
    let line = format!("{TRAIN} --checkpoint-steps 2");
    removed("a run's folder removed", &bench, &line, "settings.json", &stops(&kinds, "", 12));
}

#[test]
fn an_extraction_whose_folder_is_removed_ends() {
    let kinds = [("open", 150), ("fsync", 110), ("rename", 28), ("write", 44), ("mkdir", 75)];
    let cases = stops(&kinds, "", 12);
    removed("a cache's folder removed", &Bench::new(), EXTRACT, "manifest.json", &cases);
}

/// Two commands in one folder.
struct Pair<'a> {
    what: &'a str,
    before: Tree,
    /// Is held, and ends as if it were alone.
    first: &'a str,
    /// Comes while the first one is held, without its `-o`.
    second: &'a str,
    /// Where in the first one's output the second one works.
    place: &'a str,
    /// Exit statuses with which the second may be refused.
    statuses: &'a [i32],
    read: fn(&Path) -> Tree,
}

/// F2: the second command is refused and says who is there; the first one ends as if it were alone.
fn compete(bench: &Bench, pair: &Pair<'_>, stops: &[(String, Stop)]) {
    let expected = lone(bench, pair.first, &pair.before, pair.read);
    judge(&format!("two in one folder, {}", pair.what), stops, |stop| {
        let place = Place::new(bench, &pair.before);
        let line = on(pair.first, &place.root);
        let first = Held::start(bench, &line, &place.root, stop, place.place.path())?;
        let before = place.output().join(".lock").exists();
        // a writer that is held before it signed is known by its number alone
        let own = place.output().join(pair.place.trim_start_matches('/')).join(".lock");
        let is_signed = std::fs::read(own).is_ok_and(|line| !line.is_empty());
        let parts: &[&str] =
            if is_signed { &["pid ", " on ", " since "] } else { &["pid ", " on "] };
        let second = bench.run(&format!("{}{}", on(pair.second, &place.root), pair.place));
        let first = first.release();
        let mut faulty = Vec::new();
        let is_refused = second.code.is_some_and(|code| pair.statuses.contains(&code));
        let is_named = second
            .err
            .lines()
            .chain(second.out.lines())
            .any(|line| parts.iter().all(|part| line.contains(part)));
        if is_refused && is_named {
            if first.code != Some(0) {
                faulty.push(format!("the first: {}", bench.brief(&first.said())));
            }
            let found = (pair.read)(&place.root);
            compare::expect_equal("the first's", &found, &expected, &mut faulty);
        } else if before || second.code != Some(0) {
            faulty.push(format!("the second: {}", bench.brief(&second.said())));
            faulty.push(format!("the first: {}", bench.brief(&first.said())));
        } else if pair.first == pair.second && first.code == Some(0) {
            // held before it had the folder: the second did all that there was to do
            let found = (pair.read)(&place.root);
            compare::expect_equal("both", &found, &expected, &mut faulty);
        } else if first.code != Some(2) {
            faulty.push(format!("came after all: {}", bench.brief(&first.said())));
        }
        Some(faulty)
    });
}

const EXTRACT_STOPS: [(&str, usize); 4] =
    [("mkdir", 70), ("open", 150), ("fsync", 110), ("rename", 28)];

#[test]
fn extract_beside_extract() {
    let pair = Pair {
        what: "extract beside extract",
        before: Tree::new(),
        first: EXTRACT,
        second: &format!("{EXTRACT} --seed 1"),
        place: "",
        statuses: &[2],
        read: compare::cache,
    };
    compete(&Bench::new(), &pair, &stops(&EXTRACT_STOPS, "", 6));
}

#[test]
fn repair_beside_extract() {
    let pair = Pair {
        what: "cache repair beside extract",
        before: Tree::new(),
        first: EXTRACT,
        second: "cache repair",
        place: "",
        statuses: &[2],
        read: compare::cache,
    };
    let cases: Vec<(String, Stop)> = [("fsync", 40), ("fsync", 80), ("rename", 20)]
        .map(|(call, nth)| Stop { call, nth, part: "" })
        .map(|stop| (stop.name(), stop))
        .into();
    compete(&Bench::new(), &pair, &cases);
}

const TRAIN_STOPS: [(&str, usize); 4] = [("open", 20), ("fsync", 24), ("rename", 9), ("write", 11)];

#[test]
fn train_beside_train() {
    let line = format!("{TRAIN} --checkpoint-steps 2");
    let pair = Pair {
        what: "train beside train",
        before: Tree::new(),
        first: &line,
        second: &format!("{line} --seed 7"),
        place: "",
        statuses: &[2],
        read: compare::runs,
    };
    compete(&Bench::with_cache(), &pair, &stops(&TRAIN_STOPS, "", 10));
}

#[test]
fn resume_beside_resume() {
    let bench = Bench::with_cache();
    let line = format!("{TRAIN} --checkpoint-steps 2 --resume");
    let pair = Pair {
        what: "train --resume beside train --resume",
        before: super::faults::unfinished(&bench),
        first: &line,
        second: &line,
        place: "",
        statuses: &[2],
        read: compare::runs,
    };
    let kinds = [("ftruncate", 1), ("fsync", 12), ("rename", 6), ("write", 8)];
    compete(&bench, &pair, &stops(&kinds, "", 8));
}

#[test]
fn train_beside_the_sweep_of_its_run() {
    let recipe = "train student.onnx --cache ex --test folder:images --epochs 1 --batch 64 \
                  --threads 1 --criterion kd --seed 0";
    let pair = Pair {
        what: "train beside the sweep of its run",
        before: Tree::new(),
        first: SWEEP,
        second: recipe,
        place: "/student/KD/seed-0",
        statuses: &[2],
        read: compare::runs,
    };
    let kinds = [("fsync", 8), ("rename", 5), ("write", 5)];
    compete(&Bench::with_cache(), &pair, &stops(&kinds, "seed-0/", 6));
}

#[test]
fn sweep_beside_sweep() {
    let pair = Pair {
        what: "sweep beside sweep",
        before: Tree::new(),
        first: SWEEP,
        second: SWEEP,
        place: "",
        statuses: &[2],
        read: compare::runs,
    };
    let kinds = [("fsync", 8), ("rename", 5), ("write", 5)];
    compete(&Bench::with_cache(), &pair, &stops(&kinds, "seed-0/", 6));
}
