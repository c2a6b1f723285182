//! Runs in parallel, as many as requested and as fit into memory.

use super::plan::{SweepPlan, SweepRun};
use super::run::{End, Running, progress};
use crate::cli::Context;
use crate::extract::human_bytes;
use crate::storage::Lock;
use crate::train::{Report, State, Survey};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often runs are polled.
const TICK: Duration = Duration::from_millis(200);
/// A run's expected memory relative to the peak of one that has trained and evaluated an epoch:
/// export and the check in ONNX Runtime are still to come.
const MARGIN: f64 = 1.2;

/// The outcome of a run.
pub(super) enum Outcome {
    /// It has finished, now or earlier.
    Finished(Box<Report>),
    /// It ended with an error.
    Failed(String),
    /// It was not started, or has not ended.
    Open,
}

/// How many runs at once, and their resources.
pub(super) struct Limits {
    /// Most runs at once.
    pub jobs: usize,
    /// Memory of all runs, in bytes.
    pub memory: Option<u64>,
    /// Additional flags of each run.
    pub flags: Vec<String>,
}

/// Completes every run that is not finished. A run that fails is skipped; a request to stop reaches
/// all runs in progress.
pub(super) fn run(
    plan: &SweepPlan,
    survey: Survey,
    folder: &Lock,
    limits: &Limits,
    context: &Context<'_>,
) -> Vec<Outcome> {
    let mut sweep = Sweeper {
        runs: &plan.runs,
        folder,
        limits,
        context,
        running: Vec::new(),
        pending: VecDeque::new(),
        peaks: Vec::new(),
        outcomes: Vec::new(),
        steps_per_run: survey.steps,
        steps: 0,
        left: 0,
        started: Instant::now(),
        has_noted_memory: false,
    };
    let mut before = 0;
    for (index, state) in survey.states.into_iter().enumerate() {
        let is_begun = matches!(state, State::Begun);
        sweep.outcomes.push(match state {
            State::Finished(report) => Outcome::Finished(report),
            State::Begun | State::New | State::Running(_) => {
                sweep.pending.push_back(index);
                sweep.left += survey.steps;
                Outcome::Open
            }
        });
        if is_begun {
            // steps of an earlier sweep do not count toward the pace
            let done = progress(&plan.runs[index].job.output)
                .map_or(0, |(steps, _)| steps.min(survey.steps));
            before += done;
            sweep.left -= done;
        }
    }
    sweep.work(before);
    sweep.outcomes
}

struct Sweeper<'a> {
    runs: &'a [SweepRun],
    /// The sweep's folder.
    folder: &'a Lock,
    limits: &'a Limits,
    context: &'a Context<'a>,
    running: Vec<Running>,
    pending: VecDeque<usize>,
    /// Peak memory of each run that has settled or ended: its index among the runs, and bytes.
    peaks: Vec<(usize, u64)>,
    outcomes: Vec<Outcome>,
    steps_per_run: usize,
    /// Steps done by this sweep.
    steps: usize,
    /// Steps left to do.
    left: usize,
    started: Instant,
    has_noted_memory: bool,
}

impl Sweeper<'_> {
    fn work(&mut self, before: usize) {
        if self.pending.is_empty() {
            return;
        }
        let monitor = self.context.monitor;
        monitor.begin("sweep", "steps", (before + self.left) as u64, before as u64);
        let mut is_stopping = false;
        loop {
            if monitor.stop_requested() && !is_stopping {
                is_stopping = true;
                self.pending.clear();
                self.running.iter_mut().for_each(Running::stop);
            }
            while self.running.len() < self.limits.jobs && self.fits() {
                let Some(index) = self.pending.pop_front() else { break };
                self.start(index);
            }
            if self.running.is_empty() && self.pending.is_empty() {
                break;
            }
            std::thread::sleep(TICK);
            self.look();
        }
        monitor.end();
    }

    fn start(&mut self, index: usize) {
        match Running::start(index, &self.runs[index], self.folder, &self.limits.flags) {
            Ok(running) => self.running.push(running),
            Err(error) => self.fail(index, error.chain(), 0),
        }
    }

    /// Records the progress of the runs, and those that have ended.
    fn look(&mut self) {
        for mut running in std::mem::take(&mut self.running) {
            let before = running.steps;
            let index = running.index;
            let end = running.poll(&self.runs[index]);
            self.advance(running.steps - before);
            if let Some(peak) = running.peak
                && (running.is_settled || end.is_some())
            {
                self.measured(index, peak);
            }
            match end {
                None => self.running.push(running),
                Some(End::Stopped) => {}
                Some(End::Failed(error)) => self.fail(index, error, running.steps),
                Some(End::Finished(report)) => {
                    self.advance(self.steps_per_run.saturating_sub(running.steps));
                    self.tell(index, &report);
                    self.outcomes[index] = Outcome::Finished(report);
                }
            }
        }
        let at_work: Vec<String> = self.running.iter().map(|r| self.at_work(r)).collect();
        self.context.monitor.status(&at_work.join("; "));
    }

    fn at_work(&self, running: &Running) -> String {
        let run = &self.runs[running.index];
        let per_epoch = (self.steps_per_run / run.job.recipe.epochs).max(1);
        let epoch = (running.steps / per_epoch + 1).min(run.job.recipe.epochs);
        format!("{} (epoch {epoch}/{})", run.name(), run.job.recipe.epochs)
    }

    fn advance(&mut self, steps: usize) {
        self.steps += steps;
        self.left = self.left.saturating_sub(steps);
        self.context.monitor.advance(steps as u64, 0);
    }

    fn fail(&mut self, index: usize, error: String, steps: usize) {
        // skipped, not done: no part of the pace
        let rest = self.steps_per_run.saturating_sub(steps);
        self.left = self.left.saturating_sub(rest);
        self.context.monitor.advance(rest as u64, 0);
        let run = &self.runs[index];
        self.context.monitor.warn(&format!(
            "{}: failed: {error} ({})",
            run.name(),
            run.log.display()
        ));
        self.outcomes[index] = Outcome::Failed(error);
    }

    fn tell(&self, index: usize, report: &Report) {
        let ended = self.outcomes.iter().filter(|o| !matches!(o, Outcome::Open)).count() + 1;
        let accuracy =
            report.outcome.test.as_ref().map_or_else(String::new, |test| format!("{test}, "));
        let left = self
            .time_left()
            .map_or_else(String::new, |left| format!(", about {} left", duration(left)));
        self.context.monitor.note(&format!(
            "{ended}/{} {}: {accuracy}{:.0} s{left}",
            self.runs.len(),
            self.runs[index].name(),
            report.outcome.seconds
        ));
    }

    /// The time left at the current pace; `None` if nothing has been done yet.
    #[allow(clippy::cast_precision_loss, reason = "a number of steps")]
    fn time_left(&self) -> Option<Duration> {
        (self.left > 0 && self.steps > 0)
            .then(|| self.started.elapsed().mul_f64(self.left as f64 / self.steps as f64))
    }

    fn measured(&mut self, index: usize, bytes: u64) {
        match self.peaks.iter_mut().find(|(i, _)| *i == index) {
            Some((_, peak)) => *peak = bytes.max(*peak),
            None => self.peaks.push((index, bytes)),
        }
    }

    /// The expected memory of a run: the largest peak of the same student, else of any; unknown
    /// before one has been measured.
    fn estimate(&self, index: usize) -> Option<u64> {
        let student = &self.runs[index].student;
        let same =
            self.peaks.iter().filter(|(i, _)| self.runs[*i].student == *student).map(|p| p.1).max();
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number of bytes"
        )]
        same.or_else(|| self.peaks.iter().map(|p| p.1).max())
            .map(|bytes| (bytes as f64 * MARGIN) as u64)
    }

    /// Whether the next run may start along with those in progress. The first one always may.
    fn fits(&mut self) -> bool {
        let (Some(limit), Some(&next)) = (self.limits.memory, self.pending.front()) else {
            return true;
        };
        let taken: Option<u64> = self
            .running
            .iter()
            .map(|r| Some(self.estimate(r.index)?.max(r.peak.unwrap_or(0))))
            .sum();
        let needs = self.estimate(next);
        let fits = admits(limit, self.running.len(), taken, needs);
        if let (false, false, Some(needs)) = (fits, self.has_noted_memory, needs) {
            self.has_noted_memory = true;
            let at_work = self.running.len();
            let (needs, limit) = (human_bytes(needs), human_bytes(limit));
            self.context.monitor.note(&format!(
                "memory: {at_work} at once, the next would take about {needs} of {limit}"
            ));
        }
        fits
    }
}

/// Whether a run that needs `needs` bytes may start along with `running` others that use `taken`;
/// if either is unknown, only one run fits.
fn admits(limit: u64, running: usize, taken: Option<u64>, needs: Option<u64>) -> bool {
    running == 0
        || taken
            .zip(needs)
            .and_then(|(taken, needs)| taken.checked_add(needs))
            .is_some_and(|sum| sum <= limit)
}

/// `2 h 05 min`, `7 min`, `12 s`.
fn duration(time: Duration) -> String {
    let minutes = (time.as_secs() + 30) / 60;
    match (minutes / 60, minutes % 60) {
        (0, 0 | 1) => format!("{} s", time.as_secs()),
        (0, minutes) => format!("{minutes} min"),
        (hours, minutes) => format!("{hours} h {minutes:02} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_further_run_starts_only_where_it_fits() {
        // the first one always
        assert!(admits(10, 0, Some(0), None) && admits(10, 0, Some(0), Some(50)));
        // nothing together with a run of unknown memory
        assert!(!admits(10, 1, None, None) && !admits(10, 1, Some(4), None));
        assert!(admits(10, 1, Some(5), Some(5)));
        assert!(!admits(10, 1, Some(5), Some(6)));
        assert!(!admits(u64::MAX, 1, Some(u64::MAX), Some(1)));
    }

    #[test]
    fn times_for_people() {
        let shown = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(
            [shown(0), shown(12), shown(80), shown(150), shown(7500)],
            ["0 s", "12 s", "80 s", "3 min", "2 h 05 min"]
        );
    }
}
