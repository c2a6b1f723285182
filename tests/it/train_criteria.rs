//! Every criterion of the registry trains a student from a cache: its loss falls, a run that is
//! stopped and resumed on other threads ends in the same bits, and nothing that it learned is in
//! the exported student.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test stops at what it did not expect; its numbers are small"
)]

use crate::support::{self, Sandbox, StopAfter, array, manifest, preprocess};

use half::f16;
use nst_cache::array::Dtype;
use nst_cache::cache::{ArraySpec, Cache, CachePlan, Codec, Manifest, TapRecord, Writer};
use nst_cache::criterion::papers;
use nst_cache::data::Take;
use nst_cache::error::{Kind, Result};
use nst_cache::monitor::{Monitor, Silent};
use nst_cache::onnx::tap::Role;
use nst_cache::recipe::{
    CriterionRecipe, Gates, OptimizerRecipe, Sakd, SakdMode, ScheduleRecipe, Teaching, Train,
};
use nst_cache::storage::Lock;
use nst_cache::student::{Executor, ImportOptions, Student, preset};
use nst_cache::trainer::activation;
use nst_cache::trainer::epochs::{Options, Outcome, Training, run};
use nst_cache::trainer::loss::{Learnable, Objective};
use nst_cache::trainer::metrics::METRICS;
use nst_cache::trainer::metrics::Record;
use nst_cache::trainer::pairing::Taps;
use nst_cache::trainer::source::{CacheSource, Source};
use std::collections::BTreeMap;
use std::path::Path;

const ROWS: usize = 32;
const BATCH: usize = 8;
const CLASSES: usize = 4;
const SIDE: usize = 8;

/// What the cache holds of the teacher.
#[derive(Clone, Copy, PartialEq)]
enum Teacher {
    /// Maps before their activation, vector, logits.
    Whole,
    /// The same maps after it.
    Rectified,
    /// Maps alone.
    Maps,
}

/// Numbers in −1…1 of no pattern.
struct Noise(u32);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (f64::from(self.0 >> 8) / f64::from(1 << 23) - 1.0) as f32
    }
}

/// A cache of images and of a teacher whose every tensor is a pattern of the class and some noise.
fn write_cache(folder: &Path, teacher: Teacher) {
    let spec = |path: &str, dtype, shape: &[usize]| array(path, dtype, shape, Codec::Raw);
    let mut view_arrays = vec![spec("input", Dtype::U8, &[1, SIDE, SIDE])];
    let mut taps = Vec::new();
    let mut tap = |alias: &str, tensor: &str, role, stage, shape: &[usize]| {
        view_arrays.push(spec(&format!("taps/{alias}/features"), Dtype::F16, shape));
        taps.push(TapRecord {
            alias: alias.into(),
            tensor: tensor.into(),
            role,
            stage,
            output: false,
            made_by: None,
            map: None,
            batch_norm: None,
        });
    };
    // the student's own sizes and channels, so that FSP can compare them; the tensors of a resnet8
    tap("t1", "layer1", Role::Map, Some(1), &[16, 8, 8]);
    tap("t2", "layer2", Role::Map, Some(2), &[32, 4, 4]);
    tap("t3", "layer3", Role::Map, Some(3), &[64, 2, 2]);
    if teacher != Teacher::Maps {
        tap("pooled", "flatten", Role::Vector, None, &[64]);
        view_arrays.push(ArraySpec {
            axes: vec!["class".into()],
            ..spec("logits", Dtype::F32, &[CLASSES])
        });
    }
    let mut manifest = Manifest { taps, view_arrays, ..manifest(ROWS, Codec::Raw) };
    manifest.data.preprocess = Some(preprocess(SIDE, 0.5, 0.3));
    let ids = 0..i64::try_from(ROWS).unwrap();
    let labels: Vec<i64> = ids.clone().map(|row| row % i64::try_from(CLASSES).unwrap()).collect();
    let plan = CachePlan {
        manifest,
        sample_ids: ids.collect(),
        labels: labels.clone(),
        before: None,
        names: Vec::new(),
    };
    let mut writer = Writer::open(folder, &plan).unwrap();
    let mut shards = writer.segment(0, 0).unwrap();
    let mut noise = Noise(1);
    for label in labels {
        for (index, array) in plan.manifest.view_arrays.iter().enumerate() {
            let mut pattern =
                Noise(100 + 7 * u32::try_from(label).unwrap() + u32::try_from(index).unwrap());
            let values =
                (0..array.row_shape.iter().product()).map(|_| pattern.next() + 0.3 * noise.next());
            let values: Vec<f32> = values
                .map(|v| if teacher == Teacher::Rectified { v.max(0.0) } else { v })
                .collect();
            let bytes: Vec<u8> = match array.dtype {
                Dtype::U8 => values.iter().map(|v| (v * 90.0 + 128.0) as u8).collect(),
                Dtype::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            };
            shards.append(index, &bytes).unwrap();
        }
    }
    writer.publish(shards).unwrap();
    writer.finish(None).unwrap();
}

struct Trained {
    outcome: Outcome,
    student: Vec<u8>,
    initializers: Vec<String>,
}

/// One run on so many threads.
fn train(
    cache: &Path,
    criteria: &[&str],
    folder: &Path,
    threads: usize,
    resume: bool,
    monitor: &dyn Monitor,
) -> Result<Trained> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let spots = criteria.iter().find_map(|c| c.strip_prefix("sakd:"));
    let sakd = spots.map(|text| Sakd {
        mode: if text.starts_with("exact") { SakdMode::Exact } else { SakdMode::Cached },
        gates: if text.ends_with("always") { Gates::Always } else { Gates::Learned },
        width: 16,
        ..Sakd::default()
    });
    let criteria: Vec<CriterionRecipe> = criteria
        .iter()
        .filter(|c| !c.starts_with("sakd:"))
        .map(|c| c.parse())
        .collect::<Result<_>>()?;
    let recipe = Train {
        epochs: 3,
        batch: BATCH,
        seed: 3,
        criteria,
        sakd,
        optimizer: OptimizerRecipe::Sgd {
            lr: 0.02,
            momentum: 0.9,
            nesterov: true,
            weight_decay: 5e-4,
        }
        .into(),
        schedule: ScheduleRecipe::Constant { warmup_epochs: 0.0 },
        clip: Some(1.0),
        ..Train::default()
    };
    recipe.validate()?;
    let cache = Cache::open(cache)?;
    let model = preset::build("resnet8", CLASSES, [1, SIDE, SIDE], recipe.seed)?;
    let general = ImportOptions { executor: Executor::Reference, ..ImportOptions::default() };
    let student = Student::import(&model, &general)?;
    let taps = Taps::new(cache.manifest(), &student.taps(&[vec![BATCH, 1, SIDE, SIDE]])?);
    let terms = recipe.terms(Teaching::Maps);
    let pairs = terms
        .iter()
        .map(|t| activation::before(&t.method, taps.pairs(t)?.0, &student, &cache))
        .collect::<Result<Vec<_>>>()?;
    let mut objective = Objective::new(&terms, &pairs, 0.0, &student)?;
    if let Some(sakd) = &recipe.sakd {
        let vectors = taps.suggest_vector("sakd")?;
        objective = match sakd.mode {
            SakdMode::Cached => objective.with_spots(sakd, &vectors, &student)?,
            SakdMode::Exact => {
                let teacher = Student::import(
                    &preset::build("resnet8", CLASSES, [1, SIDE, SIDE], 77)?,
                    &general,
                )?;
                objective.with_routes(sakd, &vectors, &student, &teacher, cache.manifest())?
            }
        };
    }
    let inputs = ["input".to_owned()];
    let source = CacheSource::new(
        &cache,
        &inputs,
        objective.teacher_logits,
        &objective.taps,
        Take::default(),
        recipe.seed,
        true,
    )?;
    let options = Options { checkpoint_steps: None, log_steps: 1, loader_threads: threads };
    let source = Source::Cache(source);
    let mut learnable = Learnable::new(&objective, &recipe, &source, monitor)?;
    let lock = Lock::create(folder)?;
    let settings = Training {
        recipe: &recipe,
        objective: &objective,
        student: &student,
        classes: Some(student.logits()),
        source: &source,
        test: None,
        keep_best: &|_, _| Ok(()),
        folder: &lock,
        identity: "test",
        shorter: &[],
        resume,
        options,
        monitor,
    };
    let outcome = pool.install(|| run(&settings, &mut learnable))?;
    let exported = student.export(&[])?;
    let initializers = exported.graph().initializer.iter().map(|t| t.name().to_owned()).collect();
    Ok(Trained { outcome, student: exported.bytes().to_vec(), initializers })
}

/// The value of a term at each step.
fn parts(folder: &Path, name: &str) -> Vec<Option<f64>> {
    let text = std::fs::read_to_string(folder.join(METRICS)).unwrap();
    let of_step = |line: &str| match serde_json::from_str(line).unwrap() {
        Record::Step { parts, .. } => Some(parts.get(name).copied()),
        Record::Epoch { .. } => None,
    };
    text.lines().filter_map(of_step).collect()
}

/// A criterion at sizes that suit the test.
fn small(name: &str) -> String {
    match name {
        "crd" => "crd:width=8,negatives=6".into(),
        "cc" => "cc:width=8".into(),
        "ft" => "ft:paraphraser-epochs=1".into(),
        "reviewkd" => "reviewkd:middle=16".into(),
        "mgd" => "mgd:weight=0.001".into(),
        "lightly-v1" | "lightly-v3" => format!("{name}:queue-size=8"),
        other => other.into(),
    }
}

#[test]
fn every_criterion_trains_resumes_and_stays_out_of_the_student() {
    let root = &Sandbox::new();
    let cache = root.join("cache");
    write_cache(&cache, Teacher::Whole);
    let plain = train(&cache, &["ce"], &made(root, "plain"), 1, false, &Silent).unwrap();
    for name in papers::names() {
        let text = small(name);
        // the criterion alone
        let criteria = if name == "ce" { vec!["ce"] } else { vec!["ce:weight=0", text.as_str()] };
        let folder = made(root, name);
        let whole = train(&cache, &criteria, &folder, 1, false, &Silent).unwrap();
        assert_eq!(whole.initializers, plain.initializers, "{name}");
        assert!(name == "ce" || whole.student != plain.student, "{name}: moved nothing");
        let values: Vec<f64> = parts(&folder, name).into_iter().map(Option::unwrap).collect();
        assert!(values.len() == 12 && values.iter().all(|v| v.is_finite()), "{name}: {values:?}");
        let mean = |v: &[f64]| v.iter().sum::<f64>() / 4.0;
        let (first, last) = (mean(&values[..4]), mean(&values[8..]));
        // the student of an adversary may lose
        assert!(name == "gan" || last < first, "{name}: {first} to {last}");

        // stopped in the middle of an epoch (FT's paraphraser sees an epoch before), resumed on
        // three threads
        let before = if name == "ft" { ROWS } else { 0 };
        let folder = made(root, &format!("{name}-resumed"));
        let stop = StopAfter::new(before + 6 * BATCH);
        let stopped = train(&cache, &criteria, &folder, 2, false, &stop).map(|_| ()).unwrap_err();
        assert_eq!(stopped.kind(), Kind::Interrupted, "{}: {}", name, stopped.chain());
        let resumed = train(&cache, &criteria, &folder, 3, true, &Silent).unwrap();
        assert!(resumed.student == whole.student, "{name}: other bits after a resume");
        assert_eq!(resumed.outcome.parts, whole.outcome.parts, "{name}");
    }
}

#[test]
fn projectors_train_between_other_channels_and_resume() {
    let root = &Sandbox::new();
    let cache = root.join("cache");
    write_cache(&cache, Teacher::Whole);
    for name in ["mse", "l1", "smooth-l1", "cosine", "kd-binary", "cwd", "pkd"] {
        // one pair of other channels, one of other sizes too
        let text = format!("{name}:projector=true,pair=t1>layer2,pair=t3>layer2");
        let criteria = ["ce:weight=0", text.as_str()];
        let folder = made(root, name);
        let whole = train(&cache, &criteria, &folder, 1, false, &Silent).unwrap();
        let values: Vec<f64> = parts(&folder, name).into_iter().map(Option::unwrap).collect();
        assert!(values[8..].iter().sum::<f64>() < values[..4].iter().sum(), "{name}: {values:?}");

        let again = made(root, &format!("{name}-again"));
        let stop = StopAfter::new(6 * BATCH);
        train(&cache, &criteria, &again, 2, false, &stop).map(|_| ()).unwrap_err();
        let resumed = train(&cache, &criteria, &again, 3, true, &Silent).unwrap();
        assert!(resumed.student == whole.student, "{name}: other bits after a resume");
        assert_eq!(resumed.initializers, whole.initializers, "{name}");
    }
}

#[test]
fn criteria_combine_and_follow_their_courses() {
    let root = &Sandbox::new();
    let cache = root.join("cache");
    write_cache(&cache, Teacher::Whole);
    let criteria = [
        "ce:from=2",
        "ab:until=2",
        "kd:weight=0.9,from=1,warmup-epochs=1,decay-to=0.1",
        "fitnet:pair=t1>layer1",
        "fitnet:weight=10,pair=t2>layer2,pair=t3>layer3",
    ];
    let folder = made(root, "run");
    train(&cache, &criteria, &folder, 1, false, &Silent).unwrap();
    let on = |name: &str| parts(&folder, name).iter().map(Option::is_some).collect::<Vec<_>>();
    let from_to =
        |from: usize, to: usize| (0..12).map(|k| (from..to).contains(&k)).collect::<Vec<_>>();
    assert_eq!(on("ce"), from_to(8, 12));
    assert_eq!(on("ab"), from_to(0, 8));
    assert_eq!(on("kd"), from_to(4, 12));
    assert_eq!(on("fitnet#2"), from_to(0, 12));
    // where a term is off nothing of it moves, so a resume meets the same numbers
    let again = made(root, "again");
    train(&cache, &criteria, &again, 2, false, &StopAfter::new(10 * BATCH))
        .map(|_| ())
        .unwrap_err();
    train(&cache, &criteria, &again, 2, true, &Silent).unwrap();
    for name in ["ce", "ab", "kd", "fitnet", "fitnet#2"] {
        assert_eq!(parts(&folder, name), parts(&again, name), "{name}");
    }
}

/// The shares of the samples at each spot, by epoch.
fn shares(folder: &Path) -> Vec<BTreeMap<String, f64>> {
    let text = std::fs::read_to_string(folder.join(METRICS)).unwrap();
    let of_epoch = |line: &str| match serde_json::from_str(line).unwrap() {
        Record::Epoch { spots, .. } => Some(spots),
        Record::Step { .. } => None,
    };
    text.lines().filter_map(of_epoch).collect()
}

#[test]
fn spots_combine_with_every_criterion() {
    let root = &Sandbox::new();
    let cache = root.join("cache");
    write_cache(&cache, Teacher::Whole);
    let all: Vec<String> = papers::names().map(small).collect();
    let mut criteria: Vec<&str> = all.iter().map(String::as_str).collect();

    let plain = train(&cache, &criteria, &made(root, "plain"), 1, false, &Silent).unwrap();
    // every sample at every spot is plain distillation
    criteria.push("sakd:always");
    let folder = made(root, "always");
    let always = train(&cache, &criteria, &folder, 1, false, &Silent).unwrap();
    assert!(always.student == plain.student, "other bits");
    assert!(
        shares(&folder).iter().all(
            |spots| spots.len() == 8 && spots.values().all(|share| (share - 1.0).abs() < 1e-12)
        )
    );

    criteria.pop();
    criteria.push("sakd:learned");
    let folder = made(root, "learned");
    let learned = train(&cache, &criteria, &folder, 1, false, &Silent).unwrap();
    assert!(learned.student != plain.student);
    assert_eq!(learned.initializers, plain.initializers);
    for spots in shares(&folder) {
        assert!(
            spots.contains_key("logits") && spots.values().all(|share| (0.2..0.9).contains(share)),
            "{spots:?}"
        );
    }
    let again = made(root, "again");
    train(&cache, &criteria, &again, 2, false, &StopAfter::new(ROWS + 5 * BATCH))
        .map(|_| ())
        .unwrap_err();
    let resumed = train(&cache, &criteria, &again, 3, true, &Silent).unwrap();
    assert!(resumed.student == learned.student, "other bits after a resume");
    assert_eq!(shares(&again), shares(&folder));
}

#[test]
fn routes_lead_through_both_networks() {
    let root = &Sandbox::new();
    let cache = root.join("cache");
    write_cache(&cache, Teacher::Whole);
    let all: &[&str] = &["at", "kd", "sp", "crd:width=8,negatives=6"];
    for (name, terms, maps) in
        [("logits", &["kd"][..], 0), ("maps", &["nst-poly", "fitnet", "rkd"], 4), ("all", all, 4)]
    {
        let run = |how: &str, spots: Option<&str>, threads, resume, monitor: &dyn Monitor| {
            let folder = made(root, &format!("{name}-{how}"));
            let criteria: Vec<&str> = terms.iter().copied().chain(spots).collect();
            (train(&cache, &criteria, &folder, threads, resume, monitor), shares(&folder))
        };
        let plain = run("plain", None, 1, false, &Silent).0.unwrap();
        // every sample at every spot is plain distillation
        let (always, open) = run("always", Some("sakd:exact-always"), 1, false, &Silent);
        assert!(always.unwrap().student == plain.student, "{name}: other bits");
        assert!(open.iter().all(|spots| spots.contains_key("logits")
            && spots.values().all(|share| (share - 1.0).abs() < 1e-12)));

        let (learned, chosen) = run("learned", Some("sakd:exact"), 1, false, &Silent);
        let learned = learned.unwrap();
        assert!(learned.student != plain.student, "{name}: moved nothing");
        assert_eq!(learned.initializers, plain.initializers, "{name}");
        // the logits are a spot of every route
        assert!(
            chosen.iter().all(|spots| spots.len() == maps + 1 && spots.contains_key("logits")),
            "{chosen:?}"
        );
        if name == "all" {
            let (_, cached) = run("cached", Some("sakd:learned"), 1, false, &Silent);
            assert_eq!(cached[0].keys().collect::<Vec<_>>(), chosen[0].keys().collect::<Vec<_>>());
            assert_ne!(cached, chosen, "routes teach the policy something else than probes do");
        }
        // stopped in the middle of an epoch, resumed on other threads
        run("again", Some("sakd:exact"), 2, false, &StopAfter::new(ROWS + 2 * BATCH))
            .0
            .map(|_| ())
            .unwrap_err();
        let (resumed, again) = run("again", Some("sakd:exact"), 3, true, &Silent);
        assert!(resumed.unwrap().student == learned.student, "{name}: other bits after a resume");
        assert_eq!(again, chosen, "{name}");
    }
    // a map inside a block
    let error = train(
        &cache,
        &["at:pair=t1>layer1,pair=t2>layer2.0.bn2", "sakd:exact"],
        root,
        1,
        false,
        &Silent,
    )
    .map(|_| ())
    .unwrap_err();
    assert!(
        error.chain().contains("layer2.0.downsample around it, read by node layer2.0.add (Add)"),
        "{}",
        error.chain()
    );
}

#[test]
fn what_a_criterion_lacks_is_said_with_a_way_out() {
    let root = &Sandbox::new();
    for (teacher, name) in
        [(Teacher::Whole, "whole"), (Teacher::Rectified, "rectified"), (Teacher::Maps, "maps")]
    {
        write_cache(&root.join(name), teacher);
    }
    for (cache, criterion, message, hint) in [
        ("maps", "kd", "logits", "--logits"),
        ("maps", "dkd", "logits", "--logits"),
        ("maps", "rkd", "vector before the classifier", "--tap"),
        ("maps", "crd", "vector before the classifier", "--tap"),
        ("maps", "lightly-v3", "vector before the classifier", "--tap"),
        ("whole", "lightly-v3:pair=t3>layer3", "a pair of vectors and a pair of maps", "pair="),
        ("whole", "mse:pair=t1>layer2", "expected 16 of the student", "projector=true"),
        ("whole", "cwd:pair=t1>layer2", "expected 16 of the student", "projector=true"),
        ("whole", "l1:pair=pooled>layer1", "equally many axes", "pair="),
        ("rectified", "ab", "before its activation", "input of the activation"),
        ("rectified", "ofd", "before its activation", "input of the activation"),
        ("whole", "fsp:pair=t1>layer1", "two layers or more", "pair="),
        ("whole", "fsp:pair=t1>layer1,pair=t2>layer3", "same channels", "pair="),
        ("whole", "at:pair=t9>layer1", "`t9`", "nearest"),
        ("whole", "at:pair=t1>layer9", "`layer9`", "nearest"),
        ("maps", "sakd:learned", "sakd: expected the teacher's vector", "--tap"),
        ("whole", "gan:pair=pooled>layer1", "`pooled`", "nearest"),
        ("whole", "rkd:pair=pooled>layer9", "`layer9`", "nearest"),
    ] {
        let error = train(&root.join(cache), &[criterion], root, 1, false, &Silent)
            .map(|_| ())
            .unwrap_err();
        let chain = error.chain();
        assert!(chain.contains(message) && !chain.contains('\n'), "{criterion}: {chain}");
        assert!(
            error.find_hint().is_some_and(|h| h.contains(hint)),
            "{criterion}: {chain}: {:?}",
            error.find_hint()
        );
        assert_eq!(error.exit_code(), 2, "{criterion}");
    }
    // review takes what there is
    train(
        &root.join("rectified"),
        &["reviewkd:middle=8"],
        &made(root, "review"),
        1,
        false,
        &Silent,
    )
    .unwrap();
    train(
        &root.join("maps"),
        &["reviewkd:middle=8"],
        &made(root, "review-maps"),
        1,
        false,
        &Silent,
    )
    .unwrap();
}

fn made(root: &Path, name: &str) -> std::path::PathBuf {
    let folder = root.join("runs").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn ofd_takes_its_margins_from_the_batch_norm_that_the_teacher_still_has() {
    let root = &Sandbox::with_runtime().data(40);
    let teacher = support::committed("models/teacher.onnx");
    let data = format!(
        "--data fashion-mnist --limit 96 --tap layer2.2.add --tap layer3.2.add {}",
        teacher.display()
    );
    root.succeeds(&format!("extract {data} -o kept"));
    let kept = Cache::open(&root.join("kept")).unwrap();
    assert_eq!(kept.manifest().format, Manifest::FORMAT_SUMS);
    let norm = kept.manifest().taps[1].batch_norm.clone().unwrap();
    let model = nst_cache::onnx::Model::read(&teacher).unwrap();
    let bias = model.initializer("layer3.2.bn2.bias").unwrap().unwrap().to_f32();
    assert_eq!((norm.scale.len(), norm.bias), (64, bias));
    let said = root.succeeds(
        "train resnet8 --cache kept --epochs 1 --batch 32 --criterion ofd --test \
                    idx:data:train -o student",
    );
    assert!(said.contains("ofd: margins of 2 layers from the teacher's batch norm"), "{said}");
}
