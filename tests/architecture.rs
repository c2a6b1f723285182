//! The layers of ARCHITECTURE.md, enforced: which module may name which, and which crate is confined where.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::{Path, PathBuf};

/// Each module with the modules of this crate that it may name. What is not listed is a breach.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("array", &["error"]),
    ("error", &[]),
    ("monitor", &["error"]),
    ("recipe", &["array", "error"]),
    ("onnx", &["array", "error", "recipe"]),
    ("data", &["array", "error", "monitor", "onnx", "recipe"]),
    ("kernel", &["error"]),
    ("cache", &["array", "data", "error", "monitor", "onnx", "recipe"]),
    ("runtime", &["array", "error", "monitor", "onnx", "recipe"]),
    ("statistic", &["array", "error", "kernel", "recipe"]),
    ("student", &["array", "error", "kernel", "onnx", "recipe"]),
    ("criterion", &["array", "error", "kernel", "recipe", "statistic"]),
    ("extract", &["array", "cache", "criterion", "data", "error", "monitor", "onnx", "recipe", "runtime", "statistic"]),
    ("train", &["array", "cache", "criterion", "data", "error", "kernel", "monitor", "onnx", "recipe", "statistic", "student"]),
    ("report", &["array", "cache", "error", "extract", "recipe", "train"]),
    (
        "cli",
        &[
            "array",
            "cache",
            "criterion",
            "data",
            "error",
            "extract",
            "kernel",
            "monitor",
            "onnx",
            "recipe",
            "report",
            "runtime",
            "statistic",
            "student",
            "train",
        ],
    ),
];

/// Crates that only some modules may name.
const CONFINED: &[(&str, &[&str])] = &[
    ("ort", &["runtime"]),
    ("libloading", &["runtime"]),
    ("memmap2", &["cache"]),
    ("zstd", &["cache"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("indicatif", &["cli"]),
    ("comfy_table", &["cli"]),
    ("ctrlc", &["cli"]),
    ("tracing_subscriber", &["cli"]),
    // `cli` compares the trainer's tensors with ONNX Runtime's: the parity check
    ("candle_core", &["student", "criterion", "train", "error", "cli"]),
    ("candle_nn", &["student", "criterion", "train"]),
    ("gemm", &["kernel"]),
    ("pulp", &["kernel"]),
    ("image", &["data"]),
    ("prost", &["onnx"]),
];

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// Every source file with its module and its code: comments, and tests at the end of the file, left out.
fn sources() -> Vec<(PathBuf, String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    files
        .into_iter()
        .filter_map(|path| {
            let relative = path.strip_prefix(&src).unwrap().to_path_buf();
            let first = relative.components().next()?.as_os_str().to_string_lossy().into_owned();
            let module = first.trim_end_matches(".rs").to_string();
            if matches!(module.as_str(), "lib" | "main") {
                return None;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_string();
            let code: Vec<&str> = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
            Some((relative, module, code.join("\n")))
        })
        .collect()
}

/// The first names of all paths that start with `crate::`, groups (`crate::{a, b::c}`) included.
fn crate_paths(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0usize;
            let mut start = true;
            let mut name = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        names.push(std::mem::take(&mut name));
                        start = true;
                    }
                    c if start && depth == 0 && (c.is_alphanumeric() || c == '_') => name.push(c),
                    ':' => start = false,
                    _ => {}
                }
            }
            names.push(name);
        } else {
            names.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    names.retain(|n| !n.is_empty());
    names
}

#[test]
fn modules_name_only_what_stands_below_them() {
    let mut breaches = Vec::new();
    for (file, module, code) in sources() {
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            breaches.push(format!("{}: module `{module}` has no place in the layers", file.display()));
            continue;
        };
        for name in crate_paths(&code) {
            if name != module && !allowed.contains(&name.as_str()) {
                breaches.push(format!("{}: `{module}` names `crate::{name}`", file.display()));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn outside_crates_stay_where_they_belong() {
    let mut breaches = Vec::new();
    for (file, module, code) in sources() {
        for (name, homes) in CONFINED {
            let path = format!("{name}::");
            let named = code.match_indices(&path).any(|(at, _)| {
                let before = code[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
            });
            if named && !homes.contains(&module.as_str()) {
                breaches.push(format!("{}: `{module}` names the crate `{name}`, which belongs to {homes:?}", file.display()));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn the_scan_sees_groups_and_single_paths() {
    let code = "use crate::{cache::{Manifest, Segment}, data, error::Result};\nlet x = crate::train::order();";
    assert_eq!(crate_paths(code), ["cache", "data", "error", "train"]);
}

#[test]
fn no_source_file_has_outgrown_its_purpose() {
    let long: Vec<String> = sources()
        .into_iter()
        .filter_map(|(file, _, code)| {
            let lines = code.lines().count();
            (lines > 600).then(|| format!("{}: {lines} lines", file.display()))
        })
        .collect();
    assert!(long.is_empty(), "files over 600 lines of code: {}", long.join(", "));
}
