//! The recipe of a training run: the content of `recipes/*.toml`, which flags override.

use super::optimizer::check;
use super::{CriterionRecipe, Optimization, OptimizerRecipe, Sakd, toml_file};
use crate::criterion::Subject;
use crate::data::{Augment, DataSpec, Take};
use crate::error::{Error, Result};
use crate::student::{FoldedNorms, Precision};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The learning-rate schedule, evaluated at every step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum ScheduleRecipe {
    /// The peak rate throughout.
    Constant {
        /// Epochs of linear warm-up from 0.
        #[serde(default, rename = "warmup-epochs")]
        warmup_epochs: f64,
    },
    /// Half a cosine from the peak to `min-lr` over all steps.
    Cosine {
        /// Epochs of linear warm-up from 0.
        #[serde(default, rename = "warmup-epochs")]
        warmup_epochs: f64,
        /// The final rate.
        #[serde(default, rename = "min-lr")]
        min_lr: f64,
    },
    /// The rate is multiplied by `gamma` at each milestone.
    Multistep {
        /// Epochs at which the rate drops.
        milestones: Vec<f64>,
        /// The factor of each drop.
        gamma: f64,
        /// Epochs of linear warm-up from 0.
        #[serde(default, rename = "warmup-epochs")]
        warmup_epochs: f64,
    },
}

/// What teaches a student, as far as the default loss depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Teaching {
    /// Labels alone.
    Labels,
    /// A classifier's maps, where there are labels.
    Maps,
    /// Logits, where there are none or each position has its own.
    Logits,
    /// Outputs of vectors that are no class logits.
    Embeddings,
    /// Other outputs.
    Outputs,
}

/// A training run. Everything but the paths determines the trained bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Train {
    /// Number of epochs.
    pub epochs: usize,
    /// Samples per step.
    pub batch: usize,
    /// Seed of initial weights, data order and augmentation.
    pub seed: u64,
    /// Whether the last incomplete batch of an epoch is left out.
    pub drop_last: bool,
    /// The optimizer.
    pub optimizer: Optimization,
    /// The learning-rate schedule.
    pub schedule: ScheduleRecipe,
    /// Largest global L2 norm of the gradient; larger gradients are scaled down to it.
    pub clip: Option<f64>,
    /// Share of the target that is spread over all classes, from 0 to 1.
    pub label_smoothing: f64,
    /// Terms of the loss. If there is no `ce` term, cross-entropy is added with weight 1. Empty for
    /// the default: CE + 50·NST-poly with a classifier's cache (without labels KD),
    /// the cosine of embeddings or else the mean squared error of the outputs with another's, CE
    /// without a cache.
    #[serde(rename = "criterion")]
    pub criteria: Vec<CriterionRecipe>,
    /// Spot-adaptive distillation: chooses the pairs at which each sample is compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sakd: Option<Sakd>,
    /// Augmentation for runs without a cache.
    pub augment: Augment,
    /// Initializers to freeze, as glob patterns.
    pub freeze: Vec<String>,
    /// Initializers to train that would not train by default, as glob patterns.
    pub train: Vec<String>,
    /// Whether batch normalization uses the running statistics and leaves them unchanged.
    pub freeze_batchnorm: bool,
    /// The number of classes of a new last layer for the student.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<usize>,
    /// Whether the linear layers that criteria learn (`projector = true`) are exported, as further
    /// outputs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub export_projector: bool,
    /// The treatment of batch norms that the student's exporter folded away.
    #[serde(skip_serializing_if = "FoldedNorms::is_default")]
    pub folded_batchnorm: FoldedNorms,
    /// The rounding of convolutions.
    pub precision: Precision,
    /// Use only this many samples, the first ones after `shuffle`.
    pub limit: Option<usize>,
    /// Shuffles the data set with this seed before `limit`.
    pub shuffle: Option<u64>,
    /// Data set for the evaluation, `SPEC`.
    pub test: Option<DataSpec>,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            epochs: 30,
            batch: 128,
            seed: 0,
            drop_last: false,
            optimizer: OptimizerRecipe::Sgd {
                lr: 0.05,
                momentum: 0.9,
                nesterov: true,
                weight_decay: 5e-4,
            }
            .into(),
            schedule: ScheduleRecipe::Cosine { warmup_epochs: 0.0, min_lr: 0.0 },
            clip: None,
            label_smoothing: 0.0,
            criteria: Vec::new(),
            sakd: None,
            augment: Augment::default(),
            freeze: Vec::new(),
            train: Vec::new(),
            freeze_batchnorm: false,
            head: None,
            export_projector: false,
            folded_batchnorm: FoldedNorms::default(),
            precision: Precision::default(),
            limit: None,
            shuffle: None,
            test: None,
        }
    }
}

impl Train {
    /// Reads a recipe file.
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, has an unknown key, or a value outside its range.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::input(format!("recipe {}: cannot be read", path.display())).because(e)
        })?;
        let recipe: Self = toml_file::parse(&format!("recipe {}", path.display()), &text)?;
        recipe.validate()?;
        Ok(recipe)
    }

    /// Checks every value's range.
    ///
    /// # Errors
    /// At the first value outside its range.
    pub fn validate(&self) -> Result<()> {
        check("epochs", "1 or more", self.epochs >= 1, self.epochs)?;
        check("batch", "1 or more", self.batch >= 1, self.batch)?;
        check("limit", "1 or more", self.limit != Some(0), 0)?;
        check(
            "label-smoothing",
            "0 to below 1",
            (0.0..1.0).contains(&self.label_smoothing),
            self.label_smoothing,
        )?;
        if let Some(clip) = self.clip {
            check("clip", "a value above 0", clip.is_finite() && clip > 0.0, clip)?;
        }
        self.optimizer.validate()?;
        self.schedule.validate()?;
        self.sakd.as_ref().map_or(Ok(()), Sakd::validate)?;
        self.criteria.iter().try_for_each(CriterionRecipe::validate)?;
        let ce = self.criteria.iter().filter(|c| is_ce(c)).count();
        check("criterion ce", "at most one", ce <= 1, ce)?;
        self.check_courses()
    }

    /// Rejects a run that at some point trains on nothing.
    fn check_courses(&self) -> Result<()> {
        let terms = self.terms(Teaching::Labels);
        let ends = terms.iter().filter_map(|t| t.course.until);
        #[allow(clippy::cast_precision_loss, reason = "a number of epochs")]
        let idle = std::iter::once(0.0)
            .chain(ends)
            .find(|&at| at < self.epochs as f64 && !terms.iter().any(|t| t.course.is_on(at)));
        check(
            "criterion",
            "one that is on at every epoch",
            idle.is_none(),
            format!("none at epoch {}", idle.unwrap_or_default()),
        )
    }

    /// What makes the first `epochs` epochs depend on the run's length; `None` if a longer run
    /// begins with exactly the same steps.
    #[must_use]
    pub fn foresight(&self, epochs: usize) -> Option<String> {
        if let ScheduleRecipe::Cosine { .. } = self.schedule {
            return Some("a cosine schedule".to_owned());
        }
        #[allow(clippy::cast_precision_loss, reason = "a number of epochs")]
        let decays = |term: &&CriterionRecipe| {
            term.course.decay_to.is_some()
                && term.course.until.is_none_or(|until| until > epochs as f64)
        };
        let decaying = self.criteria.iter().find(decays)?;
        Some(format!("criterion {}, whose weight decays to it,", decaying.name()))
    }

    /// The samples to train on.
    #[must_use]
    pub fn take(&self) -> Take {
        Take { limit: self.limit, shuffle: self.shuffle }
    }

    /// The terms of the loss with defaults filled in, by what teaches the student.
    #[must_use]
    pub fn terms(&self, teaching: Teaching) -> Vec<CriterionRecipe> {
        let mut terms = self.criteria.clone();
        if !terms.iter().any(is_ce) {
            terms.insert(0, CriterionRecipe::ce());
        }
        if self.criteria.is_empty() {
            terms.extend(match teaching {
                Teaching::Labels => Vec::new(),
                Teaching::Maps => vec![CriterionRecipe::default_nst()],
                Teaching::Logits => vec![CriterionRecipe::default_kd()],
                Teaching::Embeddings => vec![CriterionRecipe::default_cosine()],
                Teaching::Outputs => vec![CriterionRecipe::default_mse()],
            });
        }
        terms
    }

    /// Whether the recipe itself has a criterion of labels.
    #[must_use]
    pub fn names_labels(&self) -> bool {
        self.criteria.iter().any(is_ce)
    }
}

impl ScheduleRecipe {
    fn validate(&self) -> Result<()> {
        let not_negative =
            |name, value: f64| check(name, "0 or more", value.is_finite() && value >= 0.0, value);
        match self {
            Self::Constant { warmup_epochs } => {
                not_negative("schedule.warmup-epochs", *warmup_epochs)
            }
            Self::Cosine { warmup_epochs, min_lr } => {
                not_negative("schedule.warmup-epochs", *warmup_epochs)?;
                not_negative("schedule.min-lr", *min_lr)
            }
            Self::Multistep { milestones, gamma, warmup_epochs } => {
                not_negative("schedule.warmup-epochs", *warmup_epochs)?;
                not_negative("schedule.gamma", *gamma)?;
                milestones.iter().try_for_each(|&m| not_negative("schedule.milestones", m))?;
                check(
                    "schedule.milestones",
                    "rising epochs",
                    milestones.is_sorted(),
                    format!("{milestones:?}"),
                )
            }
        }
    }
}

fn is_ce(criterion: &CriterionRecipe) -> bool {
    criterion.method.spec().subject == Subject::Labels
}

#[cfg(test)]
mod tests {
    use super::super::ParameterGroup;
    use super::*;

    const TEXT: &str = r#"
        epochs = 4
        batch = 64
        drop-last = true
        label-smoothing = 0.1
        augment = "none"
        test = "fashion-mnist"
        [optimizer]
        kind = "sgd"
        lr = 0.05
        momentum = 0.9
        nesterov = true
        weight-decay = 5e-4
        [schedule]
        kind = "multistep"
        milestones = [2.0, 3.0]
        gamma = 0.1
        [[criterion]]
        method = "kd"
        [[criterion]]
        method = "nst"
        kernel = "poly"
        weight = 50
        pairs = [{ teacher = "stage1", student = "/layer1/Relu_output_0" }]
    "#;

    #[test]
    fn a_whole_recipe_reads_and_records() {
        let recipe: Train = toml::from_str(TEXT).unwrap();
        recipe.validate().unwrap();
        assert_eq!(
            (recipe.epochs, recipe.batch, recipe.drop_last, recipe.augment),
            (4, 64, true, Augment::None)
        );
        assert_eq!(
            recipe.criteria.iter().map(CriterionRecipe::name).collect::<Vec<_>>(),
            ["kd", "nst-poly"]
        );
        assert_eq!(recipe.terms(Teaching::Maps)[0], CriterionRecipe::ce());
        let json = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<Train>(&json).unwrap(), recipe);
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        for (place, key) in [
            ("epochs = 4", "epoch-s = 4"),
            ("lr = 0.05", "lr = 0.05\nrate = 1"),
            ("gamma = 0.1", "gamma = 0.1\ngama = 1"),
            ("kernel = \"poly\"", "kernell = \"poly\""),
            ("teacher = \"stage1\"", "teacher = \"stage1\", extra = 1"),
            ("method = \"kd\"", "method = \"kd\"\ndegree = 2"),
        ] {
            let name = key.rsplit(['\n', ',']).next().unwrap().split('=').next().unwrap().trim();
            let error = toml::from_str::<Train>(&TEXT.replace(place, key)).unwrap_err();
            assert!(error.message().contains(name), "{name}: {}", error.message());
        }
    }

    #[test]
    fn values_outside_their_range_are_refused() {
        for (place, wrong, name) in [
            ("epochs = 4", "epochs = 0", "epochs"),
            ("batch = 64", "batch = 0", "batch"),
            ("label-smoothing = 0.1", "label-smoothing = 1.0", "label-smoothing"),
            ("lr = 0.05", "lr = -1", "optimizer.lr"),
            ("momentum = 0.9", "momentum = 0", "optimizer.nesterov"),
            ("milestones = [2.0, 3.0]", "milestones = [3.0, 2.0]", "schedule.milestones"),
            ("batch = 64", "clip = 0.0", "clip"),
        ] {
            let recipe: Train = toml::from_str(&TEXT.replace(place, wrong)).unwrap();
            let message = recipe.validate().unwrap_err().to_string();
            assert!(message.contains(name), "{name}: {message}");
        }
    }

    #[test]
    fn something_is_learnt_at_every_epoch() {
        let of = |criteria: &[&str]| {
            let criteria = criteria.iter().map(|c| c.parse().unwrap()).collect();
            Train { epochs: 4, criteria, ..Train::default() }.validate()
        };
        of(&["ce:from=2", "ab:until=2"]).unwrap();
        of(&["kd:from=2,until=3"]).unwrap();
        let message = of(&["ce:from=2", "ab:until=1.5"]).unwrap_err().to_string();
        assert!(message.contains("none at epoch 1.5"), "{message}");
        assert!(of(&["ce:from=1"]).unwrap_err().to_string().contains("none at epoch 0"));
        assert!(of(&["ce:until=3"]).is_err());
        of(&["ce:until=4"]).unwrap();
    }

    #[test]
    fn only_what_knows_its_end_depends_on_it() {
        let of = |schedule: &str, criterion: &str| {
            let schedule = toml::from_str(schedule).unwrap();
            let criteria = vec![criterion.parse().unwrap()];
            Train { schedule, criteria, ..Train::default() }.foresight(20)
        };
        let constant = "kind = \"constant\"";
        assert_eq!(of(constant, "kd"), None);
        assert_eq!(of("kind = \"multistep\"\nmilestones = [30.0]\ngamma = 0.1", "kd"), None);
        assert_eq!(of(constant, "kd:until=20,decay-to=0"), None);
        assert!(of("kind = \"cosine\"", "kd").unwrap().contains("cosine"));
        for course in ["kd:decay-to=0", "kd:until=21,decay-to=0"] {
            assert!(of(constant, course).unwrap().contains("criterion kd"), "{course}");
        }
    }

    #[test]
    fn parameters_of_their_own_stand_in_the_optimizers_table() {
        let own = "lr = 0.05\nno-decay = [\"*.bias\", \"norm\"]\n\
                   group = [{ pattern = \"head.*\", lr-factor = 10 }]";
        let text = TEXT.replace("lr = 0.05", own);
        let recipe: Train = toml::from_str(&text).unwrap();
        recipe.validate().unwrap();
        assert_eq!(recipe.optimizer.no_decay, ["*.bias", "norm"]);
        assert_eq!(
            recipe.optimizer.groups,
            [ParameterGroup { pattern: "head.*".into(), lr_factor: 10.0 }]
        );
        let json = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<Train>(&json).unwrap(), recipe);
        assert_eq!(toml::from_str::<Train>(&toml::to_string(&recipe).unwrap()).unwrap(), recipe);
        // what a recipe without these settings records is the same as before they existed
        assert!(serde_json::to_string(&Train::default()).unwrap().contains(
            "\"optimizer\":{\"kind\":\"sgd\",\"lr\":0.05,\"momentum\":0.9,\"nesterov\":true,\
             \"weight-decay\":0.0005}"
        ));
        let error =
            toml::from_str::<Train>(&text.replace("[\"*.bias\", \"norm\"]", "3")).unwrap_err();
        assert!(error.message().contains("optimizer.no-decay"), "{}", error.message());
        for (place, wrong) in [("lr-factor = 10", "lr-factor = -1"), ("head.*", "")] {
            let recipe: Train = toml::from_str(&text.replace(place, wrong)).unwrap();
            assert!(recipe.validate().unwrap_err().to_string().contains("optimizer.group"));
        }
    }

    #[test]
    fn defaults_of_the_loss() {
        let names = |teaching| {
            Train::default().terms(teaching).iter().map(CriterionRecipe::name).collect::<Vec<_>>()
        };
        assert_eq!(names(Teaching::Labels), ["ce"]);
        assert_eq!(names(Teaching::Maps), ["ce", "nst-poly"]);
        assert_eq!(names(Teaching::Embeddings), ["ce", "cosine"]);
        assert_eq!(names(Teaching::Logits), ["ce", "kd"]);
    }
}
