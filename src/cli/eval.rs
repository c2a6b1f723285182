//! `eval`: how good a classifier is on a data set, in ONNX Runtime.

use super::feed_args::FeedArgs;
use super::preprocess_args::PreprocessArgs;
use super::{Context, emit, emit_json};
use crate::data::DataSpec;
use crate::error::{Error, Result};
use crate::evaluate;
use crate::recipe::Evaluate;
use crate::runtime::{Device, SessionOptions};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Arguments of `eval`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  nst-cache eval student.onnx --data folder:photos --split \
                        test\n  nst-cache eval teacher.onnx --data cifar10:data --preprocess \
                        cifar10 --json")]
pub struct Args {
    /// The classifier
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,
    /// Data set: folder:DIR, idx:DIR, cifar10:DIR, cifar100:DIR, npz:FILE, fashion-mnist, or a path
    #[arg(long, value_name = "SPEC")]
    data: Option<DataSpec>,
    /// Split of the data set
    #[arg(long, value_name = "NAME", default_value = "test")]
    split: String,
    /// Tensor of the logits [default: the first output, before its softmax]
    #[arg(long, value_name = "TENSOR")]
    logits: Option<String>,
    /// File with the model's classes, one per line in the order of its logits, to which the data's
    /// class names are mapped
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Samples per run [default: 64, or the batch that the model fixes]
    #[arg(long, value_name = "N")]
    batch: Option<NonZeroUsize>,
    /// Only the first N samples
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
    /// Shuffle the data set with this seed before --limit
    #[arg(long, value_name = "SEED")]
    shuffle: Option<u64>,
    /// Where the model runs: cpu, cuda, cuda:1, tensorrt, tensorrt:1 or auto
    #[arg(long, default_value = "cpu")]
    device: Device,
    #[command(flatten)]
    feed: FeedArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// Runs the model over the data set and prints the scores.
///
/// # Errors
/// As [`evaluate::run`], and if no data set is named.
pub fn run(args: Args, context: &Context<'_>) -> Result<()> {
    let config = context.config;
    let spec = args.data.or_else(|| config.data.clone());
    let spec = spec.ok_or_else(|| {
        Error::input("no data set given").hint("name one: --data SPEC, such as folder:DIR")
    })?;
    let recipe = Evaluate {
        split: args.split,
        logits: args.logits,
        classes: args.classes,
        batch: args.batch.map(NonZeroUsize::get),
        limit: args.limit.map(NonZeroUsize::get),
        shuffle: args.shuffle,
        feeding: args.feed.feeding()?,
        preprocess: args.preprocess.options()?,
        default_preprocess: config.preprocess.clone(),
        ..Evaluate::new(args.model, spec)
    };
    let options = SessionOptions { device: args.device, threads: context.threads };
    let scores = evaluate::run(&recipe, &context.runtime()?, &options, context.monitor)?;
    if context.json {
        return emit_json(&scores);
    }
    emit(&format!(
        "top-1 {:.2} %  top-5 {:.2} %  loss {:.5}  {} samples  {:.0} images/s on {}",
        scores.top1, scores.top5, scores.loss, scores.samples, scores.images_per_s, scores.provider
    ))
}
