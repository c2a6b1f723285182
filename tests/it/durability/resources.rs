//! Too few threads, files or memory: one line and exit 2, or the right bytes; never a panic or an
//! abort.

use super::bench::{Bench, Done, EXTRACT, Faulty, PATIENCE, TRAIN, alone, finish, judge, sample};
use super::compare;
use super::shim::{EAGAIN, Fault};

use std::path::Path;

/// What is run, with `PLACE` for a folder of the case.
fn lines() -> [(&'static str, String); 5] {
    [
        ("extract", format!("{EXTRACT} -o PLACE")),
        ("verify", "cache verify ex".to_owned()),
        ("export", "cache export ex --npz PLACE.npz".to_owned()),
        ("repair", "cache repair ex".to_owned()),
        ("train", format!("{TRAIN} -o PLACE")),
    ]
}

/// What is wrong with an end under want of something.
fn faults_of(bench: &Bench, name: &str, place: &Path, done: &Done) -> Faulty {
    let mut faulty = Faulty::new();
    // the C library ends the process itself where a thread's own variables find no room
    let is_libc = done.code == Some(127) && done.err.contains("thread-local data");
    if !is_libc && (done.is_crash() || done.code == Some(1)) {
        faulty.push(bench.brief(&done.said()));
    }
    if done.code == Some(2)
        && done.err.lines().filter(|line| line.starts_with("error")).count() != 1
    {
        faulty.push(format!("not one line: {}", bench.brief(&done.said())));
    }
    if name == "extract" && (is_libc || done.code == Some(2)) {
        let again = bench.run(&format!("{EXTRACT} -o {}", place.display()));
        if again.code != Some(0) {
            faulty.push(format!("the same command: {}", bench.brief(&again.said())));
        }
    }
    if name == "extract" {
        let (found, wanted) = (compare::cache(place), compare::cache(&bench.at("ex")));
        compare::expect_equal("at the end", &found, &wanted, &mut faulty);
    }
    faulty
}

/// F14.
#[test]
fn threads() {
    let bench = Bench::with_cache();
    let mut cases = Vec::new();
    for (name, line) in lines() {
        for and_later in [false, true] {
            for nth in 1..=24 {
                let fault = Fault { call: "thread", failure: EAGAIN, nth, and_later };
                cases.push((format!("{name}-{}", fault.name()), (name, line.clone(), fault)));
            }
        }
    }
    let cases = if alone().is_some() { cases } else { sample(cases, 40, usize::MAX, 17) };
    judge("threads refused", &cases, |(name, line, fault)| {
        let place = bench.place();
        let (output, report) = (place.path().join("out"), place.path().join("report"));
        let mut command = bench.command(&line.replace("PLACE", &output.to_string_lossy()));
        fault.inject(&mut command, &bench.shim, place.path(), &report);
        let done = finish(command.spawn().unwrap(), PATIENCE);
        super::shim::report(&report).hits.first()?;
        Some(faults_of(&bench, name, &output, &done))
    });
}

fn limited(what: &str, limits: &[String]) {
    let bench = Bench::with_cache();
    let mut cases = Vec::new();
    for (name, line) in lines() {
        for limit in limits {
            let case = format!("{name}{}", limit.replace(' ', ""));
            cases.push((case, (name, line.clone(), limit.clone())));
        }
    }
    judge(what, &cases, |(name, line, limit)| {
        let place = bench.place();
        let output = place.path().join("out");
        let line = line.replace("PLACE", &output.to_string_lossy());
        let done = finish(bench.within(&line, limit).spawn().unwrap(), PATIENCE);
        Some(faults_of(&bench, name, &output, &done))
    });
}

#[test]
fn descriptors() {
    limited("few descriptors", &[12, 16, 20, 24, 32, 48].map(|n| format!("-n {n}")));
}

/// F14: in KiB of address space.
#[test]
fn memory() {
    let sizes = [200_000, 300_000, 500_000, 800_000, 1_200_000, 2_000_000];
    limited("little address space", &sizes.map(|n| format!("-v {n}")));
}
