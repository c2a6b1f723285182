//! What stands in a cache is what the teacher computes: values against direct runs, pooled taps,
//! fixed batches, arrays, missing labels.

#![allow(clippy::unwrap_used, reason = "a test")]

use crate::support::{self, OPTIONS, Sandbox, compare, extract, floats, try_extract, write_noise};

use nst_cache::array::{Array, Layout, Values};
use nst_cache::cache::{Cache, Decoder};
use nst_cache::data::{PreprocessOptions, Take};
use nst_cache::extract::live;
use nst_cache::monitor::Silent;
use nst_cache::onnx::Model;
use nst_cache::recipe::{Extract, Keep, Store};
use nst_cache::runtime::{Runtime, Session};
use nst_cache::statistic::{Statistic, adaptive_average_pool};
use nst_cache::trainer::pairing::teacher_maps;
use nst_cache::trainer::source::{CacheSource, Source};
use std::path::Path;

fn recipe(folder: &Path, teacher: &str, data: &str) -> Extract {
    Extract {
        teacher: folder.join(teacher),
        preprocess: support::fashion(),
        batch: Some(8),
        ..support::recipe(folder, data)
    }
}

#[test]
fn features_are_what_the_teacher_computes_on_the_stored_inputs() {
    let folder = &Sandbox::with_runtime().teacher().data(37);
    let mut recipe =
        recipe(folder, "teacher.onnx", &format!("idx:{}", folder.join("data").display()));
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
    let mut session =
        Session::new(&Runtime::load(None).unwrap(), &model, &names, &OPTIONS).unwrap();
    let [map1, map2, pooled, logits] =
        session.run(&[("image", &fed)], &names).unwrap().try_into().unwrap();
    let small = adaptive_average_pool(&map2, Layout::Nchw, [7, 7]).unwrap();
    for (path, expected) in [
        ("taps/map1/features", map1),
        ("taps/small/features", small),
        ("taps/pooled/features", pooled),
        ("logits", logits),
    ] {
        let (found, expected) = (floats(&cache, path), expected.to_f32());
        assert_eq!(found.len(), expected.len(), "{path}");
        let error = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs() / b.abs().max(1.0))
            .fold(0.0, f32::max);
        assert!(error < 1e-5, "{path}: {error}");
    }
    let right = floats(&cache, "logits")
        .chunks(10)
        .zip(cache.labels())
        .filter(|(row, label)| argmax(row) == **label)
        .count();
    #[allow(clippy::cast_precision_loss, reason = "37 rows")]
    let top1 = 100.0 * right as f64 / 37.0;
    assert!(
        (report.teacher_top1.unwrap() - top1).abs() < 0.006,
        "{:?} {top1}",
        report.teacher_top1
    );
}

fn argmax(row: &[f32]) -> i64 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    i64::try_from(row.iter().position(|&v| v >= largest).unwrap()).unwrap()
}

#[test]
fn a_fixed_batch_gives_the_same_rows_as_an_open_one() {
    let folder = &Sandbox::with_runtime();
    support::write_teacher(&folder.join("open.onnx"));
    support::write_teacher_of_batch(&folder.join("fixed.onnx"), 8);
    support::write_idx(&folder.join("data"), 21);
    let data = format!("idx:{}", folder.join("data").display());
    let mut logits = Vec::new();
    for teacher in ["open.onnx", "fixed.onnx"] {
        let mut recipe = recipe(folder, teacher, &data);
        (recipe.output, recipe.batch) = (folder.join(teacher).with_extension("cache"), None);
        assert_eq!(extract(&recipe).rows, 21);
        logits.push(floats(&Cache::open(&recipe.output).unwrap(), "logits"));
    }
    let difference =
        logits[0].iter().zip(&logits[1]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 1e-4, "{difference}");
    let mut other = recipe(folder, "fixed.onnx", &data);
    other.batch = Some(4);
    let error = try_extract(&other).unwrap_err();
    assert!(error.to_string().contains("expected 8"), "{error}");
}

#[test]
fn a_batch_of_one_that_the_exporter_baked_in_is_found() {
    let folder = &Sandbox::with_runtime();
    let model = support::committed("tests/data/models/baked_batch.onnx");
    let data = write_noise(folder, "x", &[5, 4]);
    let recipe = Extract {
        teacher: model,
        preprocess: PreprocessOptions::default(),
        batch: None,
        ..recipe(folder, "", &data)
    };
    assert_eq!(extract(&recipe).rows, 5);
    assert_eq!(Cache::open(&recipe.output).unwrap().manifest().teacher.batch, 1);
}

#[test]
fn automatic_storage_takes_f32_where_f16_ends() {
    let folder = &Sandbox::with_runtime();
    support::write_faulty_teacher(&folder.join("large.onnx"), support::Fault::Large);
    support::write_idx(&folder.join("data"), 10);
    let mut recipe =
        recipe(folder, "large.onnx", &format!("idx:{}", folder.join("data").display()));
    recipe.store = Store::Auto;
    recipe.taps = vec!["map1".into(), "map2".into()];
    extract(&recipe);
    let cache = Cache::open(&recipe.output).unwrap();
    let dtype = |path: &str| cache.array(path).unwrap().spec().dtype.name();
    assert_eq!(
        (dtype("taps/map1/features"), dtype("taps/map2/features"), dtype("logits")),
        ("float16", "float32", "float32")
    );
}

#[test]
fn a_flat_folder_has_no_labels_and_no_accuracy() {
    let folder = &Sandbox::with_runtime().teacher();
    support::write_images(&folder.join("images"), 10);
    let mut recipe =
        recipe(folder, "teacher.onnx", &format!("folder:{}", folder.join("images/a").display()));
    recipe.limit = Some(4);
    let report = extract(&recipe);
    assert_eq!((report.rows, report.teacher_top1), (4, None));
    assert_eq!(Cache::open(&recipe.output).unwrap().labels(), [-1; 4]);
}

#[test]
fn arrays_are_fed_and_stored_as_they_are() {
    let folder = &Sandbox::with_runtime().teacher();
    let mut random = support::Random(11);
    #[allow(clippy::cast_possible_truncation, reason = "test data")]
    let values: Vec<f32> = (0..5 * 784).map(|_| random.unit() as f32).collect();
    let array = Array::new(vec![5, 1, 28, 28], Values::F32(values.clone())).unwrap();
    support::write_npz(&folder.join("data.npz"), &[("image", &array)]);
    let mut recipe =
        recipe(folder, "teacher.onnx", &format!("npz:{}", folder.join("data.npz").display()));
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

fn axes(cache: &Cache, alias: &str) -> (String, Vec<usize>) {
    let spec = cache.array(&format!("taps/{alias}/features")).unwrap().spec().clone();
    (spec.axes.concat(), spec.row_shape)
}

/// The maps of a cache as the trainer reads them, `[rows, channels, height, width]`.
fn maps(cache: &Cache, input: &str, aliases: &[&str]) -> Vec<(Vec<usize>, Vec<f32>)> {
    let taps: Vec<String> = aliases.iter().map(|a| Statistic::Features.path(a)).collect();
    let source = Source::Cache(
        CacheSource::new(cache, &[input.to_owned()], false, &taps, Take::default(), 0, false)
            .unwrap(),
    );
    let batch = source.batch(0, 0..source.len()).unwrap();
    batch
        .taps
        .iter()
        .map(|t| (t.dims().to_vec(), t.flatten_all().unwrap().to_vec1().unwrap()))
        .collect()
}

#[test]
fn channels_last_taps_keep_their_axes_and_train_as_the_same_maps() {
    let folder = &Sandbox::with_runtime();
    let model = support::committed("tests/data/models/nhwc.onnx");
    let data = write_noise(folder, "image:0", &[6, 8, 8, 3]);
    for (number, (size, shape)) in [("", [8, 8]), ("@3x5", [3, 5])].into_iter().enumerate() {
        let mut recipe = Extract {
            teacher: model.clone(),
            preprocess: PreprocessOptions::default(),
            ..recipe(folder, "", &data)
        };
        recipe.output = folder.join(number.to_string());
        recipe.taps =
            vec![format!("block1/relu:0{size}=first"), format!("block1/nhwc:0{size}=last")];
        extract(&recipe);
        let cache = Cache::open(&recipe.output).unwrap();
        let [h, w] = shape;
        assert_eq!(
            (axes(&cache, "first"), axes(&cache, "last")),
            (("chw".into(), vec![4, h, w]), ("hwc".into(), vec![h, w, 4]))
        );
        assert_eq!(
            teacher_maps(cache.manifest()).iter().map(|m| m.shape.clone()).collect::<Vec<_>>(),
            [[4, h, w]; 2]
        );
        let [first, last] = maps(&cache, "image:0", &["first", "last"]).try_into().unwrap();
        assert_eq!(first.0, [6, 4, h, w]);
        assert_eq!(first, last);
        assert_ne!(floats(&cache, "taps/first/features"), floats(&cache, "taps/last/features"));
    }
    // what the user says of the axes goes before what the graph shows
    let mut recipe = Extract {
        teacher: model,
        preprocess: PreprocessOptions::default(),
        ..recipe(folder, "", &data)
    };
    recipe.taps = vec!["block1/relu:0:nhwc@2x8=claimed".into()];
    extract(&recipe);
    assert_eq!(
        axes(&Cache::open(&recipe.output).unwrap(), "claimed"),
        ("hwc".into(), vec![2, 8, 8])
    );
}

#[test]
fn tokens_are_stored_as_the_map_that_they_cover() {
    let folder = &Sandbox::with_runtime();
    let model = support::committed("tests/data/models/vit.onnx");
    let data = write_noise(folder, "image", &[5, 3, 8, 6]);
    let mut recipe = Extract {
        teacher: model,
        preprocess: PreprocessOptions::default(),
        ..recipe(folder, "", &data)
    };
    recipe.taps = ["patch", "tokens", "block@2x3=small"].map(str::to_owned).to_vec();
    extract(&recipe);
    let cache = Cache::open(&recipe.output).unwrap();
    assert_eq!(
        (axes(&cache, "tokens"), axes(&cache, "small")),
        (("hwc".into(), vec![4, 3, 7]), ("hwc".into(), vec![2, 3, 7]))
    );
    // the class token is gone: the others are the patches' convolution
    let [patch, tokens] = maps(&cache, "image", &["patch", "tokens"]).try_into().unwrap();
    assert_eq!(patch.0, [5, 7, 4, 3]);
    assert_eq!(patch, tokens);
    // channels before positions are a map that was flattened
    (recipe.taps, recipe.output) = (vec!["columns".into(), "patch".into()], folder.join("columns"));
    extract(&recipe);
    let cache = Cache::open(&recipe.output).unwrap();
    assert_eq!(axes(&cache, "columns"), ("chw".into(), vec![7, 4, 3]));
    assert_eq!(floats(&cache, "taps/columns/features"), floats(&cache, "taps/patch/features"));
}

#[test]
fn long_names_become_short_ones_that_differ() {
    let folder = &Sandbox::with_runtime();
    let long =
        |end: &str| format!("StatefulPartitionedCall/{}{end}", "block_expand_relu/".repeat(16));
    let (input, names) = (long("input"), [long("relu"), long("relu_1")]);
    assert!(names[0].len() > 300 && names[1].starts_with(&names[0]));
    support::write_convolutions(
        &folder.join("teacher.onnx"),
        &input,
        &[3, 8, 8],
        [&names[0], &names[1]],
    );
    let data = write_noise(folder, &input, &[9, 3, 8, 8]);
    let mut recipe = Extract {
        preprocess: PreprocessOptions::default(),
        ..recipe(folder, "teacher.onnx", &data)
    };
    recipe.taps = names.to_vec();
    recipe.keep = Keep::These(vec![Statistic::Features, Statistic::Mean]);
    extract(&recipe);
    // the same names are found again
    assert_eq!(extract(&recipe).computed, 0);
    let cache = Cache::open(&recipe.output).unwrap();
    let aliases: Vec<&str> = cache.manifest().taps.iter().map(|tap| tap.alias.as_str()).collect();
    assert!(
        aliases.iter().all(|alias| alias.len() < 100) && aliases[0] != aliases[1],
        "{aliases:?}"
    );
    assert_ne!(
        floats(&cache, &format!("taps/{}/features", aliases[0])),
        floats(&cache, &format!("taps/{}/features", aliases[1]))
    );
    let live = compare(&recipe);
    assert_eq!((live.arrays.len(), live.wrong().count()), (5, 0), "{live:?}");
}

#[test]
fn a_map_of_one_dimension_is_stored_as_one_of_height_one() {
    let folder = &Sandbox::with_runtime();
    support::write_convolutions(&folder.join("teacher.onnx"), "x", &[2, 20], ["r1", "r2"]);
    let data = write_noise(folder, "x", &[9, 2, 20]);
    let mut recipe = Extract {
        preprocess: PreprocessOptions::default(),
        ..recipe(folder, "teacher.onnx", &data)
    };
    recipe.taps = ["r1", "r2@1x5=short"].map(str::to_owned).to_vec();
    recipe.keep = Keep::These(vec![Statistic::Features, Statistic::Attention, Statistic::Vector]);
    extract(&recipe);
    let cache = Cache::open(&recipe.output).unwrap();
    assert_eq!(
        (axes(&cache, "r1"), axes(&cache, "short")),
        (("chw".into(), vec![8, 1, 20]), ("chw".into(), vec![8, 1, 5]))
    );
    let features = floats(&cache, "taps/r1/features");
    let [attention, vector] =
        ["attention", "vector"].map(|of| floats(&cache, &format!("taps/r1/{of}")));
    for (row, values) in features.chunks(160).enumerate() {
        for position in 0..20 {
            let mean: f32 = (0..8).map(|c| values[c * 20 + position].powi(2)).sum::<f32>() / 8.0;
            assert!((mean - attention[row * 20 + position]).abs() < 1e-5);
        }
        for channel in 0..8 {
            let mean: f32 = values[channel * 20..][..20].iter().sum::<f32>() / 20.0;
            assert!((mean - vector[row * 8 + channel]).abs() < 1e-5);
        }
    }
    let live = compare(&recipe);
    assert_eq!(live.wrong().count(), 0, "{live:?}");
    // what is suggested is the same map
    (recipe.taps, recipe.output) = (Vec::new(), folder.join("suggested"));
    extract(&recipe);
    assert_eq!(axes(&Cache::open(&recipe.output).unwrap(), "r2"), ("chw".into(), vec![8, 1, 20]));
}

#[test]
fn a_volume_is_kept_whole_and_nothing_is_made_of_it() {
    let folder = &Sandbox::with_runtime();
    support::write_convolutions(&folder.join("teacher.onnx"), "x", &[3, 4, 6, 6], ["r1", "r2"]);
    let data = write_noise(folder, "x", &[9, 3, 4, 6, 6]);
    let mut recipe = Extract {
        preprocess: PreprocessOptions::default(),
        ..recipe(folder, "teacher.onnx", &data)
    };
    recipe.taps = vec!["r1".into()];
    extract(&recipe);
    assert_eq!(extract(&recipe).computed, 0);
    let cache = Cache::open(&recipe.output).unwrap();
    assert_eq!(axes(&cache, "r1"), ("cdhw".into(), vec![8, 4, 6, 6]));
    let live = compare(&recipe);
    assert_eq!((live.arrays.len(), live.wrong().count()), (2, 0), "{live:?}");
    recipe.output = folder.join("other");
    for (tap, keep, reason) in [
        (
            "r1",
            Keep::These(vec![Statistic::Gram]),
            "tap r1: expected a map to keep gram of, found rows of [8, 4, 6, 6]",
        ),
        ("r1@2x2", Keep::Auto, "expected a map to pool to 2x2"),
        ("r1:nhwc", Keep::Auto, "expected a map, which alone has an axis order"),
    ] {
        (recipe.taps, recipe.keep) = (vec![tap.into()], keep);
        let error = try_extract(&recipe).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn a_cache_is_compared_with_its_teacher() {
    let folder = &Sandbox::with_runtime();
    let models = support::committed("tests/data/models");
    support::write_teacher(&folder.join("teacher.onnx"));
    support::write_teacher_of_batch(&folder.join("fixed.onnx"), 8);
    support::write_idx(&folder.join("data"), 21);
    let images = format!("idx:{}", folder.join("data").display());
    let runtime = Runtime::load(None).unwrap();
    let compare =
        |cache: &Path, teacher: &Path| live::compare(cache, teacher, &runtime, &OPTIONS, &Silent);
    let cases: [(std::path::PathBuf, &str, &[&str]); 4] = [
        (folder.join("teacher.onnx"), "image", &["map1", "map2@3x5", "pooled"]),
        (folder.join("fixed.onnx"), "image", &["map2"]),
        (models.join("nhwc.onnx"), "image:0", &["block1/nhwc:0@3x5", "block1/relu:0:nhwc@2x8"]),
        (models.join("vit.onnx"), "image", &["patch", "tokens", "block@2x3"]),
    ];
    for (number, (teacher, input, taps)) in cases.into_iter().enumerate() {
        let shape: &[usize] = if input == "image:0" { &[12, 8, 8, 3] } else { &[12, 3, 8, 6] };
        let data = if number < 2 { images.clone() } else { write_noise(folder, input, shape) };
        let mut recipe =
            Extract { store: Store::Auto, teacher, batch: None, ..recipe(folder, "", &data) };
        (recipe.output, recipe.taps) =
            (folder.join(number.to_string()), taps.iter().map(|&t| t.to_owned()).collect());
        if number >= 2 {
            recipe.preprocess = PreprocessOptions::default();
        }
        extract(&recipe);
        let live = compare(&recipe.output, &recipe.teacher).unwrap();
        assert_eq!((live.arrays.len(), live.wrong().count()), (taps.len() + 1, 0), "{live:?}");
    }
    let error = compare(&folder.join("0"), &folder.join("fixed.onnx")).unwrap_err();
    assert!(
        error.to_string().contains("fixed.onnx: expected the one that the cache was made with"),
        "{error}"
    );
}
