//! Every recipe of the repository reads, and the command that writes recipes writes those.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use nst_cache::recipe::{Sweep, Train};
use std::path::{Path, PathBuf};
use std::process::Command;

fn recipes(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        entries.flat_map(|path| if path.is_dir() { recipes(&path) } else { vec![path] }).collect();
    found.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    found.sort();
    found
}

#[test]
fn every_recipe_of_the_repository_reads() {
    let all = recipes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes"));
    assert!(all.len() >= 10, "{all:?}");
    for path in all {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("# "),
            "{}: expected a comment that says what it is for",
            path.display()
        );
        let read = if text.contains("\nstudents = ") {
            Sweep::read(&path).map(|_| ())
        } else {
            Train::read(&path).map(|_| ())
        };
        read.unwrap_or_else(|e| panic!("{}", e.chain()));
    }
}

#[test]
fn the_committed_pair_is_what_the_command_writes() {
    let run = |arguments: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_nst-cache"))
            .args(arguments.split(' '))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let committed =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/cifar100/resnet56-resnet20.toml");
    assert_eq!(
        run("recipe cifar100 --teacher resnet56 --student resnet20"),
        std::fs::read_to_string(committed).unwrap()
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nst.toml");
    run(&format!(
        "recipe cifar100 --teacher vgg13 --student vgg8 --method nst --views 20 -o {}",
        path.display()
    ));
    assert_eq!(Train::read(&path).unwrap().epochs, 240);
    assert!(run("recipe sakd").contains("resnet110"));
    for wrong in [
        "recipe cifar10",
        "recipe cifar100 --teacher resnet56 --student vgg8",
        "recipe cifar100 --teacher resnet56",
    ] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_nst-cache")).args(wrong.split(' ')).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong}");
    }
}
