//! How well embeddings tell classes apart, by their nearest neighbors: those of one split vote on
//! those of another.

use super::feeder::{self, Feeder};
use super::outputs::{self, Output};
use super::pump::{self, pump};
use super::runner::Runner;
use super::samples::Samples;
use super::{classifier, preprocess, samples};
use crate::array::Dtype;
use crate::data::{self, Channels, Dataset, Preprocess, Sample};
use crate::error::{Error, Result};
use crate::metric::{Bank, NEIGHBORS};
use crate::monitor::Monitor;
use crate::onnx::{Dim, Model};
use crate::recipe::{Evaluate, Knn, LogitsChoice};
use crate::runtime::{Runtime, SessionOptions};
use serde::Serialize;
use std::ops::Range;

/// The accuracy of k-NN classification.
#[derive(Debug, Clone, Serialize)]
pub struct KnnScores {
    /// Percentage of queries whose neighbors vote for their label.
    pub top1: f64,
    /// Neighbors that vote.
    pub k: usize,
    /// Samples that were classified.
    pub queries: usize,
    /// Those of them without a direction, for which nobody votes; they count as wrong.
    pub without_direction: usize,
    /// Samples whose embeddings vote.
    pub bank: usize,
    /// Those without a direction, which do not vote.
    pub bank_left_out: usize,
    /// The split that they are of; `None` where all other queries vote on each.
    pub bank_split: Option<String>,
    /// The tensor of the embeddings; `None` for pixels.
    pub output: Option<String>,
    /// Length of an embedding.
    pub channels: usize,
}

/// Classifies the samples of a split by the embeddings of another, or by those of all others if
/// there is no other.
///
/// # Errors
/// If the model or the data cannot be read or do not match, labels are missing, it is unclear which
/// output holds the embeddings, or the user asks to stop.
pub(super) fn measure(
    recipe: &Evaluate,
    knn: &Knn,
    runtime: &Runtime,
    options: &SessionOptions,
    monitor: &dyn Monitor,
) -> Result<KnnScores> {
    let model = if knn.of_pixels { None } else { Some(Model::read(&recipe.model)?) };
    let fed = model.as_ref().map(|model| samples::fed(recipe, model));
    let dataset = samples::open(recipe, &recipe.split, fed.as_deref(), monitor)?;
    let queries = Samples::new(recipe, dataset.as_ref())?;
    queries.require_labels()?;
    let other = if knn.bank == recipe.split {
        None
    } else {
        let other = samples::open(recipe, &knn.bank, fed.as_deref(), monitor).map_err(|error| {
            error.hint(format!(
                "--knn SPLIT names another split, --knn {} lets its other samples vote",
                recipe.split
            ))
        })?;
        // a source without splits is all of them
        let is_same = other.fingerprint() == dataset.fingerprint();
        (!is_same).then_some(other)
    };
    if other.is_none() {
        monitor.note("every sample is classified by the votes of all others (leave-one-out)");
    }
    let voters = other
        .as_ref()
        .map(|other| Samples { dataset: other.as_ref(), chosen: (0..other.len()).collect() });
    if let Some(voters) = &voters {
        voters.require_labels()?;
    }
    let class = classes(&queries, voters.as_ref().map(|voters| voters.dataset))?;
    let (pool, options) = pump::split(options)?;
    let mut embedder = match &model {
        Some(model) => {
            Embedder::of_model(recipe, knn, model, &queries, (runtime, &options), monitor)?
        }
        None => Embedder::of_pixels(recipe, &queries, monitor)?,
    };
    let mut bank = Bank::new(embedder.channels());
    let pass = Pass { pool: &pool, monitor };
    let own = |samples: &Samples<'_>, range: Range<usize>| -> Vec<usize> {
        samples.labels(range).iter().filter_map(|&label| usize::try_from(label).ok()).collect()
    };
    embedder.embed("bank", voters.as_ref().unwrap_or(&queries), &pass, |range, values| {
        let labels = match &voters {
            Some(voters) => own(voters, range),
            None => own(&queries, range),
        };
        bank.add(values, &labels)
    })?;
    if bank.is_empty() {
        return Err(Error::input("k-NN: expected embeddings with a direction, found none"));
    }
    let (mut right, mut without) = (0, 0);
    embedder.embed("eval", &queries, &pass, |range, values| {
        let first = voters.is_none().then_some(range.start);
        let found = bank.classify(values, first)?;
        for (found, label) in found.into_iter().zip(own(&queries, range)) {
            without += usize::from(found.is_none());
            right += usize::from(found.is_some() && found == class(label));
        }
        Ok(())
    })?;
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2⁵²")]
    let top1 = 100.0 * right as f64 / queries.len() as f64;
    Ok(KnnScores {
        top1,
        k: NEIGHBORS,
        queries: queries.len(),
        without_direction: without,
        bank: bank.len(),
        bank_left_out: bank.left_out(),
        bank_split: voters.as_ref().map(|_| knn.bank.clone()),
        output: embedder.output(),
        channels: embedder.channels(),
    })
}

/// The bank's class of each label of the queries: the one of the same name.
///
/// # Errors
/// If the bank lacks a class of the queries.
fn classes(
    queries: &Samples<'_>,
    bank: Option<&dyn Dataset>,
) -> Result<impl Fn(usize) -> Option<usize> + use<>> {
    let names = queries.dataset.classes();
    let places = match bank.map(Dataset::classes) {
        Some(of_bank) if of_bank != names => {
            let place = |name: &String| {
                of_bank.iter().position(|other| other == name).ok_or_else(|| {
                    Error::input(format!(
                        "k-NN: expected the class `{name}` among those that vote, found {}",
                        of_bank.join(", ")
                    ))
                })
            };
            Some(names.iter().map(place).collect::<Result<Vec<usize>>>()?)
        }
        _ => None,
    };
    Ok(move |label: usize| match &places {
        Some(places) => places.get(label).copied(),
        None => Some(label),
    })
}

/// How a pass over samples runs.
struct Pass<'a> {
    pool: &'a rayon::ThreadPool,
    monitor: &'a dyn Monitor,
}

/// What makes embeddings of samples.
enum Embedder<'a> {
    /// A tensor of a model.
    Model { feeder: Box<Feeder>, runner: Box<Runner<'a>>, output: String, channels: usize },
    /// The preprocessed pixels.
    Pixels(Preprocess),
}

/// Images of one block of pixels.
const PIXEL_BLOCK: usize = 64;

impl<'a> Embedder<'a> {
    fn of_model(
        recipe: &Evaluate,
        knn: &Knn,
        model: &'a Model,
        queries: &Samples<'_>,
        engine: (&'a Runtime, &SessionOptions),
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let sample = queries.first()?;
        let mut feeder = Feeder::new(model, &recipe.feeding, recipe.batch, monitor, |placed| {
            let size = data::common_size(queries.dataset);
            feeder::inputs_of(&sample, placed, |placed| {
                preprocess::of_model(recipe, model, placed, size, monitor)
            })
        })?;
        let tensors = outputs::tensors("model", model, knn.output.as_deref().into_iter())?;
        let mut runner = Runner::new("model", model, &tensors, engine, monitor)?;
        let first = runner.first(&mut feeder, queries.len(), &tensors, |feeder, count| {
            feeder.bytes(&queries.read(0..count)?)
        })?;
        let (mut outputs, _) = outputs::comparable(model, &tensors, &tensors, &first);
        let labels = queries.labels(0..queries.len()).into_iter();
        let classes = samples::class_count(queries.dataset.classes(), labels);
        if recipe.logits != LogitsChoice::None {
            classifier::mark(model, &mut outputs, classes);
        }
        let output = embedding(recipe, knn, &outputs)?;
        let (output, channels) = (output.name.clone(), output.row.iter().product());
        monitor.note(&format!("embeddings: `{output}`, {channels} values"));
        runner.check(&mut feeder, &first, std::slice::from_ref(&output), monitor)?;
        Ok(Self::Model { feeder: Box::new(feeder), runner: Box::new(runner), output, channels })
    }

    fn of_pixels(recipe: &Evaluate, queries: &Samples<'_>, monitor: &dyn Monitor) -> Result<Self> {
        let Sample::Image(image) = queries.first()? else {
            return Err(Error::input("pixels: expected images, found arrays"));
        };
        let mut options = recipe.preprocess.clone().or(recipe.default_preprocess.clone());
        if image.channels == 1 && options.channels.is_none() && options.preset.is_none() {
            options.channels = Some(Channels::Gray);
        }
        let size = data::common_size(queries.dataset);
        let open = [Dim::Open, Dim::Open, Dim::Open, Dim::Open];
        let (preprocess, warnings) = data::preprocess::resolve(&options, Dtype::F32, &open, size)?;
        for warning in &warnings {
            monitor.warn(warning);
        }
        Ok(Self::Pixels(preprocess))
    }

    fn output(&self) -> Option<String> {
        match self {
            Self::Model { output, .. } => Some(output.clone()),
            Self::Pixels(_) => None,
        }
    }

    fn channels(&self) -> usize {
        match self {
            Self::Model { channels, .. } => *channels,
            Self::Pixels(preprocess) => preprocess.input_shape().iter().product(),
        }
    }

    /// Hands the embeddings of samples on, block by block.
    fn embed(
        &mut self,
        stage: &str,
        samples: &Samples<'_>,
        pass: &Pass<'_>,
        mut take: impl FnMut(Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Model { feeder, runner, output, .. } => {
                let output = std::slice::from_ref(output);
                pump(
                    (stage, samples.len(), feeder.batch),
                    pass.pool,
                    pass.monitor,
                    |range| {
                        let bytes = feeder.bytes(&samples.read(range.clone())?)?;
                        Ok((feeder.runs(&bytes, range.len())?, range))
                    },
                    |(runs, range)| {
                        let rows = runner.run(&runs, output)?;
                        take(range, rows.first().map_or(&[], |rows| &rows.values))
                    },
                )
            }
            Self::Pixels(preprocess) => pump(
                (stage, samples.len(), PIXEL_BLOCK),
                pass.pool,
                pass.monitor,
                |range| {
                    let images = feeder::images(preprocess, &samples.read(range.clone())?)?;
                    Ok((data::preprocess::normalize(preprocess, &images.concat())?, range))
                },
                |(values, range)| take(range, &values.to_f32()),
            ),
        }
    }
}

/// The output that holds the embeddings: the one that is named, else the only vector that is no
/// class logits.
///
/// # Errors
/// If the one that is named is no vector, or there is not exactly one.
fn embedding<'a>(recipe: &Evaluate, knn: &Knn, outputs: &'a [Output]) -> Result<&'a Output> {
    let is_vector = |output: &Output| {
        output.dtype.is_float() && output.row.iter().filter(|&&axis| axis > 1).count() == 1
    };
    let list = || outputs.iter().map(Output::describe).collect::<Vec<_>>().join(", ");
    if let Some(name) = &knn.output {
        let named = outputs.iter().find(|output| output.name == *name);
        return named.filter(|output| is_vector(output)).ok_or_else(|| {
            Error::input(format!(
                "--output {name}: expected an embedding [batch, channels], found {}",
                named.map_or_else(list, Output::describe)
            ))
        });
    }
    let found: Vec<&Output> =
        outputs.iter().filter(|output| is_vector(output) && !output.is_classes).collect();
    match found.as_slice() {
        [output] => Ok(output),
        several => Err(Error::input(format!(
            "{}: expected one output that is an embedding [batch, channels], found {} among {}",
            recipe.model.display(),
            several.len(),
            list()
        ))
        .hint(
            "--output TENSOR names the embedding, any output or tensor of the model; --logits none \
             says that no output is class logits",
        )),
    }
}
