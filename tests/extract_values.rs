//! What stands in a cache is what the teacher computes: values against direct runs, pooled taps, fixed batches, arrays, missing labels.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use nst_cache::array::{Array, Values};
use nst_cache::cache::{Cache, Decoder};
use nst_cache::extract::{self, ExtractReport};
use nst_cache::monitor::Silent;
use nst_cache::onnx::Model;
use nst_cache::recipe::{Extract, Keep, PreprocessOptions, Store};
use nst_cache::runtime::{Device, Runtime, Session, SessionOptions};
use nst_cache::statistic::adaptive_average_pool;
use std::path::Path;

const OPTIONS: SessionOptions = SessionOptions { device: Device::Cpu, threads: 1 };

fn recipe(folder: &Path, teacher: &str, data: &str) -> Extract {
    Extract {
        teacher: folder.join(teacher),
        data: data.parse().unwrap(),
        split: "train".into(),
        taps: Vec::new(),
        logits: None,
        keep: Keep::Features,
        store: Store::F32,
        preprocess: PreprocessOptions { preset: Some("fashion-mnist".into()), ..PreprocessOptions::default() },
        default_preprocess: PreprocessOptions::default(),
        classes: None,
        batch: Some(8),
        limit: None,
        shuffle: None,
        seed: 0,
        skip_bad: false,
        output: folder.join("cache"),
        threads: 2,
    }
}

fn extract(recipe: &Extract) -> ExtractReport {
    extract::run(recipe, &Runtime::load(None).unwrap(), &OPTIONS, &Silent).unwrap()
}

/// All rows of a float array, in row order.
fn floats(cache: &Cache, path: &str) -> Vec<f32> {
    let array = cache.array(path).unwrap();
    let mut bytes = Vec::new();
    array.read(&mut Decoder::default(), 0, 0, cache.manifest().rows, &mut bytes).unwrap();
    match array.spec().dtype {
        nst_cache::array::Dtype::F16 => bytemuck::pod_collect_to_vec::<u8, half::f16>(&bytes).iter().map(|v| v.to_f32()).collect(),
        _ => bytemuck::pod_collect_to_vec(&bytes),
    }
}

#[test]
fn features_are_what_the_teacher_computes_on_the_stored_inputs() {
    if !support::has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    support::write_teacher(&folder.path().join("teacher.onnx"));
    support::write_idx(&folder.path().join("data"), 37);
    let mut recipe = recipe(folder.path(), "teacher.onnx", &format!("idx:{}", folder.path().join("data").display()));
    recipe.taps = ["map1", "map2@7x7=small", "pooled"].map(str::to_owned).to_vec();
    let report = extract(&recipe);
    assert_eq!((report.rows, report.computed, report.skipped), (37, 37, 0));

    let cache = Cache::open(&recipe.output).unwrap();
    let mut ids = cache.sample_ids().to_vec();
    assert!(cache.labels().iter().zip(&ids).all(|(label, id)| *label == id % 10));
    assert!(ids.windows(2).any(|w| w[0] > w[1]), "rows stand in a random order");
    ids.sort_unstable();
    assert_eq!(ids, (0..37).collect::<Vec<i64>>());

    let mut input = Vec::new();
    cache.array("input").unwrap().read(&mut Decoder::default(), 0, 0, 37, &mut input).unwrap();
    let preprocess = cache.manifest().data.preprocess.clone().unwrap();
    let fed = nst_cache::data::preprocess::normalize(&preprocess, &input).unwrap();
    let model = Model::read(&recipe.teacher).unwrap();
    let names = ["map1", "map2", "pooled", "logits"].map(str::to_owned);
    let mut session = Session::new(&Runtime::load(None).unwrap(), &model, &names, &OPTIONS).unwrap();
    let [map1, map2, pooled, logits] = session.run(&[("image", &fed)], &names).unwrap().try_into().unwrap();
    let small = adaptive_average_pool(&map2, [7, 7]).unwrap();
    for (path, expected) in
        [("taps/map1/features", map1), ("taps/small/features", small), ("taps/pooled/features", pooled), ("logits", logits)]
    {
        let (found, expected) = (floats(&cache, path), expected.to_f32());
        assert_eq!(found.len(), expected.len(), "{path}");
        let error = found.iter().zip(&expected).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f32::max);
        assert!(error < 1e-5, "{path}: {error}");
    }
    let right = floats(&cache, "logits").chunks(10).zip(cache.labels()).filter(|(row, label)| argmax(row) == **label).count();
    #[allow(clippy::cast_precision_loss, reason = "37 rows")]
    let top1 = 100.0 * right as f64 / 37.0;
    assert!((report.teacher_top1.unwrap() - top1).abs() < 0.006, "{:?} {top1}", report.teacher_top1);
}

fn argmax(row: &[f32]) -> i64 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    i64::try_from(row.iter().position(|&v| v >= largest).unwrap()).unwrap()
}

#[test]
fn a_fixed_batch_gives_the_same_rows_as_an_open_one() {
    if !support::has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    support::write_teacher(&folder.path().join("open.onnx"));
    support::write_teacher_of_batch(&folder.path().join("fixed.onnx"), Some(8));
    support::write_idx(&folder.path().join("data"), 21);
    let data = format!("idx:{}", folder.path().join("data").display());
    let mut logits = Vec::new();
    for teacher in ["open.onnx", "fixed.onnx"] {
        let mut recipe = recipe(folder.path(), teacher, &data);
        (recipe.output, recipe.batch) = (folder.path().join(teacher).with_extension("cache"), None);
        assert_eq!(extract(&recipe).rows, 21);
        logits.push(floats(&Cache::open(&recipe.output).unwrap(), "logits"));
    }
    let difference = logits[0].iter().zip(&logits[1]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 1e-4, "{difference}");
    let mut other = recipe(folder.path(), "fixed.onnx", &data);
    other.batch = Some(4);
    let error = extract::run(&other, &Runtime::load(None).unwrap(), &OPTIONS, &Silent).unwrap_err();
    assert!(error.to_string().contains("expected 8"), "{error}");
}

#[test]
fn automatic_storage_takes_f32_where_f16_ends() {
    if !support::has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    support::write_faulty_teacher(&folder.path().join("large.onnx"), support::Fault::Large);
    support::write_idx(&folder.path().join("data"), 10);
    let mut recipe = recipe(folder.path(), "large.onnx", &format!("idx:{}", folder.path().join("data").display()));
    recipe.store = Store::Auto;
    recipe.taps = vec!["map1".into(), "map2".into()];
    extract(&recipe);
    let cache = Cache::open(&recipe.output).unwrap();
    let dtype = |path: &str| cache.array(path).unwrap().spec().dtype.name();
    assert_eq!((dtype("taps/map1/features"), dtype("taps/map2/features"), dtype("logits")), ("float16", "float32", "float32"));
}

#[test]
fn a_flat_folder_has_no_labels_and_no_accuracy() {
    if !support::has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    support::write_teacher(&folder.path().join("teacher.onnx"));
    support::write_images(&folder.path().join("images"), 10);
    let mut recipe = recipe(folder.path(), "teacher.onnx", &format!("folder:{}", folder.path().join("images/a").display()));
    recipe.limit = Some(4);
    let report = extract(&recipe);
    assert_eq!((report.rows, report.teacher_top1), (4, None));
    assert_eq!(Cache::open(&recipe.output).unwrap().labels(), [-1; 4]);
}

#[test]
fn arrays_are_fed_and_stored_as_they_are() {
    if !support::has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    support::write_teacher(&folder.path().join("teacher.onnx"));
    let mut random = support::Random(11);
    #[allow(clippy::cast_possible_truncation, reason = "test data")]
    let values: Vec<f32> = (0..5 * 784).map(|_| random.unit() as f32).collect();
    support::write_npz(&folder.path().join("data.npz"), "image", &Array::new(vec![5, 1, 28, 28], Values::F32(values.clone())).unwrap());
    let mut recipe = recipe(folder.path(), "teacher.onnx", &format!("npz:{}", folder.path().join("data.npz").display()));
    recipe.preprocess = PreprocessOptions::default();
    assert_eq!(extract(&recipe).rows, 5);
    let cache = Cache::open(&recipe.output).unwrap();
    assert!(cache.manifest().data.preprocess.is_none());
    let stored = floats(&cache, "inputs/image");
    for (row, &id) in stored.chunks(784).zip(cache.sample_ids()) {
        let first = usize::try_from(id).unwrap() * 784;
        assert_eq!(row, &values[first..first + 784]);
    }
}
