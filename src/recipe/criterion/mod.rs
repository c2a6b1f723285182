//! Criteria as a recipe names them: `nst`,
//! `nst-gauss:sigma=0.5,weight=25,pair=stage2>/layer2/Relu_output_0`, or a `[[criterion]]` table.
//!
//! A criterion is a flat table: its method, the settings common to all criteria (weight, weight
//! schedule, pairs), and the method's own settings. The common ones are taken out of the table; the
//! rest are the method's typed settings, which reject unknown names.

mod course;

pub use course::Course;

use crate::criterion::papers::cosine::Cosine;
use crate::criterion::papers::cross_entropy::Ce;
use crate::criterion::papers::kd::Kd;
use crate::criterion::papers::nst::NstPoly;
use crate::criterion::papers::pointwise::Mse;
use crate::criterion::papers::{self, Entry};
use crate::criterion::{Criterion, Method};
use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::str::FromStr;

/// A criterion's table, sorted so that what a run records does not depend on how `serde_json` was
/// built.
type Table = BTreeMap<String, Value>;

/// A pair of taps to compare: the cache's alias and the student's tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairRecipe {
    /// Alias (or tensor name) of the teacher's tap in the cache.
    pub teacher: String,
    /// Name of the student's tensor.
    pub student: String,
}

/// One weighted term of the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Table", into = "Table")]
pub struct CriterionRecipe {
    /// The factor of this term in the total loss.
    pub weight: f64,
    /// The schedule of the weight over the run.
    pub course: Course,
    /// The taps to pair; empty for the suggested ones.
    pub pairs: Vec<PairRecipe>,
    /// The criterion to compute.
    pub method: Method,
}

impl<C: Criterion> From<C> for CriterionRecipe {
    /// The criterion with its default weight, always on, on the suggested pairs.
    fn from(criterion: C) -> Self {
        let method = Method::new(criterion);
        Self { weight: method.spec().weight, course: Course::default(), pairs: Vec::new(), method }
    }
}

impl CriterionRecipe {
    /// Cross-entropy with weight 1.
    #[must_use]
    pub fn ce() -> Self {
        Ce::default().into()
    }

    /// NST with the squared kernel and weight 50 on the suggested pairs: the default addition of a
    /// run with a cache.
    #[must_use]
    pub fn default_nst() -> Self {
        NstPoly::default().into()
    }

    /// Ten times the cosine of embeddings: the default of a run whose teacher gives those. At the
    /// default learning rate a weight of 1 learns slowly (docs/tasks.md).
    #[must_use]
    pub fn default_cosine() -> Self {
        Self { weight: 10.0, ..Cosine::default().into() }
    }

    /// Knowledge distillation: the default of a run without labels whose teacher is a classifier.
    #[must_use]
    pub fn default_kd() -> Self {
        Kd::default().into()
    }

    /// The mean squared error: the default of a run whose teacher gives other outputs.
    #[must_use]
    pub fn default_mse() -> Self {
        Mse::default().into()
    }

    /// The name under which metrics list this term: `ce`, `kd`, `nst-poly`, …
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.method.spec().name
    }

    /// The method's settings, by name.
    #[must_use]
    pub fn settings(&self) -> Table {
        match self.method.settings() {
            Ok(Value::Object(settings)) => settings.into_iter().collect(),
            // settings are plain numbers and names, so this is always a table
            _ => Table::new(),
        }
    }

    /// Checks the weight, its schedule and the method's settings.
    ///
    /// # Errors
    /// When a value is outside its range.
    pub fn validate(&self) -> Result<()> {
        if !(self.weight.is_finite() && self.weight >= 0.0) {
            return Err(Error::input(format!(
                "criterion {}: weight: expected a finite value of 0 or more, found {}",
                self.name(),
                self.weight
            )));
        }
        self.course.check(self.name())?;
        self.method.check()
    }
}

impl FromStr for CriterionRecipe {
    type Err = Error;

    /// Parses `METHOD[:key=value,…]`: the keys of a `[[criterion]]` table, and
    /// `pair=TEACHER>STUDENT`, which can be repeated.
    fn from_str(text: &str) -> Result<Self> {
        let (method, rest) = text.split_once(':').unwrap_or((text, ""));
        let mut table = Table::from_iter([("method".to_owned(), Value::from(method))]);
        let mut pairs = Vec::new();
        for setting in rest.split(',').filter(|s| !s.is_empty()) {
            let wrong = |expected: &str| {
                Error::input(format!("criterion `{text}`: `{setting}`: expected {expected}"))
            };
            let (key, value) = setting.split_once('=').ok_or_else(|| wrong("key=value"))?;
            if key == "pair" {
                let (teacher, student) =
                    value.split_once('>').ok_or_else(|| wrong("pair=TEACHER>STUDENT"))?;
                pairs.push(serde_json::json!({ "teacher": teacher, "student": student }));
            } else if table.insert(key.to_owned(), scalar(value)).is_some() {
                return Err(wrong("each key once"));
            }
        }
        if !pairs.is_empty() {
            table.insert("pairs".to_owned(), Value::from(pairs));
        }
        table.try_into()
    }
}

/// A number or a truth value if the text is one, else the text.
fn scalar(text: &str) -> Value {
    let whole = text.parse::<i64>().ok().map(Value::from);
    whole
        .or_else(|| text.parse::<bool>().ok().map(Value::from))
        .or_else(|| text.parse::<f64>().ok().filter(|v| v.is_finite()).map(Value::from))
        .unwrap_or_else(|| text.into())
}

/// `nst` with a `kernel`, by default `poly`, is `nst-KERNEL`.
fn with_kernel(method: String, table: &mut Table) -> Result<String> {
    let named = method.strip_prefix("nst-");
    if method != "nst" && named.is_none() {
        return Ok(method);
    }
    let given = take::<String>(table, &method, "kernel")?;
    match (named, given) {
        (Some(named), Some(given)) if named != given => Err(Error::input(format!(
            "criterion {method}: kernel: expected {named}, found {given}"
        ))),
        (Some(_), _) => Ok(method),
        (None, given) => {
            let name = format!("nst-{}", given.as_deref().unwrap_or("poly"));
            let known = papers::entry(&name).is_ok();
            known.then_some(name).ok_or_else(|| {
                Error::input(format!(
                    "criterion nst: kernel: expected linear, poly or gauss, found {}",
                    given.unwrap_or_default()
                ))
            })
        }
    }
}

/// Removes a key from the table and returns its value.
fn take<T: DeserializeOwned>(table: &mut Table, method: &str, key: &str) -> Result<Option<T>> {
    let value = table.remove(key).map(serde_json::from_value).transpose();
    value.map_err(|e| Error::input(format!("criterion {method}: {key}: {e}")))
}

/// The method with these settings.
fn method_of(entry: &Entry, settings: Table) -> Result<Method> {
    entry.read(settings.clone().into_iter().collect()).map_err(|error| {
        // serde doesn't name the key at fault, so each is tried alone
        let alone = |(key, value): (String, Value)| {
            let error = entry.read(Value::from_iter([(key.clone(), value)])).err()?;
            Some((key, error))
        };
        let (key, error) =
            settings.into_iter().find_map(alone).unwrap_or_else(|| (String::new(), error));
        let message = error.to_string();
        let at = if key.is_empty() || message.contains(&format!("`{key}`")) {
            String::new()
        } else {
            format!("{key}: ")
        };
        Error::input(format!("criterion {}: {at}{message}", entry.spec.name))
    })
}

impl TryFrom<Table> for CriterionRecipe {
    type Error = Error;

    fn try_from(mut table: Table) -> Result<Self> {
        let Some(Value::String(named)) = table.remove("method") else {
            return Err(Error::input("criterion: expected method = \"NAME\", found none"));
        };
        let name = with_kernel(named, &mut table)?;
        let weight = take(&mut table, &name, "weight")?;
        let mut course = [None; 4];
        for (value, key) in course.iter_mut().zip(Course::KEYS) {
            *value = take(&mut table, &name, key)?;
        }
        let [from, until, warmup_epochs, decay_to] = course;
        let entry =
            papers::entry(&name).map_err(|e| e.hint("nst-cache criteria describes them"))?;
        // criteria of labels have no pairs: the key is left in, to be rejected
        let pairs = if entry.spec.subject.has_pairs() {
            take(&mut table, &name, "pairs")?.unwrap_or_default()
        } else {
            Vec::new()
        };
        let method = method_of(entry, table)?;
        let weight = weight.unwrap_or_else(|| method.spec().weight);
        let recipe =
            Self { weight, course: Course { from, until, warmup_epochs, decay_to }, pairs, method };
        recipe.validate()?;
        Ok(recipe)
    }
}

impl From<CriterionRecipe> for Table {
    fn from(recipe: CriterionRecipe) -> Self {
        let mut table = recipe.settings();
        table.insert("method".to_owned(), recipe.name().into());
        table.insert("weight".to_owned(), recipe.weight.into());
        if let Ok(Value::Object(course)) = serde_json::to_value(recipe.course) {
            table.extend(course);
        }
        if let Ok(pairs) = serde_json::to_value(&recipe.pairs)
            && !recipe.pairs.is_empty()
        {
            table.insert("pairs".to_owned(), pairs);
        }
        table
    }
}

#[cfg(test)]
mod tests;
