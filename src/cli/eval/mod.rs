//! `eval`: how good a model is on a data set, in ONNX Runtime.

mod text;

use super::feed_args::FeedArgs;
use super::preprocess_args::PreprocessArgs;
use super::{Context, emit, emit_json};
use crate::data::{DataSpec, PreprocessOptions, preset};
use crate::error::Result;
use crate::evaluate;
use crate::recipe::{Evaluate, Knn, LogitsChoice, OutputPair, OutputReading};
use crate::runtime::{Device, SessionOptions};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Examples for the help text.
pub(crate) const EXAMPLES: &str = "\
Examples:
  nst-cache eval student.onnx --data folder:photos --split test
  nst-cache eval teacher.onnx --data cifar10:data --preprocess cifar10 --json
  nst-cache eval student.onnx --data folder:photos --against teacher.onnx
  nst-cache eval student.onnx --against cache/teacher --pair head=taps/pooled/features
  nst-cache eval student.onnx --data folder:photos --knn
  nst-cache eval pixels --data folder:photos --knn

Without --against and --knn the model is a classifier, and the data's labels score it. --against
compares outputs with a teacher's: the cosine of the vectors along the channel axis, MSE, the
largest difference, and the decisions of outputs that are classes or labels. --knn classifies each
embedding by the votes of the 20 nearest of another split, weighted by exp(cosine / 0.07).";

/// Arguments of `eval`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The model; with --knn also `pixels`, the preprocessed images themselves
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,
    /// Data set: folder:DIR, wds:SHARDS, parquet:FILES, csv:FILE, idx:DIR, cifar10:DIR,
    /// cifar100:DIR, npz:FILE, fashion-mnist, or a path
    #[arg(long, value_name = "SPEC")]
    data: Option<DataSpec>,
    /// Split of the data set
    #[arg(long, value_name = "NAME", default_value = "test")]
    split: String,
    /// Tensor of the class logits, or none [default: the first output, before its softmax]
    #[arg(long, value_name = "TENSOR")]
    logits: Option<LogitsChoice>,
    /// File with the model's classes, one per line in the order of its logits, to which the data's
    /// class names are mapped
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Compare the outputs with a teacher's: with its ONNX file on the same samples, or with a
    /// cache's first view on the cache's own inputs
    #[arg(long, value_name = "TEACHER.onnx|CACHE", conflicts_with = "knn")]
    against: Option<PathBuf>,
    /// Compare this output or tensor of the student with this one of the teacher, or array of the
    /// cache (repeat for more) [default: those of one name, else of a shape that no other has, else
    /// of one position]
    #[arg(long, value_name = "STUDENT=TEACHER", requires = "against")]
    pair: Vec<OutputPair>,
    /// Read an output as scores of classes, as independent labels or as values (repeat for more)
    /// [default: as the graph and the data's number of classes show]
    #[arg(long, value_name = "OUTPUT=classes|labels|values", requires = "against")]
    read: Vec<OutputReading>,
    /// The teacher's preprocessing, a preset [default: its metadata's, else the student's]
    #[arg(long, value_name = "NAME", requires = "against")]
    against_preprocess: Option<String>,
    /// Classify embeddings by their nearest neighbors in another split; the split itself: by all
    /// others of it
    #[arg(long, value_name = "SPLIT", num_args = 0..=1, default_missing_value = "train")]
    knn: Option<String>,
    /// Output or tensor that holds the embeddings [default: the only output that can be one]
    #[arg(long, value_name = "TENSOR", requires = "knn")]
    output: Option<String>,
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

/// Runs the model over the data set and prints what was measured.
///
/// # Errors
/// As [`evaluate::measure`], and if a preset does not exist.
pub fn run(args: Args, context: &Context<'_>) -> Result<()> {
    let config = context.config;
    // a cache has samples of its own
    let has_samples = args.against.as_deref().is_some_and(Path::is_dir);
    let default = config.data.clone().filter(|_| !has_samples);
    if let Some(name) = &args.against_preprocess {
        preset(name)?;
    }
    let of_pixels = args.model.as_os_str() == "pixels";
    let recipe = Evaluate {
        data: args.data.or(default),
        split: args.split,
        logits: args.logits.unwrap_or_default(),
        classes: args.classes,
        batch: args.batch.map(NonZeroUsize::get),
        limit: args.limit.map(NonZeroUsize::get),
        shuffle: args.shuffle,
        feeding: args.feed.feeding()?,
        preprocess: args.preprocess.options()?,
        default_preprocess: config.preprocess.clone(),
        against: args.against,
        against_preprocess: PreprocessOptions {
            preset: args.against_preprocess,
            ..PreprocessOptions::default()
        },
        pairs: args.pair,
        readings: args.read,
        knn: args.knn.map(|bank| Knn { bank, output: args.output, of_pixels }),
        ..Evaluate::of_model(args.model)
    };
    let options = SessionOptions { device: args.device, threads: context.threads };
    let found = evaluate::measure(&recipe, &context.runtime()?, &options, context.monitor)?;
    if context.json { emit_json(&found) } else { emit(&text::evaluation(&found)) }
}
