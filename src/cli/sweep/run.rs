//! One run of a sweep: `nst-cache train` in a process of its own, so that its memory is separate
//! and a crash ends nothing else.

use super::plan::SweepRun;
use crate::error::{Context as _, Result};
use crate::machine::process_memory;
use crate::storage::{self, Lock};
use crate::train;
use crate::trainer::metrics::METRICS;
use crate::trainer::metrics::Record;
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

/// The exit status of a run that was asked to stop.
const INTERRUPTED: i32 = 130;
/// Bytes read from the end of a run's metrics and of its messages.
const TAIL_BYTES: u64 = 16 << 10;

/// How a run ended.
pub(super) enum End {
    /// With a trained student.
    Finished(Box<train::Report>),
    /// On request: its checkpoint is saved.
    Stopped,
    /// With this error.
    Failed(String),
}

/// A run in progress.
pub(super) struct Running {
    /// Its index among the runs.
    pub index: usize,
    /// Steps done, including earlier invocations.
    pub steps: usize,
    /// Peak memory in bytes; `None` if the system does not tell.
    pub peak: Option<u64>,
    /// Whether an epoch has ended since the start, so that the peak covers training and evaluation.
    pub is_settled: bool,
    started_at: usize,
    child: Child,
    /// Closing it stops the run; the end of this process closes it too.
    stdin: Option<ChildStdin>,
    /// Offset of its messages in the log.
    log_start: u64,
}

impl Running {
    /// Writes the run's recipe and starts it with additional `flags`.
    ///
    /// # Errors
    /// If the recipe cannot be written, or the process cannot be started.
    pub(super) fn start(
        index: usize,
        run: &SweepRun,
        sweep: &Lock,
        flags: &[String],
    ) -> Result<Self> {
        let text = toml::to_string(&run.job.recipe)
            .context(|| format!("{}: cannot be encoded", run.recipe_file.display()))?;
        sweep.replace(below(sweep, &run.recipe_file), text.as_bytes())?;
        let written = std::iter::once(run.recipe_file.as_path());
        storage::sync_dirs_between(sweep.folder(), written)?;

        let failed = |e| storage::failed(&run.log, "write", e);
        let mut options = OpenOptions::new();
        let mut log =
            storage::open_with(options.create(true).append(true), &run.log).map_err(failed)?;
        storage::sync_dir(run.beside())?;
        let log_start = log.seek(SeekFrom::End(0)).map_err(failed)?;
        let program =
            std::env::current_exe().context(|| "this program: cannot be found".to_owned())?;
        let mut child = Command::new(program)
            .args(&run.flags)
            .args(flags)
            .arg("--recipe")
            .arg(&run.recipe_file)
            .arg("--stop-with-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context(|| format!("{}: cannot be started", run.job.output.display()))?;
        let steps = progress(&run.job.output).map_or(0, |(steps, _)| steps);
        let stdin = child.stdin.take();
        Ok(Self {
            index,
            steps,
            peak: None,
            is_settled: false,
            started_at: steps,
            child,
            stdin,
            log_start,
        })
    }

    /// Asks the run to stop after its current step.
    pub(super) fn stop(&mut self) {
        self.stdin = None;
    }

    /// Updates the run's progress; returns how it ended if it has.
    pub(super) fn poll(&mut self, run: &SweepRun) -> Option<End> {
        if let Some(bytes) = process_memory(self.child.id()) {
            self.peak = Some(self.peak.map_or(bytes, |peak| peak.max(bytes)));
        }
        if let Some((steps, ended)) = progress(&run.job.output) {
            self.steps = self.steps.max(steps);
            self.is_settled |= ended && steps > self.started_at;
        }
        let status = match self.child.try_wait() {
            Ok(None) => return None,
            Ok(Some(status)) => status,
            Err(e) => return Some(End::Failed(format!("cannot wait for it: {e}"))),
        };
        Some(self.end(run, status))
    }

    fn end(&self, run: &SweepRun, status: ExitStatus) -> End {
        if status.success() {
            return match train::report(&run.job.output) {
                Ok(report) => End::Finished(Box::new(report)),
                Err(error) => End::Failed(error.chain()),
            };
        }
        if status.code() == Some(INTERRUPTED) && self.stdin.is_none() {
            return End::Stopped;
        }
        let messages = tail(&run.log, self.log_start).unwrap_or_default();
        let said = messages.lines().rev().find_map(|line| {
            line.strip_prefix("error: ").or_else(|| line.strip_prefix("stopped: "))
        });
        End::Failed(said.map_or_else(|| format!("ended unexpectedly, {status}"), str::to_owned))
    }
}

/// A path relative to the sweep's folder.
fn below<'a>(sweep: &Lock, path: &'a Path) -> &'a Path {
    path.strip_prefix(sweep.folder()).unwrap_or(path)
}

/// The step in the last complete line of a run's metrics, and whether it ends an epoch.
pub(super) fn progress(folder: &Path) -> Option<(usize, bool)> {
    let text = tail(&folder.join(METRICS), 0)?;
    let whole = &text[..text.rfind('\n')?];
    match serde_json::from_str(whole.lines().next_back()?).ok()? {
        Record::Step { step, .. } => Some((step + 1, false)),
        Record::Epoch { step, .. } => Some((step, true)),
    }
}

/// The end of a file, no earlier than `start`.
fn tail(path: &Path, start: u64) -> Option<String> {
    let mut file = storage::open(path).ok()?;
    let end = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(start.max(end.saturating_sub(TAIL_BYTES)))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn progress_is_what_the_last_whole_line_says() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(progress(folder.path()), None);
        let parts = BTreeMap::new;
        let step = Record::Step {
            epoch: 1,
            step: 19,
            lr: 0.1,
            loss: 1.0,
            parts: parts(),
            gradient_norm: 1.0,
            images_per_second: 1.0,
            data_wait: 0.0,
        };
        let epoch = Record::Epoch {
            epoch: 1,
            step: 24,
            lr: 0.1,
            loss: 1.0,
            parts: parts(),
            spots: BTreeMap::new(),
            train_top1: None,
            test: None,
            images_per_second: 1.0,
            data_wait: 0.0,
        };
        let lines = [step, epoch].map(|record| serde_json::to_string(&record).unwrap());
        let path = folder.path().join(METRICS);
        for (text, expected) in [
            (String::new(), None),
            (lines[0].clone(), None),
            (format!("{}\n", lines[0]), Some((20, false))),
            (format!("{}\n{}\n{{\"kind\":\"st", lines[0], lines[1]), Some((24, true))),
            (format!("{}{}\n", format!("{}\n", lines[0]).repeat(500), lines[1]), Some((24, true))),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(progress(folder.path()), expected);
        }
    }
}
