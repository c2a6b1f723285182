//! What a run is asked to do, and where.

use super::device;
use crate::data::{DataSpec, PreprocessOptions};
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Silent};
use crate::recipe::{Sakd, SakdMode, Train};
use crate::runtime::{Device, Runtime};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// One training run, as asked for.
#[derive(Debug, Clone)]
pub struct Job {
    /// What the report calls the student.
    pub name: String,
    /// A preset's name or an `.onnx` file.
    pub student: String,
    /// What decides the result.
    pub recipe: Train,
    /// The teacher's cache; `None`: the labels of [`data`](Self::data) alone.
    pub cache: Option<PathBuf>,
    /// Where the images lie that the cache was made of, if it does not store them; `None`: as the
    /// cache names them.
    pub source: Option<DataSpec>,
    /// A data set and its split, to train on without a teacher.
    pub data: Option<(DataSpec, String)>,
    /// The data set of the evaluation and its split; `None`: that of the recipe, else the test
    /// split beside the training data.
    pub test: Option<(DataSpec, String)>,
    /// Preprocessing without a cache, which records its own.
    pub preprocess: PreprocessOptions,
    /// The run's folder.
    pub output: PathBuf,
    /// Where it trains.
    pub device: Device,
    /// Steps between checkpoints, beside one at the end of each epoch.
    pub checkpoint_steps: Option<usize>,
    /// Whether an unfinished run in the folder is resumed; without, it is refused.
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

/// The process that a run happens in, which changes none of its bits.
pub struct Host<'a> {
    /// Total compute threads.
    pub threads: usize,
    /// The path of ONNX Runtime's library; `None`: where it is found by itself.
    pub onnxruntime: Option<PathBuf>,
    /// Told of progress, and asked whether to stop.
    pub monitor: &'a dyn Monitor,
}

impl Default for Host<'_> {
    /// All cores, and nobody to tell.
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

/// A job whose settings have been checked and brought together.
pub(super) struct Settled {
    pub job: Job,
    /// The job's, without the path of the exact mode's teacher: where it lies decides nothing, and
    /// what it is the cache records.
    pub recipe: Train,
    /// The teacher's file, where it is run.
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
        let device = device::training(job.device, host.monitor)?;
        Ok(Self { job: job.clone(), recipe, teacher, test, device })
    }
}

/// The file of the exact mode, taken out of the settings.
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
