//! `sweep`: each run is what `train` makes, finished runs are kept, interrupted ones resumed,
//! others refused, and a failure loses nothing else.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use crate::support::{self, Sandbox};

use nst_cache::storage::Lock;
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const RECIPE: &str = r#"
cache = "cache"
teacher = "teacher.onnx"
test = "folder:images"
students = ["lenet", "net"]
seeds = [0, 1]
epochs = 2
batch = 16

[[method]]
name = "CE"
[[method.criterion]]
method = "ce"

[[method]]
name = "KD+NST"
[[method.criterion]]
method = "kd"
weight = 0.9
[[method.criterion]]
method = "nst"
weight = 50
"#;
/// What one of the runs is, for `train`.
const ALONE: &str = r#"
test = "folder:images"
epochs = 2
batch = 16
[[criterion]]
method = "kd"
weight = 0.9
[[criterion]]
method = "nst"
weight = 50
"#;

/// A cache of 48 samples, a test set, a student of the user's own, and the recipe with `changes`.
fn prepare(folder: &Sandbox, changes: &[(&str, &str)]) {
    support::need_runtime();
    support::write_teacher(&folder.join("teacher.onnx"));
    support::write_idx(&folder.join("data"), 48);
    support::write_images_of(
        &folder.join("images"),
        20,
        &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
    );
    folder.succeeds("extract teacher.onnx --data idx:data --preprocess fashion-mnist -o cache");
    folder.succeeds("new lenet --classes 10 --input 1x28x28 -o net.onnx");
    folder.file("nst-cache.toml", "[students.net]\nmodel = \"net.onnx\"\n");
    write_recipe(folder, changes);
}

fn write_recipe(folder: &Sandbox, changes: &[(&str, &str)]) {
    let text = changes.iter().fold(RECIPE.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    });
    folder.file("small.toml", text);
}

fn student(folder: &Path, of: &str) -> Vec<u8> {
    std::fs::read(folder.join(of).join("student.onnx")).unwrap_or_else(|e| panic!("{of}: {e}"))
}

fn signal(child: &Child, name: &str) {
    Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_mins(2), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn every_run_is_what_train_makes_and_is_made_once() {
    let folder = &Sandbox::new();
    prepare(folder, &[]);

    let planned = folder.json("sweep small.toml --dry-run");
    assert_eq!(planned["runs"].as_array().unwrap().len(), 8);
    assert_eq!(
        (&planned["runs"][0]["state"], &planned["steps"]),
        (&Value::from("new"), &Value::from(6))
    );
    assert!(!folder.join("runs").exists(), "a dry run writes nothing");

    let table = folder.json("sweep small.toml --jobs 2 --memory 64 --threads 2");
    assert_eq!(table["failed"], serde_json::json!([]));
    let rows = table["rows"].as_array().unwrap();
    let names: Vec<_> = rows
        .iter()
        .map(|r| (r["student"].as_str().unwrap(), r["method"].as_str().unwrap()))
        .collect();
    assert_eq!(names, [("lenet", "CE"), ("lenet", "KD+NST"), ("net", "CE"), ("net", "KD+NST")]);
    let of = |seed: u64| {
        let runs = table["runs"].as_array().unwrap();
        let run = runs
            .iter()
            .find(|r| r["student"] == "net" && r["method"] == "CE" && r["seed"] == seed)
            .unwrap();
        run["top1"].as_f64().unwrap()
    };
    let mean = f64::midpoint(of(0), of(1));
    assert!((rows[2]["top1"]["mean"].as_f64().unwrap() - mean).abs() < 1e-9, "{table}");
    assert!(
        (rows[2]["top1"]["deviation"].as_f64().unwrap() - (of(0) - of(1)).abs() / 2f64.sqrt())
            .abs()
            < 1e-9,
        "{table}"
    );
    let teacher = folder.json("eval teacher.onnx --data folder:images --preprocess fashion-mnist");
    assert_eq!(table["teacher"]["top1"], teacher["top1"]);
    let (cost, share) = (
        table["teacher"]["seconds"].as_f64().unwrap(),
        table["teacher_seconds_per_run"].as_f64().unwrap(),
    );
    assert!(cost > 0.0 && (share * 8.0 - cost).abs() < 1e-9, "{table}");
    assert!((rows[2]["teacher_seconds"].as_f64().unwrap() - 2.0 * share).abs() < 1e-9, "{table}");
    let info = folder.json("cache info cache");
    assert_eq!(info["extraction_seconds"], table["teacher"]["seconds"]);

    // the same bits as a run by itself, on another number of threads
    folder.file("alone.toml", ALONE);
    folder.succeeds("train lenet --cache cache --recipe alone.toml --seed 1 --threads 1 -o alone");
    assert!(
        student(folder, "alone") == student(folder, "runs/small/lenet/KD+NST/seed-1"),
        "other bits than train"
    );
    assert!(student(folder, "alone") != student(folder, "runs/small/lenet/KD+NST/seed-0"));

    // again: nothing is made, the table is the same
    let record = folder.join("runs/small/net/CE/seed-0/run.json");
    let written = record.metadata().unwrap().modified().unwrap();
    assert_eq!(folder.json("sweep small.toml"), table);
    assert_eq!(record.metadata().unwrap().modified().unwrap(), written);
    let shown = folder.run("sweep small.toml").expect(0).stdout;
    assert_eq!(std::fs::read_to_string(folder.join("runs/small/table.md")).unwrap(), shown);
    assert!(
        shown.contains("| lenet")
            && shown.contains('±')
            && shown.contains("teacher.onnx (teacher)"),
        "{shown}"
    );

    // another seed adds to it
    write_recipe(folder, &[("seeds = [0, 1]", "seeds = [0, 1, 2]"), ("\"lenet\", ", "")]);
    let states = folder.json("sweep small.toml --dry-run");
    let of = |state: &str| {
        states["runs"].as_array().unwrap().iter().filter(|r| r["state"] == state).count()
    };
    assert_eq!((of("finished"), of("new")), (4, 2));
    assert_eq!(folder.json("sweep small.toml")["rows"][0]["runs"], 3);

    // runs of other settings are not passed off as these
    for (changes, expected) in [
        (("weight = 50", "weight = 25"), "recipe.criterion[1].weight 50.0, found 25.0"),
        (("batch = 16", "batch = 12"), "recipe.batch 16, found 12"),
    ] {
        write_recipe(folder, &[changes]);
        let message = folder.fails("sweep small.toml", 2);
        assert!(message.contains(expected) && message.contains("runs/small"), "{message}");
    }
}

#[test]
fn an_interrupted_sweep_goes_on_to_the_same_bits() {
    let folder = &Sandbox::new();
    let long = [
        ("epochs = 2", "epochs = 12"),
        ("[\"lenet\", \"net\"]", "[\"lenet\"]"),
        ("seeds = [0, 1]", "seeds = [0]"),
    ];
    prepare(folder, &long);
    folder.succeeds("sweep small.toml -o whole");

    // Ctrl-C where only the sweep gets the signal, then a kill that it cannot see
    let checkpoint =
        |of: &str| folder.join("parts/lenet").join(of).join("seed-0/checkpoint.safetensors");
    for (name, of) in [("-INT", "CE"), ("-KILL", "KD+NST")] {
        let mut sweep = folder
            .command("sweep small.toml -o parts")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("no checkpoint", || checkpoint(of).exists());
        signal(&sweep, name);
        let status = sweep.wait().unwrap();
        assert_eq!(status.code(), (name == "-INT").then_some(130));
        let of = folder.join(format!("parts/lenet/{of}/seed-0"));
        wait_until("the run outlives its sweep", || Lock::writer(&of).unwrap().is_none());
        let state = folder.json("sweep small.toml -o parts --dry-run")["runs"]
            [usize::from(name == "-KILL")]["state"]
            .clone();
        assert_eq!(state, "begun", "{name}");
    }
    folder.succeeds("sweep small.toml -o parts");
    for of in ["CE", "KD+NST"] {
        let path = |output: &str| format!("{output}/lenet/{of}/seed-0");
        assert!(
            student(folder, &path("parts")) == student(folder, &path("whole")),
            "{of}: other bits after the interruption"
        );
    }
}

#[test]
fn a_run_that_fails_loses_no_other() {
    let folder = &Sandbox::new();
    prepare(folder, &[]);
    // where two runs' messages should go there is a folder
    let place = folder.join("runs/small/net/CE");
    let logs = [place.join("seed-0.log"), place.join("seed-1.log")];
    for log in &logs {
        std::fs::create_dir_all(log).unwrap();
    }
    let output = folder.run("sweep small.toml --jobs 2 --json").expect(1);
    output.says(&["2 of 8 runs failed", "expected a regular file"]);
    let table = output.json();
    let failed = table["failed"].as_array().unwrap();
    assert_eq!((table["runs"].as_array().unwrap().len(), failed.len()), (6, 2));
    let said = failed.iter().find(|f| f["seed"] == 1).unwrap();
    assert!(
        said["error"].as_str().unwrap().contains("seed-1")
            && said["log"].as_str().unwrap().ends_with("seed-1.log"),
        "{said}"
    );
    assert!(
        std::fs::read_to_string(folder.join("runs/small/table.md"))
            .unwrap()
            .contains("failed: net, CE, seed 1")
    );

    for log in &logs {
        std::fs::remove_dir(log).unwrap();
    }
    assert_eq!(folder.json("sweep small.toml")["failed"], serde_json::json!([]));
}

#[test]
fn what_cannot_be_made_is_refused_before_the_first_run() {
    let folder = &Sandbox::new();
    prepare(folder, &[]);
    for (changes, expected) in [
        (("\"net\"", "\"resnet9\""), "resnet9"),
        (("\"net\"", "\"a/lenet.onnx\""), "lenet twice"),
        (("weight = 50", "pairs = [{ teacher = \"map7\", student = \"x\" }]"), "map7"),
        (("\"teacher.onnx\"", "\"net.onnx\""), "expected the one that made the cache"),
        (("\"cache\"", "\"nowhere\""), "nowhere"),
        (("seeds", "seed"), "seed"),
    ] {
        write_recipe(folder, &[changes]);
        let message = folder.fails("sweep small.toml", 2);
        assert!(message.contains(expected), "{expected}: {message}");
        assert!(
            message.trim_end().lines().filter(|l| !l.starts_with("note")).count() <= 6,
            "{message}"
        );
        assert!(!folder.join("runs").exists(), "{expected}");
    }
    write_recipe(folder, &[]);
    folder.fails("sweep small.toml --jobs 0", 2);
    folder.fails("sweep small.toml --memory -1", 2);
}
