//! `bench criteria`: what each criterion takes in a process of its own. Neuron selectivity transfer
//! is held to a gigabyte at a size whose `[batch, channels, channels, positions]` tensor would take
//! 17 GB three times over.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use serde_json::Value;
use std::process::Command;

fn bench(arguments: &str) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nst-cache"));
    let output = command
        .args(["bench", "criteria"])
        .args(arguments.split(' '))
        .args(["--json", "--quiet"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{arguments}: {e}"))
}

#[test]
fn large_maps_take_less_than_a_gigabyte() {
    for kernel in ["linear", "poly", "gauss"] {
        let row = bench(&format!("nst-{kernel} --pair wide --batch 64 --warmup 0 --steps 1"));
        let (loss, peak) = (row["loss"].as_f64().unwrap(), row["peak_rss_mb"].as_f64().unwrap());
        assert!(loss > 0.0, "{row}");
        // student, teacher and gradient alone are 160 MB
        assert!(peak > 160.0 && peak * f64::from(1 << 20) < 1e9, "{row}");
        assert!(row["baseline_mb"].as_f64().unwrap() < peak, "{row}");
    }
}

#[test]
fn several_criteria_are_measured_one_process_each() {
    // FSP asks for the same channels: it is left out
    let rows = bench(
        "kd fsp sp at:p=2,weight=3 --pair wrn-40-2-wrn-40-1 --batch 3 --warmup 0 --steps 1 \
         --threads 1",
    );
    let names: Vec<&str> =
        rows.as_array().unwrap().iter().map(|row| row["criterion"].as_str().unwrap()).collect();
    assert_eq!(names, ["kd", "sp", "at"]);
    let alone = bench("at --pair wrn-40-2-wrn-40-1 --batch 3 --warmup 0 --steps 1 --threads 1");
    // unweighted, and of the same tensors
    assert_eq!(alone["loss"], rows[2]["loss"]);
    assert_eq!(
        (&alone["batch"], &alone["pair"]),
        (&Value::from(3), &Value::from("wrn-40-2-wrn-40-1"))
    );
}
