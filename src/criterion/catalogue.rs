//! Every criterion in one table: what it reads of the teacher, what it learns, its defaults and where they come from.

mod entries;

use serde::Serialize;

/// What a criterion reads of the teacher, in a form that a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stored {
    /// The logits.
    Logits,
    /// The vector before the classifier.
    Vector,
    /// The feature maps.
    Features,
    /// The attention map: a number a position.
    Attention,
    /// The Gram matrix over positions of the normalised channel maps.
    Gram,
    /// The mean of the normalised channel maps.
    Mean,
}

impl Stored {
    /// As a cache and the command line name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Logits => "logits",
            Self::Vector => "vector",
            Self::Features => "features",
            Self::Attention => "attention",
            Self::Gram => "gram",
            Self::Mean => "mean",
        }
    }
}

/// A setting's value.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A number.
    Number(f64),
    /// A choice.
    Choice(&'static str),
}

/// A setting of a criterion.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What it is if nothing is said.
    pub default: Value,
}

/// One criterion.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Entry {
    /// The name that recipes and metrics use.
    pub name: &'static str,
    /// The method.
    pub title: &'static str,
    /// The paper.
    pub paper: &'static str,
    /// What it reads of the teacher; any one of these suffices, the smallest stands first. Empty: the labels alone.
    pub stored: &'static [Stored],
    /// Whether the maps are those before the activation.
    pub pre_activation: bool,
    /// What of it is trained beside the student.
    pub learnable: Option<&'static str>,
    /// The default factor in the total loss.
    pub weight: f64,
    /// Its settings.
    pub settings: &'static [Setting],
    /// Whose code the form and the defaults follow.
    pub source: &'static str,
    /// What else there is to know.
    pub note: &'static str,
}

const fn number(name: &'static str, default: f64) -> Setting {
    Setting { name, default: Value::Number(default) }
}

const fn choice(name: &'static str, default: &'static str) -> Setting {
    Setting { name, default: Value::Choice(default) }
}

/// All criteria, those of the logits first.
#[must_use]
pub fn catalogue() -> &'static [Entry] {
    entries::CATALOGUE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criterion::crd::CrdOptions;
    use crate::recipe::CriterionRecipe;

    #[test]
    fn names_are_unique_and_every_entry_is_complete() {
        let mut names: Vec<&str> = catalogue().iter().map(|e| e.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        for entry in catalogue() {
            assert!(![entry.name, entry.title, entry.paper, entry.source].contains(&""), "{entry:?}");
            assert!(entry.weight > 0.0, "{entry:?}");
        }
    }

    /// The table and the code state the same defaults.
    #[test]
    fn defaults_are_those_of_the_code() {
        let entry = |name: &str| catalogue().iter().find(|e| e.name == name).unwrap();
        for name in ["ce", "kd", "nst-linear", "nst-poly", "nst-gauss"] {
            let recipe: CriterionRecipe = name.parse().unwrap();
            assert_eq!(recipe.name(), name);
            assert!((recipe.weight - entry(name).weight).abs() < f64::EPSILON, "{name}");
        }
        let CrdOptions { temperature, momentum } = CrdOptions::default();
        assert!(entry("crd").settings.contains(&number("temperature", temperature)));
        assert!(entry("crd").settings.contains(&number("momentum", momentum)));
    }
}
