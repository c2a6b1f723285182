//! Nothing that people read is wider than 100 columns.

use std::path::{Path, PathBuf};

/// Columns of a line.
const WIDTH: usize = 100;
/// Folders that hold what is made, or what others wrote.
const OTHERS: [&str; 5] = [".git", "target", "runs", "cache", "data"];
const ENDINGS: [&str; 8] = ["rs", "md", "py", "sh", "toml", "yml", "cff", "Makefile"];

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let ending = name.rsplit('.').next().unwrap_or_default();
        if path.is_dir() {
            let is_other = OTHERS.contains(&name.as_str()) && !folder.ends_with("src");
            if !is_other {
                files(&path, into);
            }
        } else if ENDINGS.contains(&ending) {
            into.push(path);
        }
    }
}

/// The lines of a file that are too wide. Of documents, tables, what programs print (blocks of
/// `text`) and addresses may be as wide as they are.
fn wide(path: &Path, text: &str) -> Vec<usize> {
    let is_document = path.extension().is_some_and(|ending| ending == "md");
    let mut is_printed = false;
    let mut found = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        if is_document && line.trim_start().starts_with("```") {
            is_printed = line.trim() == "```text";
        }
        let is_free = is_document && (is_printed || line.starts_with('|')) || line.contains("://");
        if line.chars().count() > WIDTH && !is_free {
            found.push(number);
        }
    }
    found
}

#[test]
fn code_comments_and_documents_fit_in_100_columns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    files(root, &mut all);
    assert!(all.len() > 400, "{} files", all.len());
    let of = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        wide(path, &text).into_iter().map(move |line| format!("{name}:{line}")).collect::<Vec<_>>()
    };
    let found: Vec<String> = all.iter().flat_map(of).collect();
    assert!(found.is_empty(), "wider than {WIDTH} columns:\n{}", found.join("\n"));
}

#[test]
fn tables_output_and_addresses_are_free() {
    let wide_line = "é".repeat(101);
    let text = format!("{wide_line}\n| {wide_line}\n```text\n{wide_line}\n```\n{wide_line}\n");
    assert_eq!(wide(Path::new("a.md"), &text), [1, 6]);
    assert_eq!(wide(Path::new("a.rs"), &text), [1, 2, 4, 6]);
    let address = format!("{}\n// https://{wide_line}", "é".repeat(100));
    assert!(wide(Path::new("a.rs"), &address).is_empty());
}
