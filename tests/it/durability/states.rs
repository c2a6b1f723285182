//! Crash states: a command is recorded, and whatever a crash may leave of it is checked and gone on
//! with. Nothing that differs is accepted, and the same command ends in the same bytes.

use super::bench::{
    Bench, Done, EXTRACT, Faulty, PATIENCE, SWEEP, TRAIN, alone, finish, judge, sample,
};
use super::compare::{self, Tree, everything};
use super::replay::{Recording, materialise, parse};
use super::shim;
use crate::support::is_slow;

use std::path::Path;

/// What is written, below the root of the record: the folders that lead to it are part of it.
pub(super) const OUTPUT: &str = "new/out";

/// A command whose crashes are tried.
struct Scene<'a> {
    /// In the table of figures.
    what: &'a str,
    /// Makes what is there before; run with `-o OUTPUT`.
    before: Option<&'a str>,
    /// Without its `-o OUTPUT`.
    line: &'a str,
    /// What makes it whole again, where the command itself does not.
    after: Option<&'a str>,
    is_cache: bool,
    /// States that are tried in part, and in all.
    tried: (usize, usize),
}

/// A command on the output of a case.
pub(super) fn on(line: &str, root: &Path) -> String {
    let output = root.join(OUTPUT).display().to_string();
    if line.starts_with("cache ") {
        format!("{line} {output}")
    } else {
        format!("{line} -o {output}")
    }
}

/// Runs a command below the library; gives its log, and what was there before it.
fn recorded(bench: &Bench, line: &str, root: &Path) -> Recording {
    let before = everything(root);
    let log = tempfile::NamedTempFile::new_in(bench.at("")).unwrap();
    let mut command = bench.command(&on(line, root));
    shim::record(&mut command, &bench.shim, root, log.path());
    let done = finish(command.spawn().unwrap(), PATIENCE);
    assert_eq!(done.code, Some(0), "{line}: {}", done.said());
    Recording { before, ops: parse(&std::fs::read(log.path()).unwrap(), root) }
}

fn contents(scene: &Scene<'_>, root: &Path) -> Tree {
    if scene.is_cache { compare::cache(root) } else { compare::runs(root) }
}

/// Tries a scene's crash states. `damage` is done to what is there before.
fn play(bench: &Bench, scene: &Scene<'_>, damage: impl Fn(&Path)) {
    let place = bench.place();
    let root = place.path();
    if let Some(line) = scene.before {
        bench.succeeds(&on(line, root));
        damage(&root.join(OUTPUT));
    }
    let recording = recorded(bench, scene.line, root);
    let disagreements = recording.disagreements(root);
    assert!(
        disagreements.is_empty(),
        "{}: the log is not of everything: {disagreements:?}",
        scene.what
    );
    let not_synced = recording.not_synced();
    if let Some(line) = scene.after {
        bench.succeeds(&on(line, root));
    }
    let whole = contents(scene, root);
    let all = recording.states();
    let distinct = all.len();
    let states = if alone().is_some() { all } else { sample(all, scene.tried.0, scene.tried.1, 1) };
    let what =
        format!("crash states, {} ({} ops, {distinct} distinct)", scene.what, recording.ops.len());
    let mut cases: Vec<(String, Option<(Tree, String)>)> = states
        .into_iter()
        .map(|(count, model, seed)| {
            let tree = recording.state(count, model, seed).tree();
            (format!("{count}-{model:?}-{seed}"), Some((tree, recording.last(count))))
        })
        .collect();
    cases.push(("synced".to_owned(), None));
    judge(&what, &cases, |tree| match tree {
        None if not_synced.is_empty() => Some(Vec::new()),
        None => Some(vec![format!("after exit 0, not made last: {}", not_synced.join(" "))]),
        Some((tree, last)) => {
            let mut faulty = survive(bench, scene, tree, &whole);
            if !faulty.is_empty() {
                faulty.push(format!("after {last}"));
            }
            Some(faulty)
        }
    });
}

/// What is wrong after a crash that left `tree`.
fn survive(bench: &Bench, scene: &Scene<'_>, tree: &Tree, whole: &Tree) -> Faulty {
    let place = bench.place();
    let root = place.path();
    materialise(tree, root);
    let mut faulty = Vec::new();
    if scene.is_cache && root.join(OUTPUT).exists() {
        look(bench, root, whole, &mut faulty);
    }
    let done = go_on(bench, scene.line, root);
    if done.is_crash() || done.code != Some(0) {
        faulty.push(format!("the same command: {}", bench.brief(&done.said())));
        return faulty;
    }
    if let Some(line) = scene.after {
        let done = bench.run(&on(line, root));
        if done.code != Some(0) {
            faulty.push(format!("{line}: {}", bench.brief(&done.said())));
            return faulty;
        }
    }
    compare::expect_equal("at the end", &contents(scene, root), whole, &mut faulty);
    if scene.is_cache {
        let done = bench.run(&on("cache verify", root));
        if done.code != Some(0) {
            faulty.push(format!("verify at the end: {}", bench.brief(&done.said())));
        }
    }
    faulty
}

/// The same command again; with `--resume` where it asks for that.
pub(super) fn go_on(bench: &Bench, line: &str, root: &Path) -> Done {
    let line = on(line, root);
    let done = bench.run(&line);
    if done.code == Some(2) && done.err.contains("--resume") && line.starts_with("train ") {
        return bench.run(&format!("{line} --resume"));
    }
    done
}

/// `verify` and `info` of whatever is there: neither crashes, and what they accept is right.
fn look(bench: &Bench, root: &Path, whole: &Tree, faulty: &mut Faulty) {
    let info = bench.run(&on("cache info", root));
    if info.is_crash() {
        faulty.push(format!("info: {}", bench.brief(&info.said())));
    }
    faulty.extend(accepted(bench, &root.join(OUTPUT), |path| {
        whole.get(&format!("{OUTPUT}/{path}")).cloned().flatten()
    }));
}

/// What `verify` accepts in a cache although it is not what it should be.
pub(super) fn accepted(
    bench: &Bench,
    folder: &Path,
    expected: impl Fn(&str) -> Option<Vec<u8>>,
) -> Faulty {
    let done = bench.run(&format!("cache verify --json {}", folder.display()));
    if done.is_crash() {
        return vec![format!("verify: {}", bench.brief(&done.said()))];
    }
    if done.code == Some(2) {
        return Vec::new();
    }
    let report: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    let found: Vec<&str> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["file"].as_str().unwrap())
        .collect();
    let Ok(manifest) = nst_cache::cache::Manifest::load(folder) else { return Vec::new() };
    let mut files: Vec<String> =
        manifest.row_arrays.iter().map(|spec| format!("{}/c/0", spec.path)).collect();
    for segment in &manifest.segments {
        files.extend(manifest.view_arrays.iter().take(segment.bytes.len()).map(|spec| {
            let axes = "/0".repeat(spec.row_shape.len());
            format!("{}/c/{}/{}{axes}", spec.path, segment.view, segment.index)
        }));
    }
    files
        .into_iter()
        .filter(|file| !found.contains(&file.as_str()))
        .filter(|file| std::fs::read(folder.join(file)).ok() != expected(file))
        .map(|file| format!("verify accepts {file}, which differs"))
        .collect()
}

#[test]
fn extract() {
    let scene = Scene {
        what: "extract",
        before: None,
        line: EXTRACT,
        after: None,
        is_cache: true,
        tried: (12, 300),
    };
    play(&Bench::new(), &scene, |_| ());
}

#[test]
fn extension_by_a_view() {
    let scene = Scene {
        what: "extension by a view",
        before: Some(&format!("{EXTRACT} --augment flip --views 1")),
        line: &format!("{EXTRACT} --augment flip --views 2"),
        after: None,
        is_cache: true,
        tried: (8, 250),
    };
    play(&Bench::new(), &scene, |_| ());
}

#[test]
fn extension_by_a_tap() {
    let scene = Scene {
        what: "extension by a tap",
        before: Some(EXTRACT),
        line: &format!("{EXTRACT} --tap pooled"),
        after: None,
        is_cache: true,
        tried: (8, usize::MAX),
    };
    play(&Bench::new(), &scene, |_| ());
}

#[test]
fn repair() {
    let scene = Scene {
        what: "cache repair, then extract",
        before: Some(EXTRACT),
        line: "cache repair",
        after: Some(EXTRACT),
        is_cache: true,
        tried: (8, usize::MAX),
    };
    play(&Bench::new(), &scene, damage);
}

/// Damages a cache in four places.
pub(super) fn damage(cache: &Path) {
    let places =
        [("taps/small/features/c/0/1/0/0/0", 1000), ("logits/c/0/2/0", 50), ("label/c/0", 9)];
    for (path, at) in places {
        let mut bytes = std::fs::read(cache.join(path)).unwrap();
        bytes[at] ^= 1;
        std::fs::write(cache.join(path), bytes).unwrap();
    }
    std::fs::remove_file(cache.join("taps/zarr.json")).unwrap();
}

fn play_runs(what: &str, line: &str, few: usize) {
    let tried = (few, usize::MAX);
    let scene = Scene { what, before: None, line, after: None, is_cache: false, tried };
    play(&Bench::with_cache(), &scene, |_| ());
}

#[test]
fn train_by_steps() {
    play_runs("train --checkpoint-steps 2", &format!("{TRAIN} --checkpoint-steps 2"), 12);
}

#[test]
fn train_by_epochs() {
    play_runs("train, checkpoints by epoch", TRAIN, 8);
}

#[test]
fn sweep() {
    play_runs("sweep of 2 runs", SWEEP, if is_slow() { usize::MAX } else { 8 });
}
