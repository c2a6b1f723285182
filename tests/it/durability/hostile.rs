//! Folders that somebody made to do harm: links in the places of files that are written, FIFOs, and
//! sizes that ask for all memory.

use super::bench::{Bench, EXTRACT, Faulty, finish, judge};
use super::compare::{self, everything};
use super::forge::{fifo, read_manifest, write_body};
use super::replay::materialise;
use super::states::damage;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

/// A FIFO, a link or a size is seen at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Changes a cache, with a file outside of it that is to stay as it is.
type Set = fn(&Path, &Path);

/// A cache in a folder of its own; `line` is what is run on it, after the trap is set.
struct Trap {
    line: String,
    set: Set,
    /// Exit statuses that are right.
    statuses: &'static [i32],
}

const PRECIOUS: &[u8] = b"precious";

fn link_of_temporary(cache: &Path, victim: &Path) {
    symlink(victim, cache.join(".manifest.json.tmp")).unwrap();
}

/// F8: what is written goes to no other place than the folder, whatever links are in it.
#[test]
fn links_lead_nowhere() {
    let bench = Bench::with_cache();
    let plain = everything(&bench.at("ex"));
    let repair = "cache repair cache".to_owned();
    let extend = format!("{EXTRACT} --tap pooled -o cache");
    let to_other_label: Set = |cache, _| {
        fs::remove_dir_all(cache.join("label")).unwrap();
        symlink("../other/label", cache.join("label")).unwrap();
    };
    let to_new_lock: Set = |cache, _| {
        fs::remove_file(cache.join(".lock")).unwrap();
        symlink("../new", cache.join(".lock")).unwrap();
    };
    let to_victim_lock: Set = |cache, victim| {
        fs::remove_file(cache.join(".lock")).unwrap();
        symlink(victim, cache.join(".lock")).unwrap();
    };
    let damaged: Set = |cache, victim| {
        damage(cache);
        link_of_temporary(cache, victim);
    };
    let traps: [(&str, &str, Set, &'static [i32]); 8] = [
        ("repair-temporary", &repair, damaged, &[0, 2]),
        ("extend-temporary", &extend, link_of_temporary, &[0, 2]),
        ("repair-folder", &repair, to_other_label, &[1, 2]),
        ("extend-folder", &extend, to_other_label, &[2]),
        ("repair-new-lock", &repair, to_new_lock, &[2]),
        ("extend-new-lock", &extend, to_new_lock, &[2]),
        ("repair-lock", &repair, to_victim_lock, &[2]),
        ("extend-lock", &extend, to_victim_lock, &[2]),
    ];
    let cases = traps.map(|(name, line, set, statuses)| {
        (name.to_owned(), Trap { line: line.to_owned(), set, statuses })
    });
    judge("links in a cache's folder", &cases, |trap| {
        let place = bench.place();
        let at = |name: &str| place.path().join(name);
        for name in ["cache", "other"] {
            materialise(&plain, &at(name));
        }
        fs::write(at("victim"), PRECIOUS).unwrap();
        // damage in what the link leads to: it would be taken out there
        let label = at("other").join("label/c/0");
        let mut bytes = fs::read(&label).unwrap();
        bytes[9] ^= 1;
        fs::write(&label, bytes).unwrap();
        let other = everything(&at("other"));
        (trap.set)(&at("cache"), &at("victim"));
        let line = trap.line.replace("cache repair cache", "cache repair ./cache");
        let line = line.replace(" ./cache", &format!(" {}", at("cache").display()));
        let line = line.replace("-o cache", &format!("-o {}", at("cache").display()));
        let done = finish(bench.command(&line).spawn().unwrap(), PATIENCE);
        let mut faulty = Faulty::new();
        if !done.code.is_some_and(|code| trap.statuses.contains(&code)) {
            faulty.push(bench.brief(&done.said()));
        }
        if fs::read(at("victim")).unwrap() != PRECIOUS {
            faulty.push("the file that a link led to was written".to_owned());
        }
        if at("new").exists() {
            faulty.push("a file was made where a link led to".to_owned());
        }
        if fs::symlink_metadata(at("cache").join("manifest.json")).unwrap().is_symlink() {
            faulty.push("the manifest is a link".to_owned());
        }
        compare::expect_equal("the other cache", &everything(&at("other")), &other, &mut faulty);
        Some(faulty)
    });
}

/// F9: a forged number of rows and a sparse index take neither all memory nor all time.
#[test]
fn a_forged_index_takes_no_memory() {
    let bench = Bench::with_cache();
    let plain = everything(&bench.at("ex"));
    let mut cases = Vec::new();
    for (shift, limit) in [(38, "-v 11718750"), (33, "-v 2000000"), (30, "-v 2000000")] {
        for command in ["cache verify", "cache info", "cache repair"] {
            cases.push((format!("{}-{shift}", &command[6..]), (command, 1u64 << shift, limit)));
        }
    }
    judge("forged sizes", &cases, |&(command, rows, limit)| {
        let place = bench.place();
        let cache = place.path().join("cache");
        materialise(&plain, &cache);
        let mut manifest = read_manifest(&cache);
        let chunk_rows = manifest["row_arrays"][0]["chunk_rows"].as_u64().unwrap();
        manifest["rows"] = rows.into();
        manifest["segments"] = serde_json::json!([]);
        write_body(&cache, manifest.to_string().as_bytes());
        for path in ["label/c/0", "sample_id/c/0"] {
            let file = fs::File::options().write(true).open(cache.join(path)).unwrap();
            file.set_len(rows.div_ceil(chunk_rows) * 16 + 1004).unwrap();
        }
        let line = format!("{command} {}", cache.display());
        let done = finish(bench.within(&line, limit).spawn().unwrap(), PATIENCE);
        Some(if done.is_crash() { vec![bench.brief(&done.said())] } else { Vec::new() })
    });
}

/// F11: a FIFO in the place of a file is refused at once, by writers too.
#[test]
fn a_fifo_is_not_waited_for() {
    let bench = Bench::with_cache();
    let plain = everything(&bench.at("ex"));
    let files = [
        ".lock",
        "manifest.json",
        "zarr.json",
        "extraction.json",
        "label/c/0",
        "logits/c/0/1/0",
        "taps/small/features/zarr.json",
    ];
    let lines = [
        "cache info PLACE",
        "cache verify PLACE",
        "cache repair PLACE",
        "cache export PLACE --npz PLACE.npz",
        "train student.onnx --cache PLACE --test folder:images --epochs 1 -o PLACE-run",
        &format!("{EXTRACT} -o PLACE"),
        &format!("{EXTRACT} --tap pooled -o PLACE"),
    ];
    let mut cases = Vec::new();
    for path in files {
        for (line, at) in lines.into_iter().zip(0..) {
            cases.push((format!("{path}-{at}"), (path, line)));
        }
    }
    judge("FIFOs in a cache", &cases, |&(path, line)| {
        let place = bench.place();
        let cache = place.path().join("cache");
        materialise(&plain, &cache);
        fs::remove_file(cache.join(path)).unwrap();
        fifo(&cache.join(path));
        let line = line.replace("PLACE", &cache.to_string_lossy());
        let done = finish(bench.command(&line).spawn().unwrap(), PATIENCE);
        Some(if done.is_crash() { vec![bench.brief(&done.said())] } else { Vec::new() })
    });
}
