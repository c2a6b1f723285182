//! Caches of statistics: what stands in them, what is chosen for which criteria, how they grow, and
//! that a student trains from them as from the features.

#![allow(clippy::unwrap_used, reason = "a test")]

use crate::support::{
    self, OPTIONS, Sandbox, bytes, compare, extract, floats, tap_paths, try_extract,
};

use nst_cache::array::{Array, Layout, Values};
use nst_cache::cache::{self, Cache, Manifest};
use nst_cache::data::{PreprocessOptions, Take};
use nst_cache::extract::{self, ExtractReport};
use nst_cache::monitor::Silent;
use nst_cache::recipe::{Extract, Keep, PairRecipe, Teaching, Train};
use nst_cache::runtime::Runtime;
use nst_cache::statistic::{Maps, Statistic, compute};
use nst_cache::storage::Lock;
use nst_cache::student::{Executor, ImportOptions, Student, preset};
use nst_cache::trainer::epochs::{self, Options, Training};
use nst_cache::trainer::loss::{Learnable, Objective};
use nst_cache::trainer::metrics::METRICS;
use nst_cache::trainer::pairing;
use nst_cache::trainer::source::{CacheSource, Source};
use std::path::Path;

const SAMPLES: usize = 80;

/// A folder with a teacher and images.
fn prepare() -> Sandbox {
    Sandbox::with_runtime().teacher().data(SAMPLES)
}

fn recipe(folder: &Path, keep: &str, criteria: &[&str], output: &str) -> Extract {
    let data = format!("idx:{}", folder.join("data").display());
    Extract {
        keep: keep.parse().unwrap(),
        criteria: criteria.iter().map(|text| text.parse().unwrap()).collect(),
        preprocess: support::fashion(),
        batch: Some(16),
        output: folder.join(output),
        ..support::recipe(folder, &data)
    }
}

fn taps(recipe: Extract, taps: &[&str]) -> Extract {
    Extract { taps: taps.iter().map(|&t| t.to_owned()).collect(), ..recipe }
}

#[test]
fn statistics_in_a_cache_are_those_of_the_features_beside_them() {
    let folder = &prepare();
    let all = taps(
        recipe(folder, "features,gram,mean,attention,vector,sign", &[], "cache"),
        &["map1@7x5=first", "map2=second", "pooled"],
    );
    let report = extract(&all);
    assert_eq!((report.rows, report.kept), (SAMPLES, Vec::new()));
    let cache = Cache::open(&all.output).unwrap();
    assert_eq!(cache.manifest().format, Manifest::FORMAT_SUMS);
    // a vector is kept as it is
    assert_eq!(cache.manifest().statistics("pooled").count(), 1);
    for (alias, channels, size) in [("first", 8, [7, 5]), ("second", 16, [14, 14])] {
        let features = floats(&cache, &format!("taps/{alias}/features"));
        let maps = Maps { layout: Layout::Nchw, channels, from: size, size };
        for &statistic in &Statistic::ALL[1..] {
            let found = bytes(&cache, &statistic.path(alias));
            match compute(statistic, &features, &maps).unwrap() {
                Values::F32(expected) => {
                    let found: Vec<f32> = bytemuck::pod_collect_to_vec(&found);
                    assert_eq!(found.len(), expected.len());
                    // of pooled maps the features were rounded to f32 first
                    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 2e-6 * b.abs().max(1e-3);
                    assert!(found.iter().zip(&expected).all(close), "{alias} {statistic:?}");
                }
                Values::U8(expected) => assert_eq!(found, expected, "{alias} {statistic:?}"),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(cache::verify(&all.output, 2, &Silent).unwrap().findings, []);
    let live = compare(&all);
    assert_eq!((live.arrays.len(), live.wrong().count()), (14, 0), "{live:?}");
    // neither the threads nor the batch's place move a bit
    let again = Extract { threads: 1, output: folder.join("again"), ..all.clone() };
    extract(&again);
    for path in tap_paths(&all.output) {
        assert_eq!(
            bytes(&cache, &path),
            bytes(&Cache::open(&again.output).unwrap(), &path),
            "{path}"
        );
    }
}

#[test]
fn nodes_of_the_teachers_graph_give_what_the_host_computes() {
    let folder = &prepare();
    let all = "features,gram,mean,attention,vector,sign";
    let host = taps(recipe(folder, all, &[], "host"), &["map1@7x5=first", "map2=second", "pooled"]);
    let graph = Extract { in_graph: Some(true), output: folder.join("graph"), ..host.clone() };
    extract(&host);
    extract(&graph);
    let nhwc = support::committed("tests/data/models/nhwc.onnx");
    let mut random = support::Random(13);
    #[allow(clippy::cast_possible_truncation, reason = "test data")]
    let values = (0..6 * 192).map(|_| random.unit() as f32 - 0.5).collect();
    let noise = Array::new(vec![6, 8, 8, 3], Values::F32(values)).unwrap();
    support::write_npz(&folder.join("noise.npz"), &[("image:0", &noise)]);
    let data = format!("npz:{}", folder.join("noise.npz").display()).parse().unwrap();
    let last = Extract {
        teacher: nhwc,
        data,
        preprocess: PreprocessOptions::default(),
        output: folder.join("last"),
        ..host.clone()
    };
    let last = taps(last, &["block1/nhwc:0@3x5=last", "block1/relu:0=first"]);
    let last_graph =
        Extract { in_graph: Some(true), output: folder.join("last-graph"), ..last.clone() };
    extract(&last);
    extract(&last_graph);
    for (host, graph) in [(&host, &graph), (&last, &last_graph)] {
        let [host, graph] = [host, graph].map(|recipe| Cache::open(&recipe.output).unwrap());
        assert_eq!(host.manifest().view_arrays, graph.manifest().view_arrays);
        for path in host
            .manifest()
            .view_arrays
            .iter()
            .map(|a| &a.path)
            .filter(|path| path.starts_with("taps/"))
        {
            if path.ends_with("/sign") || path.ends_with("/features") {
                // computed by the host in both
                assert_eq!(bytes(&host, path), bytes(&graph, path), "{path}");
                continue;
            }
            // sums in another order: a last bit now and then
            let close =
                |(a, b): (&f32, &f32)| (a - b).abs() <= 1.2e-7 * b.abs().max(f32::MIN_POSITIVE);
            assert!(floats(&host, path).iter().zip(&floats(&graph, path)).all(close), "{path}");
        }
    }
}

#[test]
fn the_criteria_decide_what_is_kept_and_a_resume_keeps_to_it() {
    let folder = &prepare();
    // 196 positions of 16 channels: a Gram matrix would be larger; pooled to 3x3 it is smaller
    let large = taps(recipe(folder, "auto", &["nst"], "large"), &["map2=large"]);
    let report = extract(&large);
    assert_eq!(tap_paths(&large.output), ["taps/large/features"]);
    assert!(
        report.kept.iter().all(|kept| kept.statistics == [Statistic::Features]),
        "{:?}",
        report.kept
    );

    let small = taps(
        recipe(folder, "auto", &["nst:constant=1", "kd"], "small"),
        &["map2@3x3=small", "pooled"],
    );
    let report = extract(&small);
    assert_eq!(
        tap_paths(&small.output),
        ["taps/small/gram", "taps/small/mean", "taps/pooled/features"]
    );
    let [kept] = report.kept.as_slice() else { panic!("{:?}", report.kept) };
    assert_eq!((kept.tap.as_str(), kept.alternatives.len()), ("small", 2));
    // 45 and 9 numbers, or 144
    assert!(
        kept.alternatives[0].bytes < 220.0
            && kept.alternatives[1].bytes > kept.alternatives[0].bytes,
        "{kept:?}"
    );

    // the choice stands in the cache: nothing is measured again, whatever would come out of it
    let lines = |report: ExtractReport| (report.computed, report.kept);
    assert_eq!(lines(extract(&small)), (0, Vec::new()));
    assert_eq!(lines(extract(&Extract { criteria: Vec::new(), ..small.clone() })), (0, Vec::new()));
    assert_eq!(lines(extract(&Extract { taps: Vec::new(), ..small.clone() })), (0, Vec::new()));
    // another criterion that it serves changes nothing, one that it does not adds what that needs
    let linear = Extract {
        criteria: vec!["nst-linear".parse().unwrap()],
        taps: Vec::new(),
        ..small.clone()
    };
    assert_eq!(lines(extract(&linear)), (0, Vec::new()));
    let gauss = Extract { criteria: vec!["nst-gauss".parse().unwrap()], ..linear };
    assert_eq!(extract(&gauss).computed, SAMPLES);
    assert_eq!(
        tap_paths(&small.output),
        ["taps/small/gram", "taps/small/mean", "taps/pooled/features", "taps/small/features"]
    );
    // without a criterion that reads maps none is kept, but vectors and logits
    let kd = recipe(folder, "auto", &["kd"], "kd");
    extract(&kd);
    assert!(
        tap_paths(&kd.output).iter().all(|path| path.contains("pooled")),
        "{:?}",
        tap_paths(&kd.output)
    );
}

#[test]
fn a_statistic_is_added_to_a_cache_that_is_there() {
    let folder = &prepare();
    let features = recipe(folder, "auto", &[], "cache");
    extract(&features);
    let before = tap_paths(&features.output);
    assert_eq!(Manifest::load(&features.output).unwrap().format, Manifest::FORMAT_SUMS);
    let mean = recipe(folder, "mean,attention", &[], "cache");
    assert_eq!(extract(&mean).computed, SAMPLES);
    let after = tap_paths(&features.output);
    assert_eq!(after[..before.len()], before);
    assert!(
        after.contains(&"taps/map2/mean".to_owned())
            && after.contains(&"taps/map2/attention".to_owned()),
        "{after:?}"
    );
    assert_eq!(extract(&mean).computed, 0);
    assert_eq!(cache::verify(&features.output, 2, &Silent).unwrap().findings, []);
    // made at once it is the same, but for the order
    let whole = Extract {
        output: folder.join("whole"),
        keep: "features,mean,attention".parse::<Keep>().unwrap(),
        ..mean.clone()
    };
    extract(&whole);
    let [grown, whole] = [&mean.output, &whole.output].map(|folder| Cache::open(folder).unwrap());
    for path in after {
        assert_eq!(bytes(&grown, &path), bytes(&whole, &path), "{path}");
    }
    // a map of another size is another tap
    let other = taps(recipe(folder, "gram", &[], "cache"), &["map2@7x7=map2"]);
    let error = try_extract(&other).unwrap_err();
    assert!(error.to_string().contains("made with another tap"), "{error}");
}

#[test]
fn maps_are_pooled_to_the_sizes_that_they_are_compared_at() {
    let folder = &prepare();
    let sized = |output: &str| Extract {
        sizes: vec![[9, 9], [4, 6]],
        ..recipe(folder, "mean", &[], output)
    };
    let fresh = taps(sized("fresh"), &["map1", "map2"]);
    extract(&fresh);
    let shapes = |folder: &Path| {
        let manifest = Manifest::load(folder).unwrap();
        let of = |tap: &cache::TapRecord| {
            tap.map.map(|map| (tap.alias.clone(), [map.height, map.width]))
        };
        manifest.taps.iter().filter_map(of).collect::<Vec<_>>()
    };
    assert_eq!(shapes(&fresh.output), [("map1".to_owned(), [9, 9]), ("map2".to_owned(), [4, 6])]);
    // beside the features that a cache has at their own size, once
    let features = taps(recipe(folder, "auto", &[], "grown"), &["map1", "map2"]);
    extract(&features);
    for computed in [SAMPLES, 0] {
        assert_eq!(extract(&sized("grown")).computed, computed);
        assert_eq!(
            shapes(&features.output),
            [("map1-9x9".to_owned(), [9, 9]), ("map2-4x6".to_owned(), [4, 6])]
        );
    }
}

#[test]
fn what_each_form_takes_is_measured_and_nothing_is_written() {
    let folder = &prepare();
    let recipe = taps(recipe(folder, "auto", &["nst"], "none"), &["map2@3x3=small", "pooled"]);
    let sizes = extract::sizes(&recipe, &Runtime::load(None).unwrap(), &OPTIONS, &Silent).unwrap();
    assert!(!recipe.output.exists());
    let [small, pooled] = sizes.taps.as_slice() else { panic!("{sizes:?}") };
    assert_eq!((sizes.rows, small.raw, small.shape.as_slice()), (SAMPLES, 576, &[16, 3, 3][..]));
    assert_eq!(small.bytes.keys().copied().collect::<Vec<_>>(), Statistic::ALL);
    assert_eq!(pooled.bytes.keys().copied().collect::<Vec<_>>(), [Statistic::Features]);
    assert!(
        small.bytes[&Statistic::Gram] <= 180.0 && small.bytes[&Statistic::Sign] <= 18.0,
        "{small:?}"
    );
    assert_eq!(small.kept, Some(vec![Statistic::Gram]));
    // and it is what a cache takes
    extract(&recipe);
    let manifest = Manifest::load(&recipe.output).unwrap();
    let at = manifest.view_arrays.iter().position(|a| a.path == "taps/small/gram").unwrap();
    let stored: u64 = manifest.segments.iter().map(|s| s.bytes[at]).sum();
    #[allow(clippy::cast_precision_loss, reason = "a few thousand bytes")]
    let measured = stored as f64 / SAMPLES as f64;
    assert!((measured / small.bytes[&Statistic::Gram] - 1.0).abs() < 0.1, "{measured} {small:?}");
}

const EXTRACT: &str =
    "extract teacher.onnx --data idx:data --preprocess fashion-mnist --batch 16 --store f32";

/// The loss of each of the first steps of a run on a cache.
fn losses(folder: &Path, cache: &Path, criterion: &str, expected: &[&str]) -> Vec<f64> {
    let mut recipe = Train {
        epochs: 2,
        batch: 8,
        criteria: vec![criterion.parse().unwrap()],
        ..Train::default()
    };
    // gentle: at a rate at which so small a batch of noise throws the weights about, any two
    // roundings part
    recipe.optimizer.rule.set_lr(0.01);
    let model = preset::build("resnet8", 10, [1, 28, 28], 1).unwrap();
    let student = Student::import(
        &model,
        &ImportOptions { executor: Executor::Reference, ..ImportOptions::default() },
    )
    .unwrap();
    let cache = Cache::open(cache).unwrap();
    let terms = recipe.terms(Teaching::Maps);
    let maps = pairing::student_maps(&student.taps(&[vec![1, 1, 28, 28]]).unwrap());
    let pair = PairRecipe { teacher: "deep".into(), student: "layer2".into() };
    let pairs =
        pairing::explicit(&[pair], &pairing::teacher_maps(cache.manifest()), &maps).unwrap();
    let objective = Objective::new(&terms, &[Vec::new(), pairs], 0.0, &student).unwrap();
    assert_eq!(objective.taps, expected, "{criterion}");
    let source = CacheSource::new(
        &cache,
        &["input".into()],
        false,
        &objective.taps,
        Take::default(),
        0,
        true,
    )
    .unwrap();
    let source = Source::Cache(source);
    let mut learnable = Learnable::new(&objective, &recipe, &source, &Silent).unwrap();
    let lock = Lock::create(folder).unwrap();
    let run = Training {
        recipe: &recipe,
        objective: &objective,
        student: &student,
        classes: Some(student.logits()),
        source: &source,
        test: None,
        keep_best: &|_, _| Ok(()),
        folder: &lock,
        identity: "a test",
        shorter: &[],
        resume: false,
        options: Options { checkpoint_steps: None, log_steps: 1, loader_threads: 1 },
        monitor: &Silent,
    };
    epochs::run(&run, &mut learnable).unwrap();
    let text = std::fs::read_to_string(folder.join(METRICS)).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines
        .filter(|line| !line["gradient_norm"].is_null())
        .map(|line| line["loss"].as_f64().unwrap())
        .collect()
}

#[test]
fn a_student_trains_from_statistics_as_from_features() {
    let folder = &prepare();
    let [features, statistics] = [("features", "features"), ("gram,mean,attention", "statistics")]
        .map(|(keep, output)| {
            let recipe = taps(recipe(folder, keep, &[], output), &["map2@5x5=deep"]);
            extract(&recipe);
            recipe.output
        });
    let (mean, gram) = ("taps/deep/mean", "taps/deep/gram");
    // the student's map is of 14x14
    for (criterion, read) in [
        ("nst-linear:weight=5", &[mean][..]),
        ("nst:weight=20", &[gram]),
        ("nst:weight=20,constant=1", &[gram, mean]),
        ("at:weight=200", &["taps/deep/attention"]),
    ] {
        let runs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let from_features = losses(runs[0].path(), &features, criterion, &["taps/deep/features"]);
        let from_statistics = losses(runs[1].path(), &statistics, criterion, read);
        assert_eq!((from_features.len(), from_statistics.len()), (20, 20));
        for (a, b) in from_features.iter().zip(&from_statistics) {
            assert!(
                (a - b).abs() <= 1e-3 * a.abs(),
                "{criterion}: {from_features:?} {from_statistics:?}"
            );
        }
        assert!(from_features != from_statistics, "{criterion}: the two runs were the same one");
    }
}

#[test]
fn a_criterion_that_a_cache_cannot_serve_is_refused_with_the_command_that_adds_it() {
    let folder = &prepare();
    folder.succeeds(&format!(
        "{EXTRACT} --tap map2=deep --keep mean --limit 64 --shuffle 3 -o cache"
    ));
    let train = |pair: &str, out: &str| {
        format!(
            "train resnet8 --cache cache --criterion nst:pair=deep>{pair} --epochs 1 --device cpu \
             --limit 8 --batch 8 -o {out}"
        )
    };
    let adds =
        |text: &str| text.lines().last().unwrap().split_once("nst-cache ").unwrap().1.to_owned();
    // at its own size, and at that of a student whose map is smaller
    for (pair, size) in [("layer2", "14x14"), ("layer3", "14x14")] {
        let text = folder.fails(&train(pair, "run"), 2);
        assert!(
            text.contains("criterion nst-poly: tap deep: expected gram or features")
                && text.contains(&format!(" at {size}")),
            "{text}"
        );
        let command = adds(&text);
        assert!(!folder.join("run").exists());
        folder.succeeds(&command);
        folder.succeeds(&command);
        // its own size is served now; for the smaller one there is a tap of its own
        let name = if pair == "layer2" { "deep" } else { "deep-7x7" };
        assert!(
            tap_paths(&folder.join("cache")).contains(&format!("taps/{name}/gram")),
            "{command}"
        );
        let line = train(pair, pair).replace("pair=deep", &format!("pair={name}"));
        folder.succeeds(&line);
    }
}
