//! What the commands promise to whoever calls them: one JSON document on stdout, defaults of the
//! working folder, help with examples, models of any batch and axis order, and Ctrl-C that loses
//! nothing.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use crate::support::{self, PROGRAM, Ran, Sandbox, committed, program};

use nst_cache::array::{Array, Values};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn every_shell_has_a_completion() {
    let folder = Sandbox::new();
    for shell in ["bash", "zsh", "fish"] {
        folder.run(&format!("completions {shell}")).expect(0).says(&["extract", "tap"]);
    }
}

#[test]
fn the_criteria_are_listed_and_described() {
    let folder = Sandbox::new();
    let list = folder.json("criteria");
    for entry in list.as_array().unwrap() {
        let name = entry["name"].as_str().unwrap();
        assert_eq!(folder.json(&format!("criteria {name}")), *entry);
        let is_whole = entry["stored"].is_array() && entry["settings"].is_array();
        assert!(is_whole && entry["weight"].is_number(), "{entry}");
    }
}

#[test]
fn the_working_folder_holds_defaults_and_every_result_is_one_document() {
    let folder = &Sandbox::with_runtime();
    let at = |name: &str| folder.join(name);
    support::write_teacher(&at("teacher.onnx"));
    support::write_idx(&at("data"), 40);
    std::fs::write(at("recipe.toml"), "epochs = 1\nbatch = 16\nfreeze-batchnorm = true\n").unwrap();
    let config = "data = 'idx:data'\ncache = 'stored'\nthreads = 1\n[preprocess]\npreset = \
                  'fashion-mnist'\n[students.small]\nmodel = 'resnet8'\nrecipe = 'recipe.toml'\n";
    std::fs::write(at("nst-cache.toml"), config).unwrap();

    let inspected = folder.json("inspect teacher.onnx");
    let taps = inspected["taps"].as_array().unwrap();
    let map2 = taps.iter().find(|tap| tap["tensor"] == "map2").unwrap();
    assert_eq!(map2["shape"], serde_json::json!(["batch", 16, 14, 14]));
    assert_eq!(map2["bytes"]["features"], 2 * 16 * 196);
    assert_eq!(map2["bytes"]["gram"], 4 * 196 * 197 / 2);
    let pooled = taps.iter().find(|tap| tap["tensor"] == "pooled").unwrap();
    assert_eq!(
        (&pooled["shape"], &pooled["suggested"]),
        (&serde_json::json!(["batch", 16]), &Value::Bool(true))
    );

    assert_eq!(folder.json("extract teacher.onnx")["rows"], 40);
    assert!(at("stored/manifest.json").is_file());
    assert_eq!(
        folder.json("cache info stored")["data"]["preprocess"]["mean"].as_array().unwrap().len(),
        1
    );
    assert_eq!(folder.json("cache verify stored")["findings"], serde_json::json!([]));
    assert!(folder.json("new --list").is_array());
    let trained = folder.json("train small --limit 24 --shuffle 5");
    assert_eq!(
        (&trained["epochs"], &trained["settings"]["recipe"]["shuffle"]),
        (&serde_json::json!(1), &serde_json::json!(5))
    );
    assert_eq!(trained["settings"]["recipe"]["freeze-batchnorm"], true);
    assert!(at("runs/small/student.onnx").is_file());
    assert_eq!(folder.json("eval runs/small/student.onnx --split train")["samples"], 40);

    let stderr = folder.run("train small --limit 24 --shuffle 6").expect(2).stderr;
    assert!(stderr.contains("recipe.shuffle 5, found 6") && stderr.contains("-o"), "{stderr}");
}

/// Whoever opens a data set says which samples of which classes it found, and what it left out.
#[test]
fn the_classes_of_a_data_set_are_counted() {
    let folder = &Sandbox::with_runtime().teacher();
    support::write_images(&folder.join("photos/set/Train"), 12);
    support::write_images(&folder.join("photos/set/Test"), 6);
    folder.file("photos/set/Train/a/new.heic", "no image that is read");
    let says = |line: &str, parts: &[&str]| folder.run(line).expect(0).says(parts);
    let (train, test) = ("12 samples of 2 classes: a 6, b 6", "6 samples of 2 classes: a 3, b 3");
    says(
        "extract teacher.onnx --data photos --preprocess fashion-mnist -o cache",
        &[train, "split `train` is the folder set/Train", "1 file is left out: 1 .heic"],
    );
    says(
        "train resnet8 --cache cache --epochs 1 --criterion ce -o run",
        &[&format!("training: {train}"), &format!("test: {test}")],
    );
    // the teacher tells ten classes: there is nothing to measure, and that is said after the counts
    folder.refused(
        "eval teacher.onnx --data photos --preprocess fashion-mnist",
        &[test, "the model tells 10 classes, the data has 2"],
    );
}

#[test]
fn eval_takes_models_of_any_batch() {
    let folder = &Sandbox::with_runtime().data(21);
    let mut scores = Vec::new();
    for (name, batch) in [("open.onnx", None), ("one.onnx", Some(1)), ("eight.onnx", Some(8))] {
        match batch {
            Some(batch) => support::write_teacher_of_batch(&folder.join(name), batch),
            None => support::write_teacher(&folder.join(name)),
        }
        let found = folder
            .json(&format!("eval {name} --data idx:data --split train --preprocess fashion-mnist"));
        assert_eq!(found["samples"], 21, "{name}");
        scores.push((found["top1"].as_f64().unwrap(), found["loss"].as_f64().unwrap()));
    }
    for (top1, loss) in &scores[1..] {
        assert!(
            (top1 - scores[0].0).abs() < 1e-9 && (loss - scores[0].1).abs() < 1e-5,
            "{scores:?}"
        );
    }
    // exporters bake a batch of one into reshapes and declare it open
    let baked = committed("tests/data/models/baked_batch.onnx");
    let x = Array::new(vec![5, 4], Values::F32((0u8..20).map(f32::from).collect())).unwrap();
    let labels = Array::new(vec![5], Values::I64((0..5).collect())).unwrap();
    support::write_npz(&folder.join("x.npz"), &[("x", &x), ("labels", &labels)]);
    assert_eq!(folder.json(&format!("eval {} --data npz:x.npz", baked.display()))["samples"], 5);
}

#[test]
fn eval_takes_some_samples_other_logits_and_another_order_of_classes() {
    let folder = &Sandbox::with_runtime().teacher();
    support::write_images(&folder.join("images"), 30);
    let eval = |flags: &str| {
        let classes = if flags.contains("--classes") { "" } else { " --classes classes.txt" };
        let line = format!(
            "eval teacher.onnx --data folder:images --split train --preprocess \
             fashion-mnist{classes}{flags}"
        );
        let found = folder.json(&line);
        (found["samples"].as_u64().unwrap(), found["loss"].as_f64().unwrap())
    };
    folder.file("classes.txt", "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n");
    folder.file("other.txt", "x\nb\na\nd\ne\nf\ng\nh\ni\nj\n");
    let whole = eval("");
    assert_eq!(whole.0, 30);
    let (first, shuffled) = (eval(" --limit 8"), eval(" --limit 8 --shuffle 3"));
    assert_eq!((first.0, shuffled.0), (8, 8));
    assert!((first.1 - shuffled.1).abs() > 1e-9);
    assert!((eval(" --shuffle 3").1 - whole.1).abs() < 1e-6);
    assert_eq!(eval(" --logits logits"), whole);
    assert!((eval(" --classes other.txt").1 - whole.1).abs() > 1e-9);
}

/// The student is f32 `[batch, channels, height, width]` whatever its teacher takes, and its
/// metadata says so.
#[test]
fn a_student_of_a_channels_last_teacher_is_measured_without_flags() {
    let folder = &Sandbox::with_runtime();
    support::write_images(&folder.join("images"), 24);
    folder.succeeds(&format!(
        "extract {} --data folder:images --channels rgb -o cache",
        committed("tests/data/models/nhwc.onnx").display()
    ));
    let info = folder.json("cache info cache");
    assert_eq!(
        (&info["data"]["preprocess"]["layout"], &info["complete"]),
        (&serde_json::json!("nhwc"), &Value::Bool(true))
    );
    folder.succeeds("train resnet8 --cache cache --epochs 1 -o student");
    let report = folder.json("eval student/student.onnx --data folder:images --split train");
    assert_eq!(report["samples"], 24);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_an_extraction_with_130_and_the_same_command_goes_on() {
    let folder = &Sandbox::with_runtime();
    let line = format!(
        "extract {} --data fashion-mnist --limit 4000 -o cache --threads 1",
        committed("models/teacher.onnx").display()
    );
    let mut child =
        folder.command(&line).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(stderr.any(|line| line.starts_with("extract: ")), "no extraction began");
    // the first segment of sixteen takes a part of a second
    while !std::fs::read_to_string(folder.join("cache/manifest.json"))
        .is_ok_and(|text| text.contains("\"index\":0"))
    {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let rest: Vec<String> = stderr.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line.starts_with("stopped: ")), "{rest:?}");
    assert_eq!(folder.json("cache info cache")["complete"], false);
    let report = folder.json(&line);
    assert!(report["computed"].as_u64().unwrap() < report["rows"].as_u64().unwrap());
    folder.succeeds("cache verify cache");
}

#[test]
fn views_are_made_shown_checked_and_trained_from() {
    let folder = &Sandbox::with_runtime().teacher().data(40);
    let extract = "extract teacher.onnx --data idx:data --preprocess fashion-mnist --augment \
                   crop-flip --mixup 0.4 --inputs source -o cache";
    let report = folder.json(&format!("{extract} --views 2"));
    assert_eq!((&report["views"], &report["computed"]), (&Value::from(2), &Value::from(80)));
    let added = folder.json(&format!("{extract} --views 3"));
    assert_eq!((&added["views"], &added["computed"]), (&Value::from(3), &Value::from(40)));
    let info = folder.json("cache info cache");
    assert_eq!((&info["views"], &info["inputs"]), (&Value::from(3), &Value::from("source")));
    assert_eq!(
        (&info["augment"]["geometry"], &info["augment"]["mixup"]),
        (&Value::from("crop-flip"), &Value::from(0.4))
    );
    folder
        .run("cache info cache")
        .expect(0)
        .says(&["3 views: crop-flip, mixup 0.4; inputs from the data"]);
    let verified = folder.json("cache verify cache --live teacher.onnx");
    assert_eq!(
        (&verified["findings"], &verified["complete"]),
        (&serde_json::json!([]), &Value::Bool(true))
    );

    let train = "train resnet8 --cache cache --epochs 4 --batch 20 --criterion kd";
    let notes = folder.run(train).expect(0).stderr;
    assert!(
        notes.contains("4 epochs go through the cache's 3 views (crop-flip, mixup 0.4) in turn"),
        "{notes}"
    );
    // the images have moved, then are others
    std::fs::rename(folder.join("data"), folder.join("moved")).unwrap();
    let lost = folder.run(&format!("{train} -o runs/b"));
    assert!(lost.stderr.contains("--source SPEC"), "{}", lost.stderr);
    folder.succeeds(&format!("{train} --source idx:moved -o runs/b"));
    let student =
        |run: &str| std::fs::read(folder.join("runs").join(run).join("student.onnx")).unwrap();
    assert!(student("resnet8") == student("b"), "where the images lie changes nothing");
    support::write_idx(&folder.join("other"), 41);
    let other = folder.run(&format!("{train} --source idx:other -o runs/c"));
    assert!(other.stderr.contains("expected the set that the cache was made of"));
}

/// ONNX Runtime's telemetry is off, and nothing is written but what the command names.
#[test]
fn nothing_is_written_outside_of_the_folders_that_are_named() {
    let root = &Sandbox::with_runtime();
    let at = |name: &str| root.join(name);
    for name in ["home", "cache", "config", "temporary", "work"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    support::write_teacher(&at("work/teacher.onnx"));
    support::write_idx(&at("work/data"), 32);
    for line in [
        "inspect teacher.onnx",
        "extract teacher.onnx --data idx:data --preprocess fashion-mnist -o kept",
        "train resnet8 --cache kept --epochs 1 -o run",
        "eval run/student.onnx --data idx:data --split train",
    ] {
        let output = program(&at("work"), line)
            // as a user's shell has it, who knows of none of this
            .env_remove("ORT_DISABLE_TELEMETRY")
            .env("HOME", at("home"))
            .env("XDG_CACHE_HOME", at("cache"))
            .env("XDG_CONFIG_HOME", at("config"))
            .env("TMPDIR", at("temporary"))
            .output()
            .unwrap();
        Ran::new(line, output).expect(0);
        for name in ["home", "cache", "config", "temporary"] {
            let found: Vec<_> = std::fs::read_dir(at(name)).unwrap().collect();
            assert!(found.is_empty(), "{line}: {name}: {found:?}");
        }
    }
    let mut names: Vec<_> =
        std::fs::read_dir(at("work")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["data", "kept", "run", "teacher.onnx"]);
}

/// Files have the mode that the user's mask leaves, and one user's cache is read by another.
#[cfg(unix)]
#[test]
fn files_are_made_with_the_mask_and_read_by_other_users() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::os::unix::process::CommandExt as _;
    support::need_runtime();
    for (mask, file_mode, folder_mode) in
        [("022", 0o644, 0o755), ("027", 0o640, 0o750), ("077", 0o600, 0o700)]
    {
        let folder = &Sandbox::new().teacher().data(32);
        let line = format!(
            "umask {mask}; N={PROGRAM}; $N -q extract teacher.onnx --data idx:data --preprocess \
             fashion-mnist -o out/kept && $N -q train resnet8 --cache out/kept --epochs 1 -o \
             out/run && $N -q cache export out/kept --npz out/kept.npz"
        );
        let mut shell = Command::new("sh");
        Ran::new(&line, shell.current_dir(&**folder).args(["-c", &line]).output().unwrap())
            .expect(0);
        let mut todo = vec![folder.join("out")];
        let mut seen = 0;
        while let Some(path) = todo.pop() {
            let found = std::fs::symlink_metadata(&path).unwrap();
            let expected = if found.is_dir() { folder_mode } else { file_mode };
            assert_eq!(found.mode() & 0o7777, expected, "{mask}: {}", path.display());
            seen += 1;
            if found.is_dir() {
                todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        assert!(seen > 30, "{seen}");

        // whoever runs the tests may be no other user; root may
        if is_root() && mask == "022" {
            std::fs::set_permissions(&**folder, std::fs::Permissions::from_mode(0o755)).unwrap();
            let as_other = |line: &str| {
                let output = program(Path::new("/"), line).uid(65_534).gid(65_534).output();
                output.map(|output| Ran::new(line, output))
            };
            let path = folder.join("out/kept").display().to_string();
            let Ok(read) = as_other(&format!("cache verify {path}")) else { continue };
            read.expect(0);
            // a writer at work keeps the other user out, whose lock is a reader's
            let lock = nst_cache::storage::Lock::exclusive(&folder.join("out/kept")).unwrap();
            as_other(&format!("cache verify {path}")).unwrap().expect(2).says(&["in use by pid"]);
            drop(lock);
            as_other(&format!("cache repair {path}")).unwrap().expect(2).says(&["Permission"]);
            // a lock that cannot be opened is not a missing one
            let lock = folder.join("out/kept/.lock");
            std::fs::set_permissions(&lock, std::fs::Permissions::from_mode(0o600)).unwrap();
            as_other(&format!("cache verify {path}")).unwrap().expect(2);
        }
    }
}

#[cfg(unix)]
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0)
}
