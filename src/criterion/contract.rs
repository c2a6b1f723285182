//! The criterion contract: the static description, the state it learns and keeps over a run, and
//! the formula.

use super::math::evaluation::Evaluation;
use super::math::module::Module;
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::statistic::Statistic;
use candle_core::Tensor;
use serde::Serialize;
use std::borrow::Cow;
use std::fmt::Debug;

/// A criterion: the value holds its settings, the constant [`Spec`] describes it.
pub trait Criterion: Settings {
    /// Its state over a run, learned and remembered; `()` for none.
    type Memory: Memory;

    /// The static description, independent of the settings.
    const SPEC: &'static Spec;

    /// The sets of the teacher map's statistics, any one of which suffices to compute it exactly;
    /// the features come last. Empty if it reads no map.
    fn ways(&self) -> Vec<Vec<Statistic>> {
        if Self::SPEC.statistics.contains(&Statistic::Features) {
            vec![vec![Statistic::Features]]
        } else {
            Vec::new()
        }
    }

    /// The state before the first step, a function of the setup alone.
    ///
    /// # Errors
    /// When no state can be built for these shapes, or the data lacks what it needs.
    fn start(&self, setup: &Setup<'_>) -> Result<Self::Memory>;

    /// The pretraining to run before the student is trained, if any.
    fn pretraining<'a>(&self, _: &'a Self::Memory) -> Option<Pretraining<'a>> {
        None
    }

    /// The loss with its gradients with respect to the student's tensors and [`Memory::modules`].
    ///
    /// # Errors
    /// When shapes disagree.
    fn evaluate(&self, inputs: &Comparison<'_>, memory: &mut Self::Memory) -> Result<Evaluation>;

    /// The unweighted loss with the gradients of `weight` times the loss.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    fn weighted(
        &self,
        weight: f64,
        inputs: &Comparison<'_>,
        memory: &mut Self::Memory,
    ) -> Result<Evaluation> {
        let evaluation = self.evaluate(inputs, memory)?;
        let value = evaluation.value;
        Ok(Evaluation { value, ..evaluation.scaled(weight)? })
    }
}

/// The static description of a criterion, independent of its settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spec {
    /// The name that recipes, metrics and checkpoints use.
    pub name: &'static str,
    /// The method's full name.
    pub title: &'static str,
    /// The paper's citation.
    pub paper: &'static str,
    /// The reference implementation whose form and defaults it follows.
    pub source: &'static str,
    /// Further remarks.
    pub note: &'static str,
    /// The default weight.
    pub weight: f64,
    /// What is compared.
    pub subject: Subject,
    /// Whether a criterion of logits takes those of maps and tokens too.
    pub dense: bool,
    /// For a criterion of maps: the forms of the teacher's map that can suffice, smallest first.
    pub statistics: &'static [Statistic],
    /// Whether its maps are taken before or after the activation.
    pub side: Side,
    /// Which of the suggested pairs of maps it takes by default.
    pub pairs: Pairs,
    /// Whether one formula joins the layers.
    pub layers: Layers,
    /// What it trains alongside the student.
    pub learnable: Option<&'static str>,
    /// Whether a criterion of logits also reads the label of each of their rows.
    pub labeled: bool,
}

impl Spec {
    /// A criterion that compares each pair of feature maps separately and learns nothing.
    pub const MAPS: Self = Self {
        name: "",
        title: "",
        paper: "",
        source: "RepDistiller",
        note: "",
        weight: 1.0,
        subject: Subject::Maps,
        dense: false,
        statistics: &[Statistic::Features],
        side: Side::After,
        pairs: Pairs::All,
        layers: Layers::Each,
        learnable: None,
        labeled: false,
    };
    /// A criterion of logits that learns nothing.
    pub const LOGITS: Self = Self { subject: Subject::Logits, statistics: &[], ..Self::MAPS };
    /// A criterion of vectors that learns nothing.
    pub const VECTORS: Self = Self { subject: Subject::Vectors, statistics: &[], ..Self::MAPS };
    /// A criterion of pairs of tensors of one kind that learns nothing unless asked.
    pub const TENSORS: Self = Self { subject: Subject::Tensors, source: "PyTorch", ..Self::MAPS };
    /// A criterion of labels that learns nothing.
    pub const LABELS: Self = Self { subject: Subject::Labels, statistics: &[], ..Self::MAPS };

    /// The teacher data it reads, by the names that a cache and the command line use: any one of
    /// these suffices, smallest first.
    #[must_use]
    pub fn stored(&self) -> Vec<&'static str> {
        match self.subject {
            Subject::Labels => Vec::new(),
            Subject::Logits => vec!["logits"],
            Subject::Vectors => vec!["vector"],
            Subject::Tensors => vec!["vector", "features"],
            Subject::Maps => self.statistics.iter().map(|s| s.name()).collect(),
        }
    }
}

/// What a criterion compares between teacher and student.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The student's logits with the labels.
    Labels,
    /// The logits.
    Logits,
    /// Pairs of feature maps.
    Maps,
    /// Pairs of vectors, by default the inputs of the classifiers.
    Vectors,
    /// Pairs of tensors of one kind: vectors, tokens or maps.
    Tensors,
}

impl Subject {
    /// Whether it compares pairs of tensors.
    #[must_use]
    pub fn has_pairs(self) -> bool {
        self != Self::Labels
    }
}

/// Which of the suggested pairs of maps a criterion takes if the recipe names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairs {
    /// All of them.
    All,
    /// All of them, plus the classifiers' input vectors as one-pixel maps.
    #[serde(rename = "all")]
    AllAndVector,
    /// The pair in the middle of the network.
    Middle,
    /// The deepest pair.
    Deepest,
    /// The classifiers' input vectors, then the deepest pair.
    VectorAndDeepest,
    /// The class logits if both have some, else all outputs.
    ClassLogits,
}

impl Pairs {
    /// Whether a pair of vectors is among them.
    #[must_use]
    pub fn has_vector(self) -> bool {
        matches!(self, Self::AllAndVector | Self::VectorAndDeepest)
    }
}

/// Whether a criterion's maps are taken before or after the activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// After it.
    After,
    /// Before it: the criterion needs the sign.
    Before,
    /// Before it if the cache holds such maps.
    BeforeIfStored,
}

/// How a criterion combines its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layers {
    /// Each layer separately; the losses are summed.
    Each,
    /// All layers in one formula.
    Joined,
}

/// A criterion's state over a run, learned and remembered.
pub trait Memory: Debug + Send {
    /// What the optimizer updates: one module per layer, or one for all.
    fn modules(&self) -> &[Module] {
        &[]
    }

    /// What a checkpoint holds besides the modules, by `LAYER/NAME`.
    ///
    /// # Errors
    /// When a tensor can't be created.
    fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(Vec::new())
    }

    /// Restores the values of [`tensors`](Self::tensors), in the same order.
    ///
    /// # Errors
    /// When a tensor doesn't fit.
    fn restore(&mut self, _: Vec<Tensor>) -> Result<()> {
        Ok(())
    }
}

impl Memory for () {}

impl Memory for Vec<Module> {
    fn modules(&self) -> &[Module] {
        self
    }
}

/// Modules that are trained on the teacher's maps alone, before the student, and then frozen.
#[derive(Debug)]
pub struct Pretraining<'a> {
    /// What they are, in words.
    pub what: &'static str,
    /// One per layer.
    pub modules: &'a [Module],
    /// The number of passes over all maps.
    pub epochs: usize,
    /// The training loss of a module, given the teacher's maps `[batch, channels, height, width]`.
    pub loss: fn(&Tensor, &Module) -> Result<Evaluation>,
}

/// What a criterion is initialized from.
pub struct Setup<'a> {
    /// The shapes of each pair; empty for a criterion that compares logits.
    pub layers: &'a [Shapes<'a>],
    /// The seed of a layer's one-time random draws.
    pub layer_seed: &'a dyn Fn(usize) -> u64,
    /// The run's seed, for draws at every step.
    pub run_seed: u64,
    /// The run's data.
    pub data: &'a dyn RunData,
    /// Adds to an error which tensors can't be compared.
    pub refuse: &'a dyn Fn(Error) -> Error,
}

impl Setup<'_> {
    /// One module per layer.
    ///
    /// # Errors
    /// When one can't be built; names the tensors.
    pub fn modules(
        &self,
        build: impl Fn(&Shapes<'_>, u64) -> Result<Module>,
    ) -> Result<Vec<Module>> {
        let layers = self.layers.iter().enumerate();
        layers
            .map(|(layer, shapes)| {
                build(shapes, (self.layer_seed)(layer)).map_err(|e| (self.refuse)(e))
            })
            .collect()
    }

    /// One module for all layers.
    ///
    /// # Errors
    /// When it can't be built; names the tensors.
    pub fn module(
        &self,
        build: impl FnOnce(&[Shapes<'_>], u64) -> Result<Module>,
    ) -> Result<Vec<Module>> {
        let module = build(self.layers, (self.layer_seed)(0)).map_err(|e| (self.refuse)(e))?;
        Ok(vec![module])
    }
}

/// The shapes of a pair without the batch axis: `[channels, height, width]` or `[width]`.
#[derive(Debug, Clone, Copy)]
pub struct Shapes<'a> {
    /// The student's shape.
    pub student: &'a [usize],
    /// The teacher's shape.
    pub teacher: &'a [usize],
}

impl Shapes<'_> {
    /// The student's and the teacher's `[channels, height, width]`.
    ///
    /// # Errors
    /// When either is not a map.
    pub fn maps(&self) -> Result<[[usize; 3]; 2]> {
        let map = |shape: &[usize]| {
            <[usize; 3]>::try_from(shape).map_err(|_| {
                Error::input(format!("expected a map [channels, height, width], found {shape:?}"))
            })
        };
        Ok([map(self.student)?, map(self.teacher)?])
    }

    /// The channel counts of student and teacher.
    #[must_use]
    pub fn channels(&self) -> [usize; 2] {
        [self.student, self.teacher].map(|shape| shape.first().copied().unwrap_or(0))
    }

    /// The number of values per sample of student and teacher.
    #[must_use]
    pub fn widths(&self) -> [usize; 2] {
        [self.student, self.teacher].map(|shape| shape.iter().product())
    }
}

/// What a criterion can ask of a run's data before the first step.
pub trait RunData {
    /// The rows of an epoch, each with its label (−1 if unlabeled).
    fn labels(&self) -> Vec<(usize, i64)>;

    /// Per-channel scale and bias of the batch norm that produces the teacher's map of a layer, if
    /// known.
    fn batch_norm(&self, layer: usize) -> Option<[&[f32]; 2]>;

    /// The teacher's maps of up to `rows` first rows, by layer.
    ///
    /// # Errors
    /// When they can't be read.
    fn first_maps(&self, rows: usize) -> Result<Vec<Tensor>>;

    /// Shows the user a note.
    fn note(&self, text: &str);
}

/// The inputs of one evaluation.
#[derive(Debug, Clone, Copy)]
pub struct Comparison<'a> {
    /// The student's tensors `[batch, …]`: one layer's, or all layers' if the layers are joined.
    pub students: &'a [Tensor],
    /// What each one is compared with; empty for a criterion of labels.
    pub targets: &'a [Target<'a>],
    /// The index of the first layer; 0 is the shallowest.
    pub layer: usize,
    /// The batch's samples.
    pub samples: Samples<'a>,
}

/// What a student's tensor is compared with.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// The teacher's tensor, `[batch, …]`.
    Tensor(&'a Tensor),
    /// Statistics stored in place of the teacher's map.
    Statistics(Statistics<'a>),
    /// The largest of the teacher's class logits.
    Sparse(Sparse<'a>),
}

/// Sparse logits of the teacher.
#[derive(Debug, Clone, Copy)]
pub struct Sparse<'a> {
    /// The natural log-probabilities of K classes at temperature 1, falling, `[batch, k]`.
    pub value: &'a Tensor,
    /// Their classes, i64 `[batch, k]`.
    pub class: &'a Tensor,
    /// The probability of all other classes together, `[batch]`.
    pub rest: &'a Tensor,
    /// How many classes there are.
    pub classes: usize,
}

/// Statistics of the teacher's maps.
#[derive(Debug, Clone, Copy)]
pub struct Statistics<'a> {
    /// Height and width of the maps.
    pub size: [usize; 2],
    /// The packed Gram matrices `[batch, positions · (positions + 1) / 2]`.
    pub gram: Option<&'a Tensor>,
    /// The mean maps `[batch, height, width]`.
    pub mean: Option<&'a Tensor>,
    /// The attention maps `[batch, height, width]`.
    pub attention: Option<&'a Tensor>,
}

/// The samples of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    /// Their rows in the run's data.
    pub rows: &'a [usize],
    /// Their labels, −1 if unlabeled; for a mixed sample, the label of the larger share.
    pub labels: &'a [i64],
    /// Both labels, if samples are mixed.
    pub mixed: Option<MixedLabels<'a>>,
    /// The label smoothing: the share of a label that is spread over all classes.
    pub smoothing: f64,
    /// The step, counted from 0 over the whole run.
    pub step: usize,
}

/// The labels of mixed samples.
#[derive(Debug, Clone, Copy)]
pub struct MixedLabels<'a> {
    /// Each sample's own label.
    pub first: &'a [i64],
    /// The label of its partner.
    pub second: &'a [i64],
    /// The share of the first label, from 0 to 1.
    pub share: &'a [f64],
}

impl<'a> Comparison<'a> {
    /// What of a list by layer belongs to the one layer.
    ///
    /// # Errors
    /// When the list has none for it.
    pub fn of_layer<'l, T>(&self, by_layer: &'l [T]) -> Result<&'l T> {
        by_layer.get(self.layer).ok_or_else(|| lacking("state of their layer"))
    }

    /// The student's tensor, for a single layer.
    ///
    /// # Errors
    /// When there is none.
    pub fn student(&self) -> Result<&'a Tensor> {
        self.students.first().ok_or_else(|| lacking("student's tensor"))
    }

    /// What the student's tensor is compared with, for a single layer.
    ///
    /// # Errors
    /// When there is nothing.
    pub fn target(&self) -> Result<Target<'a>> {
        self.targets.first().copied().ok_or_else(|| lacking("teacher's tensor"))
    }

    /// The student's and the teacher's tensor of a single layer, in the student's type.
    ///
    /// # Errors
    /// When the teacher's tensor is missing.
    pub fn pair(&self) -> Result<(&'a Tensor, Cow<'a, Tensor>)> {
        let student = self.student()?;
        Ok((student, self.target()?.tensor_like(student)?))
    }

    /// The student's and the teacher's tensor of a single layer; the teacher's in the type that it
    /// is stored in, which kernels widen as they read it.
    ///
    /// # Errors
    /// When the teacher's tensor is missing.
    pub fn stored_pair(&self) -> Result<(&'a Tensor, &'a Tensor)> {
        match self.target()? {
            Target::Tensor(teacher) => Ok((self.student()?, teacher)),
            Target::Statistics(_) | Target::Sparse(_) => Err(lacking("teacher's tensor")),
        }
    }

    /// The student's and the teacher's tensors of all layers, in the student's types.
    ///
    /// # Errors
    /// When one of the teacher's tensors is missing.
    pub fn layers(&self) -> Result<(Vec<&'a Tensor>, Vec<Cow<'a, Tensor>>)> {
        let both = self.students.iter().zip(self.targets);
        let teachers = both.map(|(s, target)| target.tensor_like(s)).collect::<Result<_>>()?;
        Ok((self.students.iter().collect(), teachers))
    }
}

impl<'a> Target<'a> {
    /// The teacher's tensor in the type of `like`.
    fn tensor_like(&self, like: &Tensor) -> Result<Cow<'a, Tensor>> {
        match self {
            Self::Tensor(tensor) if tensor.dtype() == like.dtype() => Ok(Cow::Borrowed(*tensor)),
            Self::Tensor(tensor) => Ok(Cow::Owned(tensor.to_dtype(like.dtype())?)),
            Self::Statistics(_) | Self::Sparse(_) => Err(lacking("teacher's tensor")),
        }
    }
}

fn lacking(what: &str) -> Error {
    Error::internal(format!("criterion: its inputs lack the {what}"))
}
