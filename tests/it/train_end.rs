//! The end of a run: the check of the exported student, what is kept where it fails or the run has
//! diverged, and runs that go on beyond their end.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use crate::support::Sandbox;
use serde_json::{Value, json};
use std::path::Path;

const TRAIN: &str = "train resnet8 --data idx:data --batch 16 --device cpu";

/// A folder with data and a recipe of a constant schedule.
fn prepared() -> Sandbox {
    let folder = Sandbox::with_runtime().data(48);
    folder.file("constant.toml", "[schedule]\nkind = \"constant\"\nwarmup-epochs = 0.5\n");
    folder
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_check_says_by_what_it_judges_and_fails_again_where_it_failed() {
    let folder = &prepared();
    let line = format!("{TRAIN} --epochs 1 -o run");
    let said = folder.succeeds(&line);
    assert!(said.contains("parity max"), "{said}");
    let path = folder.join("run/run.json");
    let mut report = read(&path);
    let parity = &report["parity"];
    let error = &parity["float32_error"];
    let within = |value: &Value| (0.0..1e-3).contains(&value.as_f64().unwrap());
    assert!(within(&error["trainer"]) && within(&error["runtime"]), "{parity}");
    assert_eq!((&error["samples"], &parity["samples"]), (&json!(16), &json!(48)), "{parity}");
    assert_eq!(parity["decisions"]["clear"], parity["decisions"]["same"], "{parity}");

    report["parity"]["max_relative"] = json!(0.5);
    std::fs::write(&path, report.to_string()).unwrap();
    for _ in 0..2 {
        let said = folder.fails(&line, 1);
        assert!(said.contains("parity max") && said.contains("found 5.0e-1"), "{said}");
    }
    assert!(folder.join("run/student.onnx").exists());
}

#[test]
fn a_run_that_has_diverged_says_so_and_keeps_its_report() {
    let folder = &prepared();
    // one step, whose loss is still finite
    let line = format!("{TRAIN} --epochs 1 --limit 16 --lr 1e30 --test idx:data:train -o run");
    for _ in 0..2 {
        let said = folder.succeeds(&line);
        assert!(said.contains("the run has diverged"), "{said}");
    }
    let parity = &read(&folder.join("run/run.json"))["parity"];
    assert!(parity["diverged"].as_u64().unwrap() > 0, "{parity}");
}

#[test]
fn an_extended_run_is_the_whole_run() {
    let folder = &prepared();
    let train = |epochs: usize, rest: &str| {
        format!("{TRAIN} --recipe constant.toml --epochs {epochs} {rest}")
    };
    let student = |name: &str| std::fs::read(folder.join(name).join("student.onnx")).unwrap();
    folder.succeeds(&train(3, "-o whole"));
    folder.succeeds(&train(1, "-o short"));

    // nobody asked for it yet
    let said = folder.fails(&train(3, "-o short"), 2);
    assert!(
        said.contains("holds a run with recipe.epochs 1") && said.contains("--resume"),
        "{said}"
    );

    for (name, killed) in [("extended", false), ("killed", true)] {
        std::fs::create_dir(folder.join(name)).unwrap();
        for entry in std::fs::read_dir(folder.join("short")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.join(name).join(entry.file_name())).unwrap();
        }
        if killed {
            // after its settings were written and before its first checkpoint
            std::fs::remove_file(folder.join(name).join("run.json")).unwrap();
            let settings = folder.join(name).join("settings.json");
            std::fs::copy(folder.join("whole/settings.json"), settings).unwrap();
        } else {
            folder.succeeds(&train(2, &format!("-o {name} --resume")));
        }
        let said = folder.succeeds(&train(3, &format!("-o {name} --resume")));
        assert!(said.contains("resuming at epoch"), "{said}");
        assert!(student(name) == student("whole"), "{name}: other weights");
        let report = read(&folder.join(name).join("run.json"));
        assert_eq!(report["settings"]["recipe"]["epochs"], 3);
        assert_eq!(report["loss"], read(&folder.join("whole/run.json"))["loss"], "{name}");
    }
    // back again is another run
    folder.fails(&train(1, "-o extended --resume"), 2);
}

#[test]
fn a_run_whose_schedule_knew_its_end_is_not_extended() {
    let folder = &prepared();
    folder.succeeds(&format!("{TRAIN} --epochs 1 -o run"));
    let said = folder.fails(&format!("{TRAIN} --epochs 2 --resume -o run"), 2);
    for part in ["a cosine schedule", "its end at epoch 1", "1 more epochs", "another -o"] {
        assert!(said.contains(part), "lacks `{part}`: {said}");
    }
    folder.succeeds(&format!("{TRAIN} --epochs 1 -o run"));
}

#[test]
fn parameters_of_their_own_train_otherwise_and_are_there() {
    let folder = &prepared();
    let train = |lr: f64, optimizer: &str, name: &str| {
        let recipe = format!(
            "epochs = 1\nbatch = 16\n[optimizer]\nkind = \"sgd\"\nlr = {lr:.2}\n\
             weight-decay = 0.1\n{optimizer}"
        );
        std::fs::write(folder.join(format!("{name}.toml")), recipe).unwrap();
        folder.run(&format!("{TRAIN} --recipe {name}.toml -o {name}"))
    };
    let apart = "no-decay = [\"norm\"]\n";
    let still = "[[optimizer.group]]\npattern = \"*\"\nlr-factor = 0\n";
    for (lr, optimizer, name) in
        [(0.05, "", "plain"), (0.05, apart, "apart"), (0.05, still, "still"), (0.0, "", "zero")]
    {
        train(lr, optimizer, name).expect(0);
    }
    let loss = |name: &str| read(&folder.join(name).join("run.json"))["loss"].clone();
    assert_ne!(loss("plain"), loss("apart"));
    assert_ne!(loss("plain"), loss("still"));
    assert_eq!(loss("still"), loss("zero"));

    let said = train(0.05, "no-decay = [\"*.nothing\"]\n", "wrong").expect(2).text();
    assert!(said.contains("optimizer.no-decay") && said.contains("`*.nothing`"), "{said}");
    assert!(!folder.join("wrong").exists());
}
