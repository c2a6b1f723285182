//! Every criterion in one table: what it reads of the teacher, what it learns, its defaults and
//! where they come from.

mod entries;

use crate::error::{Error, Result};
use crate::recipe::CriterionRecipe;
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

/// Which of the suggested pairs of maps a criterion takes where a recipe names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairs {
    /// All of them.
    All,
    /// The one in the middle of the network.
    Middle,
    /// The deepest.
    Deepest,
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
    /// What it reads of the teacher; any one of these suffices, the smallest stands first. Empty:
    /// the labels alone.
    pub stored: &'static [Stored],
    /// Whether the maps are those before the activation.
    pub pre_activation: bool,
    /// What of it is trained beside the student.
    pub learnable: Option<&'static str>,
    /// Which pairs of maps it takes by default, as `RepDistiller` does; of vectors and logits there
    /// is one.
    pub pairs: Pairs,
    /// Whose code the form and the defaults follow.
    pub source: &'static str,
    /// What else there is to know.
    pub note: &'static str,
}

impl Entry {
    /// The criterion with its default weight and settings.
    ///
    /// # Errors
    /// When recipes do not know the name.
    pub fn defaults(&self) -> Result<CriterionRecipe> {
        self.name.parse()
    }
}

/// All criteria, those of the logits first.
#[must_use]
pub fn catalogue() -> &'static [Entry] {
    entries::CATALOGUE
}

/// What there is to know of a method.
///
/// # Errors
/// When the catalogue lacks it.
pub fn entry(method: &str) -> Result<&'static Entry> {
    catalogue().iter().find(|e| e.name == method).ok_or_else(|| {
        let names: Vec<&str> = catalogue().iter().map(|e| e.name).collect();
        Error::input(format!("criterion `{method}`: expected one of {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Method, Subject};

    #[test]
    fn names_are_unique_and_every_entry_is_complete() {
        let mut names: Vec<&str> = catalogue().iter().map(|e| e.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        for entry in catalogue() {
            assert!(
                ![entry.name, entry.title, entry.paper, entry.source].contains(&""),
                "{entry:?}"
            );
        }
    }

    /// What recipes name and what the catalogue describes are the same methods.
    #[test]
    fn every_method_of_a_recipe_is_described_and_the_other_way_round() {
        assert_eq!(catalogue().iter().map(|e| e.name).collect::<Vec<_>>(), Method::NAMES);
        for entry in catalogue() {
            let recipe = entry.defaults().unwrap();
            assert_eq!(recipe.name(), entry.name);
            assert!(recipe.weight > 0.0, "{entry:?}");
            let subject = match entry.stored {
                [] => Subject::Labels,
                [Stored::Logits] => Subject::Logits,
                [Stored::Vector] => Subject::Vectors,
                _ => Subject::Maps,
            };
            assert_eq!(recipe.method.subject(), subject, "{entry:?}");
        }
    }
}
