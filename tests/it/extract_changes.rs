//! What changes under a cache while it is made, or after: files that are replaced, touched, added
//! or broken, and values that do not fit. Nothing stale is served, and nothing that was computed is
//! thrown away. The real binary and a real teacher.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use crate::support::{self, Sandbox};

use nst_cache::array::{Array, Values};
use nst_cache::cache::{Cache, Decoder, Manifest};
use nst_cache::data;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

/// Three segments of 128 rows, the last one short.
const SAMPLES: usize = 300;
const EXTRACT: &str = "extract teacher.onnx --data folder:images --preprocess fashion-mnist --tap \
                       map2 --tap pooled --batch 32 --threads 2";

/// The numbers of the shards' files, by path: one that is written again has another.
fn inodes(folder: &Path, segments: &[usize]) -> BTreeMap<String, u64> {
    let of = |path: &str| segments.iter().any(|segment| path.contains(&format!("/c/0/{segment}")));
    let paths = contents(folder).into_keys().filter(|path| of(path));
    paths.map(|path| (path.clone(), fs::metadata(folder.join(&path)).unwrap().ino())).collect()
}

fn image(folder: &Path, index: usize) -> PathBuf {
    folder.join("images").join(["a", "b"][index % 2]).join(format!("{index:03}.bmp"))
}

/// Writes a grey image of noise: every one has the same size in bytes.
fn write_image(folder: &Path, index: usize, seed: u64) {
    let mut random = support::Random(seed * 1009 + index as u64 + 1);
    let pixels = (0..784).map(|_| random.next().to_le_bytes()[7]).collect();
    let path = image(folder, index);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::GrayImage::from_raw(28, 28, pixels)
        .unwrap()
        .write_to(&mut bytes, image::ImageFormat::Bmp)
        .unwrap();
    fs::write(path, bytes.into_inner()).unwrap();
}

fn prepare(samples: usize) -> Sandbox {
    let folder = Sandbox::with_runtime().teacher();
    (0..samples).for_each(|index| write_image(&folder, index, 1));
    folder
}

/// Every file of a cache but what is no part of its content.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = support::contents(folder);
    files.remove("stamps.bin");
    files
}

fn assert_same(folder: &Sandbox, cache: &str, fresh: &str) {
    support::assert_same(&contents(&folder.join(fresh)), &contents(&folder.join(cache)));
    assert!(folder.succeeds(&format!("cache verify {cache}")).contains("sound"));
}

/// Where the image of this number stands in the data set: class `a` comes first.
fn sample_of(index: usize, samples: usize) -> usize {
    index / 2 + (index % 2) * samples.div_ceil(2)
}

/// The number of an image in this row; none of those that are looked at beforehand.
fn in_row(row: usize, samples: usize) -> usize {
    let mut order: Vec<usize> = (0..samples).collect();
    data::shuffle(&mut order, 0);
    let step = samples.div_ceil(16);
    let sample = order[row..].iter().find(|sample| *sample % step != 0).unwrap();
    (0..samples).find(|&index| sample_of(index, samples) == *sample).unwrap()
}

fn set_modified(path: &Path, time: SystemTime) {
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn replaced_files_are_refused_and_their_rows_alone_computed_again() {
    let folder = &prepare(SAMPLES);
    let extract = format!("{EXTRACT} -o cache");
    folder.succeeds(&extract);
    assert_eq!(folder.json(&extract)["computed"], 0);

    // of the same size; and one that has another, by which the listing is another
    (10..13).for_each(|index| write_image(folder, index, 2));
    fs::write(image(folder, 20), [fs::read(image(folder, 21)).unwrap(), vec![0]].concat()).unwrap();
    let words =
        ["4 samples of its data have changed", "a/010.bmp", "b/011.bmp", "a/020.bmp", "--refresh"];
    folder.refused(&extract, &words);
    folder.refused(&format!("{extract} --tap map1@7x7=small"), &words);
    let before = inodes(&folder.join("cache"), &[0, 1, 2]);
    let refreshed = folder.json(&format!("{extract} --refresh"));
    assert_eq!((&refreshed["refreshed"], &refreshed["computed"]), (&4.into(), &4.into()));
    assert_ne!(before, inodes(&folder.join("cache"), &[0, 1, 2]));
    folder.succeeds(&format!("{EXTRACT} -o fresh"));
    assert_same(folder, "cache", "fresh");
    assert_eq!(folder.json(&format!("{extract} --refresh"))["refreshed"], 0);

    // copied or touched: the same
    (0..SAMPLES).for_each(|index| set_modified(&image(folder, index), SystemTime::UNIX_EPOCH));
    assert!(folder.succeeds(&extract).contains("300 files were copied or touched"));
    assert!(!folder.succeeds(&extract).contains("copied or touched"));

    // every file replaced behind its stamp: the draw sees it
    let time = fs::metadata(image(folder, 0)).unwrap().modified().unwrap();
    for index in 0..SAMPLES {
        write_image(folder, index, 3);
        set_modified(&image(folder, index), time);
    }
    folder.refused(&extract, &["samples of its data have changed"]);
    // the sizes of the images are back, so all segments are computed again
    let refreshed = folder.json(&format!("{extract} --refresh"));
    assert_eq!(
        (&refreshed["refreshed"], &refreshed["computed"]),
        (&SAMPLES.into(), &SAMPLES.into())
    );
    folder.succeeds(&format!("{EXTRACT} -o fresh2"));
    assert_same(folder, "cache", "fresh2");

    // files that come and go make another data set
    write_image(folder, SAMPLES, 1);
    fs::remove_file(image(folder, 1)).unwrap();
    fs::remove_file(image(folder, 3)).unwrap();
    for line in [&extract, &format!("{extract} --refresh")] {
        folder.refused(line, &["the data set has changed: 1 files added, 2 removed"]);
    }
    folder.refused(&format!("{EXTRACT} --refresh -o other"), &["expected a cache"]);
}

#[test]
fn a_cache_without_a_record_is_compared_by_its_inputs() {
    let folder = &prepare(SAMPLES);
    let extract = format!("{EXTRACT} -o cache");
    folder.succeeds(&extract);
    fs::remove_file(folder.join("cache/stamps.bin")).unwrap();
    assert!(folder.succeeds(&extract).contains("of 300 of 300 samples it is not recorded"));
    (0..SAMPLES).for_each(|index| write_image(folder, index, 2));
    folder.refused(&extract, &["samples of its data have changed"]);
    (3..SAMPLES).for_each(|index| write_image(folder, index, 1));
    // any is seen when all are looked at, a damaged record or none
    fs::write(folder.join("cache/stamps.bin"), b"nst-st1?").unwrap();
    assert!(folder.run("cache verify cache").text().contains("stamps.bin"));
    assert_eq!(folder.json(&format!("{extract} --refresh"))["refreshed"], 3);
    folder.succeeds(&format!("{EXTRACT} -o fresh"));
    assert_same(folder, "cache", "fresh");
    assert!(!folder.succeeds(&extract).contains("not recorded"));

    // and with neither record nor inputs all rows are computed again
    let extract = format!("{EXTRACT} --inputs source -o bare");
    folder.succeeds(&extract);
    fs::remove_file(folder.join("bare/stamps.bin")).unwrap();
    assert!(folder.succeeds(&extract).contains("whether they have changed cannot be told"));
    assert_eq!(folder.json(&format!("{extract} --refresh"))["refreshed"], 300);
    assert!(!folder.succeeds(&extract).contains("not recorded"));
}

#[test]
fn mixed_rows_change_with_their_partners_and_a_killed_refresh_goes_on() {
    let folder = &prepare(SAMPLES);
    let mixed = format!("{EXTRACT} --augment crop-flip --mixup 0.5 --views");
    let extract = format!("{mixed} 3 -o cache");
    folder.succeeds(&extract);
    (0..4).for_each(|index| write_image(folder, index, 2));
    folder.succeeds(&format!("{mixed} 3 -o fresh"));
    folder.refused(&format!("{mixed} 4 -o cache"), &["4 samples", "--refresh"]);
    for kill in 1..8 {
        let mut command = folder.command(&format!("{extract} --refresh"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(60 * kill));
        child.kill().unwrap();
        child.wait().unwrap();
        Manifest::load(&folder.join("cache")).unwrap();
    }
    folder.succeeds(&format!("{extract} --refresh"));
    assert_same(folder, "cache", "fresh");
    folder.succeeds(&extract);
}

#[test]
fn training_that_decodes_the_data_again_refuses_what_has_changed() {
    let folder = &prepare(64);
    let extract = format!("{EXTRACT} --inputs source -o cache");
    folder.succeeds(&extract);
    let train = "train resnet8 --cache cache --criterion kd --limit 32 --epochs 1 --seed 1 -o run";
    write_image(folder, 7, 2);
    folder.refused(train, &["1 sample of its data has changed since: b/007.bmp", "--refresh"]);
    folder.refused("cache verify cache --live teacher.onnx", &["b/007.bmp"]);
    assert_eq!(folder.json(&format!("{extract} --refresh"))["refreshed"], 1);
    // the teacher tells other classes than these, which is refused for another reason
    assert!(!folder.run(train).text().contains("changed since"));
}

#[test]
fn a_late_unreadable_image_costs_its_own_segment() {
    let folder = &prepare(SAMPLES);
    let extract = format!("{EXTRACT} -o cache");
    let cache = folder.join("cache");
    folder.succeeds(&format!("{EXTRACT} -o whole"));
    let bad = in_row(280, SAMPLES);
    fs::write(image(folder, bad), b"BMbroken").unwrap();
    folder.refused(&extract, &["1 sample cannot be read", "--skip-bad"]);
    let there = inodes(&cache, &[0, 1]);
    assert!(!there.is_empty(), "two segments are published");

    let report_of = folder.json(&format!("{extract} --skip-bad"));
    assert_eq!(
        (&report_of["rows"], &report_of["skipped"], &report_of["computed"]),
        (&299.into(), &1.into(), &43.into())
    );
    assert_eq!(inodes(&cache, &[0, 1]), there);
    folder.succeeds(&format!("{EXTRACT} --skip-bad -o fresh"));
    assert_same(folder, "cache", "fresh");
    // it stays out while it cannot be read, and is said to
    let again = folder.succeeds(&extract);
    assert!(again.contains("as before, left out") && again.contains("(0 computed"), "{again}");

    // a second one, in the first segment of a cache that is complete: that and the tail
    let second = in_row(40, SAMPLES);
    fs::write(image(folder, second), b"BMbroken").unwrap();
    folder.refused(&extract, &["1 sample of its data has changed"]);
    let report_of = folder.json(&format!("{extract} --skip-bad"));
    assert_eq!((&report_of["rows"], &report_of["computed"]), (&298.into(), &(128 + 42).into()));
    assert_eq!(
        inodes(&cache, &[1]),
        there
            .iter()
            .filter(|(path, _)| path.contains("/c/0/1"))
            .map(|(p, i)| (p.clone(), *i))
            .collect()
    );
    folder.succeeds(&format!("{EXTRACT} --skip-bad -o fresh2"));
    assert_same(folder, "cache", "fresh2");

    // both are mended
    for index in [bad, second] {
        write_image(folder, index, 1);
    }
    let mended = folder.succeeds(&extract);
    assert!(mended.contains("readable now, so taken in: 2"), "{mended}");
    assert_same(folder, "cache", "whole");
}

#[test]
fn a_repaired_image_lets_the_extraction_go_on() {
    let folder = &prepare(SAMPLES);
    let extract = format!("{EXTRACT} -o cache");
    folder.succeeds(&format!("{EXTRACT} -o whole"));
    let bad = in_row(200, SAMPLES);
    fs::write(image(folder, bad), b"BMbroken").unwrap();
    folder.refused(&extract, &["cannot be read"]);
    write_image(folder, bad, 1);
    assert_eq!(folder.json(&extract)["computed"], SAMPLES - 128);
    assert_same(folder, "cache", "whole");
}

/// An archive of inputs for the teacher, one of which, of a late row, is `late` times as large.
fn write_late(folder: &Path, late: f32) {
    let mut order: Vec<usize> = (0..SAMPLES).collect();
    data::shuffle(&mut order, 0);
    let mut random = support::Random(5);
    let mut values: Vec<f32> = Vec::new();
    for sample in 0..SAMPLES {
        let scale = if sample == order[290] { late } else { 1.0 };
        values.extend((0..784).map(|_| f32::from(random.next().to_le_bytes()[7]) / 255.0 * scale));
    }
    let images = Array::new(vec![SAMPLES, 1, 28, 28], Values::F32(values)).unwrap();
    let labels =
        Array::new(vec![SAMPLES], Values::I64((0..10).cycle().take(SAMPLES).collect())).unwrap();
    support::write_npz(&folder.join("late.npz"), &[("image", &images), ("labels", &labels)]);
}

#[test]
fn a_tap_that_overflows_late_is_computed_again_and_all_else_stays() {
    let folder = &Sandbox::with_runtime().teacher();
    write_late(folder, 3e5);
    let extract =
        "extract teacher.onnx --data npz:late.npz --tap map2 --tap pooled --batch 32 --threads 2";
    let cache = folder.join("cache");
    // asked for, f16 is kept to, and nothing is lost
    folder.refused(
        &format!("{extract} --store f16 -o cache"),
        &["beyond the range of f16", "without --store f16"],
    );
    let logits = |inodes: BTreeMap<String, u64>| {
        inodes.into_iter().filter(|(path, _)| path.starts_with("logits")).collect::<Vec<_>>()
    };
    let there = logits(inodes(&cache, &[0, 1]));
    assert_eq!(there.len(), 2);
    let said = folder.succeeds(&format!("{extract} -o cache"));
    assert!(said.contains("tap map2") && said.contains("stored as f32 from now on"), "{said}");
    assert_eq!(logits(inodes(&cache, &[0, 1])), there);
    let types = |cache: &str| -> Vec<String> {
        let manifest = Manifest::load(&folder.join(cache)).unwrap();
        manifest
            .view_arrays
            .iter()
            .map(|spec| format!("{} {}", spec.path, spec.dtype.name()))
            .collect()
    };
    assert!(
        types("cache").contains(&"taps/map2/features float32".to_owned()),
        "{:?}",
        types("cache")
    );
    folder.succeeds(&format!("{extract} -o whole"));
    assert_same(folder, "cache", "whole");
    assert_eq!(folder.json(&format!("{extract} -o cache"))["computed"], 0);

    // the values are those of f32 from the start
    folder.succeeds(&format!("{extract} --store f32 -o wide"));
    let features = |cache: &str| {
        let cache = Cache::open(&folder.join(cache)).unwrap();
        let mut bytes = Vec::new();
        cache
            .array("taps/map2/features")
            .unwrap()
            .read(&mut Decoder::default(), 0, 0, SAMPLES, &mut bytes)
            .unwrap();
        bytes
    };
    assert!(features("cache") == features("wide"));

    // killed at any moment, the same command comes to the same end
    for kill in 1..8 {
        let mut command = folder.command(&format!("{extract} -o killed"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(70 * kill));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    folder.succeeds(&format!("{extract} -o killed"));
    assert_same(folder, "killed", "whole");
}

#[test]
fn late_rows_that_f16_loses_are_counted() {
    let folder = &Sandbox::with_runtime().teacher();
    write_late(folder, 1e-10);
    let extract = "extract teacher.onnx --data npz:late.npz --tap map2 --batch 32";
    let said = folder.succeeds(&format!("{extract} -o cache"));
    let (_, line) = said.split_once("tap map2: 1 row holds values down to ").unwrap();
    assert!(line.contains("that are lost in f16: --store f32 in another folder"), "{said}");
    assert!(!folder.succeeds(&format!("{extract} --store f32 -o wide")).contains("f16"));
}
