//! Folder names that denote parts of a data set (`train`, `Testing`, `val2017`, `seg_train`) rather
//! than classes.

use crate::error::{Error, Result};

/// A part of a data set, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Train,
    Test,
    Val,
    /// Training and validation samples together; matched only by its own name.
    TrainVal,
}

impl Part {
    /// The name by which messages call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
            Self::Val => "val",
            Self::TrainVal => "trainval",
        }
    }
}

const WORDS: [(&str, Part); 18] = [
    ("trainval", Part::TrainVal),
    ("train", Part::Train),
    ("training", Part::Train),
    ("trn", Part::Train),
    ("test", Part::Test),
    ("testing", Part::Test),
    ("tst", Part::Test),
    ("val", Part::Val),
    ("valid", Part::Val),
    ("validation", Part::Val),
    ("validate", Part::Val),
    ("validating", Part::Val),
    ("dev", Part::Val),
    ("development", Part::Val),
    ("devel", Part::Val),
    ("eval", Part::Val),
    ("evaluation", Part::Val),
    ("holdout", Part::Val),
];

/// Words that only say that a folder holds data; numbers are neutral too.
const NEUTRAL: [&str; 45] = [
    "all",
    "archive",
    "class",
    "classes",
    "crops",
    "cropped",
    "data",
    "dataset",
    "datasets",
    "file",
    "files",
    "folder",
    "frames",
    "full",
    "image",
    "imagefolder",
    "images",
    "img",
    "imgs",
    "input",
    "inputs",
    "jpeg",
    "jpegimages",
    "jpegs",
    "jpg",
    "jpgs",
    "new",
    "original",
    "part",
    "photo",
    "photos",
    "pic",
    "pics",
    "picture",
    "pictures",
    "png",
    "pngs",
    "processed",
    "raw",
    "resized",
    "sample",
    "samples",
    "set",
    "split",
    "x",
];

/// What a folder's name tells about a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub part: Part,
    /// Whether the name says nothing else: true for `train_images`; false for `seg_train`, which
    /// may be a class as `bullet_train` is.
    pub alone: bool,
    /// The name's words with `*` for the part: the same for `seg_train` and `seg_test`.
    pub frame: Vec<String>,
}

/// Parses a name, ignoring case; `None` unless exactly one word denotes a part.
pub(super) fn named(name: &[u8]) -> Option<Named> {
    let mut part = None;
    let mut frame = Vec::new();
    for word in words(name) {
        match (part_of(&word), part) {
            (Some(found), None) => part = Some(found),
            // `train_val`
            (Some(Part::Val), Some(Part::Train)) => {
                part = Some(Part::TrainVal);
                continue;
            }
            (Some(_), Some(_)) => return None,
            (None, _) => {
                frame.push(word);
                continue;
            }
        }
        frame.push("*".to_owned());
    }
    let alone = frame.iter().all(|word| word == "*" || is_neutral(word));
    Some(Named { part: part?, alone, frame })
}

/// Checks that a split of an undivided data set has a known name.
///
/// # Errors
/// If `split` denotes no part.
pub(super) fn check(data: &str, split: &str) -> Result<()> {
    if named(split.as_bytes()).is_some_and(|named| named.alone) {
        return Ok(());
    }
    Err(Error::input(format!("data {data}: expected split train, test or val, found `{split}`")))
}

/// Whether a folder's name says nothing about its content, so that it is not a class: `images`,
/// `JPEGImages`, `data`, `train`.
pub(super) fn is_neutral_name(name: &[u8]) -> bool {
    let words = words(name);
    // a number alone may well be a class
    let says = |word: &String| !word.bytes().all(|b| b.is_ascii_digit());
    words.iter().any(says) && words.iter().all(|word| is_neutral(word) || part_of(word).is_some())
}

/// Whether a folder's name says only that it holds images.
pub(super) fn is_images(name: &[u8]) -> bool {
    ["images", "imgs", "img", "jpegimages"]
        .iter()
        .any(|images| name.eq_ignore_ascii_case(images.as_bytes()))
}

/// The part that a word denotes: `train` or `trainset`.
fn part_of(word: &str) -> Option<Part> {
    let stands = |&&(start, _): &&(&str, Part)| {
        word.strip_prefix(start).is_some_and(|rest| rest.is_empty() || NEUTRAL.contains(&rest))
    };
    WORDS.iter().find(stands).map(|&(_, part)| part)
}

fn is_neutral(word: &str) -> bool {
    NEUTRAL.contains(&word) || word.bytes().all(|b| b.is_ascii_digit())
}

/// The words of a name in lower case, split at punctuation, at digits, and at a capital after a
/// small letter.
fn words(name: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(name);
    let mut words = vec![String::new()];
    let mut before = ' ';
    for c in text.chars() {
        let breaks = before.is_ascii_digit() != c.is_ascii_digit()
            || before.is_lowercase() && c.is_uppercase();
        if (breaks || !c.is_alphanumeric()) && words.last().is_some_and(|word| !word.is_empty()) {
            words.push(String::new());
        }
        if let (true, Some(word)) = (c.is_alphanumeric(), words.last_mut()) {
            word.extend(c.to_lowercase());
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str) -> Option<(Part, bool)> {
        named(name.as_bytes()).map(|n| (n.part, n.alone))
    }

    #[test]
    fn parts_are_recognised_under_other_names() {
        for name in [
            "train",
            "Training",
            "TRAIN",
            "train2017",
            "train_images",
            "TrainImages",
            "trainset",
            "Training Set",
            "01-train",
            "x_train",
        ] {
            assert_eq!(part(name), Some((Part::Train, true)), "{name}");
        }
        for name in ["test", "Testing", "test-data", "test_2", "TEST.SET"] {
            assert_eq!(part(name), Some((Part::Test, true)), "{name}");
        }
        for name in ["val", "valid", "validation", "val2017", "dev", "eval", "Validation_Data"] {
            assert_eq!(part(name), Some((Part::Val, true)), "{name}");
        }
        assert_eq!(part("trainval"), Some((Part::TrainVal, true)));
        assert_eq!(part("train_val2014"), Some((Part::TrainVal, true)));
        assert_eq!(part("seg_train"), Some((Part::Train, false)));
        assert_eq!(part("DIV2K_valid_HR"), Some((Part::Val, false)));
        assert_eq!(named(b"seg_train").unwrap().frame, named(b"SEG-Test").unwrap().frame);
    }

    #[test]
    fn classes_are_no_parts() {
        for name in [
            "trainer",
            "testudo",
            "valley",
            "devil",
            "evaluator",
            "cat",
            "",
            "trains",
            "developer",
            "valentine",
            "\u{e9}val",
        ] {
            assert_eq!(part(name), None, "{name}");
        }
        assert_eq!(part("train_station"), Some((Part::Train, false)));
        assert!(
            is_neutral_name(b"JPEGImages")
                && is_neutral_name(b"images_2")
                && is_neutral_name(b"train")
        );
        assert!(
            !is_neutral_name(b"cat images")
                && !is_neutral_name(b"")
                && !is_neutral_name(b"7")
                && !is_neutral_name(b"a")
        );
    }
}
