//! What a criterion is: what is known of it before a run, what it learns and remembers over one,
//! and its formula.

use super::math::evaluation::Evaluation;
use super::math::module::Module;
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::statistic::Statistic;
use candle_core::Tensor;
use serde::Serialize;
use std::borrow::Cow;
use std::fmt::Debug;

/// A criterion: its settings are the value, what is said of it the constant [`Spec`].
pub trait Criterion: Settings {
    /// What it learns and remembers over a run; `()` for nothing.
    type Memory: Memory;

    /// What is known of it whatever its settings are.
    const SPEC: &'static Spec;

    /// The sets of statistics of a teacher's map any one of which it can be computed from, exactly;
    /// the features last. Empty: it reads no map.
    fn ways(&self) -> Vec<Vec<Statistic>> {
        if Self::SPEC.statistics.contains(&Statistic::Features) {
            vec![vec![Statistic::Features]]
        } else {
            Vec::new()
        }
    }

    /// What it learns and remembers, as it is before the first step: a function of the setup alone.
    ///
    /// # Errors
    /// When it can't be built between the shapes, or the data lacks what it needs.
    fn start(&self, setup: &Setup<'_>) -> Result<Self::Memory>;

    /// What has to be trained before the student is.
    fn pretraining<'a>(&self, _: &'a Self::Memory) -> Option<Pretraining<'a>> {
        None
    }

    /// The loss with its gradients by the student's tensors and by [`Memory::modules`].
    ///
    /// # Errors
    /// When shapes disagree.
    fn evaluate(&self, inputs: &Inputs<'_>, memory: &mut Self::Memory) -> Result<Evaluation>;

    /// The loss, unweighted, with the gradients of `weight` times it.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate).
    fn weighted(
        &self,
        weight: f64,
        inputs: &Inputs<'_>,
        memory: &mut Self::Memory,
    ) -> Result<Evaluation> {
        let evaluation = self.evaluate(inputs, memory)?;
        let value = evaluation.value;
        Ok(Evaluation { value, ..evaluation.scaled(weight)? })
    }
}

/// What is known of a criterion whatever its settings are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spec {
    /// The name that recipes, metrics and checkpoints use.
    pub name: &'static str,
    /// The method.
    pub title: &'static str,
    /// The paper.
    pub paper: &'static str,
    /// Whose code the form and the defaults follow.
    pub source: &'static str,
    /// What else there is to know.
    pub note: &'static str,
    /// The weight of a criterion that states none.
    pub weight: f64,
    /// What is compared.
    pub subject: Subject,
    /// Of a criterion of maps: the forms of the teacher's map that may suffice, the smallest first.
    pub statistics: &'static [Statistic],
    /// Which side of the activation its maps are of.
    pub activation: Activation,
    /// Which of the suggested pairs of maps it takes.
    pub pairs: Pairs,
    /// Whether layers are joined by one formula.
    pub layers: Layers,
    /// What of it is trained beside the student.
    pub learnable: Option<&'static str>,
}

impl Spec {
    /// A criterion of pairs of feature maps, each pair by itself, that learns nothing.
    pub const MAPS: Self = Self {
        name: "",
        title: "",
        paper: "",
        source: "RepDistiller",
        note: "",
        weight: 1.0,
        subject: Subject::Maps,
        statistics: &[Statistic::Features],
        activation: Activation::After,
        pairs: Pairs::All,
        layers: Layers::Each,
        learnable: None,
    };
    /// A criterion of the logits that learns nothing.
    pub const LOGITS: Self = Self { subject: Subject::Logits, statistics: &[], ..Self::MAPS };
    /// A criterion of vectors that learns nothing.
    pub const VECTORS: Self = Self { subject: Subject::Vectors, statistics: &[], ..Self::MAPS };
    /// A criterion of the labels.
    pub const LABELS: Self = Self { subject: Subject::Labels, statistics: &[], ..Self::MAPS };

    /// What it reads of the teacher, as a cache and the command line name it: any one of these
    /// suffices, the smallest first.
    #[must_use]
    pub fn stored(&self) -> Vec<&'static str> {
        match self.subject {
            Subject::Labels => Vec::new(),
            Subject::Logits => vec!["logits"],
            Subject::Vectors => vec!["vector"],
            Subject::Maps => self.statistics.iter().map(|s| s.name()).collect(),
        }
    }
}

/// What a criterion compares of teacher and student.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The student's logits with the labels.
    Labels,
    /// The logits.
    Logits,
    /// Pairs of feature maps.
    Maps,
    /// Pairs of vectors, by default those before the classifiers.
    Vectors,
}

impl Subject {
    /// Whether pairs of taps are compared.
    #[must_use]
    pub fn is_of_taps(self) -> bool {
        matches!(self, Self::Maps | Self::Vectors)
    }
}

/// Which of the suggested pairs of maps a criterion takes where a recipe names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairs {
    /// All of them.
    All,
    /// All of them, and the vectors before the classifiers as maps of one pixel.
    #[serde(rename = "all")]
    AllAndVector,
    /// The one in the middle of the network.
    Middle,
    /// The deepest.
    Deepest,
}

/// Which side of the activation a criterion's maps are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Behind it.
    After,
    /// Before it: the criterion is nothing without the sign.
    Before,
    /// Before it where the cache holds such maps.
    BeforeIfStored,
}

/// How a criterion takes its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layers {
    /// Each by itself; the losses add up.
    Each,
    /// All by one formula.
    Joined,
}

/// What a criterion learns and remembers over a run.
pub trait Memory: Debug + Send {
    /// What the optimizer moves: a module a layer, or one for all.
    fn modules(&self) -> &[Module] {
        &[]
    }

    /// What a checkpoint has to hold beside the modules, by `LAYER/NAME`.
    ///
    /// # Errors
    /// When a tensor can't be made.
    fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(Vec::new())
    }

    /// Takes what [`tensors`](Self::tensors) gave, in its order.
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

/// Modules that are trained on the teacher's maps alone before the student is, and then held fixed.
#[derive(Debug)]
pub struct Pretraining<'a> {
    /// What they are.
    pub what: &'static str,
    /// One a layer.
    pub modules: &'a [Module],
    /// How often all maps are gone through.
    pub epochs: usize,
    /// What a module is trained by, given the teacher's maps `[batch, channels, height, width]`.
    pub loss: fn(&Tensor, &Module) -> Result<Evaluation>,
}

/// Where a criterion starts from.
pub struct Setup<'a> {
    /// The shapes of each pair; empty for what compares logits.
    pub layers: &'a [Shapes<'a>],
    /// The seed of what is drawn once for a layer.
    pub layer_seed: &'a dyn Fn(usize) -> u64,
    /// The run's seed, for what is drawn at every step.
    pub run_seed: u64,
    /// What may be asked of the data.
    pub data: &'a dyn RunData,
    /// Says which tensors can't be compared.
    pub refuse: &'a dyn Fn(Error) -> Error,
}

impl Setup<'_> {
    /// A module for each layer.
    ///
    /// # Errors
    /// When one can't be built: names the tensors.
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
    /// When it can't be built: names the tensors.
    pub fn module(
        &self,
        build: impl FnOnce(&[Shapes<'_>], u64) -> Result<Module>,
    ) -> Result<Vec<Module>> {
        let module = build(self.layers, (self.layer_seed)(0)).map_err(|e| (self.refuse)(e))?;
        Ok(vec![module])
    }
}

/// The shapes of a pair without the batch: `[channels, height, width]` or `[width]`.
#[derive(Debug, Clone, Copy)]
pub struct Shapes<'a> {
    /// Of the student's tensor.
    pub student: &'a [usize],
    /// Of the teacher's.
    pub teacher: &'a [usize],
}

impl Shapes<'_> {
    /// Student's and teacher's `[channels, height, width]`.
    ///
    /// # Errors
    /// When one is no map.
    pub fn maps(&self) -> Result<[[usize; 3]; 2]> {
        let map = |shape: &[usize]| {
            <[usize; 3]>::try_from(shape).map_err(|_| {
                Error::input(format!("expected a map [channels, height, width], found {shape:?}"))
            })
        };
        Ok([map(self.student)?, map(self.teacher)?])
    }

    /// How many channels student and teacher have.
    #[must_use]
    pub fn channels(&self) -> [usize; 2] {
        [self.student, self.teacher].map(|shape| shape.first().copied().unwrap_or(0))
    }

    /// How many values a sample has of student and teacher.
    #[must_use]
    pub fn widths(&self) -> [usize; 2] {
        [self.student, self.teacher].map(|shape| shape.iter().product())
    }
}

/// What a criterion may ask of a run's data before the first step.
pub trait RunData {
    /// The rows of an epoch, each with its label (−1 unlabeled).
    fn labels(&self) -> Vec<(usize, i64)>;

    /// Scale and bias by channel of the batch norm that makes the teacher's map of a layer, where
    /// that is known.
    fn batch_norm(&self, layer: usize) -> Option<[&[f32]; 2]>;

    /// The teacher's maps of at most so many first rows, by layer.
    ///
    /// # Errors
    /// When they can't be read.
    fn first_maps(&self, rows: usize) -> Result<Vec<Tensor>>;

    /// Tells the user.
    fn note(&self, text: &str);
}

/// What one evaluation sees.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The student's tensors: of one layer, or of all where layers are joined. `[batch, …]`.
    pub students: &'a [Tensor],
    /// What each is compared with; empty for a criterion of labels.
    pub targets: &'a [Target<'a>],
    /// The first of the layers, counted from 0 and the shallowest.
    pub layer: usize,
    /// What is known of the batch.
    pub samples: Samples<'a>,
}

/// What a student's tensor is compared with.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// The teacher's tensor, `[batch, …]`.
    Tensor(&'a Tensor),
    /// What is stored in place of the teacher's map.
    Statistics(Statistics<'a>),
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

/// Which samples the tensors are of.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    /// Their rows in the run's data.
    pub rows: &'a [usize],
    /// Their labels, −1 unlabeled; of a mixed sample that of the larger share.
    pub labels: &'a [i64],
    /// Both labels, where samples are mixed.
    pub mixed: Option<MixedLabels<'a>>,
    /// The share of a label that is spread over all classes.
    pub smoothing: f64,
    /// Counted from 0 over the whole run.
    pub step: usize,
}

/// The labels of mixed samples.
#[derive(Debug, Clone, Copy)]
pub struct MixedLabels<'a> {
    /// Each sample's own.
    pub first: &'a [i64],
    /// Its partner's.
    pub second: &'a [i64],
    /// The share of the first label, 0 to 1.
    pub share: &'a [f64],
}

impl<'a> Inputs<'a> {
    /// The student's tensor of the one layer.
    ///
    /// # Errors
    /// When there is none.
    pub fn student(&self) -> Result<&'a Tensor> {
        self.students.first().ok_or_else(|| lacking("student's tensor"))
    }

    /// What it is compared with.
    ///
    /// # Errors
    /// When there is nothing.
    pub fn target(&self) -> Result<Target<'a>> {
        self.targets.first().copied().ok_or_else(|| lacking("teacher's tensor"))
    }

    /// Student's and teacher's tensor of the one layer, in the student's type.
    ///
    /// # Errors
    /// When the teacher's tensor is not there.
    pub fn pair(&self) -> Result<(&'a Tensor, Cow<'a, Tensor>)> {
        let student = self.student()?;
        Ok((student, self.target()?.tensor_like(student)?))
    }

    /// Student's and teacher's tensors of all layers, in the student's types.
    ///
    /// # Errors
    /// When a teacher's tensor is not there.
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
            Self::Statistics(_) => Err(lacking("teacher's tensor")),
        }
    }
}

fn lacking(what: &str) -> Error {
    Error::input(format!("criterion: its inputs lack the {what}"))
}
