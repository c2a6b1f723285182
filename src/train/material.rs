//! What a run is built from: the teacher's cache or a data set, the test split, the untrained
//! model.

use super::job::{Host, Settled};
use super::originals::{originals, with_originals};
use super::{teacher, teaching};
use crate::cache::{Cache, Manifest};
use crate::criterion::Subject;
use crate::data::{self, Augment, DataSpec, Dataset, Preprocess, Take};
use crate::error::{Error, Result};
use crate::hash::sha256;
use crate::onnx;
use crate::recipe::{CriterionRecipe, Train};
use crate::statistic::Statistic;
use crate::student::{Student, TensorId};
use crate::trainer::activation;
use crate::trainer::loss::Objective;
use crate::trainer::pairing::{Pair, Taps};
use crate::trainer::source::{CacheSource, DataSource, Source};
use crate::trainer::test::{ComparedOutput, Neighbors, Test};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Most training samples among which an embedding's neighbors are sought.
const NEIGHBORS: usize = 10_000;

/// The training and evaluation data of a run.
pub(super) struct Material {
    pub(super) training: Training,
    test: Option<TestData>,
}

/// Where the evaluation's samples come from.
enum TestData {
    /// A cache of them, and the data set of the inputs that it does not store.
    Cache(Box<Cache>, Option<Box<dyn Dataset>>),
    Data(Box<dyn Dataset>),
}

pub(super) enum Training {
    /// A cache, and the data set of the inputs that it does not store.
    Cache(Box<Cache>, Option<Box<dyn Dataset>>),
    Data(Box<dyn Dataset>),
}

impl Material {
    pub(super) fn open(settled: &Settled, host: &Host<'_>) -> Result<Self> {
        let training = match (&settled.job.cache, &settled.job.data) {
            (Some(cache), _) => {
                let cache = Box::new(Cache::open(cache)?);
                if let Some(note) = cache.extension() {
                    host.monitor.warn(note);
                }
                let originals = originals(&cache, settled.job.source.as_ref(), host)?;
                Training::Cache(cache, originals)
            }
            (None, Some((spec, split))) => Training::Data(data::open(spec, split, host.monitor)?),
            (None, None) => {
                return Err(Error::input("train: expected a cache or a data set, found neither"));
            }
        };
        let mut material = Self { training, test: None };
        material.warn_of_missing_classes(&settled.recipe, host);
        material.test = match &settled.test {
            Some((spec, split)) => Some(material.open_test(spec, split, host)?),
            None => material.default_test(settled, host).map(TestData::Data),
        };
        host.monitor.note(&format!(
            "training: {}",
            data::describe_labels(material.classes(), material.labels())
        ));
        match &material.test {
            Some(TestData::Data(test)) => {
                host.monitor.note(&format!("test: {}", data::describe(test.as_ref())));
            }
            Some(TestData::Cache(cache, _)) => {
                let manifest = cache.manifest();
                let labels = data::describe_labels(&manifest.data.classes, cache.labels().to_vec());
                host.monitor.note(&format!("test: {labels}, with the teacher's outputs"));
            }
            None => {}
        }
        Ok(material)
    }

    /// The evaluation's samples: a data set, or a cache that the same teacher made of them.
    fn open_test(&self, spec: &DataSpec, split: &str, host: &Host<'_>) -> Result<TestData> {
        let is_cache = spec.format.is_none() && Manifest::find(&spec.path)?.is_some();
        if !is_cache {
            let test = data::open(spec, split, host.monitor)?;
            let test = data::relabeled(test, self.classes()).map_err(|e| {
                Error::input(format!(
                    "--test {spec}: expected the training data's classes, found others"
                ))
                .because(e)
            })?;
            return Ok(TestData::Data(test));
        }
        let test = Box::new(Cache::open(&spec.path)?);
        let Some(training) = self.cache() else {
            return Err(Error::input(format!(
                "--test {spec}: expected a data set for a run without a cache, found a cache"
            )));
        };
        let (ours, theirs) = (training.manifest(), test.manifest());
        if ours.teacher.sha256 != theirs.teacher.sha256 {
            return Err(Error::input(format!(
                "--test {spec}: expected a cache of the training cache's teacher {}, found one of \
                 {}",
                ours.teacher.file, theirs.teacher.file
            )));
        }
        if ours.data.preprocess != theirs.data.preprocess {
            return Err(Error::input(format!(
                "--test {spec}: expected the training cache's preprocessing, found another"
            ))
            .hint("extract the test split with the same flags"));
        }
        let (ours, theirs) = (&ours.data.classes, &theirs.data.classes);
        if ours != theirs && data::are_names(ours) && data::are_names(theirs) {
            return Err(Error::input(format!(
                "--test {spec}: expected the training cache's {} classes in their order, found {} \
                 others",
                ours.len(),
                theirs.len()
            ))
            .hint("extract the test split with --classes FILE, which gives both one order"));
        }
        let originals = originals(&test, None, host)?;
        Ok(TestData::Cache(test, originals))
    }

    /// The test split of the training data, if there is one that can be read.
    fn default_test(&self, settled: &Settled, host: &Host<'_>) -> Option<Box<dyn Dataset>> {
        let (spec, fingerprint) = match &self.training {
            Training::Cache(cache, _) => {
                let data = &cache.manifest().data;
                (data.spec.parse::<DataSpec>(), &data.fingerprint)
            }
            Training::Data(dataset) => (
                settled.job.data.clone().map(|d| d.0).ok_or_else(|| Error::input("no data")),
                dataset.fingerprint(),
            ),
        };
        let opened = spec.and_then(|spec| data::open(&spec, "test", host.monitor));
        // a data set without splits returns the training samples again
        let found = opened.and_then(|test| {
            let is_other = test.fingerprint() != fingerprint;
            is_other.then(|| data::relabeled(test, self.classes())).transpose()
        });
        match found {
            Ok(Some(test)) => Some(test),
            Ok(None) => {
                host.monitor.note(
                    "no test split beside the training data: no evaluation (--test SPEC names one)",
                );
                None
            }
            Err(error) => {
                host.monitor.note(&format!(
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

    /// The number of classes that occur in the labels, a lower bound.
    pub(super) fn labeled(&self) -> usize {
        let last = self.labels().into_iter().max();
        last.map_or(0, |label| usize::try_from(label.saturating_add(1)).unwrap_or(0))
    }

    /// The number of classes that the data has, by their names or its labels; 0 if it has none.
    pub(super) fn data_classes(&self) -> usize {
        self.classes().len().max(self.labeled())
    }

    /// The number of classes of a student of this data.
    pub(super) fn class_count(&self) -> Result<usize> {
        // logits of other classes say nothing about the student's
        let cache = self.cache().map(Cache::manifest).filter(|manifest| {
            !manifest.logits.as_ref().is_some_and(|logits| logits.other_classes)
        });
        let taught = cache.and_then(teaching::classes).unwrap_or(0);
        match self.data_classes().max(taught) {
            0 => Err(Error::input(
                "data: expected classes, found neither names, labels nor a teacher's logits",
            )
            .hint("--head N gives a preset N outputs, or train an .onnx student")),
            n => Ok(n),
        }
    }

    /// The tensor and width of the teacher's only embedding, if no class logits are kept.
    pub(super) fn embedding(&self) -> Option<(String, usize)> {
        teaching::embedding(self.cache()?.manifest())
    }

    /// Positions and classes of the teacher's logits, if each position has some.
    pub(super) fn logits_at_positions(&self) -> Option<[usize; 2]> {
        <[usize; 2]>::try_from(self.cache()?.manifest().logits_row()?).ok()
    }

    fn warn_of_missing_classes(&self, recipe: &Train, host: &Host<'_>) {
        let Some(limit) = recipe.limit else { return };
        let mut labels = self.labels();
        if let Training::Cache(cache, _) = &self.training {
            // from row order to sample order
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
            host.monitor.warn(&format!(
                "limit {limit}: {} of {} classes have no sample (--shuffle SEED mixes before it)",
                all.len() - taken.len(),
                all.len()
            ));
        }
    }

    /// The terms of the loss that this data supports. `no_classes`: why the student's first output
    /// is not taken for class logits, if it is not.
    pub(super) fn terms(
        &self,
        recipe: &Train,
        no_classes: Option<&str>,
        host: &Host<'_>,
    ) -> Result<Vec<CriterionRecipe>> {
        let has_labels = self.labels().iter().any(|&label| label >= 0);
        let manifest = self.cache().map(Cache::manifest);
        let mut terms = recipe.terms(teaching::of(manifest, has_labels));
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
            host.monitor.note("the samples have no labels: cross-entropy is off");
            terms.retain(|t| t.method.spec().subject != Subject::Labels);
        } else if let Some(reason) = no_classes
            && !recipe.names_labels()
            && terms.len() > 1
        {
            host.monitor.note(&format!(
                "student: {reason}: no class logits, and cross-entropy is off (--criterion ce asks \
                 for it)"
            ));
            terms.retain(|t| t.method.spec().subject != Subject::Labels);
        }
        if terms.is_empty() {
            let error = Error::input("training: expected labels or a teacher, found neither");
            return Err(match manifest {
                Some(_) => Error::input(
                    "training: expected labels for cross-entropy, found none in the cache",
                )
                .hint(
                    "leave --criterion out, or name one that learns from the teacher: nst-cache \
                       criteria lists them",
                ),
                None => error.hint("a teacher's cache needs no labels: --cache DIR"),
            });
        }
        Ok(terms)
    }

    /// The loss: the terms on their pairs, at the spots that the recipe selects.
    pub(super) fn objective(
        &self,
        settled: &Settled,
        terms: &[CriterionRecipe],
        pairs: &[Vec<Pair>],
        student: &Student,
    ) -> Result<Objective> {
        let recipe = &settled.recipe;
        let objective = Objective::new(terms, pairs, recipe.label_smoothing, student)?;
        let Some(sakd) = &recipe.sakd else { return Ok(objective) };
        let cache = self.cache().ok_or_else(|| {
            Error::input("sakd: expected a cache, found none")
                .hint("name the teacher's cache: --cache DIR")
        })?;
        let taps = self.taps(cache, student)?;
        if objective.teacher_logits || settled.teacher.is_some() {
            taps.check_dense_logits("sakd")?;
            taps.check_no_positions("sakd")?;
        }
        let vectors = taps.suggest_vector("sakd")?;
        let Some(file) = &settled.teacher else {
            return objective.with_spots(sakd, &vectors, student);
        };
        taps.check_classes("sakd exact")?;
        let teacher = teacher::import(file, cache.manifest(), settled)?;
        objective.with_routes(sakd, &vectors, student, &teacher, cache.manifest())
    }

    /// The taps of teacher and student.
    fn taps(&self, cache: &Cache, student: &Student) -> Result<Taps> {
        Ok(Taps::new(cache.manifest(), &student.taps(&self.input_shapes(student, None)?)?))
    }

    /// The pairs of each term.
    pub(super) fn pairs(
        &self,
        terms: &[CriterionRecipe],
        student: &Student,
        host: &Host<'_>,
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
                    host.monitor.note(&note);
                    told.insert(note);
                }
            }
            all.push(activation::before(&term.method, pairs, student, cache)?);
        }
        Ok(all)
    }

    /// The shapes of one sample's inputs, batch axis first.
    pub(super) fn input_shapes(
        &self,
        student: &Student,
        preprocess: Option<&Preprocess>,
    ) -> Result<Vec<Vec<usize>>> {
        let names: Vec<String> = student.inputs().iter().map(|i| i.name.clone()).collect();
        let sample = self.sequential(preprocess, &names)?.batch(0, 0..1)?;
        Ok(sample.inputs.iter().map(|t| t.dims().to_vec()).collect())
    }

    /// Whether a step's inputs are decoded images, which needs more threads than decoding chunks.
    pub(super) fn decodes(&self) -> bool {
        !matches!(self.training, Training::Cache(_, None))
    }

    /// Notes when epochs see the same images again.
    pub(super) fn note_views(&self, recipe: &Train, host: &Host<'_>) {
        let Some(manifest) = self.cache().map(Cache::manifest) else { return };
        let (views, epochs) = (manifest.views, recipe.epochs);
        if epochs > views {
            let what = manifest
                .augment
                .as_ref()
                .map_or_else(|| "unaugmented".to_owned(), ToString::to_string);
            let flags = if manifest.augment.is_some() { "" } else { " --augment NAME -o DIR" };
            let plural = if views == 1 { "" } else { "s" };
            host.monitor.note(&format!(
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
            Training::Cache(cache, originals) => {
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
                Source::Cache(with_originals(cache, originals.as_deref(), source)?)
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

    /// Whether a cache holds class logits of its teacher.
    pub(super) fn has_class_logits(&self) -> bool {
        self.cache().is_some_and(|cache| teaching::classes(cache.manifest()).is_some())
    }

    /// Whether there are test samples.
    pub(super) fn is_tested(&self) -> bool {
        self.test.is_some()
    }

    /// The test samples, and what is measured on them.
    pub(super) fn test<'a>(
        &'a self,
        student: &Student,
        classes: Option<TensorId>,
        preprocess: Option<&Preprocess>,
        inputs: &[String],
        host: &Host<'_>,
    ) -> Result<Option<Test<'a>>> {
        let (source, outputs) = match &self.test {
            None => return Ok(None),
            Some(TestData::Data(test)) => {
                let (preprocess, inputs) = (preprocess.cloned(), inputs.to_vec());
                let source = DataSource::evaluation(test.as_ref(), preprocess, inputs);
                (Source::Data(source), Vec::new())
            }
            Some(TestData::Cache(cache, originals)) => {
                let taps = self.taps(cache, student)?;
                let (mut outputs, mut paths) = (Vec::new(), Vec::new());
                for pair in taps.outputs() {
                    if pair.is_logits() && taps.sparse_logits.is_some() {
                        host.monitor.note("test: the teacher's sparse logits are not compared");
                        continue;
                    }
                    let stored = pair.teacher_stored.iter().map(|(statistic, _)| *statistic);
                    if !pair.is_logits() && !stored.clone().any(|s| s == Statistic::Features) {
                        let stored: Vec<&str> = stored.map(Statistic::name).collect();
                        host.monitor.note(&format!(
                            "test: {} is not compared: its cache holds {} of it, and not its \
                             features (extract --keep features adds them)",
                            pair.teacher,
                            stored.join(" + ")
                        ));
                        continue;
                    }
                    let tensor = student.tensor(&pair.student);
                    let Some(tensor) = tensor.filter(|_| pair.teacher_shape == pair.student_shape)
                    else {
                        host.monitor.note(&format!(
                            "test: {} {:?} is not compared with {} {:?}, which has another shape",
                            pair.student, pair.student_shape, pair.teacher, pair.teacher_shape
                        ));
                        continue;
                    };
                    let tap = (!pair.is_logits()).then(|| {
                        paths.push(Statistic::Features.path(&pair.teacher));
                        paths.len() - 1
                    });
                    outputs.push(ComparedOutput { pair, tensor, tap });
                }
                let logits = outputs.iter().any(|output| output.tap.is_none());
                let take = Take::default();
                let source = CacheSource::new(cache, inputs, logits, &paths, take, 0, false)?;
                (Source::Cache(with_originals(cache, originals.as_deref(), source)?), outputs)
            }
        };
        let neighbors = match classes {
            Some(_) => None,
            None => self.neighbors(student, &source, preprocess, inputs)?,
        };
        let last = source.labels().into_iter().map(|(_, label)| label).max().unwrap_or(-1);
        let has_labels = last >= 0;
        if let Some(classes) = classes {
            let shape = student.shape(classes, &self.input_shapes(student, preprocess)?)?;
            let width = shape.and_then(|shape| shape.last().copied()).unwrap_or(0);
            if usize::try_from(last).is_ok_and(|last| last >= width) {
                return Err(Error::input(format!(
                    "test set: expected labels of the student's {width} classes, found {last}"
                ))
                .hint("--test SPEC names another test set"));
            }
        }
        if outputs.is_empty() && neighbors.is_none() && !(classes.is_some() && has_labels) {
            host.monitor.note(
                "test: nothing to measure: class logits and k-NN need labels on both sides, and \
                 outputs a cache of the same teacher (--test CACHE)",
            );
            return Ok(None);
        }
        Ok(Some(Test { source, classes, outputs, neighbors }))
    }

    /// The student's only output that is a vector, with training samples among which its neighbors
    /// are sought, if both sides have labels.
    fn neighbors<'a>(
        &'a self,
        student: &Student,
        test: &Source<'_>,
        preprocess: Option<&Preprocess>,
        inputs: &[String],
    ) -> Result<Option<Neighbors<'a>>> {
        let labeled = test.labels().iter().any(|&(_, label)| label >= 0) && self.labeled() > 0;
        let shapes = self.input_shapes(student, preprocess)?;
        let mut vectors = Vec::new();
        for output in student.outputs() {
            if let Some(&[_, channels]) = student.shape(output.tensor, &shapes)?.as_deref() {
                vectors.push((output.tensor, channels));
            }
        }
        let ([(tensor, channels @ teaching::EMBEDDING..)], true) = (vectors.as_slice(), labeled)
        else {
            return Ok(None);
        };
        let take = Take { limit: Some(NEIGHBORS), shuffle: Some(0) };
        let bank = match &self.training {
            Training::Cache(cache, originals) => {
                let source = CacheSource::new(cache, inputs, false, &[], take, 0, false)?;
                Source::Cache(with_originals(cache, originals.as_deref(), source)?)
            }
            Training::Data(dataset) => Source::Data(DataSource::training(
                dataset.as_ref(),
                preprocess.cloned(),
                Augment::None,
                inputs.to_vec(),
                take,
                0,
            )),
        };
        Ok(Some(Neighbors { bank, tensor: *tensor, channels: *channels }))
    }

    /// The training samples in stored order, for the parity check if there is no test split.
    pub(super) fn sequential<'a>(
        &'a self,
        preprocess: Option<&Preprocess>,
        inputs: &[String],
    ) -> Result<Source<'a>> {
        Ok(match &self.training {
            Training::Cache(cache, originals) => Source::Cache(with_originals(
                cache,
                originals.as_deref(),
                CacheSource::new(cache, inputs, false, &[], Take::default(), 0, false)?,
            )?),
            Training::Data(dataset) => Source::Data(DataSource::evaluation(
                dataset.as_ref(),
                preprocess.cloned(),
                inputs.to_vec(),
            )),
        })
    }

    /// Everything that determines a run's result.
    pub(super) fn settings(
        &self,
        recipe: &Train,
        student: &onnx::Model,
        preprocess: Option<&Preprocess>,
        device: &str,
    ) -> Value {
        let trained_on = match &self.training {
            Training::Cache(cache, _) => {
                let manifest = cache.manifest();
                json!({ "cache": {
                    "teacher": manifest.teacher.sha256,
                    "rows": manifest.rows,
                    "content": content(manifest),
                } })
            }
            Training::Data(dataset) => json!({ "data": dataset.fingerprint() }),
        };
        json!({
            "tool": concat!("nst-cache ", env!("CARGO_PKG_VERSION")),
            "student": student.sha256(),
            "preprocess": preprocess,
            "recipe": recipe,
            "trained-on": trained_on,
            // another kind of device rounds differently: a run is not resumed there
            "device": device,
            "test": self.test.as_ref().map(|test| match test {
                TestData::Data(test) => json!(test.fingerprint()),
                TestData::Cache(cache, _) => json!(content(cache.manifest())),
            }),
        })
    }
}

/// A hash of what a cache holds, whatever its location and file names.
fn content(manifest: &Manifest) -> String {
    let mut manifest = manifest.clone();
    manifest.teacher.file = String::new();
    manifest.data.spec = String::new();
    // earlier formats lack these
    manifest.row_sums.clear();
    manifest.extends = None;
    manifest.format = manifest.lowest_format();
    sha256(&serde_json::to_vec(&manifest).unwrap_or_default())
}
