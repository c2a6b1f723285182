//! Views of a cache: what is stored of them is what the teacher was fed, depends on (seed, sample,
//! view) alone, can be decoded again from the data, and is what the trainer gets, epoch by epoch.

#![allow(clippy::unwrap_used, reason = "a test")]

use crate::support::{self, OPTIONS, Sandbox, compare, extract, try_extract, view_bytes as bytes};

use nst_cache::cache::{Cache, Originals};
use nst_cache::data::{self, Augment, Augmentation, Take, ViewCount, augment};
use nst_cache::extract::live;
use nst_cache::monitor::Silent;
use nst_cache::recipe::{Extract, Inputs, Store};
use nst_cache::runtime::Runtime;
use nst_cache::trainer::source::{Batch, CacheSource, Source};
use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const SAMPLES: usize = 21;

/// A folder with a teacher and colour images of many sizes.
fn prepare() -> Sandbox {
    let folder = Sandbox::with_runtime().teacher();
    let mut random = support::Random(9);
    for index in 0..SAMPLES {
        let class = folder.join("images").join(["a", "b", "c"][index % 3]);
        std::fs::create_dir_all(&class).unwrap();
        let (width, height) =
            (30 + u32::try_from(index).unwrap(), 45 - u32::try_from(index).unwrap());
        let pixels = (0..width * height * 3).map(|_| random.next().to_le_bytes()[0]).collect();
        image::RgbImage::from_raw(width, height, pixels)
            .unwrap()
            .save(class.join(format!("{index:02}.png")))
            .unwrap();
    }
    folder
}

fn everything() -> Augmentation {
    Augmentation {
        geometry: Augment::RandomResizedCrop,
        color_jitter: Some("0.4,0.4,0.4,0.1".parse().unwrap()),
        mixup: Some(0.8),
        cutmix: Some(1.0),
    }
}

fn recipe(folder: &Path, cache: &str, views: usize, augmentation: Augmentation) -> Extract {
    let data = format!("folder:{}", folder.join("images").display());
    Extract {
        taps: vec!["map2".into()],
        store: Store::Auto,
        preprocess: support::fashion(),
        views: ViewCount::Count(views),
        augmentation,
        seed: 3,
        output: folder.join(cache),
        ..support::recipe(folder, &data)
    }
}

/// Every array's bytes by path and view; those of `paths`, if any are named.
fn arrays(folder: &Path, paths: &[&str]) -> BTreeMap<(String, usize), Vec<u8>> {
    let cache = Cache::open(folder).unwrap();
    let specs = cache
        .manifest()
        .view_arrays
        .iter()
        .filter(|a| paths.is_empty() || paths.contains(&a.path.as_str()));
    specs
        .flat_map(|a| {
            (0..cache.manifest().views).map(|v| ((a.path.clone(), v), bytes(&cache, &a.path, v)))
        })
        .collect()
}

const PARAMETERS: [&str; 7] = ["crop", "flip", "jitter", "jitter_order", "partner", "mix", "cut"];

#[test]
fn parameters_and_inputs_depend_on_neither_batch_nor_workers_nor_the_number_of_views() {
    let folder = &prepare();
    let first = recipe(folder, "first", 3, everything());
    let report = extract(&first);
    assert_eq!((report.rows, report.views, report.computed), (SAMPLES, 3, 3 * SAMPLES));
    let others = [
        Extract { batch: Some(7), threads: 1, output: folder.join("batch"), ..first.clone() },
        Extract {
            views: ViewCount::Count(2),
            batch: Some(1),
            threads: 5,
            output: folder.join("views"),
            ..first.clone()
        },
    ];
    let paths = [&["input"][..], &PARAMETERS].concat();
    let expected = arrays(&first.output, &paths);
    assert_eq!(expected.len(), 3 * 8);
    for other in others {
        extract(&other);
        let found = arrays(&other.output, &paths);
        assert!(
            found.iter().all(|(key, bytes)| expected[key] == *bytes),
            "{}",
            other.output.display()
        );
    }
    // another seed draws other parameters; other rows leave a sample's crop where it is
    let seed = Extract { seed: 4, output: folder.join("seed"), ..first.clone() };
    let fewer = Extract { limit: Some(9), output: folder.join("fewer"), ..first.clone() };
    extract(&seed);
    extract(&fewer);
    let crops = |folder: &Path, view: usize| -> BTreeMap<i64, Vec<u8>> {
        let cache = Cache::open(folder).unwrap();
        let rows = bytes(&cache, "crop", view).chunks(16).map(<[u8]>::to_vec).collect::<Vec<_>>();
        cache.sample_ids().iter().copied().zip(rows).collect()
    };
    let (whole, other, part) =
        (crops(&first.output, 1), crops(&seed.output, 1), crops(&fewer.output, 1));
    assert!(whole.iter().all(|(sample, crop)| other[sample] != *crop));
    assert!(part.len() == 9 && part.iter().all(|(sample, crop)| whole[sample] == *crop));
    assert!(
        whole.iter().all(|(sample, crop)| crops(&first.output, 2)[sample] != *crop),
        "views differ"
    );
}

/// The rows of an epoch in row order, as the trainer gets them.
fn batch(cache: &Cache, source: CacheSource<'_>, epoch: u64) -> Batch {
    Source::Cache(source).batch(epoch, 0..cache.manifest().rows).unwrap()
}

fn plain<'a>(cache: &'a Cache, taps: &[String]) -> CacheSource<'a> {
    CacheSource::new(cache, &["image".to_owned()], true, taps, Take::default(), 0, false).unwrap()
}

fn values(tensor: &candle_core::Tensor) -> Vec<f32> {
    tensor.to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn inputs_decoded_again_are_those_that_were_stored() {
    let folder = &prepare();
    for (name, augmentation, views) in [
        ("none", Augmentation::NONE, 1),
        ("crop", Augmentation { geometry: Augment::CropFlip, ..Augmentation::NONE }, 3),
        ("all", everything(), 3),
    ] {
        let stored = recipe(folder, &format!("{name}-stored"), views, augmentation.clone());
        let source = Extract {
            inputs: Some(Inputs::Source),
            output: folder.join(format!("{name}-source")),
            ..stored.clone()
        };
        extract(&stored);
        extract(&source);
        let (with, without) = (arrays(&stored.output, &[]), arrays(&source.output, &[]));
        assert!(
            with.keys().any(|(path, _)| path == "input")
                && !without.keys().any(|(path, _)| path == "input")
        );
        assert!(
            without.iter().all(|(key, bytes)| with[key] == *bytes),
            "{name}: the teacher was fed the same"
        );

        let (a, b) = (Cache::open(&stored.output).unwrap(), Cache::open(&source.output).unwrap());
        let dataset = data::open(&source.data, "train", &Silent).unwrap();
        let taps = ["taps/map2/features".to_owned()];
        assert!(
            Source::Cache(plain(&b, &taps))
                .batch(0, 0..1)
                .unwrap_err()
                .to_string()
                .contains("none stored")
        );
        for epoch in 0..5 {
            let originals = Originals::new(&b, dataset.as_ref()).unwrap();
            let (x, y) = (
                batch(&a, plain(&a, &taps), epoch),
                batch(&b, plain(&b, &taps).with_originals(originals), epoch),
            );
            assert_eq!(values(&x.inputs[0]), values(&y.inputs[0]), "{name}, epoch {epoch}");
            assert_eq!((x.labels, values(&x.taps[0])), (y.labels, values(&y.taps[0])));
            assert_eq!(
                x.mixed.map(|m| (m.labels, m.weights)),
                y.mixed.map(|m| (m.labels, m.weights))
            );
        }
        // the teacher gives the same again for stored inputs and for decoded ones
        for cache in [&stored.output, &source.output] {
            let live = live::compare(
                cache,
                &stored.teacher,
                &Runtime::load(None).unwrap(),
                &OPTIONS,
                &Silent,
            )
            .unwrap();
            assert_eq!((live.wrong().count(), live.arrays.len()), (0, 2), "{name}: {live:?}");
            assert!(live.rows > 0, "{name}: {live:?}");
        }
    }
    // another data set of the same size is not taken for it
    let cache = Cache::open(&folder.join("all-source")).unwrap();
    let file = std::fs::read_dir(folder.join("images/a")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&file, [&std::fs::read(&file).unwrap()[..], b"\0"].concat()).unwrap();
    let dataset = data::open(
        &format!("folder:{}", folder.join("images").display()).parse().unwrap(),
        "train",
        &Silent,
    )
    .unwrap();
    let error = Originals::new(&cache, dataset.as_ref()).unwrap_err();
    assert!(error.to_string().contains("expected the set that the cache was made of"), "{error}");
}

#[test]
fn epochs_take_the_views_in_turn_with_both_labels_of_what_is_mixed() {
    let folder = &prepare();
    let recipe = recipe(
        folder,
        "cache",
        3,
        Augmentation { mixup: Some(0.8), cutmix: Some(1.0), ..Augmentation::NONE },
    );
    extract(&recipe);
    let cache = Cache::open(&recipe.output).unwrap();
    let preprocess = cache.manifest().data.preprocess.clone().unwrap();
    let dataset = data::open(&recipe.data, "train", &Silent).unwrap();
    let unmixed = |row: usize| {
        let data::Sample::Image(image) =
            dataset.sample(usize::try_from(cache.sample_ids()[row]).unwrap()).unwrap()
        else {
            panic!()
        };
        data::preprocess::to_bytes(&preprocess, &image).unwrap()
    };
    let (mut blended, mut pasted) = (0, 0);
    for epoch in 0..6u64 {
        let view = usize::try_from(epoch % 3).unwrap();
        let found = batch(&cache, plain(&cache, &[]), epoch);
        let mixed = found.mixed.as_ref().unwrap();
        let partners: Vec<i64> = bytemuck::pod_collect_to_vec(&bytes(&cache, "partner", view));
        let weights: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes(&cache, "mix", view));
        let cuts: Vec<[i32; 4]> = bytemuck::pod_collect_to_vec(&bytes(&cache, "cut", view));
        let input = bytes(&cache, "input", view);
        for row in 0..SAMPLES {
            let partner = usize::try_from(partners[row]).unwrap();
            assert_eq!(
                (found.labels[row], mixed.labels[row]),
                (cache.labels()[row], cache.labels()[partner])
            );
            assert!((mixed.weights[row] - f64::from(weights[row])).abs() < f64::EPSILON);
            // by hand, from the definition in docs/format.md
            let (own, other, weight) = (unmixed(row), unmixed(partner), f64::from(weights[row]));
            let [top, left, height, width] = cuts[row].map(|edge| usize::try_from(edge).unwrap());
            let inside = |i: usize| {
                (top..top + height).contains(&(i / 28)) && (left..left + width).contains(&(i % 28))
            };
            let is_blend = cuts[row] == [0; 4];
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a mean of bytes"
            )]
            let expected: Vec<u8> = (0..784)
                .map(|i| match is_blend {
                    true => {
                        (weight * f64::from(own[i]) + (1.0 - weight) * f64::from(other[i]) + 0.5)
                            .floor() as u8
                    }
                    false if inside(i) => other[i],
                    false => own[i],
                })
                .collect();
            assert_eq!(input[row * 784..(row + 1) * 784], expected, "view {view} row {row}");
            if !is_blend {
                #[allow(clippy::cast_precision_loss, reason = "784 pixels")]
                let area = (height * width) as f64 / 784.0;
                assert!((weight - (1.0 - area)).abs() < 1e-6);
            }
            blended += u32::from(is_blend);
            pasted += u32::from(!is_blend);
        }
        let expected = data::preprocess::normalize_nchw(&preprocess, &input).unwrap();
        assert_eq!(values(&found.inputs[0]), expected);
        let main: Vec<i64> = (0..SAMPLES)
            .map(|r| if weights[r] < 0.5 { mixed.labels[r] } else { found.labels[r] })
            .collect();
        assert_eq!(found.main_labels(), main);
    }
    assert!(blended > 20 && pasted > 20, "{blended} {pasted}");
}

#[test]
fn views_and_taps_are_added_to_what_is_there() {
    let folder = &prepare();
    let crop = Augmentation { geometry: Augment::CropFlip, ..Augmentation::NONE };
    let small = recipe(folder, "grown", 2, crop.clone());
    extract(&small);
    let shards = |folder: &Path| -> BTreeMap<String, u64> {
        fn walk(folder: &Path, into: &mut BTreeMap<String, u64>) {
            for entry in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
                if entry.is_dir() {
                    walk(&entry, into);
                } else if entry.display().to_string().contains("/c/") {
                    into.insert(entry.display().to_string(), entry.metadata().unwrap().ino());
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(folder, &mut found);
        found
    };
    let before = shards(&small.output);
    // a tap, by its name alone; views as many as there are
    let tap = Extract {
        taps: vec!["map1@7x7=small".into()],
        views: ViewCount::Count(1),
        batch: None,
        ..small.clone()
    };
    assert_eq!(extract(&tap).computed, 2 * SAMPLES);
    // a view, with the taps that are there
    let view = Extract { taps: Vec::new(), views: ViewCount::Count(3), ..small.clone() };
    assert_eq!((extract(&view).computed, extract(&view).computed), (SAMPLES, 0));
    let after = shards(&small.output);
    assert!(
        after.len() > before.len() && before.iter().all(|(path, inode)| after[path] == *inode),
        "published shards stay as they are"
    );

    let whole = Extract {
        taps: vec!["map2".into(), "map1@7x7=small".into()],
        output: folder.join("whole"),
        ..view.clone()
    };
    extract(&whole);
    assert!(
        arrays(&small.output, &[]) == arrays(&whole.output, &[]),
        "what was added is what one run would have made"
    );
    let report = nst_cache::cache::verify(&small.output, 2, &Silent).unwrap();
    assert_eq!((report.findings, report.complete), (Vec::new(), true));
    let live = compare(&small);
    assert_eq!((live.wrong().count(), live.arrays.len()), (0, 3));

    // what is there under a name is not replaced
    let other = Extract { taps: vec!["map1=map2".into()], ..small.clone() };
    let error = try_extract(&other).unwrap_err();
    assert!(error.to_string().contains("made with another tap: taps/map2/features"), "{error}");
}

#[test]
fn all_views_of_crop_and_flip_are_as_many_as_there_are() {
    let folder = &prepare();
    let crop = Augmentation { geometry: Augment::CropFlip, ..Augmentation::NONE };
    let all = Extract { views: ViewCount::All, limit: Some(3), ..recipe(folder, "cache", 1, crop) };
    // 28 / 8 = 3 pixels either way: 7·7·2
    assert_eq!(extract(&all).views, 98);
    let cache = Cache::open(&all.output).unwrap();
    let mut seen = HashSet::new();
    for view in 0..98 {
        let (crop, flip) = (bytes(&cache, "crop", view), bytes(&cache, "flip", view));
        for row in 0..3 {
            seen.insert((row, crop[row * 16..(row + 1) * 16].to_vec(), flip[row]));
        }
    }
    assert_eq!(seen.len(), 3 * 98);
    // the stored parameters say what the stored input is
    let preprocess = cache.manifest().data.preprocess.clone().unwrap();
    let dataset = data::open(&all.data, "train", &Silent).unwrap();
    let data::Sample::Image(image) =
        dataset.sample(usize::try_from(cache.sample_ids()[1]).unwrap()).unwrap()
    else {
        panic!()
    };
    let whole = data::preprocess::to_bytes(&preprocess, &image).unwrap();
    for view in [0, 41] {
        let crop: Vec<i32> = bytemuck::pod_collect_to_vec(&bytes(&cache, "crop", view)[16..32]);
        let flip = bytes(&cache, "flip", view)[1] == 1;
        let input = bytes(&cache, "input", view)[784..1568].to_vec();
        for (i, &found) in input.iter().enumerate() {
            let (y, x) = (i32::try_from(i / 28).unwrap(), i32::try_from(i % 28).unwrap());
            let (y, x) = (y + crop[0], if flip { 27 - x } else { x } + crop[1]);
            let inside = (0..28).contains(&y) && (0..28).contains(&x);
            // the mean colour: 0.2860·255 to the nearest
            let expected = if inside { whole[usize::try_from(y * 28 + x).unwrap()] } else { 73 };
            assert_eq!(found, expected, "view {view}, pixel {i}");
        }
    }
    assert_eq!(augment::Parameter::of(&everything()).len(), PARAMETERS.len());
}
