//! What a run logs: JSON lines, one every few steps and one per epoch.

use crate::error::{Context, Result};
use crate::metric::percent;
use crate::storage::{self, Lock};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

/// The metrics' name in a run's folder.
pub const METRICS: &str = "metrics.jsonl";

/// A student's results on the test samples; what cannot be measured is left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Samples measured: those with a label where there are class logits.
    pub samples: usize,
    /// Accuracy of the class logits in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// Their mean cross-entropy; NaN for a student that has diverged.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "number")]
    pub loss: Option<f64>,
    /// k-NN accuracy of the embedding in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knn: Option<f64>,
    /// Agreement of each output with the teacher's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, OutputScore>,
}

/// How far an output agrees with the teacher's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputScore {
    /// Mean cosine similarity.
    pub cosine: Option<f64>,
    /// Mean squared error.
    pub mse: Option<f64>,
    /// Share of samples with the teacher's class, in percent, for class logits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// Samples left out since either side's values are not finite.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_finite: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Evaluation {
    /// The one number by which epochs are compared, larger being better: accuracy, else k-NN
    /// accuracy, else the outputs' mean squared error, negated; `None` if nothing is measured, or
    /// an output is not finite.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a number of outputs")]
    pub fn score(&self) -> Option<f64> {
        let scores = || self.outputs.values();
        let errors: Vec<f64> = scores().filter_map(|output| output.mse).collect();
        let is_whole = !errors.is_empty() && scores().all(|output| output.not_finite == 0);
        let mean = is_whole.then(|| -errors.iter().sum::<f64>() / errors.len() as f64);
        self.top1.or(self.knn).or(mean)
    }

    /// Whether nothing is measured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.top1.is_none() && self.knn.is_none() && self.outputs.is_empty()
    }
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.top1.map(|top1| format!("top-1 {top1:.2} %")));
        parts.extend(self.knn.map(|knn| format!("k-NN {knn:.2} %")));
        for (name, score) in &self.outputs {
            let mut agreement = vec![name.clone()];
            agreement.extend(score.cosine.map(|cosine| format!("cosine {cosine:.4}")));
            agreement.extend(score.mse.map(|mse| format!("MSE {mse:.4}")));
            agreement.extend(score.top1.map(|top1| format!("teacher's class {top1:.2} %")));
            if score.not_finite > 0 {
                agreement.push(format!("{} not finite", score.not_finite));
            }
            parts.push(agreement.join(" "));
        }
        f.write_str(&parts.join(", "))
    }
}

/// Reads null as NaN, which JSON lacks.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    Ok(Some(Option::deserialize(deserializer)?.unwrap_or(f64::NAN)))
}

/// A line of `metrics.jsonl`. `images_per_second` and `data_wait` are measured and differ from run
/// to run; everything else is reproducible.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Record {
    /// One step.
    Step {
        /// Epoch, from 1.
        epoch: usize,
        /// Step of the whole run, from 0.
        step: usize,
        /// Learning rate.
        lr: f64,
        /// The weighted sum of the parts.
        loss: f64,
        /// Each term of the loss that was on, unweighted.
        parts: BTreeMap<String, f64>,
        /// Global L2 norm of the gradient before clipping.
        gradient_norm: f64,
        /// Samples trained on per second since the last line.
        images_per_second: f64,
        /// Share of that time spent waiting for data.
        data_wait: f64,
    },
    /// One epoch; means are over its samples.
    Epoch {
        /// Epoch, from 1.
        epoch: usize,
        /// Steps of the whole run so far.
        step: usize,
        /// Learning rate of its last step.
        lr: f64,
        /// The weighted sum of the parts.
        loss: f64,
        /// Each term of the loss that was on, unweighted.
        parts: BTreeMap<String, f64>,
        /// Share of the samples that were distilled at each spot.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        spots: BTreeMap<String, f64>,
        /// Accuracy, in percent, on the training samples as the model saw them.
        train_top1: Option<f64>,
        /// The result on the test split.
        test: Option<Evaluation>,
        /// Samples trained on per second.
        images_per_second: f64,
        /// Share of the time spent waiting for data.
        data_wait: f64,
    },
}

/// Sums over an epoch's samples.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sums {
    /// Number of samples.
    pub samples: usize,
    /// Total loss times samples.
    pub loss: f64,
    /// Each part times samples, over the steps at which its term was on.
    pub parts: Vec<f64>,
    /// Samples of the steps at which each term was on.
    pub part_samples: Vec<usize>,
    /// Samples distilled at each spot.
    pub selected: Vec<f64>,
    /// Samples with a label.
    pub labeled: usize,
    /// Samples whose label has the highest logit.
    pub correct: usize,
}

impl Sums {
    /// Adds one step.
    #[allow(clippy::cast_precision_loss, reason = "a number of samples")]
    pub fn add(
        &mut self,
        samples: usize,
        loss: f64,
        parts: &[Option<f64>],
        (correct, labeled): (usize, usize),
    ) {
        self.samples += samples;
        self.loss += loss * samples as f64;
        self.parts.resize(parts.len(), 0.0);
        self.part_samples.resize(parts.len(), 0);
        for ((sum, counted), part) in self.parts.iter_mut().zip(&mut self.part_samples).zip(parts) {
            if let Some(part) = part {
                *sum += part * samples as f64;
                *counted += samples;
            }
        }
        self.correct += correct;
        self.labeled += labeled;
    }

    /// Adds the number of samples of a step that were distilled at each spot.
    pub fn add_selected(&mut self, selected: &[f64]) {
        self.selected.resize(selected.len(), 0.0);
        self.selected.iter_mut().zip(selected).for_each(|(sum, count)| *sum += count);
    }

    /// The share of the samples that were distilled at each spot.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a number of samples")]
    pub fn shares(&self) -> Vec<f64> {
        self.selected.iter().map(|count| count / self.samples.max(1) as f64).collect()
    }

    /// Mean loss and parts; `None` for a part whose term was off throughout.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a number of samples")]
    pub fn means(&self) -> (f64, Vec<Option<f64>>) {
        let mean = |(sum, &samples): (&f64, &usize)| (samples > 0).then(|| sum / samples as f64);
        (
            self.loss / self.samples.max(1) as f64,
            self.parts.iter().zip(&self.part_samples).map(mean).collect(),
        )
    }

    /// Accuracy in percent, if there are labels.
    #[must_use]
    pub fn top1(&self) -> Option<f64> {
        percent(self.correct, self.labeled)
    }
}

/// The metrics file, open for appending.
#[derive(Debug)]
pub struct Metrics {
    file: File,
    path: PathBuf,
    /// The file's content: a checkpoint holds it too, so that no lost line stops a run.
    text: Vec<u8>,
}

impl Metrics {
    /// Opens the file of a run's folder as it was at a checkpoint: lines written later by an
    /// interrupted run are cut off, to be written again, and differences from the checkpoint are
    /// restored.
    ///
    /// # Errors
    /// When the disk fails, or the folder has been replaced.
    pub fn open(folder: &Lock, text: Vec<u8>) -> Result<Self> {
        let path = folder.folder().join(METRICS);
        let failed = |e| storage::failed(&path, "write", e);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let mut file = storage::open_with(&mut options, &path).map_err(failed)?;
        // check the file that is open now: whatever the path points to later is not written
        folder.check()?;
        let mut found = Vec::new();
        (&mut file).take(text.len() as u64).read_to_end(&mut found).map_err(failed)?;
        if found != text {
            file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
            file.write_all(&text).map_err(failed)?;
        }
        file.set_len(text.len() as u64).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        storage::sync_dir(folder.folder())?;
        Ok(Self { file, path, text })
    }

    /// Everything written so far.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Appends a line.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        let what = || format!("metrics {}: cannot be written", self.path.display());
        let mut line = serde_json::to_vec(record).context(what)?;
        line.push(b'\n');
        self.file.write_all(&line).context(what)?;
        self.text.extend(line);
        Ok(())
    }

    /// Makes the lines written so far durable.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> Result<()> {
        self.file
            .sync_data()
            .context(|| format!("metrics {}: cannot be written", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn record(step: usize) -> Record {
        let parts = BTreeMap::from([("ce".to_owned(), 0.1 + 0.2)]);
        Record::Step {
            epoch: 1,
            step,
            lr: 0.05,
            loss: 1.0,
            parts,
            gradient_norm: 2.0,
            images_per_second: 3.0,
            data_wait: 0.0,
        }
    }

    #[test]
    fn a_resume_cuts_what_came_after_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS);
        let lock = Lock::exclusive(folder.path()).unwrap();
        let mut metrics = Metrics::open(&lock, Vec::new()).unwrap();
        metrics.write(&record(0)).unwrap();
        let text = metrics.text().to_vec();
        metrics.write(&record(1)).unwrap();
        let whole = metrics.text().to_vec();
        // left as it was, then shortened, changed, deleted
        let spoil: [fn(&Path); 4] = [
            |_| (),
            |path| std::fs::write(path, b"{").unwrap(),
            |path| std::fs::write(path, vec![0; 500]).unwrap(),
            |path| std::fs::remove_file(path).unwrap(),
        ];
        for spoil in spoil {
            spoil(&path);
            let mut metrics = Metrics::open(&lock, text.clone()).unwrap();
            metrics.write(&record(1)).unwrap();
            metrics.sync().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
        let read: Vec<Record> = String::from_utf8(whole)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(read, [record(0), record(1)]);
    }

    #[test]
    fn another_runs_metrics_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("run");
        let late = Lock::create(&folder).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let other = Lock::create(&folder).unwrap();
        Metrics::open(&other, b"theirs\n".to_vec()).unwrap();
        assert!(Metrics::open(&late, Vec::new()).is_err());
        assert_eq!(std::fs::read(folder.join(METRICS)).unwrap(), b"theirs\n");
    }

    #[test]
    fn an_evaluation_of_a_diverged_student_reads_back() {
        let evaluation = Evaluation {
            samples: 3,
            top1: Some(0.0),
            loss: Some(f64::NAN),
            ..Evaluation::default()
        };
        let text = serde_json::to_string(&evaluation).unwrap();
        assert!(
            serde_json::from_str::<Evaluation>(&text).unwrap().loss.unwrap().is_nan(),
            "{text}"
        );
    }

    #[test]
    fn sums_weigh_steps_by_their_samples() {
        let mut sums = Sums::default();
        sums.add(3, 1.0, &[Some(2.0), None, None], (1, 3));
        sums.add(1, 5.0, &[Some(6.0), Some(1.0), None], (1, 1));
        assert_eq!(sums.means(), (2.0, vec![Some(3.0), Some(1.0), None]));
        assert_eq!(sums.top1(), Some(50.0));
        assert_eq!(Sums::default().top1(), None);
    }
}
