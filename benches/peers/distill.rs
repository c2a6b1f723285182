//! `bench distill`: one distillation step from a cache, with the pair of networks, batch and
//! optimizer of the usual comparison in PyTorch, which runs its teacher in every step.

use crate::memory::peak_rss_mb;
use crate::summary::{Summary, summary};
use crate::synthetic::{self, Synthetic};
use crate::{Context, emit, emit_json};
use clap::ValueEnum;
use nst_cache::cache::Cache;
use nst_cache::data::Take;
use nst_cache::error::{Error, Result};
use nst_cache::recipe::{OptimizerRecipe, Teaching, Train};
use nst_cache::student::{Executor, ImportOptions, Precision, Student, preset};
use nst_cache::trainer::loader::{Batches, Steps, stream};
use nst_cache::trainer::loss::{Learnable, Objective};
use nst_cache::trainer::optimizer::Optimizer;
use nst_cache::trainer::pairing;
use nst_cache::trainer::schedule::Clock;
use nst_cache::trainer::source::{CacheSource, Source};
use nst_cache::trainer::step::{self, Settings, Times};
use serde::Serialize;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

/// Arguments of `bench distill`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Teacher and student: cifar is ResNet-56 to ResNet-20 at 32x32, imagenet ResNet-101 to
    /// ResNet-18 at 224x224
    #[arg(long, value_enum, default_value_t = Networks::Cifar)]
    pair: Networks,
    /// Images of a step [default: 64 of 32x32, 8 of 224x224]
    #[arg(long, value_name = "N")]
    batch: Option<NonZeroUsize>,
    /// Steps that are measured
    #[arg(long, default_value_t = NonZeroUsize::new(25).unwrap_or(NonZeroUsize::MIN))]
    steps: NonZeroUsize,
    /// Steps before them
    #[arg(long, default_value_t = 6)]
    warmup: usize,
    /// The convolutions' rounding
    #[arg(long, value_name = "fast|strict", default_value_t)]
    precision: Precision,
}

/// Two networks. The teacher is there by the shapes of its stages alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Networks {
    Cifar,
    Imagenet,
}

impl Networks {
    fn student(self) -> &'static str {
        match self {
            Self::Cifar => "resnet20",
            Self::Imagenet => "resnet18",
        }
    }

    fn classes(self) -> usize {
        match self {
            Self::Cifar => 10,
            Self::Imagenet => 1000,
        }
    }

    fn side(self) -> usize {
        match self {
            Self::Cifar => 32,
            Self::Imagenet => 224,
        }
    }

    fn batch(self) -> usize {
        match self {
            Self::Cifar => 64,
            Self::Imagenet => 8,
        }
    }

    /// Channels, height and width of the teacher's stages.
    fn stages(self) -> &'static [[usize; 3]] {
        match self {
            Self::Cifar => &[[16, 32, 32], [32, 16, 16], [64, 8, 8]],
            Self::Imagenet => &[[256, 56, 56], [512, 28, 28], [1024, 14, 14], [2048, 7, 7]],
        }
    }
}

/// Batches of an epoch.
const BATCHES: usize = 8;

/// What was measured.
#[derive(Debug, Serialize)]
struct DistillRow {
    pair: Networks,
    batch: usize,
    threads: usize,
    precision: Precision,
    median_ms: f64,
    p10_ms: f64,
    p90_ms: f64,
    /// Medians of the parts: waiting for data, the student forward, the criteria with their
    /// gradients, the student backward, the optimizer.
    wait_ms: f64,
    forward_ms: f64,
    criteria_ms: f64,
    backward_ms: f64,
    update_ms: f64,
    images_per_s: f64,
    /// Of the process, the mapped parts of the cache included; `null` where the system does not
    /// say.
    peak_rss_mb: Option<f64>,
    last_loss: f64,
}

#[allow(clippy::cast_precision_loss, reason = "a number of images")]
pub fn run(args: &Args, context: &Context<'_>) -> Result<()> {
    let batch = args.batch.map_or(args.pair.batch(), NonZeroUsize::get);
    let folder = tempfile::Builder::new()
        .prefix("nst-cache-bench")
        .tempdir()
        .map_err(|e| Error::input("temporary folder").because(e))?;
    let pair = args.pair;
    context.monitor.note(&format!("writing a cache of {} rows", BATCHES * batch));
    let classes = i64::try_from(pair.classes()).unwrap_or(i64::MAX);
    let synthetic = Synthetic {
        side: pair.side(),
        classes,
        stages: pair.stages(),
        signed: false,
        rows: BATCHES * batch,
        batch,
        codec: None,
    };
    synthetic::write(folder.path(), &synthetic)?;
    let cache = Cache::open(folder.path())?;
    let measured = measure(args, batch, &cache, context)?;
    let part = |of: fn(&StepTimes) -> Duration| {
        summary(measured.steps.iter().map(|s| milliseconds(of(s))).collect())
    };
    let Summary { median: median_ms, p10: p10_ms, p90: p90_ms } = part(|s| s.whole);
    let row = DistillRow {
        pair,
        batch,
        threads: context.threads,
        precision: args.precision,
        median_ms,
        p10_ms,
        p90_ms,
        wait_ms: part(|s| s.waited).median,
        forward_ms: part(|s| s.times.forward).median,
        criteria_ms: part(|s| s.times.criteria).median,
        backward_ms: part(|s| s.times.backward).median,
        update_ms: part(|s| s.times.update).median,
        images_per_s: batch as f64 / median_ms * 1e3,
        peak_rss_mb: peak_rss_mb(),
        last_loss: measured.last_loss,
    };
    if context.json {
        return emit_json(&row);
    }
    emit(&format!(
        "{}: {median_ms:.1} ms a step of {batch} (p10 {p10_ms:.1}, p90 {p90_ms:.1}), {:.0} \
         images/s\ndata {:.1}, forward {:.1}, criteria {:.1}, backward {:.1}, update {:.1} ms; \
         peak memory {}; {} threads, precision {}",
        pair.to_possible_value().map_or_else(String::new, |name| name.get_name().to_owned()),
        row.images_per_s,
        row.wait_ms,
        row.forward_ms,
        row.criteria_ms,
        row.backward_ms,
        row.update_ms,
        row.peak_rss_mb.map_or_else(|| "-".to_owned(), |mb| format!("{mb:.0} MB")),
        row.threads,
        row.precision
    ))
}

struct StepTimes {
    whole: Duration,
    waited: Duration,
    times: Times,
}

struct Measured {
    steps: Vec<StepTimes>,
    last_loss: f64,
}

fn measure(args: &Args, batch: usize, cache: &Cache, context: &Context<'_>) -> Result<Measured> {
    let (pair, side) = (args.pair, args.pair.side());
    let lr = 0.05;
    let recipe = Train {
        batch,
        drop_last: true,
        optimizer: OptimizerRecipe::Sgd { lr, momentum: 0.9, nesterov: true, weight_decay: 5e-4 }
            .into(),
        precision: args.precision,
        ..Train::default()
    };
    let model = preset::build(pair.student(), pair.classes(), [3, side, side], recipe.seed)?;
    let student = Student::import(
        &model,
        &ImportOptions {
            executor: Executor::Blocked(recipe.precision),
            ..ImportOptions::default()
        },
    )?;
    let terms = recipe.terms(Teaching::Maps);
    let students = pairing::student_maps(&student.taps(&[vec![batch, 3, side, side]])?);
    let (pairs, left) =
        pairing::suggest("nst", &pairing::teacher_maps(cache.manifest()), &students)?;
    if pairs.len() != pair.stages().len() {
        return Err(Error::check(format!(
            "bench distill: expected {} pairs, found {}: {}",
            pair.stages().len(),
            pairs.len(),
            left.join(", ")
        )));
    }
    let objective =
        Objective::new(&terms, &vec![pairs; terms.len()], recipe.label_smoothing, &student)?;
    let inputs: Vec<String> = student.inputs().iter().map(|input| input.name.clone()).collect();
    let cached = CacheSource::new(
        cache,
        &inputs,
        objective.teacher_logits,
        &objective.taps,
        Take::default(),
        recipe.seed,
        true,
    )?;
    let source = Source::Cache(cached);
    let variables = student.parameters().iter().map(|p| p.var.clone()).collect();
    let mut optimizer = Optimizer::create(variables, recipe.optimizer.rule.clone())?;
    let mut learnable = Learnable::new(&objective, &recipe, &source, context.monitor)?;

    let steps = Steps { rows: source.len(), batch, drop_last: recipe.drop_last };
    let total_steps = args.warmup + args.steps.get();
    let range = 0..total_steps;
    let mut measured =
        Measured { steps: Vec::with_capacity(args.steps.get()), last_loss: f64::NAN };
    context.monitor.note(&format!("{}: {} + {} steps", pair.student(), args.warmup, args.steps));
    stream(&source, steps, range.clone(), context.threads.clamp(1, 2), |batches: &mut Batches| {
        for step in range {
            let (start, before) = (Instant::now(), batches.waited());
            let batch = batches.take()?;
            let clock = Clock { step, steps_per_epoch: steps.per_epoch(), total_steps };
            let (clip, classes) = (recipe.clip, Some(student.logits()));
            let settings = Settings { clock, lr, clip, classes, seed: step as u64 };
            let stepped = step::step(
                &student,
                &objective,
                &mut optimizer,
                &mut learnable,
                &batch,
                &settings,
            )?;
            // what a batch held is given back within its step, as it is in a run
            drop(batch);
            measured.last_loss = stepped.value.total;
            if step >= args.warmup {
                let waited = batches.waited().saturating_sub(before);
                measured.steps.push(StepTimes {
                    whole: start.elapsed(),
                    waited,
                    times: stepped.times,
                });
            }
        }
        Ok(())
    })?;
    Ok(measured)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
