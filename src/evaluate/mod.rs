//! How good a model is on a data set, in ONNX Runtime: a classifier by its labels, any model by its
//! agreement with a teacher, embeddings by their nearest neighbors.
//!
//! ```no_run
//! use nst_cache::evaluate;
//! use nst_cache::monitor::Silent;
//! use nst_cache::recipe::Evaluate;
//! use nst_cache::runtime::{Device, Runtime, SessionOptions};
//!
//! # fn main() -> nst_cache::error::Result<()> {
//! let recipe = Evaluate::new("runs/resnet20/student.onnx", "folder:photos".parse()?);
//! let (runtime, options) =
//!     (Runtime::load(None)?, SessionOptions { device: Device::Cpu, threads: 4 });
//! let scores = evaluate::run(&recipe, &runtime, &options, &Silent)?;
//! println!("top-1 {:.2} % of {} samples", scores.top1, scores.samples);
//!
//! // a model of any kind, against what a cache holds of its teacher
//! let recipe = Evaluate::against("runs/vit/student.onnx", "cache/dino");
//! let found = evaluate::measure(&recipe, &runtime, &options, &Silent)?;
//! for output in found.against.iter().flat_map(|against| &against.outputs) {
//!     println!("{}: cosine {:?}", output.student, output.agreement.cosine);
//! }
//! # Ok(())
//! # }
//! ```

mod against;
mod cached;
mod classifier;
mod data_set;
mod feeder;
mod nearest;
mod outputs;
mod pairs;
mod preprocess;
mod pump;
mod runner;
mod samples;
mod scores;

pub use against::{OutputAgreement, TeacherAgreement};
pub use nearest::KnnScores;
pub use scores::Scores;

use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::recipe::Evaluate;
use crate::runtime::{Runtime, SessionOptions};
use serde::Serialize;

/// What an evaluation found: what it was asked for.
#[derive(Debug, Default, Serialize)]
pub struct Evaluation {
    /// The scores of a classifier on labeled data.
    #[serde(flatten)]
    pub classes: Option<Scores>,
    /// The agreement with a teacher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<TeacherAgreement>,
    /// The accuracy of embeddings by their nearest neighbors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub knn: Option<KnnScores>,
}

/// Runs a classifier over a labeled data set. A quarter of the threads decode; with fewer than
/// four, decoding shares the model's cores.
///
/// # Errors
/// As [`measure`], and if the recipe asks for anything else.
pub fn run(
    recipe: &Evaluate,
    runtime: &Runtime,
    options: &SessionOptions,
    monitor: &dyn Monitor,
) -> Result<Scores> {
    if recipe.against.is_some() || recipe.knn.is_some() {
        return Err(Error::input("evaluation: expected one of a classifier, found another"));
    }
    measure(recipe, runtime, options, monitor)?
        .classes
        .ok_or_else(|| Error::internal("an evaluation of a classifier without scores"))
}

/// Runs a model over a data set, or over a cache's inputs, and measures what the recipe asks for:
/// the agreement with a teacher, k-NN over embeddings, or else the scores of a classifier. With a
/// teacher's ONNX file, a classifier is scored too where the data has labels for its classes.
///
/// # Errors
/// If the model or the data cannot be read or do not match, it is not clear what to measure, labels
/// that are needed are missing, or the user asks to stop.
pub fn measure(
    recipe: &Evaluate,
    runtime: &Runtime,
    options: &SessionOptions,
    monitor: &dyn Monitor,
) -> Result<Evaluation> {
    match (&recipe.knn, &recipe.against) {
        (Some(_), Some(_)) => Err(Error::input("--knn: expected no --against beside it")),
        (Some(knn), None) => {
            let knn = Some(nearest::measure(recipe, knn, runtime, options, monitor)?);
            Ok(Evaluation { knn, ..Evaluation::default() })
        }
        (None, Some(folder)) if folder.is_dir() => {
            let against = Some(cached::measure(recipe, folder, runtime, options, monitor)?);
            Ok(Evaluation { against, ..Evaluation::default() })
        }
        (None, _) => {
            let (classes, against) = data_set::measure(recipe, runtime, options, monitor)?;
            Ok(Evaluation { classes, against, knn: None })
        }
    }
}
