//! `make conformance`: every reference case in the folders named by `NST_STUDENTS` and
//! `NST_CRITERIA` against our implementation, one line a case, and a closing count; the exit status
//! is 1 if a case fails or is not supported. `NST_EXECUTOR` chooses who runs the students: cpu (the
//! default), general or candle. Without the variables the few committed cases of `tests/data` are
//! checked, as part of `make test`.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program whose output is these lines"
)]
#![allow(
    clippy::neg_cmp_op_on_partial_ord,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "NaN is to count as a failure; labels and counts are small"
)]

mod criteria;
mod students;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What came of one case.
pub enum Outcome {
    /// Measured: the largest error as a share of its tolerance decides.
    Measured {
        /// The worst quantity's error …
        error: f64,
        /// … and its tolerance.
        tolerance: f64,
        /// Which quantity it is.
        what: String,
    },
    /// Not built yet.
    NotSupported(String),
    /// It could not be run.
    Failed(String),
}

#[derive(Default)]
struct Count {
    ok: usize,
    failed: usize,
    unsupported: usize,
}

impl Count {
    fn add(&mut self, name: &str, outcome: &Outcome) {
        match outcome {
            Outcome::Measured { error, tolerance, what } if error <= tolerance => {
                self.ok += 1;
                println!("{name:<60} {error:9.2e}  {tolerance:9.2e}  ok  {what}");
            }
            Outcome::Measured { error, tolerance, what } => {
                self.failed += 1;
                println!("{name:<60} {error:9.2e}  {tolerance:9.2e}  FAILS  {what}");
            }
            Outcome::NotSupported(reason) => {
                self.unsupported += 1;
                println!("{name:<60} {:>9}  {:>9}  not supported  {reason}", "-", "-");
            }
            Outcome::Failed(reason) => {
                self.failed += 1;
                println!("{name:<60} {:>9}  {:>9}  FAILS  {reason}", "-", "-");
            }
        }
    }
}

/// The folder's files with this extension, sorted. A folder that is not there ends the program with
/// status 2; an empty one is 0 cases.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        eprintln!("error: {}: no such folder", folder.display());
        std::process::exit(2);
    };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    files
}

fn folder(variable: &str, committed: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(committed),
        PathBuf::from,
    )
}

fn main() -> ExitCode {
    let mut count = Count::default();
    for graph in files(&folder("NST_STUDENTS", "students"), "onnx") {
        for (name, outcome) in students::check(&graph) {
            count.add(&name, &outcome);
        }
    }
    for case in files(&folder("NST_CRITERIA", "criteria"), "safetensors") {
        let name = case.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        count.add(&name, &criteria::check(&case));
        if let Some(outcome) = criteria::check_statistics(&case) {
            count.add(&format!("{name} (from statistics)"), &outcome);
        }
    }
    println!("{} ok, {} failed, {} not supported", count.ok, count.failed, count.unsupported);
    if count.failed + count.unsupported > 0 { ExitCode::from(1) } else { ExitCode::SUCCESS }
}
