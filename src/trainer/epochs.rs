//! The training loop: batch, forward, loss, backward, clip, step; evaluation and a checkpoint every
//! epoch.

use super::checkpoint::{self, CHECKPOINT, Position};
use super::groups;
use super::loader::{Batches, Steps, stream};
use super::loss::{Learnable, Objective};
use super::metrics::{Evaluation, Metrics, Record, Sums};
use super::optimizer::Optimizer;
use super::schedule::{Clock, Schedule, dropout_seed};
use super::source::{Batch, Source};
use super::step::{self, Settings, Stepped};
use super::test::{Passes, Test};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::recipe::Train;
use crate::storage::{self, Lock};
use crate::student::{Student, TensorId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Settings of a run that do not affect its result.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Steps between checkpoints, in addition to one at the end of each epoch.
    pub checkpoint_steps: Option<usize>,
    /// Steps between lines of the metrics.
    pub log_steps: usize,
    /// Threads that prepare batches.
    pub loader_threads: usize,
}

/// Everything that a run works with.
pub struct Training<'a> {
    /// The recipe.
    pub recipe: &'a Train,
    /// The loss.
    pub objective: &'a Objective,
    /// The student, trained in place.
    pub student: &'a Student,
    /// The student's class logits, whose accuracy is measured; `None` if it has none.
    pub classes: Option<TensorId>,
    /// The training data.
    pub source: &'a Source<'a>,
    /// What is measured after each epoch.
    pub test: Option<&'a Test<'a>>,
    /// Keeps the student of today, which is the best so far on the test samples.
    pub keep_best: &'a (dyn Fn(&Evaluation, &Learnable) -> Result<()> + Sync),
    /// The run's folder.
    pub folder: &'a Lock,
    /// A hash of everything that determines the run's bits.
    pub identity: &'a str,
    /// The hashes of shorter runs that begin with the same steps, whose checkpoints can also be
    /// resumed.
    pub shorter: &'a [String],
    /// Whether to resume from a checkpoint in the folder.
    pub resume: bool,
    /// Settings that do not affect the result.
    pub options: Options,
    /// Receives progress, and says whether to stop.
    pub monitor: &'a dyn Monitor,
}

/// The result of a training run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// Epochs trained.
    pub epochs: usize,
    /// Steps taken, over all epochs.
    pub steps: usize,
    /// Training time in seconds, including evaluation and interrupted runs.
    pub seconds: f64,
    /// Mean loss of the last epoch.
    pub loss: f64,
    /// The mean of each of its terms that was on.
    pub parts: BTreeMap<String, f64>,
    /// Accuracy on the training samples of the last epoch, in percent.
    pub train_top1: Option<f64>,
    /// The last evaluation.
    pub test: Option<Evaluation>,
}

/// Trains to the end, from the start or from the folder's checkpoint. `learnable`: the untrained
/// state of the objective's criteria, trained in place.
///
/// # Errors
/// When a sample cannot be read, the loss is not finite (names step and term), the disk fails, or
/// the user asks to stop (progress so far is then saved).
pub fn run(run: &Training<'_>, learnable: &mut Learnable) -> Result<Outcome> {
    let steps =
        Steps { rows: run.source.len(), batch: run.recipe.batch, drop_last: run.recipe.drop_last };
    let per_epoch = steps.per_epoch();
    if per_epoch == 0 {
        return Err(Error::input(format!(
            "training: expected at least one batch of {}, found {} samples",
            steps.batch, steps.rows
        )));
    }
    let total = per_epoch * run.recipe.epochs;
    let parameters = run.student.parameters().iter().map(|p| p.var.clone()).collect();
    let mut optimizer = Optimizer::create(parameters, run.recipe.optimizer.rule.clone())?
        .with_factors(groups::factors(run.student, &run.recipe.optimizer)?)?;
    let path = run.folder.folder().join(CHECKPOINT);
    let (position, lines) = if run.resume && storage::is_there(&path)? {
        let accepted =
            |found: &str| found == run.identity || run.shorter.iter().any(|s| s == found);
        let (loaded, lines) =
            checkpoint::load(&path, accepted, run.student, &mut optimizer, learnable)?;
        (Position { identity: run.identity.to_owned(), ..loaded }, lines)
    } else {
        learnable.pretrain(
            run.objective,
            run.recipe,
            run.source,
            run.options.loader_threads,
            run.monitor,
        )?;
        (Position::start(run.identity), Vec::new())
    };
    if position.step > 0 {
        run.monitor.note(&format!(
            "resuming at epoch {}, step {} of {total}",
            position.step / per_epoch + 1,
            position.step
        ));
    }
    let schedule = Schedule::new(
        run.recipe.schedule.clone(),
        run.recipe.optimizer.rule.lr(),
        per_epoch,
        run.recipe.epochs,
    );
    let metrics = Metrics::open(run.folder, lines)?;
    let first = position.step;
    let mut trainer = Trainer {
        run,
        steps,
        total,
        schedule,
        optimizer,
        learnable,
        metrics,
        earlier: position.seconds,
        position,
        started: Instant::now(),
        epoch: RateWindow::start(),
        line: RateWindow::start(),
    };
    stream(run.source, steps, first..total, run.options.loader_threads, |batches| {
        trainer.train(batches)
    })?;
    Ok(trainer.outcome())
}

/// A time span over which rates are measured.
struct RateWindow {
    start: Instant,
    samples: usize,
    waited: Duration,
}

impl RateWindow {
    fn start() -> Self {
        Self { start: Instant::now(), samples: 0, waited: Duration::ZERO }
    }

    /// Samples per second, and the share of time spent waiting for data.
    #[allow(clippy::cast_precision_loss, reason = "a number of samples")]
    fn rates(&self) -> (f64, f64) {
        let seconds = self.start.elapsed().as_secs_f64().max(1e-9);
        (self.samples as f64 / seconds, self.waited.as_secs_f64() / seconds)
    }

    fn add(&mut self, samples: usize, waited: Duration) {
        self.samples += samples;
        self.waited += waited;
    }
}

struct Trainer<'a> {
    run: &'a Training<'a>,
    steps: Steps,
    total: usize,
    schedule: Schedule,
    optimizer: Optimizer,
    learnable: &'a mut Learnable,
    metrics: Metrics,
    position: Position,
    /// Training time of earlier, interrupted runs.
    earlier: f64,
    started: Instant,
    epoch: RateWindow,
    line: RateWindow,
}

impl Trainer<'_> {
    fn train(&mut self, batches: &mut Batches) -> Result<()> {
        let per_epoch = self.steps.per_epoch();
        let monitor = self.run.monitor;
        let mut open = false;
        while self.position.step < self.total {
            let step = self.position.step;
            if step.is_multiple_of(per_epoch) {
                self.position.sums = Sums::default();
            }
            if !open {
                self.begin_epoch(step);
                open = true;
            }
            let before = batches.waited();
            let batch = batches.take()?;
            let waited = batches.waited().saturating_sub(before);
            let samples = self.step(step, &batch, waited)?;
            monitor.advance(samples as u64, 0);
            self.position.step = step + 1;
            let ended = self.position.step.is_multiple_of(per_epoch);
            if ended {
                monitor.end();
                open = false;
                self.end_epoch()?;
            }
            let asked = monitor.stop_requested() && self.position.step < self.total;
            let due = self
                .run
                .options
                .checkpoint_steps
                .is_some_and(|n| self.position.step.is_multiple_of(n.max(1)));
            if ended || asked || due {
                self.save()?;
            }
            if asked {
                if open {
                    monitor.end();
                }
                return Err(Error::interrupted(format!(
                    "training: stopped at step {} of {}, saved in {}",
                    self.position.step,
                    self.total,
                    self.run.folder.folder().display()
                ))
                .hint("the same command with --resume continues"));
            }
        }
        Ok(())
    }

    fn begin_epoch(&mut self, step: usize) {
        let per_epoch = self.steps.per_epoch();
        let (_, positions) = self.steps.positions(step);
        let rows = (per_epoch * self.steps.batch).min(self.steps.rows);
        let name = format!("epoch {}/{}", step / per_epoch + 1, self.run.recipe.epochs);
        self.run.monitor.begin(&name, "images", rows as u64, positions.start as u64);
        self.epoch = RateWindow::start();
        self.line = RateWindow::start();
    }

    /// Takes one step; returns its number of samples.
    fn step(&mut self, step: usize, batch: &Batch, waited: Duration) -> Result<usize> {
        let lr = self.schedule.rate(step);
        let seed = dropout_seed(self.run.recipe.seed, step);
        let Training { student, objective, .. } = *self.run;
        let clock =
            Clock { step, steps_per_epoch: self.steps.per_epoch(), total_steps: self.total };
        let clip = self.run.recipe.clip;
        let settings = Settings { clock, lr, clip, classes: self.run.classes, seed };
        let Stepped { value, norm, counts, .. } =
            step::step(student, objective, &mut self.optimizer, self.learnable, batch, &settings)?;

        let samples = batch.labels.len();
        self.position.sums.add(samples, value.total, &value.parts, counts);
        self.position.sums.add_selected(&value.selected);
        self.epoch.add(samples, waited);
        self.line.add(samples, waited);
        if (step + 1).is_multiple_of(self.run.options.log_steps.max(1)) {
            let (images_per_second, data_wait) = self.line.rates();
            self.metrics.write(&Record::Step {
                epoch: step / self.steps.per_epoch() + 1,
                step,
                lr,
                loss: value.total,
                parts: self.named(&value.parts),
                gradient_norm: norm,
                images_per_second,
                data_wait,
            })?;
            self.run.monitor.status(&format!("loss {:.4}", value.total));
            self.line = RateWindow::start();
        }
        Ok(samples)
    }

    fn end_epoch(&mut self) -> Result<()> {
        let (images_per_second, data_wait) = self.epoch.rates();
        self.position.test = match self.run.test {
            Some(test) => {
                let (batch, threads) = (self.run.recipe.batch, self.run.options.loader_threads);
                let passes = Passes { batch, threads, monitor: self.run.monitor };
                test.measure(self.run.student, passes)?
            }
            None => None,
        };
        if let Some(test) = &self.position.test
            && let Some(score) = test.score()
            && self.position.best.is_none_or(|best| score > best)
        {
            (self.run.keep_best)(test, self.learnable)?;
            self.position.best = Some(score);
        }
        let (loss, parts) = self.position.sums.means();
        let epoch = self.position.step / self.steps.per_epoch();
        let parts = self.named(&parts);
        let mut shown = vec![format!("epoch {epoch}/{}: loss {loss:.4}", self.run.recipe.epochs)];
        if parts.len() > 1 {
            shown.extend(parts.iter().map(|(name, part)| format!("{name} {part:.4}")));
        }
        let spots: BTreeMap<String, f64> =
            self.run.objective.spots().into_iter().zip(self.position.sums.shares()).collect();
        shown.extend(spots.iter().map(|(name, share)| format!("{:.0} % at {name}", 100.0 * share)));
        shown.extend(self.position.test.as_ref().map(|test| format!("test {test}")));
        shown.push(format!("{images_per_second:.0} images/s"));
        self.run.monitor.note(&shown.join(", "));
        self.metrics.write(&Record::Epoch {
            epoch,
            step: self.position.step,
            lr: self.schedule.rate(self.position.step - 1),
            loss,
            parts,
            spots,
            train_top1: self.position.sums.top1(),
            test: self.position.test.clone(),
            images_per_second,
            data_wait,
        })
    }

    fn save(&mut self) -> Result<()> {
        self.metrics.sync()?;
        self.position.metrics_bytes = self.metrics.text().len() as u64;
        self.position.optimizer_steps = self.optimizer.steps();
        self.position.learnable_steps = self.learnable.steps();
        self.position.seconds = self.earlier + self.started.elapsed().as_secs_f64();
        checkpoint::save(
            self.run.folder,
            &self.position,
            self.metrics.text(),
            self.run.student,
            &self.optimizer,
            self.learnable,
        )
    }

    fn named(&self, parts: &[Option<f64>]) -> BTreeMap<String, f64> {
        self.run
            .objective
            .terms
            .iter()
            .zip(parts)
            .filter_map(|(term, part)| Some((term.name.clone(), (*part)?)))
            .collect()
    }

    fn outcome(&self) -> Outcome {
        let (loss, parts) = self.position.sums.means();
        Outcome {
            epochs: self.run.recipe.epochs,
            steps: self.total,
            seconds: self.position.seconds,
            loss,
            parts: self.named(&parts),
            train_top1: self.position.sums.top1(),
            test: self.position.test.clone(),
        }
    }
}
