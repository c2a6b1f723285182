//! A run that is stopped and resumed ends in the same bits as one that is not, whatever the number
//! of loading threads.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use crate::support::{StopAfter, preprocess};

use nst_cache::data::{self, Augment, DataSpec, Dataset, Take};
use nst_cache::error::Kind;
use nst_cache::monitor::{Monitor, Silent};
use nst_cache::recipe::{Teaching, Train};
use nst_cache::storage::Lock;
use nst_cache::student::{ImportOptions, Student, preset};
use nst_cache::trainer::epochs::{Options, Training, run};
use nst_cache::trainer::loss::{Learnable, Objective};
use nst_cache::trainer::metrics::METRICS;
use nst_cache::trainer::metrics::Record;
use nst_cache::trainer::source::{DataSource, Source};
use std::path::Path;

const SAMPLES: usize = 96;

/// Trains in `folder` and gives the exported bytes, or the error.
fn train(
    dataset: &dyn Dataset,
    folder: &Path,
    threads: usize,
    resume: bool,
    monitor: &dyn Monitor,
) -> nst_cache::error::Result<Vec<u8>> {
    train_as("test", dataset, folder, threads, resume, monitor)
}

/// The same as a run of this identity.
fn train_as(
    identity: &str,
    dataset: &dyn Dataset,
    folder: &Path,
    threads: usize,
    resume: bool,
    monitor: &dyn Monitor,
) -> nst_cache::error::Result<Vec<u8>> {
    let recipe = Train {
        epochs: 2,
        batch: 32,
        seed: 5,
        augment: Augment::CropFlip,
        clip: Some(1.0),
        ..Train::default()
    };
    let model = preset::build("resnet8", 10, [1, 28, 28], recipe.seed)?;
    let student = Student::import(&model, &ImportOptions::default())?;
    let terms = recipe.terms(Teaching::Labels);
    let objective = Objective::new(&terms, &[Vec::new()], 0.0, &student)?;
    let take = Take { limit: Some(SAMPLES), shuffle: None };
    let source = Source::Data(DataSource::training(
        dataset,
        Some(preprocess(28, 0.286, 0.353)),
        recipe.augment,
        vec!["input".into()],
        take,
        recipe.seed,
    ));
    let options = Options { checkpoint_steps: None, log_steps: 1, loader_threads: threads };
    let mut learnable = Learnable::new(&objective, &recipe, &source, monitor)?;
    let lock = Lock::create(folder)?;
    let settings = Training {
        recipe: &recipe,
        objective: &objective,
        student: &student,
        classes: Some(student.logits()),
        source: &source,
        test: None,
        keep_best: &|_, _| Ok(()),
        folder: &lock,
        identity,
        shorter: &[],
        resume,
        options,
        monitor,
    };
    run(&settings, &mut learnable)?;
    Ok(student.export(&[])?.bytes().to_vec())
}

/// The metrics without what is measured by the clock.
fn metrics(folder: &Path) -> Vec<Record> {
    let text = std::fs::read_to_string(folder.join(METRICS)).unwrap();
    let still = |line: &str| {
        let mut record: Record = serde_json::from_str(line).unwrap();
        let (Record::Step { images_per_second, data_wait, .. }
        | Record::Epoch { images_per_second, data_wait, .. }) = &mut record;
        (*images_per_second, *data_wait) = (0.0, 0.0);
        record
    };
    text.lines().map(still).collect()
}

#[test]
fn a_resumed_run_ends_in_the_same_bits() {
    let spec: DataSpec = "fashion-mnist".parse().unwrap();
    let dataset = data::open(&spec, "train", &Silent).unwrap();
    let whole = tempfile::tempdir().unwrap();
    let expected = train(dataset.as_ref(), whole.path(), 1, false, &Silent).unwrap();
    assert_eq!(metrics(whole.path()).len(), 2 * 3 + 2);

    // in the middle of an epoch, at its end, and in the last one
    for steps in [1, 3, 5] {
        let folder = tempfile::tempdir().unwrap();
        let stopped = train(dataset.as_ref(), folder.path(), 3, false, &StopAfter::new(steps * 32))
            .unwrap_err();
        assert_eq!(stopped.kind(), Kind::Interrupted);
        assert!(stopped.find_hint().unwrap().contains("--resume"));
        // a killed run leaves lines after its checkpoint, which the resumed one writes again
        let path = folder.path().join(METRICS);
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"half a li");
        std::fs::write(&path, text).unwrap();
        let resumed = train(dataset.as_ref(), folder.path(), 2, true, &Silent).unwrap();
        assert!(resumed == expected, "stopped after {steps} steps: other weights");
        assert_eq!(metrics(folder.path()), metrics(whole.path()), "stopped after {steps} steps");
    }
}

#[test]
fn a_checkpoint_of_another_run_and_a_damaged_one_are_refused() {
    let spec: DataSpec = "fashion-mnist".parse().unwrap();
    let dataset = data::open(&spec, "train", &Silent).unwrap();
    let folder = tempfile::tempdir().unwrap();
    train(dataset.as_ref(), folder.path(), 1, false, &StopAfter::new(32)).unwrap_err();
    let path = folder.path().join(nst_cache::trainer::checkpoint::CHECKPOINT);
    let bytes = std::fs::read(&path).unwrap();
    let again = |identity| train_as(identity, dataset.as_ref(), folder.path(), 1, true, &Silent);
    let error = again("best").unwrap_err();
    assert!(error.chain().contains("other settings"), "{}", error.chain());
    // a bit of each of the header's entries, of a value, of a tensor's name; half a file
    let places = [b"\\\"step\\\"".as_slice(), b"\"metrics\"", b"\"sha256\""];
    let find = |what: &[u8]| bytes.windows(what.len()).position(|w| w == what).unwrap();
    let ends = places.map(|what| find(what) + what.len() + 2);
    for at in ends.into_iter().chain([bytes.len() - 9, find(b"parameter/conv1")]) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        std::fs::write(&path, &changed).unwrap();
        let error = again("test").unwrap_err().chain();
        assert!(error.contains("damaged"), "byte {at}: {error}");
    }
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(again("test").unwrap_err().chain().contains("damaged"));
}
