//! Every recipe of the repository reads, and the command that writes recipes writes those.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use crate::support::{Sandbox, committed};
use nst_cache::recipe::{Sweep, Train};
use std::path::{Path, PathBuf};

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
    let all = recipes(&committed("recipes"));
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
    let folder = Sandbox::new();
    let run = |line: &str| folder.run(line).expect(0).stdout;
    let committed = committed("recipes/cifar100/resnet56-resnet20.toml");
    assert_eq!(
        run("recipe cifar100 --teacher resnet56 --student resnet20"),
        std::fs::read_to_string(committed).unwrap()
    );
    run("recipe cifar100 --teacher vgg13 --student vgg8 --method nst --views 20 -o nst.toml");
    assert_eq!(Train::read(&folder.join("nst.toml")).unwrap().epochs, 240);
    assert!(run("recipe sakd").contains("resnet110"));
}
