//! The architecture, read from the code: which module names which, no circles, and which crate is
//! confined where. ARCHITECTURE.md has the table of layers that comes out.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Folders that stay apart whatever stands below them: the cache is the bridge between the
/// teacher's runtime and the student.
const APART: &[[&str; 2]] = &[
    ["extract", "student"],
    ["extract", "train"],
    ["extract", "trainer"],
    ["train", "extract"],
    ["trainer", "extract"],
    ["trainer", "runtime"],
    ["trainer", "evaluate"],
    ["cache", "runtime"],
    ["cache", "student"],
    ["onnx", "runtime"],
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
    // `train` compares the trainer's tensors with ONNX Runtime's: the parity check
    ("candle_core", &["tensor", "student", "criterion", "trainer", "train", "error"]),
    ("candle_nn", &["student", "criterion", "trainer"]),
    ("gemm", &["kernel"]),
    ("pulp", &["kernel"]),
    ("image", &["data"]),
    ("prost", &["onnx"]),
];

/// Source files by the path of their module (`a::b`), with their code: comments, and tests at the
/// end of the file, left out.
fn sources() -> BTreeMap<String, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let module = |path: &PathBuf| {
        let relative = path.strip_prefix(&src).unwrap().with_extension("");
        let mut parts: Vec<String> =
            relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        parts.pop_if(|last| last == "mod");
        parts.join("::")
    };
    let code = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let lines: Vec<&str> =
            text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        lines.join("\n")
    };
    let is_source =
        |module: &String| !matches!(module.as_str(), "lib" | "main") && !module.ends_with("tests");
    files
        .iter()
        .map(|path| (module(path), code(path)))
        .filter(|(module, _)| is_source(module))
        .collect()
}

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

/// The paths that code names: those of `use`, groups opened, and others that begin at `crate` or
/// `super`.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = String::new();
    let mut statement: Option<String> = None;
    for line in code.lines() {
        let words = line.trim_start();
        let after_visibility = match words.strip_prefix("pub") {
            Some(after) if after.starts_with('(') => {
                after.split_once(')').map_or("", |(_, after)| after).trim_start()
            }
            Some(after) => after.trim_start(),
            None => words,
        };
        if statement.is_none() && after_visibility.starts_with("use ") {
            statement = Some(String::new());
        }
        let Some(text) = &mut statement else {
            rest.push_str(line);
            rest.push('\n');
            continue;
        };
        text.push_str(if text.is_empty() { &after_visibility["use ".len()..] } else { words });
        if let Some(whole) = text.strip_suffix(';') {
            found.extend(opened(whole));
            statement = None;
        }
    }
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    for root in ["crate::", "super::"] {
        for (at, _) in rest.match_indices(root) {
            let begins = !rest[..at].ends_with(|c| is_name(c) || c == ':');
            let end = rest[at..].find(|c| !is_name(c) && c != ':').unwrap_or(rest.len() - at);
            found.extend(begins.then(|| rest[at..at + end].trim_end_matches(':').to_owned()));
        }
    }
    found
}

/// `a::{b, c::{d, self}}` as `a::b`, `a::c::d`, `a::c`.
fn opened(tree: &str) -> Vec<String> {
    let Some((before, group)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap_or_default().trim();
        return vec![name.strip_suffix("::self").unwrap_or(name).to_owned()];
    };
    let group = &group[..group.rfind('}').unwrap_or(group.len())];
    let mut parts = vec![String::new()];
    let mut depth = 0usize;
    for c in group.chars() {
        match c {
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        parts.last_mut().unwrap().push(c);
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.flat_map(|part| opened(&format!("{}{part}", before.trim()))).collect()
}

/// The file that a path leads to: the deepest module on it.
fn target<'a>(files: &'a BTreeMap<String, String>, from: &str, path: &str) -> Option<&'a str> {
    let mut base: Vec<&str> = from.split("::").collect();
    let mut names = path.split("::").peekable();
    match names.peek().copied()? {
        "crate" => {
            base.clear();
            names.next();
        }
        "self" => {
            names.next();
        }
        "super" => {
            while names.next_if_eq(&"super").is_some() {
                base.pop();
            }
        }
        _ => {}
    }
    let mut found = None;
    for name in names {
        base.push(name);
        match files.get_key_value(&base.join("::")) {
            Some((module, _)) => found = Some(module.as_str()),
            None => break,
        }
    }
    found
}

/// Whom each file names. What stands above or below in the same folders is left out: a module is
/// its files.
fn imports(files: &BTreeMap<String, String>) -> BTreeMap<&str, BTreeSet<&str>> {
    let is_within = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let of = |(module, code): (&'_ String, &String)| {
        let named = paths(code)
            .into_iter()
            .filter_map(|path| target(files, module, &path))
            .collect::<BTreeSet<_>>();
        named
            .into_iter()
            .filter(|other| !is_within(other, module) && !is_within(module, other))
            .collect()
    };
    files.iter().map(|(module, code)| (module.as_str(), of((module, code)))).collect()
}

/// Nodes that reach each other, each group once.
fn circles<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<BTreeSet<&'a str>> {
    let reached = |from: &'a str| {
        let mut found: BTreeSet<&str> = BTreeSet::new();
        let mut open = vec![from];
        while let Some(next) = open.pop() {
            open.extend(edges.get(next).into_iter().flatten().filter(|name| found.insert(name)));
        }
        found
    };
    let all: BTreeMap<&str, BTreeSet<&str>> =
        edges.keys().map(|&name| (name, reached(name))).collect();
    let circle = |name: &&'a str| {
        let mutual = all[name]
            .iter()
            .filter(|other| all.get(*other).is_some_and(|back| back.contains(name)));
        mutual.copied().collect::<BTreeSet<&str>>()
    };
    edges.keys().map(circle).filter(|circle| !circle.is_empty()).collect()
}

/// The folders of `src`, with those that each names.
fn layers(files: &BTreeMap<String, String>) -> BTreeMap<&str, BTreeSet<&str>> {
    let folder = |module: &'_ str| -> usize { module.find("::").unwrap_or(module.len()) };
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (module, named) in imports(files) {
        let own = &module[..folder(module)];
        let others =
            named.into_iter().map(|name| &name[..folder(name)]).filter(|&name| name != own);
        found.entry(own).or_default().extend(others);
    }
    found
}

/// How far above the ground each folder stands: above all that it names.
fn levels<'a>(layers: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeMap<&'a str, usize> {
    let mut levels: BTreeMap<&str, usize> = BTreeMap::new();
    while levels.len() < layers.len() {
        let ready = layers.iter().filter(|(name, named)| {
            !levels.contains_key(*name) && named.iter().all(|name| levels.contains_key(name))
        });
        let placed: Vec<(&str, usize)> = ready
            .map(|(&name, named)| {
                (name, named.iter().map(|name| levels[name] + 1).max().unwrap_or(0))
            })
            .collect();
        assert!(!placed.is_empty(), "folders that name each other: {:?}", circles(layers));
        levels.extend(placed);
    }
    levels
}

/// The first sentence of a folder's documentation.
fn purpose(folder: &str) -> String {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let text = std::fs::read_to_string(src.join(format!("{folder}.rs")))
        .or_else(|_| std::fs::read_to_string(src.join(folder).join("mod.rs")));
    let text = text.unwrap();
    let lines: Vec<&str> = text
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let text = lines.join(" ");
    text.split_once(". ").map_or(text.clone(), |(first, _)| format!("{first}."))
}

/// The table of ARCHITECTURE.md.
fn table(files: &BTreeMap<String, String>) -> String {
    let layers = layers(files);
    let levels = levels(&layers);
    let mut rows: Vec<(usize, &str)> = levels.iter().map(|(&name, &level)| (level, name)).collect();
    rows.sort_by_key(|&(level, name)| (std::cmp::Reverse(level), name));
    let row = |(level, name): (usize, &str)| {
        let named: Vec<String> = layers[name].iter().map(|name| format!("`{name}`")).collect();
        format!("| {level} | `{name}` | {} | {} |\n", purpose(name), named.join(", "))
    };
    let head = "| level | folder | what it is | names |\n|---|---|---|---|\n".to_owned();
    rows.into_iter().map(row).fold(head, |all, row| all + &row)
}

#[test]
fn no_files_name_each_other() {
    let files = sources();
    let found = circles(&imports(&files));
    assert!(found.is_empty(), "circles of files: {found:#?}");
}

/// A change of layers is a change of the document. `UPDATE=1` writes it.
#[test]
fn the_document_has_the_layers_of_the_code() {
    const MARKS: [&str; 2] =
        ["<!-- layers: from the code, by tests/it/architecture.rs -->\n", "<!-- /layers -->"];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(MARKS[0]).unwrap();
    let (found, after) = rest.split_once(MARKS[1]).unwrap();
    let expected = table(&sources());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, [before, MARKS[0], &expected, MARKS[1], after].concat()).unwrap();
        return;
    }
    assert!(
        found == expected,
        "ARCHITECTURE.md has other layers than the code (UPDATE=1 writes them):\n{expected}"
    );
}

#[test]
fn teacher_and_student_meet_in_the_cache_alone() {
    let files = sources();
    let layers = layers(&files);
    for [folder, other] in APART {
        assert!(!layers[folder].contains(other), "`{folder}` names `{other}`");
    }
}

#[test]
fn outside_crates_stay_where_they_belong() {
    let mut breaches = Vec::new();
    for (module, code) in sources() {
        let folder = module.split("::").next().unwrap_or_default();
        for (name, homes) in CONFINED {
            let path = format!("{name}::");
            let named = code.match_indices(&path).any(|(at, _)| {
                !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
            });
            if named && !homes.contains(&folder) {
                breaches
                    .push(format!("{module} names the crate `{name}`, which belongs to {homes:?}"));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn no_source_file_has_outgrown_its_purpose() {
    let long = sources().into_iter().filter(|(_, code)| code.lines().count() > 600);
    let long: Vec<String> =
        long.map(|(module, code)| format!("{module}: {} lines", code.lines().count())).collect();
    assert!(long.is_empty(), "files over 600 lines of code: {}", long.join(", "));
}

#[test]
fn the_scan_sees_groups_and_single_paths() {
    let code = "pub(super) use crate::{cache::{Manifest, self},\n    data as d};\nuse \
                super::x;\nlet y = crate::trainer::order();";
    assert_eq!(
        paths(code),
        [
            "crate::cache::Manifest",
            "crate::cache",
            "crate::data",
            "super::x",
            "crate::trainer::order"
        ]
    );
    let files =
        BTreeMap::from(["a", "a::b", "a::b::c", "d"].map(|name| (name.to_owned(), String::new())));
    assert_eq!(target(&files, "a::b", "super::super::d::Type"), Some("d"));
    assert_eq!(target(&files, "a::b", "crate::a::b::c::Type"), Some("a::b::c"));
    assert_eq!(target(&files, "a::b", "c::f"), Some("a::b::c"));
    assert_eq!(target(&files, "a::b", "std::fs"), None);
    let edges = BTreeMap::from([
        ("a", BTreeSet::from(["b"])),
        ("b", BTreeSet::from(["a", "c"])),
        ("c", BTreeSet::new()),
    ]);
    assert_eq!(circles(&edges), BTreeSet::from([BTreeSet::from(["a", "b"])]));
}
