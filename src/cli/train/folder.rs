//! The run's folder: what decided it, so that nothing else is ever mixed into it.

use super::Report;
use crate::error::{Context, Error, Result};
use crate::onnx::Model;
use crate::recipe::Train;
use crate::train::checkpoint::write_atomically;
use crate::train::trainer::CHECKPOINT;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

const SETTINGS: &str = "settings.json";
const REPORT: &str = "run.json";
const MODEL: &str = "student.onnx";

/// A folder and the settings of the run that is to fill it.
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

    /// A hash of the settings, which checkpoints carry.
    pub(super) fn identity(&self) -> String {
        sha256(self.settings.to_string().as_bytes())
    }

    /// The hashes of these settings with fewer epochs, where such a run begins with the very same
    /// steps: its checkpoint is gone on with. The settings are written before the first checkpoint
    /// of the longer run is, so that those of the folder do not say which it was.
    pub(super) fn shorter(&self) -> Result<Vec<String>> {
        let recipe = self.recipe()?;
        let same = (1..recipe.epochs).filter(|&epochs| recipe.foresight(epochs).is_none());
        Ok(same.map(|epochs| sha256(self.of_epochs(epochs).to_string().as_bytes())).collect())
    }

    fn recipe(&self) -> Result<Train> {
        serde_json::from_value(self.settings.get("recipe").cloned().unwrap_or_default())
            .context(|| format!("{}: settings without a recipe", self.path.display()))
    }

    /// The settings with another number of epochs.
    fn of_epochs(&self, epochs: usize) -> Value {
        let mut settings = self.settings.clone();
        if let Some(place) = settings.pointer_mut("/recipe/epochs") {
            *place = epochs.into();
        }
        settings
    }

    /// Whether the folder holds a run of these settings with fewer epochs, of which this one is a
    /// continuation.
    ///
    /// # Errors
    /// When its end decided what it did, or nobody asked to go on with it.
    fn extends(&self, before: &Value, resume: bool) -> Result<bool> {
        let count = |settings: &Value| {
            let epochs = settings.pointer("/recipe/epochs")?.as_u64()?;
            usize::try_from(epochs).ok()
        };
        let (Some(had), Some(now)) = (count(before), count(&self.settings)) else {
            return Ok(false);
        };
        if had >= now || *before != self.of_epochs(had) || !self.path.join(CHECKPOINT).exists() {
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

    /// Checks that the run may use the folder, and gives the report of a run of these settings that
    /// has finished there. Writes nothing.
    pub(super) fn finished(&self, resume: bool) -> Result<Option<Report>> {
        let path = self.path.display();
        let at = |name: &str| self.path.join(name);
        let Ok(mut entries) = std::fs::read_dir(&self.path) else { return Ok(None) };
        if entries.next().is_none() {
            return Ok(None);
        }
        if !at(SETTINGS).exists() {
            return Err(Error::input(format!(
                "{path}: expected an empty folder or a run's, found something else"
            ))
            .hint("give another -o"));
        }
        if !at(CHECKPOINT).exists() && !at(REPORT).exists() {
            // a run that ended before its first checkpoint: nothing of it is worth keeping
            return Ok(None);
        }
        let before: Value = read(&at(SETTINGS))?;
        if self.extends(&before, resume)? {
            return Ok(None);
        }
        if let Some((key, before, now)) = difference("", &before, &self.settings) {
            return Err(Error::input(format!(
                "{path}: holds a run with {key} {before}, found {now}"
            ))
            .hint("give another -o, or delete that folder"));
        }
        if at(REPORT).exists() {
            return read(&at(REPORT)).map(Some);
        }
        if !resume {
            return Err(Error::input(format!(
                "{path}: holds an unfinished run with these settings"
            ))
            .hint("add --resume to go on with it, or give another -o"));
        }
        Ok(None)
    }

    /// Makes the folder and writes the settings into it. The report of a run that is extended goes
    /// first: beside the new settings it would say that they are done.
    pub(super) fn begin(&self) -> Result<()> {
        std::fs::create_dir_all(&self.path)
            .context(|| format!("{}: cannot be made", self.path.display()))?;
        let report = self.path.join(REPORT);
        if report.exists() {
            std::fs::remove_file(&report)
                .context(|| format!("{}: cannot be removed", report.display()))?;
        }
        let path = self.path.join(SETTINGS);
        let text = serde_json::to_vec_pretty(&self.settings)
            .context(|| format!("{}: cannot be encoded", path.display()))?;
        write_atomically(&path, &text)
    }

    /// Writes the trained model and gives its name in the folder.
    pub(super) fn write_model(&self, model: &Model) -> Result<String> {
        write_atomically(&self.path.join(MODEL), model.bytes())?;
        Ok(MODEL.to_owned())
    }

    /// Writes the report, which marks the run as finished.
    pub(super) fn finish(&self, report: &Report) -> Result<()> {
        let path = self.path.join(REPORT);
        let text = serde_json::to_vec_pretty(report)
            .context(|| format!("{}: cannot be encoded", path.display()))?;
        write_atomically(&path, &text)
    }
}

/// The report of a run that has finished.
pub(super) fn report(folder: &Path) -> Result<Report> {
    read(&folder.join(REPORT))
}

/// SHA-256 in hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // writing to a string cannot fail
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).context(|| format!("{}: cannot be read", path.display()))?;
    serde_json::from_slice(&bytes).context(|| format!("{}: not a run's record", path.display()))
}

/// The first place where two records differ: its path and the two values.
fn difference(path: &str, before: &Value, now: &Value) -> Option<(String, String, String)> {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (before, now) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            let of = |map: &serde_json::Map<String, Value>, key: &str| {
                map.get(key).cloned().unwrap_or_default()
            };
            keys.into_iter().find_map(|key| difference(&below(key), &of(a, key), &of(b, key)))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(i, (a, b))| difference(&below(&i.to_string()), a, b)),
        _ if before == now => None,
        _ => Some((path.to_owned(), before.to_string(), now.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_difference_is_named() {
        let before =
            json!({"recipe": {"batch": 64, "criterion": [{"weight": 1.0}]}, "cache": null});
        let mut now = before.clone();
        assert_eq!(difference("", &before, &now), None);
        now["recipe"]["criterion"][0]["weight"] = json!(2.0);
        assert_eq!(
            difference("", &before, &now),
            Some(("recipe.criterion.0.weight".into(), "1.0".into(), "2.0".into()))
        );
        now["cache"] = json!("x");
        assert_eq!(difference("", &before, &now).unwrap().0, "cache");
    }

    #[test]
    fn a_folder_keeps_to_its_settings() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("runs/a");
        let folder = Folder::new(&path, json!({"seed": 0}));
        let other = Folder::new(&path, json!({"seed": 1}));
        assert!(folder.finished(false).unwrap().is_none());
        assert!(!path.exists());
        // ended before its first checkpoint: another run may have the folder
        folder.begin().unwrap();
        assert!(other.finished(false).unwrap().is_none());
        std::fs::write(path.join(CHECKPOINT), b"").unwrap();
        assert!(folder.finished(false).unwrap_err().find_hint().unwrap().contains("--resume"));
        assert!(folder.finished(true).unwrap().is_none());
        let error = other.finished(true).unwrap_err();
        assert!(error.to_string().contains("seed 0, found 1"), "{error}");
        std::fs::write(root.path().join("notes.txt"), b"").unwrap();
        assert!(Folder::new(root.path(), json!({})).finished(false).is_err());
    }
}
