//! `train STUDENT`: arguments → job → run → a one-line summary.

use super::preprocess_args::PreprocessArgs;
use super::{Context, emit, emit_json};
use crate::data::DataSpec;
use crate::error::Result;
use crate::recipe::{Config, CriterionRecipe, SakdMode, Train};
use crate::runtime::Device;
use crate::student::{FoldedNorms, Precision};
use crate::train::{Job, Report, prepare};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

pub(super) const EXAMPLES: &str = "\
Examples:
  nst-cache train resnet20 --cache cache/teacher
  nst-cache train student.onnx --cache cache/teacher --criterion kd:weight=0.9 --criterion \
                                   ce:weight=0.1 --criterion nst
  nst-cache train wrn-16-2 --data cifar10:cifar-10-batches-bin --preprocess cifar10 --epochs 60
  nst-cache train resnet20 --cache cache/teacher --sakd exact --sakd-teacher models/teacher.onnx
  nst-cache train resnet20 --cache cache/teacher --resume

Without a cache it trains on the labels alone: that is how a teacher is made. Stopped or killed, \
                                   --resume continues with the same bits.";

/// Arguments of `train`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[allow(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Args {
    /// A preset (resnet20, wrn-16-2, …), an .onnx file, or the name of a student in
    /// nst-cache.toml
    #[arg(value_name = "STUDENT")]
    student: String,
    /// Cache to train from
    #[arg(long, value_name = "DIR", conflicts_with = "data")]
    cache: Option<PathBuf>,
    /// Data set to train on without a teacher
    #[arg(long, value_name = "SPEC")]
    data: Option<DataSpec>,
    /// Part of the data set [default: train]
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// Location of the images that the cache was extracted from, if it does not store them
    /// [default: the location that the cache names]
    #[arg(long, value_name = "SPEC", conflicts_with = "data")]
    source: Option<DataSpec>,
    /// Evaluation data set, or a cache of its teacher's outputs, with which the student's are
    /// compared [default: the test split of the training data]
    #[arg(long, value_name = "SPEC[:SPLIT]")]
    test: Option<String>,
    /// Recipe file; flags override it. Its table `optimizer` takes no-decay (patterns of
    /// parameters; norm means scale and bias of every normalization) and group (pattern and
    /// lr-factor; the first match applies)
    #[arg(long, value_name = "FILE.toml")]
    recipe: Option<PathBuf>,
    /// Term of the loss, METHOD[:key=value,…] (repeat for more); `nst-cache criteria` lists the
    /// methods and their keys. All take weight, from, until, warmup-epochs (epochs) and decay-to (a
    /// weight); those of maps and vectors take pair=TEACHER>STUDENT
    #[arg(long = "criterion", value_name = "SPEC")]
    criteria: Vec<CriterionRecipe>,
    /// Choose for each sample at which of the pairs it is distilled (spot-adaptive; settings are in
    /// a recipe's table `sakd`): by a policy that learns from the cache (cached, the default), or
    /// from routes through both the student and the teacher (exact)
    #[arg(long, value_name = "MODE", num_args = 0..=1)]
    #[allow(clippy::option_option, reason = "left out, without a mode, with one: as clap says it")]
    sakd: Option<Option<SakdMode>>,
    /// The ONNX file that produced the cache, for --sakd exact, which runs its stages at every step
    #[arg(long, value_name = "FILE.onnx")]
    sakd_teacher: Option<PathBuf>,
    /// Epochs; with --resume, more epochs than the folder's run has extend it, unless its schedule
    /// or weights depend on its end
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Samples per step
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Peak learning rate
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// Seed of initial weights, data order and augmentation
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Initializers to freeze (pattern with *, repeat for more)
    #[arg(long, value_name = "PATTERN")]
    freeze: Vec<String>,
    /// Initializers to train that would not train by default
    #[arg(long, value_name = "PATTERN")]
    train: Vec<String>,
    /// Normalize with the running statistics, and leave them unchanged
    #[arg(long)]
    freeze_batchnorm: bool,
    /// Give the student a new last layer of N classes or values, drawn from the seed
    #[arg(long, value_name = "N")]
    head: Option<usize>,
    /// Export the projectors that criteria learn (projector=true), as further outputs named for the
    /// teacher's taps
    #[arg(long)]
    export_projector: bool,
    /// Insert a new batch norm after every convolution into which the student's exporter folded one
    #[arg(long, conflicts_with = "leave_folded")]
    insert_batchnorm: bool,
    /// Train without the batch norms that the student's exporter folded into convolutions
    #[arg(long)]
    leave_folded: bool,
    /// Leave out the last batch of an epoch if it is incomplete
    #[arg(long)]
    drop_last: bool,
    /// The convolutions' rounding: fast adds Winograd's F(4x4), strict keeps errors below 1e-6
    #[arg(long, value_name = "fast|strict")]
    precision: Option<Precision>,
    /// Only the first N samples
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Shuffle the data set with this seed before --limit
    #[arg(long, value_name = "SEED")]
    shuffle: Option<u64>,
    /// Resume from the run's last checkpoint, to its end or, with more --epochs, beyond
    #[arg(long)]
    resume: bool,
    /// Steps between checkpoints, in addition to one at the end of each epoch
    #[arg(long, value_name = "STEPS")]
    checkpoint_steps: Option<NonZeroUsize>,
    /// Where to train: cpu, cuda, cuda:INDEX or auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: Device,
    /// Folder for the run [default: runs/ and the student's name]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// Runs the command.
///
/// # Errors
/// When an input is bad (named); a failed check if the exported model disagrees with the trainer;
/// an interruption if the user asks to stop.
#[allow(clippy::needless_pass_by_value, reason = "every command takes its arguments")]
pub fn run(args: Args, context: &Context<'_>) -> Result<()> {
    let (job, host) = (args.job(context.config)?, context.host());
    let report = prepare(&job, &host)?.run(&host)?;
    show(&report, &job.output, context)?;
    report.parity.check()
}

impl Args {
    /// The job: flags first, then the recipe file, then the working folder's defaults.
    fn job(self, config: &Config) -> Result<Job> {
        let mut job = job_of(&self.student, config);
        let named = config.students.get(&self.student).and_then(|entry| entry.recipe.as_ref());
        if let Some(path) = self.recipe.as_ref().or(named) {
            job.recipe = Train::read(path)?;
        }
        self.change(&mut job.recipe);
        let split = self.split.or_else(|| config.split.clone());
        let split = split.unwrap_or_else(|| "train".to_owned());
        job.cache = self.cache.or(job.cache);
        match (self.data, &job.cache) {
            (Some(data), _) => (job.cache, job.data) = (None, Some((data, split))),
            (None, Some(_)) => {}
            (None, None) => job.data = config.data.clone().map(|data| (data, split)),
        }
        job.source = self.source;
        job.test = self.test.as_deref().map(spec_and_split).transpose()?;
        job.preprocess = self.preprocess.options()?.or(job.preprocess);
        job.output = self.output.unwrap_or(job.output);
        job.device = self.device;
        job.checkpoint_steps = self.checkpoint_steps.map(NonZeroUsize::get);
        job.resume = self.resume;
        Ok(job)
    }

    /// Applies flags to the recipe.
    fn change(&self, recipe: &mut Train) {
        recipe.epochs = self.epochs.unwrap_or(recipe.epochs);
        recipe.batch = self.batch.unwrap_or(recipe.batch);
        recipe.seed = self.seed.unwrap_or(recipe.seed);
        recipe.limit = self.limit.or(recipe.limit);
        recipe.shuffle = self.shuffle.or(recipe.shuffle);
        recipe.freeze_batchnorm |= self.freeze_batchnorm;
        recipe.drop_last |= self.drop_last;
        recipe.head = self.head.or(recipe.head);
        recipe.export_projector |= self.export_projector;
        if self.insert_batchnorm {
            recipe.folded_batchnorm = FoldedNorms::Insert;
        }
        if self.leave_folded {
            recipe.folded_batchnorm = FoldedNorms::Leave;
        }
        recipe.precision = self.precision.unwrap_or(recipe.precision);
        recipe.freeze.extend(self.freeze.iter().cloned());
        recipe.train.extend(self.train.iter().cloned());
        if let Some(lr) = self.lr {
            recipe.optimizer.rule.set_lr(lr);
        }
        if !self.criteria.is_empty() {
            recipe.criteria.clone_from(&self.criteria);
        }
        if self.sakd.is_some() || self.sakd_teacher.is_some() {
            let sakd = recipe.sakd.get_or_insert_default();
            sakd.mode = self.sakd.flatten().unwrap_or(sakd.mode);
            sakd.teacher = self
                .sakd_teacher
                .clone()
                .or(sakd.teacher.take().filter(|_| sakd.mode == SakdMode::Exact));
        }
    }
}

/// A job for a student, with the working folder's defaults.
pub(super) fn job_of(student: &str, config: &Config) -> Job {
    let entry = config.students.get(student);
    let folder = if entry.is_some() { student.to_owned() } else { stem(student) };
    let mut job = Job::new(student, Path::new("runs").join(folder));
    if let Some(entry) = entry {
        job.student.clone_from(&entry.model);
    }
    job.cache = entry.and_then(|entry| entry.cache.clone()).or_else(|| config.cache.clone());
    job.preprocess = config.preprocess.clone();
    job
}

/// `models/net.onnx` → `net`; presets are unchanged.
pub(super) fn stem(name: &str) -> String {
    let path = std::path::Path::new(name);
    let is_file = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
    path.file_stem()
        .filter(|_| is_file)
        .map_or_else(|| name.to_owned(), |s| s.to_string_lossy().into_owned())
}

/// `SPEC` or `SPEC:SPLIT`; only known split names count as one, since paths can contain colons.
fn spec_and_split(text: &str) -> Result<(DataSpec, String)> {
    match text.rsplit_once(':') {
        Some((spec, split @ ("train" | "test" | "val" | "valid" | "validation")))
            if !spec.is_empty() =>
        {
            Ok((spec.parse()?, split.to_owned()))
        }
        _ => Ok((text.parse()?, "test".to_owned())),
    }
}

fn show(report: &Report, folder: &Path, context: &Context<'_>) -> Result<()> {
    if context.json {
        return emit_json(report);
    }
    let tested = report.outcome.test.as_ref();
    let accuracy = tested
        .map_or_else(String::new, |test| format!("{test} of {} test samples, ", test.samples));
    emit(&format!(
        "{}: {accuracy}{} parameters, {:.1} s, {}",
        folder.join(&report.model).display(),
        report.parameters,
        report.outcome.seconds,
        report.parity
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_is_taken_from_the_end_only_by_its_name() {
        let of = |text: &str| {
            spec_and_split(text).map(|(spec, split)| (spec.to_string(), split)).unwrap()
        };
        assert_eq!(of("fashion-mnist"), ("fashion-mnist".into(), "test".into()));
        assert_eq!(of("idx:data:train"), ("idx:data".into(), "train".into()));
        assert_eq!(of("folder:a:b"), ("folder:a:b".into(), "test".into()));
    }

    #[test]
    fn runs_are_named_by_their_student() {
        assert_eq!(stem("models/net.v2.onnx"), "net.v2");
        assert_eq!(stem("wrn-16-2"), "wrn-16-2");
        assert_eq!(stem("resnet8x4"), "resnet8x4");
    }
}
