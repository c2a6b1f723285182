//! `bench`: the figures that we compare with other tools.

mod criteria;
mod distill;
mod extract;
mod figures;
mod read;
mod step;
mod synthetic;

use super::Context;
use crate::error::Result;

pub(super) const EXAMPLES: &str = "\
Examples:
  nst-cache bench step --model resnet20 --threads 1
  nst-cache bench step --model wrn-16-2,resnet18-224 --precision strict --json
  nst-cache bench extract models/teacher.onnx --data fashion-mnist --threads 1
  nst-cache bench read cache/teacher --cold
  nst-cache bench distill --pair cifar --threads 2 --json
  nst-cache bench criteria --threads 1
  nst-cache bench criteria nst-gauss --pair wide --json

docs/performance.md says how these compare with PyTorch, and `make bench-peers` measures both side \
                                   by side.";

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// One training step of a student: forward, cross-entropy, backward, SGD
    Step(step::Args),
    /// An extraction, writing included, against its teacher run bare with the same tensors read
    Extract(Box<extract::Args>),
    /// Reading a cache, against a bare loop of checksums and zstd over the same bytes
    Read(read::Args),
    /// One distillation step from a cache: loading, forward, cross-entropy and NST at every stage,
    /// backward, SGD
    Distill(distill::Args),
    /// Each criterion by itself: the loss with its gradients for the student's tensors and for what
    /// it learns, time and memory
    Criteria(criteria::Args),
}

/// Measures.
///
/// # Errors
/// When a network cannot be built or run.
pub fn run(args: Args, context: &Context<'_>) -> Result<()> {
    match args.what {
        What::Step(args) => step::run(&args, context),
        What::Extract(args) => extract::run(*args, context),
        What::Read(args) => read::run(&args, context),
        What::Distill(args) => distill::run(&args, context),
        What::Criteria(args) => criteria::run(&args, context),
    }
}
