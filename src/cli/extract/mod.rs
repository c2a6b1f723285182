//! `extract TEACHER.onnx`: arguments → recipe → [`crate::extract::run`] → a few lines or one
//! JSON document.

mod sizes;
mod student;

use super::feed_args::FeedArgs;
use super::preprocess_args::PreprocessArgs;
use super::{Context, emit, emit_json};
use crate::data::{Augment, Augmentation, ColorJitter, DataSpec, ViewCount};
use crate::error::{Error, Result};
use crate::extract::{self, ExtractReport, human_bytes};
use crate::recipe::{
    Compress, CriterionRecipe, Extract, Inputs, Keep, LogitsChoice, LogitsKeep, Store, Teaching,
    Train,
};
use crate::runtime::{Device, SessionOptions};
use clap::ValueEnum;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

pub(super) const EXAMPLES: &str = "\
Examples:
  nst-cache extract teacher.onnx --data folder:photos/train --preprocess imagenet
  nst-cache extract teacher.onnx --data cifar10:cifar-10-batches-bin --limit 1000 --shuffle 1
  nst-cache extract teacher.onnx --data photos.tar.gz --tap /layer3/Relu_1_output_0@8x8=layer3 -o \
                                   cache/photos
  nst-cache extract tf.onnx --data photos --tap block4/relu:0:nhwc
  nst-cache extract teacher.onnx --data photos --views 8 --augment random-resized-crop \
                                   --color-jitter 0.4 --cutmix 1
  nst-cache extract teacher.onnx --data cifar10:cifar-10-batches-bin --views all --augment \
                                   crop-flip
  nst-cache extract model.onnx --data npz:arrays.npz
  nst-cache extract teacher.onnx --data photos --criterion nst --for resnet18
  nst-cache extract teacher.onnx --data photos --keep gram,mean
  nst-cache extract teacher.onnx --data photos --logits-keep topk:16
  nst-cache extract teacher.onnx --data photos --dry-run

The teacher runs once over the data set, in each view of it. Stopped or killed, the same command \
                                   goes on where it was.
More views (--views) or another tap (--tap) are added to a cache that is there: only what is new \
                                   is computed.
`nst-cache inspect TEACHER.onnx` lists the taps; without --tap the suggested ones are kept. With \
                                   --criterion or --recipe the smallest form of each
map is kept from which those criteria can be computed exactly; --dry-run shows what each form \
                                   takes. docs/statistics.md has the mathematics.";

/// Arguments of `extract`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The teacher
    #[arg(value_name = "TEACHER.onnx")]
    teacher: PathBuf,
    /// Data set: folder:DIR, wds:SHARDS, parquet:FILES, csv:FILE, idx:DIR, cifar10:DIR,
    /// cifar100:DIR, npz:FILE, fashion-mnist, or a path
    #[arg(long, value_name = "SPEC")]
    data: Option<DataSpec>,
    /// Part of the data set [default: train]
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// Tensor to keep; its axis order where the graph does not show it, pooled, under another name
    /// (repeat for more) [default: the suggested taps]
    #[arg(long = "tap", value_name = "TENSOR[:nhwc][@HxW][=ALIAS]")]
    taps: Vec<String>,
    /// Tensor of the class logits, or none [default: the first output, before its softmax, if it
    /// holds them]
    #[arg(long, value_name = "TENSOR")]
    logits: Option<LogitsChoice>,
    /// What to keep of the class logits: all of them, or the log-probabilities of the K largest
    /// and the mass of the others [default: all]
    #[arg(long, value_name = "all|topk:K")]
    logits_keep: Option<LogitsKeep>,
    /// For logits at positions: the input that is 0 at those that don't count, such as an
    /// attention mask
    #[arg(long, value_name = "INPUT")]
    logits_mask: Option<String>,
    /// What to keep of each map: auto, or some of features,gram,mean,attention,vector,sign
    #[arg(long, value_name = "auto|LIST", default_value = "auto")]
    keep: Keep,
    /// Criterion that will be computed from the cache, as train takes it: auto keeps what it needs
    /// (repeat for more)
    #[arg(long = "criterion", value_name = "SPEC")]
    criteria: Vec<CriterionRecipe>,
    /// Recipe file of the training that will use the cache: keeps what its criteria need
    #[arg(long, value_name = "FILE.toml", conflicts_with = "criteria")]
    recipe: Option<PathBuf>,
    /// Student whose maps the taps will be compared with: where they are smaller, the taps are
    /// pooled to their sizes
    #[arg(long = "for", value_name = "STUDENT")]
    student: Option<String>,
    /// Measure what each form of each tap takes on disk, print that, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Element type of stored features
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    store: StoreArg,
    /// Compress stored arrays: auto takes those that it makes at least a tenth smaller, none trades
    /// disk for reading without decoding
    #[arg(long, value_name = "auto|none|zstd", default_value = "auto")]
    compress: CompressArg,
    /// Samples of one inference [default: by size]
    #[arg(long, value_name = "N")]
    batch: Option<NonZeroUsize>,
    /// Only the first N samples
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
    /// Shuffle the data set with this seed before --limit
    #[arg(long, value_name = "SEED")]
    shuffle: Option<u64>,
    /// Seed of the fixed order of the rows, and of the views
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Views of each sample, each with an augmentation of its own; all takes every one that
    /// crop-flip or flip has
    #[arg(long, value_name = "N|all", default_value = "1")]
    views: ViewCount,
    /// What part of an image a view shows: none, flip, crop-flip or random-resized-crop
    #[arg(long, value_name = "NAME", default_value = "none")]
    augment: Augment,
    /// Move brightness, contrast, saturation (by factors of up to 1±B, …) and hue (by up to ±H
    /// of the circle)
    #[arg(long, value_name = "B[,C,S[,H]]")]
    color_jitter: Option<ColorJitter>,
    /// Blend each sample with another, by a share from Beta(ALPHA, ALPHA)
    #[arg(long, value_name = "ALPHA")]
    mixup: Option<f64>,
    /// Put a box of another sample into each, of an area from Beta(ALPHA, ALPHA); with --mixup,
    /// either by chance
    #[arg(long, value_name = "ALPHA")]
    cutmix: Option<f64>,
    /// Store the teacher's inputs, or let train decode them from the data again [default: stored
    /// up to 64 KiB per row]
    #[arg(long, value_name = "stored|source")]
    inputs: Option<InputsArg>,
    /// Leave out samples that cannot be read (decodes everything once more beforehand)
    #[arg(long)]
    skip_bad: bool,
    /// Compare all samples with those that the cache was made of, and recompute exactly the rows of
    /// those that have changed
    #[arg(long)]
    refresh: bool,
    /// File with the teacher's classes, one per line in the order of its logits, to which the
    /// data's class names are mapped
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Where the teacher runs: cpu, cuda, cuda:1, tensorrt, tensorrt:1 or auto
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Device,
    /// Folder of the cache [default: cache/ and the teacher's name]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    feed: FeedArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum InputsArg {
    /// They lie in the cache
    Stored,
    /// They are decoded from the data set again
    Source,
}

impl From<InputsArg> for Inputs {
    fn from(arg: InputsArg) -> Self {
        match arg {
            InputsArg::Stored => Self::Stored,
            InputsArg::Source => Self::Source,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StoreArg {
    /// f16, or f32 where the first batch's range asks for it
    Auto,
    /// 16-bit floats
    F16,
    /// 32-bit floats
    F32,
}

impl From<StoreArg> for Store {
    fn from(arg: StoreArg) -> Self {
        match arg {
            StoreArg::Auto => Self::Auto,
            StoreArg::F16 => Self::F16,
            StoreArg::F32 => Self::F32,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CompressArg {
    /// Arrays that it makes at least a tenth smaller
    Auto,
    /// No array
    None,
    /// Every array
    Zstd,
}

impl From<CompressArg> for Compress {
    fn from(arg: CompressArg) -> Self {
        match arg {
            CompressArg::Auto => Self::Auto,
            CompressArg::None => Self::None,
            CompressArg::Zstd => Self::Zstd,
        }
    }
}

/// Runs the command and prints its report.
///
/// # Errors
/// As [`extract::run`], and when no data set is named.
pub fn run(args: Args, context: &Context<'_>) -> Result<()> {
    if args.dry_run {
        return dry_run(args, context);
    }
    let (report, output) = execute(args, context)?;
    if context.json { emit_json(&report) } else { emit(&describe(&report, &output)) }
}

/// Measures and prints the sizes of all forms; writes nothing.
fn dry_run(args: Args, context: &Context<'_>) -> Result<()> {
    let (recipe, session) = resolve(args, context)?;
    let runtime = context.runtime()?;
    let sizes = extract::sizes(&recipe, &runtime, &session, context.monitor)?;
    if context.json { emit_json(&sizes) } else { emit(&sizes::text(&sizes)) }
}

/// The command without its printing: the report and the cache's folder.
pub(super) fn execute(args: Args, context: &Context<'_>) -> Result<(ExtractReport, PathBuf)> {
    let (recipe, session) = resolve(args, context)?;
    let runtime = context.runtime()?;
    let report = extract::run(&recipe, &runtime, &session, context.monitor)?;
    Ok((report, recipe.output))
}

/// The recipe and the session's options, from flags and then the working folder's defaults.
///
/// # Errors
/// If a flag or a default cannot be followed.
pub fn resolve(args: Args, context: &Context<'_>) -> Result<(Extract, SessionOptions)> {
    let session = SessionOptions { device: args.device, threads: context.threads };
    let config = context.config;
    let data = args.data.or_else(|| config.data.clone()).ok_or_else(|| {
        Error::input("--data: expected a data set, found none").hint(
            "write --data folder:DIR (or wds:, parquet:, csv:, idx:, cifar10:, cifar100:, npz:, \
                   fashion-mnist)",
        )
    })?;
    let output = match args.output.or_else(|| config.cache.clone()) {
        Some(output) => output,
        None => default_output(&args.teacher)?,
    };
    let criteria = match &args.recipe {
        Some(path) => Train::read(path)?.terms(Teaching::Maps),
        None => args.criteria,
    };
    let mut recipe = Extract {
        feeding: args.feed.feeding()?,
        preprocess: args.preprocess.options()?,
        default_preprocess: config.preprocess.clone(),
        teacher: args.teacher,
        data,
        split: args.split.or_else(|| config.split.clone()).unwrap_or_else(|| "train".to_owned()),
        taps: args.taps,
        logits: args.logits.unwrap_or_default(),
        logits_keep: args.logits_keep,
        logits_mask: args.logits_mask,
        keep: args.keep,
        criteria,
        sizes: Vec::new(),
        in_graph: None,
        store: args.store.into(),
        compress: args.compress.into(),
        classes: args.classes,
        batch: args.batch.map(NonZeroUsize::get),
        limit: args.limit.map(NonZeroUsize::get),
        shuffle: args.shuffle,
        views: args.views,
        augmentation: Augmentation {
            geometry: args.augment,
            color_jitter: args.color_jitter,
            mixup: args.mixup,
            cutmix: args.cutmix,
        },
        inputs: args.inputs.map(Inputs::from),
        seed: args.seed,
        skip_bad: args.skip_bad,
        refresh: args.refresh,
        output,
        threads: context.threads,
    };
    if let Some(student) = &args.student {
        recipe.sizes = student::map_sizes(student, &recipe, context)?;
    }
    Ok((recipe, session))
}

/// `cache/resnet56` for `models/resnet56.onnx`.
fn default_output(teacher: &Path) -> Result<PathBuf> {
    let stem = teacher
        .file_stem()
        .ok_or_else(|| Error::input(format!("teacher {}: expected a file", teacher.display())))?;
    Ok(Path::new("cache").join(stem))
}

#[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
fn describe(report: &ExtractReport, output: &Path) -> String {
    let mut lines = vec![format!(
        "{}: {} rows{} ({} computed by this run), {}, {:.1}x below raw, {:.1} s",
        output.display(),
        report.rows,
        if report.views > 1 { format!(" in {} views", report.views) } else { String::new() },
        report.computed,
        human_bytes(report.bytes),
        report.raw_bytes as f64 / report.bytes.max(1) as f64,
        report.seconds
    )];
    if let Some(top1) = report.teacher_top1 {
        lines.push(format!("teacher's top-1: {top1:.2} %"));
    }
    if report.refreshed > 0 {
        lines.push(format!("rows of changed samples computed again: {}", report.refreshed));
    }
    if report.skipped > 0 {
        lines.push(format!("unreadable samples left out: {}", report.skipped));
    }
    lines.join("\n")
}
