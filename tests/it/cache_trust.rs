//! A cache can be trusted: damage is named, taken out and filled again to the same bytes; writers
//! keep one another out; versions are told apart. The real binary and a real teacher.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use crate::support::{self, Sandbox, contents};

use nst_cache::cache::{Cache, Manifest};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;

/// More than one segment.
const SAMPLES: usize = 500;

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

const EXTRACT: &str = "extract teacher.onnx --data idx:data --preprocess fashion-mnist --tap map2 \
                       --batch 32 --threads 2 -o cache";

#[test]
fn damage_is_named_taken_out_and_filled_again_to_the_same_bytes() {
    let folder = &Sandbox::with_runtime().teacher().data(SAMPLES);
    let at = |path: &str| folder.join("cache").join(path);
    folder.succeeds(EXTRACT);
    let whole = contents(&at(""));
    let manifest = Manifest::load(&at("")).unwrap();
    let (segments, first) = (manifest.segments_total(), manifest.segment_rows);
    let dropped = manifest.rows_of_segment(1);
    assert!(segments > 1, "{SAMPLES} rows are one segment");
    let live = folder.succeeds("cache verify cache --live teacher.onnx");
    assert!(
        live.contains("taps/map2/features: cosine 1.000000") && live.contains("rows recomputed"),
        "{live}"
    );
    assert!(folder.succeeds("cache repair cache").contains("nothing to repair"));

    let features = "taps/map2/features/c/0/1/0/0/0";
    flip(&at(features), 5);
    fs::write(at("label/c/0"), b"").unwrap();
    fs::remove_file(at("taps/zarr.json")).unwrap();
    let found = folder.fails("cache verify cache", 1);
    assert!(
        found.contains(&format!("{features}: rows {first}.."))
            && found.contains("chunk checksum does not match"),
        "{found}"
    );
    assert!(
        found.contains("label/c/0: expected ")
            && found.contains("taps/zarr.json: missing")
            && found.contains("cache repair"),
        "{found}"
    );
    folder.fails("train resnet8 --cache cache --epochs 1", 2);

    let report = folder.json("cache repair cache");
    assert_eq!(
        report["dropped"],
        serde_json::json!([{ "view": 0, "segment": 1, "rows": [first, first + dropped] }])
    );
    assert_eq!(
        (&report["removed"], &report["rewritten"]),
        (&serde_json::json!(["label/c/0"]), &serde_json::json!(["taps/zarr.json"]))
    );
    assert!(
        folder
            .fails("train resnet8 --cache cache --epochs 1", 2)
            .contains(&format!("incomplete, {} of {segments} segments", segments - 1))
    );

    let extracted = folder.json(EXTRACT);
    assert_eq!((&extracted["rows"], &extracted["computed"]), (&SAMPLES.into(), &dropped.into()));
    assert!(folder.succeeds("cache verify cache").contains("sound"));
    assert_eq!(contents(&at("")), whole);

    // a newer format is refused with its version by every command, before anything else in it is
    // looked at
    let manifest = fs::read_to_string(at("manifest.json")).unwrap();
    let newer = framed(&body(&manifest).replacen("\"format\":6", "\"format\":99", 1).replacen(
        "\"rows\"",
        "\"surprise\":1,\"rows\"",
        1,
    ));
    fs::write(at("manifest.json"), newer).unwrap();
    for line in [
        "cache info cache",
        "cache verify cache",
        "cache repair cache",
        "cache export cache --npz x.npz",
        EXTRACT,
        "train resnet8 --cache cache",
    ] {
        let refused = folder.fails(line, 2);
        assert!(
            refused.contains("expected format 1 to ")
                && refused.contains(", found format 99 written by nst-cache 0.1.0"),
            "{line}: {refused}"
        );
    }
    // the format decides about reading, the tool about writing: another version may compute other
    // values
    fs::write(
        at("manifest.json"),
        framed(&body(&manifest).replacen(
            "\"tool\":\"nst-cache 0.1.0\"",
            "\"tool\":\"nst-cache 0.0.9\"",
            1,
        )),
    )
    .unwrap();
    assert_eq!(Cache::open(&at("")).unwrap().manifest().tool, "nst-cache 0.0.9");
    folder.succeeds(
        "train resnet8 --cache cache --criterion kd --limit 64 --epochs 1 --seed 1 -o run",
    );
    assert!(
        folder
            .fails(EXTRACT, 2)
            .contains("another tool: expected \"nst-cache 0.1.0\", found \"nst-cache 0.0.9\"")
    );
}

/// The JSON within a manifest's frame.
fn body(manifest: &str) -> String {
    let start = manifest.find("\"manifest\":").unwrap() + "\"manifest\":".len();
    manifest[start..manifest.len() - 2].to_owned()
}

fn framed(body: &str) -> String {
    let hash =
        Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    format!("{{\"sha256\":\"{hash}\",\n\"manifest\":{body}}}\n")
}

#[test]
fn one_writer_or_many_readers_across_processes() {
    let folder = &Sandbox::with_runtime().teacher().data(64);
    folder.succeeds(EXTRACT);
    let reader = Cache::open(&folder.join("cache")).unwrap();
    folder.succeeds("cache verify cache");
    folder.succeeds("cache export cache --npz x.npz");
    for line in [EXTRACT, "cache repair cache"] {
        let refused = folder.fails(line, 2);
        assert!(refused.contains(", reading it") && refused.contains("hint:"), "{line}: {refused}");
    }
    drop(reader);
    let lock = fs::File::options().write(true).open(folder.join("cache/.lock")).unwrap();
    // a program that another test is starting holds the reader's lock until it runs
    lock.lock().unwrap();
    for line in [
        EXTRACT,
        "cache repair cache",
        "cache verify cache",
        "cache export cache --npz y.npz",
        "train resnet8 --cache cache",
    ] {
        let refused = folder.fails(line, 2);
        assert!(refused.contains("cache: in use by"), "{line}: {refused}");
    }
    // what is in it can be looked up all the same
    folder.succeeds("cache info cache");
    assert!(Manifest::load(&folder.join("cache")).unwrap().is_complete());
    lock.unlock().unwrap();
    folder.succeeds(EXTRACT);
}

#[test]
fn an_export_replaces_a_file_only_by_force_and_leaves_no_half() {
    let folder = &Sandbox::new();
    let golden = support::committed("tests/data/golden/zstd");
    let export = |flags: &str| format!("cache export {} {flags}", golden.display());
    folder.succeeds(&export("--npz out/all.npz"));
    assert!(folder.fails(&export("--npz out/all.npz"), 2).contains("--force"));
    folder.succeeds(&export("--npz out/all.npz --tap conv --rows 1..5 --force"));
    assert!(
        folder
            .fails(&export("--safetensors x.safetensors --rows 5..9"), 2)
            .contains("expected some of 0..6")
    );
    assert!(
        folder
            .fails(&export("--safetensors x.safetensors --tap con"), 2)
            .contains("taps/conv/features")
    );
    folder.fails(&export(""), 2);
    folder.fails(&export("--npz a.npz --safetensors a.safetensors"), 2);
    assert_eq!(contents(folder).into_keys().collect::<Vec<_>>(), ["out/all.npz"]);
}
