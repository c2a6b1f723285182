//! Damaged, exchanged and forged caches: whatever was done to one, its commands end by themselves
//! and soon, and it is not read as good with other values.

use super::bench::{Bench, Done, Faulty, alone, finish, judge};
use super::compare::{self, everything};
use super::forge::{self, Damage};
use super::replay::materialise;
use crate::support::{Random, is_slow, write_idx};

use std::path::Path;
use std::time::Duration;

/// Four segments of equal lengths in each of three.
const SAMPLES: usize = 384;
/// No command on a cache of a megabyte takes longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of address space: 12 GB in KiB.
const MEMORY: &str = "-v 11718750";
/// Damages that are tried in part, and in all.
const TRIED: [u64; 2] = [74, 2273];

const EXTRACT: &str = "extract teacher.onnx --data idx:more --preprocess fashion-mnist --batch 32 \
                       --threads 2 --keep features --store f32 --tap scaled@7x7=one \
                       --tap map2@7x7=two --inputs source --augment flip --views 2";

/// The caches that are damaged, and those whose parts come into them: of another seed, and of the
/// samples in another order.
fn prepare(bench: &Bench) {
    write_idx(&bench.at("more"), SAMPLES);
    for (name, flags) in [
        ("raw", "--compress none"),
        ("raw-seed", "--compress none --seed 1"),
        ("raw-shuffle", "--compress none --shuffle 5"),
        ("zstd", "--compress zstd"),
        ("zstd-seed", "--compress zstd --seed 1"),
    ] {
        bench.succeeds(&format!("{EXTRACT} {flags} -o {name}"));
    }
}

/// What an export of a cache holds.
fn exported(bench: &Bench, cache: &Path) -> (Done, Vec<u8>) {
    let place = bench.place();
    let file = place.path().join("export.safetensors");
    let line = format!("cache export {} --safetensors {}", cache.display(), file.display());
    let done = limited(bench, &line);
    let values = std::fs::read(&file).map(|bytes| compare::tensors(&bytes)).unwrap_or_default();
    (done, values)
}

/// Runs a command with bounds on time and memory.
fn limited(bench: &Bench, line: &str) -> Done {
    finish(bench.within(line, MEMORY).spawn().unwrap(), PATIENCE)
}

/// What is wrong with how a damaged cache is taken.
fn take(bench: &Bench, base: &str, seed: u64, wanted: &[u8]) -> Faulty {
    let place = bench.place();
    let cache = place.path().join("cache");
    materialise(&everything(&bench.at(base)), &cache);
    let mut damage = Damage {
        cache: cache.clone(),
        aside: place.path().to_owned(),
        others: vec![bench.at(&format!("{base}-seed")), bench.at("raw-shuffle")],
        manifest: forge::read_manifest(&cache),
        random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
    };
    if base == "zstd" {
        damage.others.truncate(1);
    }
    #[allow(clippy::cast_possible_truncation, reason = "a few kinds")]
    let (kind, apply) = forge::KINDS[seed as usize % forge::KINDS.len()];
    let done_to = apply(&mut damage);
    let name = format!("{kind}, {done_to}");
    let mut faulty = Vec::new();
    for command in ["verify", "info"] {
        let done = limited(bench, &format!("cache {command} {}", cache.display()));
        if done.is_crash() {
            faulty.push(format!("{name}; {command}: {}", bench.brief(&done.said())));
        }
    }
    let (done, values) = exported(bench, &cache);
    if done.is_crash() {
        faulty.push(format!("{name}; export: {}", bench.brief(&done.said())));
    }
    if done.code == Some(0) && values != wanted && !forge::is_consistent(kind, &done_to) {
        let verified = limited(bench, &format!("cache verify {}", cache.display()));
        faulty.push(format!(
            "{name}: read as good with other values; verify: {}",
            bench.brief(&verified.said())
        ));
    }
    faulty
}

#[test]
fn a_damaged_cache_is_not_read_as_good() {
    let bench = Bench::new();
    prepare(&bench);
    let wanted = ["raw", "zstd"].map(|base| {
        let (done, values) = exported(&bench, &bench.at(base));
        assert_eq!(done.code, Some(0), "{}", done.said());
        (base, values)
    });
    let count = if is_slow() || alone().is_some() { TRIED[1] } else { TRIED[0] };
    let cases: Vec<(String, (u64, usize))> = (0..count)
        .map(|seed| {
            // all kinds in turn, of which there is an odd number: next time on the other cache
            let base = usize::from(seed % 2 == 1);
            (format!("{}-{seed}", wanted[base].0), (seed, base))
        })
        .collect();
    judge("structured mutations of a cache", &cases, |&(seed, base)| {
        let (base, values) = &wanted[base];
        Some(take(&bench, base, seed, values))
    });
}
