//! What a run is made of: the teacher's cache or a data set, the test split, the untrained model.

use super::Plan;
use super::teacher;
use crate::array::{Dtype, Layout};
use crate::cache::{Cache, Originals};
use crate::cli::Context;
use crate::criterion::Subject;
use crate::data::{
    self, Channels, DataSpec, Dataset, Preprocess, PreprocessOptions, Sample, Take, preset,
};
use crate::error::{Error, Result};
use crate::hash::sha256;
use crate::onnx::{self, Dim};
use crate::recipe::{CriterionRecipe, Train};
use crate::student::{Student, preset as presets};
use crate::train::activation;
use crate::train::loss::Objective;
use crate::train::pairing::{Pair, Taps};
use crate::train::source::{CacheSource, DataSource, Source};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// What a run trains on and is measured on.
pub(super) struct Material {
    training: Training,
    test: Option<Box<dyn Dataset>>,
}

enum Training {
    /// A cache, and the data set of inputs that it does not store.
    Cache(Box<Cache>, Option<Box<dyn Dataset>>),
    Data(Box<dyn Dataset>),
}

/// The untrained student.
pub(super) struct Model {
    pub onnx: onnx::Model,
    /// Class names in the order of the logits; empty where the data has none.
    pub classes: Vec<String>,
    /// How images become its input; `None` for arrays.
    pub preprocess: Option<Preprocess>,
}

impl Material {
    pub(super) fn open(plan: &Plan, context: &Context<'_>) -> Result<Self> {
        let training = match (&plan.cache, &plan.data) {
            (Some(cache), _) => {
                let cache = Box::new(Cache::open(cache)?);
                if let Some(note) = cache.extension() {
                    context.monitor.warn(note);
                }
                let originals = originals(&cache, plan, context)?;
                Training::Cache(cache, originals)
            }
            (None, Some((spec, split))) => {
                Training::Data(data::open(spec, split, context.monitor)?)
            }
            (None, None) => {
                return Err(Error::input("train: expected a cache or a data set, found neither"));
            }
        };
        let mut material = Self { training, test: None };
        material.warn_of_missing_classes(&plan.recipe, context);
        material.test = match &plan.test {
            Some((spec, split)) => Some(data::open(spec, split, context.monitor)?),
            None => material.default_test(plan, context),
        };
        context.monitor.note(&format!(
            "training: {}",
            data::describe_labels(material.classes(), material.labels())
        ));
        if let Some(test) = &material.test {
            context.monitor.note(&format!("test: {}", data::describe(test.as_ref())));
        }
        Ok(material)
    }

    /// The test split beside the training data, if there is one that can be read.
    fn default_test(&self, plan: &Plan, context: &Context<'_>) -> Option<Box<dyn Dataset>> {
        let (spec, fingerprint) = match &self.training {
            Training::Cache(cache, _) => {
                let data = &cache.manifest().data;
                (data.spec.parse::<DataSpec>(), &data.fingerprint)
            }
            Training::Data(dataset) => (
                plan.data.clone().map(|d| d.0).ok_or_else(|| Error::input("no data")),
                dataset.fingerprint(),
            ),
        };
        let opened = spec.and_then(|spec| data::open(&spec, "test", context.monitor));
        match opened {
            // a source that is not divided gives the training samples again
            Ok(test) if test.fingerprint() != fingerprint => Some(test),
            Ok(_) => {
                context.monitor.note(
                    "no test split beside the training data: no evaluation (--test SPEC names one)",
                );
                None
            }
            Err(error) => {
                context.monitor.note(&format!(
                    "no evaluation (--test SPEC names a test set): {}",
                    error.chain()
                ));
                None
            }
        }
    }

    pub(super) fn cache(&self) -> Option<&Cache> {
        match &self.training {
            Training::Cache(cache, _) => Some(cache),
            Training::Data(_) => None,
        }
    }

    pub(super) fn classes(&self) -> &[String] {
        match &self.training {
            Training::Cache(cache, _) => &cache.manifest().data.classes,
            Training::Data(dataset) => dataset.classes(),
        }
    }

    /// Every sample's label.
    fn labels(&self) -> Vec<i64> {
        match &self.training {
            Training::Cache(cache, _) => cache.labels().to_vec(),
            Training::Data(dataset) => (0..dataset.len()).map(|i| dataset.label(i)).collect(),
        }
    }

    /// How many classes the labels tell apart, at least.
    pub(super) fn labelled(&self) -> usize {
        let last = self.labels().into_iter().max();
        last.map_or(0, |label| usize::try_from(label.saturating_add(1)).unwrap_or(0))
    }

    /// How many classes a student of this data tells apart.
    fn class_count(&self) -> Result<usize> {
        let named = self.classes().len();
        let labelled = self.labelled();
        // logits of other classes say nothing of the student's
        let cache = self
            .cache()
            .map(Cache::manifest)
            .filter(|manifest| !manifest.logits.is_some_and(|logits| logits.other_classes));
        let teacher =
            cache.and_then(|manifest| manifest.view_arrays.iter().find(|a| a.path == "logits"));
        let taught = teacher.and_then(|a| a.row_shape.last().copied()).unwrap_or(0);
        match named.max(labelled).max(taught) {
            0 => Err(Error::input(
                "data: expected classes, found neither names, labels nor a teacher's logits",
            )
            .hint("train an .onnx student instead of a preset")),
            n => Ok(n),
        }
    }

    fn warn_of_missing_classes(&self, recipe: &Train, context: &Context<'_>) {
        let Some(limit) = recipe.limit else { return };
        let mut labels = self.labels();
        if let Training::Cache(cache, _) = &self.training {
            // from the order of the rows to that of the samples
            let mut rows: Vec<(i64, i64)> =
                cache.sample_ids().iter().copied().zip(labels).collect();
            rows.sort_unstable();
            labels = rows.into_iter().map(|(_, label)| label).collect();
        }
        let taken: BTreeSet<i64> = data::take((0..labels.len()).collect(), recipe.take())
            .into_iter()
            .map(|i| labels[i])
            .collect();
        let all: BTreeSet<i64> = labels.into_iter().collect();
        if taken.len() < all.len() {
            context.monitor.warn(&format!(
                "limit {limit}: {} of {} classes have no sample (--shuffle SEED mixes before it)",
                all.len() - taken.len(),
                all.len()
            ));
        }
    }

    /// The terms of the loss that this material can serve.
    pub(super) fn terms(
        &self,
        recipe: &Train,
        context: &Context<'_>,
    ) -> Result<Vec<CriterionRecipe>> {
        let mut terms = recipe.terms(self.cache().is_some());
        if self.cache().is_none()
            && let Some(term) = terms.iter().find(|t| t.method.spec().subject != Subject::Labels)
        {
            return Err(Error::input(format!(
                "criterion {}: expected a cache, found none",
                term.name()
            ))
            .hint("name the teacher's cache: --cache DIR"));
        }
        if self.labels().iter().all(|&label| label < 0) {
            context.monitor.note("the samples have no labels: cross-entropy is off");
            terms.retain(|t| t.method.spec().subject != Subject::Labels);
        }
        if terms.is_empty() {
            return Err(Error::input("training: expected labels or a teacher, found neither"));
        }
        Ok(terms)
    }

    /// The loss: the terms on their pairs, at the spots that the recipe asks for.
    pub(super) fn objective(
        &self,
        plan: &Plan,
        terms: &[CriterionRecipe],
        pairs: &[Vec<Pair>],
        student: &Student,
    ) -> Result<Objective> {
        let recipe = &plan.recipe;
        let objective = Objective::new(terms, pairs, recipe.label_smoothing, student)?;
        let Some(sakd) = &recipe.sakd else { return Ok(objective) };
        let cache = self.cache().ok_or_else(|| {
            Error::input("sakd: expected a cache, found none")
                .hint("name the teacher's cache: --cache DIR")
        })?;
        let taps = self.taps(cache, student)?;
        let vectors = taps.suggest_vector("sakd")?;
        let Some(file) = &plan.teacher else {
            return objective.with_spots(sakd, &vectors, student);
        };
        taps.check_classes("sakd exact")?;
        let teacher = teacher::import(file, cache.manifest(), plan)?;
        objective.with_routes(sakd, &vectors, student, &teacher, cache.manifest())
    }

    /// The taps of teacher and student.
    fn taps(&self, cache: &Cache, student: &Student) -> Result<Taps> {
        Ok(Taps::new(cache.manifest(), &student.taps(&self.input_shapes(student)?)?))
    }

    /// The pairs of each term.
    pub(super) fn pairs(
        &self,
        terms: &[CriterionRecipe],
        student: &Student,
        context: &Context<'_>,
    ) -> Result<Vec<Vec<Pair>>> {
        let Some(cache) = self
            .cache()
            .filter(|_| terms.iter().any(|t| t.method.spec().subject != Subject::Labels))
        else {
            return Ok(vec![Vec::new(); terms.len()]);
        };
        let taps = self.taps(cache, student)?;
        let mut told = BTreeSet::new();
        let mut all = Vec::new();
        for term in terms {
            let (pairs, left) = taps.pairs(term)?;
            for note in left {
                if !told.contains(&note) {
                    context.monitor.note(&note);
                    told.insert(note);
                }
            }
            all.push(activation::before(&term.method, pairs, student, cache)?);
        }
        Ok(all)
    }

    /// The shapes of one sample's inputs, batch axis first.
    fn input_shapes(&self, student: &Student) -> Result<Vec<Vec<usize>>> {
        let names: Vec<String> = student.inputs().iter().map(|i| i.name.clone()).collect();
        let Some(cache) = self.cache() else { return Ok(Vec::new()) };
        let source = self.cache_source(
            cache,
            CacheSource::new(cache, &names, false, &[], Take::default(), 0, false)?,
        )?;
        let sample = Source::Cache(source).batch(0, 0..1)?;
        Ok(sample.inputs.iter().map(|t| t.dims().to_vec()).collect())
    }

    /// A reader of the cache with the data set of inputs that it does not store.
    fn cache_source<'a>(
        &'a self,
        cache: &'a Cache,
        source: CacheSource<'a>,
    ) -> Result<CacheSource<'a>> {
        match &self.training {
            Training::Cache(_, Some(dataset)) => {
                Ok(source.with_originals(Originals::new(cache, dataset.as_ref())?))
            }
            _ => Ok(source),
        }
    }

    /// Whether a step's inputs are decoded images, which takes more threads than decoding chunks.
    pub(super) fn decodes(&self) -> bool {
        !matches!(self.training, Training::Cache(_, None))
    }

    /// Says so where epochs see the same images again.
    pub(super) fn note_views(&self, recipe: &Train, context: &Context<'_>) {
        let Some(manifest) = self.cache().map(Cache::manifest) else { return };
        let (views, epochs) = (manifest.views, recipe.epochs);
        if epochs > views {
            let what = manifest
                .augment
                .as_ref()
                .map_or_else(|| "unaugmented".to_owned(), ToString::to_string);
            let flags = if manifest.augment.is_some() { "" } else { " --augment NAME -o DIR" };
            let plural = if views == 1 { "" } else { "s" };
            context.monitor.note(&format!(
                "{epochs} epochs go through the cache's {views} view{plural} ({what}) in turn: \
                 extract --views N{flags} makes more"
            ));
        }
    }

    pub(super) fn source<'a>(
        &'a self,
        recipe: &Train,
        preprocess: Option<&Preprocess>,
        inputs: &[String],
        objective: &Objective,
    ) -> Result<Source<'a>> {
        Ok(match &self.training {
            Training::Cache(cache, _) => {
                let (logits, taps) = (objective.teacher_logits, &objective.taps);
                let source = CacheSource::new(
                    cache,
                    inputs,
                    logits,
                    taps,
                    recipe.take(),
                    recipe.seed,
                    true,
                )?;
                Source::Cache(self.cache_source(cache, source)?)
            }
            Training::Data(dataset) => Source::Data(DataSource::training(
                dataset.as_ref(),
                preprocess.cloned(),
                recipe.augment,
                inputs.to_vec(),
                recipe.take(),
                recipe.seed,
            )),
        })
    }

    pub(super) fn test<'a>(
        &'a self,
        preprocess: Option<&Preprocess>,
        inputs: &[String],
    ) -> Option<Source<'a>> {
        let test = self.test.as_deref()?;
        Some(Source::Data(DataSource::evaluation(test, preprocess.cloned(), inputs.to_vec())))
    }

    /// The training samples as they stand, for the parity check where there is no test split.
    pub(super) fn sequential<'a>(
        &'a self,
        preprocess: Option<&Preprocess>,
        inputs: &[String],
    ) -> Result<Source<'a>> {
        Ok(match &self.training {
            Training::Cache(cache, _) => Source::Cache(self.cache_source(
                cache,
                CacheSource::new(cache, inputs, false, &[], Take::default(), 0, false)?,
            )?),
            Training::Data(dataset) => Source::Data(DataSource::evaluation(
                dataset.as_ref(),
                preprocess.cloned(),
                inputs.to_vec(),
            )),
        })
    }

    /// Everything that decides a run's result.
    pub(super) fn settings(&self, recipe: &Train, model: &Model, device: &str) -> Value {
        let trained_on = match &self.training {
            Training::Cache(cache, _) => {
                // the content alone: where it lies and what its files are called change nothing
                let mut manifest = cache.manifest().clone();
                manifest.teacher.file = String::new();
                manifest.data.spec = String::new();
                // what an earlier format did not have
                manifest.row_sums.clear();
                manifest.extends = None;
                manifest.format = manifest.lowest_format();
                let text = serde_json::to_vec(&manifest).unwrap_or_default();
                json!({ "cache": {
                    "teacher": manifest.teacher.sha256,
                    "rows": manifest.rows,
                    "content": sha256(&text),
                } })
            }
            Training::Data(dataset) => json!({ "data": dataset.fingerprint() }),
        };
        json!({
            "tool": concat!("nst-cache ", env!("CARGO_PKG_VERSION")),
            "student": model.onnx.sha256(),
            "preprocess": model.preprocess,
            "recipe": recipe,
            "trained-on": trained_on,
            // another kind of device rounds otherwise: a run is not gone on with there
            "device": device,
            "test": self.test.as_ref().map(|t| t.fingerprint()),
        })
    }
}

/// The data set of inputs that a cache does not store: as `--source` says, else as the cache names
/// it.
fn originals(
    cache: &Cache,
    plan: &Plan,
    context: &Context<'_>,
) -> Result<Option<Box<dyn Dataset>>> {
    let data = &cache.manifest().data;
    if cache.manifest().stores_inputs() && plan.source.is_none() {
        return Ok(None);
    }
    let spec = match &plan.source {
        Some(spec) => spec.clone(),
        None => data.spec.parse()?,
    };
    let dataset = data::open(&spec, &data.split, context.monitor).map_err(|e| {
        let error = Error::input(format!(
            "data {spec}: expected the images of this cache, which does not store them"
        ))
        .because(e);
        error.hint("--source SPEC says where they lie now")
    })?;
    // refused here, before anything else is done
    Originals::new(cache, dataset.as_ref())?.refuse_changed(context.monitor)?;
    Ok(Some(dataset))
}

impl Model {
    /// Reads the .onnx file, or builds the preset for what the material holds.
    pub(super) fn resolve(plan: &Plan, material: &Material, context: &Context<'_>) -> Result<Self> {
        let path = Path::new(&plan.model);
        let file = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
        let read = if file { Some(onnx::Model::read(path)?) } else { None };
        let preprocess = preprocessing(plan, material, read.as_ref(), context)?;
        let model = match (read, &preprocess) {
            (Some(model), _) => match plan.recipe.head {
                Some(classes) => {
                    let (model, note) = presets::with_head(&model, classes, plan.recipe.seed)?;
                    context.monitor.note(&note);
                    model
                }
                None => model,
            },
            (None, _) if plan.recipe.head.is_some() => {
                return Err(Error::input(format!(
                    "head: expected an .onnx student, found the preset {}, which has as many \
                     outputs as the data has classes",
                    plan.model
                )));
            }
            (None, Some(p)) => {
                let ([h, w], c) = (p.size, p.channels.count());
                presets::build(&plan.model, material.class_count()?, [c, h, w], plan.recipe.seed)?
            }
            (None, None) => {
                return Err(Error::input(format!(
                    "student {}: expected an .onnx file for data that is not images, found a \
                     preset",
                    plan.model
                )));
            }
        };
        if let (Some(p), [input]) = (&preprocess, model.inputs().as_slice()) {
            check_input(&plan.model, &input.shape, p)?;
        }
        Ok(Self { onnx: model, classes: material.classes().to_vec(), preprocess })
    }
}

/// How images become the student's input, which is f32 `[batch, channels, height, width]` whatever
/// the teacher takes.
fn preprocessing(
    plan: &Plan,
    material: &Material,
    model: Option<&onnx::Model>,
    context: &Context<'_>,
) -> Result<Option<Preprocess>> {
    let found = of_material(plan, material, model, context)?;
    Ok(found.map(|p| Preprocess { layout: Layout::Nchw, dtype: Dtype::F32, ..p }))
}

/// How the material's images are preprocessed: as the cache records, else by the flags and what the
/// model declares.
fn of_material(
    plan: &Plan,
    material: &Material,
    model: Option<&onnx::Model>,
    context: &Context<'_>,
) -> Result<Option<Preprocess>> {
    let dataset = match &material.training {
        Training::Cache(cache, _) => {
            let recorded = cache.manifest().data.preprocess.clone();
            if let Some(recorded) = &recorded {
                check_options(&plan.preprocess, recorded)?;
            }
            return Ok(recorded);
        }
        Training::Data(dataset) => dataset.as_ref(),
    };
    let Sample::Image(image) = dataset.sample(0)? else { return Ok(None) };
    let mut options = plan.preprocess.clone();
    let inputs = model.map(onnx::Model::inputs).unwrap_or_default();
    let (dtype, shape) = match inputs.first() {
        Some(input) => (input.dtype.unwrap_or(Dtype::F32), input.shape.clone()),
        None => (Dtype::F32, vec![Dim::Open, Dim::Open, Dim::Open, Dim::Open]),
    };
    if model.is_none()
        && image.channels == 1
        && options.channels.is_none()
        && options.preset.is_none()
    {
        options.channels = Some(Channels::Gray);
    }
    let (preprocess, warnings) =
        data::preprocess::resolve(&options, dtype, &shape, data::common_size(dataset))?;
    for warning in &warnings {
        context.monitor.warn(warning);
    }
    Ok(Some(preprocess))
}

/// Refuses a student whose declared input is no `[batch, channels, height, width]` of the images.
fn check_input(name: &str, declared: &[Dim], p: &Preprocess) -> Result<()> {
    let expected = [p.channels.count(), p.size[0], p.size[1]];
    let fits = |(dim, size): (&Dim, &usize)| !matches!(dim, Dim::Fixed(n) if n != size);
    if declared.is_empty() || (declared.len() == 4 && declared[1..].iter().zip(&expected).all(fits))
    {
        return Ok(());
    }
    let found: Vec<String> = declared
        .iter()
        .map(|dim| match dim {
            Dim::Fixed(n) => n.to_string(),
            Dim::Symbol(name) => name.clone(),
            Dim::Open => "?".to_owned(),
        })
        .collect();
    let [c, h, w] = expected;
    Err(Error::input(format!(
        "student {name}: expected an input [batch, {c}, {h}, {w}] for these images, found [{}]",
        found.join(", ")
    )))
}

/// Refuses options that ask for another preprocessing than the cache was made with.
fn check_options(options: &PreprocessOptions, recorded: &Preprocess) -> Result<()> {
    let wanted = match &options.preset {
        Some(name) => options.clone().or(preset(name)?),
        None => options.clone(),
    };
    let mut differences = Vec::new();
    let mut compare = |name: &str, wanted: Option<String>, recorded: String| {
        if let Some(wanted) = wanted
            && wanted != recorded
        {
            differences.push(format!("{name}: expected {recorded}, found {wanted}"));
        }
    };
    let text = |value: &dyn std::fmt::Debug| format!("{value:?}");
    compare("size", wanted.size.map(|v| text(&v)), text(&recorded.size));
    let shorter = recorded.size[0].min(recorded.size[1]);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of pixels"
    )]
    let resize =
        wanted.resize.or(wanted.crop_ratio.map(|ratio| (shorter as f64 / ratio).round() as usize));
    let pixels =
        |resize: Option<usize>| resize.map_or_else(|| "none".to_owned(), |n| n.to_string());
    compare("resize", resize.map(|v| pixels(Some(v))), pixels(recorded.resize));
    compare("interpolation", wanted.interpolation.map(|v| text(&v)), text(&recorded.interpolation));
    compare("channels", wanted.channels.map(|v| text(&v)), text(&recorded.channels));
    compare("layout", wanted.layout.map(|v| text(&v)), text(&recorded.layout));
    compare("dtype", wanted.dtype.map(|v| text(&v)), text(&recorded.dtype));
    compare("scale", wanted.scale.map(|v| text(&v)), text(&recorded.scale));
    let spread = |values: Vec<f32>| {
        if let [value] = values[..] { vec![value; recorded.mean.len()] } else { values }
    };
    compare("mean", wanted.mean.map(|v| text(&spread(v))), text(&recorded.mean));
    compare("std", wanted.std.map(|v| text(&spread(v))), text(&recorded.std));
    match differences.first() {
        None => Ok(()),
        Some(first) => {
            Err(Error::input(format!("cache was made with another preprocessing: {first}"))
                .hint("leave the preprocessing flags out, or extract again with them"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Dtype;
    use crate::array::Layout;
    use crate::data::Interpolation;

    fn recorded() -> Preprocess {
        Preprocess {
            size: [32, 32],
            resize: None,
            interpolation: Interpolation::Bilinear,
            channels: Channels::Rgb,
            layout: Layout::Nchw,
            dtype: Dtype::F32,
            scale: 1.0 / 255.0,
            mean: vec![0.4914, 0.4822, 0.4465],
            std: vec![0.2470, 0.2435, 0.2616],
            exif_orientation: false,
        }
    }

    #[test]
    fn another_preprocessing_than_the_caches_is_refused() {
        let options = |name: &str| PreprocessOptions {
            preset: Some(name.into()),
            ..PreprocessOptions::default()
        };
        check_options(&PreprocessOptions::default(), &recorded()).unwrap();
        check_options(&options("cifar10"), &recorded()).unwrap();
        let error = check_options(&options("imagenet"), &recorded()).unwrap_err();
        assert!(error.chain().contains("resize"), "{}", error.chain());
        let mean = PreprocessOptions { mean: Some(vec![0.5]), ..PreprocessOptions::default() };
        assert!(check_options(&mean, &recorded()).unwrap_err().chain().contains("mean"));
    }

    #[test]
    fn a_students_input_has_to_take_the_images() {
        let dims = |c: usize| [Dim::Symbol("batch".into()), Dim::Fixed(c), Dim::Open, Dim::Open];
        check_input("s", &dims(3), &recorded()).unwrap();
        check_input("s", &[], &recorded()).unwrap();
        let error = check_input("s", &dims(1), &recorded()).unwrap_err();
        assert!(
            error.to_string().contains("[batch, 3, 32, 32]")
                && error.to_string().contains("[batch, 1, ?, ?]"),
            "{error}"
        );
    }
}
