//! The benchmarks, with `NST_SLOW` (a program to link): what each criterion takes in a process of
//! its own, and what is refused. Neuron selectivity transfer is held to a gigabyte at a size whose
//! `[batch, channels, channels, positions]` tensor would take 17 GB three times over.

#![cfg(target_os = "linux")]

#[path = "../../benches/peers/summary.rs"]
mod summary;

use crate::support::{PROGRAM, Ran, committed, is_slow};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use summary::{Summary, summary};

/// The program of the benchmarks, which `cargo test` doesn't build.
static BENCH: LazyLock<PathBuf> = LazyLock::new(|| {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "--locked", "--bench", "peers", "--message-format", "json"])
        .current_dir(committed(""));
    if Path::new(PROGRAM).parent().unwrap().ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo.output().unwrap();
    assert!(built.status.success(), "the benchmarks cannot be built");
    let artifacts = String::from_utf8(built.stdout).unwrap();
    let bench = artifacts
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|artifact| artifact["target"]["kind"] == json!(["bench"]))
        .expect("the bench target");
    PathBuf::from(bench["executable"].as_str().unwrap())
});

fn criteria(line: &str) -> Ran {
    let mut command = Command::new(&*BENCH);
    command.args(["criteria", "--json", "--quiet"]).args(line.split_whitespace());
    Ran::new(line, command.output().unwrap())
}

#[test]
fn large_maps_take_less_than_a_gigabyte() {
    if !is_slow() {
        return;
    }
    for kernel in ["linear", "poly", "gauss"] {
        let line = format!("nst-{kernel} --pair wide --batch 64 --warmup 0 --steps 1");
        let row = criteria(&line).expect(0).json();
        let (loss, peak) = (row["loss"].as_f64().unwrap(), row["peak_rss_mb"].as_f64().unwrap());
        assert!(loss > 0.0, "{row}");
        // student, teacher and gradient alone are 160 MB
        assert!(peak > 160.0 && peak * f64::from(1 << 20) < 1e9, "{row}");
        assert!(row["baseline_mb"].as_f64().unwrap() < peak, "{row}");
    }
}

#[test]
fn several_criteria_are_measured_one_process_each() {
    if !is_slow() {
        return;
    }
    let shapes = "--pair wrn-40-2-wrn-40-1 --batch 3 --warmup 0 --steps 1 --threads 1";
    // FSP asks for the same channels: it is left out
    let rows = criteria(&format!("kd fsp sp at:p=2,weight=3 {shapes}")).expect(0).json();
    let names: Vec<&str> =
        rows.as_array().unwrap().iter().map(|row| row["criterion"].as_str().unwrap()).collect();
    assert_eq!(names, ["kd", "sp", "at"]);
    let alone = criteria(&format!("at {shapes}")).expect(0).json();
    // unweighted, and of the same tensors
    assert_eq!(alone["loss"], rows[2]["loss"]);
    assert_eq!(
        (&alone["batch"], &alone["pair"]),
        (&Value::from(3), &Value::from("wrn-40-2-wrn-40-1"))
    );
}

#[test]
fn what_cannot_be_measured_is_refused() {
    if !is_slow() {
        return;
    }
    criteria("nosuch").expect(2).says(&["nosuch", "kd"]);
    criteria("kd at --save x.safetensors").expect(2).says(&["--save", "expected one criterion"]);
    criteria("fsp --pair wide").expect(2).says(&["fsp", "two layers"]);
}

#[test]
fn medians_by_hand() {
    let found = summary((1..=10).rev().map(f64::from).collect());
    let expected = Summary { median: 5.5, p10: 2.0, p90: 10.0 };
    assert_eq!(found, expected);
    assert!((summary::median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-12);
    assert!((summary(vec![7.0]).median - 7.0).abs() < 1e-12);
}
