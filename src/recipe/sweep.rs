//! The recipe of a sweep: the keys of a training recipe, and what varies: students, methods (sets
//! of criteria) and seeds.

use super::{CriterionRecipe, Sakd, Train, toml_file};
use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use toml::Deserializer;
use toml::de::{DeTable, Error as TomlError};

/// A named set of criteria.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepMethod {
    /// Its name in the table and in folders: `KD+NST`.
    pub name: String,
    /// Terms of the loss.
    #[serde(rename = "criterion")]
    pub criteria: Vec<CriterionRecipe>,
    /// Spot-adaptive distillation, if it differs from the shared settings.
    pub sakd: Option<Sakd>,
}

/// Every student with every method and every seed, from one cache, with the same settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// The teacher's cache.
    pub cache: PathBuf,
    /// The teacher, if the table is to include its accuracy on the test set.
    pub teacher: Option<PathBuf>,
    /// Presets, `.onnx` files or names of the working folder's students.
    pub students: Vec<String>,
    /// Seeds of initial weights, data order and augmentation.
    pub seeds: Vec<u64>,
    /// The methods to compare.
    pub methods: Vec<SweepMethod>,
    /// The settings that all runs share; its criteria and seed are not used.
    pub shared: Train,
}

/// The keys that a training recipe does not have.
#[derive(Deserialize)]
struct Varied {
    cache: PathBuf,
    teacher: Option<PathBuf>,
    students: Vec<String>,
    seeds: Vec<u64>,
    #[serde(rename = "method")]
    methods: Vec<SweepMethod>,
}

/// The names of these keys.
const VARIED: [&str; 5] = ["cache", "teacher", "students", "seeds", "method"];
/// The keys of a training recipe that a sweep varies, and their replacements.
const REPLACED: [(&str, &str); 2] =
    [("seed", "seeds"), ("criterion", "[[method]] with [[method.criterion]]")];

impl Sweep {
    /// Reads a recipe file.
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, has an unknown key, or a value outside its range.
    pub fn read(path: &Path) -> Result<Self> {
        let name = format!("recipe {}", path.display());
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::input(format!("{name}: cannot be read")).because(e))?;
        Self::parse(&name, &text)
    }

    /// Parses a recipe; `name` is its name in messages.
    ///
    /// # Errors
    /// As [`Sweep::read`].
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let (varied, shared) = split(text).map_err(|e| toml_file::describe(name, text, &e))?;
        for (key, instead) in REPLACED {
            if shared.get_ref().contains_key(key) {
                return Err(Error::input(format!("{name}: `{key}`: a sweep varies it"))
                    .hint(format!("write {instead}")));
            }
        }
        // parse the training keys first: a misspelled name is reported among them, not as a missing
        // key of the sweep
        let shared = Train::deserialize(Deserializer::from(shared))
            .map_err(|e| toml_file::describe(name, text, &e))?;
        let Varied { cache, teacher, students, seeds, methods } =
            Varied::deserialize(Deserializer::from(varied))
                .map_err(|e| toml_file::describe(name, text, &e))?;
        let sweep = Self { cache, teacher, students, seeds, methods, shared };
        sweep.validate()?;
        Ok(sweep)
    }

    /// Checks names, seeds and every method's settings.
    ///
    /// # Errors
    /// At the first value outside its range.
    pub fn validate(&self) -> Result<()> {
        let wrong = |what: &str, expected: &str, found: &str| {
            Err(Error::input(format!("sweep: {what}: expected {expected}, found {found}")))
        };
        for (what, count) in [
            ("students", self.students.len()),
            ("seeds", self.seeds.len()),
            ("method", self.methods.len()),
        ] {
            if count == 0 {
                return wrong(what, "at least one", "none");
            }
        }
        if let Some(twice) = first_twice(self.seeds.iter().map(u64::to_string)) {
            return wrong("seeds", "each once", &twice);
        }
        if let Some(twice) = first_twice(self.students.iter().cloned()) {
            return wrong("students", "each once", &twice);
        }
        // names become folders, which some file systems compare without case
        if let Some(twice) = first_twice(self.methods.iter().map(|m| m.name.to_lowercase())) {
            return wrong(
                "method",
                "names that differ, upper and lower case being the same",
                &twice,
            );
        }
        for method in &self.methods {
            let SweepMethod { name, criteria, .. } = method;
            let plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
            if !name.chars().all(plain) || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
                return wrong("method", "a name of letters, digits and ._+-", &format!("`{name}`"));
            }
            if criteria.is_empty() {
                return wrong(
                    &format!("method {name}"),
                    "at least one criterion (the labels alone are `ce`)",
                    "none",
                );
            }
            self.run(method, 0)
                .validate()
                .map_err(|e| Error::input(format!("method {name}")).because(e))?;
        }
        Ok(())
    }

    /// The recipe of one run.
    #[must_use]
    pub fn run(&self, method: &SweepMethod, seed: u64) -> Train {
        let SweepMethod { criteria, sakd, name: _ } = method;
        Train {
            seed,
            criteria: criteria.clone(),
            sakd: sakd.clone().or_else(|| self.shared.sakd.clone()),
            ..self.shared.clone()
        }
    }
}

/// Splits a recipe's keys into those of a sweep and those of a training run. Both keep their
/// positions in the text.
fn split(
    text: &str,
) -> Result<(toml::Spanned<DeTable<'_>>, toml::Spanned<DeTable<'_>>), TomlError> {
    let mut shared = DeTable::parse(text)?;
    let mut varied = DeTable::new();
    for key in VARIED {
        if let Some((key, value)) = shared.get_mut().remove_entry(key) {
            varied.insert(key, value);
        }
    }
    let span = shared.span();
    Ok((toml::Spanned::new(span, varied), shared))
}

/// The first value that repeats.
fn first_twice(values: impl Iterator<Item = String>) -> Option<String> {
    let mut seen = HashSet::new();
    values.into_iter().find(|value| !seen.insert(value.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"cache = "cache/resnet56"
test = "folder:test.tar"
students = ["resnet20", "resnet8"]
seeds = [0, 1, 2]
epochs = 15
batch = 64

[optimizer]
kind = "sgd"
lr = 0.1

[[method]]
name = "CE"
[[method.criterion]]
method = "ce"

[[method]]
name = "KD+NST"
[[method.criterion]]
method = "kd"
weight = 0.9
[[method.criterion]]
method = "nst"
weight = 50
[method.sakd]
temperature = 4
"#;

    fn parse(text: &str) -> Result<Sweep> {
        Sweep::parse("recipe s.toml", text)
    }

    #[test]
    fn every_run_is_a_training_recipe_of_its_own() {
        let sweep = parse(TEXT).unwrap();
        assert_eq!(
            (sweep.students.len(), sweep.seeds.as_slice(), sweep.methods.len()),
            (2, [0, 1, 2].as_slice(), 2)
        );
        let run = sweep.run(&sweep.methods[1], 2);
        assert_eq!((run.epochs, run.batch, run.seed, run.optimizer.rule.lr()), (15, 64, 2, 0.1));
        assert_eq!(
            run.criteria.iter().map(CriterionRecipe::name).collect::<Vec<_>>(),
            ["kd", "nst-poly"]
        );
        assert_eq!(
            (run.sakd.as_ref().map(|s| s.temperature), sweep.run(&sweep.methods[0], 0).sakd),
            (Some(4.0), None)
        );
        // a run's recipe file parses to the same
        let text = toml::to_string(&run).unwrap();
        assert_eq!(toml::from_str::<Train>(&text).unwrap(), run, "{text}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (place, wrong, parts) in [
            ("epochs = 15", "epoch = 15", vec!["line 5", "`epoch`"]),
            ("lr = 0.1", "rate = 0.1", vec!["line 8", "`rate`"]),
            ("students = [\"resnet20\", \"resnet8\"]\n", "", vec!["students"]),
            ("name = \"CE\"", "nam = \"CE\"", vec!["line 13", "`nam`"]),
            ("seeds = [0, 1, 2]", "seed = 1", vec!["`seed`"]),
            ("batch = 64", "batch = 64\n[[criterion]]\nmethod = \"kd\"", vec!["`criterion`"]),
            ("seeds = [0, 1, 2]", "seeds = []", vec!["seeds", "none"]),
            ("seeds = [0, 1, 2]", "seeds = [0, 1, 0]", vec!["seeds", "each once"]),
            ("\"resnet8\"", "\"resnet20\"", vec!["students", "each once"]),
            ("\"KD+NST\"", "\"ce\"", vec!["method", "differ"]),
            ("\"KD+NST\"", "\"../KD\"", vec!["method", "letters"]),
            ("\"KD+NST\"", "\".hidden\"", vec!["method", "letters"]),
            ("epochs = 15", "epochs = 0", vec!["method CE", "epochs"]),
            ("weight = 0.9", "weight = -1", vec!["weight"]),
            ("method = \"ce\"", "method = \"hinge\"", vec!["hinge"]),
        ] {
            let error = parse(&TEXT.replace(place, wrong)).unwrap_err().chain();
            assert!(parts.iter().all(|part| error.contains(part)), "{wrong}: {error}");
        }
        let empty = TEXT.replace("[[method.criterion]]\nmethod = \"ce\"", "criterion = []");
        assert!(parse(&empty).unwrap_err().chain().contains("at least one criterion"));
    }
}
