//! The benchmarks: what each criterion takes in a process of its own, and what is refused. Neuron
//! selectivity transfer is held to a gigabyte at a size whose `[batch, channels, channels,
//! positions]` tensor would take 17 GB three times over.

#![cfg(target_os = "linux")]

#[path = "../../benches/peers/summary.rs"]
mod summary;

use crate::support::{PROGRAM, Ran, committed};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use summary::{Summary, summary};

/// The program of the benchmarks. `cargo test` builds it beside the tests, `cargo test --test it`
/// doesn't; and one that was built before the last change would say nothing.
static BENCH: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(PROGRAM).parent().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--example", "bench"]).current_dir(committed(""));
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success(), "the benchmarks cannot be built");
    folder.join("examples/bench")
});

fn criteria(line: &str) -> Ran {
    let mut command = Command::new(&*BENCH);
    command.args(["criteria", "--json", "--quiet"]).args(line.split_whitespace());
    Ran::new(line, command.output().unwrap())
}

#[test]
fn large_maps_take_less_than_a_gigabyte() {
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
