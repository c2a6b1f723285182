//! What a run is asked to do, and where.

use super::device;
use crate::data::{DataSpec, PreprocessOptions};
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Silent};
use crate::recipe::{Sakd, SakdMode, Train};
use crate::runtime::{Device, Runtime};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// A training run, as requested.
#[derive(Debug, Clone)]
pub struct Job {
    /// The student's name in the report.
    pub name: String,
    /// A preset's name or an `.onnx` file.
    pub student: String,
    /// The settings that determine the result.
    pub recipe: Train,
    /// The teacher's cache; `None` to train on the labels of [`data`](Self::data) alone.
    pub cache: Option<PathBuf>,
    /// Where to find the images that the cache was extracted from, if it does not store them;
    /// `None` for the location that the cache names.
    pub source: Option<DataSpec>,
    /// A data set and its split, to train on without a teacher.
    pub data: Option<(DataSpec, String)>,
    /// The data set and split of the evaluation; `None` for the recipe's, else the test split of
    /// the training data.
    pub test: Option<(DataSpec, String)>,
    /// Preprocessing for a run without a cache; a cache records its own.
    pub preprocess: PreprocessOptions,
    /// The run's folder.
    pub output: PathBuf,
    /// Where it trains.
    pub device: Device,
    /// Steps between checkpoints, in addition to one at the end of each epoch.
    pub checkpoint_steps: Option<usize>,
    /// Whether to resume an unfinished run in the folder, which is an error otherwise.
    pub resume: bool,
}

impl Job {
    /// A job with the default recipe, which still needs a cache or a data set. `student`: a
    /// preset's name or an `.onnx` file.
    #[must_use]
    pub fn new(student: impl Into<String>, output: impl Into<PathBuf>) -> Self {
        let student = student.into();
        Self {
            name: student.clone(),
            student,
            recipe: Train::default(),
            cache: None,
            source: None,
            data: None,
            test: None,
            preprocess: PreprocessOptions::default(),
            output: output.into(),
            device: Device::Auto,
            checkpoint_steps: None,
            resume: false,
        }
    }
}

/// The process that executes a run; it does not affect the result.
pub struct Host<'a> {
    /// Total compute threads.
    pub threads: usize,
    /// The path of ONNX Runtime's library; `None` to search for it.
    pub onnxruntime: Option<PathBuf>,
    /// Receives progress, and says whether to stop.
    pub monitor: &'a dyn Monitor,
}

impl Default for Host<'_> {
    /// All cores, and no progress reports.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self { threads, onnxruntime: None, monitor: &Silent }
    }
}

impl Host<'_> {
    pub(super) fn runtime(&self) -> Result<Runtime> {
        Runtime::load_for(self.onnxruntime.as_deref(), self.monitor)
    }
}

/// A job with its settings checked and merged.
pub(super) struct Settled {
    pub job: Job,
    /// The job's recipe, without the path of the exact mode's teacher: the path does not affect the
    /// result, and the cache records the teacher's identity.
    pub recipe: Train,
    /// The teacher's file, if it is run.
    pub teacher: Option<PathBuf>,
    pub test: Option<(DataSpec, String)>,
    pub device: candle_core::Device,
}

impl Settled {
    pub(super) fn new(job: &Job, host: &Host<'_>) -> Result<Self> {
        let mut recipe = job.recipe.clone();
        let of_recipe = || Some((recipe.test.clone()?, "test".to_owned()));
        let test = job.test.clone().or_else(of_recipe);
        recipe.test = test.as_ref().map(|(spec, _)| spec.clone());
        recipe.validate()?;
        let teacher = recipe.sakd.as_mut().map_or(Ok(None), take_teacher)?;
        if job.cache.is_none() && job.data.is_none() {
            return Err(Error::input("train: expected a cache or a data set, found neither")
                .hint("write --cache DIR, or --data SPEC for training without a teacher"));
        }
        if job.cache.is_some() && job.data.is_some() {
            return Err(Error::input("train: expected a cache or a data set, found both"));
        }
        let device = device::training(job.device, host.monitor)?;
        Ok(Self { job: job.clone(), recipe, teacher, test, device })
    }
}

/// Removes the exact mode's teacher file from the settings and returns it.
fn take_teacher(sakd: &mut Sakd) -> Result<Option<PathBuf>> {
    match (sakd.mode, sakd.teacher.take()) {
        (SakdMode::Exact, None) => {
            Err(Error::input("sakd exact: expected the teacher's file, found none").hint(
                "name the model that made the cache: --sakd-teacher FILE.onnx, or teacher in \
                 [sakd]",
            ))
        }
        (_, teacher) => Ok(teacher),
    }
}
