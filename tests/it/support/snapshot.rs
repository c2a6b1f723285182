//! Whole outputs of the program, held against files.

use super::{Sandbox, committed};

/// What differs from run to run or from machine to machine, and what stands for it.
const VOLATILE: &[(&str, &str)] = &[
    (r"(nst-cache|ONNX Runtime) \d+\.\d+\.\d+", "$1 [VERSION]"),
    (r"\b[0-9a-f]{64}\b", "[SHA256]"),
    (r"sha256 [0-9a-f]{12}…", "sha256 [SHA256]"),
    (r"\b[\d,.]+ [kKMGT]?B/s", "[RATE]"),
    (r"\b[\d,.]+ (\w+)/s", "[RATE] $1/s"),
    (r"\b\d+(\.\d+)? (ms|s|min|h)\b", "[TIME]"),
    // what a teacher computes, whose last digits are the processor's
    (r"(values up to|values down to|: value) [\d.e+-]+", "$1 [VALUE]"),
];

/// What is measured or computed in floats, where it is not the test's matter.
const MEASURED: &[(&str, &str)] = &[
    (r"\b\d+(\.\d+)? [kKMGT]?B\b", "[BYTES]"),
    (r"\b\d+(\.\d+)?x (below|smaller|larger)", "[RATIO]x $2"),
    (r"\b\d+\.\d+ %", "[SHARE]"),
    (r"\b(loss|ce|nst-poly) \d+\.\d+", "$1 [VALUE]"),
    (r"\d\.\d+e-\d+", "[VALUE]"),
    // the table of what each form takes: as measured from the column of the features on
    (r"(?m)^( (?:map1|map2|pooled)  +[\dx]+  +[\d,]+) .*$", "$1 [MEASURED]"),
    // tables are aligned by the width of such figures
    (r" {2,}", " "),
    (r"-{3,}:?", "---"),
    // a sweep's
    (r"\d+\.\d+ ± \d+\.\d+ \| (\d+) \|[^|]+\|[^|]+\|", "[SHARE] | $1 | [TIME] | [TIME] |"),
    (r"\| - \| - \| - \| - \|[^|]+\|", "| - | - | - | - | [TIME] |"),
];

/// Holds what was printed in a sandbox against `tests/it/snapshots/NAME.snap`.
///
/// `INSTA_UPDATE=always` writes the file; without it one that is missing or differs fails.
pub fn snapshot(name: &str, sandbox: &Sandbox, text: &str) {
    hold(name, sandbox, text, &[]);
}

/// The same without the figures that are measured.
pub fn measured(name: &str, sandbox: &Sandbox, text: &str) {
    hold(name, sandbox, text, MEASURED);
}

fn hold(name: &str, sandbox: &Sandbox, text: &str, more: &[(&str, &str)]) {
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (pattern, stand_in) in VOLATILE.iter().chain(more) {
        settings.add_filter(pattern, *stand_in);
    }
    let text = text
        .replace(&sandbox.display().to_string(), "[FOLDER]")
        .replace(&committed("").display().to_string(), "[REPOSITORY]/");
    settings.bind(|| insta::assert_snapshot!(name, text));
}
