//! The run's folder and the settings that it belongs to, so that runs are never mixed.

use super::report::Report;
use crate::error::{Context, Error, Result};
use crate::hash::{self, sha256};
use crate::json::{self, Difference, Lacking};
use crate::onnx::Model;
use crate::recipe::Train;
use crate::storage::{self, Lock};
use crate::trainer::checkpoint::CHECKPOINT;
use serde_json::Value;
use std::path::{Path, PathBuf};

const SETTINGS: &str = "settings.json";
const REPORT: &str = "run.json";
const MODEL: &str = "student.onnx";
/// The best one on the test samples.
const BEST: &str = "best.onnx";
/// Far more than any settings need.
const RECORD_BYTES_MAX: u64 = 16 << 20;

/// The state of a run's folder.
pub(super) enum There {
    /// The run has finished with these settings, and its student exists.
    Finished(Box<Report>),
    /// There is a checkpoint of these settings to resume from.
    Begun,
    /// There is nothing worth keeping.
    Nothing,
}

/// A folder and the settings of the run that will fill it.
pub(super) struct Folder {
    path: PathBuf,
    settings: Value,
}

impl Folder {
    pub(super) fn new(path: &Path, settings: Value) -> Self {
        Self { path: path.to_owned(), settings }
    }

    pub(super) fn settings(&self) -> &Value {
        &self.settings
    }

    /// A hash of the settings, which checkpoints record.
    pub(super) fn identity(&self) -> String {
        sha256(self.settings.to_string().as_bytes())
    }

    /// The hashes of these settings with fewer epochs, if such a run begins with exactly the same
    /// steps: its checkpoint can be resumed. The folder's settings are written before the longer
    /// run's first checkpoint, so they do not tell which run wrote it.
    pub(super) fn shorter(&self) -> Result<Vec<String>> {
        let recipe = self.recipe()?;
        let same = (1..recipe.epochs).filter(|&epochs| recipe.foresight(epochs).is_none());
        Ok(same.map(|epochs| sha256(self.of_epochs(epochs).to_string().as_bytes())).collect())
    }

    fn recipe(&self) -> Result<Train> {
        serde_json::from_value(self.settings.get("recipe").cloned().unwrap_or_default())
            .context(|| format!("{}: settings without a recipe", self.path.display()))
    }

    /// The settings with a different number of epochs.
    fn of_epochs(&self, epochs: usize) -> Value {
        let mut settings = self.settings.clone();
        if let Some(place) = settings.pointer_mut("/recipe/epochs") {
            *place = epochs.into();
        }
        settings
    }

    /// Whether the folder holds a run of these settings with fewer epochs that this run continues.
    ///
    /// # Errors
    /// When that run's steps depended on its length, or `resume` is not set.
    fn extends(&self, before: &Value, resume: bool) -> Result<bool> {
        let count = |settings: &Value| {
            let epochs = settings.pointer("/recipe/epochs")?.as_u64()?;
            usize::try_from(epochs).ok()
        };
        let (Some(had), Some(now)) = (count(before), count(&self.settings)) else {
            return Ok(false);
        };
        if had >= now
            || *before != self.of_epochs(had)
            || !storage::is_there(&self.path.join(CHECKPOINT))?
        {
            return Ok(false);
        }
        let path = self.path.display();
        if let Some(what) = self.recipe()?.foresight(had) {
            return Err(Error::input(format!(
                "{path}: holds a run with recipe.epochs {had}, found {now}, and can't be extended: \
                 {what} decided its steps by its end at epoch {had}"
            ))
            .hint(format!(
                "train {now} epochs into another -o, or train its {MODEL} for {} more epochs into \
                 another -o",
                now - had
            )));
        }
        if !resume {
            return Err(Error::input(format!(
                "{path}: holds a run with recipe.epochs {had}, found {now}"
            ))
            .hint("add --resume to extend it, or give another -o"));
        }
        Ok(true)
    }

    /// Checks that the run may use the folder, and returns its state. Writes nothing.
    ///
    /// # Errors
    /// When another process is using it, or it belongs to a different run.
    pub(super) fn look(&self, resume: bool) -> Result<There> {
        let _lock = Lock::shared(&self.path)?;
        self.there(resume)
    }

    /// The folder's state, under a lock that the caller holds.
    fn there(&self, resume: bool) -> Result<There> {
        let path = self.path.display();
        let is_there = |name: &str| storage::is_there(&self.path.join(name));
        if is_empty(&self.path)? {
            return Ok(There::Nothing);
        }
        if !is_there(SETTINGS)? {
            return Err(Error::input(format!(
                "{path}: expected an empty folder or a run's, found something else"
            ))
            .hint("give another -o"));
        }
        let report: Option<Report> = read_if_there(&self.path.join(REPORT))?;
        if report.is_none() && !is_there(CHECKPOINT)? {
            // the run ended before its first checkpoint
            return Ok(There::Nothing);
        }
        // a report holds the settings of its own run
        let before = match &report {
            Some(report) => report.settings.clone(),
            None => read(&self.path.join(SETTINGS))?,
        };
        if self.extends(&before, resume)? {
            return Ok(There::Begun);
        }
        if let Some(Difference { path: key, before, now }) =
            json::difference("", &before, &self.settings, Lacking::Null)
        {
            return Err(Error::input(format!(
                "{path}: holds a run with {key} {before}, found {now}"
            ))
            .hint("give another -o, or delete that folder"));
        }
        let lacks = match report {
            Some(report) => match self.problem(&report)? {
                None => return Ok(There::Finished(Box::new(report))),
                Some(problem) => Some(problem),
            },
            None => None,
        };
        if resume {
            return Ok(There::Begun);
        }
        Err(match lacks {
            Some(problem) => {
                let how = if is_there(CHECKPOINT)? { "export it" } else { "train it" };
                Error::input(format!("{path}: holds a finished run, but its {MODEL} is {problem}"))
                    .hint(format!("add --resume to {how} again, or give another -o"))
            }
            None => Error::input(format!("{path}: holds an unfinished run with these settings"))
                .hint("add --resume to continue it, or give another -o"),
        })
    }

    /// What is wrong with the student of a finished run, if anything.
    fn problem(&self, report: &Report) -> Result<Option<&'static str>> {
        let path = self.path.join(MODEL);
        let length = storage::length(&path)?;
        Ok(match (length, &report.model_sha256) {
            (None, _) => Some("missing"),
            (Some(0), _) => Some("empty"),
            (Some(_), None) => None,
            (Some(_), Some(expected)) => {
                let file = storage::open(&path).map_err(|e| storage::failed(&path, "read", e))?;
                let found = hash::sha256_of(file).map_err(|e| storage::failed(&path, "read", e))?;
                (found != *expected).then_some("another file than the run wrote")
            }
        })
    }

    /// Creates the folder, locks it and writes the settings; returns the run's report instead if
    /// another process has finished it meanwhile. An existing report, of a run that is extended or
    /// exported again, says which settings it belongs to, and stays until it is replaced.
    ///
    /// # Errors
    /// As [`Folder::look`], and when the disk fails.
    pub(super) fn begin(&self, resume: bool) -> Result<Result<Lock, Box<Report>>> {
        let lock = Lock::create(&self.path)?;
        if let There::Finished(report) = self.there(resume)? {
            return Ok(Err(report));
        }
        lock.sweep(&self.path)?;
        let text = serde_json::to_vec_pretty(&self.settings)
            .context(|| format!("{}: settings cannot be encoded", self.path.display()))?;
        lock.replace(SETTINGS, &text)?;
        Ok(Ok(lock))
    }
}

/// Writes the trained model; returns its name in the folder and the hash of its bytes.
pub(super) fn write_model(folder: &Lock, model: &Model) -> Result<(String, String)> {
    folder.replace(MODEL, model.bytes())?;
    Ok((MODEL.to_owned(), sha256(model.bytes())))
}

/// Writes the student that is the best so far on the test samples.
pub(super) fn write_best(folder: &Lock, model: &Model) -> Result<()> {
    folder.replace(BEST, model.bytes())
}

/// Writes the report, which marks the run as finished.
pub(super) fn finish(folder: &Lock, report: &Report) -> Result<()> {
    let text = serde_json::to_vec_pretty(report)
        .context(|| format!("{}: report cannot be encoded", folder.folder().display()))?;
    folder.unsign()?;
    folder.replace(REPORT, &text)
}

/// Whether a folder is missing, or holds nothing but what a run killed at its very start leaves.
fn is_empty(folder: &Path) -> Result<bool> {
    let unlisted = |e| storage::failed(folder, "list", e);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        Err(e) => return Err(unlisted(e)),
    };
    for entry in entries {
        let name = entry.map_err(unlisted)?.file_name();
        let name = name.to_string_lossy();
        if name != storage::LOCK && !storage::is_temporary(&name) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The report of the finished run in a folder.
///
/// # Errors
/// When there is none, or it can't be read.
pub fn report(folder: &Path) -> Result<Report> {
    read(&folder.join(REPORT))
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    read_if_there(path)?.ok_or_else(|| Error::input(format!("{}: missing", path.display())))
}

fn read_if_there<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = storage::read_bounded(path, RECORD_BYTES_MAX)? else { return Ok(None) };
    let record = serde_json::from_slice(&bytes)
        .context(|| format!("{}: not a run's record", path.display()))?;
    Ok(Some(record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_folder_keeps_to_its_settings() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("runs/a");
        let folder = Folder::new(&path, json!({"seed": 0}));
        let other = Folder::new(&path, json!({"seed": 1}));
        let is_new = |folder: &Folder, resume| matches!(folder.look(resume), Ok(There::Nothing));
        assert!(is_new(&folder, false) && !path.exists());
        // ended before its first checkpoint, or in its first write: another run may use the folder
        drop(folder.begin(false).unwrap());
        assert!(is_new(&other, false));
        std::fs::remove_file(path.join(SETTINGS)).unwrap();
        std::fs::write(path.join(".settings.json.0123456789abcdef.tmp"), b"{").unwrap();
        assert!(is_new(&other, false));
        let lock = folder.begin(false).unwrap().unwrap();
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 2, "the lock and the settings");
        for refused in [other.look(false).err(), folder.begin(true).err()] {
            assert!(refused.unwrap().to_string().contains("in use by pid"));
        }
        drop(lock);
        std::fs::write(path.join(CHECKPOINT), b"").unwrap();
        let error = folder.look(false).err().unwrap();
        assert!(error.find_hint().unwrap().contains("--resume"));
        assert!(matches!(folder.look(true), Ok(There::Begun)));
        let error = other.look(true).err().unwrap();
        assert!(error.to_string().contains("seed 0, found 1"), "{error}");
        std::fs::write(root.path().join("notes.txt"), b"").unwrap();
        assert!(Folder::new(root.path(), json!({})).look(false).is_err());
    }
}
