//! What the commands promise to whoever calls them: one JSON document on stdout, defaults of the
//! working folder, help with examples, models of any batch and axis order, and Ctrl-C that loses
//! nothing.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use crate::support;

use nst_cache::array::{Array, Values};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn command(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nst-cache"));
    command.current_dir(folder).args(arguments.split(' '));
    command
}

fn run(folder: &Path, arguments: &str) -> Output {
    let output = command(folder, arguments).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs with `--json`: stdout is one document.
fn json(folder: &Path, arguments: &str) -> Value {
    serde_json::from_slice(&run(folder, &format!("{arguments} --json")).stdout)
        .unwrap_or_else(|e| panic!("{arguments}: {e}"))
}

fn committed(file: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file).display().to_string()
}

#[test]
fn every_command_has_help_with_examples_and_a_completion() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "inspect",
        "extract",
        "train",
        "eval",
        "new",
        "cache",
        "cache info",
        "cache verify",
        "cache repair",
        "cache export",
        "criteria",
        "sweep",
        "recipe",
        "demo",
        "completions",
    ] {
        let help = String::from_utf8(run(folder.path(), &format!("{name} --help")).stdout).unwrap();
        assert!(help.contains("Examples:") && help.contains("nst-cache "), "{name}:\n{help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script =
            String::from_utf8(run(folder.path(), &format!("completions {shell}")).stdout).unwrap();
        assert!(
            script.contains("extract") && script.contains("--tap".trim_start_matches('-')),
            "{shell}"
        );
    }
}

#[test]
fn the_criteria_are_listed_and_described() {
    let folder = tempfile::tempdir().unwrap();
    let list = json(folder.path(), "criteria");
    let entries = list.as_array().unwrap();
    for name in [
        "ce",
        "kd",
        "dkd",
        "dist",
        "nst-linear",
        "nst-poly",
        "nst-gauss",
        "fitnet",
        "at",
        "vid",
        "sp",
        "cc",
        "rkd",
        "pkt",
        "crd",
        "ab",
        "ft",
        "fsp",
        "ofd",
        "reviewkd",
        "gan",
    ] {
        let entry = entries.iter().find(|e| e["name"] == name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(json(folder.path(), &format!("criteria {name}")), *entry);
        assert!(
            entry["stored"].is_array()
                && entry["settings"].is_array()
                && entry["weight"].is_number(),
            "{entry}"
        );
    }
    let text = String::from_utf8(run(folder.path(), "criteria").stdout).unwrap();
    assert!(text.contains("reviewkd") && text.contains("arXiv:1707.01219"), "{text}");
    let unknown = command(folder.path(), "criteria mse").output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("`mse`: expected one of ce, kd"));
}

#[test]
fn the_working_folder_holds_defaults_and_every_result_is_one_document() {
    support::need_runtime();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    support::write_teacher(&at("teacher.onnx"));
    support::write_idx(&at("data"), 40);
    std::fs::write(at("recipe.toml"), "epochs = 1\nbatch = 16\nfreeze-batchnorm = true\n").unwrap();
    let config = "data = 'idx:data'\ncache = 'stored'\nthreads = 1\n[preprocess]\npreset = \
                  'fashion-mnist'\n[students.small]\nmodel = 'resnet8'\nrecipe = 'recipe.toml'\n";
    std::fs::write(at("nst-cache.toml"), config).unwrap();

    let inspected = json(folder.path(), "inspect teacher.onnx");
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

    assert_eq!(json(folder.path(), "extract teacher.onnx")["rows"], 40);
    assert!(at("stored/manifest.json").is_file());
    assert_eq!(
        json(folder.path(), "cache info stored")["data"]["preprocess"]["mean"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(json(folder.path(), "cache verify stored")["findings"], serde_json::json!([]));
    assert!(json(folder.path(), "new --list").is_array());
    let trained = json(folder.path(), "train small --limit 24 --shuffle 5");
    assert_eq!(
        (&trained["epochs"], &trained["settings"]["recipe"]["shuffle"]),
        (&serde_json::json!(1), &serde_json::json!(5))
    );
    assert_eq!(trained["settings"]["recipe"]["freeze-batchnorm"], true);
    assert!(at("runs/small/student.onnx").is_file());
    assert_eq!(json(folder.path(), "eval runs/small/student.onnx --split train")["samples"], 40);

    let other = command(folder.path(), "train small --limit 24 --shuffle 6").output().unwrap();
    let stderr = String::from_utf8_lossy(&other.stderr);
    assert_eq!(other.status.code(), Some(2));
    assert!(stderr.contains("recipe.shuffle 5, found 6") && stderr.contains("-o"), "{stderr}");
}

/// Whoever opens a data set says which samples of which classes it found, and what it left out.
#[test]
fn the_classes_of_a_data_set_are_counted() {
    support::need_runtime();
    let folder = tempfile::tempdir().unwrap();
    support::write_teacher(&folder.path().join("teacher.onnx"));
    support::write_images(&folder.path().join("photos/set/Train"), 12);
    support::write_images(&folder.path().join("photos/set/Test"), 6);
    std::fs::write(folder.path().join("photos/set/Train/a/new.heic"), "no image that is read")
        .unwrap();
    let says = |arguments: &str, expected: &[&str]| {
        let stderr = String::from_utf8(run(folder.path(), arguments).stderr).unwrap();
        for text in expected {
            assert!(stderr.contains(text), "{arguments}: {text}: {stderr}");
        }
    };
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
    let refused =
        command(folder.path(), "eval teacher.onnx --data photos --preprocess fashion-mnist")
            .output()
            .unwrap();
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains(test) && stderr.contains("the model tells 10 classes, the data has 2"),
        "{stderr}"
    );
}

#[test]
fn eval_takes_models_of_any_batch() {
    support::need_runtime();
    let folder = tempfile::tempdir().unwrap();
    support::write_idx(&folder.path().join("data"), 21);
    let mut scores = Vec::new();
    for (name, batch) in [("open.onnx", None), ("one.onnx", Some(1)), ("eight.onnx", Some(8))] {
        support::write_teacher_of_batch(&folder.path().join(name), batch);
        let found = json(
            folder.path(),
            &format!("eval {name} --data idx:data --split train --preprocess fashion-mnist"),
        );
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
    support::write_npz(&folder.path().join("x.npz"), &[("x", &x), ("labels", &labels)]);
    assert_eq!(json(folder.path(), &format!("eval {baked} --data npz:x.npz"))["samples"], 5);
}

#[test]
fn eval_takes_some_samples_other_logits_and_another_order_of_classes() {
    support::need_runtime();
    let folder = tempfile::tempdir().unwrap();
    support::write_teacher(&folder.path().join("teacher.onnx"));
    support::write_images(&folder.path().join("images"), 30);
    let eval = |flags: &str| {
        let classes = if flags.contains("--classes") { "" } else { " --classes classes.txt" };
        let line = format!(
            "eval teacher.onnx --data folder:images --split train --preprocess \
             fashion-mnist{classes}{flags}"
        );
        let found = json(folder.path(), &line);
        (found["samples"].as_u64().unwrap(), found["loss"].as_f64().unwrap())
    };
    std::fs::write(folder.path().join("classes.txt"), "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n").unwrap();
    std::fs::write(folder.path().join("other.txt"), "x\nb\na\nd\ne\nf\ng\nh\ni\nj\n").unwrap();
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
    support::need_runtime();
    let folder = tempfile::tempdir().unwrap();
    support::write_images(&folder.path().join("images"), 24);
    run(
        folder.path(),
        &format!(
            "extract {} --data folder:images --channels rgb -o cache",
            committed("tests/data/models/nhwc.onnx")
        ),
    );
    let info = json(folder.path(), "cache info cache");
    assert_eq!(
        (&info["data"]["preprocess"]["layout"], &info["complete"]),
        (&serde_json::json!("nhwc"), &Value::Bool(true))
    );
    run(folder.path(), "train resnet8 --cache cache --epochs 1 -o student");
    let report =
        json(folder.path(), "eval student/student.onnx --data folder:images --split train");
    assert_eq!(report["samples"], 24);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_an_extraction_with_130_and_the_same_command_goes_on() {
    support::need_runtime();
    let folder = tempfile::tempdir().unwrap();
    let line = format!(
        "extract {} --data fashion-mnist --limit 4000 -o cache --threads 1",
        committed("models/teacher.onnx")
    );
    let mut child =
        command(folder.path(), &line).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(stderr.any(|line| line.starts_with("extract: ")), "no extraction began");
    // the first segment of sixteen takes a part of a second
    while !std::fs::read_to_string(folder.path().join("cache/manifest.json"))
        .is_ok_and(|text| text.contains("\"index\":0"))
    {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let rest: Vec<String> = stderr.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line.starts_with("stopped: ")), "{rest:?}");
    assert_eq!(json(folder.path(), "cache info cache")["complete"], false);
    let report = json(folder.path(), &line);
    assert!(report["computed"].as_u64().unwrap() < report["rows"].as_u64().unwrap());
    run(folder.path(), "cache verify cache");
}

#[test]
fn views_are_made_shown_checked_and_trained_from() {
    support::need_runtime();
    let folder = tempfile::tempdir().unwrap();
    support::write_teacher(&folder.path().join("teacher.onnx"));
    support::write_idx(&folder.path().join("data"), 40);
    let extract = "extract teacher.onnx --data idx:data --preprocess fashion-mnist --augment \
                   crop-flip --mixup 0.4 --inputs source -o cache";
    let report = json(folder.path(), &format!("{extract} --views 2"));
    assert_eq!((&report["views"], &report["computed"]), (&Value::from(2), &Value::from(80)));
    let added = json(folder.path(), &format!("{extract} --views 3"));
    assert_eq!((&added["views"], &added["computed"]), (&Value::from(3), &Value::from(40)));
    let info = json(folder.path(), "cache info cache");
    assert_eq!((&info["views"], &info["inputs"]), (&Value::from(3), &Value::from("source")));
    assert_eq!(
        (&info["augment"]["geometry"], &info["augment"]["mixup"]),
        (&Value::from("crop-flip"), &Value::from(0.4))
    );
    let text = String::from_utf8(run(folder.path(), "cache info cache").stdout).unwrap();
    assert!(text.contains("3 views: crop-flip, mixup 0.4; inputs from the data"), "{text}");
    let verified = json(folder.path(), "cache verify cache --live teacher.onnx");
    assert_eq!(
        (&verified["findings"], &verified["complete"]),
        (&serde_json::json!([]), &Value::Bool(true))
    );

    let train = "train resnet8 --cache cache --epochs 4 --batch 20 --criterion kd";
    let trained = run(folder.path(), train);
    let notes = String::from_utf8_lossy(&trained.stderr);
    assert!(
        notes.contains("4 epochs go through the cache's 3 views (crop-flip, mixup 0.4) in turn"),
        "{notes}"
    );
    // the images have moved, then are others
    std::fs::rename(folder.path().join("data"), folder.path().join("moved")).unwrap();
    let lost = command(folder.path(), &format!("{train} -o runs/b")).output().unwrap();
    assert!(
        String::from_utf8_lossy(&lost.stderr).contains("--source SPEC"),
        "{}",
        String::from_utf8_lossy(&lost.stderr)
    );
    run(folder.path(), &format!("{train} --source idx:moved -o runs/b"));
    let student = |run: &str| {
        std::fs::read(folder.path().join("runs").join(run).join("student.onnx")).unwrap()
    };
    assert!(student("resnet8") == student("b"), "where the images lie changes nothing");
    support::write_idx(&folder.path().join("other"), 41);
    let other =
        command(folder.path(), &format!("{train} --source idx:other -o runs/c")).output().unwrap();
    assert!(
        String::from_utf8_lossy(&other.stderr)
            .contains("expected the set that the cache was made of")
    );

    for (arguments, expected) in [
        ("extract teacher.onnx --data idx:data --views 2", "--augment crop-flip"),
        ("extract teacher.onnx --data idx:data --views 99 --augment crop-flip", "--views all"),
        (
            "extract teacher.onnx --data idx:data --views all --augment random-resized-crop",
            "--views N",
        ),
        ("extract teacher.onnx --data idx:data --views 0", "above 0"),
        ("extract teacher.onnx --data idx:data --mixup 0", "0.01 to 100"),
        ("extract teacher.onnx --data idx:data --color-jitter 1,2", "B,C,S"),
    ] {
        let output =
            command(folder.path(), &arguments.replace("idx:data", "idx:moved")).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(2) && stderr.contains(expected),
            "{arguments}: {stderr}"
        );
    }
}

/// ONNX Runtime's telemetry is off, and nothing is written but what the command names.
#[test]
fn nothing_is_written_outside_of_the_folders_that_are_named() {
    support::need_runtime();
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
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
        let output = command(&at("work"), line)
            // as a user's shell has it, who knows of none of this
            .env_remove("ORT_DISABLE_TELEMETRY")
            .env("HOME", at("home"))
            .env("XDG_CACHE_HOME", at("cache"))
            .env("XDG_CONFIG_HOME", at("config"))
            .env("TMPDIR", at("temporary"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
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
        let root = tempfile::tempdir().unwrap();
        let folder = root.path();
        support::write_teacher(&folder.join("teacher.onnx"));
        support::write_idx(&folder.join("data"), 32);
        let line = format!(
            "umask {mask}; N={}; $N -q extract teacher.onnx --data idx:data --preprocess \
             fashion-mnist -o out/kept && $N -q train resnet8 --cache out/kept --epochs 1 -o \
             out/run && $N -q cache export out/kept --npz out/kept.npz",
            env!("CARGO_BIN_EXE_nst-cache")
        );
        let output = Command::new("sh").current_dir(folder).args(["-c", &line]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
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
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
            let as_other = |line: &str| {
                let mut command = command(Path::new("/"), line);
                command.uid(65_534).gid(65_534).output()
            };
            let path = folder.join("out/kept").display().to_string();
            let Ok(read) = as_other(&format!("cache verify {path}")) else { continue };
            assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
            // a writer at work keeps the other user out, whose lock is a reader's
            let lock = nst_cache::storage::Lock::exclusive(&folder.join("out/kept")).unwrap();
            let refused = as_other(&format!("cache verify {path}")).unwrap();
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(refused.status.code() == Some(2) && said.contains("in use by pid"), "{said}");
            drop(lock);
            let refused = as_other(&format!("cache repair {path}")).unwrap();
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(refused.status.code() == Some(2) && said.contains("Permission"), "{said}");
            // a lock that cannot be opened is not a missing one
            let lock = folder.join("out/kept/.lock");
            std::fs::set_permissions(&lock, std::fs::Permissions::from_mode(0o600)).unwrap();
            let refused = as_other(&format!("cache verify {path}")).unwrap();
            assert_eq!(refused.status.code(), Some(2));
        }
    }
}

#[cfg(unix)]
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0)
}
