//! A model on a data set: the scores of a classifier, and the agreement with a teacher that runs on
//! the same samples.

use super::against::{Comparison, TeacherAgreement};
use super::classifier::{self, Classifier};
use super::feeder::{self, Feeder};
use super::pump::{self, pump};
use super::runner::{First, Rows, Runner};
use super::samples::{self, Samples};
use super::scores::Scores;
use super::{outputs, preprocess};
use crate::data::{self, Sample};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::onnx::logits::LogitCandidates;
use crate::onnx::{Feeding, Model, Value};
use crate::recipe::Evaluate;
use crate::runtime::{Runtime, SessionOptions};
use std::path::Path;
use std::time::Instant;

/// Scores a classifier, or compares a model with a teacher and scores it where that is possible.
///
/// # Errors
/// If a model or the data cannot be read or do not match, there are no labels or logits to score,
/// nothing to compare, or the user asks to stop.
pub(super) fn measure(
    recipe: &Evaluate,
    runtime: &Runtime,
    options: &SessionOptions,
    monitor: &dyn Monitor,
) -> Result<(Option<Scores>, Option<TeacherAgreement>)> {
    let model = Model::read(&recipe.model)?;
    let teacher = recipe.against.as_deref().map(Model::read).transpose()?;
    let mut fed = samples::fed(recipe, &model);
    let of_teacher = teacher.as_ref().map_or_else(Vec::new, |model| samples::fed(recipe, model));
    // an only input takes the student's array, whatever its name
    if of_teacher.len() > 1 {
        let is_new = |input: &Value| fed.iter().all(|other| other.name != input.name);
        let new: Vec<Value> = of_teacher.into_iter().filter(is_new).collect();
        fed.extend(new);
    }
    let dataset = samples::open(recipe, &recipe.split, Some(&fed), monitor)?;
    let samples = Samples::new(recipe, dataset.as_ref())?;
    if teacher.is_none() {
        samples.require_labels()?;
    }
    let sample = samples.first()?;
    let mut feeder = Feeder::new(&model, &recipe.feeding, recipe.batch, monitor, |placed| {
        let size = data::common_size(samples.dataset);
        feeder::inputs_of(&sample, placed, |placed| {
            preprocess::of_model(recipe, &model, placed, size, monitor)
        })
    })?;
    let (pool, options) = pump::split(options)?;
    match &teacher {
        None => {
            let scores = classes(
                recipe,
                &model,
                &samples,
                &mut feeder,
                (runtime, &options, &pool),
                monitor,
            )?;
            Ok((Some(scores), None))
        }
        Some(teacher) => {
            let both = Both { recipe, student: &model, teacher, samples: &samples, sample };
            both.compare(&mut feeder, (runtime, &options, &pool), monitor)
        }
    }
}

/// Where models run, and where samples are decoded.
type Engine<'a> = (&'a Runtime, &'a SessionOptions, &'a rayon::ThreadPool);

/// The scores of a classifier.
fn classes(
    recipe: &Evaluate,
    model: &Model,
    samples: &Samples<'_>,
    feeder: &mut Feeder,
    (runtime, options, pool): Engine<'_>,
    monitor: &dyn Monitor,
) -> Result<Scores> {
    let found = classifier::candidates(recipe, model, samples.classes())?;
    let found = found.ok_or_else(|| classifier::no_logits(recipe, model))?;
    let tensors = found.tensors();
    let mut runner = Runner::new("model", model, &tensors, (runtime, options), monitor)?;
    let first = run_first(&mut runner, feeder, samples, &tensors)?;
    let mut classifier = Classifier::new(recipe, model, &found, &tensors, &first, samples.dataset)?;
    classifier.describe(monitor);
    let tensor = std::slice::from_ref(&classifier.logits.tensor).to_vec();
    runner.check(feeder, &first, &tensor, monitor)?;
    let feeder = &*feeder;
    let started = Instant::now();
    pump(
        ("eval", samples.len(), feeder.batch),
        pool,
        monitor,
        |range| {
            let bytes = feeder.bytes(&samples.read(range.clone())?)?;
            Ok((feeder.runs(&bytes, range.len())?, range))
        },
        |(runs, range)| {
            let rows = runner.run(&runs, &tensor)?;
            classifier.add(first_of(&rows)?, samples, range)
        },
    )?;
    Ok(classifier.scores(started.elapsed().as_secs_f64(), runner.provider()))
}

fn run_first(
    runner: &mut Runner<'_>,
    feeder: &mut Feeder,
    samples: &Samples<'_>,
    tensors: &[String],
) -> Result<First> {
    runner.first(feeder, samples.len(), tensors, |feeder, count| {
        feeder.bytes(&samples.read(0..count)?)
    })
}

fn first_of(rows: &[Rows]) -> Result<&Rows> {
    rows.first().ok_or_else(|| Error::internal("a run without the tensor that it was for"))
}

/// A student and a teacher on the same samples.
struct Both<'a> {
    recipe: &'a Evaluate,
    student: &'a Model,
    teacher: &'a Model,
    samples: &'a Samples<'a>,
    sample: Sample,
}

impl Both<'_> {
    fn compare(
        &self,
        feeder: &mut Feeder,
        (runtime, options, pool): Engine<'_>,
        monitor: &dyn Monitor,
    ) -> Result<(Option<Scores>, Option<TeacherAgreement>)> {
        let Self { recipe, student, teacher, samples, .. } = self;
        let mut teacher_feeder = self.teacher_feeder(feeder, monitor)?;
        let named = recipe.pairs.iter().map(|pair| pair.student.as_str());
        let found = classifier::candidates(recipe, student, samples.classes())?;
        let logits = found.iter().flat_map(LogitCandidates::tensors).collect::<Vec<_>>();
        let compared = outputs::tensors("student", student, named.chain(recipe.logits.tensor()))?;
        let tensors = outputs::unique(&[compared.as_slice(), logits.as_slice()].concat());
        let of_teacher = outputs::tensors(
            "teacher",
            teacher,
            recipe.pairs.iter().map(|pair| pair.teacher.as_str()),
        )?;
        let engine = (runtime, options);
        let mut runner = Runner::new("student", student, &tensors, engine, monitor)?;
        let mut other = Runner::new("teacher", teacher, &of_teacher, engine, monitor)?;
        let first = run_first(&mut runner, feeder, samples, &tensors)?;
        let first_of_teacher = run_first(&mut other, &mut teacher_feeder, samples, &of_teacher)?;

        let labels = samples.labels(0..samples.len()).into_iter();
        let classes = samples::class_count(samples.dataset.classes(), labels);
        let mut side = outputs::comparable(student, &compared, &tensors, &first);
        classifier::mark(student, &mut side.0, classes);
        let mut side_of_teacher =
            outputs::comparable(teacher, &of_teacher, &of_teacher, &first_of_teacher);
        classifier::mark(teacher, &mut side_of_teacher.0, classes);
        let mut comparison = Comparison::new(recipe, &side, &side_of_teacher, monitor)?;
        // nobody asks for scores here: they are given where nothing stands in the way
        let mut scored =
            found.filter(|_| classes.is_some() && samples.are_labeled()).and_then(|found| {
                let dataset = samples.dataset;
                Classifier::new(recipe, student, &found, &tensors, &first, dataset).ok()
            });

        let pairs = comparison.pairs();
        let read: Vec<String> = pairs.iter().map(|pair| pair.student.name.clone()).collect();
        let scored_tensor = scored.iter().map(|classifier| classifier.logits.tensor.clone());
        let read: Vec<String> = read.into_iter().chain(scored_tensor).collect();
        let read_of_teacher: Vec<String> =
            pairs.iter().map(|pair| pair.teacher.name.clone()).collect();
        let count = pairs.len();
        runner.check(feeder, &first, &outputs::unique(&read), monitor)?;
        let checked = outputs::unique(&read_of_teacher);
        other.check(&mut teacher_feeder, &first_of_teacher, &checked, monitor)?;

        feeder.limit(comparison.row_bytes());
        teacher_feeder.limit(comparison.row_bytes());
        let (feeder, teacher_feeder) = (&*feeder, &teacher_feeder);
        let started = Instant::now();
        pump(
            ("eval", samples.len(), feeder.batch.max(teacher_feeder.batch)),
            pool,
            monitor,
            |range| {
                let decoded = samples.read(range.clone())?;
                let runs = [feeder, teacher_feeder].map(|feeder| {
                    feeder.bytes(&decoded).and_then(|bytes| feeder.runs(&bytes, range.len()))
                });
                let [runs, of_teacher] = runs;
                Ok((runs?, of_teacher?, range))
            },
            |(runs, of_teacher, range)| {
                let values = runner.run(&runs, &read)?;
                let of_teacher = other.run(&of_teacher, &read_of_teacher)?;
                let (compared, logits) = values.split_at(count);
                // what stands in the way of scores is none in that of the comparison
                if let Some(classifier) = &mut scored
                    && let Err(error) = classifier.add(first_of(logits)?, samples, range)
                {
                    monitor.note(&format!("not scored by its labels: {}", error.chain()));
                    scored = None;
                }
                comparison.add(compared, &of_teacher)
            },
        )?;
        let seconds = started.elapsed().as_secs_f64();
        let file = recipe.against.as_deref().unwrap_or(Path::new("")).display().to_string();
        let scores = scored.map(|classifier| classifier.scores(seconds, runner.provider()));
        Ok((scores, Some(comparison.report(file))))
    }

    /// How the teacher is fed: with the settings of those inputs that it has.
    fn teacher_feeder(&self, student: &Feeder, monitor: &dyn Monitor) -> Result<Feeder> {
        let Self { recipe, teacher, sample, .. } = self;
        let inputs = teacher.inputs();
        let has = |name: &str| inputs.iter().any(|input| input.name == name);
        let mut feeding = Feeding {
            batch_axes: recipe.feeding.batch_axes.clone(),
            values: recipe.feeding.values.clone(),
        };
        feeding.batch_axes.retain(|axis| has(&axis.input));
        feeding.values.retain(|value| has(&value.input));
        let mut feeder = Feeder::new(teacher, &feeding, None, monitor, |placed| {
            feeder::inputs_of(sample, placed, |placed| {
                let of_student = student.preprocess.as_ref();
                preprocess::of_teacher(recipe, teacher, placed, of_student, monitor)
            })
        })?;
        if let (Some(batch), false) = (recipe.batch, feeder.is_declared) {
            (feeder.batch, feeder.is_fixed) = (batch, true);
        }
        Ok(feeder)
    }
}
