//! What of a folder has to be equal: all bytes of a cache, and of a run all but its times.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Files by their path below a folder; folders have none.
pub type Tree = BTreeMap<String, Option<Vec<u8>>>;

/// Files that are about a folder and not in it: who holds it, and what it took.
fn is_aside(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    matches!(name, ".lock" | "extraction.json")
}

/// Whether a file is what a sweep's run has said.
pub fn is_log(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|ending| ending == "log")
}

/// Everything below a folder; what is neither file nor folder as `kind of file`.
pub fn everything(folder: &Path) -> Tree {
    fn walk(folder: &Path, prefix: &str, into: &mut Tree) {
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        for entry in entries.map(|entry| entry.unwrap()) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if kind.is_dir() {
                walk(&path, &format!("{name}/"), into);
                into.insert(name, None);
            } else {
                let bytes = if kind.is_file() {
                    std::fs::read(&path).unwrap()
                } else {
                    format!("{kind:?}").into_bytes()
                };
                into.insert(name, Some(bytes));
            }
        }
    }
    let mut tree = Tree::new();
    walk(folder, "", &mut tree);
    tree
}

/// The files of a cache that say what it is.
pub fn cache(folder: &Path) -> Tree {
    let mut tree = everything(folder);
    tree.retain(|path, bytes| bytes.is_some() && !is_aside(path));
    tree
}

/// The files of a run, or of a sweep and its runs, without what is measured by the clock.
pub fn runs(folder: &Path) -> Tree {
    let mut tree = everything(folder);
    tree.retain(|path, bytes| bytes.is_some() && !is_aside(path));
    for (path, bytes) in &mut tree {
        let name = path.rsplit('/').next().unwrap_or_default();
        *bytes = bytes.take().map(|bytes| match name {
            "metrics.jsonl" => lines_without_times(&bytes),
            "run.json" | "settings.json" | "table.json" => without_times(&bytes),
            "checkpoint.safetensors" => tensors(&bytes),
            "recipe.toml" => without_seed(&bytes),
            "table.md" => Vec::new(),
            _ if is_log(path) => Vec::new(),
            _ => bytes,
        });
    }
    tree
}

/// A document without its times; as it is where it is none.
fn without_times(bytes: &[u8]) -> Vec<u8> {
    let Ok(mut document) = serde_json::from_slice::<Value>(bytes) else { return bytes.to_vec() };
    strip(&mut document);
    document.to_string().into_bytes()
}

fn lines_without_times(bytes: &[u8]) -> Vec<u8> {
    let lines = bytes.split(|&byte| byte == b'\n').map(without_times);
    lines.collect::<Vec<_>>().join(&b"\n"[..])
}

/// A sweep's recipe of a method, whose seed is that of the run that began last.
fn without_seed(bytes: &[u8]) -> Vec<u8> {
    let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.starts_with(b"seed"));
    lines.collect::<Vec<_>>().join(&b"\n"[..])
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| {
                !key.contains("second") && key != "data_wait" && key != "folder" && key != "log"
            });
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// The tensors of a file, without what its header says of times.
pub fn tensors(bytes: &[u8]) -> Vec<u8> {
    let Ok(file) = safetensors::SafeTensors::deserialize(bytes) else {
        return [b"no safetensors: ", bytes].concat();
    };
    let mut tensors: Vec<_> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            [name.as_bytes(), format!("{:?}", view.shape()).as_bytes(), view.data()].concat()
        })
        .collect();
    tensors.sort();
    tensors.concat()
}

/// How a tree differs from what is expected: `-` is missing, `+` is too much, `!` has other bytes.
pub fn differences(found: &Tree, expected: &Tree) -> Vec<String> {
    let missing =
        expected.keys().filter(|path| !found.contains_key(*path)).map(|path| format!("-{path}"));
    let others = found.iter().filter_map(|(path, bytes)| match expected.get(path) {
        None => Some(format!("+{path}")),
        Some(wanted) if wanted != bytes => Some(format!("!{path}")),
        Some(_) => None,
    });
    missing.chain(others).collect()
}

/// Adds what differs, if anything does.
pub fn expect_equal(what: &str, found: &Tree, expected: &Tree, faulty: &mut Vec<String>) {
    let found = differences(found, expected);
    if !found.is_empty() {
        let shown: Vec<&str> = found.iter().take(8).map(String::as_str).collect();
        faulty.push(format!("{what}: {}", shown.join(" ")));
    }
}
